"""A vulnerability database in the OSV format, as a file.

``.json`` is one record or a list of them, ``.jsonl`` a record a line, ``.zip`` an archive of ``.json`` files as osv.dev gives out
(``Debian/all.zip``). Only records of distributions are kept: packages of the ecosystems ``Debian``, ``Ubuntu`` and ``Alpine``.
Source: OSV schema 1.6 (ossf.github.io/osv-schema).
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError, Where
from bayplan.records import dataclass
from bayplan.registry.scanning.packages import Installed, Package
from bayplan.registry.scanning.versions import compare_apk, compare_debian

SEVERITIES = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED")
_NAMED = {
    "CRITICAL": "CRITICAL", "HIGH": "HIGH", "IMPORTANT": "HIGH", "MEDIUM": "MEDIUM", "MODERATE": "MEDIUM", "LOW": "LOW",
    "NEGLIGIBLE": "INFORMATIONAL", "UNIMPORTANT": "INFORMATIONAL", "NONE": "INFORMATIONAL",
}  # fmt: skip
_SYSTEMS = ("Debian", "Ubuntu", "Alpine")
_LARGEST = 16 << 20  # bytes of one record of an archive


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """``vector`` is the CVSS 3 vector, where the record has one; ``fixed`` the first good version, empty where there is none."""

    name: str
    description: str
    uri: str
    severity: str
    vector: str
    score: float | None
    ranges: tuple[tuple[str, str, str], ...]  # (introduced, fixed, last affected); empty texts are open ends
    versions: frozenset[str]

    def fixed_after(self, version: str, compare: Any) -> str | None:
        """None where ``version`` is not affected, else the version that mends it, or an empty text."""
        for introduced, fixed, last in self.ranges:
            if introduced not in ("", "0") and compare(version, introduced) < 0:
                continue
            if fixed and compare(version, fixed) >= 0:
                continue
            if last and compare(version, last) > 0:
                continue
            return fixed
        return "" if version in self.versions else None


@dataclass(frozen=True, slots=True)
class Finding:
    vulnerability: Vulnerability
    package: Package
    fixed: str


class Database:
    """Vulnerabilities by ecosystem and package. ``changed``: the file's time, Unix seconds."""

    def __init__(self, path: Path) -> None:
        """Raises BayplanError ``bad-vulnerability-database``."""
        self._known: dict[tuple[str, str], list[Vulnerability]] = {}
        try:
            self.changed = path.stat().st_mtime
            for record in _records(path):
                self._add(record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            why = (
                error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
            )
            raise BayplanError(
                "bad-vulnerability-database",
                f"this is no vulnerability database: {why}",
                where=Where(str(path)),
                hint="records in the OSV format: .json, .jsonl or .zip (osv-vulnerabilities, ECOSYSTEM/all.zip)",
            ) from None

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def findings(self, image: Installed) -> list[Finding]:
        """What the packages of an image are known for, the worst first."""
        compare = compare_apk if image.ecosystem.startswith("Alpine") else compare_debian
        found = []
        for package in image.packages:
            for one in self._known.get((image.ecosystem, package.source), ()):
                fixed = one.fixed_after(package.source_version, compare)
                if fixed is not None:
                    found.append(Finding(one, package, fixed))
        return sorted(
            found,
            key=lambda one: (SEVERITIES.index(one.vulnerability.severity), one.vulnerability.name, one.package.name),
        )

    def _add(self, record: Mapping[str, Any]) -> None:
        if record.get("withdrawn"):
            return
        for affected in record.get("affected", ()):
            ecosystem, name = (
                affected.get("package", {}).get("ecosystem", ""),
                affected.get("package", {}).get("name", ""),
            )
            system, _, version = ecosystem.partition(":")
            if system not in _SYSTEMS or not version:
                continue
            key = f"{system}:{version.partition(':')[0]}"  # Ubuntu:22.04:LTS
            self._known.setdefault((key, name), []).append(_vulnerability(record, affected))


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".json") and info.file_size <= _LARGEST:
                    yield json.loads(archive.read(info))
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            yield from (json.loads(line) for line in file if line.strip())
    else:
        said = json.loads(path.read_bytes())
        yield from said if isinstance(said, list) else [said]


def _vulnerability(record: Mapping[str, Any], affected: Mapping[str, Any]) -> Vulnerability:
    names = [record["id"], *record.get("upstream", ()), *record.get("aliases", ())]
    name = next((one for one in names if one.startswith("CVE-")), record["id"])
    vectors = [*affected.get("severity", ()), *record.get("severity", ())]
    vector = next((one["score"] for one in vectors if one.get("type") == "CVSS_V3"), "")
    score = cvss3(vector) if vector else None
    said = [
        affected.get("ecosystem_specific") or {},
        affected.get("database_specific") or {},
        record.get("database_specific") or {},
    ]
    word = next((one[key] for one in said for key in ("severity", "urgency") if isinstance(one.get(key), str)), "")
    ranges = [
        (event.get("introduced", ""), event.get("fixed", ""), event.get("last_affected", ""))
        for one in affected.get("ranges", ())
        if one.get("type") == "ECOSYSTEM"
        for event in _joined(one.get("events", ()))
    ]
    links = record.get("references") or ()
    return Vulnerability(
        name,
        str(record.get("summary") or record.get("details") or ""),
        links[0]["url"] if links else f"https://osv.dev/vulnerability/{record['id']}",
        _NAMED.get(word.strip("* ").upper()) or rated(score),
        vector,
        score,
        tuple(ranges),
        frozenset(affected.get("versions", ())),
    )


def _joined(events: Any) -> Iterator[dict[str, str]]:
    """Each ``introduced`` with the end that follows it."""
    open_one: dict[str, str] | None = None
    for event in events:
        if "introduced" in event:
            if open_one is not None:
                yield open_one
            open_one = {"introduced": event["introduced"]}
        elif open_one is not None:
            yield {**open_one, **event}
            open_one = None
    if open_one is not None:
        yield open_one


_WEIGHTS = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES = {"U": {"N": 0.85, "L": 0.62, "H": 0.27}, "C": {"N": 0.85, "L": 0.68, "H": 0.5}}


def cvss3(vector: str) -> float | None:
    """The base score of a CVSS 3.0 or 3.1 vector (specification, section 7.1); None for what is no such vector."""
    said = dict(part.partition(":")[::2] for part in vector.split("/"))
    try:
        scope = said["S"]
        weight = {name: values[said[name]] for name, values in _WEIGHTS.items()}
        privileges = _PRIVILEGES[scope][said["PR"]]
    except KeyError:
        return None
    impact = 1 - (1 - weight["C"]) * (1 - weight["I"]) * (1 - weight["A"])
    changed = scope == "C"
    impact = 7.52 * (impact - 0.029) - 3.25 * (impact - 0.02) ** 15 if changed else 6.42 * impact
    if impact <= 0:
        return 0.0
    ease = 8.22 * weight["AV"] * weight["AC"] * privileges * weight["UI"]
    base = min(10.0, (1.08 if changed else 1.0) * (impact + ease))
    return math.ceil(round(base * 100_000) / 10_000) / 10


def rated(score: float | None) -> str:
    """A score in words (CVSS 3.1, section 5)."""
    if score is None:
        return "UNDEFINED"
    return next(
        word
        for least, word in ((9.0, "CRITICAL"), (7.0, "HIGH"), (4.0, "MEDIUM"), (0.1, "LOW"), (0.0, "INFORMATIONAL"))
        if score >= least
    )
