"""A root with a real image, for tests of the runtime; and the question what a root has left behind on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayplan.oci.image import ImageConfig, assemble
from bayplan.oci.layer import pack_tree
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.runtime.containers import Runtime
from bayplan.runtime.spec import ContainerSpec

APPLETS = "sh sleep echo cat id env ls wc true false head dd kill wget httpd grep mount touch stat test mkdir ip nslookup yes rm"


def busybox_tree(folder: Path) -> Path:
    """The files of a small image: busybox, two users, a folder with content."""
    for name in ("bin", "etc", "tmp", "srv/data", "home/app"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copy2("/bin/busybox", folder / "bin/busybox")
    for applet in APPLETS.split():
        (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\napp:x:1001:\naudio:x:63:app\n")
    (folder / "srv/data/seed").write_text("from the image\n")
    os.chown(folder / "srv/data/seed", 1000, 1001)
    os.chown(folder / "srv/data", 1000, 1001)
    (folder / "srv/data").chmod(0o750)
    return folder


class World:
    """One root of its own with its runtime."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Tests must not make the machine's own key.
        os.environ["BAYPLAN_HOST_KEY"] = str(folder / "host.key")
        self.root = Root.at(folder / "root").ensure()
        self.runtime = Runtime(self.root)
        self.store = Store(self.root)
        layer = pack_tree(self.store, busybox_tree(folder / "tree"))
        self._layers = [layer]
        self.image = self.make_image()

    def make_image(self, **config: Any) -> str:
        values: dict[str, Any] = {"cmd": ("sh",), "env": ("PATH=/bin", "FROM_IMAGE=yes"), **config}
        return str(assemble(self.store, ImageConfig(**values), self._layers))

    def spec(self, name: str, *command: str, **more: Any) -> ContainerSpec:
        """A container without network that ends at once when it is told to."""
        values: dict[str, Any] = {"network_mode": "none", "stop_signal": "SIGKILL", "image": self.image, **more}
        return ContainerSpec(name=name, command=command or ("sleep", "1000"), **values)

    def create(self, name: str, *command: str, **more: Any) -> str:
        return self.runtime.create(self.spec(name, *command, **more))

    def run(self, name: str, *command: str, **more: Any) -> str:
        """Create and start."""
        id = self.create(name, *command, **more)
        self.runtime.start(id)
        return id

    def output(self, reference: str) -> str:
        """The log as text, both streams."""
        return b"".join(line.text for line in self.runtime.logs(reference)).decode()

    def inside(self, reference: str, *argv: str, **more: Any) -> tuple[int, str]:
        """Run a command in a container: (exit code, its output)."""
        read, write = os.pipe()
        with os.fdopen(read, "rb") as out:
            try:
                code = self.runtime.exec(reference, argv, stdin=subprocess.DEVNULL, stdout=write, stderr=write, **more)
            finally:
                os.close(write)
            return code, out.read().decode()

    def ran(self, name: str, *command: str, **more: Any) -> str:
        """Run a command as a container of its own to its end; its output."""
        id = self.run(name, *command, **more)
        self.runtime.wait(id, timeout=20)
        return self.output(id)

    def left(self, *, of_containers: bool = True) -> list[str]:
        """Everything of this root in the kernel, in /run and among the processes."""
        return leftovers(self.root, of_containers=of_containers)

    def close(self) -> None:
        """Remove everything, and see that it is gone."""
        for container in self.runtime.list():
            self.runtime.remove(container.id, force=True)
        self.runtime.recover()
        self.runtime.networks.teardown_if_unused()
        eventually(lambda: not self.left(), f"something was left behind: {self.left()}")
        shutil.rmtree(self.root.run_dir, ignore_errors=True)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    made = World(folder)
    try:
        yield made
    finally:
        made.close()


def leftovers(root: Root, *, of_containers: bool = True) -> list[str]:
    found = []
    marks = (f"bayplan-{root.hash}", str(root.run_dir), str(root.path))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if any(mark in line for mark in marks):
            found.append(f"mount {line.split()[4]}")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                argv = (entry / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
            except OSError:
                continue
            if argv and any(mark in argv for mark in marks[1:]):
                found.append(f"process {entry.name}: {argv[:200]}")
    for tree in ("", "unified", "cpu", "memory", "pids", "devices", "freezer", "systemd"):
        group = Path("/sys/fs/cgroup") / tree / f"bayplan-{root.hash}"
        if group.exists():
            found.append(f"control group {group}: {[each.name for each in group.iterdir() if each.is_dir()]}")
    if (root.run_dir / "live").exists():
        found.append(f"live: {sorted(each.name for each in (root.run_dir / 'live').iterdir())}")
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True, timeout=20).stdout
    found += [line for line in tables.splitlines() if root.hash in line]
    if of_containers:
        containers = root.path / "containers"
        if containers.exists():
            found += [f"container folder {each.name}" for each in containers.iterdir() if not each.name.startswith(".")]
            for hidden in (".names", ".trash"):
                if (containers / hidden).exists():
                    found += [f"{hidden}/{each.name}" for each in (containers / hidden).iterdir()]
    return found


def eventually(condition: Any, message: str, timeout: float = 10.0) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


def changed(spec: ContainerSpec, **changes: Any) -> ContainerSpec:
    return replace(spec, **changes)
