"""Secret values at rest: AES-256-GCM under the host's key, which lies outside every root.

What a start after a reboot needs (the values of secret environment variables) is kept under the root, sealed; whoever
copies or backs up the root gets nothing. The key is 32 random bytes in a file of mode 0600: ``/etc/bayplan/host.key``
for root, ``$XDG_CONFIG_HOME/bayplan/host.key`` for others, or where ``BAYPLAN_HOST_KEY`` says. It is made at the
first need. Each value is bound to its container and name (associated data), so that a sealed value cannot be moved to
another place.

The cipher library is imported only when there is a secret: its import costs more than a container's start.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from bayplan.errors import BayplanError

_KEY_BYTES = 32
_NONCE_BYTES = 12


def key_path() -> Path:
    """Where the host's key lies for this user."""
    told = os.environ.get("BAYPLAN_HOST_KEY")
    if told:
        return Path(told)
    if os.geteuid() == 0:
        return Path("/etc/bayplan/host.key")
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "bayplan" / "host.key"


def _make(path: Path) -> None:
    """Write a new key so that it appears whole or not at all; the first of several writers wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, os.urandom(_KEY_BYTES))
        os.fsync(descriptor)
        os.link(draft, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        return
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)


def load_key(*, create: bool) -> bytes:
    """The host's key. Raises BayplanError ``host-key`` when it is missing, short, or readable by others."""
    path = key_path()
    for attempt in (0, 1):
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise BayplanError(
                        "host-key",
                        f"{path} can be read by others",
                        hint=f"chmod 600 {path}, and think of its secrets as known",
                    )
                key = file.read(_KEY_BYTES + 1)
        except FileNotFoundError:
            if not create or attempt:
                raise BayplanError(
                    "host-key",
                    f"{path}, the key of this host's kept secrets, is missing",
                    hint="apply the stack again, so that its secrets are handed over once more",
                ) from None
            _make(path)
            continue
        if len(key) != _KEY_BYTES:
            raise BayplanError("host-key", f"{path} is no key of {_KEY_BYTES} bytes")
        return key
    raise AssertionError("unreachable")


def seal(value: str, bound_to: str) -> str:
    """``value`` encrypted for this host, as base64 text. ``bound_to`` must be given again to open it."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(load_key(create=True)).encrypt(nonce, value.encode(), bound_to.encode())
    return base64.b64encode(nonce + sealed).decode("ascii")


def unseal(text: str, bound_to: str) -> str:
    """What :func:`seal` was given. Raises BayplanError ``host-key`` when it was sealed under another key or place."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    raw = base64.b64decode(text)
    try:
        plain = AESGCM(load_key(create=False)).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound_to.encode())
    except InvalidTag:
        raise BayplanError(
            "host-key",
            f"a kept secret cannot be opened with {key_path()}: it was sealed under another key",
            hint="apply the stack again, so that its secrets are handed over once more",
        ) from None
    return plain.decode()
