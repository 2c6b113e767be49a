"""A plan as JSON and back without loss, its digest, and the public form for ``--json``.

Two documents leave this room. The *saved plan* (``plan --out``) keeps everything that an apply needs, expressions and
holes included; :func:`load` gives back an equal plan or refuses, and the digest over its canonical form stands in it, so
that a file which was cut, edited or written by something else is never carried out. The *public form*
(:func:`as_output`) is for people's programs (``schemas/output/plan.schema.json``): plain JSON, secrets as keyed digests,
what is not known yet as ``{"unknown": "Image.shop.ref"}``.

In a saved plan a value that is no JSON stands as an object with the single key ``$ref``, ``$secret``, ``$template``,
``$unknown`` or ``$redacted``; an object of the user's that looks like one is wrapped as ``$map``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from bayplan.errors import BayplanError, BayplanErrors, Where
from bayplan.plan.model import (
    Action,
    Change,
    Condition,
    Operation,
    Plan,
    Reason,
    Redacted,
    Ref,
    SecretRef,
    Template,
    Unknown,
    Value,
)

FORMAT = "bayplan-plan"
VERSION = 1
#: A saved plan of 100,000 operations is about a tenth of this.
MAX_CHARACTERS = 1 << 30

_TAGS = frozenset({"$ref", "$secret", "$template", "$unknown", "$redacted", "$map"})


# -- values --------------------------------------------------------------------------------------------------------


def encode(value: Value) -> Any:
    """A value as JSON. Raises TypeError for what no plan may hold."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Ref):
        return {"$ref": [value.address, value.attribute]}
    if isinstance(value, SecretRef):
        return {"$secret": value.name}
    if isinstance(value, Template):
        return {"$template": [encode(part) for part in value.parts]}
    if isinstance(value, Unknown):
        return {"$unknown": [value.address, value.attribute, value.hint]}
    if isinstance(value, Redacted):
        return {"$redacted": value.digest}
    if isinstance(value, Mapping):
        encoded = {key: encode(item) for key, item in value.items()}
        return {"$map": encoded} if len(encoded) == 1 and encoded.keys() <= _TAGS else encoded
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    raise TypeError(f"a plan cannot hold a {type(value).__name__}")


def decode(data: Any) -> Value:
    """The value of :func:`encode`. Lists come back as lists. Raises ValueError, TypeError or KeyError for anything else."""
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        ((tag, body),) = data.items()
        if tag in _TAGS:
            return _decode_tagged(tag, body)
    return {key: decode(item) for key, item in data.items()}


def _decode_tagged(tag: str, body: Any) -> Value:
    if tag == "$map":
        return {key: decode(item) for key, item in _dict(body).items()}
    if tag == "$secret":
        return SecretRef(_str(body))
    if tag == "$redacted":
        return Redacted(_str(body))
    if tag == "$ref":
        address, attribute = body
        return Ref(_str(address), _str(attribute))
    if tag == "$unknown":
        address, attribute, hint = body
        return Unknown(_str(address), _str(attribute), _str(hint))
    parts = [decode(part) for part in body]
    if not all(isinstance(part, (str, Ref, SecretRef)) for part in parts):
        raise ValueError("a template holds text, references and secrets")
    return Template(tuple(parts))


def _str(data: Any) -> str:
    if not isinstance(data, str):
        raise TypeError(f"expected text, found {type(data).__name__}")
    return data


def _int(data: Any) -> int:
    if not isinstance(data, int) or isinstance(data, bool):
        raise TypeError(f"expected a number, found {type(data).__name__}")
    return data


