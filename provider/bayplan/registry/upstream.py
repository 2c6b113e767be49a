"""The pull-through cache: what is not here is fetched from another registry when it is first asked for.

A rule (ECR's CreatePullThroughCacheRule) says which names come from which registry. An image stays here as any other; a tag is
looked up again there after a day, and what is here is given out where that fails. Of an index only what is asked for is fetched.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from bayplan.errors import BayplanError
from bayplan.oci.reference import ImageName
from bayplan.records import dataclass
from bayplan.registry import contents
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.registry import Registry
from bayplan.registry.templates import ROOT, Purpose, covers, find, make

PREFIX = "pull-through/"
_CHECKED = "upstream-checked/"
_FRESH_SECONDS = 24 * 3600.0
_RULES_SECONDS = 1.0
_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Rule:
    """``host`` is the registry that names below ``prefix`` come from, there below ``upstream_prefix``."""

    prefix: str
    host: str
    upstream_prefix: str = ""

    def there(self, name: str) -> str:
        """The repository of the upstream that ``name`` stands for."""
        rest = name if self.prefix == ROOT else name.removeprefix(self.prefix.rstrip("/") + "/")
        above = "" if self.upstream_prefix in ("", ROOT) else self.upstream_prefix.rstrip("/") + "/"
        return above + rest


def rule_of(said: Mapping[str, Any]) -> Rule:
    """A rule in the API's words."""
    host = str(said["upstreamRegistryUrl"]).rpartition("://")[2].rstrip("/")
    host = "docker.io" if host in ("registry-1.docker.io", "index.docker.io") else host
    return Rule(said["ecrRepositoryPrefix"], host, said.get("upstreamRepositoryPrefix", ""))


class Upstream:
    """The cache of one server. Any thread may ask."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._rules: list[Rule] = []
        self._read = 0.0
        self._guard = threading.Lock()
        self._busy: dict[tuple[str, str], threading.Lock] = {}

    def rule(self, name: str) -> Rule | None:
        """The rule for a repository; of several that with the longest prefix. What was changed counts after a second."""
        now = time.monotonic()
        if not self._read or now - self._read > _RULES_SECONDS:
            self._rules = [rule_of(json.loads(text)) for _, text in self._registry.documents("", PREFIX)]
            self._read = now
        fitting = [one for one in self._rules if covers(one.prefix, name)]
        return max(fitting, key=lambda one: 0 if one.prefix == ROOT else len(one.prefix), default=None)

    def stale(self, name: str, reference: str) -> bool:
        """Whether a tag that is here should be looked up again."""
        if ":" in reference:
            return False
        checked = self._registry.repository_document(name, _CHECKED + reference)
        return checked is not None and time.time() - float(checked) > _FRESH_SECONDS

    def knows(self, name: str) -> bool:
        """Whether the repository is there already."""
        try:
            self._registry.describe(name)
        except RegistryError as error:
            if error.fault is not Fault.NAME_UNKNOWN:
                raise
            return False
        return True

    def fill(self, rule: Rule, name: str, reference: str) -> None:
        """Fetch an image. Raises RegistryError ``manifest-unknown`` where the upstream has none or does not answer."""
        with self._turn(name, reference):
            from bayplan.registry.client import RegistryClient

            by_digest = ":" in reference
            there = ImageName(
                rule.host, rule.there(name), "" if by_digest else reference, reference if by_digest else ""
            )
            try:
                with RegistryClient(timeout=_TIMEOUT, attempts=3) as client:
                    self._bring(client, there, name, reference)
            except RegistryError:
                raise
            except BayplanError as error:
                raise RegistryError(
                    Fault.MANIFEST_UNKNOWN, f"{there.familiar()} cannot be had: {error.message}", hint=error.hint
                ) from None

    def _bring(self, client: Any, there: ImageName, name: str, reference: str) -> None:
        found, content = client.manifest(there)
        if not self.knows(name):
            template = find(self._registry, name, Purpose.PULL_THROUGH)
            make(self._registry, name, template or {})
        store = self._registry.storage(name)
        with store.lease():
            if found.media_type not in contents.INDEXES:
                client.pull(ImageName(there.registry, there.repository, "", found.digest), store)
            self._registry.put_manifest(name, reference, content, found.media_type, link=True, sparse=True)
        if ":" not in reference:
            uid = self._registry.describe(name).uid
            self._registry.set_document(uid, _CHECKED + reference, repr(time.time()))

    def validate(self, rule: Rule) -> str:
        """Why a rule does not work now; an empty text where its registry answers."""
        from bayplan.registry.client import RegistryClient

        try:
            with RegistryClient(timeout=10.0, attempts=1) as client:
                client.ping(rule.host)
        except BayplanError as error:
            return error.message
        return ""

    def _turn(self, name: str, reference: str) -> threading.Lock:
        """One fetch of an image at a time; who comes second finds it here."""
        with self._guard:
            if len(self._busy) > 1000:
                self._busy = {key: lock for key, lock in self._busy.items() if lock.locked()}
            return self._busy.setdefault((name, reference), threading.Lock())
