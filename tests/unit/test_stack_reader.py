"""The reader: YAML 1.2 core scalars, JSON as it is, positions of everything, and bounds on what a file may ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.stack.positions import locate
from bayplan.stack.reader import MAX_DEPTH, TooDeepError, TooManyAliasedError, read
from bayplan.stack.scalars import plain
from bayplan.stack.source import Source
from bayplan.stack.syntax import explain

# Printable without the separators that YAML and JSON treat differently, and without expressions.
TEXTS = st.text(st.characters(max_codepoint=0x24F, exclude_categories=["Cc"], exclude_characters="$"), max_size=20)
NUMBERS = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
TREES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS.filter(lambda key: key != ""), inner, max_size=4),
    max_leaves=12,
)


@given(TREES)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_json_means_in_a_stack_file_what_it_means_elsewhere(tree: Any) -> None:
    assert read(json.dumps({"a": tree}).encode()).value == {"a": tree}
    assert read(json.dumps({"a": tree}, ensure_ascii=False, indent=1).encode()).value == {"a": tree}


@given(st.dictionaries(TEXTS.filter(lambda key: key != ""), TREES, min_size=1, max_size=30))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_key_and_value_is_found_where_it_stands(tree: dict[str, Any]) -> None:
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    source = Source("f.json", Path("/f.json"), text.encode(), tree)
    lines = text.split("\n")

    def check(node: Any, path: tuple[str | int, ...]) -> None:
        where = source.where(path)
        rest = lines[where.line - 1][where.column - 1 :]
        first = (
            json.dumps(node, ensure_ascii=False)[:1]
            if isinstance(node, (dict, list))
            else json.dumps(node, ensure_ascii=False)
        )
        assert rest.startswith(first)
        if path and isinstance(path[-1], str):
            key = source.where(path, key=True)
            assert lines[key.line - 1][key.column - 1 :].startswith(json.dumps(path[-1], ensure_ascii=False))
        for step, inner in (
            node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        ):
            check(inner, (*path, step))

    check(tree, ())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("y", "y"), ("22:22", "22:22"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000"),
        ("012", 12), ("0o17", 15), ("0x1f", 31), ("+1", 1), ("-0", 0), ("1.", 1.0), (".5", 0.5), ("1e3", 1000.0),
        ("true", True), ("FALSE", False), ("tRUE", "tRUE"), ("~", None), ("null", None), ("", None),
        ("-.inf", float("-inf")),
        ("0b1", "0b1"), ("1.10", 1.1), ("9" * 5000, "9" * 5000), ("${x}", ("${x}",)),
    ],
)  # fmt: skip
def test_plain_scalars_mean_what_the_core_schema_says(text: str, value: Any) -> None:
    assert plain(text) == value
    assert type(plain(text)) is type(value)


def test_quotes_keep_a_text_a_text() -> None:
    assert read(b"a: \"1\"\nb: 'true'\nc: |\n  5\nd: !!str 5\ne: !!int \"5\"\n").value == {
        "a": "1", "b": "true", "c": "5\n", "d": "5", "e": 5,
    }  # fmt: skip


def test_a_key_is_the_text_that_stands_there() -> None:
    assert read(b"1: a\ntrue: b\n1.0: c\n~: d\n").value == {"1": "a", "true": "b", "1.0": "c", "~": "d"}


def test_an_alias_stands_for_its_anchor_and_has_a_place_of_its_own() -> None:
    text = b"a: &x {k: [1, 2]}\nb: *x\n"
    reading = read(text)
    assert reading.value["a"] == reading.value["b"] == {"k": [1, 2]}
    positions = locate(text)
    assert positions.place(reading.value, ("a", "k", 1)) == (1, 15)
    assert positions.place(reading.value, ("b", "k", 1)) == (2, 4)
    assert positions.place(reading.value, ("b", "k", 1), key=True) == (2, 1)


def test_aliases_cannot_be_used_as_a_bomb() -> None:
    levels = "\n".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    with pytest.raises(TooManyAliasedError):
        read(f"a: &a [x]\n{levels}\n".encode())


def test_an_alias_inside_its_own_anchor_is_a_mistake_and_no_cycle() -> None:
    assert read(b"a: &a [*a]\n").flawed


def test_depth_is_bounded_before_the_stack_overflows() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert read(deepest).value is not None
    with pytest.raises(TooDeepError):
        read(b"[" * 100_000)


def test_depth_beyond_the_parser_s_own_bound_is_told_on_its_line() -> None:
    data = b"stack: shop\noutputs:\n  deep: " + b"[" * 2000
    with pytest.raises(TooDeepError) as met:
        read(data)
    told = explain(Source("bayplan.yaml", Path("bayplan.yaml"), data), met.value)
    assert told.code == "too-deep"
    assert "bayplan.yaml:3:" in told.render()


def test_a_key_given_twice_keeps_the_first_and_the_places_of_the_rest() -> None:
    text = b"a: 1\na: {b: 2, b: 3}\nc: 4\n"
    reading = read(text)
    assert reading.flawed
    assert reading.value == {"a": 1, "c": 4}
    positions = locate(text)
    assert positions.place(reading.value, ("c",)) == (3, 4)
    assert [(fault.line, fault.column) for fault in positions.faults] == [(2, 1), (2, 11)]


def test_an_empty_file_says_nothing() -> None:
    for text in (b"", b"# only a comment\n", b"---\n"):
        assert read(text).value is None
        assert locate(text).place(None, ())[0] >= 1
