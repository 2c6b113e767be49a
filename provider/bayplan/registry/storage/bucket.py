"""Objects of a bucket of Amazon S3, or of what speaks its API; with a second bucket that takes over when the first does not answer.

An object is written once, under a key that nobody else uses, and on the condition that there is none (``If-None-Match``): large ones
in parts. Every wait is bounded; what fails is tried again by the SDK a few times.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

from bayplan.errors import BayplanError
from bayplan.registry.storage.keys import aws_client

PART = 16 << 20  # bytes
_SECONDS = 30
_TRIES = 3

T = TypeVar("T")


def _failed(what: str, error: Exception) -> BayplanError:
    return BayplanError(
        "storage-unreachable", f"the bucket does not {what}: {error}", hint="see the storage of --config"
    )


class Bucket:
    """``settings``: ``bucket``, ``prefix``, and where it is (``region``, ``endpoint``, ``profile``)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._name = settings["bucket"]
        self._prefix = settings.get("prefix", "")
        self._settings = settings
        self._made: Any = None

    @property
    def _client(self) -> Any:
        if self._made is None:
            self._made = aws_client("s3", self._settings, _SECONDS)
        return self._made

    def _asked(self, what: str, work: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return work()
        except (BotoCoreError, ClientError, OSError) as error:
            raise _failed(what, error) from None

    def check(self) -> None:
        """Raises BayplanError ``storage-unreachable`` where the bucket cannot be used."""
        self._asked("answer", lambda: self._client.head_bucket(Bucket=self._name))

    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Write an object from a file's start; it stands whole or not at all."""
        where = {"Bucket": self._name, "Key": self._prefix + key}
        file.seek(0)
        if size <= PART:
            body = file.read(size)
            self._asked("take an object", lambda: self._client.put_object(**where, Body=body, IfNoneMatch="*"))
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
            self._asked(
                "end an upload",
                lambda: self._client.complete_multipart_upload(
                    **where, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                ),
            )
        except BaseException:
            with suppress(BayplanError):  # parts that stay are the bucket's lifecycle rule's to remove
                self._asked("end", lambda: self._client.abort_multipart_upload(**where, UploadId=upload))
            raise

    def stream(self, key: str, start: int) -> Any:
        """The object's bytes from ``start`` on, as the SDK's stream."""
        where = {"Bucket": self._name, "Key": self._prefix + key}
        return self._asked("give an object", lambda: self._client.get_object(**where, Range=f"bytes={start}-")["Body"])

    def objects(self) -> Iterator[tuple[str, float]]:
        """(key, when it was written in Unix seconds) of all objects."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=self._prefix)
        for page in self._asked("list its objects", lambda: list(pages)):
            for one in page.get("Contents", ()):
                yield one["Key"][len(self._prefix) :], one["LastModified"].timestamp()

    def delete(self, keys: list[str]) -> None:
        for start in range(0, len(keys), 1000):
            objects = [{"Key": self._prefix + key} for key in keys[start : start + 1000]]
            self._asked(
                "delete objects",
                lambda objects=objects: self._client.delete_objects(  # type: ignore[misc]
                    Bucket=self._name, Delete={"Objects": objects, "Quiet": True}
                ),
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

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, {0: 0, 1: self._at, 2: self.length}[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

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
        failure: Exception | None = None
        for number in range(_TRIES * len(self._buckets)):
            try:
                if self._stream is None or self._stands != self._at:
                    self._drop()
                    self._stream = self._buckets[number % len(self._buckets)].stream(self._key, self._at)
                    self._stands = self._at
                piece: bytes = self._stream.read(min(most, self.length - self._at))
                if piece:
                    self._at += len(piece)
                    self._stands = self._at
                    return piece
                failure = EOFError("it ended early")
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
