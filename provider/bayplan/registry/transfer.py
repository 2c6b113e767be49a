"""One blob across the wire, either way.

A download goes on where the line broke (``Range``) as long as it makes progress, and is verified by the store's writer
while it streams. An upload is one POST and one PUT, the form that every registry understands, and begins anew after a
failure: no registry promises more about half an upload.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from urllib.parse import urlencode, urljoin, urlsplit

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.store import BlobWriter, Store
from bayplan.records import dataclass
from bayplan.registry.contents import Child
from bayplan.registry.session import Session
from bayplan.registry.transport import Answer, FileBody

_PIECE = 256 << 10
_AGAIN = frozenset({"registry-unreachable", "registry-timeout", "registry-busy", "registry-unknown", "blob-cut"})


class Step(StrEnum):
    """What happens to a blob."""

    MOVING = "moving"
    DONE = "done"
    PRESENT = "present"  # it was there already
    MOUNTED = "mounted"  # taken over from another repository
    RETRYING = "retrying"


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a blob is: ``done`` of ``size`` bytes."""

    step: Step
    digest: Digest
    done: int
    size: int


Progress = Callable[[Transfer], None]


class Stopped(BayplanError):
    """Another blob of the same image failed; this one was given up."""

    def __init__(self) -> None:
        super().__init__("transfer-stopped", "the transfer was stopped")


class Events:
    """Tells a listener, if there is one."""

    def __init__(self, listener: Progress | None) -> None:
        self._listener = listener

    def tell(self, step: Step, child: Child, done: int) -> None:
        if self._listener is not None:
            self._listener(Transfer(step, child.digest, done, child.size))

    def present(self, child: Child) -> None:
        self.tell(Step.PRESENT, child, child.size)


# -- down ----------------------------------------------------------------------------------------------------------


def fetch_blob(
    session: Session,
    name: ImageName,
    store: Store,
    child: Child,
    events: Events,
    stop: threading.Event,
    attempts: int,
) -> None:
    """Bring a blob into the store. Raises what Session raises, ``digest-mismatch``, ``size-mismatch``."""
    failures = 0
    with store.writer(child.digest.algorithm) as writer:
        while writer.offset < child.size or not failures:
            before = writer.offset
            try:
                _some(session, name, child, writer, events, stop)
                break
            except (OSError, http.client.HTTPException) as error:
                # Progress earns new patience; a line that breaks without bringing anything does not.
                failures = 1 if writer.offset > before else failures + 1
                if failures >= attempts:
                    raise BayplanError(
                        "registry-unreachable",
                        f"{name.registry} broke off {child.digest} at {writer.offset} of {child.size} bytes: {error}",
                    ) from None
                events.tell(Step.RETRYING, child, writer.offset)
                stop.wait(min(0.25 * 2**failures, 8.0))
        try:
            writer.commit(child.digest)
        except BayplanError as error:
            raise BayplanError(
                "digest-mismatch", f"{name.registry} sent other bytes than {child.digest}: {error.message}"
            ) from None
    events.tell(Step.DONE, child, child.size)


def _some(
    session: Session, name: ImageName, child: Child, writer: BlobWriter, events: Events, stop: threading.Event
) -> None:
    """Read from where the writer stands to the end. Raises OSError/HTTPException where the line breaks."""
    headers = {"Range": f"bytes={writer.offset}-"} if writer.offset else {}
    with session.request(
        "GET",
        name.registry,
        f"/v2/{name.repository}/blobs/{child.digest}",
        repository=name.repository,
        headers=headers,
        expect=(200, 206),
    ) as answer:
        skip = _skipped(answer, writer.offset)
        buffer = memoryview(bytearray(_PIECE))
        while True:
            if stop.is_set():
                raise Stopped
            count = answer.readinto(buffer)
            if not count:
                break
            piece = buffer[min(skip, count) : count]
            skip -= min(skip, count)
            if writer.offset + len(piece) > child.size:
                raise BayplanError(
                    "size-mismatch", f"{name.registry} sends more than the {child.size} bytes of {child.digest}"
                )
            writer.write(piece)
            events.tell(Step.MOVING, child, writer.offset)
    if writer.offset < child.size:
        raise http.client.HTTPException("the line ended early")


