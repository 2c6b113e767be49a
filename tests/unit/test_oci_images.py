"""Digests, names, descriptors, manifests and configurations; what strangers send ends in an error or in sound values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.errors import BayplanError
from bayplan.oci.config import HealthConfig, ImageConfig
from bayplan.oci.descriptor import Descriptor, MediaType, Platform
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image, Layer, assemble
from bayplan.oci.manifest import Index, Manifest, canonical_json, read_manifest
from bayplan.oci.names import Names
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store

_D = Digest.of(b"x")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "root"))


# -- digests and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:abc",
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "md5:" + "0" * 32,
        "sha512:" + "0" * 64,
        "sha256:" + "0" * 63 + "/",
        "sha256:" + "\u0660" * 64,
        " sha256:" + "0" * 64,
        "sha256:" + "0" * 64 + "\n",
    ],
)
def test_what_is_no_digest_is_refused_before_it_becomes_a_path(store: Store, text: str) -> None:
    for use in (Digest.parse, store.path):
        with pytest.raises(BayplanError) as caught:
            use(text)  # type: ignore[operator]
        assert caught.value.code == "invalid-digest"


NAMES = {
    "python:3.12-slim": "docker.io/library/python:3.12-slim",
    "python": "docker.io/library/python:latest",
    "team/app": "docker.io/team/app:latest",
    "docker.io/app": "docker.io/library/app:latest",
    "index.docker.io/library/app:1": "docker.io/library/app:1",
    "localhost/app": "localhost/app:latest",
    "localhost:5000/a/b:t": "localhost:5000/a/b:t",
    "REG/app": "REG/app:latest",
    "reg.example.com/app_x__y--z.w": "reg.example.com/app_x__y--z.w:latest",
    "[::1]:5000/app": "[::1]:5000/app:latest",
    f"app@{_D}": f"docker.io/library/app@{_D}",
    f"app:1@{_D}": f"docker.io/library/app:1@{_D}",
}


@pytest.mark.parametrize("text", NAMES)
def test_names_are_read_as_docker_reads_them(text: str) -> None:
    name = ImageName.parse(text)
    assert name.canonical() == NAMES[text]
    assert ImageName.parse(name.canonical()).canonical() == NAMES[text]
    assert ImageName.parse(name.familiar()) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "app:",
        "app:-x",
        "App",
        "app/",
        "/app",
        "a//b",
        "app:" + "t" * 129,
        "app name",
        "app..x",
        "-app",
        "a/b:c/d",
        "x" * 300,
        "https://reg/app",
        "app@sha256:123",
        "app@",
        "0" * 64,
        "reg.example.com:port/app",
        "app\n",
        "app:1\n",
        "ünicode",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(BayplanError) as caught:
        ImageName.parse(text)
    assert caught.value.code == "bad-image-name"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=40) | st.from_regex(r"[a-zA-Z0-9._:/@-]{1,40}", fullmatch=True))
def test_any_text_is_a_name_that_reads_back_or_an_error(text: str) -> None:
    try:
        name = ImageName.parse(text)
    except BayplanError:
        return
    assert ImageName.parse(name.canonical()).canonical() == name.canonical()
    assert ImageName.parse(name.familiar()) == name


# -- documents -------------------------------------------------------------------------------------------------------


def descriptor(digest: Digest = _D, **more: Any) -> dict[str, Any]:
    return {"mediaType": MediaType.LAYER_GZIP, "digest": str(digest), "size": 1, **more}


def manifest(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "config": descriptor(), "layers": [descriptor()], **more}


BROKEN: dict[str, Any] = {
    "list": [],
    "text": "x",
    "version 1": manifest(schemaVersion=1),
    "no config": {"schemaVersion": 2, "layers": []},
    "config that is text": manifest(config="sha256:x"),
    "layers that are a map": manifest(layers={}) | {"layers": {"a": 1}},
    "layer without size": manifest(layers=[{"mediaType": "x", "digest": str(_D)}]),
    "negative size": manifest(layers=[descriptor(size=-1)]),
    "size that is true": manifest(layers=[descriptor(size=True)]),
    "size with a fraction": manifest(layers=[descriptor(size=1.5)]),
    "digest that is a path": manifest(layers=[descriptor() | {"digest": "sha256:../../../etc/passwd"}]),
    "both at once": manifest(manifests=[descriptor()]),
    "index that says it is a manifest": {"schemaVersion": 2, "mediaType": MediaType.MANIFEST, "manifests": []},
    "manifest that says it is an index": manifest(mediaType=MediaType.INDEX),
    "media type that is a number": manifest(mediaType=3),
    "annotations that are a list": manifest(annotations=["x"]),
    "subject that is text": manifest(subject="x"),
    "platform that is text": {"schemaVersion": 2, "manifests": [descriptor(platform="linux")]},
    "too many layers": manifest(layers=[descriptor()] * 10_001),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_manifests_are_refused(name: str) -> None:
    with pytest.raises(BayplanError) as caught:
        read_manifest(json.dumps(BROKEN[name]).encode())
    assert caught.value.code in ("bad-manifest", "invalid-digest")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 200_000, b'{"a":' * 100_000, b" " * (4 * 1024 * 1024 + 1)])
def test_what_is_no_json_or_too_much_of_it_is_refused(data: bytes) -> None:
    with pytest.raises(BayplanError) as caught:
        read_manifest(data)
    assert caught.value.code == "bad-manifest"


def test_manifests_and_indexes_are_read_and_written_the_same(store: Store) -> None:
    one = Descriptor(MediaType.LAYER_GZIP, _D, 5, {"b": "2", "a": "1"}, None, "type/x")
    for read in (
        Manifest(
            replace(one, media_type=MediaType.CONFIG),
            (one, one),
            subject=one,
            artifact_type="t",
            annotations={"k": "v"},
        ),
        Index((replace(one, platform={"os": "linux", "architecture": "arm64"}),), annotations={"k": "v"}),
    ):
        assert read_manifest(canonical_json(read.to_json())) == read


BAD_CONFIGS: list[Any] = [
    [],
    {"config": []},
    {"config": {"Env": "A=1", "Cmd": [1]}},
    {"config": {"Labels": ["x"]}},
    {"config": {"ExposedPorts": 80}},
    {"config": {"Healthcheck": "CMD true"}},
    {"config": {"User": 0}},
    {"history": [1]},
    {"history": {"a": 1}},
    {"rootfs": {"diff_ids": "sha256:x"}},
    {"rootfs": {"diff_ids": ["sha256:../x"]}},
    {"architecture": ["amd64"]},
]


@pytest.mark.parametrize("document", BAD_CONFIGS)
def test_broken_configurations_are_refused(document: Any) -> None:
    with pytest.raises(BayplanError) as caught:
        ImageConfig.from_json(document)
    assert caught.value.code in ("bad-manifest", "invalid-digest")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_KEYS = ["Env", "Cmd", "Entrypoint", "Labels", "ExposedPorts", "Volumes", "Healthcheck", "User", "Shell", "OnBuild"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "config": _JSON | st.dictionaries(st.sampled_from(_KEYS), _JSON),
            "rootfs": _JSON,
            "history": _JSON,
            "os": _JSON,
            "created": _JSON,
        },
    )
)
def test_any_configuration_is_sound_values_or_an_error(document: dict[str, Any]) -> None:
    try:
        config = ImageConfig.from_json(document)
    except BayplanError:
        return
    again = ImageConfig.from_json(json.loads(canonical_json(config.to_json())))
    assert replace(again, raw={}).to_json() == replace(config, raw={}).to_json()


def test_configurations_are_written_and_read_the_same() -> None:
    config = ImageConfig(
        architecture="arm64",
        variant="v8",
        created="2026-01-01T00:00:00Z",
        env=("A=1", "B="),
        entrypoint=("/init",),
        cmd=(),
        user="app:app",
        working_dir="/srv",
        exposed_ports=("80/tcp", "90/udp"),
        volumes=("/data",),
        labels={"a": "1"},
        stop_signal="SIGINT",
        healthcheck=HealthConfig(("CMD", "true"), 1.5, 2.0, None, 0.25, 3),
        shell=("/bin/bash", "-c"),
        onbuild=("RUN x",),
        history=({"created_by": "RUN x", "empty_layer": True},),
        diff_ids=(_D,),
    )
    read = ImageConfig.from_json(json.loads(canonical_json(config.to_json())))
    assert replace(read, raw={}) == config


# -- images in the store ---------------------------------------------------------------------------------------------


def one(store: Store, word: str, **more: Any) -> Digest:
    data = word.encode()
    return assemble(
        store,
        ImageConfig(cmd=(word,), **more),
        [Layer(Descriptor(MediaType.LAYER, store.put(data), len(data)), Digest.of(data))],
    )


def index(store: Store, *entries: tuple[Digest, str]) -> Digest:
    def platform(text: str) -> dict[str, str]:
        return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))

    listed = tuple(
        Descriptor(MediaType.MANIFEST, digest, 1, platform=platform(text) if text else None) for digest, text in entries
    )
    return store.put(canonical_json(Index(listed).to_json()))


def test_equal_images_have_equal_digests_and_are_read_back(store: Store) -> None:
    digest = one(store, "w", labels={"b": "2", "a": "1"})
    assert one(store, "w", labels={"a": "1", "b": "2"}) == digest
    image = Image.load(store, digest)
    assert image.config.cmd == ("w",)
    assert image.size == 1
    assert [layer.diff_id for layer in image.layers] == [Digest.of(b"w")]


def test_an_image_of_a_layer_that_is_not_there_is_not_written(store: Store) -> None:
    missing = Layer(Descriptor(MediaType.LAYER, _D, 1), _D)
    with pytest.raises(BayplanError) as caught:
        assemble(store, ImageConfig(), [missing])
    assert caught.value.code == "no-blob"


CHOICES = {
    "linux/amd64": "amd64",
    "linux/arm64": "arm64",
    "linux/arm64/v8": "arm64",
    "linux/arm/v7": "armv6",
    "linux/arm/v6": "armv6",
    "linux/arm/v5": "armv5",
    "linux/arm": "armv6",
}


@pytest.mark.parametrize("wanted", CHOICES)
def test_an_index_gives_the_nearest_platform_that_runs(store: Store, wanted: str) -> None:
    entries = {"linux/amd64": "amd64", "linux/arm64/v8": "arm64", "linux/arm/v5": "armv5", "linux/arm/v6": "armv6"}
    listed = [(one(store, word), text) for text, word in entries.items()]
    outer = index(store, (one(store, "attestation"), "unknown/unknown"), *listed)
    assert Image.load(store, outer, Platform.parse(wanted)).config.cmd == (CHOICES[wanted],)


def test_no_platform_is_told_with_those_that_are_there(store: Store) -> None:
    outer = index(store, (one(store, "a"), "linux/s390x"), (one(store, "b"), "windows/amd64"))
    with pytest.raises(BayplanError) as caught:
        Image.load(store, outer, Platform("linux", "amd64"))
    assert (caught.value.code, caught.value.hint) == ("no-platform", "it is made for linux/s390x, windows/amd64")


def test_an_index_of_one_image_without_a_platform_gives_that(store: Store) -> None:
    outer = index(store, (one(store, "a"), ""))
    assert Image.load(store, index(store, (outer, "")), Platform("linux", "amd64")).config.cmd == ("a",)


def test_indexes_nested_without_end_are_refused(store: Store) -> None:
    inner = one(store, "a")
    for _ in range(6):
        inner = index(store, (inner, "linux/amd64"))
    with pytest.raises(BayplanError, match="indexes in each other"):
        Image.load(store, inner, Platform("linux", "amd64"))


def test_layers_and_diff_ids_must_agree(store: Store) -> None:
    config = store.put(canonical_json(ImageConfig().to_json()))
    bad = store.put(canonical_json(manifest(config=descriptor(config))))
    with pytest.raises(BayplanError, match="1 layers, but 0 diff IDs"):
        Image.load(store, bad)


# -- the host's names --------------------------------------------------------------------------------------------------


def test_a_name_in_any_form_means_one_thing(store: Store) -> None:
    names = Names(store.root)
    assert names.get("app") is None
    assert names.list() == []
    assert not names.remove("app")
    assert not store.root.path.exists()  # looking has no effect
    names.set("app", _D, {"bayplan.dev/stack": "s"})
    found = names.get("docker.io/library/app:latest")
    assert found is not None
    assert (found.name, found.digest, found.labels) == ("docker.io/library/app:latest", _D, {"bayplan.dev/stack": "s"})
    assert [one.name for one in names.list({"bayplan.dev/stack": "s"})] == ["docker.io/library/app:latest"]
    assert names.list({"bayplan.dev/stack": "other"}) == []
    assert list(names.references()) == [_D]
    assert names.remove("app:latest")
    assert names.get("app") is None


def test_names_change_together_and_only_those_that_still_mean_what_was_said(store: Store) -> None:
    names = Names(store.root)
    other = Digest.of(b"other")
    names.set("one", _D)
    names.set("two", other)
    names.replace({"one": _D, "two": _D}, {"three": other}, {"l": "1"})
    assert {one.name.rpartition("/")[2]: one.digest for one in names.list()} == {
        "two:latest": other,
        "three:latest": other,
    }


def test_processes_that_name_images_at_once_lose_nothing(store: Store) -> None:
    program = (
        "import sys\nfrom bayplan.oci.names import Names\nfrom bayplan.oci.root import Root\n"
        "from bayplan.oci.digest import Digest\n"
        "names = Names(Root.at(sys.argv[1]))\n"
        "for n in range(10): names.set(f'p{sys.argv[2]}:{n}', Digest.of(b'x'))\n"
    )
    command = [sys.executable, "-c", program, str(store.root.path)]
    processes = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(6)]
    for process in processes:
        assert process.communicate(timeout=60)[1] == ""
    assert len(Names(store.root).list()) == 60


# -- roots -------------------------------------------------------------------------------------------------------------


def test_a_root_is_one_by_whatever_path_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert Root.at(tmp_path / "link") == Root.at(tmp_path / "real" / ".." / "real")
    assert Root.at(tmp_path / "link").hash != Root.at(tmp_path).hash
    assert len(Root.at(tmp_path).hash) == 8


def test_a_root_has_its_modes_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        root = Root.at(tmp_path / "root").ensure()
    finally:
        os.umask(before)
    assert root.path.stat().st_mode & 0o777 == 0o711
    assert root.run_dir.stat().st_mode & 0o777 == 0o700
    (root.run_dir).chmod(0o755)
    with pytest.raises(BayplanError) as caught:
        root.ensure()
    assert caught.value.code == "root-unusable"
    root.run_dir.rmdir()


def test_the_default_root_is_told_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYPLAN_ROOT", str(tmp_path / "here"))
    assert Root.default().path == tmp_path / "here"
    monkeypatch.delenv("BAYPLAN_ROOT")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    root = Root.default()
    assert root.path == tmp_path / "data" / "bayplan"
    assert root.run_dir == tmp_path / "run" / "bayplan" / root.hash
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Root.default().path == Path("/var/lib/bayplan")


def test_a_root_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BayplanError) as caught:
        Root.at(tmp_path / "file" / "root").ensure()
    assert caught.value.code == "root-unusable"
