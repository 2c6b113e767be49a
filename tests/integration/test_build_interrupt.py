"""Ctrl-C while a RUN says nothing: the command ends soon with 130, and nothing of the build is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from apply_site import SCRATCH, Site, busybox_context, root_with_box
from runtime_world import World, eventually, leftovers

pytestmark = pytest.mark.root

DOCKERFILE = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sleep", "60"]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


def in_work(world: World) -> list[str]:
    """What lies in folders for work in progress, but for locks."""
    folders = (world.root.path / name for name in SCRATCH)
    return [str(each) for folder in folders if folder.is_dir() for each in folder.iterdir() if each.is_dir()]


def test_an_interrupt_during_a_silent_run_ends_the_apply(world: World, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", world, "silent")
    busybox_context(site.folder / "app", DOCKERFILE, {})
    site.write({"Image.app": {"build": {"context": "./app"}, "tags": ["silent:1"]}})
    apply = site.process("apply")
    live = world.root.run_dir / "live"
    running = "it runs"
    eventually(lambda: live.exists() and any((each / "pidfile").exists() for each in live.glob("step-*")), running, 20)
    began = time.monotonic()
    apply.send_signal(signal.SIGINT)
    out, err = apply.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert apply.returncode == 130, out + err
    assert "Traceback" not in err
    assert leftovers(world.root) == []
    assert in_work(world) == []
    assert not list((world.root.run_dir / "net" / "ns").glob("*"))


def test_a_build_in_a_stack_gives_its_network_back(world: World, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", world, "tidy")
    busybox_context(site.folder / "app", DOCKERFILE.replace('"sleep", "60"', '"true"'), {})
    site.write({"Image.app": {"build": {"context": "./app"}, "tags": ["tidy:1"]}})
    site.apply()
    assert not list((world.root.run_dir / "net" / "ns").glob("*"))
    site.destroy()
