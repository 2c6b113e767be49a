"""The whole path on the real runtime, as its user walks it: apply, drift, plans, state, import, locks, two roots."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apply_site import (
    BOX,
    Site,
    astray,
    busybox_context,
    eventually,
    fingerprint,
    free_port,
    get,
    root_with_box,
    server,
    sleeper,
)
from runtime_world import World

from bayplan.oci.digest import Digest
from bayplan.oci.names import Names
from bayplan.registry.registry import Registry

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture
def site(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A stack of its own on the shared root, removed at the end, whatever is declared then."""
    name = "t-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:40].strip("-")
    made = Site(tmp_path, world, name)
    yield made
    made.write({})
    made.run("apply")
    assert made.names() == []
    eventually(lambda: not astray(world), "something was left behind")


HEALTH = {
    "test": ["CMD", "wget", "-q", "-O-", "http://127.0.0.1/"],
    "start_interval": "50ms",
    "start_period": "5s",
    "interval": "30s",
}


def built(site: Site, word: str, port: int) -> dict[str, Any]:
    """A built, tagged and pushed image, and a container of it that answers ``word``."""
    dockerfile = (
        'FROM box:1\nCOPY word /www/index.html\nCMD ["httpd", "-f", "-p", "80", "-h", "/www"]\nSTOPSIGNAL SIGKILL\n'
    )
    busybox_context(site.folder / "app", dockerfile, {"word": f"{word}\n"})
    return {
        "Repository.app": {"repository_name": f"{site.name}/app"},
        "Image.app": {
            "build": {"context": "./app"},
            "tags": [f"{site.name}/app:1"],
            "push": ["${Repository.app.uri}:1"],
        },
        "Container.web": {
            "image": "${Image.app.ref}",
            "ports": [f"127.0.0.1:{port}:80"],
            "healthcheck": HEALTH,
        },
    }


# -- the whole path ----------------------------------------------------------------------------------------------------


def test_apply_builds_pushes_starts_and_the_second_one_has_nothing_to_do(site: Site) -> None:
    port = free_port()
    site.write(built(site, "one", port), outputs={"url": f"http://127.0.0.1:{port}/", "image": "${Image.app.digest}"})
    first = site.apply()
    assert "5 of 5 operations done" in first.out
    assert get(port) == "one"
    again = site.apply()
    assert "no changes" in again.out
    digest = str(Names(site.world.root).get(f"{site.name}/app:1").digest)  # type: ignore[union-attr]
    assert site.run("output", "--json").document["outputs"] == {"image": digest, "url": f"http://127.0.0.1:{port}/"}
    assert Registry(site.world.root).resolve(f"{site.name}/app", "1").digest == digest
    assert site.container(site.rows()["Container.web"]).spec.image == digest


def test_a_changed_source_is_a_build_its_push_and_the_replacement_of_what_runs_it(site: Site) -> None:
    port = free_port()
    site.write(built(site, "one", port))
    site.settle()
    before = site.rows()["Container.web"]
    built(site, "two", port)
    assert [line.split()[:2] for line in site.operations()] == [
        ["Image.app", "build"],
        ["Image.app", "tag"],
        ["Image.app", "push"],
        ["Container.web", "replace"],
    ]
    assert "COPY word" in site.operations()[0]
    site.settle()
    assert get(port) == "two"
    assert site.rows()["Container.web"] != before
    assert site.names() == [f"{site.name}-web"]


def test_a_plan_and_a_drift_have_no_effect_that_anyone_can_see(site: Site) -> None:
    port = free_port()
    site.write(built(site, "one", port))
    site.settle()
    built(site, "two", port)
    site.world.runtime.stop(f"{site.name}-web")
    eventually(lambda: not astray(site.world), "it has ended")
    before = fingerprint(site.world.root.path, site.state, site.world.root.run_dir)
    site.run("plan", code=0)
    site.run("plan", "--json", "--detailed-exitcode", code=2)
    site.run("plan", "--destroy")
    site.run("drift", code=2)
    site.run("validate")
    site.run("state", "list")
    site.run("graph")
    after = fingerprint(site.world.root.path, site.state, site.world.root.run_dir)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()


