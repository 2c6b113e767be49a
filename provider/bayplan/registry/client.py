"""Pull from and push to any OCI registry, straight between its wire and the host's content store.

Blobs move in a few threads, each hashed on its way, resumed where the line broke and not moved at all where they are
there already or can be mounted from another repository. An image is written from its leaves up: the manifest comes
last, so that whoever sees it finds everything it names. Who we are and how often we try is :mod:`session`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from types import TracebackType
from urllib.parse import parse_qs, urlencode, urlsplit

from bayplan.errors import BayplanError
from bayplan.oci.descriptor import Descriptor, MediaType, Platform
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.store import Store
from bayplan.records import dataclass
from bayplan.registry import contents
from bayplan.registry.contents import Child, Contents
from bayplan.registry.credentials import Credential, Keychain
from bayplan.registry.platforms import choose
from bayplan.registry.session import Session
from bayplan.registry.transfer import Events, Progress, fetch_blob, offer_blob
from bayplan.registry.transport import Answer

_ACCEPT = ", ".join((MediaType.INDEX, MediaType.MANIFEST, MediaType.DOCKER_LIST, MediaType.DOCKER_MANIFEST))
_DEEPEST = 8
_MOST_PAGES = 10_000


@dataclass(frozen=True, slots=True)
class _Manifest:
    digest: Digest
    content: bytes
    parsed: Contents


class RegistryClient:
    """A client for all registries, safe from any thread; a context manager.

    ``insecure`` names registries (``host:port``) with any certificate or plain HTTP; loopback ones need no mention.
    ``concurrency`` bounds the blobs that move at once, ``attempts`` the tries of each request, ``timeout`` (seconds) a
    silent line. ``progress`` is called from several threads.
    """

    def __init__(
        self,
        *,
        keychain: Keychain | None = None,
        credentials: Mapping[str, Credential] | None = None,
        insecure: Collection[str] = (),
        concurrency: int = 4,
        attempts: int = 5,
        timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._keychain = keychain or Keychain(environment)
        self._session_of: Callable[[Mapping[str, Credential] | None], Session] = lambda given: Session(
            keychain=self._keychain,
            credentials=given,
            insecure=insecure,
            attempts=attempts,
            timeout=timeout,
            environment=environment,
        )
        self._session = self._session_of(credentials)
        self._concurrency = max(1, concurrency)
        self._attempts = max(1, attempts)
        self._progress = progress
        self._held: dict[tuple[str, Digest], str] = {}  # (registry, blob) -> a repository that has it
        self._guard = threading.Lock()

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    # -- who we are ------------------------------------------------------------------------------------------------

    def login(self, registry: str, username: str, password: str) -> str:
        """Try a login and keep it; returns where it is kept. Raises ``registry-login`` where the registry refuses it."""
        session = self._session_of({registry: Credential(username, password)})
        try:
            with session.request("GET", registry, "/v2/") as answer:
                answer.read()
        finally:
            session.close()
        return self._keychain.login(registry, username, password)

    def logout(self, registry: str) -> bool:
        """Forget the login to ``registry``; False where there was none."""
        return self._keychain.logout(registry)

    def ping(self, registry: str) -> None:
        """Ask whether a registry is there and lets us in. Raises what :class:`Session` raises."""
        with self._session.request("GET", registry, "/v2/") as answer:
            answer.read()

    # -- looking ---------------------------------------------------------------------------------------------------

    def resolve(self, name: ImageName) -> Descriptor:
        """What a name means now, by one HEAD. Raises ``image-unknown``."""
        with self._ask("HEAD", name, _reference(name)) as answer:
            digest, length = answer.header("Docker-Content-Digest"), answer.length
            media_type = answer.header("Content-Type").partition(";")[0]
        if not digest or length is None:
            found = self._manifest(name, _reference(name))
            return Descriptor(found.parsed.media_type, found.digest, len(found.content))
        return Descriptor(media_type, Digest.parse(digest), length)

    def manifest(self, name: ImageName) -> tuple[Descriptor, bytes]:
        """A manifest or index and its verified bytes. Raises ``image-unknown``."""
        found = self._manifest(name, _reference(name))
        return Descriptor(found.parsed.media_type, found.digest, len(found.content)), found.content

    def tags(self, name: ImageName) -> tuple[str, ...]:
        """All tags of the repository of ``name``. Raises ``image-unknown``."""
        import json

        found: list[str] = []
        target = f"/v2/{name.repository}/tags/list"
        for _ in range(_MOST_PAGES):
            with self._get(name, target) as answer:
                try:
                    found += [str(tag) for tag in json.loads(answer.read())["tags"] or ()]
                except (ValueError, KeyError, TypeError):
                    raise BayplanError("registry-answer", f"{name.registry} sent a list of tags that is none") from None
                link = answer.header("Link")
            if 'rel="next"' not in link:
                return tuple(found)
            query = parse_qs(urlsplit(link.partition("<")[2].partition(">")[0]).query, keep_blank_values=True)
            last = query.get("last", [""])[-1]
            if not last:
                return tuple(found)
            target = f"/v2/{name.repository}/tags/list?" + urlencode({"n": query.get("n", ["1000"])[-1], "last": last})
        raise BayplanError("registry-answer", f"{name.registry} has no end to the tags of {name.repository}")

    # -- pull ------------------------------------------------------------------------------------------------------

    def pull(
        self, name: ImageName, store: Store, platform: Platform | str | None = None, *, progress: Progress | None = None
    ) -> Digest:
        """Bring an image into the store; its digest there.

        With ``platform`` (``linux/arm64``) one image of an index is taken and its own digest returned; without, all of
        the index. The caller holds a lease until it has written down what refers to the digest.
        Raises ``image-unknown``, ``platform-unknown``, ``digest-mismatch`` and what :class:`Session` raises.
        """
        events = Events(progress or self._progress)
        with store.lease():
            top = self._manifest(name, _reference(name))
            if platform is not None and top.parsed.media_type in contents.INDEXES:
                chosen = choose(top.content, Platform.parse(platform) if isinstance(platform, str) else platform)
                if chosen is None:
                    raise BayplanError("platform-unknown", f"{name.familiar()} has no image for {platform}")
                top = self._manifest(name, chosen)
            found: dict[Digest, _Manifest] = {}
            self._gather(name, top, found, 0)
            self._move(
                (child for one in found.values() for child in one.parsed.blobs),
                lambda child, stop: self._fetch(name, store, child, events, stop),
            )
            for one in found.values():  # leaves first
                with store.writer(one.digest.algorithm) as writer:
                    writer.write(one.content)
                    writer.commit(one.digest)
        return top.digest

    def _gather(self, name: ImageName, one: _Manifest, found: dict[Digest, _Manifest], depth: int) -> None:
        if one.digest in found:
            return
        if depth > _DEEPEST:
            raise BayplanError("manifest-invalid", f"{name.familiar()} nests indexes more than {_DEEPEST} deep")
        for child in one.parsed.manifests:
            self._gather(name, self._manifest(name, str(child.digest)), found, depth + 1)
        found[one.digest] = one

    def _fetch(self, name: ImageName, store: Store, child: Child, events: Events, stop: threading.Event) -> None:
        if store.touch(child.digest):
            events.present(child)
        else:
            fetch_blob(self._session, name, store, child, events, stop, self._attempts)
        self._remember(name, child.digest)

    def _manifest(self, name: ImageName, reference: str) -> _Manifest:
        with self._ask("GET", name, reference) as answer:
            content = answer.read(contents.MANIFEST_LIMIT)
            told = answer.header("Docker-Content-Digest")
            media_type = answer.header("Content-Type")
        claimed = reference if ":" in reference else told
        algorithm = Digest.parse(claimed).algorithm if claimed else "sha256"
        digest = Digest.of(content, algorithm)
        if claimed and digest != claimed:
            raise BayplanError(
                "digest-mismatch", f"{name.registry} sent a manifest with digest {digest} instead of {claimed}"
            )
        return _Manifest(digest, content, contents.read(content, media_type))

    # -- push ------------------------------------------------------------------------------------------------------

    def push(
        self,
        store: Store,
        digest: Digest,
        name: ImageName,
        *,
        mount_from: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Digest:
        """Bring an image or index of the store to ``name`` (its tag, or by digest alone); its digest there.

        Of an index, the images that the store has are pushed, and the registry decides about the others. ``mount_from``
        names repositories of the same registry that may hold some of the blobs.
        Raises ``blob-unknown`` where the store lacks a part, and what :class:`Session` raises.
        """
        if name.digest and name.digest != digest:
            raise BayplanError("digest-mismatch", f"{name.familiar()} cannot name the image {digest}")
        events = Events(progress or self._progress)
        with store.lease():
            found: dict[Digest, _Manifest] = {}
            _read_tree(store, digest, found, 0)
            self._move(
                (child for one in found.values() for child in one.parsed.blobs),
                lambda child, stop: self._offer(name, store, child, events, stop, mount_from),
            )
            for one in found.values():  # leaves first, the top under its tag
                top = one.digest == digest
                self._put_manifest(name, one, name.tag if top and name.tag else str(one.digest))
        return digest

    def _offer(
        self,
        name: ImageName,
        store: Store,
        child: Child,
        events: Events,
        stop: threading.Event,
        mount_from: Sequence[str],
    ) -> None:
        with self._guard:
            known = self._held.get((name.registry, child.digest))
        sources = [source for source in dict.fromkeys((known, *mount_from)) if source and source != name.repository]
        offer_blob(self._session, name, store, child, events, stop, self._attempts, sources)
        self._remember(name, child.digest)

    def _put_manifest(self, name: ImageName, one: _Manifest, reference: str) -> None:
        with self._session.request(
            "PUT",
            name.registry,
            f"/v2/{name.repository}/manifests/{reference}",
            repository=name.repository,
            actions="pull,push",
            headers={"Content-Type": one.parsed.media_type},
            body=one.content,
            expect=(201, 200, 202, 204),
        ) as answer:
            answer.read()
            told = answer.header("Docker-Content-Digest")
        if told and told.startswith(one.digest.algorithm) and told != one.digest:
            raise BayplanError("digest-mismatch", f"{name.registry} took the manifest {one.digest} for {told}")

    # -- requests and threads --------------------------------------------------------------------------------------

    def _remember(self, name: ImageName, digest: Digest) -> None:
        with self._guard:
            self._held[name.registry, digest] = name.repository

    def _ask(self, method: str, name: ImageName, reference: str) -> Answer:
        return self._get(name, f"/v2/{name.repository}/manifests/{reference}", method, {"Accept": _ACCEPT})

    def _get(
        self, name: ImageName, target: str, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> Answer:
        try:
            return self._session.request(method, name.registry, target, repository=name.repository, headers=headers)
        except BayplanError as error:
            if error.code == "registry-unknown":
                raise BayplanError(
                    "image-unknown",
                    f"{name.registry} has no image {name.familiar()}",
                    hint="check the name and the tag",
                ) from None
            raise

    def _move(self, children: Iterable[Child], work: Callable[[Child, threading.Event], None]) -> None:
        """Run ``work`` for each blob once, a few at a time, the large ones first; the first failure stops the others."""
        once = sorted({child.digest: child for child in children}.values(), key=lambda child: -child.size)
        stop = threading.Event()
        if not once:
            return
        with ThreadPoolExecutor(min(self._concurrency, len(once)), thread_name_prefix="blobs") as threads:
            futures = [threads.submit(work, child, stop) for child in once]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                stop.set()
                threads.shutdown(wait=True, cancel_futures=True)
                raise
            failed = [error for future in done if (error := future.exception()) is not None]
            if failed:
                stop.set()
                threads.shutdown(wait=True, cancel_futures=True)
                raise failed[0]


def _reference(name: ImageName) -> str:
    return str(name.digest) if name.digest else name.tag or "latest"


def _read_tree(store: Store, digest: Digest, found: dict[Digest, _Manifest], depth: int) -> None:
    if digest in found:
        return
    if depth > _DEEPEST:
        raise BayplanError("manifest-invalid", f"{digest} nests indexes more than {_DEEPEST} deep")
    store.touch(digest)  # before it is read: what is read then stays until the lease ends
    content = store.read(digest, contents.MANIFEST_LIMIT)
    parsed = contents.read(content)
    for child in parsed.manifests:
        if store.has(child.digest):
            _read_tree(store, child.digest, found, depth + 1)
    found[digest] = _Manifest(digest, content, parsed)
