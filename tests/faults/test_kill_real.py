"""kill -9 of the command at random instants, on the real runtime: in create, replace and destroy.

The promise under attack: whatever the instant, one more run, and no hand of a human, gives what was declared: the declared
names, no orphan, no duplicate, nothing left in the kernel, among the processes, in /run or in the store. ``BAYPLAN_SOAK``
takes 200 kills.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from apply_site import Site, astray, busybox_context, eventually, free_port, get, root_with_box
from runtime_world import World

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600 if os.environ.get("BAYPLAN_SOAK") else 240)]

KILLS = 200 if os.environ.get("BAYPLAN_SOAK") else 20
DOCKERFILE = """FROM scratch
COPY busybox /bin/busybox
COPY index.html /www/
CMD ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]
STOPSIGNAL SIGKILL
"""


class Shop:
    """The stack under attack: a built and pushed image, two containers with ports on a network, a volume."""

    def __init__(self, folder: Path, world: World) -> None:
        self.world = world
        self.site = Site(folder / "site", world, "shop")
        self.ports = (free_port(), free_port())
        self.word = ""

    def declare(self, word: str) -> None:
        self.word = word
        busybox_context(self.site.folder / "app", DOCKERFILE, {"index.html": f"{word}\n"})
        web, db = self.ports
        image = "${Image.app.ref}"
        health = {
            "test": ["CMD", "/bin/busybox", "wget", "-q", "-O-", "http://127.0.0.1/"],
            "start_interval": "50ms",
            "start_period": "5s",
            "interval": "30s",
        }
        resources: dict[str, Any] = {
            "Network.net": {},
            "Volume.data": {},
            "Repository.app": {"repository_name": "team/app"},
            "Image.app": {"build": {"context": "./app"}, "tags": ["app:1"], "push": ["${Repository.app.uri}:1"]},
            "Container.db": {
                "image": image,
                "ports": [f"127.0.0.1:{db}:80"],
                "networks": ["${Network.net.name}"],
                "volumes": ["${Volume.data.name}:/data"],
                "env": {"WORD": word},
            },
            "Container.web": {
                "image": image,
                "ports": [f"127.0.0.1:{web}:80"],
                "networks": ["${Network.net.name}"],
                "healthcheck": health,
                "depends_on": {"Container.db": "started"},
            },
        }
        self.site.write(resources)

    def stands(self, what: str) -> None:
        """Everything is as it was declared, and nothing else is there."""
        site, world = self.site, self.world
        assert site.names() == ["shop-db", "shop-web"], what
        assert [one.name for one in world.runtime.list()] == ["shop-db", "shop-web"] or len(world.runtime.list()) == 2
        assert all(one.running for one in world.runtime.list()), what
        for port in self.ports:
            eventually(lambda port=port: get(port) == self.word, f"{what}: port {port} answers {get(port)!r}", 3.0)
        assert site.operations() == [], what
        rows = site.rows()
        assert sorted(rows) == sorted(
            ["Container.db", "Container.web", "Image.app", "Network.net", "Repository.app", "Volume.data"]
        )
        assert {rows["Container.db"], rows["Container.web"]} == {one.id for one in world.runtime.list()}, what
        self.clean(what)

    def gone(self, what: str) -> None:
        assert self.world.runtime.list() == [], what
        assert self.site.rows() == {}, what
        assert [one.name for one in self.world.runtime.networks.list() if one.labels] == [], what
        assert [one.name for one in self.world.runtime.volumes.list()] == [], what
        self.clean(what)

    def clean(self, what: str) -> None:
        eventually(lambda: not astray(self.world), f"{what}: left behind: {astray(self.world)}", 5.0)

    def killed(self, verb: str, delay: float) -> bool:
        """Give the command and kill it ``delay`` seconds after it has told its plan; False when it ended before."""
        process = self.site.process(verb, "--parallelism", "2")
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("["):
                break
        time.sleep(delay)
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=30)
        assert not ended or process.returncode == 0, out + err
        return not ended


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with root_with_box(tmp_path / "world") as world:
        yield Shop(tmp_path, world)


def test_killed_at_any_instant_one_more_run_gives_what_was_declared(shop: Shop) -> None:
    seed = int(os.environ.get("BAYPLAN_SEED", "11"))
    chance = random.Random(seed)
    longest = {"create": 0.6, "replace": 0.6, "destroy": 0.25}
    kills = rounds = 0
    standing = False
    while kills < KILLS:
        rounds += 1
        assert rounds < KILLS * 3, "the delays are wrong: nearly every command ends before its kill"
        mode = "create" if not standing else "destroy" if rounds % 4 == 0 else "replace"
        verb = "destroy" if mode == "destroy" else "apply"
        if mode != "destroy":
            shop.declare(f"round-{rounds}")
        delay = chance.uniform(0.0, longest[mode])
        what = f"seed {seed}, round {rounds}: {mode}, killed after {delay:.3f} s"
        kills += shop.killed(verb, delay)
        ran = shop.site.run(verb, code=None)
        assert ran.code == 0, f"{what}\n{ran.text}"
        standing = verb == "apply"
        (shop.stands if standing else shop.gone)(what)
    shop.site.run("destroy")
    shop.gone("at last")
