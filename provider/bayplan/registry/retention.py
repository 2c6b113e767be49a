"""Lifecycle policies: which images of a repository their rules take. Pure: no clock, no rows.

Source: ECR user guide, "Lifecycle policy evaluation rules". All rules look at all images, and are applied in the order of their
priority: an image goes by one rule or by none; one that a rule's selection names cannot be taken by a rule of lower priority,
even where the first lets it stay. A rule looks at one storage class: it expires images of either, and moves those of the standard
class to the archive. Count goes by the time of the first push, or of the last return from the archive, or for archived images of
their way into it. An image that an index names goes with the index and not before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

from bayplan.records import dataclass, field, replace

LEAST, LONGEST, MOST_RULES = 100, 30720, 50
_DAY = 86400.0
_COUNTS = ("imageCountMoreThan", "sinceImagePushed", "sinceImagePulled", "sinceImageTransitioned")
_LEAST_DAYS_ARCHIVED = 90


class RetentionError(ValueError):
    """A text that is no lifecycle policy; the message says where."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``tagged`` None is any image. ``prefixes`` and ``patterns``: each must fit a tag of the image. ``archived``: the rule is
    for images in the archive; ``transition``: it moves images there, and expires none."""

    priority: int
    tagged: bool | None
    count_type: str
    count: int
    prefixes: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    description: str = ""
    archived: bool = False
    transition: bool = False

    def selects(self, image: Kept) -> bool:
        if self.archived != (image.archived is not None):
            return False
        if self.tagged is None:
            return True
        if self.tagged is not bool(image.tags):
            return False
        return all(any(tag.startswith(prefix) for tag in image.tags) for prefix in self.prefixes) and all(
            any(_wildcard(pattern).fullmatch(tag) for tag in image.tags) for pattern in self.patterns
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """An image as rules see it. ``parents`` are the indexes that name it. Times are Unix seconds: ``archived`` since when it is
    in the archive, None where it is not; ``activated`` of its last return from there; ``pulled`` of its last pull."""

    digest: str
    tags: tuple[str, ...]
    pushed: float
    parents: frozenset[str] = field(default_factory=frozenset)
    archived: float | None = None
    activated: float | None = None
    pulled: float | None = None

    @property
    def since(self) -> float:
        """What images of one class are put in order by."""
        return self.archived or self.activated or self.pushed

    def counted(self, count_type: str) -> float:
        """The time from which days are counted."""
        if count_type == "sinceImageTransitioned":
            return self.archived or self.pushed
        if count_type == "sinceImagePulled":
            return max(self.pulled or self.pushed, self.activated or 0.0)
        return self.pushed


@lru_cache(maxsize=256)
def _wildcard(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def taken(rules: Sequence[Rule], images: Iterable[Kept], now: float) -> list[tuple[Kept, Rule]]:
    """The images that go now, oldest first, each with the rule that takes it."""
    newest = sorted(images, key=lambda image: (-image.since, image.digest))
    seen: set[str] = set()
    marked: dict[str, Rule] = {}
    for rule in sorted(rules, key=lambda rule: rule.priority):
        chosen = [image for image in newest if rule.selects(image)]
        if rule.count_type == "imageCountMoreThan":
            old = chosen[rule.count :]
        else:
            old = [image for image in chosen if now - image.counted(rule.count_type) > rule.count * _DAY]
        marked.update({image.digest: rule for image in old if image.digest not in seen})
        seen.update(image.digest for image in chosen)
    archived = {image.digest for image in newest if image.archived is not None}
    while held := [image.digest for image in newest if image.digest in marked and _held(image, marked, archived)]:
        for digest in held:
            del marked[digest]
    return [(image, marked[image.digest]) for image in reversed(newest) if image.digest in marked]


def _held(image: Kept, marked: Mapping[str, Rule], archived: AbstractSet[str]) -> bool:
    """Whether an index that names the image stays where it is."""
    if marked[image.digest].transition:
        return any(parent not in marked and parent not in archived for parent in image.parents)
    return any(parent not in marked or marked[parent].transition for parent in image.parents)


# -- reading -------------------------------------------------------------------------------------------------------


def parse(text: str) -> tuple[Rule, ...]:
    """The rules of a policy. Raises RetentionError."""
    if not LEAST <= len(text) <= LONGEST:
        raise RetentionError(f"a lifecycle policy has {LEAST} to {LONGEST} characters")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise RetentionError("the policy is no JSON") from None
    if not isinstance(document, dict) or set(document) != {"rules"} or not isinstance(document["rules"], list):
        raise RetentionError("a lifecycle policy is an object with the list 'rules'")
    given = document["rules"]
    if not 1 <= len(given) <= MOST_RULES:
        raise RetentionError(f"a lifecycle policy has 1 to {MOST_RULES} rules")
    rules = tuple(_rule(one, f"rule {number}") for number, one in enumerate(given, 1))
    priorities = [rule.priority for rule in rules]
    if len(set(priorities)) != len(priorities):
        raise RetentionError("each rule has a rulePriority of its own")
    for archived in (False, True):
        _agree([rule for rule in rules if rule.archived is archived])
    return rules


def _agree(rules: Sequence[Rule]) -> None:
    """What the rules of one storage class owe each other."""
    if sum(rule.tagged is False for rule in rules) > 1:
        raise RetentionError("only one rule may have the tagStatus 'untagged'")
    every = [rule for rule in rules if rule.tagged is None]
    if len(every) > 1 or (every and every[0].priority != max(rule.priority for rule in rules)):
        raise RetentionError("the rule with the tagStatus 'any' has the highest rulePriority, and is the only one")
    prefixes = [prefix for rule in rules for prefix in rule.prefixes]
    if len(set(prefixes)) != len(prefixes):
        raise RetentionError("a tag prefix stands in one rule only")


def _rule(given: Any, where: str) -> Rule:
    if not isinstance(given, dict):
        raise RetentionError(f"{where} is no object")
    unknown = set(given) - {"rulePriority", "description", "selection", "action"}
    if unknown:
        raise RetentionError(f"{where} has no {min(unknown)}")
    priority = given.get("rulePriority")
    if not isinstance(priority, int) or isinstance(priority, bool) or priority < 1:
        raise RetentionError(f"{where}: rulePriority is a number from 1 on")
    action = given.get("action")
    if not isinstance(action, dict) or action.get("type") not in ("expire", "transition"):
        raise RetentionError(f"{where}: action.type is 'expire' or 'transition'")
    transition = action["type"] == "transition"
    if action.get("targetStorageClass") != ("archive" if transition else None):
        raise RetentionError(f"{where}: targetStorageClass 'archive' goes with the action 'transition'")
    rule = _selected(given.get("selection"), priority, str(given.get("description", "")), where)
    if transition and (rule.archived or rule.count_type == "sinceImageTransitioned"):
        raise RetentionError(f"{where}: what is in the archive can only expire")
    if not transition and rule.count_type == "sinceImagePulled":
        raise RetentionError(f"{where}: sinceImagePulled goes with the action 'transition'")
    return replace(rule, transition=transition)


def _selected(selection: Any, priority: int, description: str, where: str) -> Rule:
    if not isinstance(selection, dict):
        raise RetentionError(f"{where}: selection is an object")
    unknown = set(selection) - {
        "tagStatus", "tagPrefixList", "tagPatternList", "countType", "countUnit", "countNumber", "storageClass"
    }  # fmt: skip
    if unknown:
        raise RetentionError(f"{where}: selection has no {min(unknown)}")
    storage = selection.get("storageClass", "standard")
    if storage not in ("standard", "archive"):
        raise RetentionError(f"{where}: storageClass is 'standard' or 'archive'")
    status = selection.get("tagStatus")
    if status not in ("tagged", "untagged", "any"):
        raise RetentionError(f"{where}: tagStatus is 'tagged', 'untagged' or 'any'")
    prefixes, patterns = _texts(selection, "tagPrefixList", where), _texts(selection, "tagPatternList", where)
    if status == "tagged" and bool(prefixes) == bool(patterns):
        raise RetentionError(f"{where}: tagStatus 'tagged' goes with one of tagPrefixList and tagPatternList")
    if status != "tagged" and (prefixes or patterns):
        raise RetentionError(f"{where}: tagPrefixList and tagPatternList go with the tagStatus 'tagged'")
    if any(pattern.count("*") > 4 for pattern in patterns):
        raise RetentionError(f"{where}: a pattern has at most four wildcards")
    count_type, unit, number = (selection.get(name) for name in ("countType", "countUnit", "countNumber"))
    if count_type not in _COUNTS:
        raise RetentionError(f"{where}: countType is {' or '.join(_COUNTS)}")
    if (count_type != "imageCountMoreThan") != (unit == "days") or (unit is not None and unit != "days"):
        raise RetentionError(f"{where}: countUnit 'days' goes with sinceImagePushed and its like")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise RetentionError(f"{where}: countNumber is a number from 1 on")
    if (count_type == "sinceImageTransitioned") and (storage != "archive" or number < _LEAST_DAYS_ARCHIVED):
        raise RetentionError(
            f"{where}: sinceImageTransitioned goes with the storageClass 'archive' and at least {_LEAST_DAYS_ARCHIVED} days"
        )
    tagged = {"tagged": True, "untagged": False, "any": None}[status]
    return Rule(priority, tagged, count_type, number, prefixes, patterns, description, archived=storage == "archive")


def _texts(selection: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    given = selection.get(name, [])
    if not isinstance(given, list) or not all(isinstance(one, str) and one for one in given):
        raise RetentionError(f"{where}: {name} is a list of texts")
    return tuple(given)
