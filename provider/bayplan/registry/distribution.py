"""The OCI Distribution API (specification 1.1, and what is agreed for the next version) on the state machine.

Requests in, responses out: sockets are :mod:`connection`'s, rules are :mod:`registry`'s. Whatever may touch a disk runs
in a thread of a bounded pool, so that the loop never waits; a body is handed to its thread in the pieces that have come
meanwhile, and while the thread is behind, the peer is not read from.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from bayplan.errors import BayplanError
from bayplan.oci.descriptor import MediaType
from bayplan.oci.digest import Digest
from bayplan.registry import contents
from bayplan.registry.access import tokens
from bayplan.registry.access.guard import Anonymous, Guard
from bayplan.registry.access.model import Principal, PrincipalKind
from bayplan.registry.exchange import BodyTooLarge, FileSlice, Incoming, Request, Response
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import StoredManifest, digest_name, repository_name, tag_name
from bayplan.registry.ranges import content_range, served_range
from bayplan.registry.registry import MOST_TAGS_AT_ONCE, Registry
from bayplan.registry.rules import note_pull, setting
from bayplan.registry.storage_class import require_active
from bayplan.registry.templates import Purpose, find, make
from bayplan.registry.uploads import Upload, Uploads
from bayplan.registry.upstream import Rule, Upstream

_PAGE = 1000  # of referrers and, where nothing else is asked for, names of repositories
_MOST_SOURCES = 50  # repositories that are looked at for one to mount a blob from
_API = ("Docker-Distribution-Api-Version", "registry/2.0")
_JSON = "application/json"
_PATHS = tuple(
    (re.compile(pattern), endpoint)
    for pattern, endpoint in (
        (r"/v2/?", "root"),
        (r"/v2/_catalog", "catalog"),
        (r"/v2/(?P<name>.+)/tags/list", "tags"),
        (r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)", "manifest"),
        (r"/v2/(?P<name>.+)/blobs/uploads/?", "uploads"),
        (r"/v2/(?P<name>.+)/blobs/uploads/(?P<upload>[^/]+)", "upload"),
        (r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)", "blob"),
        (r"/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)", "referrers"),
    )
)
_NAME = re.compile(r"[a-z0-9._/-]{1,255}")
_READS = frozenset({"GET", "HEAD"})
#: What a policy allows or denies, by method and endpoint, as ECR asks for it behind its own registry.
_ACTIONS = {
    ("GET", "tags"): "ecr:ListImages",
    ("GET", "referrers"): "ecr:BatchGetImage",
    ("GET", "manifest"): "ecr:BatchGetImage",
    ("PUT", "manifest"): "ecr:PutImage",
    ("DELETE", "manifest"): "ecr:BatchDeleteImage",
    ("GET", "blob"): "ecr:GetDownloadUrlForLayer",
    ("HEAD", "blob"): "ecr:BatchCheckLayerAvailability",
    ("DELETE", "blob"): "ecr:BatchDeleteImage",
    ("POST", "uploads"): "ecr:InitiateLayerUpload",
    ("GET", "upload"): "ecr:UploadLayerPart",
    ("PATCH", "upload"): "ecr:UploadLayerPart",
    ("PUT", "upload"): "ecr:CompleteLayerUpload",
    ("DELETE", "upload"): "ecr:CompleteLayerUpload",
}

#: What a bearer token must be for, by the action that a policy is asked for (distribution's token specification).
_SCOPES = {
    "ecr:DescribeRepositories": "*",
    "ecr:ListImages": "pull",
    "ecr:BatchGetImage": "pull",
    "ecr:GetDownloadUrlForLayer": "pull",
    "ecr:BatchCheckLayerAvailability": "pull",
    "ecr:BatchDeleteImage": "delete",
}
CATALOG = "_catalog"


def _action(method: str, endpoint: str) -> str:
    """What a policy allows or denies of a request."""
    read = "GET" if method == "HEAD" and endpoint != "blob" else method
    return _ACTIONS.get((read, endpoint), "ecr:DescribeRepositories")


def _asked(named: Mapping[str, str]) -> dict[str, Any]:
    """A request in the words of ECR's API, for the audit trail."""
    found: dict[str, Any] = {"repositoryName": named["name"]} if "name" in named else {}
    reference = named.get("reference")
    if reference is not None:
        found["imageId"] = {"imageDigest" if ":" in reference else "imageTag": reference}
    for name, key in (("digest", "layerDigest"), ("upload", "uploadId")):
        if named.get(name):
            found[key] = named[name]
    return found


