"""Scans one image of a registry. What a scan found stands as a document of the repository, in the words of ECR's API."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.store import Store
from bayplan.registry import contents
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import StoredManifest
from bayplan.registry.registry import Registry
from bayplan.registry.scanning.packages import installed
from bayplan.registry.scanning.vulnerabilities import Database, Finding

PREFIX = "scan/"
CONFIGURATION = "scanning-configuration"
_IMAGES = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})


def scannable(row: StoredManifest) -> bool:
    """Whether this is an image, and no index and no other artifact."""
    return row.media_type not in contents.INDEXES and row.config_type in _IMAGES


def kept(registry: Registry, uid: str, digest: str) -> dict[str, Any] | None:
    """What is known of an image's scan: ``status`` (IN_PROGRESS, COMPLETE, FAILED, UNSUPPORTED_IMAGE), ``description``, and
    after a whole one ``findings``, ``counts``, ``completed`` and ``source`` (Unix seconds)."""
    text = registry.document(uid, PREFIX + digest)
    return None if text is None else dict(json.loads(text))


def keep(registry: Registry, uid: str, digest: str, **said: Any) -> None:
    registry.set_document(uid, PREFIX + digest, json.dumps(said))


class Scanner:
    """``file``: the vulnerability database; read with the first scan, and again when it changes. Any thread may ask."""

    def __init__(self, registry: Registry, file: Path | None) -> None:
        self._registry = registry
        self._file = file
        self._guard = threading.Lock()
        self._database: Database | None = None

    @property
    def ready(self) -> bool:
        return self._file is not None

    def scan(self, repository: str, uid: str, digest: Digest) -> None:
        """Scan an image and keep what is found. An image that is gone is nobody's concern any more."""
        try:
            row, content = self._registry.manifest(repository, str(digest))
        except RegistryError as error:
            if error.fault in (Fault.NAME_UNKNOWN, Fault.MANIFEST_UNKNOWN):
                return
            raise
        if not scannable(row):
            keep(self._registry, uid, digest, status="UNSUPPORTED_IMAGE", description="this is no image of packages")
            return
        try:
            self._scan(repository, uid, digest, content)
        except BayplanError as error:
            keep(self._registry, uid, digest, status="FAILED", description=error.message)

    def _scan(self, repository: str, uid: str, digest: Digest, content: bytes) -> None:
        database = self._known()
        layers = [Digest.parse(one["digest"]) for one in json.loads(content).get("layers", ())]
        image = installed(self._opened(self._registry.storage(repository), layers))
        if not image.ecosystem:
            keep(
                self._registry, uid, digest, status="UNSUPPORTED_IMAGE",
                description="the operating system of the image is none of Debian, Ubuntu and Alpine",
            )  # fmt: skip
            return
        findings = database.findings(image)
        keep(
            self._registry,
            uid,
            digest,
            status="COMPLETE",
            description="The scan was completed successfully.",
            completed=time.time(),
            source=database.changed,
            counts=dict(Counter(one.vulnerability.severity for one in findings)),
            findings=[_told(one) for one in findings],
        )

    @staticmethod
    def _opened(store: Store, layers: Iterable[Digest]) -> Iterator[BinaryIO]:
        for one in layers:
            with store.open(one) as file:
                yield file

    def _known(self) -> Database:
        if self._file is None:
            raise BayplanError(
                "no-vulnerability-database",
                "this registry has no vulnerability database",
                hint="name one in the file of 'bayplan registry serve --config': scanning: {database: FILE}",
            )
        with self._guard:
            try:
                changed = self._file.stat().st_mtime
            except OSError:
                changed = 0.0
            if self._database is None or changed != self._database.changed:
                self._database = Database(self._file)
            return self._database


def _told(finding: Finding) -> dict[str, Any]:
    one, package = finding.vulnerability, finding.package
    attributes = {
        "package_version": package.version,
        "package_name": package.name,
        "fixed_in_version": finding.fixed,
        "CVSS3_VECTOR": one.vector,
        "CVSS3_SCORE": "" if one.score is None else str(one.score),
    }
    return {
        "name": one.name,
        "description": one.description[:4096],
        "uri": one.uri,
        "severity": one.severity,
        "attributes": [{"key": key, "value": value} for key, value in attributes.items() if value],
    }
