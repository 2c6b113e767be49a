"""docker, podman and skopeo, as the distribution ships them, push to and pull from the embedded registry."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from engine_processes import dockerd, podman, run
from registry_processes import archive, image, serving

from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.client import RegistryClient
from bayplan.registry.registry import Registry

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.at(tmp_path / "root").ensure()


def test_docker_pushes_and_pulls_the_same_image(root: Root, tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(archive({"random": os.urandom(2_000_000), "bin/busybox": Path("/bin/busybox").read_bytes()}))
    with serving(root) as registry, dockerd() as docker:
        name = f"{registry}/team/app:1"
        identity = docker("import", str(layer), name).stdout.strip()
        docker("push", name)
        docker("tag", name, f"{registry}/team/copy:2")
        docker("push", f"{registry}/team/copy:2")
        docker("rmi", "-f", name, f"{registry}/team/copy:2")
        docker("pull", f"{registry}/team/copy:2")
        assert docker("image", "inspect", "-f", "{{.Id}}", f"{registry}/team/copy:2").stdout.strip() == identity
        docker("create", "--name", "look", f"{registry}/team/copy:2", "/bin/busybox")
        docker("cp", "look:/bin/busybox", str(tmp_path / "busybox"))
    assert (tmp_path / "busybox").read_bytes() == Path("/bin/busybox").read_bytes()
    assert [repository.name for repository in Registry(root).list()] == ["team/app", "team/copy"]


def test_docker_pulls_what_was_pushed_locally_beside_the_running_server(root: Root) -> None:
    registry_of_root, store = Registry(root), Store(root)
    with serving(root) as registry, dockerd() as docker:
        registry_of_root.create_repository("local/app")
        digest = image(store, [archive({"hello": b"world"})])
        registry_of_root.push_local("local/app", "1", digest)
        docker("pull", f"{registry}/local/app:1")
        pulled = docker("image", "inspect", "-f", "{{index .RepoDigests 0}}", f"{registry}/local/app:1").stdout.strip()
    assert pulled == f"{registry}/local/app@{digest}"


def test_podman_pushes_and_pulls_the_same_image(root: Root, tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(archive({"random": os.urandom(1_000_000)}))
    with serving(root) as registry, podman() as engine:
        name = f"{registry}/team/app:1"
        identity = engine("import", str(layer), name).stdout.strip().removeprefix("sha256:")
        engine("push", "--tls-verify=false", name)
        engine("rmi", "-f", name)
        engine("pull", "--tls-verify=false", name)
        assert engine("image", "inspect", "--format", "{{.Id}}", name).stdout.strip() == identity


def test_skopeo_copies_both_ways_and_reads_tags_and_digests(root: Root, tmp_path: Path) -> None:
    store = Store(root)
    digest = image(store, [archive({"a": os.urandom(300_000)}), archive({"b": b"b"})])
    plain = ["--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    with serving(root) as registry, RegistryClient() as client:
        client.push(store, digest, ImageName.parse(f"{registry}/team/app:1"))
        run(["skopeo", "copy", *plain, f"docker://{registry}/team/app:1", f"oci:{tmp_path / 'layout'}:x"])
        run(["skopeo", "copy", *plain, f"oci:{tmp_path / 'layout'}:x", f"docker://{registry}/other/app:2"])
        run(["skopeo", "copy", *plain, f"docker://{registry}/other/app:2", f"docker://{registry}/third/app:3"])
        shown = json.loads(run(["skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/third/app:3"]).stdout)
        run(["skopeo", "delete", "--tls-verify=false", f"docker://{registry}/other/app:2"])
    assert shown["Digest"] == digest
    assert shown["RepoTags"] == ["3"]
    assert Registry(root).tags("other/app") == ()


def test_an_image_that_docker_pushed_is_pulled_by_our_client(root: Root, tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(archive({"random": os.urandom(500_000)}))
    with serving(root) as registry, dockerd() as docker, RegistryClient() as client:
        docker("import", str(layer), f"{registry}/team/app:1")
        docker("push", f"{registry}/team/app:1")
        elsewhere = Store(Root.at(tmp_path / "elsewhere"))
        digest = client.pull(ImageName.parse(f"{registry}/team/app:1"), elsewhere)
    manifest = json.loads(elsewhere.read(digest))
    assert all(elsewhere.has(entry["digest"]) for entry in [manifest["config"], *manifest["layers"]])
