"""Objects of a bucket of Amazon S3, or of what speaks its API; with a second bucket that takes over when the first does not answer.

An object is written once, under a key that nobody else uses, and on the condition that there is none (``If-None-Match``): large ones
in parts. Every wait is bounded; what fails is tried again by the SDK a few times. An answer that was lost leads to a second try that
the bucket refuses: then the object is looked at, and it counts as written where it has its size.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

from bayplan.errors import BayplanError
from bayplan.registry.storage.keys import aws_client

PART = 16 << 20  # bytes
_SECONDS = 30
_HASTY = 5  # seconds, where another bucket can be asked
_ATTEMPTS = 4
_TRIES = 3
_AHEAD = 64 << 10  # bytes that are read before an answer begins
_AWAY = 30.0  # seconds that a bucket which did not answer is asked last

T = TypeVar("T")


def _failed(what: str, error: Exception) -> BayplanError:
    return BayplanError(
        "storage-unreachable", f"the bucket does not {what}: {error}", hint="see the storage of --config"
    )


def _status(error: BaseException | None) -> int:
    """The HTTP status of a refusal; 0 where the bucket said nothing."""
    answer = getattr(error, "response", None) or {}
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


class Bucket:
    """``settings``: ``bucket``, ``prefix``, and where it is (``region``, ``endpoint``, ``profile``)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._name = settings["bucket"]
        self._prefix = settings.get("prefix", "")
        self._settings = settings
        self._made: dict[bool, Any] = {}
        self._away_until = 0.0

    @property
    def away(self) -> bool:
        """Whether it did not answer a moment ago."""
        return time.monotonic() < self._away_until

    def missed(self) -> None:
        """Note that it did not answer."""
        self._away_until = time.monotonic() + _AWAY

    @property
    def _client(self) -> Any:
        return self._speaker(hasty=False)

    def _speaker(self, *, hasty: bool) -> Any:
        if hasty not in self._made:
            seconds, attempts = (min(_HASTY, _SECONDS), 1) if hasty else (_SECONDS, _ATTEMPTS)
            self._made[hasty] = aws_client("s3", self._settings, seconds, attempts)
        return self._made[hasty]

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": self._prefix + key}

    def _asked(self, what: str, work: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            said = work()
            self._away_until = 0.0
            return said
        except ClientError as error:
            if _status(error) >= 500:
                self.missed()
            raise _failed(what, error) from error
        except (BotoCoreError, OSError) as error:
            self.missed()
            raise _failed(what, error) from error

    def check(self) -> None:
        """Raises BayplanError ``storage-unreachable`` where the bucket cannot be used."""
        self._asked("answer", lambda: self._client.head_bucket(Bucket=self._name))

    def has(self, key: str) -> bool:
        """Whether there is an object. Raises BayplanError ``storage-unreachable``."""
        return self._size(key) is not None

    def _size(self, key: str) -> int | None:
        try:
            said = self._asked("show an object", lambda: self._client.head_object(**self._where(key)))
        except BayplanError as error:
            if _status(error.__cause__) == 404:
                return None
            raise
        return int(said["ContentLength"])

    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Write an object from a file's start; it stands whole or not at all. Raises BayplanError ``storage-unreachable``."""
        file.seek(0)
        where = self._where(key)
        if size <= PART:
            body = file.read(size)
            self._ended(
                key, size, "take an object", lambda: self._client.put_object(**where, Body=body, IfNoneMatch="*")
            )
            return
        upload = self._asked("begin an upload", lambda: self._client.create_multipart_upload(**where))["UploadId"]
        try:
            parts = []
            for number in range(1, -(-size // PART) + 1):
                body = file.read(PART)
                said = self._asked(
                    "take a part",
                    lambda number=number, body=body: self._client.upload_part(  # type: ignore[misc]
                        **where, UploadId=upload, PartNumber=number, Body=body
                    ),
                )
                parts.append({"PartNumber": number, "ETag": said["ETag"]})
            self._ended(
                key,
                size,
                "end an upload",
                lambda: self._client.complete_multipart_upload(
                    **where, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                ),
            )
        except BaseException:
            with suppress(BayplanError):  # what stays is swept
                self._asked("end", lambda: self._client.abort_multipart_upload(**where, UploadId=upload))
            raise

    def _ended(self, key: str, size: int, what: str, work: Callable[[], object]) -> None:
        """The last step of writing an object, which may have been done by a try whose answer was lost."""
        try:
            self._asked(what, work)
        except BayplanError as error:
            if not 400 <= _status(error.__cause__) < 500 or self._size(key) != size:
                raise

    def stream(self, key: str, start: int, *, hasty: bool = False) -> Any:
        """The object's bytes from ``start`` on, as the SDK's stream; ``hasty`` where somebody else can be asked."""
        range = f"bytes={start}-"
        return self._asked(
            "give an object", lambda: self._speaker(hasty=hasty).get_object(**self._where(key), Range=range)["Body"]
        )

    def objects(self, under: str) -> Iterator[tuple[str, float]]:
        """(key, when it was written in Unix seconds) of the objects whose keys begin with ``under``."""
        for page in self._pages("list_objects_v2", under):
            for one in page.get("Contents", ()):
                yield one["Key"][len(self._prefix) :], one["LastModified"].timestamp()

    def _pages(self, operation: str, under: str) -> list[Any]:
        return self._asked(
            "list its objects",
            lambda: list(
                self._client.get_paginator(operation).paginate(Bucket=self._name, Prefix=self._prefix + under)
            ),
        )

    def delete(self, keys: list[str]) -> None:
        """Remove objects; one that is not there is no error. Raises BayplanError ``storage-unreachable``."""
        for start in range(0, len(keys), 1000):
            objects = [{"Key": self._prefix + key} for key in keys[start : start + 1000]]
            said = self._asked(
                "delete objects",
                lambda objects=objects: self._client.delete_objects(  # type: ignore[misc]
                    Bucket=self._name, Delete={"Objects": objects, "Quiet": True}
                ),
            )
            if said.get("Errors"):
                raise _failed("delete objects", OSError(said["Errors"][0].get("Message", "")))

    def end_uploads(self, under: str, before: float) -> None:
        """Give up uploads in parts whose keys begin with ``under`` and that began ``before`` then (Unix seconds)."""
        for page in self._pages("list_multipart_uploads", under):
            for one in page.get("Uploads", ()):
                if one["Key"].startswith(self._prefix + under) and one["Initiated"].timestamp() < before:
                    named = {"Bucket": self._name, "Key": one["Key"], "UploadId": one["UploadId"]}
                    self._asked(
                        "end an upload",
                        lambda named=named: self._client.abort_multipart_upload(**named),  # type: ignore[misc]
                    )


class ObjectReader(io.RawIOBase):
    """An object as a file: seekable; goes on where the line broke, at the next bucket that has it."""

    def __init__(self, buckets: list[Bucket], key: str, size: int) -> None:
        self._buckets = buckets
        self._key = key
        self.length = size
        self._at = 0
        self._stream: Any = None
        self._stands = -1
        self._ahead = (-1, b"")  # bytes that were read already, and where they stand

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, {0: 0, 1: self._at, 2: self.length}[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def prepare(self, start: int) -> None:
        """Have the object's bytes at ``start`` at hand. Raises BayplanError ``storage-unreachable``."""
        self._at = start
        self._ahead = (start, self._some(_AHEAD))
        self._at = start

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._some(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self, size: int = -1) -> bytes:
        wanted = self.length - self._at if size < 0 else min(size, max(0, self.length - self._at))
        pieces = []
        while wanted > 0:
            piece = self._some(wanted)
            pieces.append(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def _some(self, most: int) -> bytes:
        """At least one byte where there are more. Raises BayplanError ``storage-unreachable``."""
        if self._at >= self.length or not most:
            return b""
        start, known = self._ahead
        if start <= self._at < start + len(known):
            piece = known[self._at - start :][:most]
            self._at += len(piece)
            return piece
        failure: Exception | None = None
        # Those that answer first. Only who is the last hope is waited for, unless it did not answer a moment ago: a server has not
        # so many threads that all of them may wait for a bucket that is away.
        buckets = sorted(self._buckets, key=lambda bucket: bucket.away)
        for number in range(_TRIES * len(buckets)):
            bucket = buckets[number % len(buckets)]
            try:
                if self._stream is None or self._stands != self._at:
                    self._drop()
                    self._stream = bucket.stream(self._key, self._at, hasty=bucket.away or number + 1 < len(buckets))
                    self._stands = self._at
                piece = bytes(self._stream.read(min(most, self.length - self._at)))
                if piece:
                    self._at += len(piece)
                    self._stands = self._at
                    return piece
                failure = EOFError("it ended early")
            except BayplanError as error:
                failure = error
                if number + 1 >= len(buckets):
                    break  # each was asked, as often as the SDK asks
            except Exception as error:  # noqa: BLE001  (whatever broke the line: the next try is somewhere else)
                failure = error
            self._drop()
        raise failure if isinstance(failure, BayplanError) else _failed("give an object", failure or EOFError())

    def _drop(self) -> None:
        if self._stream is not None:
            with suppress(Exception):
                self._stream.close()
            self._stream = None

    def close(self) -> None:
        self._drop()
        super().close()