def _skipped(answer: Answer, offset: int) -> int:
    """How many bytes of an answer we have already: all of ``offset`` where the registry ignored the range."""
    if answer.status == 200 or not offset:
        return offset
    start = answer.header("Content-Range").removeprefix("bytes ").partition("-")[0]
    if start != str(offset):
        raise http.client.HTTPException("the registry sent another range than it was asked for")
    return 0


# -- up ------------------------------------------------------------------------------------------------------------


def offer_blob(
    session: Session,
    name: ImageName,
    store: Store,
    child: Child,
    events: Events,
    stop: threading.Event,
    attempts: int,
    sources: Sequence[str],
) -> None:
    """See to it that the repository has a blob: it is there, is mounted from one of ``sources``, or is sent."""
    if not store.touch(child.digest):
        raise BayplanError("blob-unknown", f"the store has no blob {child.digest}")
    if _is_there(session, name, child):
        events.present(child)
        return
    for attempt in range(1, attempts + 1):
        if stop.is_set():
            raise Stopped
        try:
            location = _begin(session, name, child, sources if attempt == 1 else ())
            if location is None:
                events.tell(Step.MOUNTED, child, child.size)
                return
            _send(session, name, store, child, events, location, stop)
        except BayplanError as error:
            if error.code not in _AGAIN or attempt == attempts:
                raise
            events.tell(Step.RETRYING, child, 0)
            stop.wait(min(0.25 * 2**attempt, 8.0))
            continue
        events.tell(Step.DONE, child, child.size)
        return


def _is_there(session: Session, name: ImageName, child: Child) -> bool:
    with session.request(
        "HEAD",
        name.registry,
        f"/v2/{name.repository}/blobs/{child.digest}",
        repository=name.repository,
        actions="pull,push",
        expect=(200, 404),
    ) as answer:
        return answer.status == 200


def _begin(session: Session, name: ImageName, child: Child, sources: Sequence[str]) -> str | None:
    """Where to send a blob, or None where a mount made that needless."""
    location = ""
    for source in (*sources, ""):
        query = "?" + urlencode({"mount": str(child.digest), "from": source}) if source else ""
        if not source and location:
            break  # a mount that was refused has begun an upload already
        with session.request(
            "POST",
            name.registry,
            f"/v2/{name.repository}/blobs/uploads/{query}",
            repository=name.repository,
            actions="pull,push",
            also=source,
            expect=(201, 202),
        ) as answer:
            answer.read()
            if answer.status == 201:
                return None
            location = answer.header("Location")
    if not location:
        raise BayplanError("registry-answer", f"{name.registry} began an upload without saying where")
    return urljoin(f"{session.base(name.registry)}/", location)


def _send(
    session: Session,
    name: ImageName,
    store: Store,
    child: Child,
    events: Events,
    location: str,
    stop: threading.Event,
) -> None:
    def progress(done: int) -> None:
        if stop.is_set():
            raise Stopped
        events.tell(Step.MOVING, child, done)

    mark = "&" if urlsplit(location).query else "?"
    with (
        session.request(
            "PUT",
            name.registry,
            f"{location}{mark}{urlencode({'digest': str(child.digest)})}",
            repository=name.repository,
            actions="pull,push",
            headers={"Content-Type": "application/octet-stream"},
            body=FileBody(lambda: store.open(child.digest), child.size, progress),
            expect=(201, 204),
            retry=False,
        ) as answer,
        suppress(OSError, http.client.HTTPException),
    ):
        answer.read()  # the status has told; what follows it is nobody's loss