def _dict(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise TypeError(f"expected an object, found {type(data).__name__}")
    return data


# -- the plan ------------------------------------------------------------------------------------------------------


def _where(where: Where | None) -> Any:
    return None if where is None else [where.file, where.line, where.column]


def _read_where(data: Any) -> Where | None:
    if data is None:
        return None
    file, line, column = data
    return Where(_str(file), _int(line), _int(column))


def _change(change: Change) -> dict[str, Any]:
    return {
        "field": change.field,
        "before": encode(change.before),
        "after": encode(change.after),
        "reason": change.reason.value,
        "replaces": change.replaces,
        "where": _where(change.where),
    }


def _read_change(data: Any) -> Change:
    return Change(
        _str(data["field"]),
        decode(data["before"]),
        decode(data["after"]),
        Reason(data["reason"]),
        bool(data["replaces"]),
        _read_where(data["where"]),
    )


def _operation(operation: Operation) -> dict[str, Any]:
    return {
        "number": operation.number,
        "address": operation.address,
        "kind": operation.kind,
        "place": operation.place,
        "action": operation.action.value,
        "cause": operation.cause,
        "inputs": _map(operation.inputs),
        "changes": [_change(change) for change in operation.changes],
        "after": list(operation.after),
        "precondition": operation.precondition,
        "uid": operation.uid,
        "id": operation.id,
        "where": _where(operation.where),
        "note": operation.note,
        "warning": operation.warning,
        "recovers": operation.recovers,
        "waits_for": {address: condition.value for address, condition in operation.waits_for.items()},
        "depends_on": list(operation.depends_on),
        "detail": _map(operation.detail),
    }


def _map(values: Mapping[str, Value]) -> dict[str, Any]:
    return {key: encode(value) for key, value in values.items()}


def _read_map(data: Any) -> dict[str, Value]:
    return {key: decode(value) for key, value in _dict(data).items()}


def _read_operation(data: Any) -> Operation:
    return Operation(
        number=_int(data["number"]),
        address=_str(data["address"]),
        kind=_str(data["kind"]),
        place=_str(data["place"]),
        action=Action(data["action"]),
        cause=_str(data["cause"]),
        inputs=_read_map(data["inputs"]),
        changes=tuple(_read_change(one) for one in data["changes"]),
        after=tuple(_int(one) for one in data["after"]),
        precondition=_str(data["precondition"]),
        uid=_str(data["uid"]),
        id=_str(data["id"]),
        where=_read_where(data["where"]),
        note=_str(data["note"]),
        warning=_str(data["warning"]),
        recovers=bool(data["recovers"]),
        waits_for={_str(address): Condition(word) for address, word in _dict(data["waits_for"]).items()},
        depends_on=tuple(_str(one) for one in data["depends_on"]),
        detail=_read_map(data["detail"]),
    )


def _body(plan: Plan) -> dict[str, Any]:
    return {
        "stack": plan.stack,
        "operations": [_operation(operation) for operation in plan.operations],
        "known": {address: _map(outputs) for address, outputs in plan.known.items()},
        "outputs": _map(plan.outputs),
        "problems": list(plan.problems),
        "warnings": list(plan.warnings),
        "looked_at": plan.looked_at,
        "calls": plan.calls,
    }


def digest(plan: Plan) -> str:
    """The digest of the whole plan (blake2b-256 of the canonical JSON, hex). Equal plans have equal digests."""
    return _digest(_body(plan))


def _digest(body: Any) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def dump(plan: Plan) -> str:
    """The saved form of a plan: one JSON document with an end of line. Raises TypeError for values of no plan."""
    body = _body(plan)
    document = {"format": FORMAT, "version": VERSION, "digest": _digest(body), "plan": body}
    return json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def load(text: str, *, name: str = "the plan file") -> Plan:
    """The plan that :func:`dump` wrote. ``name`` is the file's, for the errors.

    Raises BayplanErrors: ``not-a-plan`` (something else), ``plan-version`` (written by another version), ``plan-damaged``
    (cut, edited or inconsistent).
    """
    if len(text) > MAX_CHARACTERS:
        raise _refused("plan-damaged", f"{name} is larger than any plan", name)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and FORMAT in text:
            raise _refused("plan-damaged", f"{name} is cut off or damaged: {error}", name) from error
        raise _refused("not-a-plan", f"{name} is not a saved plan: it holds no JSON", name) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _refused("not-a-plan", f"{name} is not a saved plan", name)
    if document.get("version") != VERSION:
        raise _refused(
            "plan-version",
            f"{name} has version {document.get('version')} of the plan's format, this bayplan reads {VERSION}",
            name,
        )
    try:
        body = document["plan"]
        if document.get("digest") != _digest(body):
            raise ValueError("its content does not match its digest")
        plan = Plan(
            stack=_str(body["stack"]),
            operations=tuple(_read_operation(one) for one in body["operations"]),
            known={address: _read_map(outputs) for address, outputs in _dict(body["known"]).items()},
            outputs=_read_map(body["outputs"]),
            problems=tuple(_str(one) for one in body["problems"]),
            warnings=tuple(_str(one) for one in body["warnings"]),
            looked_at=_int(body["looked_at"]),
            calls=_int(body["calls"]),
        )
        for number, operation in enumerate(plan.operations, 1):
            if operation.number != number or any(not 0 < earlier < number for earlier in operation.after):
                raise ValueError(f"operation {number} is out of order")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise _refused("plan-damaged", f"{name} is damaged: {what}", name) from error
    return plan


def _refused(code: str, message: str, name: str) -> BayplanErrors:
    hint = "make a new one: bayplan plan --out FILE"
    return BayplanErrors(
        [BayplanError(code, message, where=Where(name) if name != "the plan file" else None, hint=hint)]
    )


# -- the public form -----------------------------------------------------------------------------------------------


def as_output(plan: Plan) -> dict[str, Any]:
    """The plan as ``--json`` shows it (DESIGN 9): plain JSON, nothing secret in clear."""
    return {
        "stack": plan.stack,
        "operations": [_shown_operation(operation) for operation in plan.operations],
        "problems": list(plan.problems),
        "warnings": list(plan.warnings),
        "looked_at": plan.looked_at,
        "calls": plan.calls,
        "digest": digest(plan),
    }


def _shown_operation(operation: Operation) -> dict[str, Any]:
    optional: dict[str, Any] = {
        "where": _shown_where(operation.where),
        "note": operation.note,
        "warning": operation.warning,
        "waits_for": {address: condition.value for address, condition in operation.waits_for.items()},
    }
    return {
        "number": operation.number,
        "address": operation.address,
        "kind": operation.kind,
        "place": operation.place,
        "action": operation.action.value,
        "cause": operation.cause,
        "changes": [
            {
                "field": change.field,
                "before": plain(change.before),
                "after": plain(change.after),
                "reason": change.reason.value,
                "replaces": change.replaces,
                **({"where": _shown_where(change.where)} if change.where else {}),
            }
            for change in operation.changes
        ],
        "after": list(operation.after),
        "precondition": operation.precondition,
        "recovers": operation.recovers,
        **{key: value for key, value in optional.items() if value},
    }


def _shown_where(where: Where | None) -> dict[str, Any] | None:
    return None if where is None else {"file": where.file, "line": where.line, "column": where.column}


def plain(value: Value) -> Any:
    """A value as plain JSON: what is not known, and what is secret, as an object that says so."""
    tagged: Callable[[Any], Any] | None = _PLAIN.get(type(value))
    if tagged is not None:
        return tagged(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


_PLAIN: dict[type, Callable[[Any], Any]] = {
    Unknown: lambda value: {"unknown": f"{value.address}.{value.attribute}" if value.attribute else value.address},
    Redacted: lambda value: {"secret": value.digest},
    SecretRef: lambda value: {"secret": str(value)},
    Ref: str,
    Template: str,
}