#: Whose answers depend on the caller.
_BY_CALLER = frozenset({("POST", "uploads"), ("GET", "manifest"), ("HEAD", "manifest"), ("PUT", "manifest")})

T = TypeVar("T")


class Distribution:
    """The API as an application for :class:`bayplan.registry.connection.Connection`."""

    def __init__(
        self,
        registry: Registry,
        uploads: Uploads,
        threads: Executor,
        guard: Guard,
        *,
        sparse: bool = False,
        upstream: Upstream | None = None,
    ) -> None:
        self._registry = registry
        self._uploads = uploads
        self._threads = threads
        self._guard = guard
        self._sparse = sparse
        self._upstream = upstream

    async def __call__(self, request: Request, principal: Principal) -> Response:
        try:
            return await self._route(request, principal)
        except BodyTooLarge:
            return error_answer(
                RegistryError(Fault.MANIFEST_TOO_LARGE, "the body is larger than this request may have")
            )
        except RegistryError as error:
            return error_answer(error)

    async def _route(self, request: Request, principal: Principal) -> Response:
        found = next(((m, endpoint) for pattern, endpoint in _PATHS if (m := pattern.fullmatch(request.path))), None)
        if found is None:
            return error_answer(
                RegistryError(Fault.NAME_INVALID, "this is no path of the distribution API"), status=404
            )
        match, endpoint = found
        named: dict[str, Any] = match.groupdict()
        request.notes["event"] = "CheckApiVersion" if endpoint == "root" else _action(request.method, endpoint)[4:]
        request.notes["parameters"] = _asked(named)
        if "name" in named:
            repository_name(named["name"])
        handler: Callable[..., Any] | None = getattr(self, f"_{request.method.lower()}_{endpoint}", None)
        if handler is None and request.method == "HEAD":
            handler = getattr(self, f"_get_{endpoint}", None)
        if handler is None:
            raise RegistryError(Fault.UNSUPPORTED, f"{request.method[:20]} is not supported here")
        await self._allow(request, principal, endpoint, named)
        if (request.method, endpoint) in _BY_CALLER:
            named = {**named, "principal": principal}
        response: Response = await handler(request, **named)
        return response

    async def _allow(self, request: Request, principal: Principal, endpoint: str, named: Mapping[str, str]) -> None:
        """Raises RegistryError ``unauthorized`` or ``denied``."""
        nobody = principal.kind is PrincipalKind.ANONYMOUS
        if (
            nobody
            and request.method not in _READS
            and ("origin" in request.headers or "sec-fetch-site" in request.headers)
        ):
            # A page in a browser on this machine can reach loopback too, and nobody asked it to push.
            raise RegistryError(Fault.DENIED, "a web page may not change this registry")
        if endpoint == "root":
            if nobody and self._guard.anonymous is Anonymous.NONE:
                raise RegistryError(Fault.UNAUTHORIZED, "Not Authorized", hint="log in: see 'bayplan registry env'")
            return
        name = named.get("name")
        if endpoint == "blob" and request.method in _READS and name is not None:
            given = request.parameters().get("link", [""])[-1]
            if given and tokens.opens(self._guard.accounts.load(), given, name, named["digest"], time.time()):
                return
        action = _action(request.method, endpoint)
        within_scope(principal, action, name)
        await self._run(self._guard.require, principal, action, name, {"aws:sourceip": (request.address,)})

    async def _may_mount(self, request: Request, principal: Principal, source: str, *, named: bool) -> bool:
        """Whether the caller may read the repository that a blob is to be mounted from. If not, the blob is uploaded.

        Raises RegistryError ``unauthorized`` where the caller ``named`` a source that he may read, and his bearer token is not
        for it: he gets one that is.
        """
        context = {"aws:sourceip": (request.address,)}
        needs = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer")
        try:
            for needed in needs:
                await self._run(self._guard.require, principal, needed, source, context)
        except RegistryError as error:
            if error.fault not in (Fault.DENIED, Fault.UNAUTHORIZED):
                raise
            return False
        if principal.scopes is not None and (source, "pull") not in principal.scopes:
            if named:
                within_scope(principal, needs[0], source)
            return False
        return True

    def _room(self, name: str, principal: Principal) -> None:
        """The repository that a push goes to; made by the push where the caller's pushes make repositories."""
        if self._guard.makes_repositories(principal):
            self._registry.ensure_repository(name)
            return
        try:
            self._registry.describe(name)
        except RegistryError as error:
            template = find(self._registry, name, Purpose.PUSH) if error.fault is Fault.NAME_UNKNOWN else None
            if template is None:
                raise
            self._guard.require(principal, "ecr:CreateRepository", name)
            make(self._registry, name, template)

    async def _mount(
        self, request: Request, principal: Principal, name: str, wanted: Digest, given: str | None
    ) -> bool:
        """Mount a blob from ``given`` or, where the client does not say, from any repository that the caller may read."""
        if await self._run(setting, self._registry, "BLOB_MOUNTING") == "DISABLED":
            return False
        if given is not None:
            sources: tuple[str, ...] = (repository_name(given),)
        else:
            sources = await self._run(self._registry.holders, wanted, _MOST_SOURCES)
        for source in sources:
            if await self._may_mount(request, principal, source, named=given is not None):
                try:
                    await self._run(self._registry.link_blob, name, wanted, source)
                except RegistryError as error:
                    if error.fault is not Fault.BLOB_UNKNOWN:
                        raise
                else:
                    return True
        return False

    async def _run(self, work: Callable[..., T], *values: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *values)

    # -- lists -----------------------------------------------------------------------------------------------------

    async def _get_root(self, request: Request) -> Response:  # noqa: ARG002
        return Response(HTTPStatus.OK, (("Content-Type", _JSON), _API), b"{}")

    async def _get_catalog(self, request: Request) -> Response:
        count, after = _page(request)
        limit = _PAGE if count is None else count
        names = await self._run(self._registry.catalog, after, limit + 1) if limit else ()
        more = _next("/v2/_catalog", names, limit)
        return _document({"repositories": names[:limit]}, *more)

    async def _get_tags(self, request: Request, name: str) -> Response:
        count, after = _page(request)
        if count is None:
            tags = await self._run(self._registry.tags, name, after)
            return _document({"name": name, "tags": [tag.name for tag in tags]})
        tags = await self._run(self._registry.tags, name, after, count + 1)
        names = tuple(tag.name for tag in tags)
        more = _next(f"/v2/{name}/tags/list", names, count)
        return _document({"name": name, "tags": names[:count]}, *more)

    async def _get_referrers(self, request: Request, name: str, digest: str) -> Response:
        subject = digest_name(digest)
        wanted = request.parameters()
        kind = wanted.get("artifactType", [""])[-1]
        after = wanted.get("last", [""])[-1]
        found = await self._run(self._registry.referrers, name, subject, kind, after, _PAGE + 1)
        headers = [("OCI-Filters-Applied", "artifactType")] if kind else []
        if len(found) > _PAGE:
            query = {"last": str(found[_PAGE - 1].digest)} | ({"artifactType": kind} if kind else {})
            headers.append(("Link", f'</v2/{name}/referrers/{subject}?{urlencode(query)}>; rel="next"'))
        index = {
            "schemaVersion": 2,
            "mediaType": MediaType.INDEX,
            "manifests": [_descriptor(row) for row in found[:_PAGE]],
        }
        return _document(index, *headers, kind=MediaType.INDEX)

    # -- manifests -------------------------------------------------------------------------------------------------

    async def _get_manifest(self, request: Request, name: str, reference: str, principal: Principal) -> Response:
        _reference(reference)
        rule = self._upstream.rule(name) if self._upstream is not None else None
        if rule is not None:
            await self._run(self._fetch, rule, name, reference, principal, request.address)
        if request.method == "HEAD":
            row = await self._run(self._registry.resolve, name, reference)
            content = b""
        else:
            row, content = await self._run(self._pulled, name, reference, principal)
        headers = (
            ("Content-Type", row.media_type),
            ("Docker-Content-Digest", str(row.digest)),
            ("ETag", f'"{row.digest}"'),
            _API,
        )
        if str(row.digest) in request.headers.get("if-none-match", ""):
            return Response(HTTPStatus.NOT_MODIFIED, headers, length=row.size)
        return Response(HTTPStatus.OK, headers, content, row.size)

    def _pulled(self, name: str, reference: str, principal: Principal) -> tuple[StoredManifest, bytes]:
        row, content = self._registry.manifest(name, reference)
        require_active(self._registry, name, row.digest)
        note_pull(self._registry, name, row, principal)
        return row, content

    def _fetch(self, rule: Rule, name: str, reference: str, principal: Principal, address: str) -> None:
        """Have the pull-through cache get what is not here, or was looked up there too long ago."""
        if self._upstream is None:
            return
        try:
            self._registry.resolve(name, reference)
            if not self._upstream.stale(name, reference):
                return
            missing = None
        except RegistryError as error:
            if error.fault not in (Fault.NAME_UNKNOWN, Fault.MANIFEST_UNKNOWN, Fault.TAG_UNKNOWN):
                raise
            missing = error
        try:
            self._require_import(name, principal, address)
            self._upstream.fill(rule, name, reference)
        except RegistryError as error:
            if missing is None:
                return  # what is here is given out
            raise (missing if error.fault is Fault.UNAUTHORIZED else error) from None

    def _require_import(self, name: str, principal: Principal, address: str) -> None:
        context = {"aws:sourceip": (address,)}
        self._guard.require(principal, "ecr:BatchImportUpstreamImage", name, context)
        if self._upstream is not None and not self._upstream.knows(name):
            self._guard.require(principal, "ecr:CreateRepository", name, context)

    async def _put_manifest(self, request: Request, name: str, reference: str, principal: Principal) -> Response:
        _reference(reference)
        tags = request.parameters().get("tag", []) if ":" in reference else []
        if len(tags) > MOST_TAGS_AT_ONCE:
            raise RegistryError(Fault.TOO_MANY_TAGS, f"a push sets at most {MOST_TAGS_AT_ONCE} tags")
        content = await request.body.read(contents.MANIFEST_LIMIT)
        media_type = request.headers.get("content-type", "")
        await self._run(self._room, name, principal)
        pushed = await self._run(
            lambda: self._registry.put_manifest(name, reference, content, media_type, tags=tags, sparse=self._sparse)
        )
        headers = [
            ("Location", f"/v2/{name}/manifests/{pushed.digest}"),
            ("Docker-Content-Digest", str(pushed.digest)),
            _API,
        ]
        if pushed.subject is not None:
            headers.append(("OCI-Subject", str(pushed.subject)))
        headers += [("OCI-Tag", tag) for tag in (pushed.tags if tags else ())]
        return Response(HTTPStatus.CREATED, tuple(headers))

    async def _delete_manifest(self, request: Request, name: str, reference: str) -> Response:  # noqa: ARG002
        _reference(reference)
        if ":" in reference:
            await self._run(self._registry.delete_manifest, name, digest_name(reference))
        else:
            await self._run(self._registry.delete_tag, name, reference)
        return Response(HTTPStatus.ACCEPTED, (_API,))

    # -- blobs -----------------------------------------------------------------------------------------------------

    async def _get_blob(self, request: Request, name: str, digest: str) -> Response:
        wanted = digest_name(digest)
        size = await self._run(self._registry.blob, name, wanted)
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("Docker-Content-Digest", str(wanted)),
            ("ETag", f'"{wanted}"'),
            ("Accept-Ranges", "bytes"),
            _API,
        ]
        if str(wanted) in request.headers.get("if-none-match", ""):
            return Response(HTTPStatus.NOT_MODIFIED, tuple(headers), length=size)
        if request.method == "HEAD":
            return Response(HTTPStatus.OK, tuple(headers), length=size)
        part = served_range(request.headers.get("range", ""), size)
        status, start, count = HTTPStatus.OK, 0, size
        if part is not None:
            status, start, count = HTTPStatus.PARTIAL_CONTENT, part.start, len(part)
            headers.append(("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}"))
        file = await self._run(self._open, name, wanted)
        return Response(status, tuple(headers), FileSlice(file, start, count))

    def _open(self, name: str, digest: Any) -> Any:
        try:
            return self._registry.storage(name).open(digest)
        except BayplanError as error:
            if error.code != "no-blob":
                raise
            raise RegistryError(Fault.BLOB_UNKNOWN, f"the repository {name} has no blob {digest}") from None

    async def _delete_blob(self, request: Request, name: str, digest: str) -> Response:  # noqa: ARG002
        await self._run(self._registry.delete_blob, name, digest_name(digest))
        return Response(HTTPStatus.ACCEPTED, (_API,))

    # -- uploads ---------------------------------------------------------------------------------------------------

    async def _post_uploads(self, request: Request, name: str, principal: Principal) -> Response:
        asked = {key: values[-1] for key, values in request.parameters().items()}
        await self._run(self._room, name, principal)
        if "mount" in asked:
            wanted = digest_name(asked["mount"])
            if await self._mount(request, principal, name, wanted, asked.get("from") or None):
                return _created(name, wanted)
        if "digest" in asked:
            digest = digest_name(asked["digest"])
            upload = await self._run(self._uploads.begin, name, digest.algorithm)
            try:
                with upload.claimed():
                    await self._take(upload, request.body)
                    await self._run(self._uploads.finish, upload, digest)
            finally:
                await self._run(self._uploads.drop, upload)
            return _created(name, digest)
        upload = await self._run(self._uploads.begin, name, asked.get("digest-algorithm", "sha256"))
        return _state(HTTPStatus.ACCEPTED, upload)

    async def _get_upload(self, request: Request, name: str, upload: str) -> Response:  # noqa: ARG002
        return _state(HTTPStatus.NO_CONTENT, self._uploads.get(name, upload))

    async def _patch_upload(self, request: Request, name: str, upload: str) -> Response:
        session = self._uploads.get(name, upload)
        with session.claimed():
            wrong = _out_of_order(request, session)
            if wrong is not None:
                return wrong
            await self._take(session, request.body)
        return _state(HTTPStatus.ACCEPTED, session)

    async def _put_upload(self, request: Request, name: str, upload: str) -> Response:
        session = self._uploads.get(name, upload)
        asked = request.parameters()
        if "digest" not in asked:
            raise RegistryError(Fault.DIGEST_INVALID, "the digest of the upload is missing")
        digest = digest_name(asked["digest"][-1])
        with session.claimed():
            wrong = _out_of_order(request, session)
            if wrong is not None:
                return wrong
            await self._take(session, request.body)
            await self._run(self._uploads.finish, session, digest)
        return _created(name, digest)

    async def _delete_upload(self, request: Request, name: str, upload: str) -> Response:  # noqa: ARG002
        session = self._uploads.get(name, upload)
        with session.claimed():
            await self._run(self._uploads.drop, session)
        return Response(HTTPStatus.NO_CONTENT, (_API,))

    async def _take(self, upload: Upload, body: Incoming) -> None:
        while pieces := await body.pieces():
            await self._run(self._uploads.append, upload, pieces)


