"""The OCI Distribution API (specification 1.1, and what is agreed for the next version) on the state machine.

Requests in, responses out: sockets are :mod:`connection`'s, rules are :mod:`registry`'s. Whatever may touch a disk runs
in a thread of a bounded pool, so that the loop never waits; a body is handed to its thread in the pieces that have come
meanwhile, and while the thread is behind, the peer is not read from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlencode

from bayplan.errors import BayplanError
from bayplan.oci.descriptor import MediaType
from bayplan.oci.digest import Digest
from bayplan.registry import contents
from bayplan.registry.access import tokens
from bayplan.registry.access.guard import Anonymous, Guard
from bayplan.registry.access.model import Principal, PrincipalKind
from bayplan.registry.answers import (
    API,
    JSON,
    check_reference,
    created,
    descriptor,
    document,
    error_answer,
    next_page,
    out_of_order,
    page_of,
    upload_state,
)
from bayplan.registry.exchange import BodyTooLarge, FileSlice, Incoming, Request, Response
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import Pushed, StoredManifest, digest_name, repository_name
from bayplan.registry.ranges import served_range
from bayplan.registry.registry import MOST_TAGS_AT_ONCE, Registry
from bayplan.registry.routes import PATHS, action_of, parameters_of, within_scope
from bayplan.registry.rules import note_pull, setting
from bayplan.registry.storage import prepared
from bayplan.registry.storage_class import require_active
from bayplan.registry.templates import Purpose, find, make
from bayplan.registry.uploads import Upload, Uploads
from bayplan.registry.upstream import Rule, Upstream

_PAGE = 1000  # of referrers and, where nothing else is asked for, names of repositories
_MOST_SOURCES = 50  # repositories that are looked at for one to mount a blob from
_READS = frozenset({"GET", "HEAD"})
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
        found = next(((m, endpoint) for pattern, endpoint in PATHS if (m := pattern.fullmatch(request.path))), None)
        if found is None:
            return error_answer(
                RegistryError(Fault.NAME_INVALID, "this is no path of the distribution API"), status=404
            )
        match, endpoint = found
        named: dict[str, Any] = match.groupdict()
        request.notes["event"] = "CheckApiVersion" if endpoint == "root" else action_of(request.method, endpoint)[4:]
        request.notes["parameters"] = parameters_of(named)
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
        action = action_of(request.method, endpoint)
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
            self._registry.require(name)
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
        return Response(HTTPStatus.OK, (("Content-Type", JSON), API), b"{}")

    async def _get_catalog(self, request: Request) -> Response:
        count, after = page_of(request)
        limit = _PAGE if count is None else count
        names = await self._run(self._registry.catalog, after, limit + 1) if limit else ()
        more = next_page("/v2/_catalog", names, limit)
        return document({"repositories": names[:limit]}, *more)

    async def _get_tags(self, request: Request, name: str) -> Response:
        count, after = page_of(request)
        if count is None:
            names = await self._run(self._registry.tag_names, name, after)
            return document({"name": name, "tags": names})
        names = await self._run(self._registry.tag_names, name, after, count + 1)
        more = next_page(f"/v2/{name}/tags/list", names, count)
        return document({"name": name, "tags": names[:count]}, *more)

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
            "manifests": [descriptor(row) for row in found[:_PAGE]],
        }
        return document(index, *headers, kind=MediaType.INDEX)

    # -- manifests -------------------------------------------------------------------------------------------------

    async def _get_manifest(self, request: Request, name: str, reference: str, principal: Principal) -> Response:
        check_reference(reference)
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
            API,
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
        check_reference(reference)
        tags = request.parameters().get("tag", []) if ":" in reference else []
        if len(tags) > MOST_TAGS_AT_ONCE:
            raise RegistryError(Fault.TOO_MANY_TAGS, f"a push sets at most {MOST_TAGS_AT_ONCE} tags")
        content = await request.body.read(contents.MANIFEST_LIMIT)
        media_type = request.headers.get("content-type", "")

        def push() -> Pushed:
            self._room(name, principal)
            return self._registry.put_manifest(name, reference, content, media_type, tags=tags, sparse=self._sparse)

        pushed = await self._run(push)
        headers = [
            ("Location", f"/v2/{name}/manifests/{pushed.digest}"),
            ("Docker-Content-Digest", str(pushed.digest)),
            API,
        ]
        if pushed.subject is not None:
            headers.append(("OCI-Subject", str(pushed.subject)))
        headers += [("OCI-Tag", tag) for tag in (pushed.tags if tags else ())]
        return Response(HTTPStatus.CREATED, tuple(headers))

    async def _delete_manifest(self, request: Request, name: str, reference: str) -> Response:  # noqa: ARG002
        check_reference(reference)
        if ":" in reference:
            await self._run(self._registry.delete_manifest, name, digest_name(reference))
        else:
            await self._run(self._registry.delete_tag, name, reference)
        return Response(HTTPStatus.ACCEPTED, (API,))

    # -- blobs -----------------------------------------------------------------------------------------------------

    async def _get_blob(self, request: Request, name: str, digest: str) -> Response:
        wanted = digest_name(digest)
        size = await self._run(self._registry.blob, name, wanted)
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("Docker-Content-Digest", str(wanted)),
            ("ETag", f'"{wanted}"'),
            ("Accept-Ranges", "bytes"),
            API,
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
        file = await self._run(self._open, name, wanted, start)
        return Response(status, tuple(headers), FileSlice(file, start, count))

    def _open(self, name: str, digest: Any, start: int) -> Any:
        try:
            return prepared(self._registry.storage(name).open(digest), start)
        except BayplanError as error:
            if error.code != "no-blob":
                raise
            raise RegistryError(Fault.BLOB_UNKNOWN, f"the repository {name} has no blob {digest}") from None

    async def _delete_blob(self, request: Request, name: str, digest: str) -> Response:  # noqa: ARG002
        await self._run(self._registry.delete_blob, name, digest_name(digest))
        return Response(HTTPStatus.ACCEPTED, (API,))

    # -- uploads ---------------------------------------------------------------------------------------------------

    async def _post_uploads(self, request: Request, name: str, principal: Principal) -> Response:
        asked = {key: values[-1] for key, values in request.parameters().items()}
        if not asked:
            return upload_state(HTTPStatus.ACCEPTED, await self._run(self._begun, name, principal))
        await self._run(self._room, name, principal)
        if "mount" in asked:
            wanted = digest_name(asked["mount"])
            if await self._mount(request, principal, name, wanted, asked.get("from") or None):
                return created(name, wanted)
        if "digest" in asked:
            digest = digest_name(asked["digest"])
            upload = await self._run(self._uploads.begin, name, digest.algorithm)
            try:
                with upload.claimed():
                    rest = await self._take(upload, request.body)
                    await self._run(self._uploads.finish, upload, digest, rest)
            finally:
                await self._run(self._uploads.drop, upload)
            return created(name, digest)
        upload = await self._run(self._uploads.begin, name, asked.get("digest-algorithm", "sha256"))
        return upload_state(HTTPStatus.ACCEPTED, upload)

    async def _get_upload(self, request: Request, name: str, upload: str) -> Response:  # noqa: ARG002
        return upload_state(HTTPStatus.NO_CONTENT, self._uploads.get(name, upload))

    async def _patch_upload(self, request: Request, name: str, upload: str) -> Response:
        session = self._uploads.get(name, upload)
        with session.claimed():
            wrong = out_of_order(request, session)
            if wrong is not None:
                return wrong
            if rest := await self._take(session, request.body):
                await self._run(self._uploads.append, session, rest)
        return upload_state(HTTPStatus.ACCEPTED, session)

    async def _put_upload(self, request: Request, name: str, upload: str) -> Response:
        session = self._uploads.get(name, upload)
        asked = request.parameters()
        if "digest" not in asked:
            raise RegistryError(Fault.DIGEST_INVALID, "the digest of the upload is missing")
        digest = digest_name(asked["digest"][-1])
        with session.claimed():
            wrong = out_of_order(request, session)
            if wrong is not None:
                return wrong
            rest = await self._take(session, request.body)
            await self._run(self._uploads.finish, session, digest, rest)
        return created(name, digest)

    async def _delete_upload(self, request: Request, name: str, upload: str) -> Response:  # noqa: ARG002
        session = self._uploads.get(name, upload)
        with session.claimed():
            await self._run(self._uploads.drop, session)
        return Response(HTTPStatus.NO_CONTENT, (API,))

    async def _take(self, upload: Upload, body: Incoming) -> list[memoryview]:
        """Append a body but for its last pieces, for which one change of threads does with what comes after them."""
        while pieces := await body.pieces():
            if body.finished:
                return pieces
            await self._run(self._uploads.append, upload, pieces)
        return []

    def _begun(self, name: str, principal: Principal) -> Upload:
        self._room(name, principal)
        return self._uploads.begin(name)
