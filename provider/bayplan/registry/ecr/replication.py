"""Replication by the ECR API; :mod:`bayplan.registry.replication` carries it out."""

from __future__ import annotations

import json

from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.images import required_image
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.replication import CONFIGURATION, rules

_MOST_RULES, _MOST_DESTINATIONS = 10, 25
_RUNNING = ("PREPARING", "IN_PROGRESS", "STOPPING")


def _known(call: Call, region: str, account: str) -> None:
    if (region, account) == (call.account.region, call.account.number):
        raise EcrError("InvalidParameterException", f"{region} is where this registry is: images are there already")
    if call.works.replicator.destination(region, account) is None:
        raise EcrError(
            "ValidationException",
            f"the server's configuration does not say where the registry of {account} in {region} is: replication: "
            "{destinations: [{region: ..., endpoint: ..., profile: ...}]}",
        )


@operation("PutReplicationConfiguration", by_repository=False)
def put_replication_configuration(call: Call) -> Body:
    configuration = call.get("replicationConfiguration")
    destinations = [one for rule in configuration["rules"] for one in rule["destinations"]]
    unique = {(one["region"], one["registryId"]) for one in destinations}
    if len(configuration["rules"]) > _MOST_RULES or len(unique) > _MOST_DESTINATIONS:
        raise EcrError(
            "InvalidParameterException", f"at most {_MOST_RULES} rules with {_MOST_DESTINATIONS} destinations in all"
        )
    for region, account in sorted(unique):
        _known(call, region, account)
    call.registry.set_document("", CONFIGURATION, json.dumps(configuration))
    return {"replicationConfiguration": configuration}


@operation("DescribeRegistry", by_repository=False)
def describe_registry(call: Call) -> Body:
    return {"registryId": call.account.number, "replicationConfiguration": {"rules": rules(call.registry)}}


@operation("DescribeImageReplicationStatus")
def describe_image_replication_status(call: Call) -> Body:
    one = call.repository()
    row = required_image(call, one, call.get("imageId"))
    return {
        "repositoryName": one.name,
        "imageId": {**call.get("imageId"), "imageDigest": str(row.digest)},
        "replicationStatuses": call.works.replicator.statuses(one.uid, row.digest),
    }


@operation("StartReplicationBackfill", by_repository=False)
def start_replication_backfill(call: Call) -> Body:
    call.own_registry()
    region, account = call.get("destination")["region"], call.get("destination")["registryId"]
    if not any(
        (one["region"], one["registryId"]) == (region, account)
        for rule in rules(call.registry)
        for one in rule["destinations"]
    ):
        raise EcrError("ValidationException", f"no rule of the replication configuration goes to {account} in {region}")
    for one in call.works.backfills.all():
        if one["destination"] == {"region": region, "registryId": account} and one["status"] in _RUNNING:
            raise EcrError(
                "ReplicationBackfillInProgressException", f"the backfill {one['replicationBackfillId']} is under way"
            )
    found = call.works.backfills.begin(region, account, call.now)
    call.works.fill(found["replicationBackfillId"])
    return _short(call, found)


def _short(call: Call, found: Body) -> Body:
    told = ("replicationBackfillId", "destination", "status", "startedAt")
    return {"registryId": call.account.number, **{name: found[name] for name in told}}


def _found(call: Call) -> Body:
    call.own_registry()
    id = str(call.get("replicationBackfillId"))
    found = call.works.backfills.get(id)
    if found is None:
        raise EcrError("ReplicationBackfillNotFoundException", f"there is no replication backfill with id '{id}'")
    return found


@operation("StopReplicationBackfill", by_repository=False)
def stop_replication_backfill(call: Call) -> Body:
    found = _found(call)
    if found["status"] not in ("PREPARING", "IN_PROGRESS"):
        raise EcrError(
            "ReplicationBackfillInvalidStatusException",
            f"the backfill {found['replicationBackfillId']} is {found['status']} and cannot be stopped",
        )
    found = {**found, "status": "STOPPING"}
    call.works.backfills.keep(found)
    return _short(call, found)


@operation("ListReplicationBackfills", by_repository=False)
def list_replication_backfills(call: Call) -> Body:
    call.own_registry()
    page, more = call.page(call.works.backfills.all())
    return {"registryId": call.account.number, "backfills": page, **more}


@operation("DescribeReplicationBackfillResults", by_repository=False)
def describe_replication_backfill_results(call: Call) -> Body:
    found = _found(call)
    wanted = call.get("resultStatusFilter")
    results = call.works.backfills.results(found["replicationBackfillId"])
    page, more = call.page([one for one in results if wanted in (None, one["status"])])
    return {"registryId": call.account.number, **found, "results": page, **more}
