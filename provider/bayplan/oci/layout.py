"""Images in one file: OCI image layouts and docker-archives (what ``docker save`` writes), saved and loaded.

Loading streams: each blob goes straight into the store while the archive is read, in whatever order it comes, verified
where its name is a digest; names inside the archive are keys of a dictionary and never paths. Nothing is named as an image
before all of it has been checked, and what a refused archive left is unreferenced and goes with the next collection.

Saving is reproducible: equal images and names give equal bytes. The format ``docker`` is an OCI layout with Docker's
``manifest.json`` beside it (as Docker itself writes since 25.0), so that old and new tools find what they look for and the
digest survives the way there and back.

Sources: OCI image specification 1.1, *Image Layout* and *Annotations*; moby ``image/tarexport``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from bayplan.errors import BayplanError
from bayplan.oci import tar
from bayplan.oci.compression import decompressed
from bayplan.oci.descriptor import Descriptor, MediaType
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image, ImageConfig, Layer, canonical_json
from bayplan.oci.layer import copy_layer
from bayplan.oci.manifest import Index, Manifest, read_manifest
from bayplan.oci.reference import ImageName
from bayplan.oci.store import MANIFEST_LIMIT, Store
from bayplan.oci.tar import Buffered, Content, Entry, bad_archive
from bayplan.records import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS = ("oci", "docker")
_BLOB = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)")
_CONTAINERD_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"
_MAX_ENTRIES = 100_000
_MAX_DOCUMENTS = 10_000
#: Bytes of all documents at an archive's top, which are kept in memory.
_MAX_MEMORY = 64 << 20
_HINT = "load what `bayplan image save`, `docker save`, `podman save` or skopeo wrote"


# -- saving --------------------------------------------------------------------------------------------------------


def save_archive(store: Store, digest: Digest, names: Sequence[str], path: Path, format: str = "oci") -> None:
    """Write the image (or index) at ``digest`` with ``names`` to ``path`` as one tar file.

    ``format`` is ``oci`` or ``docker``; ``docker`` names this machine's platform of an index in its ``manifest.json``.
    Images of other platforms that an index lists but the store lacks are left out. An existing file is replaced when the
    new one is whole. Raises BayplanError ``no-blob``, ``bad-image-name``, ``bad-format``, ``unwritable``.
    """
    if format not in FORMATS:
        raise BayplanError("bad-format", f"'{format}' is not a format of image archives", hint="use oci or docker")
    full = sorted({ImageName.parse(name).canonical() for name in names})
    with store.lease():
        store.touch(digest)
        top, blobs = _whole(store, digest)
        index = {"schemaVersion": 2, "mediaType": MediaType.INDEX, "manifests": _listed(top, full)}
        documents = {"oci-layout": canonical_json({"imageLayoutVersion": "1.0.0"}), "index.json": canonical_json(index)}
        if format == "docker":
            documents["manifest.json"] = canonical_json(_docker_manifest(Image.load(store, digest), full))
        with _output(path) as out:
            # What tells the format comes first, so that who reads it as a stream knows at once.
            for name, data in documents.items():
                out.write(tar.header(Entry(name, size=len(data))) + data + tar.padding(len(data)))
            for blob in sorted(blobs):
                _save_blob(store, blob, out)
            out.write(tar.END)


def _listed(top: Descriptor, names: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of ``index.json``: one a name, or one without."""
    if not names:
        return [top.to_json()]
    return [{**top.to_json(), "annotations": {_CONTAINERD_NAME: name, _REF_NAME: name}} for name in names]


def _docker_manifest(image: Image, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "Config": _blob_name(image.config_descriptor.digest),
            "RepoTags": [ImageName.parse(name).familiar() for name in names if "@" not in name],
            "Layers": [_blob_name(layer.descriptor.digest) for layer in image.layers],
        }
    ]


def _save_blob(store: Store, digest: Digest, out: BinaryIO) -> None:
    with store.open(digest) as blob:
        left = size = os.fstat(blob.fileno()).st_size
        out.write(tar.header(Entry(_blob_name(digest), size=size)))
        while left:
            data = blob.read(min(left, 1 << 20))
            if not data:
                raise BayplanError("blob-damaged", f"the stored content of {digest} was cut", hint="pull it again")
            out.write(data)
            left -= len(data)
        out.write(tar.padding(size))


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


