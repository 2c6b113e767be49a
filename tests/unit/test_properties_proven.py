"""No property stands in a schema that no test is about.

The tests in ``tests/integration/test_properties_*.py`` see from outside what a property does. A case names what it proves
under ``proves``, a test in its docstring (``proves: Kind.property, ...``); here the two lists are held against the schemas.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from bayplan import kinds
from bayplan.kinds.files import read_schema

TESTS = Path(__file__).parents[1]


def _named(schema: Any, path: str) -> set[str]:
    """Every property below ``schema`` as a dotted path; what stands in lists and loose maps counts for its owner."""
    if not isinstance(schema, dict):
        return set()
    found = set()
    for name, one in schema.get("properties", {}).items():
        found |= {f"{path}.{name}"} | _named(one, f"{path}.{name}")
    for inner in (schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", ())):
        found |= _named(inner, path)
    return found


def declared() -> set[str]:
    found: set[str] = set()
    for name in kinds.KIND_NAMES:
        found |= _named(read_schema(f"{name.lower()}.schema.json"), name)
    source = read_schema("stack.source.json")
    return found | _named(source, "stack") | _named(source["$defs"]["resource"], "resource")


def proven() -> set[str]:
    found: set[str] = set()
    for case in (TESTS / "cases/properties").glob("*.yaml"):
        found |= set(yaml.safe_load(case.read_text())["proves"])
    for module in (TESTS / "integration").glob("test_properties_*.py"):
        for text in re.findall(r"proves: ([\w., \n]+)\"\"\"", module.read_text()):
            found |= {one.strip() for one in text.split(",")}
    return found


def test_every_property_of_every_schema_is_proven() -> None:
    assert sorted(declared() - proven()) == []


def test_nothing_is_proven_that_is_not_declared() -> None:
    assert sorted(proven() - declared()) == []


def test_the_search_sees_inner_properties() -> None:
    assert {"Container.healthcheck.on_unhealthy", "Container.networks.aliases", "stack.secrets.env"} <= declared()
    assert json.dumps(sorted(declared()))
