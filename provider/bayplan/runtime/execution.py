"""A further process inside a running container.

The OCI runtime is called directly, with the caller's own streams: no monitor, no copy of the output in between. What
the process runs with is taken from the bundle (environment, user, capabilities), overlaid with what the caller asks
for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bayplan.errors import BayplanError
from bayplan.runtime.bundle import User, process
from bayplan.runtime.kernel import Process
from bayplan.runtime.ociruntime import CLEAN_ENV, OciRuntime, runtime_message
from bayplan.runtime.record import Files, read_json
from bayplan.runtime.rootfs import find_user

_GRACE = 5.0  # seconds for the runtime to notice that the process it waits for was killed


def execute(
    files: Files,
    runtime: OciRuntime,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    user: str | None,
    working_dir: str | None,
    tty: bool,
    stdin: int | IO[bytes] | None,
    stdout: int | IO[bytes] | None,
    stderr: int | IO[bytes] | None,
    timeout: float | None,
) -> int:
    """Run ``argv`` to its end; its exit code (128 + n after signal n). See :meth:`.containers.Runtime.exec`."""
    if not argv:
        raise BayplanError("exec-failed", "there is no command to run")
    stem = f"exec-{os.urandom(8).hex()}"
    described, pidfile, log = (files.live / f"{stem}.{part}" for part in ("json", "pid", "log"))
    try:
        _write(described, _process(files, argv, env=env, user=user, working_dir=working_dir, tty=tty))
        command = [
            runtime.program, *runtime.options(log), "exec", "--process", str(described), "--pid-file", str(pidfile),
            *(["--tty"] if tty else []), files.id,
        ]  # fmt: skip
        running = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=CLEAN_ENV)
        try:
            code = running.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill(pidfile, running)
            raise BayplanError(
                "exec-timeout", f"the command {argv[0]} did not end within {timeout:g} seconds and was killed"
            ) from None
        except BaseException:
            _kill(pidfile, running)
            raise
        if code and not pidfile.exists() and log.exists() and log.stat().st_size:
            raise BayplanError(
                "exec-failed", f"{argv[0]} cannot be run: {runtime_message(log.read_text(errors='replace'))}"
            )
        return 128 - code if code < 0 else code
    except FileNotFoundError:
        raise BayplanError("not-running", f"the container {files.id[:12]} is not running") from None
    finally:
        for path in (described, pidfile, log):
            path.unlink(missing_ok=True)


def _process(
    files: Files,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    user: str | None,
    working_dir: str | None,
    tty: bool,
) -> dict[str, Any]:
    config = read_json(files.config)
    if config is None:
        raise BayplanError("not-running", f"the container {files.id[:12]} is not running")
    base = config["process"]
    who = User(base["user"]["uid"], base["user"]["gid"], tuple(base["user"].get("additionalGids", ())))
    if user is not None:
        who = find_user(files.rootfs, user)
    words = [word for word in base["env"] if word.partition("=")[0] not in env]
    words += [f"{name}={value}" for name, value in env.items()]
    if tty and not any(word.startswith("TERM=") for word in words):
        words.append("TERM=xterm")
    return process(argv, words, working_dir or base["cwd"], who, base["capabilities"]["bounding"], terminal=tty)


def _write(path: Path, data: Mapping[str, Any]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, json.dumps(data).encode())
    finally:
        os.close(descriptor)


def _kill(pidfile: Path, running: subprocess.Popen[bytes]) -> None:
    """Kill the process inside (its number is the host's) and let the runtime end by it; then the runtime itself."""
    try:
        inside = Process.of(int(pidfile.read_text()))
    except (FileNotFoundError, ValueError):
        inside = None
    if inside is not None:
        inside.send(signal.SIGKILL)
        try:
            running.wait(_GRACE)
        except subprocess.TimeoutExpired:
            running.kill()
    else:
        running.kill()
    running.wait()