@contextmanager
def _output(path: Path) -> Iterator[BinaryIO]:
    """A file that appears when it is whole; a pipe or device is written as it is."""
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as out:
                yield out
            return
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with draft.open("wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise BayplanError("unwritable", f"{path} cannot be written: {error.strerror}") from error


# -- loading -------------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """What an archive held: small documents, blobs by the name they had, links between names."""

    documents: dict[str, bytes] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    memory: int = 0


def load_archive(store: Store, path: Path) -> list[tuple[tuple[str, ...], Digest]]:
    """Load an archive (tar, plain or compressed) or an OCI layout folder; returns each image's names and digest.

    Names are canonical, and may be none. The caller gives them to :class:`~bayplan.oci.names.Names`, under a lease of its
    own that it took before. Raises BayplanError ``no-archive``, ``bad-archive``, ``bad-manifest``, ``digest-mismatch``.
    """
    with store.lease():
        try:
            if path.is_dir():
                found = _read_folder(store, path)
            else:
                with path.open("rb") as stream:
                    found = _read(store, tar.entries(decompressed(stream)))
        except FileNotFoundError:
            raise BayplanError("no-archive", f"there is no image archive at {path}", hint=_HINT) from None
        except OSError as error:
            raise BayplanError("unreadable", f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
        if "index.json" in found.documents:
            return _from_layout(store, found)
        if "manifest.json" in found.documents:
            return _from_docker(store, found)
    raise bad_archive("it holds neither an index.json nor a manifest.json", _HINT)


def _read(store: Store, archive: Iterable[tuple[Entry, Content]]) -> _Found:
    found = _Found()
    for count, (entry, content) in enumerate(archive):
        if count >= _MAX_ENTRIES:
            raise bad_archive(f"an image archive of more than {_MAX_ENTRIES} entries", _HINT)
        name = str(PurePosixPath(entry.name))
        if entry.type in (tar.SYMLINK, tar.HARDLINK):
            start = PurePosixPath(name).parent if entry.type == tar.SYMLINK else PurePosixPath()
            found.links[name] = os.path.normpath(start / entry.link)
        elif entry.type == tar.REGULAR:
            _take(store, found, name, entry.size, content)
    return found


def _read_folder(store: Store, folder: Path) -> _Found:
    """An OCI layout as a folder. Links in it are followed no further than to files."""
    found = _Found()
    for name in ("oci-layout", "index.json", "manifest.json"):
        with suppress(FileNotFoundError):
            found.documents[name] = _small(folder / name)
    for algorithm in ("sha256", "sha512"):
        with suppress(FileNotFoundError):
            for entry in os.scandir(folder / "blobs" / algorithm):
                if entry.is_file(follow_symlinks=False):
                    with Path(entry.path).open("rb") as stream:
                        size = os.fstat(stream.fileno()).st_size
                        _take(store, found, f"blobs/{algorithm}/{entry.name}", size, Content(Buffered(stream), size))
    return found


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MANIFEST_LIMIT + 1)
    if len(data) > MANIFEST_LIMIT:
        raise bad_archive(f"{path.name} has more than {MANIFEST_LIMIT} bytes", _HINT)
    return data


def _take(store: Store, found: _Found, name: str, size: int, content: Content) -> None:
    """One file of an archive: into the store, or to memory where it is a document at the top."""
    blob = _BLOB.fullmatch(name)
    if blob is not None:
        digest = Digest.parse(f"{blob[1]}:{blob[2]}")
        with store.writer(digest.algorithm) as writer:
            while data := content.read():
                writer.write(data)
            writer.commit(digest)
    elif "/" not in name and (name.endswith(".json") or name == "oci-layout"):
        found.memory += size
        if size > MANIFEST_LIMIT or found.memory > _MAX_MEMORY or len(found.documents) >= _MAX_DOCUMENTS:
            raise bad_archive(f"{name[:100]} is too large for a document of an image", _HINT)
        parts = []
        while data := content.read():
            parts.append(data)
        found.documents[name] = b"".join(parts)
    elif name.endswith((".tar", ".tar.gz", ".tgz")):
        found.layers[name] = copy_layer(store, cast(BinaryIO, content))


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise bad_archive(f"its {name} is not JSON", _HINT) from None


# -- OCI layout ----------------------------------------------------------------------------------------------------


def _from_layout(store: Store, found: _Found) -> list[tuple[tuple[str, ...], Digest]]:
    index = read_manifest(found.documents["index.json"])
    if not isinstance(index, Index) or not index.manifests:
        raise bad_archive("its index.json lists no images", _HINT)
    names: dict[Digest, list[str]] = {}
    for descriptor in index.manifests:
        _whole(store, descriptor.digest)
        many = names.setdefault(descriptor.digest, [])
        many.extend(name for name in _names_of(descriptor.annotations) if name not in many)
    if "manifest.json" in found.documents and len(names) == 1:
        # Docker names the image in manifest.json; its index.json may carry a bare tag alone.
        only = next(iter(names.values()))
        for one in _docker_entries(found):
            only.extend(name for name in _tags(one) if name not in only)
    return [(tuple(many), digest) for digest, many in names.items()]


def _names_of(annotations: Mapping[str, object]) -> list[str]:
    """The full name that a descriptor carries. A bare ``latest`` says nothing of a repository, and names nothing."""
    for key in (_CONTAINERD_NAME, _REF_NAME):
        text = annotations.get(key)
        if isinstance(text, str) and ("/" in text or ":" in text):
            with suppress(BayplanError):
                return [ImageName.parse(text).canonical()]
    return []


def _whole(store: Store, digest: Digest) -> tuple[Descriptor, set[Digest]]:
    """The descriptor of an image or index and all its blobs; of an index, what is there of it, but at least one image.

    Raises BayplanError ``no-blob`` where a manifest refers to what is not there.
    """
    data = store.read(digest)
    top = read_manifest(data)
    blobs: set[Digest] = set()
    images, stack = 0, [(digest, top)]
    while stack:
        at, document = stack.pop()
        if at in blobs:
            continue
        blobs.add(at)
        if isinstance(document, Index):
            there = [one.digest for one in document.manifests if store.touch(one.digest)]
            stack.extend((child, read_manifest(store.read(child))) for child in there)
            continue
        images += 1
        for part in (document.config.digest, *(layer.digest for layer in document.layers)):
            if not store.touch(part):
                raise BayplanError("no-blob", f"the image {at} lacks its part {part}", hint="get it again")
            blobs.add(part)
    if not images:
        raise BayplanError("no-blob", f"of the index {digest} no image is there", hint="get it again")
    return Descriptor(top.media_type, digest, len(data)), blobs


# -- docker-archive ------------------------------------------------------------------------------------------------


def _from_docker(store: Store, found: _Found) -> list[tuple[tuple[str, ...], Digest]]:
    return [(tuple(_tags(one)), _docker_image(store, found, one)) for one in _docker_entries(found)]


def _docker_entries(found: _Found) -> list[dict[str, Any]]:
    entries = _json(found.documents["manifest.json"], "manifest.json")
    sound = isinstance(entries, list) and entries and len(entries) <= _MAX_DOCUMENTS
    if not sound or not all(isinstance(one, dict) for one in entries):
        raise bad_archive("its manifest.json lists no images", _HINT)
    return cast("list[dict[str, Any]]", entries)


def _tags(entry: Mapping[str, Any]) -> list[str]:
    tags = entry.get("RepoTags") or []
    if not isinstance(tags, list):
        raise bad_archive("its manifest.json has RepoTags that are no list", _HINT)
    return [ImageName.parse(str(tag)).canonical() for tag in tags]


def _docker_image(store: Store, found: _Found, entry: Mapping[str, Any]) -> Digest:
    """One entry of ``manifest.json`` as an image: the configuration's bytes stay, so its image ID does."""
    config_name, layer_names = entry.get("Config"), entry.get("Layers") or []
    if not isinstance(config_name, str) or not isinstance(layer_names, list):
        raise bad_archive("its manifest.json lacks Config or Layers", _HINT)
    data = _config_bytes(store, found, config_name)
    config = ImageConfig.from_json(_json(data, "configuration"))
    layers = [_layer(store, found, str(name)) for name in layer_names]
    if [layer.diff_id for layer in layers] != list(config.diff_ids):
        raise BayplanError("digest-mismatch", "the archive's layers are not those that its configuration names")
    config_digest = store.put(data)
    manifest = Manifest(
        Descriptor(MediaType.CONFIG, config_digest, len(data)), tuple(layer.descriptor for layer in layers)
    )
    return store.put(canonical_json(manifest.to_json()))


def _resolved(found: _Found, name: str) -> str:
    """``name`` with the archive's own links followed: Docker wrote a layer that several images share once."""
    name = str(PurePosixPath(name))
    for _ in range(8):
        if name not in found.links:
            break
        name = found.links[name]
    return name


def _config_bytes(store: Store, found: _Found, name: str) -> bytes:
    name = _resolved(found, name)
    blob = _BLOB.fullmatch(name)
    if blob is not None:
        return store.read(Digest.parse(f"{blob[1]}:{blob[2]}"))
    if name not in found.documents:
        raise bad_archive(f"it lacks the configuration {name[:100]}", _HINT)
    return found.documents[name]


def _layer(store: Store, found: _Found, name: str) -> Layer:
    name = _resolved(found, name)
    blob = _BLOB.fullmatch(name)
    if blob is not None:
        with store.open(Digest.parse(f"{blob[1]}:{blob[2]}")) as stream:
            return copy_layer(store, stream)
    if name not in found.layers:
        raise bad_archive(f"it lacks the layer {name[:100]}", _HINT)
    return found.layers[name]


__all__ = ["FORMATS", "load_archive", "save_archive"]
