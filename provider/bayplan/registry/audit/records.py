"""A call as a record in the shape of CloudTrail's (user guide, "CloudTrail record contents"; ECR user guide, "Logging").

What is secret or long stays out: tokens are never in a record, nor the bytes of layers. What a call changed is told by its answer
(``responseElements``), what it only read is not repeated.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from bayplan.registry.access.accounts import Account
from bayplan.registry.access.model import Principal, PrincipalKind

VERSION = "1.11"
SOURCE = "ecr.amazonaws.com"
_READS = ("Get", "Describe", "List", "BatchGet", "BatchCheck", "Validate", "Check")
_LEFT_OUT = frozenset({"layerPartBlob"})
_LONGEST = 16 << 10  # characters of one text: a manifest fits
_TRUNCATED = "..."


def read_only(name: str) -> bool:
    """Whether an operation only reads."""
    return name.startswith(_READS)


def identity(principal: Principal) -> dict[str, Any]:
    """``userIdentity`` of a caller."""
    if principal.kind is PrincipalKind.ANONYMOUS:
        return {"type": "AWSAccount", "principalId": "", "accountId": "ANONYMOUS_PRINCIPAL"}
    found = {
        "type": "Root" if principal.kind is PrincipalKind.ROOT else "IAMUser",
        "principalId": principal.account if principal.kind is PrincipalKind.ROOT else principal.name,
        "arn": principal.arn,
        "accountId": principal.account,
    }
    if principal.key:
        found["accessKeyId"] = principal.key
    if principal.kind is PrincipalKind.USER:
        found["userName"] = principal.name
    return found


def stamp(when: float) -> str:
    """A time as CloudTrail writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def short(value: Any) -> Any:
    """A value without what does not belong into a record."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else value[:_LONGEST] + _TRUNCATED
    if isinstance(value, Mapping):
        return {name: short(one) for name, one in value.items() if name not in _LEFT_OUT}
    if isinstance(value, list | tuple):
        return [short(one) for one in value[:1000]]
    return value


def call(
    account: Account,
    principal: Principal,
    name: str,
    *,
    when: float,
    address: str,
    agent: str,
    request: str,
    parameters: Mapping[str, Any] | None,
    response: Mapping[str, Any] | None = None,
    error: tuple[str, str] | None = None,
    service: str = "ecr",
) -> dict[str, Any]:
    """The record of one call. ``request`` is the id that the caller was told; ``error`` its code and message."""
    reads = read_only(name)
    repository = (parameters or {}).get("repositoryName")
    found: dict[str, Any] = {
        "eventVersion": VERSION,
        "userIdentity": identity(principal),
        "eventTime": stamp(when),
        "eventSource": f"{service}.amazonaws.com",
        "eventName": name,
        "awsRegion": account.region,
        "sourceIPAddress": address,
        "userAgent": agent[:1000],
        "requestParameters": short(parameters) if parameters else None,
        "responseElements": None if reads or error or not response else short(response),
        "requestID": request,
        "eventID": str(uuid.uuid4()),
        "readOnly": reads,
    }
    if error is not None:
        found["errorCode"], found["errorMessage"] = error[0], error[1][:1000]
    if isinstance(repository, str):
        arn = account.arn(repository, public=service == "ecr-public")
        found["resources"] = [{"ARN": arn, "accountId": account.number, "type": "AWS::ECR::Repository"}]
    found |= {
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": account.number,
        "eventCategory": "Management",
    }
    return found


def policy_executed(
    account: Account, repository: str, text: str, taken: list[dict[str, Any]], when: float
) -> dict[str, Any]:
    """The record of a lifecycle policy that took images (``PolicyExecutionEvent``)."""
    return {
        "eventVersion": VERSION,
        "userIdentity": {"accountId": account.number, "invokedBy": "AWS Internal"},
        "eventTime": stamp(when),
        "eventSource": SOURCE,
        "eventName": "PolicyExecutionEvent",
        "awsRegion": account.region,
        "sourceIPAddress": "AWS Internal",
        "userAgent": "AWS Internal",
        "requestParameters": None,
        "responseElements": None,
        "eventID": str(uuid.uuid4()),
        "readOnly": True,
        "resources": [{"ARN": account.arn(repository), "accountId": account.number, "type": "AWS::ECR::Repository"}],
        "eventType": "AwsServiceEvent",
        "recipientAccountId": account.number,
        "serviceEventDetails": {
            "repositoryName": repository,
            "lifecycleEventPolicy": {"lifecycleEventRules": text, "lastEvaluatedAt": stamp(when)},
            "lifecycleEventImageActions": taken,
        },
        "eventCategory": "Management",
    }
