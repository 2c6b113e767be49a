"""What each property of an Image does to the image that comes out; looked at as the OCI layout that skopeo would read, and
by running it."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apply_site import Site, root_with_box, sleeper
from runtime_world import World, busybox_tree

from bayplan.oci.digest import Digest
from bayplan.oci.image import Image
from bayplan.oci.names import Names

pytestmark = pytest.mark.root

DOCKERFILE = """\
ARG BASE=box:1
FROM ${BASE} AS tools
RUN echo never > /never; exit 9
FROM ${BASE} AS first
ARG WORD=none
COPY word /word
RUN echo "$WORD $(cat /proc/sys/kernel/random/uuid)" > /made
LABEL by=dockerfile kept=yes
FROM first AS last
ENV STAGE=last
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, world: World) -> Iterator[Site]:
    made = Site(tmp_path, world, re.sub("[^a-z0-9]", "", tmp_path.name.lower())[-30:])
    context = tmp_path / "app"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "word").write_text("word\n")
    (context / "secret.txt").write_text("left out\n")
    (context / ".dockerignore").write_text("secret.*\n")
    yield made
    if made.file.exists():
        made.run("destroy", code=None)


def config(site: Site, address: str) -> Any:
    """The configuration of an Image of the stack, as JSON."""
    digest = site.run("state", "show", address).document["outputs"]["digest"]
    image = Image.load(site.world.store, Digest.parse(digest))
    return json.loads(site.world.store.read(image.config_descriptor.digest, 1 << 20))


def test_a_build_is_made_of_its_context_dockerfile_target_args_and_labels(site: Site) -> None:
    """proves: Image.build, Image.build.context, Image.build.dockerfile, Image.build.target, Image.build.args,
    Image.build.labels"""
    (site.folder / "Dockerfile.prod").write_text("FROM box:1\nCOPY . /all/\nSTOPSIGNAL SIGUSR1\n")
    site.write(
        {
            "Image.last": {"build": {"context": "./app", "args": {"WORD": "given", "BASE": "box:1"}}},
            "Image.first": {
                "build": {"context": "app", "target": "first", "labels": {"by": "file", "level": 3}},
                "tags": ["first:1"],
            },
            "Image.prod": {"build": {"context": "./app", "dockerfile": "./Dockerfile.prod"}},
            "Container.last": sleeper(image="${Image.last.ref}"),
            "Container.first": sleeper(image="first:1"),
            "Container.prod": sleeper(image="${Image.prod.ref}"),
        }
    )
    site.settle()
    inside = {name: f"{site.name}-{name}" for name in ("last", "first", "prod")}
    assert site.inside(inside["last"], "sh", "-c", "cat /made; echo $STAGE").startswith("given ")
    assert site.inside(inside["last"], "sh", "-c", "echo $STAGE") == "last"
    assert site.inside(inside["first"], "sh", "-c", "cat /word /made; echo $STAGE").startswith("word\nnone ")
    assert site.inside(inside["first"], "sh", "-c", "echo $STAGE") == ""
    assert site.inside(inside["prod"], "ls", "/all") == "Dockerfile\nword"
    assert config(site, "Image.first")["config"]["Labels"] == {"by": "file", "kept": "yes", "level": "3"}
    assert config(site, "Image.prod")["config"]["StopSignal"] == "SIGUSR1"
    assert config(site, "Image.last")["created"][:4] > "2020", "without an epoch times are those of the build"


