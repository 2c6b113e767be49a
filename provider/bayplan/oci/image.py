"""Images: a manifest, its configuration and its layers, as one thing.

:mod:`.manifest` and :mod:`.config` know the documents; here they are read from the store and written to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayplan.errors import BayplanError
from bayplan.oci.config import HealthConfig, ImageConfig
from bayplan.oci.descriptor import Descriptor, MediaType, Platform, bad_manifest
from bayplan.oci.digest import Digest
from bayplan.oci.manifest import Manifest, canonical_json, check_parts, load_json, parse_manifest, read_manifest
from bayplan.oci.store import Store
from bayplan.records import dataclass, field, replace

__all__ = ["HealthConfig", "Image", "ImageConfig", "Layer", "assemble", "canonical_json", "parse_manifest"]

_DEPTH = 4  # indexes in indexes


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: where its blob is, and the digest of its uncompressed archive."""

    descriptor: Descriptor
    diff_id: Digest


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one platform. ``digest`` is its manifest's; layers are lowest first."""

    digest: Digest
    media_type: str
    config_descriptor: Descriptor
    config: ImageConfig
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the layers as stored."""
        return sum(layer.descriptor.size for layer in self.layers)

    @classmethod
    def load(cls, store: Store, digest: Digest, platform: Platform | None = None) -> Image:
        """The image at ``digest``; of an index, the one for ``platform`` (this machine's where None).

        Raises BayplanError ``no-blob``, ``bad-manifest``, ``invalid-digest``, ``no-platform``.
        """
        digest, manifest = find_manifest(store, Digest.parse(digest), platform or Platform.here())
        config = ImageConfig.from_json(load_json(store.read(manifest.config.digest), "configuration"))
        check_parts(manifest.layers, config.diff_ids)
        layers = tuple(Layer(one, diff) for one, diff in zip(manifest.layers, config.diff_ids, strict=True))
        return cls(digest, manifest.media_type, manifest.config, config, layers, manifest.annotations)


def find_manifest(store: Store, digest: Digest, platform: Platform) -> tuple[Digest, Manifest]:
    """The manifest at ``digest``, through indexes to the platform's. Raises what :meth:`Image.load` raises."""
    for _ in range(_DEPTH):
        read = read_manifest(store.read(digest))
        if isinstance(read, Manifest):
            return digest, read
        digest = read.choose(platform)
    raise bad_manifest(f"more than {_DEPTH} indexes in each other")


def assemble(
    store: Store, config: ImageConfig, layers: Sequence[Layer], annotations: Mapping[str, str] | None = None
) -> Digest:
    """Write configuration and manifest of an image whose layers are stored; returns the manifest's digest.

    The diff IDs are those of ``layers``, whatever ``config`` says. Equal arguments give equal bytes. The caller holds a
    lease until it has written down what refers to the digest. Raises BayplanError ``no-blob``.
    """
    data = canonical_json(replace(config, diff_ids=tuple(layer.diff_id for layer in layers)).to_json())
    with store.lease():
        for layer in layers:
            if not store.touch(layer.descriptor.digest):
                raise BayplanError("no-blob", f"the layer {layer.descriptor.digest} is not in this store")
        described = Descriptor(MediaType.CONFIG, store.put(data), len(data))
        parts = tuple(layer.descriptor for layer in layers)
        return store.put(canonical_json(Manifest(described, parts, annotations=annotations or {}).to_json()))