def test_a_plan_on_a_root_that_is_not_there_makes_none(world: World, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", world)
    site.write({"Network.n": {}, "Container.c": sleeper(image="nowhere@sha256:" + "0" * 64)})
    ran = site.run("plan", "--root", str(tmp_path / "absent"), code=None)
    assert "Network.n" in ran.out
    assert not (tmp_path / "absent").exists()
    assert not site.state.exists()


def test_replacement_under_a_polling_client_misses_no_answer(site: Site) -> None:
    port = free_port()
    site.write({"Container.web": server(port, "round-0", healthcheck=HEALTH)})
    site.settle()
    answers: list[str] = []
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            answers.append(get(port, timeout=2.0))

    clients = [threading.Thread(target=poll) for _ in range(2)]
    for one in clients:
        one.start()
    try:
        for number in range(1, 6):
            site.write({"Container.web": server(port, f"round-{number}", healthcheck=HEALTH)})
            site.apply()
    finally:
        over.set()
        for one in clients:
            one.join()
    missed = [index for index, text in enumerate(answers) if not text]
    assert len(answers) > 100
    assert missed == [], f"{len(missed)} of {len(answers)} requests had no answer"
    assert set(answers) == {f"round-{number}" for number in range(6)}
    assert site.names() == [f"{site.name}-web"]


# -- what changes outside ----------------------------------------------------------------------------------------------


def test_stopped_by_hand_is_named_and_started(site: Site) -> None:
    site.write({"Container.a": sleeper()})
    site.settle()
    site.world.runtime.stop(f"{site.name}-a")
    assert "Container.a  stopped by hand" in site.run("drift", code=2).out
    assert site.operations() == ["Container.a start stopped by hand"]
    before = site.rows()
    site.settle()
    assert site.rows() == before


def test_removed_by_hand_is_named_and_made_again(site: Site) -> None:
    site.write({"Container.a": sleeper(), "Container.b": sleeper()})
    site.settle()
    site.world.runtime.remove(f"{site.name}-a", force=True)
    assert "Container.a  is gone" in site.run("drift", code=2).out
    assert site.operations() == ["Container.a create removed by hand"]
    site.settle()


def test_renamed_by_hand_a_declared_name_comes_back_and_a_derived_one_is_nobodys_business(site: Site) -> None:
    site.write({"Container.a": sleeper(name=f"{site.name}-declared"), "Container.b": sleeper()})
    site.settle()
    site.world.runtime.rename(f"{site.name}-declared", f"{site.name}-moved")
    site.world.runtime.rename(f"{site.name}-b", f"{site.name}-other")
    assert "Container.a" in site.run("drift", code=2).out
    assert len(site.operations()) == 1
    site.settle()
    assert site.names() == [f"{site.name}-declared", f"{site.name}-other"]


def test_a_network_removed_by_hand_is_made_again_under_its_users(site: Site) -> None:
    site.write({"Network.n": {}, "Container.a": sleeper(network_mode="bridge", networks=["${Network.n.name}"])})
    site.settle()
    site.world.runtime.remove(f"{site.name}-a", force=True)
    site.world.runtime.networks.remove(f"{site.name}-n")
    assert "Network.n" in site.run("drift", code=2).out
    site.settle()
    assert site.world.runtime.networks.get(f"{site.name}-n") is not None


def test_a_tag_moved_by_hand_is_named_and_comes_back(site: Site) -> None:
    site.write(built(site, "one", free_port()))
    site.settle()
    names = Names(site.world.root)
    right = names.get(f"{site.name}/app:1")
    assert right is not None
    names.set(f"{site.name}/app:1", Digest.parse(site.world.image), {})
    assert "Image.app" in site.run("drift", code=2).out
    assert site.operations() == [f"Image.app tag {site.name}/app:1 (drift)"]
    site.settle()
    moved = names.get(f"{site.name}/app:1")
    assert moved is not None
    assert moved.digest == right.digest


def test_a_tag_in_the_repository_moved_by_hand_is_pushed_again(site: Site) -> None:
    site.write(built(site, "one", free_port()))
    site.settle()
    registry = Registry(site.world.root)
    right = registry.resolve(f"{site.name}/app", "1").digest
    registry.push_local(f"{site.name}/app", "1", Digest.parse(site.world.image))
    assert site.operations() == ["Image.app push to Repository.app:1, which has another image"]
    site.settle()
    assert registry.resolve(f"{site.name}/app", "1").digest == right


def test_an_image_removed_by_hand_is_made_again_and_what_runs_stays(site: Site) -> None:
    port = free_port()
    site.write(built(site, "one", port))
    site.settle()
    before = site.rows()["Container.web"]
    names = Names(site.world.root)
    for one in names.list({"bayplan.dev/stack": site.name}):
        names.remove(one.name)
    assert site.operations()[0].startswith("Image.app build")
    site.settle()
    assert site.rows()["Container.web"] == before
    assert get(port) == "one"


# -- what the files may say of a plan ----------------------------------------------------------------------------------


def test_prevent_destroy_refuses_a_plan_that_would_and_ignore_changes_leaves_a_field(site: Site) -> None:
    guarded = {"lifecycle": {"prevent_destroy": True}}
    site.write({"Container.a": sleeper(env={"A": "1"}, **guarded), "Container.b": sleeper(memory="32m")})
    site.settle()
    site.write({"Container.a": sleeper(env={"A": "2"}, **guarded), "Container.b": sleeper(memory="32m")})
    ran = site.apply(code=1)
    assert "prevent_destroy" in ran.err
    assert "bayplan.yaml:" in ran.err
    assert "prevent_destroy" in site.run("destroy", code=1).err
    site.write(
        {
            "Container.a": sleeper(env={"A": "2"}, lifecycle={"prevent_destroy": True, "ignore_changes": ["env"]}),
            "Container.b": sleeper(memory="48m", lifecycle={"ignore_changes": ["memory"]}),
        }
    )
    assert site.operations() == []
    assert len(site.names()) == 2


def test_target_takes_what_it_needs_along_and_leaves_the_rest(site: Site) -> None:
    resources = {
        "Network.n": {},
        "Container.a": sleeper(network_mode="bridge", networks=["${Network.n.name}"]),
        "Container.b": sleeper(),
    }
    site.write(resources)
    site.apply("--target", "Container.a")
    assert sorted(site.rows()) == ["Container.a", "Network.n"]
    site.settle()
    site.run("destroy", "--target", "Network.n")
    assert sorted(site.rows()) == ["Container.b"]


def test_replace_makes_a_container_anew_and_an_unknown_address_is_an_error(site: Site) -> None:
    site.write({"Container.a": sleeper(), "Container.b": sleeper()})
    site.settle()
    before = site.rows()
    site.apply("--replace", "Container.a")
    after = site.rows()
    assert after["Container.a"] != before["Container.a"]
    assert after["Container.b"] == before["Container.b"]
    assert "did you mean Container.a?" in site.apply("--replace", "Container.aa", code=1).err


def test_a_repository_and_an_image_can_be_made_anew_by_hand(site: Site) -> None:
    site.write(built(site, "one", free_port()))
    site.settle()
    site.apply("--replace", "Repository.app", "--replace", "Image.app")
    site.nothing_to_do()
    assert Registry(site.world.root).resolve(f"{site.name}/app", "1").digest


# -- saved plans -------------------------------------------------------------------------------------------------------


def test_a_saved_plan_is_carried_out_as_it_was_shown(site: Site) -> None:
    plan = str(site.folder / "saved.plan")
    site.write({"Container.a": sleeper(), "Container.b": sleeper()})
    site.run("plan", "--out", plan)
    site.write({"Container.a": sleeper(), "Container.b": sleeper(), "Container.c": sleeper()})
    site.run("apply", plan)
    assert site.names() == [f"{site.name}-a", f"{site.name}-b"]
    assert "Container.c create new" in site.operations()


def test_a_stale_saved_plan_is_refused_for_the_resource_that_changed_and_for_no_other(site: Site) -> None:
    plan = str(site.folder / "saved.plan")
    first = {"Container.a": sleeper(env={"A": "1"}), "Container.b": sleeper(env={"A": "1"})}
    second = {"Container.a": sleeper(env={"A": "2"}), "Container.b": sleeper(env={"A": "2"})}
    site.write(first)
    site.settle()
    site.write(second)
    site.run("plan", "--out", plan)
    site.world.runtime.stop(f"{site.name}-a")
    before = site.rows()
    ran = site.run("apply", plan, code=1)
    assert "stale: Container.a changed after the plan was made" in ran.out
    assert "1 of 2 operations done, 1 stale" in ran.out
    after = site.rows()
    assert after["Container.a"] == before["Container.a"]
    assert after["Container.b"] != before["Container.b"]
    assert not site.container(f"{site.name}-a").running
    # The same file once more: what was done is stale now too, and nothing is done twice.
    assert "2 stale" in site.run("apply", plan, code=1).out
    assert site.rows() == after
    site.settle()


def test_a_saved_plan_that_was_edited_is_refused_whole(site: Site) -> None:
    plan = site.folder / "saved.plan"
    site.write({"Container.a": sleeper(env={"A": "1"})})
    site.run("plan", "--out", str(plan))
    document = plan.read_text()
    assert "sleep" in document
    plan.write_text(document.replace("sleep", "sloop"))
    ran = site.run("apply", str(plan), code=1)
    assert "error[" in ran.err
    assert site.names() == []


# -- who else is there -------------------------------------------------------------------------------------------------


def test_two_roots_with_the_same_stack_stand_side_by_side(site: Site, tmp_path: Path) -> None:
    with root_with_box(tmp_path / "other") as other:
        twin = Site(tmp_path / "twin", other, site.name)
        ports = free_port(), free_port()
        for one, port in ((site, ports[0]), (twin, ports[1])):
            one.write({"Network.n": {}, "Container.web": server(port, f"at-{port}", networks=["${Network.n.name}"])})
            one.settle()
        assert get(ports[0]) == f"at-{ports[0]}"
        assert get(ports[1]) == f"at-{ports[1]}"
        twin.destroy()
        assert astray(other) == []
        assert get(ports[0]) == f"at-{ports[0]}"
        site.nothing_to_do()


def test_a_second_apply_waits_and_then_sees_that_nothing_is_left_to_do(site: Site) -> None:
    site.write({f"Container.c{number}": sleeper() for number in range(3)})
    one, two = site.process("apply", "--parallelism", "1"), site.process("apply")
    outs = [process.communicate(timeout=60)[0] for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), outs
    assert sum("3 of 3 operations done" in out for out in outs) == 1, outs
    assert sum("no changes" in out for out in outs) >= 1, outs
    assert len(site.names()) == 3
    site.nothing_to_do()


def test_a_lock_that_is_held_too_long_names_its_holder(site: Site) -> None:
    slow = sleeper(healthcheck={"test": ["CMD", "false"], "start_interval": "1s", "start_period": "60s"})
    site.write({"Container.a": slow})
    holder = site.process("apply")
    assert holder.stdout is not None
    for line in holder.stdout:
        if "waits until it is healthy" in line:
            break
    site.write({"Container.a": slow, "Container.b": sleeper()})
    ran = site.apply("--lock-timeout", "0.2", code=1)
    assert f"locked by process {holder.pid} since" in ran.err
    holder.terminate()
    holder.communicate(timeout=20)
    assert holder.returncode in (130, 143)


# -- state -------------------------------------------------------------------------------------------------------------


def test_state_shows_what_is_recorded_and_how_it_came(site: Site) -> None:
    site.write({"Container.a": sleeper(env={"A": "1"}), "Network.n": {}})
    site.settle()
    shown = site.run("state", "show", "Container.a").document
    assert shown["kind"] == "Container"
    assert shown["properties"]["command"] == ["sleep", "1000"]
    runs = site.run("state", "history", "--json").document["runs"]
    assert [(one["verb"], one["outcome"], one["operations"]) for one in runs] == [("apply", "ok", 2)]
    steps = site.run("state", "history", str(runs[0]["run"]), "--json").document["operations"]
    assert {(one["address"], one["phase"]) for one in steps} == {("Container.a", "ok"), ("Network.n", "ok")}
    assert "did you mean 'Container.a'" in site.run("state", "show", "Container.aa", code=1).err


def test_state_mv_gives_another_address_with_no_operation(site: Site) -> None:
    site.write({"Container.old": sleeper(name=f"{site.name}-x"), "Network.old": {"name": f"{site.name}-n"}})
    site.settle()
    before = site.rows()
    site.write({"Container.new": sleeper(name=f"{site.name}-x"), "Network.new": {"name": f"{site.name}-n"}})
    site.run("state", "mv", "Container.old", "Container.new")
    site.run("state", "mv", "Network.old", "Network.new")
    site.nothing_to_do()
    assert site.rows() == {"Container.new": before["Container.old"], "Network.new": before["Network.old"]}


def test_state_rm_lets_go_without_touching(site: Site) -> None:
    site.write({"Container.a": sleeper(), "Container.b": sleeper()})
    site.settle()
    site.run("state", "rm", "Container.a")
    site.write({"Container.b": sleeper()})
    site.nothing_to_do()
    left = site.container(f"{site.name}-a")
    assert left.running
    assert "bayplan.dev/stack" not in left.labels
    site.world.runtime.remove(left.id, force=True)


def test_a_lost_state_is_made_again_from_the_world(site: Site) -> None:
    site.write(built(site, "one", free_port()))
    site.settle()
    before = site.rows()
    for file in site.state.iterdir():
        file.unlink()
    assert site.operations() == [], "labels are the record; the state is a cache"
    assert site.rows() == {}
    assert "3 resources found" in site.run("state", "rebuild").out
    assert site.rows() == before
    site.nothing_to_do()


def test_a_lost_state_is_made_again_by_an_apply_too(site: Site) -> None:
    site.write({"Container.a": sleeper(), "Volume.v": {}})
    site.settle()
    before = site.rows()
    for file in site.state.iterdir():
        file.unlink()
    assert "no changes" in site.apply().out
    assert site.rows() == before


# -- adoption ----------------------------------------------------------------------------------------------------------


def test_a_container_made_by_hand_is_imported_and_planned_field_by_field(site: Site) -> None:
    world = site.world
    made = world.runtime.create(world.spec("by-hand", "sleep", "1000", memory=32 << 20, env={"A": "1"}))
    world.runtime.start(made)
    site.write({"Container.a": sleeper(name="by-hand", memory="32m", env={"A": "1"})})
    assert "exists and is nobody's" in site.apply(code=1).err
    site.run("import", "Container.a", "by-hand")
    assert site.operations() == []
    site.write({"Container.a": sleeper(name="by-hand", memory="48m", env={"A": "1"})})
    assert site.operations() == ["Container.a update memory"]
    site.settle()
    assert world.runtime.stats(made).memory_limit == 48 << 20
    site.write({"Container.a": sleeper(name="by-hand", memory="48m", env={"A": "2"})})
    site.settle()
    assert site.rows()["Container.a"] != made


def test_an_image_and_a_repository_made_by_hand_are_imported(site: Site) -> None:
    registry = Registry(site.world.root)
    registry.create_repository(f"{site.name}/by-hand")
    site.write({"Repository.r": {"repository_name": f"{site.name}/by-hand"}, "Network.n": {"name": f"{site.name}-n"}})
    site.world.runtime.networks.create(f"{site.name}-n")
    assert "import it" in site.apply(code=1).err
    site.run("import", "Repository.r", f"{site.name}/by-hand")
    site.run("import", "Network.n", f"{site.name}-n")
    assert site.operations() == []
    assert sorted(site.rows()) == ["Network.n", "Repository.r"]
    assert "is recorded already" in site.run("import", "Repository.r", f"{site.name}/by-hand", code=1).err
    assert "there is no" in site.run("import", "Network.n", "nowhere", code=1).err
    site.destroy()
    assert f"{site.name}/by-hand" not in registry.catalog()


def test_an_image_made_by_hand_is_imported_and_made_what_is_declared(site: Site) -> None:
    names = Names(site.world.root)
    names.set(f"{site.name}/app:1", Digest.parse(site.world.image), {})
    site.write(built(site, "one", free_port()))
    site.run("import", "Image.app", f"{site.name}/app:1")
    assert "Image.app build" in site.operations()[1]
    site.settle()
    found = names.get(f"{site.name}/app:1")
    assert found is not None
    assert str(found.digest) != site.world.image


def test_an_imported_image_goes_with_its_stack(site: Site) -> None:
    names = Names(site.world.root)
    names.set(f"{site.name}/other:1", Digest.parse(site.world.image), {})
    site.write({"Image.i": {"build": {"context": "./app"}, "tags": [f"{site.name}/other:1"]}})
    busybox_context(site.folder / "app", "FROM box:1\n", {})
    site.run("import", "Image.i", f"{site.name}/other:1")
    site.destroy()
    assert names.get(f"{site.name}/other:1") is None
    assert names.get(BOX) is not None


def test_destroy_leaves_what_is_not_ours(site: Site) -> None:
    world = site.world
    foreign = world.run("foreign", "sleep", "1000")
    site.write({"Container.a": sleeper()})
    site.settle()
    site.destroy()
    assert world.runtime.inspect(foreign).running
    assert Names(world.root).get(BOX) is not None
    world.runtime.remove(foreign, force=True)


def test_a_failed_replacement_leaves_the_old_one_serving(site: Site) -> None:
    port = free_port()
    site.write({"Container.web": server(port, "one", healthcheck=HEALTH)})
    site.settle()
    broken = {**server(port, "two"), "command": ["sh", "-c", "echo no such luck; exit 3"]}
    site.write({"Container.web": broken})
    ran = site.apply(code=1)
    assert "exited at once with code 3" in ran.out
    assert "no such luck" in ran.out
    assert get(port) == "one"
    assert site.names() == [f"{site.name}-web"]
    site.write({"Container.web": server(port, "three", healthcheck=HEALTH)})
    site.settle()
    assert get(port) == "three"


def test_every_json_document_of_an_apply_is_one_object(site: Site) -> None:
    site.write({"Container.a": sleeper()})
    document = json.loads(site.apply("--json").out)
    assert document["ok"] is True
    assert [(one["address"], one["result"]) for one in document["operations"]] == [("Container.a", "ok")]
    began = time.monotonic()
    assert json.loads(site.apply("--json").out)["operations"] == []
    assert time.monotonic() - began < 5
