"""What leaves the plan's room as text: saved plans, the public JSON, pictures."""

from __future__ import annotations

import gc
import json
import time
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from plan_cases import read

from bayplan.errors import BayplanErrors
from bayplan.kinds.model import load
from bayplan.plan import codec, graph, notation
from bayplan.plan.model import Plan, Redacted, Ref, SecretRef, Template, Unknown

DOCUMENT: dict[str, Any] = {
    "secrets": {"token": "hunter2hunter2"},
    "desired": {
        "Network.back": {"$line": 3},
        "Image.web": {"$line": 5, "build": {"context": "/src"}},
        "Container.db": {"image": "db@sha256:1", "networks": ["${Network.back.name}"]},
        "Container.web": {
            "$line": 9,
            "image": "${Image.web.ref}",
            "env": {"TOKEN": "${secret.token}", "DB": "${Container.db.ip_address}"},
            "$depends_on": {"Container.db": "healthy"},
        },
    },
    "recorded": {
        "Container.web": {"image": "web@sha256:1", "env": {"TOKEN": "old-old-old", "DB": "x"}, "$values": False}
    },
    "world": {"forecasts": {"Image.web": {"key": "k1"}}},
}


@pytest.fixture
def plan() -> Plan:
    return read(DOCUMENT).plan()


def test_the_public_form_says_what_changes_and_no_secret(plan: Plan) -> None:
    shown = codec.as_output(plan)
    assert json.loads(json.dumps(shown)) == shown
    assert list(shown) == ["stack", "operations", "problems", "warnings", "looked_at", "calls", "digest"]
    replaced = shown["operations"][-1]
    assert replaced["address"] == "Container.web"
    assert replaced["action"] == "replace"
    assert replaced["waits_for"] == {"Container.db": "healthy"}
    assert replaced["where"] == {"file": "bayplan.yaml", "line": 9, "column": 5}
    changes = {change["field"]: change for change in replaced["changes"]}
    assert changes["image"]["after"] == {"unknown": "Image.web.ref"}
    assert changes["image"]["reason"] == "upstream"
    assert changes["env"]["after"]["DB"] == {"unknown": "Container.db.ip_address"}
    assert set(changes["env"]["after"]["TOKEN"]) == {"secret"}
    assert changes["env"]["before"]["TOKEN"] != changes["env"]["after"]["TOKEN"]
    text = json.dumps(shown) + codec.dump(plan)
    assert "hunter2" not in text
    assert "old-old-old" not in text


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.builds(Ref, st.text(), st.text()),
    st.builds(SecretRef, st.text()),
    st.builds(Redacted, st.text()),
    st.builds(Unknown, st.text(), st.text(), st.text()),
    st.builds(Template, st.lists(st.one_of(st.text(), st.builds(Ref, st.text(), st.text()))).map(tuple)),
)
_KEYS = st.one_of(st.text(), st.sampled_from(["$ref", "$secret", "$map", "$unknown"]))
_VALUES = st.recursive(_LEAVES, lambda inner: st.one_of(st.lists(inner), st.dictionaries(_KEYS, inner)), max_leaves=8)


@seed(1)
@settings(max_examples=200, deadline=None)
@given(_VALUES)
def test_every_value_is_written_and_read_without_loss(value: Any) -> None:
    assert codec.decode(json.loads(json.dumps(codec.encode(value)))) == value


def test_a_value_of_no_plan_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot hold a set"):
        codec.encode({"a": {1, 2}})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "not-a-plan"),
        ("resources: {}\n", "not-a-plan"),
        ("[]", "not-a-plan"),
        ('{"stack": "shop"}', "not-a-plan"),
        ('{"format": "bayplan-plan", "version": 2}', "plan-version"),
        ('{"format": "bayplan-plan", "version": 1}', "plan-damaged"),
        ('{"format": "bayplan-plan", "version": 1, "plan": {', "plan-damaged"),
        ("[" * 100_000, "not-a-plan"),
    ],
)
def test_what_is_no_saved_plan_is_refused(text: str, code: str) -> None:
    with pytest.raises(BayplanErrors) as caught:
        codec.load(text, name="shop.plan")
    assert caught.value.code == code
    assert "shop.plan" in caught.value.message
    assert caught.value.hint


