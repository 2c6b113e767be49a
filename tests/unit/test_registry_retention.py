"""Which images a lifecycle policy takes: worked examples of the ECR user guide, and laws."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayplan.registry.retention import Kept, RetentionError, Rule, parse
from bayplan.registry.retention import taken as going

DAY = 86400.0
NOW = 1000 * DAY


def kept(name: str, days: float, *tags: str, parents: tuple[str, ...] = ()) -> Kept:
    return Kept(name, tags, NOW - days * DAY, frozenset(parents))


def taken(rules: list[Rule], images: list[Kept]) -> str:
    return "".join(sorted(image.digest for image, _ in going(rules, images, NOW)))


def count(priority: int, number: int, *prefixes: str, tagged: bool | None = True) -> Rule:
    return Rule(priority, tagged, "imageCountMoreThan", number, prefixes)


OVERLAPPING = [kept("A", 10, "beta-1", "prod-1"), kept("B", 9, "beta-2", "prod-2"), kept("C", 8, "beta-3")]


def test_an_image_that_a_rule_names_is_safe_from_the_rules_below() -> None:
    assert taken([count(1, 1, "prod"), count(2, 1, "beta")], OVERLAPPING) == "A"


def test_the_other_priority_takes_two() -> None:
    assert taken([count(1, 1, "beta"), count(2, 1, "prod")], OVERLAPPING) == "AB"


def test_every_prefix_of_a_rule_has_to_fit_some_tag() -> None:
    images = [
        kept("A", 12, "alpha-1"),
        kept("B", 11, "beta-1"),
        kept("C", 10, "alpha-2", "beta-2"),
        kept("D", 4, "alpha-3"),
        kept("E", 3, "beta-3"),
        kept("F", 2, "alpha-4", "beta-4"),
    ]
    assert taken([Rule(1, True, "sinceImagePushed", 5, ("alpha", "beta"))], images) == "C"


def test_untagged_any_and_patterns() -> None:
    images = [kept("A", 4), kept("B", 3, "v1"), kept("C", 2), kept("D", 1, "v2")]
    assert taken([count(1, 1, tagged=False)], images) == "A"
    assert taken([count(1, 1, tagged=None)], images) == "ABC"
    assert taken([Rule(1, True, "imageCountMoreThan", 1, (), ("v*",))], images) == "B"
    assert taken([Rule(1, True, "imageCountMoreThan", 1, (), ("*2",))], images) == ""


ALL = [kept("A", 4, "alpha-1"), kept("B", 3, "beta-1"), kept("C", 2), kept("D", 1, "alpha-2")]


def test_a_rule_for_all_images_keeps_one() -> None:
    assert taken([count(1, 1, tagged=None)], ALL) == "ABC"


def test_a_rule_for_all_images_after_one_for_some() -> None:
    assert taken([count(1, 1, "alpha"), count(2, 1, tagged=None)], ALL) == "ABC"


def test_what_rules_above_let_stay_stays_for_the_rule_for_all() -> None:
    assert taken([count(1, 1, tagged=False), count(2, 1, "alpha"), count(3, 1, tagged=None)], ALL) == "AB"


def test_what_an_index_names_goes_after_it() -> None:
    images = [kept("A", 9, parents=("I",)), kept("B", 8, parents=("J",)), kept("I", 9, "old"), kept("J", 1, "new")]
    assert taken([Rule(1, None, "sinceImagePushed", 5)], images) == "AI"
    assert taken([Rule(1, False, "sinceImagePushed", 5)], images) == ""


images_of_any_kind = st.lists(
    st.builds(
        lambda number, days, tags: kept(f"{number:04}", days, *tags),
        st.integers(0, 9999),
        st.integers(0, 50),
        st.lists(st.sampled_from(["a1", "a2", "b1"]), unique=True, max_size=2),
    ),
    unique_by=lambda image: image.digest,
    max_size=30,
)


@given(images_of_any_kind, st.integers(1, 10))
def test_a_count_keeps_exactly_so_many_and_the_newest(images: list[Kept], number: int) -> None:
    gone = {image.digest for image, _ in going([count(1, number, tagged=None)], images, NOW)}
    stay = [image for image in images if image.digest not in gone]
    assert len(stay) == min(number, len(images))
    assert not gone or max(i.pushed for i in images if i.digest in gone) <= min(image.pushed for image in stay)


def moving(priority: int, days: int, count_type: str = "sinceImagePulled") -> Rule:
    return Rule(priority, None, count_type, days, transition=True)


def test_what_nobody_pulled_for_long_goes_to_the_archive() -> None:
    images = [
        Kept("A", (), NOW - 90 * DAY, pulled=NOW - 10 * DAY),
        Kept("B", (), NOW - 90 * DAY, pulled=NOW - 80 * DAY),
        Kept("C", (), NOW - 90 * DAY),  # never pulled: counted from its push
        Kept("D", (), NOW - 90 * DAY, activated=NOW - 5 * DAY),  # came back lately
        Kept("E", (), NOW - 900 * DAY, archived=NOW - 100 * DAY),  # is there already
    ]
    assert taken([moving(1, 60)], images) == "BC"


def test_the_archive_expires_by_rules_of_its_own() -> None:
    images = [
        Kept("A", (), NOW - 900 * DAY, archived=NOW - 400 * DAY),
        Kept("B", (), NOW - 900 * DAY, archived=NOW - 100 * DAY),
        Kept("C", (), NOW - 900 * DAY),
    ]
    old = Rule(1, None, "sinceImageTransitioned", 365, archived=True)
    assert taken([old], images) == "A"
    assert taken([Rule(1, None, "imageCountMoreThan", 1, archived=True)], images) == "A", "the newest arrival stays"
    assert {i.digest: r.transition for i, r in going([old, moving(2, 30)], images, NOW)} == {"A": False, "C": True}


def test_an_image_is_archived_with_its_index_and_expires_after_it() -> None:
    images = [kept("A", 90, parents=("L",)), kept("L", 90)]
    assert taken([moving(1, 60)], images) == "AL"
    young = [kept("A", 90, parents=("L",)), kept("L", 10)]
    assert taken([moving(1, 60)], young) == ""
    expire_untagged = Rule(1, False, "sinceImagePushed", 60)
    archive_tagged = Rule(2, True, "sinceImagePushed", 60, ("v",), transition=True)
    both = [kept("A", 90, parents=("L",)), kept("L", 90, "v1")]
    assert taken([expire_untagged, archive_tagged], both) == "L", "an archived index keeps its images"


def policy(**changes: Any) -> str:
    selection = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 5}
    rule = {"rulePriority": 1, "description": "x" * 60, "selection": selection, "action": {"type": "expire"}}
    selection.update(changes.pop("selection", {}))
    rule.update(changes)
    return json.dumps({"rules": [rule]})


def test_a_policy_is_read() -> None:
    (rule,) = parse(policy())
    assert (rule.priority, rule.tagged, rule.count_type, rule.count) == (1, None, "imageCountMoreThan", 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "100 to 30720 characters"),
        (" " * 200, "no JSON"),
        (json.dumps({"rules": [], "pad": "x" * 100}), "with the list 'rules'"),
        (policy(rulePriority=0), "rulePriority"),
        (policy(action={"type": "burn"}), "action.type"),
        (policy(action={"type": "transition"}), "targetStorageClass"),
        (policy(action={"type": "expire", "targetStorageClass": "archive"}), "targetStorageClass"),
        (
            policy(
                selection={"storageClass": "archive"},
                action={"type": "transition", "targetStorageClass": "archive"},
            ),
            "can only expire",
        ),
        (policy(selection={"tagStatus": "some"}), "tagStatus"),
        (policy(selection={"tagStatus": "tagged"}), "one of tagPrefixList and tagPatternList"),
        (policy(selection={"tagPrefixList": ["a"]}), "go with the tagStatus 'tagged'"),
        (policy(selection={"tagStatus": "tagged", "tagPatternList": ["*a*b*c*d*"]}), "four wildcards"),
        (policy(selection={"countType": "sinceImagePushed"}), "countUnit"),
        (policy(selection={"countUnit": "days"}), "countUnit"),
        (policy(selection={"countType": "sinceImagePulled", "countUnit": "days"}), "'transition'"),
        (policy(selection={"countType": "sinceImageTransitioned", "countUnit": "days"}), "'archive'"),
        (
            policy(
                selection={
                    "storageClass": "archive",
                    "countType": "sinceImageTransitioned",
                    "countUnit": "days",
                    "countNumber": 30,
                }
            ),
            "at least 90 days",
        ),
        (policy(selection={"countNumber": 0}), "countNumber"),
        (policy(selection={"what": 1}), "selection has no what"),
    ],
)
def test_what_is_no_policy_says_why(text: str, said: str) -> None:
    with pytest.raises(RetentionError, match=said):
        parse(text)


def test_each_storage_class_has_rules_of_its_own() -> None:
    standard = json.loads(policy(action={"type": "transition", "targetStorageClass": "archive"}))["rules"][0]
    archive = json.loads(policy(rulePriority=2, selection={"storageClass": "archive"}))["rules"][0]
    first, second = parse(json.dumps({"rules": [standard, archive]}))
    assert (first.transition, first.archived, second.transition, second.archived) == (True, False, False, True)


def test_rules_of_one_policy_agree() -> None:
    def two(first: dict[str, Any], second: dict[str, Any]) -> str:
        rules = [json.loads(policy(**one))["rules"][0] for one in (first, second)]
        return json.dumps({"rules": rules})

    tagged = {"tagStatus": "tagged", "tagPrefixList": ["v"]}
    untagged = {"selection": {"tagStatus": "untagged"}}
    for first, second, said in (
        ({}, {"selection": tagged}, "rulePriority of its own"),
        ({}, {"rulePriority": 2, "selection": tagged}, "highest rulePriority"),
        (untagged, {**untagged, "rulePriority": 2}, "only one rule"),
        ({"selection": tagged}, {"rulePriority": 2, "selection": tagged}, "stands in one rule only"),
    ):
        with pytest.raises(RetentionError, match=said):
            parse(two(first, second))
