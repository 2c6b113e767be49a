"""Errors of the domain as gRPC statuses: the message of the domain under a code of gRPC, never a traceback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NoReturn

from bayplan.errors import BayplanError, BayplanErrors
from bayplan.pulumi.protocol import grpc, provider_pb2, status_pb2
from bayplan.pulumi.values import encode

#: Codes of the domain that are not FAILED_PRECONDITION. An engine takes INTERNAL and UNKNOWN for "nobody knows what
#: happened", which an error of the domain never means.
_CODES: Mapping[str, str] = {
    "not-found": "NOT_FOUND",
    "image-not-found": "NOT_FOUND",
    "bad-address": "INVALID_ARGUMENT",
    "bad-value": "INVALID_ARGUMENT",
    "wrong-type": "INVALID_ARGUMENT",
    "unknown-kind": "INVALID_ARGUMENT",
    "locked": "UNAVAILABLE",
    "cancelled": "CANCELLED",
    "timeout": "DEADLINE_EXCEEDED",
}

Call = Callable[[Any, Any, Any], Any]


def told(call: Call) -> Call:
    """A call of the servicer whose errors of the domain end it with their own words."""

    @wraps(call)
    def guarded(self: Any, request: Any, context: Any) -> Any:
        try:
            return call(self, request, context)
        except BayplanError as error:
            refuse(context, error)

    return guarded


def refuse(context: Any, error: BayplanError) -> NoReturn:
    """End the call."""
    code = getattr(grpc.StatusCode, _CODES.get(error.code, "FAILED_PRECONDITION"))
    context.abort(code, sentence(error))
    raise AssertionError  # abort does not return


def sentence(error: BayplanError) -> str:
    """One line an error: where, what, what to do."""
    errors = error.errors if isinstance(error, BayplanErrors) else (error,)
    lines = []
    for one in errors:
        where = f"{one.where}: " if one.where else ""
        lines.append(f"{where}{one.message}{f' ({one.hint})' if one.hint else ''}")
    return "\n".join(lines)


def half_done(
    context: Any, id_: str, state: Mapping[str, Any], inputs: Mapping[str, Any], reasons: Sequence[str]
) -> NoReturn:
    """End the call so that what was made is recorded with the reasons why it is not whole (ErrorResourceInitFailed)."""
    details = provider_pb2.ErrorResourceInitFailed(
        id=id_, properties=encode(state), reasons=list(reasons), inputs=encode(inputs)
    )
    code = grpc.StatusCode.FAILED_PRECONDITION
    status = status_pb2.Status(code=code.value[0], message="; ".join(reasons))
    status.details.add().Pack(details)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, status.message)
    raise AssertionError  # abort does not return