def test_the_epoch_sets_every_time_and_makes_the_digest_of_content_alone(site: Site) -> None:
    """proves: Image.build.source_date_epoch, Image.build.platform"""
    (site.folder / "app/Dockerfile").write_text("FROM scratch\nCOPY word /word\n")
    again = site.folder / "again"
    again.mkdir()
    (again / "Dockerfile").write_text("FROM scratch\nCOPY word /word\n")
    (again / "word").write_text("word\n")
    build = {"source_date_epoch": 1700000000, "no_cache": True}
    site.write(
        {
            "Image.one": {"build": {"context": "./app", **build}},
            "Image.two": {"build": {"context": "./again", **build}},
            "Image.arg": {"build": {"context": "./app", "args": {"SOURCE_DATE_EPOCH": "86400"}}},
            "Image.arm": {"build": {"context": "./app", **build, "platform": "linux/arm64/v8"}},
        }
    )
    site.settle()
    rows = {name: site.run("state", "show", f"Image.{name}").document["outputs"] for name in ("one", "two", "arm")}
    assert rows["one"]["digest"] == rows["two"]["digest"]
    assert rows["one"]["digest"] != rows["arm"]["digest"]
    assert config(site, "Image.one")["created"] == "2023-11-14T22:13:20Z"
    assert config(site, "Image.arg")["created"] == "1970-01-02T00:00:00Z"
    arm = config(site, "Image.arm")
    assert (arm["os"], arm["architecture"], arm.get("variant")) == ("linux", "arm64", "v8")
    layer = Image.load(site.world.store, Digest.parse(rows["one"]["digest"])).layers[0].descriptor.digest
    with tarfile.open(site.world.store.path(layer)) as tar:
        assert {member.mtime for member in tar} == {1700000000}


def test_without_the_cache_every_instruction_runs_again(site: Site) -> None:
    """Two images of one definition: the second takes its RUN from the first, unless it may not.

    proves: Image.build.no_cache"""
    build = {"context": "./app", "target": "first"}
    site.write({"Image.one": {"build": build}, "Container.one": sleeper(image="${Image.one.ref}")})
    site.settle()
    site.write(
        {
            "Image.one": {"build": build},
            "Image.same": {"build": build},
            "Image.anew": {"build": {**build, "no_cache": True}},
            **{f"Container.{name}": sleeper(image=f"${{Image.{name}.ref}}") for name in ("one", "same", "anew")},
        }
    )
    site.settle()
    made = {name: site.inside(f"{site.name}-{name}", "cat", "/made") for name in ("one", "same", "anew")}
    assert made["one"] == made["same"]
    assert made["one"] != made["anew"]


@pytest.mark.parametrize("form", ["folder", "tar", "tar.gz", "tar.xz"])
def test_a_root_file_system_becomes_an_image_that_runs(site: Site, form: str) -> None:
    """proves: Image.rootfs"""
    tree = busybox_tree(site.folder / "tree")
    source = "./tree"
    if form != "folder":
        mode = {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[form]
        with tarfile.open(site.folder / f"base.{form}", mode) as tar:  # type: ignore[call-overload]
            tar.add(tree, ".")
        source = f"base.{form}"
    (site.folder / "app/Dockerfile").write_text("FROM my/base:1\nRUN echo on top > /top\n")
    site.write(
        {
            "Image.base": {"rootfs": source, "tags": ["my/base:1", "my/base:latest"]},
            "Image.top": {"build": {"context": "./app"}},
            "Container.web": sleeper(image="${Image.top.ref}", command=["/bin/sleep", 1000], user="app"),
        }
    )
    site.settle()
    assert site.inside(f"{site.name}-web", "/bin/cat", "/top", "/srv/data/seed") == "on top\nfrom the image"
    assert site.inside(f"{site.name}-web", "/bin/stat", "-c", "%u:%g:%a", "/srv/data") == "1000:1001:750"


def test_tags_are_names_in_the_store_that_come_and_go(site: Site, world: World) -> None:
    (site.folder / "app/Dockerfile").write_text("FROM scratch\nCOPY word /word\n")
    image = {"build": {"context": "./app"}}
    site.write({"Image.app": {**image, "tags": ["app:1", "registry.example.com/team/app:2"]}})
    site.settle()
    digest = site.run("state", "show", "Image.app").document["outputs"]["digest"]
    names = Names(world.root)
    for tag in ("app:1", "registry.example.com/team/app:2"):
        found = names.get(tag)
        assert found is not None
        assert str(found.digest) == digest
    site.write({"Image.app": {**image, "tags": ["app:3"]}})
    site.settle()
    assert names.get("app:1") is None
    assert names.get("app:3") is not None
    listed = json.dumps(site.run("image", "list", "--json").document)
    assert "app:3" in listed or '"3"' in listed
