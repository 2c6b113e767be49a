"""Manifests and what they lead to, in stores: written, touched before they are referred to, copied from one store to another."""

from __future__ import annotations

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.store import BlobWriter, Store
from bayplan.registry import contents
from bayplan.registry.contents import Contents
from bayplan.registry.faults import Fault, RegistryError

DEEPEST_INDEX = 8
_PIECE = 1 << 20


def keep(store: Store, content: bytes, claimed: Digest | None) -> Digest:
    """Write a manifest; its digest, which is ``claimed`` where that is given. Raises ``invalid-digest``."""
    with store.writer(claimed.algorithm if claimed else "sha256") as writer:
        writer.write(content)
        return commit(writer, claimed)


def sizes(store: Store, parsed: Contents, *, always: bool) -> dict[Digest, int]:
    """Touch a manifest's blobs so that no collection takes them before the row stands; their sizes."""
    sizes: dict[Digest, int] = {}
    for child in (*parsed.blobs, *parsed.manifests):
        if store.touch(child.digest) and always:
            sizes[child.digest] = store.size(child.digest)
    return sizes


def copy_tree(source: Store, target: Store, digest: Digest, depth: int = 0) -> None:
    """Have a manifest and all that it leads to in another store; both are under a lease. What ``source`` lacks is left out.

    Raises ``manifest-invalid`` where indexes are nested too deep.
    """
    if depth > DEEPEST_INDEX:
        raise RegistryError(Fault.MANIFEST_INVALID, f"indexes are nested more than {DEEPEST_INDEX} deep")
    source.touch(digest)
    content = source.read(digest, contents.MANIFEST_LIMIT)
    parsed = contents.read(content)
    for child in parsed.manifests:
        if source.has(child.digest):
            copy_tree(source, target, child.digest, depth + 1)
    for child in parsed.blobs:
        if not target.touch(child.digest) and source.touch(child.digest):
            with source.open(child.digest) as file, target.writer(child.digest.algorithm) as writer:
                while piece := file.read(_PIECE):
                    writer.write(piece)
                writer.commit(child.digest)
    with target.writer(digest.algorithm) as writer:
        writer.write(content)
        writer.commit(digest)


def commit(writer: BlobWriter, digest: Digest | None) -> Digest:
    """Commit a blob, with the store's refusal of wrong bytes in this core's words (``invalid-digest``)."""
    try:
        return writer.commit(digest)
    except BayplanError as error:
        if error.code != "digest-mismatch":
            raise
        raise RegistryError(Fault.DIGEST_INVALID, error.message) from None
