"""Keys that data keys are wrapped with: a file of them, or one of AWS KMS."""

from __future__ import annotations

import base64
import binascii
import math
import os
import re
import stat
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError, Where
from bayplan.oci.store import sync_folder

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([A-Za-z0-9+/]{43}=)")
_REMEMBERED = 1000
_REMEMBERED_FOR = 300.0  # seconds: so long does a key that KMS does not give any more still open what was opened lately
_SECONDS = 10
_ATTEMPTS = 2


def _unknown(id: str) -> BayplanError:
    return BayplanError(
        "sealing-key",
        f"the key {id!r} is not there, which a blob was sealed with",
        hint="put it back into the key file",
    )


class FileKeys:
    """A file of lines ``ID:KEY``, the key being 32 bytes in base64; the first is used for what is new. Only its owner may read it.

    ``bayplan registry key-file FILE`` makes one, and adds a key to one that is there.
    """

    def __init__(self, path: Path) -> None:
        """Raises BayplanError ``bad-key-file``."""
        self._path = path
        self._keys: dict[str, bytes] = {}
        try:
            with path.open(encoding="ascii") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise BayplanError(
                        "bad-key-file",
                        "others than its owner may read the key file",
                        where=Where(str(path)),
                        hint=f"chmod 600 {path}",
                    )
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
            raise BayplanError("bad-key-file", f"the key file cannot be read: {why}", where=Where(str(path))) from None
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None or match[1] in self._keys:
                raise BayplanError(
                    "bad-key-file",
                    "this is no ID:KEY with an id of its own and 32 bytes in base64",
                    where=Where(str(path), number),
                    hint="bayplan registry key-file FILE makes keys",
                )
            self._keys[match[1]] = base64.b64decode(match[2])
        if not self._keys:
            raise BayplanError("bad-key-file", "there is no key in the file", where=Where(str(path)))

    def current(self) -> str:
        return next(iter(self._keys))

    def new(self) -> tuple[bytes, str, bytes]:
        key = os.urandom(32)
        return key, *self.wrap(key)

    def wrap(self, key: bytes) -> tuple[str, bytes]:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        id, nonce = self.current(), os.urandom(12)
        return id, nonce + AESGCM(self._keys[id]).encrypt(nonce, key, id.encode())

    def unwrap(self, id: str, wrapped: bytes) -> bytes:
        if id not in self._keys:
            raise _unknown(id)
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self._keys[id]).decrypt(wrapped[:12], wrapped[12:], id.encode())
        except (InvalidTag, ValueError):
            raise BayplanError("sealing-key", f"the key {id!r} is another one than a blob was sealed with") from None


def add_key(path: Path, id: str) -> None:
    """Put a fresh key at the head of a key file, which is made (0600) where there is none. Raises BayplanError ``bad-key-file``."""
    before = ""
    if path.exists():
        FileKeys(path)  # a broken file is not made worse
        before = path.read_text(encoding="ascii")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", id) or any(line.startswith(f"{id}:") for line in before.splitlines()):
        raise BayplanError(
            "bad-key-file",
            f"{id!r} is no id for a new key",
            hint="letters, digits, and . _ -; one that is not there yet",
        )
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{id}:{base64.b64encode(os.urandom(32)).decode()}\n{before}")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


class KmsKeys:
    """A key of AWS KMS: GenerateDataKey and Decrypt, with an encryption context that names what it is for.

    What a data key was wrapped with is noted as KMS names it, by the key's ARN: where the settings name an alias, that may be
    turned to another key (KMS's manual rotation), and what was sealed before is still read.

    ``settings``: ``key`` (id, ARN or alias), and where KMS is (``region``, ``endpoint``, ``profile``).
    """

    def __init__(self, settings: dict[str, Any], context: str) -> None:
        self._settings = settings
        self._context = {"bayplan:storage": context}
        self._known: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._guard = threading.Lock()
        self._client: Any = None

    def current(self) -> str:
        return self.new()[1]  # asked of KMS, which knows what an alias means now

    def new(self) -> tuple[bytes, str, bytes]:
        said = self._ask("generate_data_key", KeySpec="AES_256", **self._with(self._settings["key"]))
        key, wrapped = bytes(said["Plaintext"]), bytes(said["CiphertextBlob"])
        self._remember(wrapped, key)
        return key, said["KeyId"], wrapped

    def wrap(self, key: bytes) -> tuple[str, bytes]:
        said = self._ask("encrypt", Plaintext=key, **self._with(self._settings["key"]))
        return said["KeyId"], bytes(said["CiphertextBlob"])

    def unwrap(self, id: str, wrapped: bytes) -> bytes:
        with self._guard:
            when, key = self._known.get(wrapped, (-math.inf, b""))
            if when > time.monotonic() - _REMEMBERED_FOR:
                self._known.move_to_end(wrapped)
                return key
        said = self._ask("decrypt", CiphertextBlob=wrapped, **self._with(id))
        self._remember(wrapped, bytes(said["Plaintext"]))
        return bytes(said["Plaintext"])

    def _with(self, id: str) -> dict[str, Any]:
        return {"KeyId": id, "EncryptionContext": self._context}

    def _remember(self, wrapped: bytes, key: bytes) -> None:
        with self._guard:
            self._known[wrapped] = (time.monotonic(), key)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _ask(self, operation: str, **parameters: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._client is None:
                self._client = aws_client("kms", self._settings, _SECONDS, _ATTEMPTS)
            return getattr(self._client, operation)(**parameters)
        except (BotoCoreError, ClientError, binascii.Error) as error:
            raise BayplanError("sealing-key", f"AWS KMS does not give a key: {error}") from None


def aws_client(service: str, settings: dict[str, Any], seconds: float, attempts: int) -> Any:
    """A client for ``service`` by ``region``, ``endpoint`` and ``profile`` of the settings; each wait lasts at most ``seconds``."""
    import boto3
    from botocore.config import Config

    session = boto3.Session(profile_name=settings.get("profile"), region_name=settings.get("region"))
    limits = Config(
        connect_timeout=seconds,
        read_timeout=seconds,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        max_pool_connections=32,
    )
    return session.client(service, endpoint_url=settings.get("endpoint"), config=limits)
