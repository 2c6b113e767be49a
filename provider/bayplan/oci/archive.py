"""Base images from root file systems: a folder or an archive becomes an image, without any registry.

The layer is written anew from the entries, each of which is checked, so that its digest is a function of the content and not
of the tool or the compression that packed it. What is promised:

* One archive gives one digest, whether it is plain or compressed, and by whatever tool.
* Two archives with the same entries in the same order give the same digest, in whatever dialect (ustar, GNU, pax): names,
  kinds, modes, numeric owners, whole seconds, links, contents and the extended attributes that belong in an image count.
* A folder gives a digest of its tree; an archive of that folder gives the same one if its entries are in the order of their
  names (``tar --sort=name --numeric-owner --xattrs``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError
from bayplan.oci import tar
from bayplan.oci.compression import Readable, decompressed
from bayplan.oci.descriptor import Platform
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image, ImageConfig, Layer, assemble
from bayplan.oci.layer import WHITEOUT, LayerWriter, pack_tree
from bayplan.oci.pack import kept_xattr
from bayplan.oci.store import Store

#: What a shell in a base image expects to find (as Debian's and Docker's own base images say).
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_HINT = "give a folder, or a tar archive of a root file system (plain, gzip, zstd, xz or bzip2)"


def load_rootfs(store: Store, source: Path, *, platform: Platform | None = None) -> Digest:
    """The image of a root file system: a folder, or an archive (tar, plain or gzip, zstd, xz, bzip2).

    Its configuration sets PATH and nothing else. Hold a lease from before the call until something refers to the image.
    Raises BayplanError ``no-rootfs``, ``bad-archive``, ``unreadable``, ``reserved-name``.
    """
    here = platform or Platform.here()
    with store.lease():
        try:
            if source.is_dir():
                layer = pack_tree(store, source)
            else:
                with source.open("rb") as stream:
                    layer = _repack(store, stream)
        except FileNotFoundError:
            raise BayplanError(
                "no-rootfs",
                f"there is no root file system at {source}",
                hint="make one, for example with mmdebstrap",
            ) from None
        except PermissionError as error:
            raise BayplanError("unreadable", f"{source} cannot be read: {error.strerror}", hint=_HINT) from error
        config = ImageConfig(architecture=here.architecture, os=here.os, variant=here.variant, env=(PATH,))
        return assemble(store, config, [layer])


def _repack(store: Store, stream: Readable) -> Layer:
    """The entries of an archive as a layer; what no base image can hold is refused here and not when it is unpacked."""
    seen: set[str] = set()
    source: Any = decompressed(stream)
    with LayerWriter(store) as writer:
        for entry, content in tar.entries(source, ended=True):
            entry.name = _sound(entry.name)
            if entry.type == tar.HARDLINK:
                entry.link = _sound(entry.link)
                if entry.link not in seen:
                    raise tar.bad_archive(
                        f"{entry.name[:200]} is a hard link to {entry.link[:200]}, which does not come before it", _HINT
                    )
            elif entry.type == tar.CHARACTER and not entry.major and not entry.minor:
                raise tar.bad_archive(f"{entry.name[:200]} is a device 0:0, which means that something is gone", _HINT)
            entry.xattrs = {key: value for key, value in entry.xattrs.items() if kept_xattr(key)}
            seen.add(entry.name)
            writer.add(entry, content)
        if not writer.entries:
            raise tar.bad_archive("it is empty", _HINT)
        while source.read(1 << 20):
            pass  # behind the end mark the compression's own checksum is still to come
        return writer.finish()


def _sound(name: str) -> str:
    """A name as layers have it: relative, no part of it empty or ``.``; the top is ``.``."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise tar.bad_archive(f"the name {name[:200]!r} leads outside", _HINT)
    if any(part.startswith(WHITEOUT) for part in parts):
        raise tar.bad_archive(f"the name {name[:200]!r} would mean that something is gone", _HINT)
    return "/".join(parts) or "."


def exists(store: Store, digest: Digest) -> bool:
    """Whether an image is whole in the store: manifest, configuration and every layer."""
    try:
        image = Image.load(store, digest)
    except BayplanError:
        return False
    return all(store.has(layer.descriptor.digest) for layer in image.layers)
