"""Layers: written (:mod:`.layerwriter`), packed from folders (:mod:`.pack`), unpacked beneath one (:mod:`.unpack`).

Whiteouts are files ``.wh.NAME`` in an archive and character devices 0:0 on disk; an opaque folder holds ``.wh..wh..opq``
and carries ``trusted.overlay.opaque=y`` (OCI image specification 1.1, *Image Layer Filesystem Changeset*; the kernel's
``overlayfs.rst``).
"""

from __future__ import annotations

from bayplan.oci.layerwriter import OPAQUE, WHITEOUT, LayerWriter, copy_layer
from bayplan.oci.pack import pack_tree, pack_upper
from bayplan.oci.unpack import unpack

__all__ = ["OPAQUE", "WHITEOUT", "LayerWriter", "copy_layer", "pack_tree", "pack_upper", "unpack"]
