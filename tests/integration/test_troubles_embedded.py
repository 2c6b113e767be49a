"""Troubles that people make by hand, and what they are told: in the plan where it can be known before, else by an honest end
state, message and exit code. The cases are those that other tools were watched to get wrong."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from apply_site import PROVIDER, Site, astray, eventually, free_port, get, root_with_box, server, sleeper
from runtime_world import World

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture
def site(world: World, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, world, f"s{free_port()}")
    yield made
    made.write({})
    made.apply()
    eventually(lambda: not astray(world), "something was left behind")


# -- host port taken ---------------------------------------------------------------------------------------------------


def test_a_port_that_a_process_holds_is_named_in_the_plan_and_nothing_is_begun(site: Site) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        site.write({"Container.a": sleeper(), "Container.web": server(port, "one")})
        plan = site.run("plan", code=1)
        assert f"Container.web: port 127.0.0.1:{port}/tcp is taken" in plan.text
        ran = site.apply(code=1)
        assert f"{port}" in ran.err
        assert str(os.getpid()) in ran.err or "python" in ran.err, "it says who"
        assert site.names() == []
    site.settle()
    assert get(port) == "one"


def test_a_port_that_another_stack_holds_is_named_with_its_owner(site: Site, tmp_path: Path) -> None:
    port = free_port()
    other = Site(tmp_path / "other", site.world, f"{site.name}-other")
    other.write({"Container.web": server(port, "theirs")})
    other.settle()
    site.write({"Container.web": server(port, "ours")})
    ran = site.apply(code=1)
    assert f"port 127.0.0.1:{port}/tcp is taken by the container {other.name}-web" in ran.err
    assert site.names() == []
    assert get(port) == "theirs"
    other.destroy()
    site.settle()
    assert get(port) == "ours"


def test_a_port_that_is_taken_between_plan_and_start_fails_that_container_alone(site: Site) -> None:
    port = free_port()
    plan = str(site.folder / "saved.plan")
    site.write({"Container.a": sleeper(), "Container.web": server(port, "one")})
    site.run("plan", "--out", plan)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        ran = site.run("apply", plan, code=1)
        assert f"port 127.0.0.1:{port}/tcp is taken" in ran.out
        assert "1 of 2 operations done, 1 failed" in ran.out
        assert site.names() == [f"{site.name}-a"]
    site.settle()
    assert get(port) == "one"


def test_two_containers_of_a_stack_that_want_one_port_are_told_before(site: Site) -> None:
    port = free_port()
    site.write({"Container.one": server(port, "one"), "Container.two": server(port, "two")})
    ran = site.apply(code=1)
    assert str(port) in ran.err
    assert site.names() == []


# -- images ------------------------------------------------------------------------------------------------------------


def test_an_image_that_nobody_has_is_named_in_the_plan_and_nothing_is_begun(site: Site) -> None:
    absent = f"127.0.0.1:{free_port()}/nosuch:1"
    site.write({"Container.a": sleeper(), "Container.b": sleeper(image=absent)})
    plan = site.run("plan", code=1)
    assert "Container.b" in plan.text
    assert "nosuch" in plan.text
    ran = site.apply(code=1)
    assert "nosuch" in ran.err
    assert site.names() == []


# -- what does not stay up ---------------------------------------------------------------------------------------------


def test_a_container_that_exits_at_once_is_a_failure_with_its_last_words(site: Site) -> None:
    site.write(
        {
            "Container.a": sleeper(command=["sh", "-c", "echo the disk is full; exit 3"]),
            "Container.b": sleeper(depends_on={"Container.a": "started"}),
            "Container.c": sleeper(),
        }
    )
    ran = site.apply(code=1)
    assert f"the container {site.name}-a exited at once with code 3" in ran.out
    assert "the disk is full" in ran.out
    assert "Container.b create: skipped" in ran.out
    assert f"{site.name}-c" in site.names(), "what does not depend on it goes on"
    assert f"{site.name}-b" not in site.names()
    again = site.apply(code=1)
    assert "exited at once with code 3" in again.out, "it is no success the second time either"
    assert len(site.names()) == len(set(site.names())) <= 2
    site.write({"Container.a": sleeper(), "Container.b": sleeper(), "Container.c": sleeper()})
    site.settle()


def test_a_container_that_exits_at_once_with_success_did_not_stay_either(site: Site) -> None:
    site.write({"Container.a": sleeper(command=["true"])})
    assert "exited at once with code 0" in site.apply(code=1).out


def test_a_command_that_is_not_there_is_a_failure_in_words(site: Site) -> None:
    site.write({"Container.a": sleeper(command=["/no/such/program"])})
    ran = site.apply(code=1)
    assert "/no/such/program" in ran.out
    assert "Traceback" not in ran.text
    site.write({"Container.a": sleeper()})
    site.settle()


def test_a_container_that_is_never_healthy_is_a_failure_when_its_time_is_over(site: Site) -> None:
    check = {"test": ["CMD", "sh", "-c", "echo no answer; false"], "start_interval": "100ms", "start_period": "60s"}
    site.write({"Container.a": sleeper(healthcheck=check, wait_timeout="1s")})
    began = time.monotonic()
    ran = site.apply(code=1)
    assert time.monotonic() - began < 10
    assert "healthy" in ran.out
    assert "no answer" in ran.out
    site.write({"Container.a": sleeper()})
    site.settle()


# -- what was changed by hand ------------------------------------------------------------------------------------------


def test_made_anew_by_hand_with_another_environment_under_the_same_labels_is_seen(site: Site) -> None:
    site.write({"Container.a": sleeper(env={"A": "right"})})
    site.settle()
    world = site.world
    labels = dict(site.container(f"{site.name}-a").labels)
    world.runtime.remove(f"{site.name}-a", force=True)
    spec = world.spec(f"{site.name}-a", "sleep", "1000", env={"A": "wrong"}, labels=labels)
    world.runtime.start(world.runtime.create(spec))
    assert "env: " in site.run("drift", code=2).out
    assert site.operations() == ["Container.a replace env (drift)"]
    site.settle()
    assert site.inside(f"{site.name}-a", "sh", "-c", "echo $A") == "right"


def test_made_by_hand_under_our_name_is_a_conflict_that_the_plan_names(site: Site) -> None:
    world = site.world
    foreign = world.run(f"{site.name}-a", "sleep", "1000")
    site.write({"Container.a": sleeper()})
    ran = site.apply(code=1)
    assert f"a container named {site.name}-a exists and is nobody's: import it, or choose another name" in ran.err
    assert world.runtime.inspect(foreign).running
    world.runtime.remove(foreign, force=True)
    site.settle()


def test_memory_changed_by_hand_is_seen_and_set_back_in_the_kernel(site: Site) -> None:
    site.write({"Container.a": sleeper(memory="32m")})
    site.settle()
    site.world.runtime.update(f"{site.name}-a", memory=64 << 20)
    assert "memory: 33554432 -> 67108864" in site.run("drift", code=2).out
    assert site.operations() == ["Container.a update memory (drift)"]
    site.settle()
    assert site.world.runtime.stats(f"{site.name}-a").memory_limit == 32 << 20


def test_paused_by_hand_goes_on(site: Site) -> None:
    site.write({"Container.a": sleeper()})
    site.settle()
    site.world.runtime.pause(f"{site.name}-a")
    assert site.operations() == ["Container.a unpause paused by hand"]
    site.settle()


def test_started_by_hand_is_stopped_where_that_is_declared(site: Site) -> None:
    site.write({"Container.a": sleeper(desired_state="stopped")})
    site.settle()
    site.world.runtime.start(f"{site.name}-a")
    assert site.operations() == ["Container.a stop started by hand"]
    site.settle()


def test_killed_from_outside_is_told_with_its_exit_code(site: Site) -> None:
    site.write({"Container.a": sleeper()})
    site.settle()
    status = site.container(f"{site.name}-a").status
    os.kill(status.init.pid, 9)
    eventually(lambda: not site.container(f"{site.name}-a").running, "it has ended")
    assert site.operations() == ["Container.a start exited with 137"]
    site.settle()


def test_a_world_that_changed_after_the_plan_was_saved_is_refused_for_what_changed(site: Site) -> None:
    plan = str(site.folder / "saved.plan")
    site.write({"Container.a": sleeper(env={"A": "1"}), "Container.b": sleeper(env={"A": "1"})})
    site.settle()
    site.write({"Container.b": sleeper(env={"A": "2"})})
    site.run("plan", "--out", plan)
    site.world.runtime.remove(f"{site.name}-b", force=True)
    ran = site.run("apply", plan, code=1)
    assert "Container.b replace: stale" in ran.out
    assert "the container is gone" in ran.out
    assert site.names() == []
    site.settle()


def test_a_volume_and_a_container_removed_by_hand_come_back(site: Site) -> None:
    site.write({"Volume.v": {}, "Container.a": sleeper(volumes=["${Volume.v.name}:/data"])})
    site.settle()
    site.world.runtime.remove(f"{site.name}-a", force=True)
    site.world.runtime.volumes.remove(f"{site.name}-v", {})
    assert [line.split()[:2] for line in site.operations()] == [["Volume.v", "create"], ["Container.a", "create"]]
    site.settle()


def test_a_volume_in_use_by_somebody_else_is_not_taken_from_them(site: Site) -> None:
    from bayplan.runtime.spec import Mount

    site.write({"Volume.v": {}})
    site.settle()
    world = site.world
    foreign = world.run("guest", "sleep", "1000", mounts=(Mount("volume", "/data", f"{site.name}-v"),))
    site.write({})
    ran = site.apply(code=1)
    assert "guest" in ran.out
    assert world.runtime.inspect(foreign).running
    world.runtime.remove(foreign, force=True)
    site.settle()


# -- many at once ------------------------------------------------------------------------------------------------------


def test_four_applies_at_once_make_everything_once(site: Site) -> None:
    site.write({f"Container.c{number}": sleeper() for number in range(4)} | {"Network.n": {}})
    processes = [site.process("apply") for _ in range(4)]
    outs = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outs
    assert len(site.names()) == 4
    site.nothing_to_do()


def test_two_stacks_of_one_root_are_applied_side_by_side(site: Site, tmp_path: Path) -> None:
    others = [Site(tmp_path / f"n{number}", site.world, f"{site.name}-{number}") for number in range(3)]
    for one in others:
        one.write({"Network.n": {}, "Container.a": sleeper(network_mode="bridge", networks=["${Network.n.name}"])})
    failed: list[str] = []

    def settle(one: Site) -> None:
        process = one.process("apply")
        out, err = process.communicate(timeout=90)
        if process.returncode:
            failed.append(out + err)

    threads = [threading.Thread(target=settle, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for one in others:
        one.nothing_to_do()
        one.destroy()


def test_a_process_with_many_open_files_can_still_speak_to_the_firewall() -> None:
    """libnftables waits by select(2) and aborts a process whose sockets have numbers beyond it."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1200, 1200))
    program = (
        "import os, resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))\n"
        "kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(1100)]\n"
        "from bayplan.runtime.net import nft\n"
        "nft.query('list tables')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(PROVIDER)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
