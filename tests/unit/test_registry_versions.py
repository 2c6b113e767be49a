"""The order of package versions: dpkg's against dpkg itself, apk's by cases of apk-tools."""

from __future__ import annotations

import itertools
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.registry.scanning.versions import compare_apk, compare_debian
from bayplan.registry.scanning.vulnerabilities import cvss3, rated

part = st.text("0123456789abz.+~", min_size=0, max_size=6)
debian = st.builds(
    lambda epoch, number, upstream, revision: f"{epoch}{number}{upstream}{'-' + revision if revision else ''}",
    st.sampled_from(["", "0:", "1:"]),
    st.integers(0, 30),
    part,
    part,
)


def by_dpkg(left: str, right: str) -> int:
    for relation, order in (("lt", -1), ("eq", 0)):
        if (
            subprocess.run(["dpkg", "--compare-versions", left, relation, right], timeout=20, check=False).returncode
            == 0
        ):
            return order
    return 1


@settings(max_examples=150, deadline=None)
@given(debian, debian)
def test_debian_versions_are_ordered_as_dpkg_orders_them(left: str, right: str) -> None:
    assert compare_debian(left, right) == by_dpkg(left, right)
    assert compare_debian(right, left) == -compare_debian(left, right)


APK = [
    "0.1.0_alpha",
    "0.1.0_alpha_p1",
    "0.1.0_alpha2",
    "0.1.0_beta",
    "0.1.0_rc1",
    "0.1.0",
    "0.1.0-r1",
    "0.1.0_p1",
    "0.1.1",
    "1.05",
    "1.1",
    "1.2",
    "1.2a",
    "1.2b",
    "1.2.1",
    "1.2.10",
    "1.36.1-r5",
    "1.36.1-r7",
    "2.0_git20200101",
    "2.0_git20210101",
    "10",
]


@pytest.mark.parametrize(("left", "right"), list(itertools.combinations(APK, 2)))
def test_alpine_versions_are_ordered(left: str, right: str) -> None:
    assert compare_apk(left, right) == -1
    assert compare_apk(right, left) == 1
    assert compare_apk(left, left) == 0


@pytest.mark.parametrize(
    ("vector", "score", "word"),
    [
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8, "CRITICAL"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0, "CRITICAL"),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1, "MEDIUM"),
        ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8, "HIGH"),
        ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:N/I:N/A:L", 1.6, "LOW"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0, "INFORMATIONAL"),
        ("AV:N/AC:L/Au:N/C:P/I:P/A:P", None, "UNDEFINED"),
    ],
)
def test_scores_of_the_specification(vector: str, score: float | None, word: str) -> None:
    assert cvss3(vector) == score
    assert rated(score) == word
