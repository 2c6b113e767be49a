"""The schemas themselves: they obey the meta-schema, their examples hold, and what is made from them is fresh."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kinds_oracle import oracle, read

from bayplan import kinds
from bayplan.kinds import files

TOP = Path(__file__).resolve().parents[2]
_FILES = [f"{name.lower()}.schema.json" for name in kinds.KIND_NAMES] + ["stack.source.json", "stack.schema.json"]
_META = jsonschema.Draft202012Validator(read("meta.schema.json"))


def _generate() -> Any:
    spec = importlib.util.spec_from_file_location("generate", TOP / "tools/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", _FILES)
def test_each_schema_obeys_the_meta_schema(name: str) -> None:
    schema = read(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert [f"{'/'.join(map(str, one.path))}: {one.message}" for one in _META.iter_errors(schema)] == []


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("no description", lambda one: one.pop("description")),
        ("no example", lambda one: one.pop("examples")),
        ("no word on changes", lambda one: one.pop("x-replaces")),
        ("two words on changes", lambda one: one.update({"x-live": True})),
        ("an unknown mark", lambda one: one.update({"x-replace": True})),
        ("an unknown keyword", lambda one: one.update({"format": "date"})),
        ("an unknown form", lambda one: one.update({"x-type": "colour"})),
        ("a pattern without words", lambda one: one.update({"pattern": "^a$"})),
        ("two defaults", lambda one: one.update({"default": "x"})),
    ],
)
def test_the_meta_schema_refuses_a_property_with(what: str, spoil: Any) -> None:
    schema = copy.deepcopy(read("container.schema.json"))
    spoil(schema["properties"]["host"])
    assert not _META.is_valid(schema), what


def test_the_meta_schema_refuses_names_that_are_not_snake_case() -> None:
    schema = copy.deepcopy(read("container.schema.json"))
    schema["properties"]["stopSignal"] = schema["properties"].pop("stop_signal")
    assert not _META.is_valid(schema)


def _properties(schema: Any, path: str = "") -> Any:
    """Every named property of a schema, at any depth."""
    if isinstance(schema, dict):
        for name, one in schema.get("properties", {}).items():
            if isinstance(one, dict):
                yield f"{path}.{name}", one
        for key, inner in schema.items():
            if key not in ("examples", "default", "if", "then", "allOf"):
                yield from _properties(inner, f"{path}.{key}")
    elif isinstance(schema, list):
        for inner in schema:
            yield from _properties(inner, path)


@pytest.mark.parametrize("name", [f"{one.lower()}.schema.json" for one in kinds.KIND_NAMES] + ["stack.source.json"])
def test_each_example_and_default_is_what_its_schema_says(name: str) -> None:
    checked = 0
    for path, schema in _properties(read(name)):
        for value in [*schema["examples"], *([schema["default"]] if "default" in schema else [])]:
            if "$ref" in json.dumps(schema) or "${" in json.dumps(value):
                continue
            assert oracle(schema).is_valid(value), f"{path}: {value}"
            checked += 1
    assert checked > 3


@pytest.mark.parametrize("kind", kinds.KIND_NAMES)
def test_the_kinds_examples_hold_in_an_editor(kind: str) -> None:
    editor = jsonschema.Draft202012Validator(read("stack.schema.json"))
    for number, example in enumerate(read(f"{kind.lower()}.schema.json")["examples"]):
        document = {"resources": {f"{kind}.example{number}": example}}
        assert [one.message for one in editor.iter_errors(document)] == []


@pytest.mark.parametrize(
    ("document", "good"),
    [
        ("stack: shop\nresources: {Container.web: {image: nginx, memory: '${var.memory}', init: '${var.init}'}}", True),
        (
            "resources: {Container.web: {image: nginx, ports: '${var.ports}', depends_on: {Container.db: healthy}}}",
            True,
        ),
        ("resources: {Volume.v: {for_each: [a, b], lifecycle: {prevent_destroy: true}}}", True),
        ("include: [./db.yaml]", True),
        ("stack: shop\nresources: {Container.web: {imagee: nginx}}", False),
        ("stack: shop\nresources: {Contaner.web: {image: nginx}}", False),
        ("stack: shop\nresources: {Container.web: {image: nginx, memory: 64x}}", False),
        ("stack: shop\nresources: {Container.web: {image: nginx, desired_state: up}}", False),
        ("stack: shop\nresource: {}", False),
        ("stack: '${var.name}'", False),
    ],
)
def test_the_editors_schema_knows_stack_files(document: str, good: bool) -> None:
    assert jsonschema.Draft202012Validator(read("stack.schema.json")).is_valid(yaml.safe_load(document)) is good


@pytest.mark.parametrize("file", sorted((TOP / "examples").glob("*/bayplan.yaml")), ids=lambda file: file.parent.name)
def test_the_examples_are_valid_in_an_editor_and_name_the_schema(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    errors = jsonschema.Draft202012Validator(read("stack.schema.json")).iter_errors(yaml.safe_load(text))
    assert [one.message for one in errors] == []
    named = re.search(r"^# yaml-language-server: \$schema=(\S+)$", text, re.MULTILINE)
    assert named is not None
    assert (file.parent / named[1]).resolve() == TOP / "schemas/stack.schema.json"


def test_what_is_generated_is_fresh_and_says_that_it_is_generated() -> None:
    generate = _generate()
    wanted = generate.outputs()
    assert generate.stale(TOP, wanted) == []
    for name, text in wanted.items():
        first = text.splitlines()[1 if name.endswith(".json") else 0]
        assert "Generated by tools/generate.py" in first, name


def test_the_freshness_check_names_what_is_stale(tmp_path: Path) -> None:
    generate = _generate()
    wanted = generate.outputs()
    for name, text in wanted.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert generate.stale(tmp_path, wanted) == []
    (tmp_path / "docs/reference/image.md").write_text("edited", encoding="utf-8")
    (tmp_path / "docs/reference/old.md").write_text("kind that was", encoding="utf-8")
    (tmp_path / "schemas/stack.schema.json").unlink()
    stale = ["docs/reference/image.md", "docs/reference/old.md", "schemas/stack.schema.json"]
    assert generate.stale(tmp_path, wanted) == stale


def test_the_examples_of_the_reference_pages_are_valid() -> None:
    editor = jsonschema.Draft202012Validator(read("stack.schema.json"))
    blocks = [
        block
        for page in sorted((TOP / "docs/reference").glob("*.md"))
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    assert len(blocks) >= 8
    for block in blocks:
        assert [one.message for one in editor.iter_errors(yaml.safe_load(block))] == []


def test_every_schema_can_be_printed() -> None:
    names = files.schema_names()
    assert {"meta", "stack", *(name.lower() for name in kinds.KIND_NAMES)} <= set(names)
    for name in names:
        assert json.loads(files.schema_text(name))


def test_marks_reach_the_properties() -> None:
    container, repository = kinds.load()["Container"], kinds.load()["Repository"]
    assert {one.name for one in container.properties.values() if one.secret} == {"env"}
    live = {one.name for one in container.properties.values() if one.live}
    assert live == {"memory", "cpus", "pids_limit", "restart", "desired_state"}
    neither = {one.name for one in container.properties.values() if not one.live and not one.replaces}
    assert neither == {"pull_policy", "wait_timeout"}
    assert container.properties["image"].required
    assert container.place_property == "host"
    assert repository.place_property == "registry"
    assert all(one.computed for kind in kinds.load().values() for one in kind.outputs.values())
