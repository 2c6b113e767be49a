"""Real engines for tests, each on roots of its own: a dockerd started by hand, podman and skopeo as commands.

Nothing here touches an engine that runs on the machine: sockets, data and pid files lie in a fresh folder under /tmp
(unix sockets have short names, pytest's folders long ones), and only processes that were started here are stopped, by
their ids.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DAEMON_SECONDS = 60.0
COMMAND_SECONDS = 120.0


def run(argv: list[str], *, check: bool = True, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command with its output as text; a failure shows what it said."""
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, env={**os.environ, **(env or {})}
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)} left with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


class Docker:
    """A docker client bound to one daemon."""

    def __init__(self, socket: Path, config: Path) -> None:
        self.socket = socket
        self.config = config

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(["docker", "--config", str(self.config), "-H", f"unix://{self.socket}", *arguments], check=check)


@contextlib.contextmanager
def dockerd(*, networks: bool = False) -> Iterator[Docker]:
    """A dockerd on its own root; it and its containerd are gone afterwards.

    With ``networks`` it makes its bridge and firewall (only in a network namespace of the test's own) and leaves both behind.
    """
    folder = Path(tempfile.mkdtemp(prefix="bp-dockerd-", dir="/tmp"))
    docker = Docker(folder / "docker.sock", folder / "config")
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                "dockerd",
                "-H", f"unix://{docker.socket}",
                "--data-root", str(folder / "data"),
                "--exec-root", str(folder / "exec"),
                "--pidfile", str(folder / "pid"),
                "--storage-driver=overlay2",
                *([] if networks else ["--bridge=none", "--iptables=false", "--ip6tables=false"]),
            ],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + DAEMON_SECONDS
        while docker("version", "--format", "{{.Server.Version}}", check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"dockerd did not start:\n{(folder / 'log').read_text()[-4000:]}")
            time.sleep(0.1)
        yield docker
    finally:
        _stop_dockerd(daemon, folder)


def _stop_dockerd(daemon: subprocess.Popen[bytes], folder: Path) -> None:
    containerd = _pid(folder / "exec/containerd/containerd.pid")
    daemon.terminate()
    try:
        daemon.wait(30)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait(10)
        if containerd and str(folder) in _cmdline(containerd):
            os.kill(containerd, signal.SIGKILL)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mounted = line.split()[1]
        if mounted.startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", mounted], timeout=30, check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def _pid(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Podman:
    """podman on storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        place = ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"), "--storage-driver", "vfs"]
        return run(["podman", *place, *arguments], check=check, env={"TMPDIR": str(self.folder)})


@contextlib.contextmanager
def podman() -> Iterator[Podman]:
    """A podman whose images are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bp-podman-", dir="/tmp"))
    try:
        yield Podman(folder)
    finally:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            mounted = line.split()[1]
            if mounted.startswith(f"{folder}/"):
                subprocess.run(["umount", "-l", mounted], timeout=30, check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
