"""The packages that an image has, read out of its layers without unpacking them.

Only the few files are read that package managers keep, each within a bound; a later layer's file takes the place of an earlier one's,
and whiteouts take away (OCI image specification, "Applying Changesets").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from bayplan.oci.compression import decompressed
from bayplan.oci.tar import REGULAR, entries
from bayplan.records import dataclass

_LARGEST = 64 << 20  # bytes of one file
_FILES = frozenset(
    {
        "var/lib/dpkg/status",
        "lib/apk/db/installed",
        "usr/lib/apk/db/installed",
        "etc/os-release",
        "usr/lib/os-release",
    }
)
_FOLDER = "var/lib/dpkg/status.d/"  # of images without dpkg itself
_OPAQUE = ".wh..wh..opq"
_SOURCE = re.compile(r"(?P<name>\S+)(?: \((?P<version>[^)]+)\))?")


@dataclass(frozen=True, slots=True)
class Package:
    """``source`` and ``source_version`` are those of what it was built from, by which vulnerabilities are known."""

    name: str
    version: str
    source: str
    source_version: str


@dataclass(frozen=True, slots=True)
class Installed:
    """``ecosystem`` in OSV's words (``Debian:12``, ``Alpine:v3.19``); empty where the image does not say what it is."""

    ecosystem: str
    packages: tuple[Package, ...]


def installed(layers: Iterable[BinaryIO]) -> Installed:
    """What the layers, lowest first, leave installed. Raises BayplanError ``bad-archive``."""
    files: dict[str, bytes] = {}
    for layer in layers:
        added: dict[str, bytes] = {}
        for entry, content in entries(decompressed(layer)):
            folder, _, base = entry.name.rpartition("/")
            if base == _OPAQUE:
                _remove(files, folder + "/")
            elif base.startswith(".wh."):
                _remove(files, (f"{folder}/" if folder else "") + base[4:])
            elif entry.name in _FILES or entry.name.startswith(_FOLDER):
                if entry.type == REGULAR and entry.size <= _LARGEST:
                    added[entry.name] = b"".join(iter(content.read, b""))
                else:
                    files.pop(entry.name, None)
        files.update(added)
    return Installed(_ecosystem(files), tuple(_packages(files)))


def _remove(files: dict[str, bytes], path: str) -> None:
    """Take away a file, or all below a folder (a path that ends in ``/``: what is in it)."""
    below = path if path.endswith("/") else path + "/"
    for name in [name for name in files if name == path or name.startswith(below)]:
        del files[name]


def _ecosystem(files: dict[str, bytes]) -> str:
    text = (files.get("etc/os-release") or files.get("usr/lib/os-release") or b"").decode("utf-8", "replace")
    said = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        said[name.strip()] = value.strip().strip("\"'")
    system, version = said.get("ID", ""), said.get("VERSION_ID", "")
    if system == "alpine" and version:
        return "Alpine:v" + ".".join(version.split(".")[:2])
    if system in ("debian", "ubuntu") and version:
        return f"{system.title()}:{version}"
    return ""


def _packages(files: dict[str, bytes]) -> Iterator[Package]:
    for name, data in sorted(files.items()):
        text = data.decode("utf-8", "replace")
        if name == "var/lib/dpkg/status" or name.startswith(_FOLDER):
            yield from _dpkg(text)
        elif name.endswith("apk/db/installed"):
            yield from _apk(text)


def _dpkg(text: str) -> Iterator[Package]:
    """Paragraphs of deb822; folded lines say nothing that is asked here."""
    for paragraph in text.split("\n\n"):
        said = {
            line.partition(":")[0].lower(): line.partition(":")[2].strip()
            for line in paragraph.splitlines()
            if line[:1] not in ("", " ", "\t")
        }
        name, version = said.get("package"), said.get("version")
        if not name or not version or not said.get("status", "install ok installed").endswith(" installed"):
            continue
        source = _SOURCE.match(said.get("source", ""))
        yield Package(
            name,
            version,
            source["name"] if source else name,
            (source["version"] if source else None) or version,
        )


def _apk(text: str) -> Iterator[Package]:
    for paragraph in text.split("\n\n"):
        said = {line[0]: line[2:] for line in paragraph.splitlines() if line[1:2] == ":"}
        if "P" in said and "V" in said:
            yield Package(said["P"], said["V"], said.get("o", said["P"]), said["V"])
