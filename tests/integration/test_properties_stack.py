"""What the keys of a stack file do besides the kinds: variables, secrets, includes, loops, outputs, order, lifecycle."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from apply_site import Site, root_with_box, sleeper
from properties_site import look
from runtime_world import World

from bayplan.registry.registry import Registry

pytestmark = pytest.mark.root

PLANTED = {
    "from-env": "planted-5a1f-of-the-environment",
    "from-file": "planted-77c2-of-a-file",
    "from-command": "planted-90be-of-a-command",
    "from-variable": "planted-c3d4-of-a-variable",
    "from-env-file": "planted-e5f6-of-an-env-file",
}


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


def test_variables_have_the_declared_type_and_come_from_everywhere(site: Site) -> None:
    """proves: stack.variables, stack.variables.type, stack.variables.default, stack.variables.description, stack.outputs"""
    declared: dict[str, Any] = {
        "text": {"default": "1.10"},
        "count": {"type": "integer", "default": 3},
        "share": {"type": "number", "default": 0.5},
        "sealed": {"type": "boolean", "default": True},
        "words": {"type": "list", "default": ["a", "b"], "description": "what is said"},
        "sizes": {"type": "map", "default": {"small": "32m"}},
        "flag": {"type": "integer"},
        "file": {"type": "list"},
        "environ": {"type": "map"},
    }
    site.environment["BAYPLAN_VAR_environ"] = "{deep: {er: 7}}"
    (site.folder / "vars.yaml").write_text("file: [x, y]\nflag: 1\n")
    site.write(
        {
            "Container.web": sleeper(
                env={"TEXT": "${var.text}", "ALL": "${join('-', var.words)}", "N": "${var.count}"},
                cpus="${var.share}",
                read_only="${var.sealed}",
                memory="${var.sizes.small}",
                pids_limit="${var.flag}",
                labels={"file": "${var.file[1]}", "environ": "${var.environ.deep.er}"},
            )
        },
        variables=declared,
        outputs={"all": {"n": "${var.count}", "words": "${var.words}"}, "name": "${Container.web.name}"},
    )
    given = ("--var", "flag=40", "--var-file", str(site.folder / "vars.yaml"))
    site.apply(*given)
    assert site.operations(*given) == []
    name = f"{site.name}-web"
    assert [look(site, name, f"env {one}") for one in ("TEXT", "ALL", "N")] == ["1.10", "a-b", "3"]
    assert [look(site, name, f"cgroup {one}") for one in ("cpu", "memory", "pids")] == ["500", "33554432", "40"]
    assert [look(site, name, f"label {one}") for one in ("file", "environ")] == ["y", "7"]
    assert "Read-only" in look(site, name, "$ touch /x")
    outputs = site.run("output", "--json", *given).document["outputs"]
    assert outputs == {"all": {"n": 3, "words": ["a", "b"]}, "name": name}
    assert site.run("output", "name", *given).out == f"{name}\n"
    ran = site.run("plan", *given[2:], "--var", "flag=many", code=1)
    assert "flag" in ran.err
    assert "whole number" in ran.err


def test_secrets_reach_the_program_and_nobody_else(site: Site, world: World) -> None:
    """proves: stack.secrets, stack.secrets.env, stack.secrets.file, stack.secrets.command, stack.variables.sensitive"""
    site.environment["APP_TOKEN"] = PLANTED["from-env"]
    (site.folder / "parts").mkdir()
    (site.folder / "parts/token").write_text(PLANTED["from-file"] + "\n")
    (site.folder / "parts/print.txt").write_text(PLANTED["from-command"] + "\n")
    (site.folder / "web.env").write_text(f"FROM_ENV_FILE={PLANTED['from-env-file']}\n")
    secrets = {
        "one": {"env": "APP_TOKEN"},
        "two": {"file": "parts/token"},
        "three": {"command": ["cat", "./parts/print.txt"]},
    }
    env = {
        "ONE": "${secret.one}",
        "TWO": "in a text: ${secret.two}!",
        "THREE": "${secret.three}",
        "FOUR": "${var.four}",
        "OPEN": "shown",
    }
    site.write(
        {"Container.web": sleeper(env=env, env_file="web.env")},
        secrets=secrets,
        variables={"four": {"sensitive": True}},
    )
    site.environment["BAYPLAN_VAR_four"] = PLANTED["from-variable"]
    plan = site.folder / "plan.json"
    said = [site.run("plan").text, site.run("plan", "--json").text, site.run("plan", "--out", str(plan)).text]
    said.append(plan.read_text())
    said.append(site.apply().text)
    site.nothing_to_do()
    name = f"{site.name}-web"
    assert look(site, name, "env ONE") == PLANTED["from-env"]
    assert look(site, name, "env TWO") == f"in a text: {PLANTED['from-file']}!"
    assert look(site, name, "env THREE") == PLANTED["from-command"]
    assert look(site, name, "env FOUR") == PLANTED["from-variable"]
    assert look(site, name, "env FROM_ENV_FILE") == PLANTED["from-env-file"]
    for words in (
        ("container", "inspect", name),
        ("container", "list", "--json"),
        ("state", "show", "Container.web"),
        ("state", "list", "--json"),
        ("state", "history", "--json"),
        ("state", "history", "1", "--json"),
        ("output", "--json"),
        ("drift", "--json"),
        ("graph",),
    ):
        said.append(site.run(*words).text)
    (site.folder / "parts/token").write_text("planted-changed\n")
    changed = site.run("plan", "--json")
    assert [one["action"] for one in changed.document["operations"]] == ["replace"]
    said += [changed.text, site.run("plan").text]
    inspected = said[5]
    assert "shown" in inspected
    assert "(secret)" in inspected
    everything = "\n".join(said)
    for value in (*PLANTED.values(), "planted-changed"):
        assert value not in everything
    hidden = [value.encode() for value in PLANTED.values()]
    for folder in (world.root.path, site.state):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                assert not any(value in data for value in hidden), path


def test_included_files_are_one_stack_and_their_paths_their_own(site: Site) -> None:
    """proves: stack.include, stack.stack, stack.resources"""
    (site.folder / "parts").mkdir()
    (site.folder / "parts/conf").write_text("beside the part\n")
    part = {
        "resources": {"Container.db": sleeper(volumes=["./conf:/conf"], labels={"tag": "${var.tag}"})},
        "outputs": {"db": "${Container.db.name}"},
    }
    (site.folder / "parts/db.yaml").write_text(yaml.safe_dump(part))
    site.write({}, include=["parts/*.yaml"], variables={"tag": {"default": "one"}})
    site.settle()
    assert site.inside(f"{site.name}-db", "cat", "/conf") == "beside the part"
    assert site.run("output", "db").out == f"{site.name}-db\n"
    site.write({}, include="parts/db.yaml", variables={"tag": {"default": "one"}})
    site.nothing_to_do()


def test_for_each_makes_one_of_each_and_only_the_missing_one_goes(site: Site) -> None:
    """proves: resource.for_each"""
    resources = {
        "Volume.data": {"for_each": "${var.colours}"},
        "Container.web": {
            **sleeper(labels={"colour": "${each.key}", "weight": "${each.value}"}),
            "for_each": {"red": 1, "blue": 2},
            "volumes": ["${Volume.data[each.key].name}:/data"],
        },
    }
    outputs = {"names": ["${Container.web[*].name}"], "red": "${Container.web[red].name}"}
    variables = {"colours": {"type": "list", "default": ["red", "blue"]}}
    site.write(resources, variables=variables, outputs=outputs)
    site.settle()
    assert sorted(site.rows()) == ["Container.web[blue]", "Container.web[red]", "Volume.data[blue]", "Volume.data[red]"]
    assert look(site, f"{site.name}-web-red", "label weight") == "1"
    assert look(site, f"{site.name}-web-blue", "label colour") == "blue"
    found = site.run("output", "--json").document["outputs"]
    assert sorted(found["names"]) == [f"{site.name}-web-blue", f"{site.name}-web-red"]
    assert found["red"] == f"{site.name}-web-red"
    del resources["Container.web"]["for_each"]["blue"]  # type: ignore[attr-defined]
    site.write(resources, variables=variables, outputs=outputs)
    assert [line.split()[:2] for line in site.operations()] == [["Container.web[blue]", "delete"]]
    site.settle()


def test_what_depends_on_another_starts_after_it_stands(site: Site) -> None:
    """proves: resource.depends_on"""
    slow = {"test": ["CMD", "test", "-e", "/ready"], "start_period": "20s", "start_interval": "100ms", "interval": "1h"}
    site.write(
        {
            "Container.last": sleeper(depends_on={"Container.db": "healthy"}),
            "Container.listed": sleeper(depends_on=["Container.db"]),
            "Container.db": sleeper(command=["sh", "-c", "sleep 1; touch /ready; exec sleep 1000"], healthcheck=slow),
        }
    )
    site.settle()
    started = {name: site.container(f"{site.name}-{name}").status.started_at for name in ("db", "last", "listed")}
    assert started["last"] - started["db"] >= 1
    assert started["last"] > started["listed"] > started["db"]


def test_who_needs_another_started_does_not_wait_for_its_health(site: Site) -> None:
    """proves: resource.depends_on"""
    # The one gets healthy by what the other does, which waiting for health would never let it do.
    shared = {"volumes": ["${Volume.shared.name}:/shared"]}
    check = {"test": ["CMD", "test", "-e", "/shared/up"], "interval": "100ms", "retries": 1000}
    helper = ["sh", "-c", "echo up > /shared/up; exec sleep 1000"]
    site.write(
        {
            "Volume.shared": {},
            "Container.db": sleeper(healthcheck=check, wait_timeout="20s", **shared),
            "Container.helper": sleeper(command=helper, depends_on={"Container.db": "started"}, **shared),
        }
    )
    site.settle()
    assert site.container(f"{site.name}-db").health.status == "healthy"


def test_lifecycle_keeps_what_is_protected_and_leaves_what_is_ignored(site: Site) -> None:
    """proves: resource.lifecycle, resource.lifecycle.prevent_destroy, resource.lifecycle.ignore_changes"""
    kept = {"lifecycle": {"prevent_destroy": True}}
    ignored = {"lifecycle": {"ignore_changes": ["env", "memory"]}}
    site.write({"Volume.kept": kept, "Container.web": sleeper(env={"A": "1"}, memory="32m", **ignored)})
    site.settle()
    name = f"{site.name}-web"
    site.write({"Volume.kept": kept, "Container.web": sleeper(env={"A": "2"}, memory="64m", pids_limit=50, **ignored)})
    site.settle()
    assert look(site, name, "env A") == "1"
    assert look(site, name, "cgroup memory") == "33554432"
    assert look(site, name, "cgroup pids") == "50"
    repository = {"repository_name": f"{site.name}/r", "tags": {"a": "1"}, "lifecycle": {"ignore_changes": ["tags"]}}
    site.write({"Volume.kept": kept, "Repository.r": repository})
    site.settle()
    site.write(
        {
            "Volume.kept": kept,
            "Repository.r": {**repository, "tags": {"a": "2"}, "image_tag_mutability": "IMMUTABLE"},
        }
    )
    site.settle()
    found = Registry(site.world.root).describe(f"{site.name}/r")
    assert (dict(found.tags), found.mutability.value) == ({"a": "1"}, "IMMUTABLE")
    for definition in ({"Volume.kept": {**kept, "name": "other"}}, None):
        if definition is not None:
            site.write(definition)
        ran = site.run("plan" if definition else "destroy", code=1)
        assert "prevent_destroy" in ran.text
        assert "Volume.kept" in ran.text
    assert [one.name for one in site.world.runtime.volumes.list()] == [f"{site.name}-kept"]
    site.write({"Volume.kept": {}})
    site.settle()


def test_hosts_and_registries_are_names_of_what_is_there(site: Site) -> None:
    """proves: stack.hosts, stack.hosts.type, Container.host, Network.host, Volume.host, Repository.registry"""
    site.write(
        {
            "Network.n": {"host": "box"},
            "Volume.v": {"host": "${var.where}"},
            "Repository.r": {"registry": "store", "repository_name": f"{site.name}/r"},
            "Container.web": {
                **sleeper(host="here", network_mode="bridge"),
                "networks": ["${Network.n.name}"],
                "volumes": ["${Volume.v.name}:/v"],
            },
        },
        variables={"where": {"default": "box"}},
        hosts={"box": {"type": "embedded"}},
        registries={"store": {"type": "embedded"}},
        outputs={
            "uri": "${Repository.r.uri}",
            "network": "${Network.n.id} ${Network.n.subnet} ${Network.n.name}",
            "volume": "${Volume.v.mountpoint}",
            "address": "${Container.web.ip_address}",
        },
    )
    site.settle()
    site.inside(f"{site.name}-web", "touch", "/v/here")
    outputs = site.run("output", "--json").document["outputs"]
    assert (Path(outputs["volume"]) / "here").exists()
    network, subnet, name = outputs["network"].split()
    assert name == f"{site.name}-n"
    assert outputs["address"].rpartition(".")[0] == subnet.rpartition(".")[0]
    assert network
    assert outputs["uri"] == f"bayplan.internal/{site.name}/r"


def test_the_commands_that_look_agree_with_each_other(site: Site) -> None:
    """output, state and history of a real stack, and that looking changes nothing."""
    site.write(
        {"Volume.v": {}, "Container.web": sleeper(volumes=["${Volume.v.name}:/v"])}, outputs={"v": "${Volume.v.name}"}
    )
    began = time.time()
    site.settle()
    listed = site.run("state", "list", "--json").document["resources"]
    assert [one["address"] for one in listed] == ["Container.web", "Volume.v"] or sorted(
        one["address"] for one in listed
    ) == ["Container.web", "Volume.v"]
    shown = site.run("state", "show", "Container.web").document
    assert shown["id"] == site.rows()["Container.web"] == site.container(f"{site.name}-web").id
    assert shown["kind"] == "Container"
    runs = site.run("state", "history", "--json").document["runs"]
    assert (runs[-1]["verb"], runs[-1]["outcome"], runs[-1]["operations"]) == ("apply", "ok", 2)
    steps = site.run("state", "history", str(runs[-1]["run"]), "--json").document["operations"]
    assert {one["address"] for one in steps} == {"Container.web", "Volume.v"}
    site.run("state", "mv", "Volume.v", "Volume.w", code=1)
    site.run("state", "rm", "Volume.v")
    assert "Volume.v" not in site.rows()
    site.run("state", "rebuild")
    unknown = site.run("state", "show", "Container.wb", code=1)
    assert "did you mean 'Container.web'" in unknown.err
    assert time.time() - began < 60
    assert json.loads(site.run("output", "--json").out)["outputs"] == {"v": f"{site.name}-v"}
