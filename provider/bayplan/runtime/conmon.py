"""conmon: the one small process beside each container.

It starts the OCI runtime, keeps the container's output and terminal, reaps it, writes down its exit code and then
*becomes* the exit hook. It outlives whoever started it. Protocol (conmon 2.1.6 ``src/conmon.c``, ``ctrl.c``,
``conn_sock.c``): ``_OCI_STARTPIPE`` holds it back until a byte comes, ``_OCI_SYNCPIPE`` brings one line of JSON,
``{"data": PID}`` or ``{"data": -1, "message": WHY}``; ``attach`` is a SOCK_SEQPACKET socket, whose packets begin with
the stream's number; ``ctl`` a FIFO that takes ``2 0 0`` (reopen the log) and ``1 H W`` (the terminal's size).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bayplan.errors import BayplanError
from bayplan.records import dataclass
from bayplan.runtime.kernel import Process
from bayplan.runtime.ociruntime import CLEAN_ENV, OciRuntime, require, runtime_message
from bayplan.runtime.record import Files

if TYPE_CHECKING:
    import socket

_LAUNCH_TIMEOUT = 60.0
#: Largest packet that conmon sends: a stream byte and its read buffer (STDIO_BUF_SIZE 8192).
PACKET = 16384
STDOUT, STDERR = 2, 3


@dataclass(frozen=True, slots=True)
class Launched:
    """A container that was created and waits for its start."""

    init: Process
    monitor: Process


def _clear(files: Files) -> None:
    for name in ("ctl", "winsz", "attach", "exit", "oom", "pidfile", "conmon.pid", "runtime.log"):
        (files.live / name).unlink(missing_ok=True)


def launch(
    files: Files,
    runtime: OciRuntime,
    name: str,
    hook: Sequence[str],
    *,
    terminal: bool,
    stdin: bool,
    at_work: Callable[[], None] | None = None,
) -> Launched:
    """Create the container of ``files.live`` (its ``config.json``) under a conmon of its own; ``at_work`` is called when it
    works on it.

    Raises BayplanError ``start-failed`` with the runtime's reason; nothing runs then, but the runtime may still know
    it.
    """
    _clear(files)
    with runtime.creating() as prefix:
        command = [*prefix, runtime.program, *runtime.options(files.live / "runtime.log")]
        argv = [
            require("conmon", "conmon"), "--api-version", "1", "--cid", files.id, "--cuuid", files.id, "--name", name,
            "--runtime", command[0],
            *(f"--runtime-arg={word}" for word in command[1:]),
            "--bundle", str(files.live), "--container-pidfile", str(files.live / "pidfile"),
            "--conmon-pidfile", str(files.live / "conmon.pid"), "--log-path", f"k8s-file:{files.log}",
            "--log-level", "error", "--no-sync-log", "--persist-dir", str(files.live), "--full-attach",
            *(["--terminal"] if terminal else []), *(["--stdin"] if stdin else []),
            "--exit-command", hook[0], *(f"--exit-command-arg={word}" for word in hook[1:]),
        ]  # fmt: skip
        answer = _spawn(argv, files, at_work)
    if not answer or answer.get("data", -1) <= 0:
        reason = runtime_message(str(answer.get("message", "")) if answer else "")
        log = files.live / "runtime.log"
        if reason in ("", "no reason was given") and log.exists():
            reason = runtime_message(log.read_text(errors="replace"))
        raise BayplanError("start-failed", f"the container {name} cannot be started: {reason}")
    init = Process.of(int(answer["data"]))
    monitor = Process.of(int((files.live / "conmon.pid").read_text()))
    if init is None or monitor is None:
        raise BayplanError("start-failed", f"the container {name} was killed while it was being created")
    return Launched(init, monitor)


def _spawn(argv: Sequence[str], files: Files, at_work: Callable[[], None] | None) -> dict[str, Any] | None:
    """Start conmon and read the one line that it answers; None when it said nothing."""
    sync_read, sync_write = os.pipe2(os.O_CLOEXEC)
    start_read, start_write = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            with (files.live / "conmon.err").open("wb") as errors:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(sync_write, start_read),
                    start_new_session=True,
                    cwd=files.live,
                    env={**CLEAN_ENV, "_OCI_SYNCPIPE": str(sync_write), "_OCI_STARTPIPE": str(start_read)},
                )
        finally:
            os.close(sync_write)
            os.close(start_read)
        os.write(start_write, b"0")
        if at_work is not None:
            at_work()
        text = _read_line(sync_read, time.monotonic() + _LAUNCH_TIMEOUT)
        try:
            process.wait(timeout=_LAUNCH_TIMEOUT)  # it forks; the one that we started ends at once
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    finally:
        os.close(sync_read)
        os.close(start_write)
    if not text.strip():
        said = (files.live / "conmon.err").read_text(errors="replace")
        return {"data": -1, "message": said} if said.strip() else None
    try:
        answer = json.loads(text)
    except ValueError:
        return {"data": -1, "message": text.decode("utf-8", "replace")}
    return answer if isinstance(answer, dict) else None


def _read_line(descriptor: int, deadline: float) -> bytes:
    text = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while b"\n" not in text:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise BayplanError("start-failed", f"conmon gave no answer for {_LAUNCH_TIMEOUT:g} seconds")
        chunk = os.read(descriptor, 65536)
        if not chunk:
            break
        text += chunk
    return text


def control(files: Files, kind: int, first: int, second: int) -> bool:
    """Write one command to the monitor's ``ctl``; False when no monitor listens."""
    try:
        descriptor = os.open(files.live / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return False
        raise
    try:
        os.write(descriptor, f"{kind} {first} {second}\n".encode())
    finally:
        os.close(descriptor)
    return True


def reopen_log(files: Files) -> bool:
    """Make the monitor write to a new file at the log's path (after the old one was renamed). No line is lost."""
    return control(files, 2, 0, 0)


def resize(files: Files, rows: int, columns: int) -> bool:
    """Tell the container's terminal its size."""
    return control(files, 1, rows, columns)


def attach(files: Files) -> socket.socket:
    """A connection to the container's streams. Raises BayplanError ``not-running``."""
    import socket

    folder = os.open(files.live, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        # Through a descriptor: the path of a socket may have 107 bytes only.
        connection.connect(f"/proc/self/fd/{folder}/attach")
    except OSError as error:
        connection.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise BayplanError("not-running", f"the container {files.id[:12]} has no streams to attach to") from None
        raise
    finally:
        os.close(folder)
    return connection


def exit_code(files: Files) -> int | None:
    """What the monitor wrote down; None when it has not, or was killed."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(files.exit_file.read_text().strip())
    return None
