"""Replication: every image that is pushed goes to other registries too, as the registry's configuration says.

A destination is a region and an account, as in ECR's PutReplicationConfiguration; where its registry is, and with which AWS profile
it is spoken to, stands in the server's configuration. It is spoken to as any ECR: CreateRepository, GetAuthorizationToken, a push.
So it may be another bayplan registry, or Amazon's.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.records import dataclass
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.registry import Registry

CONFIGURATION = "replication-configuration"
STATUS = "replication/"
BACKFILL = "backfill/"
_GONE = frozenset({Fault.NAME_UNKNOWN, Fault.MANIFEST_UNKNOWN, Fault.TAG_UNKNOWN})
_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a registry is. ``account`` None: of the same account as ours; ``endpoint`` None: Amazon's own; ``profile`` names
    credentials of the AWS configuration of who serves."""

    region: str
    account: str | None = None
    endpoint: str | None = None
    profile: str | None = None


def rules(registry: Registry) -> list[dict[str, Any]]:
    """The rules of the configuration, in the API's words."""
    text = registry.document("", CONFIGURATION)
    return [] if text is None else list(json.loads(text)["rules"])


def wanted(registry: Registry, repository: str) -> Iterator[tuple[str, str, bool]]:
    """(region, account, whether deletions follow) of each destination that a repository goes to."""
    told = set()
    for rule in rules(registry):
        filters = rule.get("repositoryFilters") or []
        if filters and not any(repository.startswith(one["filter"]) for one in filters):
            continue
        for one in rule["destinations"]:
            key = (one["region"], one["registryId"])
            if key not in told:
                told.add(key)
                yield (*key, bool(rule.get("deleteReplication", {}).get("enabled", False)))


class Replicator:
    """Brings images to destinations. ``account``: the number of our own account."""

    def __init__(self, registry: Registry, destinations: Sequence[Destination], account: Callable[[], str]) -> None:
        self._registry = registry
        self._destinations = destinations
        self._account = account

    def destination(self, region: str, account: str) -> Destination | None:
        """What is configured for a destination."""
        return next(
            (one for one in self._destinations if one.region == region and (one.account or self._account()) == account),
            None,
        )

    def set_status(self, uid: str, digest: str, region: str, account: str, status: str, failure: str = "") -> None:
        said = {
            "region": region,
            "registryId": account,
            "status": status,
            **({"failureCode": failure} if failure else {}),
        }
        self._registry.set_document(uid, f"{STATUS}{digest}/{region}/{account}", json.dumps(said))

    def statuses(self, uid: str, digest: str) -> list[dict[str, str]]:
        return [json.loads(text) for _, text in self._registry.documents(uid, f"{STATUS}{digest}/")]

    def replicate(self, what: Mapping[str, Any]) -> None:
        """A chore: ``repository``, ``digest`` and ``tag`` (or an empty text) to ``region`` and ``account``."""
        try:
            one = self._registry.describe(what["repository"])
            row = self._registry.resolve(one.name, what["tag"] or what["digest"])
        except RegistryError as error:
            if error.fault in _GONE:
                return  # deleted since
            raise
        digest = row.digest  # what the tag means now: a chore of its own was made for each meaning
        self._push(self._client(what["region"], what["account"]), one.name, digest, what["tag"])
        self.set_status(one.uid, digest, what["region"], what["account"], "COMPLETE")

    def give_up(self, what: Mapping[str, Any], why: str) -> None:
        with suppress(RegistryError):
            one = self._registry.describe(what["repository"])
            self.set_status(one.uid, what["digest"], what["region"], what["account"], "FAILED", why[:200])

    def delete(self, what: Mapping[str, Any]) -> None:
        """A chore: ``image`` (an imageId) of ``repository`` is deleted at ``region`` and ``account`` too."""
        client = self._client(what["region"], what["account"])
        with suppress(client.exceptions.RepositoryNotFoundException):
            client.batch_delete_image(repositoryName=what["repository"], imageIds=[what["image"]])

    def _client(self, region: str, account: str) -> Any:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        found = self.destination(region, account)
        if found is None:
            raise BayplanError(
                "no-destination",
                f"the configuration does not say where the registry of {account} in {region} is",
                hint="replication: {destinations: [{region: ..., endpoint: ..., profile: ...}]} in the file of --config",
            )
        try:
            session = boto3.Session(profile_name=found.profile, region_name=region)
            limits = Config(retries={"total_max_attempts": 3}, connect_timeout=_SECONDS, read_timeout=_SECONDS)
            return session.client("ecr", endpoint_url=found.endpoint, config=limits)
        except BotoCoreError as error:
            raise BayplanError(
                "no-destination", f"the registry of {account} in {region} cannot be used: {error}"
            ) from None

    def _push(self, client: Any, repository: str, digest: Digest, tag: str) -> None:
        from bayplan.registry.client import RegistryClient
        from bayplan.registry.credentials import Credential

        with suppress(client.exceptions.RepositoryAlreadyExistsException):
            client.create_repository(repositoryName=repository)
        said = client.get_authorization_token()["authorizationData"][0]
        name, _, password = base64.b64decode(said["authorizationToken"]).decode().partition(":")
        host = urlsplit(said["proxyEndpoint"]).netloc
        there = ImageName(host, repository, tag, "" if tag else digest)
        with RegistryClient(credentials={host: Credential(name, password)}, timeout=_SECONDS) as registry:
            registry.push(self._registry.storage(repository), digest, there)


