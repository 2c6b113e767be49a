"""Which images a lifecycle policy takes: worked examples of the ECR user guide, and laws."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayplan.registry.retention import Kept, RetentionError, Rule, expiring, parse

DAY = 86400.0
NOW = 1000 * DAY


def kept(name: str, days: float, *tags: str, parents: tuple[str, ...] = ()) -> Kept:
    return Kept(name, tags, NOW - days * DAY, frozenset(parents))


def taken(rules: list[Rule], images: list[Kept]) -> str:
    return "".join(sorted(image.digest for image, _ in expiring(rules, images, NOW)))


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
    gone = {image.digest for image, _ in expiring([count(1, number, tagged=None)], images, NOW)}
    stay = [image for image in images if image.digest not in gone]
    assert len(stay) == min(number, len(images))
    assert not gone or max(i.pushed for i in images if i.digest in gone) <= min(image.pushed for image in stay)


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
        (policy(action={"type": "transition", "targetStorageClass": "archive"}), "no archive"),
        (policy(selection={"tagStatus": "some"}), "tagStatus"),
        (policy(selection={"tagStatus": "tagged"}), "one of tagPrefixList and tagPatternList"),
        (policy(selection={"tagPrefixList": ["a"]}), "go with the tagStatus 'tagged'"),
        (policy(selection={"tagStatus": "tagged", "tagPatternList": ["*a*b*c*d*"]}), "four wildcards"),
        (policy(selection={"countType": "sinceImagePushed"}), "countUnit"),
        (policy(selection={"countUnit": "days"}), "countUnit"),
        (policy(selection={"countType": "sinceImagePulled", "countUnit": "days"}), "archive"),
        (policy(selection={"countNumber": 0}), "countNumber"),
        (policy(selection={"what": 1}), "selection has no what"),
    ],
)
def test_what_is_no_policy_says_why(text: str, said: str) -> None:
    with pytest.raises(RetentionError, match=said):
        parse(text)


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
