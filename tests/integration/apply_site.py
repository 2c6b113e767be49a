"""One stack as its user meets it: a file, a root, a state folder, and the command line.

:meth:`Site.run` gives a command in this process (a tenth of the time), :meth:`Site.process` in one of its own, which can
be killed. Both see the same root; every root has a key, a cache and a state of its own, so that sites stand side by side.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from runtime_world import World, eventually, leftovers

from bayplan.cli.main import main
from bayplan.oci.digest import Digest
from bayplan.oci.names import Names
from bayplan.targets.embedded.garbage import referrers

PROVIDER = Path(__file__).parents[2] / "provider"
BOX = "box:1"
#: Folders below a root in which only work in progress lies.
SCRATCH = (
    "build/tmp",
    "containers/.creating",
    "containers/.trash",
    "containers/.attaching",
    "oci/incoming",
    "oci/unpacking",
    "oci/trash",
    "oci/leases",
)


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class Site:
    """``world`` is the root; several sites may share it."""

    folder: Path
    world: World
    name: str = "shop"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "bayplan.yaml"
        self.state = self.folder / "state"
        self.environment.setdefault("XDG_CACHE_HOME", str(self.folder / "cache"))
        self.environment.setdefault("BAYPLAN_HOST_KEY", str(self.world.folder / "host.key"))

    # -- the definition --------------------------------------------------------------------------------------------

    def write(self, resources: Mapping[str, Any], **more: Any) -> None:
        """Write the stack file anew."""
        self.file.write_text(
            yaml.safe_dump({"stack": self.name, **more, "resources": dict(resources)}, sort_keys=False)
        )

    # -- commands --------------------------------------------------------------------------------------------------

    def argv(self, *words: str) -> list[str]:
        """A whole command line: the words, and where things lie."""
        places = ["--root", str(self.world.root.path)]
        if words[0] not in ("container", "image", "registry", "system", "volume", "network"):
            places += ["--state", str(self.state), "-f", str(self.file)]
        if words[0] in ("apply", "destroy") and "--yes" not in words and words[1:2] != ("PLAN",):
            places.append("--yes")
        verbs = 2 if words[0] in ("state", "container", "image") else 1
        return [*words[:verbs], *places, *words[verbs:]]

    def run(self, *words: str, code: int | None = 0) -> Ran:
        """Give a command; ``code`` is the exit code that it must have (None: any)."""
        out, err = io.StringIO(), io.StringIO()
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                found = main(self.argv(*words))
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        gc.collect()  # a process of its own would have closed its files by now
        ran = Ran(found, out.getvalue(), err.getvalue())
        assert code is None or ran.code == code, f"{words}: {ran.code}, not {code}\n{ran.text}"
        return ran

    def process(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """The same in a process of its own, leader of a group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "bayplan.cli.main", *self.argv(*words)],
            env={**os.environ, **self.environment, "PYTHONPATH": str(PROVIDER)},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def operations(self, *words: str) -> list[str]:
        """The plan as ``address action cause`` lines."""
        found = self.run("plan", "--json", *words, code=None)
        if found.code not in (0, 1) or not found.out:
            raise AssertionError(found.text)
        document = found.document
        assert "operations" in document, found.text
        return [f"{one['address']} {one['action']} {one['cause']}" for one in document["operations"]]

    def apply(self, *words: str, code: int | None = 0) -> Ran:
        return self.run("apply", *words, code=code)

    def settle(self) -> None:
        """Apply, and see that nothing is left to do."""
        self.apply()
        self.nothing_to_do()

    def nothing_to_do(self) -> None:
        assert self.operations() == []
        assert self.run("drift", code=None).code == 0

    def destroy(self) -> None:
        self.run("destroy")
        assert self.rows() == {}

    def rows(self) -> dict[str, str]:
        """The recorded resources: address -> id."""
        return {one["address"]: one["id"] for one in self.run("state", "list", "--json").document["resources"]}

    # -- the world -------------------------------------------------------------------------------------------------

    def container(self, name: str) -> Any:
        """A container of the root as the runtime sees it, by its name on the host."""
        return self.world.runtime.inspect(name)

    def names(self) -> list[str]:
        """The names of all containers of this stack."""
        return sorted(one.name for one in self.world.runtime.list({"bayplan.dev/stack": self.name}))

    def inside(self, name: str, *argv: str) -> str:
        code, text = self.world.inside(name, *argv)
        assert code == 0, text
        return text.strip()


@contextlib.contextmanager
def root_with_box(folder: Path) -> Iterator[World]:
    """A root whose store holds ``box:1``, a small image with busybox; all of it goes afterwards."""
    world = World(folder)
    try:
        Names(world.root).set(BOX, Digest.parse(world.image), {})
        yield world
    finally:
        world.close()


