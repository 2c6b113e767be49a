"""A registry server for tests, as a process of its own or within this one, and images to move."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from bayplan.oci.descriptor import MediaType
from bayplan.oci.digest import Digest
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.exchange import Access
from bayplan.registry.server import Settings, serve

_PROGRAM = """
import sys
from bayplan.oci.root import Root
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.server import Settings, serve
settings = Settings(listen=sys.argv[2], anonymous=Anonymous.PUSH)
serve(Root.at(sys.argv[1]), settings=settings, ready=lambda host, port: print(port, flush=True))
"""


@contextlib.contextmanager
def serving(
    root: Root, settings: Settings | None = None, log: list[Access] | None = None, expected: Collection[str] = ()
) -> Iterator[str]:
    """``host:port`` of a registry served from a thread of this process, in which nothing fails but with ``expected`` codes."""
    stop, up = threading.Event(), threading.Event()
    where: list[str] = []
    failures: list[BaseException] = []

    def ready(host: str, port: int) -> None:
        where.append(f"{host}:{port}")
        up.set()

    def work() -> None:
        try:
            serve(
                root,
                settings=settings or Settings(listen="127.0.0.1:0", anonymous=Anonymous.PUSH),
                log=None if log is None else log.append,
                failed=lambda request, error: failures.append(error),
                ready=ready,
                stop=stop,
            )
        except BaseException as error:
            failures.append(error)
            up.set()
            raise

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert up.wait(20)
        assert where, failures
        yield where[0]
    finally:
        stop.set()
        thread.join(60)
    assert not [error for error in failures if getattr(error, "code", "") not in expected], failures


class ServerProcess:
    """A registry in a process of its own; ``port`` 0 takes a free one and keeps it for the next start."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = root
        self.port = port

    def start(self) -> str:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(self.root), f"127.0.0.1:{self.port}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.strip().isdecimal(), f"the server did not start: {line!r}, {self.process.poll()}"
        self.port = int(line)
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)
        self._close()

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(60)
        self._close()
        return code

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()


def image(store: Store, layers: list[bytes], *, tag: str = "") -> Digest:
    """An OCI image of the store whose layers are the given bytes (they need not be archives); its digest."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"tag": tag}},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(data)) for data in layers]},
    }
    text = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MediaType.MANIFEST,
        "config": {"mediaType": MediaType.CONFIG, "digest": str(store.put(text)), "size": len(text)},
        "layers": [
            {"mediaType": MediaType.LAYER, "digest": str(store.put(data)), "size": len(data)} for data in layers
        ],
    }
    return store.put(json.dumps(manifest).encode())


def index(store: Store, children: dict[str, Digest]) -> Digest:
    """An index of images by platform (``linux/arm64``)."""
    entries = []
    for platform, digest in children.items():
        system, architecture = platform.split("/")
        entries.append(
            {
                "mediaType": MediaType.MANIFEST,
                "digest": str(digest),
                "size": store.size(digest),
                "platform": {"os": system, "architecture": architecture},
            }
        )
    return store.put(json.dumps({"schemaVersion": 2, "mediaType": MediaType.INDEX, "manifests": entries}).encode())


def archive(files: dict[str, bytes]) -> bytes:
    """A layer: a tar of regular files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
