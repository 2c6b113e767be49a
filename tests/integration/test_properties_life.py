"""Properties that show only in time: how a container is stopped, when it is given up, what the agent does, what is
pulled."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from apply_site import BOX, PROVIDER, Site, eventually, root_with_box, sleeper
from registry_processes import image, index, serving
from runtime_world import World

from bayplan.oci.descriptor import Platform
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.registry.client import RegistryClient

pytestmark = pytest.mark.root

#: Says which signal came, and ends for SIGUSR1 only.
LISTENING = ["sh", "-c", "trap 'echo usr1; exit 0' USR1; trap 'echo term' TERM; echo up; while :; do sleep 0.1; done"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, world: World) -> Iterator[Site]:
    made = Site(tmp_path, world, re.sub("[^a-z0-9]", "", tmp_path.name.lower())[-30:])
    yield made
    if made.file.exists():
        made.run("destroy", code=None)


def test_the_stop_signal_asks_and_the_stop_timeout_is_the_patience(site: Site) -> None:
    """proves: Container.stop_signal, Container.stop_timeout"""
    both = {
        "Container.asked": {"image": BOX, "command": LISTENING, "network_mode": "none", "stop_signal": "usr1"},
        "Container.deaf": {"image": BOX, "command": LISTENING, "network_mode": "none", "stop_timeout": "1500ms"},
    }
    site.write(both)
    site.settle()
    for name in ("asked", "deaf"):
        eventually(lambda name=name: "up" in site.world.output(f"{site.name}-{name}"), "the program did not start")
    site.write({address: {**one, "desired_state": "stopped"} for address, one in both.items()})
    began = time.monotonic()
    site.settle()
    took = time.monotonic() - began
    assert site.world.output(f"{site.name}-asked").split() == ["up", "usr1"]
    assert site.world.output(f"{site.name}-deaf").split() == ["up", "term"]
    codes = {name: site.container(f"{site.name}-{name}").status.exit_code for name in ("asked", "deaf")}
    assert codes == {"asked": 0, "deaf": 137}
    assert 1.5 <= took < 9


def test_an_apply_waits_for_health_no_longer_than_told(site: Site) -> None:
    """proves: Container.wait_timeout, Container.healthcheck.retries, Container.healthcheck.timeout"""
    check = {"test": ["CMD", "false"], "interval": "100ms", "retries": 1000}
    site.write({"Container.web": sleeper(healthcheck=check, wait_timeout="1s")})
    began = time.monotonic()
    ran = site.apply(code=1)
    assert 1 <= time.monotonic() - began < 8
    assert "healthy" in ran.text
    # A check that takes too long has failed, and so many in a row make it unhealthy: long before the patience is over.
    slow = {"test": ["CMD", "sleep", "60"], "interval": "100ms", "timeout": "300ms", "retries": 2}
    site.write({"Container.web": sleeper(healthcheck=slow, wait_timeout="60s")})
    began = time.monotonic()
    ran = site.apply(code=1)
    assert 0.6 <= time.monotonic() - began < 15
    assert "unhealthy" in ran.text


def test_the_agent_restarts_the_unhealthy_where_that_is_declared(site: Site) -> None:
    """proves: Container.healthcheck.on_unhealthy"""
    check = {"test": ["CMD", "test", "!", "-e", "/broken"], "interval": "200ms", "retries": 2}
    command = ["sh", "-c", "rm -f /broken; echo up; exec sleep 1000"]
    site.write(
        {
            "Container.mended": sleeper(healthcheck={**check, "on_unhealthy": "restart"}, command=command),
            "Container.left": sleeper(healthcheck=check, command=command),
        }
    )
    site.settle()
    agent = subprocess.Popen(
        [sys.executable, "-m", "bayplan.cli.main", "agent", "--root", str(site.world.root.path)],
        env={**site.environment, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(PROVIDER)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for name in ("mended", "left"):
            site.inside(f"{site.name}-{name}", "touch", "/broken")
        eventually(lambda: site.world.output(f"{site.name}-mended").split() == ["up", "up"], "it was not restarted", 20)
        eventually(lambda: site.container(f"{site.name}-mended").health.status == "healthy", "it is not healthy", 20)
        eventually(lambda: site.container(f"{site.name}-left").health.status == "unhealthy", "nobody looked", 20)
        assert site.world.output(f"{site.name}-left").split() == ["up"]
    finally:
        agent.terminate()
        agent.communicate(timeout=30)


def test_the_pull_policy_says_when_a_registry_is_asked(site: Site, tmp_path: Path) -> None:
    """proves: Container.pull_policy"""
    other = Root.at(tmp_path / "other").ensure()
    one, two = (site.world.make_image(labels={"number": number}) for number in ("1", "2"))
    with serving(other) as address, RegistryClient() as client:
        name = f"{address}/team/box:1"

        def push(digest: str) -> None:
            client.push(site.world.store, Digest.parse(digest), ImageName.parse(name))

        def runs(policy: str, **more: object) -> str:
            site.write({"Container.web": sleeper(image=name, pull_policy=policy, **more)})
            site.settle()
            return str(site.container(f"{site.name}-web").spec.image)

        push(one)
        site.write({"Container.web": sleeper(image=name, pull_policy="never")})
        ran = site.run("apply", code=1)
        assert "pull_policy" in ran.text or "never" in ran.text
        assert runs("missing") == one
        push(two)
        assert runs("missing") == one, "the host has it"
        assert runs("never") == one
        assert runs("always") == two
        assert runs("never") == two
    assert runs("missing") == two, "nobody needs the registry for that"


def test_of_an_image_for_several_platforms_only_the_one_for_this_machine_is_pulled(site: Site, tmp_path: Path) -> None:
    """proves: Container.image"""
    other = Root.at(tmp_path / "other").ensure()
    here = str(Platform.here())
    fitting = Digest.parse(site.world.make_image(labels={"for": "here"}))
    foreign = image(site.world.store, [b"a layer for another machine"])
    both = index(site.world.store, {"linux/s390x": foreign, here: fitting})
    alien = index(site.world.store, {"linux/s390x": foreign})
    with serving(other) as address, RegistryClient() as client:
        for tag, digest in (("1", both), ("alien", alien)):
            client.push(site.world.store, digest, ImageName.parse(f"{address}/team/multi:{tag}"))
        fresh = World(tmp_path / "fresh")
        try:
            second = Site(tmp_path / "second", fresh, f"{site.name}m")
            for name in (f"{address}/team/multi:1", f"{address}/team/multi@{both}"):
                second.write({"Container.web": sleeper(image=name)})
                second.settle()
                assert second.container(f"{second.name}-web").spec.image == str(fitting)
            assert not fresh.store.has(foreign)
            second.write({"Container.web": sleeper(image=f"{address}/team/multi:alien")})
            ran = second.run("plan", code=1)
            assert "multi:alien has no image for" in ran.text
            assert here in ran.text
            second.run("destroy")
        finally:
            fresh.close()
