"""What a server does of its own accord around pushes and pulls: scans, replication, the pull-through cache.

The state machine knows nothing of it: it tells of pushes and deletions, and what follows from them is written down as chores before
the caller is answered.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bayplan.oci.digest import Digest
from bayplan.registry.chores import Chores
from bayplan.registry.faults import RegistryError
from bayplan.registry.model import Repository
from bayplan.registry.registry import Registry
from bayplan.registry.replication import Backfills, Destination, Replicator, wanted
from bayplan.registry.scanning import scanner as scans
from bayplan.registry.upstream import Upstream


class Works:
    """The works of one server. ``account``: the number of the registry's account; ``vulnerabilities``: the file of known ones."""

    def __init__(
        self,
        registry: Registry,
        account: Callable[[], str],
        *,
        vulnerabilities: Path | None = None,
        destinations: Sequence[Destination] = (),
    ) -> None:
        self._registry = registry
        self.upstream = Upstream(registry)
        self.scanner = scans.Scanner(registry, vulnerabilities)
        self.replicator = Replicator(registry, destinations, account)
        self._scans = Chores(registry, "scan", self._scan, self._scan_given_up)
        self._copies = Chores(registry, "replication", self.replicator.replicate, self.replicator.give_up)
        self._deletions = Chores(registry, "replicated-deletion", self.replicator.delete, lambda *_: None)
        self.backfills = Backfills(registry, self.replicator, lambda: self._fills.ended)
        self._fills = Chores(
            registry, "backfill", lambda what: self.backfills.run(what, time.time), self._fill_given_up
        )
        self._all = (self._scans, self._copies, self._deletions, self._fills)
        registry.pushed = self._pushed
        registry.deleted = self._deleted

    def start(self) -> None:
        for one in self._all:
            one.start()

    def close(self) -> None:
        for one in self._all:
            one.close()

    def scan(self, one: Repository, digest: Digest) -> None:
        """Have an image scanned, soon."""
        scans.keep(self._registry, one.uid, digest, status="IN_PROGRESS")
        self._scans.add(f"{one.uid}/{digest}", {"repository": one.name, "uid": one.uid, "digest": str(digest)})

    def fill(self, id: str) -> None:
        """Have a backfill done."""
        self._fills.add(id, {"id": id})

    # -- what follows from a push or a deletion ------------------------------------------------------------------------

    def _pushed(self, repository: str, digest: Digest, tags: Sequence[str]) -> None:
        self._scan_on_push(repository, digest)
        for region, account, _ in wanted(self._registry, repository):
            with suppress(RegistryError):  # the repository was deleted since
                uid = self._registry.describe(repository).uid
                self.replicator.set_status(uid, digest, region, account, "IN_PROGRESS")
                for tag in tags or ("",):
                    what = {
                        "repository": repository,
                        "digest": digest,
                        "tag": tag,
                        "region": region,
                        "account": account,
                    }
                    self._copies.add(f"{uid}/{tag or digest}/{region}/{account}", what)

    def _deleted(self, repository: str, reference: str) -> None:
        for region, account, follows in wanted(self._registry, repository):
            if follows:
                image = {"imageDigest" if ":" in reference else "imageTag": reference}
                what = {"repository": repository, "image": image, "region": region, "account": account}
                self._deletions.add(f"{repository}/{reference}/{region}/{account}", what)

    def _scan_on_push(self, repository: str, digest: Digest) -> None:
        if not self.scanner.ready and self._registry.document("", scans.CONFIGURATION) is None:
            return
        with suppress(RegistryError):
            one = self._registry.describe(repository)
            if scanned_on_push(self._registry, one) and scans.scannable(
                self._registry.resolve(repository, str(digest))
            ):
                self.scan(one, digest)

    def _scan(self, what: Mapping[str, Any]) -> None:
        self.scanner.scan(what["repository"], what["uid"], Digest.parse(what["digest"]))

    def _scan_given_up(self, what: Mapping[str, Any], why: str) -> None:
        scans.keep(self._registry, what["uid"], what["digest"], status="FAILED", description=why[:1000])

    def _fill_given_up(self, what: Mapping[str, Any], why: str) -> None:
        found = self.backfills.get(what["id"])
        if found is not None:
            self.backfills.keep({**found, "status": "FAILED", "failureCode": why[:200], "endedAt": time.time()})


def scan_rule(registry: Registry, repository: str) -> tuple[str, list[dict[str, str]]] | None:
    """How often the registry's scanning configuration has a repository scanned, and the filters that say so; None where the
    registry has no configuration and the repository's own counts."""
    text = registry.document("", scans.CONFIGURATION)
    if text is None:
        return None
    for rule in json.loads(text).get("rules", ()):
        fitting = [one for one in rule["repositoryFilters"] if _fits(one["filter"], repository)]
        if fitting:
            return rule["scanFrequency"], fitting
    return "MANUAL", []


def scanned_on_push(registry: Registry, one: Repository) -> bool:
    """Whether an image of the repository is scanned when it is pushed."""
    rule = scan_rule(registry, one.name)
    if rule is None:
        return bool(one.details.get("imageScanningConfiguration", {}).get("scanOnPush", False))
    return rule[0] == "SCAN_ON_PUSH"


def _fits(filter: str, name: str) -> bool:
    """ECR's wildcard filters: ``*`` stands for anything; one without it fits wherever it stands in the name."""
    if "*" not in filter:
        return filter in name
    return re.fullmatch(".*".join(map(re.escape, filter.split("*"))), name) is not None