def within_scope(principal: Principal, action: str, name: str | None) -> None:
    """Raises RegistryError ``unauthorized`` where the caller's bearer token is for something else."""
    if principal.scopes is not None and (name or CATALOG, _SCOPES.get(action, "push")) not in principal.scopes:
        raise RegistryError(
            Fault.UNAUTHORIZED, "the token is not for this", hint="fetch one for the scope that is named"
        )


def scope_of(request: Request) -> str:
    """The scope that a client is to ask a bearer token for, to make this request; empty where none is needed."""
    for pattern, endpoint in _PATHS:
        match = pattern.fullmatch(request.path)
        if match is None:
            continue
        if endpoint == "catalog":
            return "registry:catalog:*"
        name = match.groupdict().get("name")
        if name is None:
            return ""
        method = "GET" if request.method == "HEAD" and endpoint != "blob" else request.method
        kind = _SCOPES.get(_ACTIONS.get((method, endpoint), ""), "push")
        scopes = [f"repository:{name}:{'pull,push' if kind == 'push' else kind}"] if _NAME.fullmatch(name) else []
        source = request.parameters().get("from", [""])[-1] if endpoint == "uploads" else ""
        if _NAME.fullmatch(source):
            scopes.append(f"repository:{source}:pull")
        return " ".join(scopes)
    return ""


