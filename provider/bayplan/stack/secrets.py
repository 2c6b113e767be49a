"""Secrets: where they come from, and their values at the moment of use, in memory only.

A file names a secret's source (an environment variable, a file, a command); nothing is fetched until the value is needed,
and then once. No value appears in a repr, an error or anywhere else on this side; a command's output is not shown even
where it fails, because it may hold one. Sensitive variables are secrets too, under the name ``var.NAME``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from bayplan.errors import BayplanError, nearest
from bayplan.records import dataclass, field

#: Seconds that a command has to print its secret.
COMMAND_TIMEOUT = 30.0
#: Bytes of one secret.
MAX_SECRET = 1 << 20


@dataclass(frozen=True, slots=True)
class SecretOrigin:
    """Where one secret comes from: exactly one of ``env``, ``file`` (absolute) and ``command`` (run in ``folder``)."""

    env: str = ""
    file: Path | None = None
    command: tuple[str, ...] = ()
    folder: Path = Path("/")


@dataclass(slots=True)
class Secrets:
    """Secrets by name. ``given`` are values that are known already (sensitive variables), by their full names."""

    origins: Mapping[str, SecretOrigin] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    given: Mapping[str, str] = field(default_factory=dict, repr=False)
    _fetched: dict[str, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def names(self) -> Collection[str]:
        return [*self.origins, *self.given]

    def value(self, name: str) -> str:
        """The value of a secret, fetched on its first use; one newline at the end of a file or an output is not part of it.

        Raises BayplanError ``unknown-secret`` or ``secret-unavailable``.
        """
        if name in self.given:
            return self.given[name]
        if name not in self.origins:
            near = nearest(name, list(self.names))
            hint = f"did you mean {near}?" if near else "declare it under `secrets`"
            raise BayplanError("unknown-secret", f"there is no secret named {name}", hint=hint)
        with self._lock:
            if name not in self._fetched:
                value = _fetch(name, self.origins[name], self.environ)
                if not value:
                    raise _unavailable(name, "is empty", "give it a value; an empty secret is nearly always a mistake")
                self._fetched[name] = value
            return self._fetched[name]


def _unavailable(name: str, what: str, hint: str) -> BayplanError:
    return BayplanError("secret-unavailable", f"the secret {name} {what}", hint=hint)


def _fetch(name: str, origin: SecretOrigin, environ: Mapping[str, str]) -> str:
    if origin.env:
        if origin.env not in environ:
            what = f"comes from the environment variable {origin.env}, which is not set"
            raise _unavailable(name, what, f"export {origin.env} before the command")
        return environ[origin.env]
    if origin.file is not None:
        return _text(name, _read(name, origin.file))
    return _text(name, _run(name, origin, environ))


def _read(name: str, file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_SECRET + 1)
    except OSError as error:
        what = f"comes from the file {file}, which cannot be read: {os.strerror(error.errno or 0)}"
        raise _unavailable(name, what, "look at its path and its mode") from None


def _run(name: str, origin: SecretOrigin, environ: Mapping[str, str]) -> bytes:
    import subprocess

    program = origin.command[0]
    try:
        done = subprocess.run(
            origin.command,
            cwd=origin.folder,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        what = f"comes from the command {program}, which did not end within {COMMAND_TIMEOUT:g} seconds"
        raise _unavailable(name, what, "run it by hand; it must not ask for anything") from None
    except OSError as error:
        what = f"comes from the command {program}, which cannot be started: {os.strerror(error.errno or 0)}"
        raise _unavailable(name, what, "name a program that is on PATH, or its full path") from None
    if done.returncode != 0:
        what = f"comes from the command {program}, which failed (exit code {done.returncode})"
        raise _unavailable(name, what, "run it by hand; its output is not shown here, since it may hold the secret")
    return done.stdout


def _text(name: str, data: bytes) -> str:
    if len(data) > MAX_SECRET:
        raise _unavailable(name, f"has more than {MAX_SECRET} bytes", "keep large files in a volume or an image")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _unavailable(name, "is not text in UTF-8", "encode it, for example as base64") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if "\0" in text:
        raise _unavailable(name, "holds a zero byte", "encode it, for example as base64")
    return text