def busybox_context(folder: Path, dockerfile: str, files: Mapping[str, str]) -> Path:
    """A build context with a busybox in it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "busybox").exists():
        shutil.copy2("/bin/busybox", folder / "busybox")
    (folder / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


SERVE = ["/bin/busybox", "sh", "-c", "mkdir -p /www; echo $WORD > /www/index.html; exec busybox httpd -f -p 80 -h /www"]


def server(port: int, word: str, **more: Any) -> dict[str, Any]:
    """A container that answers ``word`` on a port of this machine."""
    return {
        "image": BOX,
        "command": SERVE,
        "env": {"WORD": word},
        "ports": [f"127.0.0.1:{port}:80"],
        "stop_signal": "SIGKILL",
        **more,
    }


def sleeper(**more: Any) -> dict[str, Any]:
    """A container that does nothing for long."""
    return {"image": BOX, "command": ["sleep", "1000"], "stop_signal": "SIGKILL", "network_mode": "none", **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, timeout: float = 3.0) -> str:
    """What answers there now; ``""`` where nobody does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=timeout) as answer:
            return str(answer.read().decode().strip())
    except (urllib.error.URLError, OSError):
        return ""


def fingerprint(*folders: Path) -> dict[str, str]:
    """Every file below ``folders`` with the digest of its content, its mode and its times of change.

    Databases count by what they hold: SQLite's own log and index (and so their folder's time) come and go with readers.
    """
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.name.endswith(("-wal", "-shm")):
                continue
            about = path.lstat()
            plain = path.is_file() and not path.is_symlink() and about.st_dev == folder.lstat().st_dev
            if path.suffix == ".db" or any(path.glob("*.db")):
                held = ""
                if plain:
                    with contextlib.closing(sqlite3.connect(path)) as db:
                        held = hashlib.sha256("\n".join(db.iterdump()).encode()).hexdigest()[:16]
                found[str(path)] = f"{about.st_mode:o} {held}"
                continue
            text = path.read_bytes() if plain else b""  # a namespace is a file that cannot be read
            found[str(path)] = f"{about.st_mode:o} {about.st_mtime_ns} {hashlib.sha256(text).hexdigest()[:16]}"
    return found


def astray(world: World, scratch: Sequence[str] = SCRATCH) -> list[str]:
    """What of a root stands in the kernel, in /run, among the processes or in its own folders and belongs to no container
    that is there; and blobs to which nothing refers."""
    ids = [one.id for one in world.runtime.list()]
    names = [one.name for one in world.runtime.list()]
    found = []
    for line in leftovers(world.root):
        rest = line.partition(" ")[2]
        shared = rest.endswith("/live") or "aardvark-dns" in rest or line.startswith("table ip")
        if ids and shared:
            continue
        if line.startswith(".names/"):
            if line.removeprefix(".names/") not in names:
                found.append(line)
        elif line.startswith(("control group", "live:")):
            listed = re.findall(r"'([0-9a-f]{64})'", line)
            if not ids or any(one not in ids for one in listed):
                found.append(line)
        elif not any(one in line for one in ids):
            found.append(line)
    attached = sum(one.running and one.spec.network_mode == "bridge" for one in world.runtime.list())
    links = [name for name in os.listdir("/sys/class/net") if name.startswith(f"bp{world.root.hash}v")]
    if len(links) != sum(
        len(one.spec.networks) or 1 for one in world.runtime.list() if one.running and one.spec.network_mode == "bridge"
    ):
        found.append(f"links {links} for {attached} containers")
    bridges = [name for name in os.listdir("/sys/class/net") if name.startswith(f"bp{world.root.hash}b")]
    if bridges and not attached:
        found.append(f"bridges {bridges}")
    usage = world.store.usage(referrers(world.root))
    if usage.free_blobs or usage.free_layers:
        found.append(f"{usage.free_blobs} blobs and {usage.free_layers} layers to which nothing refers")
    for folder in scratch:
        where = world.root.path / folder
        found += [str(each) for each in where.iterdir()] if where.is_dir() else []
    return found


def kill_group(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """A signal to one process that we started, and its end."""
    process.send_signal(number)
    process.communicate(timeout=30)


def texts(found: Sequence[Any]) -> list[str]:
    return [str(one) for one in found]


__all__ = [
    "BOX",
    "SCRATCH",
    "Ran",
    "Site",
    "astray",
    "busybox_context",
    "eventually",
    "fingerprint",
    "free_port",
    "get",
    "kill_group",
    "root_with_box",
    "server",
    "sleeper",
]
