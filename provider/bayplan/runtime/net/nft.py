"""nftables by libnftables in this process (0.1 ms a command), or by the ``nft`` program where the library is missing.

Text commands in, one transaction each: the kernel takes all of a :func:`run` or nothing of it. Lists come back as JSON
(libnftables-json(5)). A context is made per call: it holds a socket of the calling thread's network namespace, and the
library does not promise to be safe for threads.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
from typing import Any

from bayplan.errors import BayplanError

_JSON_FLAG = 1 << 4  # NFT_CTX_OUTPUT_JSON
_TIMEOUT = 30  # seconds, for the program
_SELECT_LIMIT = 1000  # a little below FD_SETSIZE


class NftError(BayplanError):
    """nftables refused a command; nothing of it was done."""

    def __init__(self, text: str) -> None:
        first = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
        super().__init__(
            "nft-failed", f"nftables refused a change: {first}", hint="`nft list ruleset` shows what is there"
        )
        self.text = text

    @property
    def missing(self) -> bool:
        """Was something named that is not there?"""
        return "No such file or directory" in self.text or "does not exist" in self.text


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        return None
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.nft_ctx_new.argtypes, library.nft_ctx_new.restype = [ctypes.c_uint32], pointer
    library.nft_ctx_free.argtypes, library.nft_ctx_free.restype = [pointer], None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [pointer]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes, getattr(library, name).restype = [pointer], text
    library.nft_ctx_output_set_flags.argtypes, library.nft_ctx_output_set_flags.restype = [pointer, ctypes.c_uint], None
    library.nft_run_cmd_from_buffer.argtypes = [pointer, text]
    return library


def run(commands: str) -> None:
    """Do ``commands`` (nft(8) syntax, one a line) in one transaction. Raises :class:`NftError`."""
    _execute(commands, as_json=False)


def query(command: str) -> list[dict[str, Any]]:
    """The answer to a ``list`` command: libnftables' objects, without the metainfo."""
    answer = _execute(command, as_json=True)
    objects = json.loads(answer)["nftables"] if answer.strip() else []
    return [entry for entry in objects if "metainfo" not in entry]


def _execute(commands: str, *, as_json: bool) -> str:
    library = _library()
    if library is None or _crowded():
        return _program(commands, as_json=as_json)
    context = library.nft_ctx_new(0)
    if not context:
        raise BayplanError("nft-failed", "libnftables gave no context", hint="it needs CAP_NET_ADMIN")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        if as_json:
            library.nft_ctx_output_set_flags(context, _JSON_FLAG)
        code = library.nft_run_cmd_from_buffer(context, commands.encode())
        if code != 0:
            raise NftError((library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace"))
        return (library.nft_ctx_get_output_buffer(context) or b"").decode()
    finally:
        library.nft_ctx_free(context)


def _crowded() -> bool:
    """Whether this process has so many files open that the library, which waits by select(2), would abort it."""
    probe = os.dup(2)
    os.close(probe)
    return probe >= _SELECT_LIMIT


def _program(commands: str, *, as_json: bool) -> str:
    import subprocess

    argv = ["nft", *(["-j"] if as_json else []), "-f", "-"]
    try:
        done = subprocess.run(argv, input=commands, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except FileNotFoundError:
        raise BayplanError(
            "nft-failed",
            "neither libnftables.so.1 nor the program nft is here",
            hint="apt-get install libnftables1 nftables",
        ) from None
    except subprocess.TimeoutExpired:
        raise BayplanError("nft-failed", f"nft did not end within {_TIMEOUT} s") from None
    if done.returncode != 0:
        raise NftError(done.stderr)
    return done.stdout


def available() -> bool:
    """Can nftables be spoken to here at all?"""
    import shutil

    return _library() is not None or shutil.which("nft") is not None
