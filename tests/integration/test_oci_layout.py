"""Image archives: what we save other tools read, what they save we load, and what is broken or hostile is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from bayplan.errors import BayplanError
from bayplan.oci.descriptor import Descriptor, MediaType
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image, ImageConfig, assemble, canonical_json
from bayplan.oci.layer import LayerWriter
from bayplan.oci.layout import FORMATS, load_archive, save_archive
from bayplan.oci.manifest import Index
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.oci.tar import Entry

NAMES = ("docker.io/library/shop:1.0", "quay.io/acme/shop:stable")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "root")).ensure()


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "other")).ensure()


def image(store: Store, text: str = "hello", architecture: str = "amd64") -> Digest:
    layers = []
    for name in ("a", "b"):
        with LayerWriter(store) as writer:
            content = f"{text} {name}\n".encode() * 100
            writer.add(Entry(f"etc/{name}", size=len(content), mtime=1), content)
            layers.append(writer.finish())
    return assemble(store, ImageConfig(architecture=architecture, cmd=("/bin/sh",), labels={"text": text}), layers)


def index(store: Store, *digests: tuple[str, Digest]) -> Digest:
    parts = tuple(
        Descriptor(MediaType.MANIFEST, digest, store.size(digest), platform={"os": "linux", "architecture": name})
        for name, digest in digests
    )
    return store.put(canonical_json(Index(parts).to_json()))


def whole(store: Store, digest: Digest) -> Image:
    """The image, after every blob of it has been read and verified."""
    found = Image.load(store, digest)
    for layer in found.layers:
        store.read(layer.descriptor.digest)
    return found


def tool(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def skopeo(tmp_path: Path, *command: object) -> str:
    return tool("skopeo", "--insecure-policy", "--tmpdir", tmp_path, *command)


@pytest.fixture
def podman() -> Iterator[Callable[..., str]]:
    """podman with a storage of its own (whose paths it wants short)."""
    with tempfile.TemporaryDirectory(prefix="pod") as place:
        own = ("podman", "--root", f"{place}/root", "--runroot", f"{place}/run")
        yield lambda *command: tool(*own, *command)
        tool(*own, "rmi", "-af")


def archive(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    with tarfile.open(path, "w") as out:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            out.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened if one.isreg()}  # type: ignore[union-attr]


def refused(store: Store, path: Path) -> str:
    """The code of the refusal; nothing of it stays."""
    with pytest.raises(BayplanError) as caught:
        load_archive(store, path)
    store.collect([])
    assert store.usage([]).blobs == 0
    return caught.value.code


# -- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_saved_is_loaded_with_its_digest_and_names(
    store: Store, other: Store, tmp_path: Path, format: str
) -> None:
    digest = image(store)
    save_archive(store, digest, ["shop:1.0", "quay.io/acme/shop:stable"], tmp_path / "shop.tar", format)
    assert load_archive(other, tmp_path / "shop.tar") == [(NAMES, digest)]
    assert whole(other, digest).config.labels == {"text": "hello"}


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_without_a_name_is_saved_and_loaded(store: Store, other: Store, tmp_path: Path, format: str) -> None:
    digest = image(store)
    save_archive(store, digest, [], tmp_path / "shop.tar", format)
    assert load_archive(other, tmp_path / "shop.tar") == [((), digest)]


@pytest.mark.parametrize("format", FORMATS)
def test_equal_images_are_saved_to_equal_bytes(store: Store, tmp_path: Path, format: str) -> None:
    digest = image(store)
    for name, names in (("one", NAMES), ("two", NAMES[::-1])):
        save_archive(store, digest, names, tmp_path / name, format)
    one, two = (hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, zstandard.compress], ids=["gzip", "xz", "zstd"])
def test_compressed_archives_are_loaded(store: Store, other: Store, tmp_path: Path, compress: Any) -> None:
    digest = image(store)
    save_archive(store, digest, NAMES, tmp_path / "shop.tar")
    (tmp_path / "packed").write_bytes(compress((tmp_path / "shop.tar").read_bytes()))
    assert load_archive(other, tmp_path / "packed") == [(NAMES, digest)]


@pytest.mark.parametrize("format", FORMATS)
def test_an_index_is_saved_with_the_platforms_that_are_there(
    store: Store, other: Store, tmp_path: Path, format: str
) -> None:
    here, arm = image(store), image(store, architecture="arm64")
    both = index(store, ("amd64", here), ("arm64", arm))
    store.path(arm).unlink()
    save_archive(store, both, NAMES, tmp_path / "shop.tar", format)
    assert load_archive(other, tmp_path / "shop.tar") == [(NAMES, both)]
    assert whole(other, both).digest == here
    assert not other.has(arm)


def test_an_index_of_which_no_image_is_there_is_not_saved(store: Store, tmp_path: Path) -> None:
    arm = image(store, architecture="arm64")
    only = index(store, ("arm64", arm))
    store.path(arm).unlink()
    with pytest.raises(BayplanError) as caught:
        save_archive(store, only, [], tmp_path / "shop.tar")
    assert caught.value.code == "no-blob"
    assert not (tmp_path / "shop.tar").exists()


def test_a_layer_that_lacks_is_named_and_an_older_file_stays_as_it_was(store: Store, tmp_path: Path) -> None:
    digest = image(store)
    layer = Image.load(store, digest).layers[0].descriptor.digest
    store.path(layer).unlink()
    (tmp_path / "shop.tar").write_text("older")
    with pytest.raises(BayplanError, match=layer):
        save_archive(store, digest, [], tmp_path / "shop.tar")
    assert (tmp_path / "shop.tar").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "shop.tar"]


def test_an_archive_is_written_into_a_pipe(store: Store, other: Store, tmp_path: Path) -> None:
    digest = image(store)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=save_archive, args=(store, digest, NAMES, tmp_path / "pipe"))
    writer.start()
    assert load_archive(other, tmp_path / "pipe") == [(NAMES, digest)]
    writer.join(timeout=30)
    assert not writer.is_alive()


# -- other tools ---------------------------------------------------------------------------------------------------


def test_skopeo_reads_what_is_saved_and_its_copies_are_loaded_as_the_same_image(
    store: Store, other: Store, tmp_path: Path
) -> None:
    digest = image(store)
    save_archive(store, digest, NAMES, tmp_path / "oci.tar", "oci")
    save_archive(store, digest, NAMES, tmp_path / "docker.tar", "docker")
    found = json.loads(skopeo(tmp_path, "inspect", f"oci-archive:{tmp_path}/oci.tar:{NAMES[1]}"))
    assert (found["Digest"], found["Labels"]) == (digest, {"text": "hello"})
    for source, target, name in (
        (f"oci-archive:{tmp_path}/oci.tar:{NAMES[0]}", "oci-archive:{}:docker.io/library/shop:2", "oci2.tar"),
        (f"docker-archive:{tmp_path}/docker.tar:shop:1.0", "docker-archive:{}:shop:2", "docker2.tar"),
        (f"docker-archive:{tmp_path}/docker.tar:shop:1.0", "oci:{}:docker.io/library/shop:2", "folder"),
    ):
        skopeo(tmp_path, "copy", "-q", source, target.format(tmp_path / name))
        [(names, loaded)] = load_archive(other, tmp_path / name)
        assert names == ("docker.io/library/shop:2",)
        assert [one.diff_id for one in whole(other, loaded).layers] == [
            one.diff_id for one in whole(store, digest).layers
        ]
        assert Image.load(other, loaded).config_descriptor == Image.load(store, digest).config_descriptor


@pytest.mark.root
def test_podman_loads_what_is_saved_and_its_own_archives_are_loaded(
    store: Store, other: Store, tmp_path: Path, podman: Callable[..., str]
) -> None:
    digest = image(store)
    save_archive(store, digest, NAMES, tmp_path / "docker.tar", "docker")
    save_archive(store, digest, NAMES[1:], tmp_path / "oci.tar", "oci")
    image_id = Image.load(store, digest).config_descriptor.digest
    for name in ("docker.tar", "oci.tar"):
        assert "stable" in podman("load", "-i", tmp_path / name)
        assert image_id.hex in podman("images", "--no-trunc", "--format", "{{.Id}}", NAMES[1])
    for kind in ("docker-archive", "oci-archive"):
        podman("save", "-q", "--format", kind, "-o", tmp_path / f"{kind}.tar", NAMES[1])
        [(names, loaded)] = load_archive(other, tmp_path / f"{kind}.tar")
        assert names == (NAMES[1],)
        assert whole(other, loaded).config_descriptor.digest == image_id


def test_layers_that_old_docker_wrote_once_and_linked_are_found(store: Store, other: Store, tmp_path: Path) -> None:
    digest = image(store)
    loaded = Image.load(store, digest)
    raw = [gzip.decompress(store.read(layer.descriptor.digest)) for layer in loaded.layers]
    config = store.read(loaded.config_descriptor.digest)
    entry = {"Config": "cafe.json", "RepoTags": ["shop:1.0"], "Layers": ["one/layer.tar", "two/layer.tar"]}
    path = archive(
        tmp_path / "old.tar",
        {
            "one/layer.tar": raw[0],
            "three/layer.tar": raw[1],
            "cafe.json": config,
            "manifest.json": json.dumps([entry]).encode(),
            "repositories": b"{}",
        },
        {"two/layer.tar": "../three/layer.tar"},
    )
    assert load_archive(other, path) == [(NAMES[:1], digest)]


def test_an_archive_of_several_images_gives_each_with_its_names(store: Store, other: Store, tmp_path: Path) -> None:
    first, second = image(store, "first"), image(store, "second")
    save_archive(store, first, ["first:1"], tmp_path / "first.tar")
    save_archive(store, second, ["second:1"], tmp_path / "second.tar")
    files, more = members(tmp_path / "first.tar"), members(tmp_path / "second.tar")
    both = json.loads(files["index.json"])
    both["manifests"] += json.loads(more["index.json"])["manifests"]
    path = archive(tmp_path / "both.tar", more | files | {"index.json": json.dumps(both).encode()})
    assert load_archive(other, path) == [
        (("docker.io/library/first:1",), first),
        (("docker.io/library/second:1",), second),
    ]


def test_a_bare_tag_names_nothing_unless_docker_says_the_name_beside_it(
    store: Store, other: Store, tmp_path: Path
) -> None:
    digest = image(store)
    save_archive(store, digest, ["shop:1.0"], tmp_path / "shop.tar", "docker")
    files = members(tmp_path / "shop.tar")
    bare = json.loads(files["index.json"])
    bare["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "1.0"}
    files["index.json"] = json.dumps(bare).encode()
    assert load_archive(other, archive(tmp_path / "docker.tar", files)) == [(NAMES[:1], digest)]
    del files["manifest.json"]
    assert load_archive(other, archive(tmp_path / "oci.tar", files)) == [((), digest)]


# -- what is refused -----------------------------------------------------------------------------------------------


def test_there_is_a_word_for_what_is_no_archive(other: Store, tmp_path: Path) -> None:
    with pytest.raises(BayplanError) as caught:
        load_archive(other, tmp_path / "nothing")
    assert caught.value.code == "no-archive"
    assert refused(other, archive(tmp_path / "empty.tar", {})) == "bad-archive"
    assert refused(other, archive(tmp_path / "other.tar", {"readme": b"hello"})) == "bad-archive"
    (tmp_path / "text").write_text("hello, I am no archive\n" * 100)
    assert refused(other, tmp_path / "text") == "bad-archive"


def test_an_archive_cut_anywhere_is_refused_or_whole(store: Store, other: Store, tmp_path: Path) -> None:
    digest = image(store)
    save_archive(store, digest, NAMES, tmp_path / "shop.tar")
    data = (tmp_path / "shop.tar").read_bytes()
    for length in range(0, len(data), 700):
        (tmp_path / "cut.tar").write_bytes(data[:length])
        if length > len(data) - 2 * 512:  # all but the end mark is there
            assert load_archive(other, tmp_path / "cut.tar") == [(NAMES, digest)]
        else:
            assert refused(other, tmp_path / "cut.tar") in ("bad-archive", "no-blob")
        other.collect([])


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("blobs/sha256/" + "0" * 64, "digest-mismatch"),
        ("blobs/sha256/" + "0" * 63, "invalid-digest"),
        ("./blobs/sha256/" + "0" * 64, "digest-mismatch"),
    ],
)
def test_a_blob_that_is_not_what_its_name_says_is_refused(other: Store, tmp_path: Path, name: str, code: str) -> None:
    assert refused(other, archive(tmp_path / "wrong.tar", {name: b"something else"})) == code


def test_names_in_an_archive_lead_nowhere(store: Store, other: Store, tmp_path: Path) -> None:
    digest = image(store)
    save_archive(store, digest, NAMES, tmp_path / "shop.tar")
    files = members(tmp_path / "shop.tar") | {
        "../escaped.json": b"{}",
        "/tmp/escaped-from-an-archive.json": b"{}",
        "blobs/sha256/../../../escaped": b"x",
        "../../layer.tar": b"",
    }
    path = archive(tmp_path / "hostile.tar", files, {"blobs": "/etc", "index.json": "/etc/passwd"})
    before = sorted(tmp_path.rglob("*escaped*"))
    assert load_archive(other, path) == [(NAMES, digest)]
    assert sorted(tmp_path.rglob("*escaped*")) == before
    assert not Path("/tmp/escaped-from-an-archive.json").exists()


@pytest.mark.parametrize(
    ("documents", "code"),
    [
        ({"index.json": b"{"}, "bad-manifest"),
        ({"index.json": b"[" * 100_000}, "bad-manifest"),
        ({"index.json": b'{"schemaVersion":2,"manifests":[]}'}, "bad-archive"),
        ({"index.json": b'{"schemaVersion":2,"manifests":[{}]}'}, "bad-manifest"),
        ({"index.json": b'{"schemaVersion":2,"manifests":{"a":1}}'}, "bad-manifest"),
        ({"manifest.json": b"{}"}, "bad-archive"),
        ({"manifest.json": b"[]"}, "bad-archive"),
        ({"manifest.json": b"[1]"}, "bad-archive"),
        ({"manifest.json": b"[" * 100_000}, "bad-archive"),
        ({"manifest.json": b'[{"Config":1,"Layers":[]}]'}, "bad-archive"),
        ({"manifest.json": b'[{"Config":"c.json","Layers":[]}]'}, "bad-archive"),
        ({"manifest.json": b'[{"Config":"c.json","Layers":["l.tar"]}]', "c.json": b"{}"}, "bad-archive"),
        ({"manifest.json": b'[{"Config":"c.json","Layers":[]}]', "c.json": b"[]"}, "bad-manifest"),
        ({"manifest.json": b'[{"Config":"c.json","RepoTags":["UP:1"]}]', "c.json": b"{}"}, "bad-image-name"),
        (
            {"manifest.json": b'[{"Config":"c.json","Layers":["l.tar"]}]', "c.json": b"{}", "l.tar": bytes(1024)},
            "digest-mismatch",
        ),
        ({"manifest.json": b'[{"Config":"blobs/sha256/' + b"0" * 64 + b'","Layers":[]}]'}, "no-blob"),
        ({"huge.json": bytes(5 << 20)}, "bad-archive"),
    ],
)
def test_documents_that_are_none_are_refused_in_words(
    other: Store, tmp_path: Path, documents: dict[str, bytes], code: str
) -> None:
    assert refused(other, archive(tmp_path / "wrong.tar", documents)) == code


def test_links_in_a_circle_end(other: Store, tmp_path: Path) -> None:
    documents = {"manifest.json": b'[{"Config":"a.json","Layers":[]}]'}
    path = archive(tmp_path / "circle.tar", documents, {"a.json": "b.json", "b.json": "a.json"})
    assert refused(other, path) == "bad-archive"


def test_a_manifest_whose_parts_lack_is_refused(store: Store, other: Store, tmp_path: Path) -> None:
    digest = image(store)
    save_archive(store, digest, NAMES, tmp_path / "shop.tar")
    files = members(tmp_path / "shop.tar")
    parts = Image.load(store, digest)
    for lost in (digest, parts.config_descriptor.digest, parts.layers[1].descriptor.digest):
        left = {name: data for name, data in files.items() if not name.endswith(lost.hex)}
        assert refused(other, archive(tmp_path / "cut.tar", left)) == "no-blob"


def test_an_unknown_format_and_an_unwritable_place_are_told(store: Store, tmp_path: Path) -> None:
    digest = image(store)
    for path, format, code in (
        (tmp_path / "x.tar", "zip", "bad-format"),
        (tmp_path / "no" / "x.tar", "oci", "unwritable"),
        (tmp_path, "oci", "unwritable"),
    ):
        with pytest.raises(BayplanError) as caught:
            save_archive(store, digest, [], path, format)
        assert caught.value.code == code