# -- backfills -----------------------------------------------------------------------------------------------------


class Backfills:
    """Brings what was pushed before a rule stood. Each is a document, and so is what became of each of its images."""

    def __init__(self, registry: Registry, replicator: Replicator, ended: Callable[[], bool]) -> None:
        self._registry = registry
        self._replicator = replicator
        self._ended = ended

    def begin(self, region: str, account: str, now: float) -> dict[str, Any]:
        found = {
            "replicationBackfillId": str(uuid.uuid4()),
            "destination": {"region": region, "registryId": account},
            "status": "PREPARING",
            "startedAt": now,
            "progress": {"totalReplicationCount": 0, "completedReplicationCount": 0, "failedReplicationCount": 0, "failureCodes": []},
        }  # fmt: skip
        self.keep(found)
        return found

    def keep(self, found: Mapping[str, Any]) -> None:
        self._registry.set_document("", BACKFILL + found["replicationBackfillId"], json.dumps(found))

    def get(self, id: str) -> dict[str, Any] | None:
        text = self._registry.document("", BACKFILL + id)
        return None if text is None else dict(json.loads(text))

    def all(self) -> list[dict[str, Any]]:
        found = [json.loads(text) for _, text in self._registry.documents("", BACKFILL)]
        return sorted(found, key=lambda one: -one["startedAt"])

    def results(self, id: str) -> list[dict[str, Any]]:
        return [json.loads(text) for _, text in self._registry.documents("", f"backfill-result/{id}/")]

    def run(self, what: Mapping[str, Any], now: Callable[[], float]) -> None:
        """A chore: everything of the backfill ``id`` that has no result yet."""
        found = self.get(what["id"])
        if found is None:
            return
        region, account = found["destination"]["region"], found["destination"]["registryId"]
        images = [
            (one.name, str(row.digest))
            for one in self._registry.list()
            if any((r, a) == (region, account) for r, a, _ in wanted(self._registry, one.name))
            for row in self._registry.manifests(one.name)
        ]
        done = {(one["repositoryName"], one["imageId"]["imageDigest"]): one for one in self.results(what["id"])}
        for repository, digest in images:
            current = self.get(what["id"]) or found
            if current["status"] == "STOPPING":
                self.keep({**current, "status": "STOPPED", "endedAt": now()})
                return
            if self._ended():
                raise BayplanError("server-ends", "the server ends; the backfill goes on with the next one")
            if (repository, digest) not in done:
                done[repository, digest] = self._one(what["id"], repository, digest, region, account)
            self.keep({**found, "status": "IN_PROGRESS", "progress": _progress(len(images), done.values())})
        self.keep({**found, "status": "COMPLETE", "endedAt": now(), "progress": _progress(len(images), done.values())})

    def _one(self, id: str, repository: str, digest: str, region: str, account: str) -> dict[str, Any]:
        result: dict[str, Any] = {
            "repositoryName": repository,
            "imageId": {"imageDigest": digest},
            "status": "COMPLETE",
        }
        tags = [tag.name for tag in self._registry.tags(repository) if tag.digest == digest] or [""]
        try:
            for tag in tags:
                self._replicator.replicate(
                    {"repository": repository, "digest": digest, "tag": tag, "region": region, "account": account}
                )
        except Exception as error:  # noqa: BLE001  (whatever hinders one image is its result, and the others go on)
            code = error.code if isinstance(error, BayplanError) else type(error).__name__
            result.update(status="FAILED", failureCode=code)
        self._registry.set_document("", f"backfill-result/{id}/{repository}@{digest}", json.dumps(result))
        return result


def _progress(total: int, results: Any) -> dict[str, Any]:
    failed = [one["failureCode"] for one in results if one["status"] == "FAILED"]
    return {
        "totalReplicationCount": total,
        "completedReplicationCount": len(results) - len(failed),
        "failedReplicationCount": len(failed),
        "failureCodes": sorted(set(failed)),
    }
