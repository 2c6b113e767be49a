"""Docker, Podman and Buildah with storage of their own, beside whatever runs on the machine and out of its sight.

The run goes on in a network and mount namespace of its own (:func:`apart`), so that a dockerd which writes the rules of a
firewall, bridges and published ports writes them there, and so does bayplan. dockerd is started here, on a socket and data
of its own, and stopped by its process id; podman and buildah have no daemon. A peer that is not installed is an error:
figures without it would say nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Command, FailedError, output
from bench.site import Site

#: The image that every engine starts and builds on: busybox on nothing.
BASE = "bench-base"
_APPLETS = ("sh", "sleep", "echo", "cat", "ls", "mkdir", "cp", "rm", "sort", "wc", "true", "head")
_APART = "BAYPLAN_BENCH_APART"
_DAEMON_SECONDS = 60.0
_NEEDED = ("docker", "dockerd", "podman", "buildah", "ip", "unshare", "busybox")


def apart(arguments: Sequence[str]) -> None:
    """Go on in namespaces of our own; returns only there. Raises FailedError where a peer or the right to is missing."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        raise FailedError(f"not installed: {', '.join(missing)} (tools/system-packages bench installs them)")
    if os.geteuid() != 0:
        raise FailedError("containers are measured as root")
    if os.environ.get(_APART) == str(os.getppid()) or os.environ.get(_APART) == str(os.getpid()):
        output(["ip", "link", "set", "lo", "up"])
        return
    os.environ[_APART] = str(os.getpid())  # unshare keeps the process
    sys.stdout.flush()
    argv = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "bench", *arguments]
    os.execvp(argv[0], argv)


def rootfs(site: Site) -> Path:
    """The archive of the base image's root file system, made once a run."""
    archive = site.folder / "rootfs.tar"
    if archive.exists():
        return archive
    tree = site.folder / "rootfs"
    for name in ("bin", "etc", "tmp", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy2(shutil.which("busybox") or "/bin/busybox", tree / "bin/busybox")
    for applet in _APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    with tarfile.open(archive, "w") as packed:
        packed.add(tree, arcname=".")
    return archive


@dataclass(frozen=True, slots=True)
class Peer:
    """A command line that is ready to take a verb."""

    argv: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()

    def __call__(self, *more: str, **variables: str) -> Command:
        return Command([*self.argv, *more], {**dict(self.variables), **variables})

    def output(self, *more: str) -> str:
        return output([*self.argv, *more], variables=dict(self.variables))


@contextmanager
def docker(site: Site) -> Iterator[Peer]:
    """A docker client bound to a dockerd of its own, with the base image in it."""
    folder = site.folder / "docker"
    config = folder / "config"
    config.mkdir(parents=True)
    # A unix socket's name has to be short.
    socket = Path("/run") / f"{site.run.name}-{site.folder.name}.sock"
    # The distribution's client speaks BuildKit by itself; newer ones need a plugin for it.
    client = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    peer = Peer((client, "--config", str(config), "-H", f"unix://{socket}"))
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                "dockerd",
                *("-H", f"unix://{socket}"),
                *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                *("--pidfile", str(folder / "pid"), "--storage-driver", "overlay2"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _DAEMON_SECONDS
        while not _answers(peer):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise FailedError(f"dockerd did not start:\n{(folder / 'log').read_text()[-4000:]}")
            time.sleep(0.1)
        peer.output("import", str(rootfs(site)), BASE)
        yield peer
    finally:
        _stop(daemon, folder)
        socket.unlink(missing_ok=True)


def _answers(peer: Peer) -> bool:
    try:
        peer.output("version", "--format", "{{.Server.Version}}")
    except FailedError:
        return False
    return True


def _stop(daemon: subprocess.Popen[bytes], folder: Path) -> None:
    containerd = _number(folder / "exec/containerd/containerd.pid")
    daemon.terminate()
    try:
        daemon.wait(60)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait(10)
        if containerd and str(folder).encode() in Path(f"/proc/{containerd}/cmdline").read_bytes():
            os.kill(containerd, signal.SIGKILL)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _settings(site: Site) -> tuple[tuple[str, str], ...]:
    """Limits that podman and buildah give to containers: by default they ask for more than every machine lets them have."""
    file = site.folder / "containers.conf"
    file.write_text('[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n')
    return (("CONTAINERS_CONF", str(file)),)


def podman(site: Site) -> Peer:
    """podman on storage of its own, with the base image in it and the first OCI runtime that works here."""
    folder = site.folder / "podman"
    folder.mkdir()
    places = ["--root", str(folder / "root"), "--runroot", str(folder / "run"), "--tmpdir", str(folder / "tmp")]
    places += ["--network-config-dir", str(folder / "networks"), "--storage-driver", "overlay"]
    places += ["--cgroup-manager", "cgroupfs", "--events-backend", "file"]
    for runtime in ("crun", "runc"):
        peer = Peer(("podman", *places, "--runtime", runtime), _settings(site))
        peer.output("import", "-q", str(rootfs(site)), BASE)
        try:
            peer.output("run", "--rm", "--network", "none", BASE, "/bin/true")
        except FailedError as error:
            told = error
            continue
        return peer
    raise told


def buildah(site: Site) -> Peer:
    """buildah on storage of its own, with the base image in it and the first OCI runtime that works here."""
    folder = site.folder / "buildah"
    folder.mkdir()
    places = ("--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "overlay")
    tools = Peer(("buildah", *places), _settings(site))
    container = tools.output("from", "scratch").strip()
    tools.output("add", "-q", container, str(rootfs(site)), "/")
    tools.output("commit", "-q", container, BASE)
    container = tools.output("from", "--pull-never", BASE).strip()
    for runtime in ("crun", "runc"):
        try:
            tools.output("run", "--runtime", runtime, container, "/bin/true")
        except FailedError as error:
            told = error
            continue
        return Peer(tools.argv, (*tools.variables, ("BUILDAH_RUNTIME", runtime)))
    raise told


def bayplan(site: Site) -> Peer:
    """bayplan on a root of its own, with the base image in it."""
    command = site.bayplan("--root", str(site.folder / "root"))
    peer = Peer(tuple(command.argv), tuple(command.variables.items()))
    peer.output("image", "import", str(rootfs(site)), BASE)
    return peer


def versions(peers: Sequence[tuple[str, ...]]) -> str:
    """One line on who was measured against."""
    found = []
    for argv in peers:
        words = output(argv).split()
        found.append(
            f"{argv[0].rpartition('/')[2]} {next((word for word in words if word[0].isdigit()), '?').rstrip(',')}"
        )
    return "against " + ", ".join(found)


def ids(text: str) -> list[str]:
    """The ids in what a list command prints, one a line."""
    return text.split()
