"""The forms of answers of the distribution API, and of what is read off its requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from bayplan.registry.exchange import Request, Response
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import StoredManifest, digest_name, tag_name
from bayplan.registry.ranges import content_range
from bayplan.registry.uploads import Upload

API = ("Docker-Distribution-Api-Version", "registry/2.0")
JSON = "application/json"


def error_answer(error: RegistryError, *, status: int | None = None) -> Response:
    told = {"errors": [{"code": error.fault.oci, "message": error.message, "detail": error.hint or None}]}
    headers = (("Content-Type", JSON), API)
    return Response(status or error.fault.status, headers, json.dumps(told).encode())


def document(said: Mapping[str, Any], *headers: tuple[str, str], kind: str = JSON) -> Response:
    body = json.dumps(said, separators=(",", ":")).encode()
    return Response(HTTPStatus.OK, (("Content-Type", kind), API, *headers), body)


def created(name: str, digest: object) -> Response:
    headers = (("Location", f"/v2/{name}/blobs/{digest}"), ("Docker-Content-Digest", str(digest)), API)
    return Response(HTTPStatus.CREATED, headers)


def upload_state(status: int, upload: Upload) -> Response:
    """Where an upload stands. ``Range`` is inclusive; nothing yet and one byte look the same, as everywhere."""
    return Response(
        status,
        (
            ("Location", f"/v2/{upload.repository}/blobs/uploads/{upload.id}"),
            ("Range", f"0-{max(upload.offset - 1, 0)}"),
            ("Docker-Upload-UUID", upload.id),
            API,
        ),
    )


def out_of_order(request: Request, upload: Upload) -> Response | None:
    """The answer to a chunk that does not begin where the last one ended (416, with where it should)."""
    header = request.headers.get("content-range")
    if header is None:
        return None
    part = content_range(header)
    if part.start == upload.offset and (request.body.length is None or request.body.length == len(part)):
        return None
    refused = error_answer(
        RegistryError(Fault.UPLOAD_RANGE, f"the next byte of this upload is {upload.offset}, not {part.start}")
    )
    state = upload_state(refused.status, upload)
    return Response(refused.status, (*refused.headers, *state.headers[:3]), refused.body)


def descriptor(row: StoredManifest) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": row.media_type, "digest": str(row.digest), "size": row.size}
    if row.artifact_type:
        found["artifactType"] = row.artifact_type
    if row.annotations:
        found["annotations"] = dict(row.annotations)
    return found


def check_reference(text: str) -> None:
    """Raises ``invalid-digest`` or ``bad-tag``."""
    if ":" in text:
        digest_name(text)
    else:
        tag_name(text)


def page_of(request: Request) -> tuple[int | None, str]:
    asked = request.parameters()
    count = asked.get("n", [""])[-1]
    if count and (not count.isdecimal() or len(count) > 9):
        raise RegistryError(Fault.PARAMETER_INVALID, "n is not a number")
    return int(count) if count else None, asked.get("last", [""])[-1]


def next_page(path: str, names: tuple[str, ...], limit: int) -> tuple[tuple[str, str], ...]:
    if not limit or len(names) <= limit:
        return ()
    return (("Link", f'<{path}?n={limit}&last={quote(names[limit - 1], safe="")}>; rel="next"'),)
