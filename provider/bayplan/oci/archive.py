"""Images from root file systems: a folder or an archive becomes a base image, without any registry.

The layer is written anew from the archive's entries (and so checked entry by entry), which makes its digest a function of
the content and not of the tool that packed it.
"""

from __future__ import annotations

from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.oci import tar
from bayplan.oci.compression import decompressed
from bayplan.oci.descriptor import Platform
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image, ImageConfig, Layer, assemble
from bayplan.oci.layer import LayerWriter, pack_tree
from bayplan.oci.store import Store

#: What a shell in a base image expects to find (as Debian's and Docker's own base images say).
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def load_rootfs(store: Store, source: Path, *, platform: Platform | None = None) -> Digest:
    """The image of a root file system: a folder, or an archive (tar, plain or gzip, zstd, xz, bzip2).

    Its configuration sets PATH and nothing else. Raises BayplanError ``no-rootfs``, ``bad-archive``.
    """
    here = platform or Platform.here()
    with store.lease():
        if source.is_dir():
            layer = pack_tree(store, source)
        else:
            try:
                with source.open("rb") as stream:
                    layer = _repack(store, stream)
            except FileNotFoundError:
                raise BayplanError(
                    "no-rootfs",
                    f"there is no root file system at {source}",
                    hint="make one, for example with mmdebstrap",
                ) from None
        config = ImageConfig(architecture=here.architecture, os=here.os, variant=here.variant, env=(PATH,))
        return assemble(store, config, [layer])


def _repack(store: Store, stream: object) -> Layer:
    from typing import BinaryIO, cast

    with LayerWriter(store) as writer:
        for entry, content in tar.entries(decompressed(cast(BinaryIO, stream))):
            entry.name = entry.name.strip("/").removeprefix("./").rstrip("/")
            if ".." in entry.name.split("/"):
                raise tar.bad_archive(f"the name {entry.name[:200]!r} leads outside")
            if entry.name in ("", "."):
                entry.name = "."
            if entry.type == tar.HARDLINK:
                entry.link = entry.link.removeprefix("./").lstrip("/")
            writer.add(entry, cast(BinaryIO, content))
        if not writer.entries:
            raise tar.bad_archive("it is empty")
        return writer.finish()


def exists(store: Store, digest: Digest) -> bool:
    """Whether an image is whole in the store: manifest, configuration and every layer."""
    try:
        image = Image.load(store, digest)
    except BayplanError:
        return False
    return all(store.has(layer.descriptor.digest) for layer in image.layers)
