"""The mounts of a RUN, made ready as host paths: binds, caches, secrets.

A bind is a copy of what it selects (with the ignore file honoured and modes normalised), so that the command can neither
see more than a COPY would nor change the source; a part of a stage that stands whole in one layer is mounted read-only as it
lies. Caches live under ``root/build/mounts/<id>`` and are shared, private or locked as declared. A secret lies on tmpfs for
as long as its step runs, readable by the step's user alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from bayplan.build.dockerfile.mounts import MountSpec
from bayplan.build.port import StepMount
from bayplan.build.selection import Selection
from bayplan.build.trees import Kind, Node, Tree
from bayplan.errors import BayplanError, Where
from bayplan.oci.root import Root

_WAIT = 0.1  # seconds between looks at a cache that another step has locked


class CacheMounts:
    """The folders of ``type=cache`` mounts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def use(self, spec: MountSpec, initial: Path | None, cancelled: threading.Event) -> Iterator[Path]:
        """The cache's folder for one step, made with the declared owner and mode at first use.

        ``sharing=locked`` waits for the others, ``private`` takes another folder while this one is in use.
        """
        name = hashlib.sha256(spec.cache_id.encode()).hexdigest()[:24]
        number = 0
        while True:
            place = self.folder / (f"{name}.{number}" if number else name)
            place.mkdir(mode=0o711, parents=True, exist_ok=True)
            held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if spec.sharing == "shared":
                fcntl.flock(held, fcntl.LOCK_SH)
                break
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                os.close(held)
                if spec.sharing == "private":
                    number += 1
                    continue
                if cancelled.wait(_WAIT):
                    raise BayplanError("cancelled", "the build was cancelled") from None
        try:
            os.utime(place)
            data = place / "data"
            if not data.exists():
                self._make(place, data, spec, initial)
            yield data
        finally:
            os.close(held)

    @staticmethod
    def _make(place: Path, data: Path, spec: MountSpec, initial: Path | None) -> None:
        draft = place / f".{secrets.token_hex(6)}"
        draft.mkdir()
        if initial is not None:
            shutil.copytree(initial, draft, symlinks=True, dirs_exist_ok=True)
        os.chown(draft, spec.uid, spec.gid)
        draft.chmod(spec.mode if spec.mode is not None else 0o755)
        try:
            draft.rename(data)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if not data.is_dir():
                raise

    def prune(self, keep_seconds: float) -> int:
        """Remove caches that no step uses and none has used for ``keep_seconds``. Returns how many went."""
        gone = 0
        if not self.folder.is_dir():
            return gone
        for entry in list(os.scandir(self.folder)):
            if time.time() - entry.stat().st_mtime <= keep_seconds:
                continue
            held = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
                gone += 1
            except BlockingIOError:
                continue
            finally:
                os.close(held)
        return gone


def materialise(tree: Tree, selection: Selection, folder: Path) -> Path:
    """Copy what a bind mount selects below ``folder``; returns the path to mount (a folder or one file)."""
    picked = selection.picked[0] if selection.picked else None
    if picked is None:
        return folder
    top = folder / "mount"
    for below, path, node in picked.entries:
        _copy(tree, path, node, top / below if below else top)
    return top


def _copy(tree: Tree, path: str, node: Node, target: Path) -> None:
    if node.kind is Kind.DIRECTORY:
        target.mkdir(exist_ok=True)
        target.chmod(node.mode)
    elif node.kind is Kind.LINK:
        target.symlink_to(node.link)
    elif node.kind is Kind.FILE:
        with tree.open(path) as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        target.chmod(node.mode)
    else:
        return
    os.chown(target, node.uid, node.gid, follow_symlinks=False)
    os.utime(target, (node.mtime, node.mtime), follow_symlinks=False)


class Secrets:
    """Hands secrets to steps: files on tmpfs, gone when the step is."""

    def __init__(self, root: Root, given: Mapping[str, Path | bytes]) -> None:
        self._root = root
        self._given = given

    def value(self, spec: MountSpec, where: Where) -> bytes | None:
        """The secret's bytes; None where it is not given and not required. Raises BayplanError ``secret-missing``."""
        given = self._given.get(spec.cache_id)
        if isinstance(given, Path):
            try:
                return given.read_bytes()
            except OSError as error:
                message = f"the secret {spec.cache_id!r} cannot be read: {error.strerror}"
                raise BayplanError("secret-missing", message, where=where) from None
        if given is None and spec.required:
            hint = f"give the build a secret named {spec.cache_id}"
            raise BayplanError("secret-missing", f"the secret {spec.cache_id!r} is not given", where=where, hint=hint)
        return given

    def mount(self, spec: MountSpec, value: bytes, stack: ExitStack) -> StepMount:
        """The secret as a file mount; it is removed with ``stack``."""
        folder = self._root.run_dir / f"secret-{os.getpid()}-{secrets.token_hex(8)}"
        while not folder.exists():
            self._root.ensure()
            with contextlib.suppress(FileNotFoundError):  # somebody cleared the unused run folder in this instant
                folder.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        path = folder / "value"
        mode = spec.mode if spec.mode is not None else stat.S_IRUSR
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(value)
            os.fchown(file.fileno(), spec.uid, spec.gid)
            os.fchmod(file.fileno(), mode)
        return StepMount("secret", spec.target, path, read_only=True)
