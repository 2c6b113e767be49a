"""Scans by the ECR API: basic ones. Enhanced scanning is Amazon Inspector's, which nothing here stands in for."""

from __future__ import annotations

import json

from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.images import required_image
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.scanning import scanner as scans

_MOST_RULES = 2


def _answer(call: Call, digest: str) -> Body:
    return {
        "registryId": call.account.number,
        "repositoryName": call.get("repositoryName"),
        "imageId": {**call.get("imageId"), "imageDigest": digest},
    }


@operation("StartImageScan")
def start_image_scan(call: Call) -> Body:
    one = call.repository()
    row = required_image(call, one, call.get("imageId"))
    if not scans.scannable(row):
        raise EcrError(
            "UnsupportedImageTypeException",
            f"The image with digest '{row.digest}' is of the type '{row.media_type}', which cannot be scanned",
        )
    if not call.works.scanner.ready:
        raise EcrError(
            "ValidationException",
            "this registry has no vulnerability database: name one in the file of 'bayplan registry serve --config', as "
            "scanning: {database: FILE}",
        )
    call.works.scan(one, row.digest)
    return {**_answer(call, row.digest), "imageScanStatus": {"status": "IN_PROGRESS"}}


@operation("DescribeImageScanFindings")
def describe_image_scan_findings(call: Call) -> Body:
    one = call.repository()
    row = required_image(call, one, call.get("imageId"))
    kept = scans.kept(call.registry, one.uid, row.digest)
    if kept is None:
        raise EcrError(
            "ScanNotFoundException",
            f"Image scan does not exist for the image with imageId {{imageDigest:'{row.digest}'}} in the repository with name "
            f"'{one.name}' in the registry with id '{call.account.number}'",
        )
    found = {**_answer(call, row.digest), "imageScanStatus": status(kept)}
    if kept["status"] != "COMPLETE":
        return found
    page, more = call.page(kept["findings"], 1000)
    findings = {
        "imageScanCompletedAt": kept["completed"],
        "vulnerabilitySourceUpdatedAt": kept["source"],
        "findingSeverityCounts": kept["counts"],
        "findings": page,
    }
    return {**found, "imageScanFindings": findings, **more}


def status(kept: Body) -> Body:
    """An ``imageScanStatus``."""
    return {"status": kept["status"], **({"description": kept["description"]} if kept.get("description") else {})}


@operation("GetRegistryScanningConfiguration", by_repository=False)
def get_registry_scanning_configuration(call: Call) -> Body:
    text = call.registry.document("", scans.CONFIGURATION)
    kept = json.loads(text) if text else {"scanType": "BASIC", "rules": []}
    return {"registryId": call.account.number, "scanningConfiguration": kept}


@operation("PutRegistryScanningConfiguration", by_repository=False)
def put_registry_scanning_configuration(call: Call) -> Body:
    kind, rules = call.get("scanType", "BASIC"), call.get("rules", [])
    if kind != "BASIC":
        raise EcrError("ValidationException", "this registry has no Amazon Inspector behind it: the scanType is BASIC")
    frequencies = [one["scanFrequency"] for one in rules]
    if "CONTINUOUS_SCAN" in frequencies:
        raise EcrError("InvalidParameterException", "CONTINUOUS_SCAN goes with the scanType ENHANCED")
    if len(rules) > _MOST_RULES or len(set(frequencies)) != len(frequencies):
        raise EcrError("InvalidParameterException", "each scanFrequency has at most one rule")
    kept = {"scanType": kind, "rules": rules}
    call.registry.set_document("", scans.CONFIGURATION, json.dumps(kept))
    return {"registryScanningConfiguration": kept}
