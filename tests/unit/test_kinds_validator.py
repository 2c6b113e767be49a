"""The compiled validator against its oracle, its speed, and what it never needs."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds_oracle import LAW, mostly_good, oracle, read

from bayplan import kinds
from bayplan.errors import BayplanError
from bayplan.kinds.expressions import Ref, SecretRef, Template
from bayplan.kinds.validator import Around, compile_schema

_SECTIONS = ("stack", "include", "variables", "secrets", "registries", "hosts", "outputs")


@pytest.mark.parametrize("kind", kinds.KIND_NAMES)
def test_the_validator_accepts_what_json_schema_accepts_and_nothing_else(kind: str) -> None:
    schema = read(f"{kind.lower()}.schema.json")
    judge = oracle(schema)

    @settings(LAW, suppress_health_check=list(HealthCheck))
    @given(mostly_good({**schema, "examples": schema["examples"]}).filter(lambda value: isinstance(value, dict)))
    def agree(properties: dict[str, Any]) -> None:
        problems = kinds.validate(kind, properties)
        assert (problems == []) == judge.is_valid(properties), problems

    agree()


_PROPERTIES = [
    (kind, name, schema)
    for kind in kinds.KIND_NAMES
    for name, schema in read(f"{kind.lower()}.schema.json")["properties"].items()
]


@pytest.mark.parametrize(("kind", "name", "schema"), _PROPERTIES, ids=[f"{one[0]}.{one[1]}" for one in _PROPERTIES])
def test_each_property_alone_is_judged_as_json_schema_judges_it(kind: str, name: str, schema: dict[str, Any]) -> None:
    judge = oracle(schema)
    check = compile_schema(schema, Around(noun=kind, key=name, example=schema["examples"][0]))

    @settings(LAW, max_examples=LAW.max_examples // 2, suppress_health_check=list(HealthCheck))
    @given(mostly_good(schema))
    def agree(value: Any) -> None:
        assert (not check(value)) == judge.is_valid(value)

    agree()


@pytest.mark.parametrize("section", _SECTIONS)
def test_sections_of_a_stack_file_are_judged_as_json_schema_judges_them(section: str) -> None:
    schema = read("stack.source.json")["properties"][section]
    judge = oracle(schema)

    @settings(LAW, suppress_health_check=list(HealthCheck))
    @given(mostly_good(schema))
    def agree(value: Any) -> None:
        problems = kinds.validate_stack_section(section, value)
        assert (problems == []) == judge.is_valid(value), problems

    agree()


@settings(LAW, suppress_health_check=list(HealthCheck))
@given(mostly_good(read("container.schema.json")).filter(lambda value: isinstance(value, dict)))
def test_every_problem_has_a_path_into_the_value_and_words(properties: dict[str, Any]) -> None:
    for problem in kinds.validate("Container", properties):
        value: Any = properties
        for step in problem.path:
            value = value[step]
        assert problem.code
        assert problem.message
        assert "\n" not in problem.message + problem.hint


@given(
    st.sampled_from(
        ["image", "working_dir", "user", "memory", "restart", "stop_signal", "stop_timeout", "desired_state"]
    )
)
def test_expressions_stand_where_text_can(name: str) -> None:
    expressions = (Ref("Image.shop", "ref"), Template((Ref("Container.web", "name"), "-x")))
    for expression in expressions:
        assert kinds.validate("Container", {"image": "x", name: expression}) == []


def test_a_list_can_be_another_resources_output_only_where_that_is_a_list() -> None:
    tags = Ref("Image.shop", "tags")
    assert kinds.validate("Image", {"copy": "nginx", "push": tags}) == []
    assert [one.code for one in kinds.validate("Image", {"copy": "nginx", "push": Ref("Image.shop", "ref")})] == [
        "wrong-type"
    ]
    assert [one.code for one in kinds.validate("Container", {"image": "x", "read_only": tags})] == ["wrong-type"]
    assert [one.code for one in kinds.validate("Container", {"image": "x", "pids_limit": tags})] == ["wrong-type"]


def test_a_secret_stands_in_env_and_nowhere_else() -> None:
    secret = SecretRef("token")
    within = Template(("postgres://", secret, "@", Ref("Container.db", "name")))
    assert kinds.validate("Container", {"image": "x", "env": {"TOKEN": secret, "URL": within}}) == []
    for properties in (
        {"command": ["login", secret]},
        {"labels": {"x": within}},
        {"healthcheck": {"test": ["CMD", secret]}},
        {"hostname": secret},
    ):
        problems = kinds.validate("Container", {"image": "x", **properties})
        assert [one.code for one in problems] == ["misplaced-secret"]
    assert [one.code for one in kinds.validate_stack_section("outputs", {"x": {"y": [secret]}})] == ["misplaced-secret"]


def test_an_unknown_kind_is_told_with_the_nearest_one() -> None:
    with pytest.raises(BayplanError) as caught:
        kinds.validate("Contianer", {})
    assert caught.value.code == "unknown-kind"
    assert caught.value.hint == "did you mean Container?"


def test_a_schema_that_says_what_nobody_checks_is_refused() -> None:
    with pytest.raises(ValueError, match="dependentRequired"):
        compile_schema({"type": "object", "dependentRequired": {}}, Around(noun="X"))


def test_ten_thousand_resources_are_validated_in_well_under_a_tenth_of_a_second() -> None:
    resources = [
        {"repository_name": f"team/shop-{n}", "image_tag_mutability": "IMMUTABLE", "tags": {"n": n}}
        for n in range(10_000)
    ]
    kinds.validate("Repository", resources[0])
    best = 1e9
    for _ in range(5):
        start = time.process_time()
        assert not any(kinds.validate("Repository", one) for one in resources)
        best = min(best, time.process_time() - start)
    assert best < 0.1


def test_jsonschema_and_yaml_are_not_imported_at_run_time() -> None:
    code = (
        "import sys\nfrom bayplan import kinds\n"
        "kinds.validate('Container', {'imagee': 'x'})\nkinds.normalise('Container', {'memory': '1g'})\n"
        "sys.exit(bool({'jsonschema', 'yaml'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