def test_a_saved_plan_that_was_edited_is_refused(plan: Plan) -> None:
    document = json.loads(codec.dump(plan))
    document["plan"]["operations"][0]["action"] = "delete"
    with pytest.raises(BayplanErrors) as caught:
        codec.load(json.dumps(document))
    assert caught.value.code == "plan-damaged"


def test_a_saved_plan_with_an_impossible_order_is_refused(plan: Plan) -> None:
    document = json.loads(codec.dump(plan))
    document["plan"]["operations"][0]["after"] = [2]
    document["digest"] = codec._digest(document["plan"])
    with pytest.raises(BayplanErrors, match="out of order"):
        codec.load(json.dumps(document))


def test_the_long_notation_speaks_the_units_of_the_files() -> None:
    assert [notation.size(count) for count in (0, 512, 1024, 64 << 20, 3 << 29, 1 << 40)] == [
        "0",
        "512",
        "1k",
        "64m",
        "1.5g",
        "1t",
    ]
    assert notation.written(2.5, "duration") == "2.5s"
    assert notation.written(["a b", "c, d", ""]) == '[a b, "c, d", ""]'
    assert notation.written("line\nbreak") == '"line\\nbreak"'


def test_the_graph_of_a_stack_as_dot() -> None:
    text = graph.dot(graph.of_stack("shop", read(DOCUMENT).desired))
    assert text.startswith('digraph "shop" {\n  rankdir=LR;')
    assert '"Image.web" -> "Container.web";' in text
    assert '"Network.back" -> "Container.db";' in text
    assert text.count("->") == 3


def test_dot_quotes_what_would_end_a_string() -> None:
    node = graph.Node('a"b\\', ('a"b', "c"), "Image")
    assert '"a\\"b\\\\" [label="a\\"b\\nc"' in graph.dot(graph.Graph("x", (node,), ()))


@pytest.mark.parametrize("of", ["stack", "plan", "nothing"])
def test_the_picture_is_well_formed_and_no_boxes_overlap(of: str, plan: Plan) -> None:
    drawn = {
        "stack": graph.of_stack("shop <&>", read(DOCUMENT).desired),
        "plan": graph.of_plan(plan),
        "nothing": graph.Graph("empty", (), ()),
    }[of]
    text = graph.svg(drawn)
    assert text == graph.svg(drawn), "equal graphs give equal pictures"
    space = "{http://www.w3.org/2000/svg}"
    root = ET.fromstring(text)
    boxes = [
        tuple(float(group.find(f"{space}rect").attrib[name]) for name in ("x", "y", "width", "height"))  # type: ignore[union-attr]
        for group in root.iter(f"{space}g")
    ]
    assert len(boxes) == len(drawn.nodes)
    for index, (x, y, width, height) in enumerate(boxes):
        assert x + width <= float(root.attrib["width"])
        assert y + height <= float(root.attrib["height"])
        for left, top, wide, high in boxes[:index]:
            assert x >= left + wide or left >= x + width or y >= top + high or top >= y + height
    arrows = [path for path in root.iter(f"{space}path") if "marker-end" in path.attrib]
    assert len(arrows) == len(drawn.edges)


def test_a_plan_without_changes_is_linear_and_cheap() -> None:
    """10,000 resources that need nothing; the bound is several times what it takes on a slow machine."""

    def best(count: int) -> float:
        document: dict[str, Any] = {
            "recorded": {f"Repository.r{n}": {"repository_name": f"r{n}"} for n in range(count)}
        }
        document["desired"] = document["recorded"]
        case = read(document)
        gc.collect()
        times = []
        for _ in range(3):
            began = time.process_time()
            assert case.plan().empty
            times.append(time.process_time() - began)
        return min(times)

    assert load()
    assert best(10_000) < 0.5