# -- forms of answers ----------------------------------------------------------------------------------------------


def error_answer(error: RegistryError, *, status: int | None = None) -> Response:
    document = {"errors": [{"code": error.fault.oci, "message": error.message, "detail": error.hint or None}]}
    headers = (("Content-Type", _JSON), _API)
    return Response(status or error.fault.status, headers, json.dumps(document).encode())


def _document(document: Mapping[str, Any], *headers: tuple[str, str], kind: str = _JSON) -> Response:
    body = json.dumps(document, separators=(",", ":")).encode()
    return Response(HTTPStatus.OK, (("Content-Type", kind), _API, *headers), body)


def _created(name: str, digest: object) -> Response:
    headers = (("Location", f"/v2/{name}/blobs/{digest}"), ("Docker-Content-Digest", str(digest)), _API)
    return Response(HTTPStatus.CREATED, headers)


def _state(status: int, upload: Upload) -> Response:
    """Where an upload stands. ``Range`` is inclusive; nothing yet and one byte look the same, as everywhere."""
    return Response(
        status,
        (
            ("Location", f"/v2/{upload.repository}/blobs/uploads/{upload.id}"),
            ("Range", f"0-{max(upload.offset - 1, 0)}"),
            ("Docker-Upload-UUID", upload.id),
            _API,
        ),
    )


def _out_of_order(request: Request, upload: Upload) -> Response | None:
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
    state = _state(refused.status, upload)
    return Response(refused.status, (*refused.headers, *state.headers[:3]), refused.body)


def _descriptor(row: StoredManifest) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": row.media_type, "digest": str(row.digest), "size": row.size}
    if row.artifact_type:
        found["artifactType"] = row.artifact_type
    if row.annotations:
        found["annotations"] = dict(row.annotations)
    return found


def _reference(text: str) -> None:
    """Raises ``invalid-digest`` or ``bad-tag``."""
    if ":" in text:
        digest_name(text)
    else:
        tag_name(text)


def _page(request: Request) -> tuple[int | None, str]:
    asked = request.parameters()
    count = asked.get("n", [""])[-1]
    if count and (not count.isdecimal() or len(count) > 9):
        raise RegistryError(Fault.PARAMETER_INVALID, "n is not a number")
    return int(count) if count else None, asked.get("last", [""])[-1]


def _next(path: str, names: tuple[str, ...], limit: int) -> tuple[tuple[str, str], ...]:
    if not limit or len(names) <= limit:
        return ()
    return (("Link", f'<{path}?n={limit}&last={quote(names[limit - 1], safe="")}>; rel="next"'),)
