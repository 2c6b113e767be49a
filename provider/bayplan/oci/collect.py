"""Garbage collection: online, exact, safe to kill.

**Exact.** What cannot be reached from the digests that the referrers give goes at once; there is no grace by the clock.

**Online.** Processes write, push and pull meanwhile. A collection fixes a boundary (:meth:`.lease.Leases.boundary`) *before*
it asks the referrers: a lease that ended earlier has its references standing and they are seen; everything written or
touched under a lease that was alive, or began later, bears a tick at or above the boundary and stays. Each removal checks
its blob's tick under the lock that touching takes, for that one blob.

**Documents go first, parents before children.** Whoever touches a manifest wants its layers too, so a manifest that was
touched keeps all that it refers to. Once a manifest is gone nobody can touch it any more, and then its layers may go. The
same order makes a kill harmless: a manifest that is there has its layers.

**Removal is a rename** into a trash folder, and the deletion, which may be slow, comes after everything is decided.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.lease import protected
from bayplan.oci.store import MANIFEST_LIMIT, Collected, Referrer, Store, Usage, sync_folder, tree_size
from bayplan.oci.unpacked import Unpacked


class Reached:
    """What can be reached so far: ``blobs``, and ``diffs``, the names of unpacked layers (diff IDs in hex)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: set[Digest] = set()
        self.blobs: set[Digest] = set()
        self.diffs: set[str] = set()

    def add(self, roots: Iterable[Digest]) -> None:
        """Everything that ``roots`` lead to. Content that lacks is reached all the same."""
        stack = [(Digest.parse(one), True) for one in roots]
        while stack:
            digest, document = stack.pop()
            self.blobs.add(digest)
            if document and digest not in self._read:
                self._read.add(digest)
                read = read_document(self._store, digest)
                if read is not None:
                    stack.extend(links(read))
                    self.diffs.update(_diffs(read))


def read_document(store: Store, digest: Digest) -> Mapping[str, Any] | None:
    """The JSON object that a blob is, or None: a layer, broken, or not there."""
    try:
        with store.open(digest) as file:
            if file.read(1) != b"{":
                return None
            data = b"{" + file.read(MANIFEST_LIMIT)
    except BayplanError as error:
        if error.code != "no-blob":
            raise  # what cannot be read now may lead to what must stay
        return None
    try:
        loaded = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) else None


def links(document: Mapping[str, Any]) -> Iterator[tuple[Digest, bool]]:
    """What a manifest or index refers to, and whether that is a document itself."""
    found: list[tuple[object, bool]] = [(document.get("config"), True), (document.get("subject"), True)]
    for name, documents in (("manifests", True), ("layers", False), ("blobs", False)):
        many = document.get(name)
        if isinstance(many, list):
            found.extend((one, documents) for one in many)
    for one, is_document in found:
        if isinstance(one, dict) and isinstance(one.get("digest"), str):
            with contextlib.suppress(BayplanError):  # what is no digest names nothing here
                yield Digest.parse(one["digest"]), is_document


def _diffs(document: Mapping[str, Any]) -> Iterator[str]:
    """The diff IDs of an image configuration, as hex: the names of its unpacked layers."""
    rootfs = document.get("rootfs")
    if isinstance(rootfs, dict) and isinstance(rootfs.get("diff_ids"), list):
        for one in rootfs["diff_ids"]:
            if isinstance(one, str):
                yield one.partition(":")[2]


def collect(store: Store, referrers: Sequence[Referrer]) -> Collected:
    """Remove what nothing refers to. ``referrers`` must be all that there are for this root."""
    store.ensure()
    boundary = store.leases.boundary()
    reached = Reached(store)
    for referrer in referrers:
        reached.add(referrer())
    blobs = size = 0
    documents, others = _candidates(store, reached)
    for group in (documents, others):
        for digest, length in group:
            if digest in reached.blobs:
                continue  # something above it was touched meanwhile
            gone = _discard(store, store.path(digest), boundary)
            if gone is None:
                reached.add([digest])
            elif gone:
                blobs += 1
                size += length
        if blobs:
            sync_folder(store.trash)  # documents are gone for good before what they refer to
    layers = 0
    for entry in list(os.scandir(store.layers)):
        if entry.name not in reached.diffs and _discard(store, Path(entry.path), boundary):
            layers += 1
    sweep(store)
    freed = empty_trash(store)
    Unpacked(store).settle()
    return Collected(blobs, size, layers, freed)


