"""IAM policies: read, checked, evaluated. Pure: no clock, no file.

Source: IAM user guide, "Policy evaluation logic" and "IAM JSON policy elements reference"; ECR user guide, "Private repository
policies". An explicit deny in any policy wins. Within one account an allow of the identity's policies *or* of the resource's is
enough; across accounts it takes both. The root user of the account that owns the resource may do everything that no policy of
the resource denies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from bayplan.records import dataclass
from bayplan.registry.access.conditions import arn_like, holds, known, like
from bayplan.registry.access.model import Asked, Principal, PrincipalKind

LONGEST = 10240  # characters of a repository policy (ECR quotas)
_VERSIONS = ("2008-10-17", "2012-10-17")
_ELEMENTS = frozenset(
    {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
)


class Kind(StrEnum):
    """What a policy is attached to."""

    IDENTITY = "identity"
    REPOSITORY = "repository"
    REGISTRY = "registry"


class Verdict(StrEnum):
    ALLOWED = "allowed"
    DENIED = "explicitly denied"
    NOT_ALLOWED = "not allowed"


class PolicyError(ValueError):
    """A document that is no policy; the message says where."""


@dataclass(frozen=True, slots=True)
class Statement:
    """``principals`` are ARNs, account numbers or ``*``; None where the policy belongs to an identity."""

    allow: bool
    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    not_resources: tuple[str, ...] = ()
    principals: tuple[str, ...] | None = None
    not_principals: tuple[str, ...] | None = None
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    sid: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    statements: tuple[Statement, ...]


# -- reading -------------------------------------------------------------------------------------------------------


def parse(text: str, kind: Kind) -> Policy:
    """A policy document. Raises PolicyError."""
    try:
        document = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise PolicyError(f"the policy is no JSON: {error}") from None
    except RecursionError:
        raise PolicyError("the policy is nested too deep") from None
    if not isinstance(document, dict):
        raise PolicyError("a policy is a JSON object")
    unknown = set(document) - {"Version", "Id", "Statement"}
    if unknown:
        raise PolicyError(f"a policy has no element {min(unknown)}")
    if document.get("Version", _VERSIONS[0]) not in _VERSIONS:
        raise PolicyError(f"Version is {' or '.join(_VERSIONS)}")
    statements = document.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise PolicyError("Statement is missing")
    return Policy(tuple(_statement(one, number, kind) for number, one in enumerate(statements, 1)))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PolicyError("a key stands twice in one object")
    return found


def _statement(given: Any, number: int, kind: Kind) -> Statement:
    where = f"statement {number}"
    if not isinstance(given, dict):
        raise PolicyError(f"{where} is no object")
    unknown = set(given) - _ELEMENTS
    if unknown:
        raise PolicyError(f"{where} has no element {min(unknown)}")
    if given.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError(f"{where}: Effect is Allow or Deny")
    if ("Action" in given) == ("NotAction" in given):
        raise PolicyError(f"{where} needs one of Action and NotAction")
    named = "Principal" in given or "NotPrincipal" in given
    if kind is Kind.IDENTITY:
        if named:
            raise PolicyError(f"{where}: a policy of an identity names no Principal")
        if ("Resource" in given) == ("NotResource" in given):
            raise PolicyError(f"{where} needs one of Resource and NotResource")
    else:
        if ("Principal" in given) == ("NotPrincipal" in given):
            raise PolicyError(f"{where} needs one of Principal and NotPrincipal")
        if kind is Kind.REPOSITORY and ("Resource" in given or "NotResource" in given):
            raise PolicyError(f"{where}: a repository policy names no Resource: it is the repository")
        if kind is Kind.REGISTRY and ("Resource" in given) == ("NotResource" in given):
            raise PolicyError(f"{where} needs one of Resource and NotResource")
    sid = given.get("Sid", "")
    if not isinstance(sid, str):
        raise PolicyError(f"{where}: Sid is a text")
    actions = _texts(given.get("Action", []), f"{where}: Action")
    not_actions = _texts(given.get("NotAction", []), f"{where}: NotAction")
    for action in (*actions, *not_actions):
        service, colon, name = action.partition(":")
        if action != "*" and (not colon or not service or not name):
            raise PolicyError(f"{where}: {action!r} is no action: ecr:PutImage")
    return Statement(
        allow=given["Effect"] == "Allow",
        actions=actions,
        not_actions=not_actions,
        resources=_texts(given.get("Resource", []), f"{where}: Resource"),
        not_resources=_texts(given.get("NotResource", []), f"{where}: NotResource"),
        principals=_principals(given["Principal"], where) if "Principal" in given else None,
        not_principals=_principals(given["NotPrincipal"], where) if "NotPrincipal" in given else None,
        conditions=tuple(_conditions(given.get("Condition", {}), where)),
        sid=sid,
    )


def _texts(given: Any, where: str) -> tuple[str, ...]:
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise PolicyError(f"{where} is a text or a list of texts")
    return tuple(found)


def _principals(given: Any, where: str) -> tuple[str, ...]:
    if given == "*":
        return ("*",)
    if not isinstance(given, dict) or not given:
        raise PolicyError(f"{where}: Principal is * or an object")
    found: list[str] = []
    for kind, names in given.items():
        if kind not in ("AWS", "Service", "Federated", "CanonicalUser"):
            raise PolicyError(f"{where}: there is no kind of principal {kind}")
        texts = _texts(names, f"{where}: Principal {kind}")
        found += texts if kind == "AWS" else (f"{kind}:{text}" for text in texts)
    return tuple(found)


def _conditions(given: Any, where: str) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    if not isinstance(given, dict):
        raise PolicyError(f"{where}: Condition is an object")
    for operator, block in given.items():
        if not known(operator):
            raise PolicyError(f"{where}: there is no condition operator {operator}")
        if not isinstance(block, dict):
            raise PolicyError(f"{where}: {operator} is an object of keys and values")
        for key, values in block.items():
            listed = values if isinstance(values, list) else [values]
            if not all(isinstance(one, (str, bool, int, float)) for one in listed):
                raise PolicyError(f"{where}: {operator} {key} is a text or a list of texts")
            yield operator, key, tuple(_text(one) for one in listed)


def _text(value: str | bool | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- evaluating ----------------------------------------------------------------------------------------------------


def evaluate(
    asked: Asked,
    principal: Principal,
    *,
    owner: str,
    identity: Sequence[Policy] = (),
    resource: Sequence[Policy] = (),
) -> Verdict:
    """Whether ``principal`` may do it. ``owner`` is the account of the resource, ``resource`` the policies attached to it."""
    by_resource = [one for policy in resource for one in policy.statements if _applies(one, asked, principal)]
    # Who is named himself is allowed; where his account is named, it is for his own policies to pass that on.
    named = any(one.allow and _named_himself(one, principal) for one in by_resource)
    by_identity = [one for policy in identity for one in policy.statements if _applies(one, asked, principal)]
    if any(not one.allow for one in (*by_resource, *by_identity)):
        return Verdict.DENIED
    if principal.kind is PrincipalKind.ROOT and principal.account == owner:
        return Verdict.ALLOWED
    if principal.account == owner and principal.kind is not PrincipalKind.ANONYMOUS:
        return Verdict.ALLOWED if named or by_identity else Verdict.NOT_ALLOWED
    if principal.kind is PrincipalKind.ANONYMOUS:
        return Verdict.ALLOWED if named else Verdict.NOT_ALLOWED
    mine = bool(by_identity) or principal.kind is PrincipalKind.ROOT
    return Verdict.ALLOWED if by_resource and mine else Verdict.NOT_ALLOWED


def _applies(statement: Statement, asked: Asked, principal: Principal) -> bool:
    if statement.actions and not any(like(one, asked.action, fold=True) for one in statement.actions):
        return False
    if statement.not_actions and any(like(one, asked.action, fold=True) for one in statement.not_actions):
        return False
    context = {**_about(principal), **asked.context}
    if statement.resources and not any(_resource(one, asked.resource, context) for one in statement.resources):
        return False
    if statement.not_resources and any(_resource(one, asked.resource, context) for one in statement.not_resources):
        return False
    if statement.principals is not None and not any(_is(one, principal) for one in statement.principals):
        return False
    if statement.not_principals is not None and any(_is(one, principal) for one in statement.not_principals):
        return False
    return all(
        holds(operator, key, [_filled(value, context) for value in values], context)
        for operator, key, values in statement.conditions
    )


def _about(principal: Principal) -> dict[str, Sequence[str]]:
    """What every request of a principal says of it."""
    if principal.kind is PrincipalKind.ANONYMOUS:
        return {"aws:principaltype": ("Anonymous",)}
    kind = "Account" if principal.kind is PrincipalKind.ROOT else "User"
    found: dict[str, Sequence[str]] = {
        "aws:principalarn": (principal.arn,),
        "aws:principalaccount": (principal.account,),
        "aws:principaltype": (kind,),
    }
    if principal.kind is PrincipalKind.USER:
        found["aws:username"] = (principal.name,)
    return found


def _filled(text: str, context: Mapping[str, Sequence[str]]) -> str:
    """``${aws:username}`` and the like, filled in; ``${*}``, ``${?}`` and ``${$}`` are those characters."""
    if "${" not in text:
        return text
    parts = text.split("${")
    out = [parts[0]]
    for part in parts[1:]:
        name, brace, rest = part.partition("}")
        if not brace:
            out.append("${" + part)
            continue
        values = context.get(name.lower())
        out.append((name if name in ("*", "?", "$") else values[0] if values else "${" + name + "}") + rest)
    return "".join(out)


def _resource(pattern: str, resource: str, context: Mapping[str, Sequence[str]]) -> bool:
    wanted = _filled(pattern, context)
    return wanted == "*" or (wanted == resource if resource == "*" else arn_like(wanted, resource))


def _named_himself(statement: Statement, principal: Principal) -> bool:
    if statement.principals is None:
        return statement.not_principals is not None
    return "*" in statement.principals or principal.arn in statement.principals


def _is(named: str, principal: Principal) -> bool:
    if named == "*":
        return True
    if principal.kind is PrincipalKind.ANONYMOUS:
        return False
    if named in (principal.account, f"arn:aws:iam::{principal.account}:root"):
        return True  # an account stands for everybody in it
    return named == principal.arn
