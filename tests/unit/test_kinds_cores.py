"""Two rooms, one meaning: what the kinds accept, the core that gets it accepts as well and reads in the same way."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kinds_oracle import LAW

from bayplan import kinds
from bayplan.errors import BayplanError
from bayplan.kinds import values
from bayplan.oci.reference import ImageName
from bayplan.registry.model import MOST_RESOURCE_TAGS
from bayplan.runtime import capabilities
from bayplan.runtime.net import subnets
from bayplan.runtime.spec import Health, RestartPolicy


@LAW
@given(
    st.from_regex(
        r"([a-z0-9.-]{1,6}(:[0-9]{1,5})?/)?[a-z0-9_.-]{1,8}(/[a-z0-9]{1,4})?(:[A-Za-z0-9_.-]{1,6})?", fullmatch=True
    )
)
def test_an_image_name_that_the_kinds_accept_is_one_for_the_store(text: str) -> None:
    try:
        values.parse_image(text)
    except BayplanError:
        assume(False)
    assert ImageName.parse(text).canonical()


@LAW
@given(st.integers(1 << 24, (224 << 24) - 1), st.integers(8, 29))
def test_a_subnet_that_the_kinds_accept_is_one_for_networks(number: int, prefix: int) -> None:
    text = str(ipaddress.ip_network((number, prefix), strict=False))
    try:
        values.parse_subnet(text)
    except BayplanError:
        assume(False)
    assert str(subnets.parse(text)) == text


@pytest.mark.parametrize("name", [*values.CAPABILITIES, "all", "cap_net_admin"])
def test_capabilities_have_one_canonical_form(name: str) -> None:
    assert values.parse_capability(name) == capabilities.normalise(name)


def test_defaults_of_the_schema_are_the_runtimes_own() -> None:
    check = kinds.normalise("Container", {"healthcheck": {"test": ["CMD", "true"]}})["healthcheck"]
    health = Health(test=("CMD", "true"))
    assert {**check, "test": tuple(check["test"])} == {name: getattr(health, name) for name in check}


def test_the_words_of_choices_are_the_cores_words() -> None:
    assert all(values.parse_restart(str(policy)).policy == policy.value for policy in RestartPolicy)
    assert kinds.schema("Repository")["properties"]["tags"]["maxProperties"] == MOST_RESOURCE_TAGS