def _candidates(store: Store, reached: Reached) -> tuple[list[tuple[Digest, int]], list[tuple[Digest, int]]]:
    """Unreached documents, parents before children, and other unreached blobs; each with its size."""
    children: dict[Digest, list[Digest]] = {}
    sizes: dict[Digest, int] = {}
    others: list[tuple[Digest, int]] = []
    for digest, info in store.blobs():
        if digest in reached.blobs:
            continue
        document = read_document(store, digest) if info.st_size <= MANIFEST_LIMIT else None
        if document is None:
            others.append((digest, info.st_size))
        else:
            sizes[digest] = info.st_size
            children[digest] = [one for one, _ in links(document)]
    # Depth first, children before parents, then the other way round; digests cannot form circles.
    order: list[Digest] = []
    done: set[Digest] = set()
    for root in children:
        stack = [(root, False)]
        while stack:
            digest, left = stack.pop()
            if left:
                order.append(digest)
            elif digest not in done:
                done.add(digest)
                stack.append((digest, True))
                stack.extend((one, False) for one in children[digest] if one in children)
    return [(digest, sizes[digest]) for digest in reversed(order)], others


def _discard(store: Store, path: Path, boundary: int) -> bool | None:
    """Out of sight in one step: True. None where it was touched since ``boundary``, False where it had gone already."""
    with store.leases.removing():
        try:
            if protected(path.stat(), boundary):
                return None
            path.rename(store.trash / f"{path.name}.{os.urandom(4).hex()}")
        except FileNotFoundError:
            return False
    return True


def empty_trash(store: Store) -> int:
    """Delete what was removed, also by collections that were killed; bytes on disk of the unpacked layers among it."""
    size = 0
    for entry in list(os.scandir(store.trash)):
        if entry.is_dir(follow_symlinks=False):
            size += tree_size(Path(entry.path))
            shutil.rmtree(entry.path, ignore_errors=True)  # another collection may be deleting it too
        else:
            Path(entry.path).unlink(missing_ok=True)
    return size


def sweep(store: Store) -> None:
    """Drafts whose makers are dead: each holds its draft locked as long as it lives."""
    for folder in (store.incoming, store.unpacking):
        if not folder.is_dir():
            continue
        for entry in list(os.scandir(folder)):
            try:
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if entry.is_dir(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        Path(entry.path).rename(store.trash / f"{entry.name}.{os.urandom(4).hex()}")
                else:
                    # Unlinked while locked: a maker that was about to lock it sees that, and makes another.
                    Path(entry.path).unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)


def usage(store: Store, referrers: Sequence[Referrer]) -> Usage:
    """What lies here and how much of it nothing refers to; no effect."""
    reached = Reached(store)
    for referrer in referrers:
        reached.add(referrer())
    count = size = disk = free = free_size = 0
    for digest, info in store.blobs():
        count += 1
        size += info.st_size
        disk += info.st_blocks * 512
        if digest not in reached.blobs:
            free += 1
            free_size += info.st_size
    layers = layer_size = free_layers = free_layer_size = 0
    if store.layers.is_dir():
        for entry in os.scandir(store.layers):
            here = tree_size(Path(entry.path))
            layers += 1
            layer_size += here
            if entry.name not in reached.diffs:
                free_layers += 1
                free_layer_size += here
    other = max(0, tree_size(store.folder) - disk - layer_size)
    return Usage(count, size, free, free_size, layers, layer_size, free_layers, free_layer_size, other)
