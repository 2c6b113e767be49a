"""The commands around containers: networks, volumes, disk use, the agent, doctor, logins, documents of stacks."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import CommandLine, check, command_line
from registry_processes import serving
from runtime_world import eventually

from bayplan.oci.root import Root

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("cli")) as made:
        made.image("box:1", 'CMD ["sh"]', 'VOLUME ["/kept"]')
        yield made


def _du(path: Path) -> int:
    done = subprocess.run(["du", "-sx", "--block-size=1", str(path)], capture_output=True, check=True, timeout=60)
    return int(done.stdout.split()[0])


def test_looking_at_a_root_that_does_not_exist_makes_nothing(cli: CommandLine, tmp_path: Path) -> None:
    nowhere = {"BAYPLAN_ROOT": str(tmp_path / "nowhere")}
    for schema, words in (
        ("containers", ("container", "list", "--all")),
        ("images", ("image", "list")),
        ("networks", ("network", "list")),
        ("volumes", ("volume", "list")),
        ("repositories", ("registry", "list")),
        ("system-df", ("system", "df")),
        ("stats", ("container", "stats", "--no-stream")),
    ):
        cli.json(schema, *words, **nowhere)
    assert not (tmp_path / "nowhere").exists()


def test_containers_on_a_network_find_each_other_by_name(cli: CommandLine) -> None:
    cli.json("network", "network", "create", "backend", "--label", "team=a")
    cli.ok("container", "run", "-d", "--name", "server", "--network", "backend", "box:1", "sleep", "1000")
    found = cli.json("network", "network", "inspect", "backend")
    assert found["containers"][0]["name"] == "server"
    asked = cli.ok("container", "run", "--rm", "--network", "backend", "box:1", "nslookup", "server")
    assert found["containers"][0]["address"] in asked
    assert "network-in-use" in cli.fails("network", "rm", "backend")
    assert "backend" in cli.ok("network", "list")
    cli.ok("container", "rm", "-f", "server")
    assert cli.json("networks-removed", "network", "prune", "--yes")["networks"] == [{"name": "backend"}]
    assert "unknown-network" in cli.fails("network", "inspect", "backend")


def test_volumes_outlive_containers_and_anonymous_ones_do_not(cli: CommandLine) -> None:
    cli.json("volume", "volume", "create", "data")
    cli.ok("container", "run", "--rm", "-v", "data:/data", "box:1", "sh", "-c", "echo kept > /data/file")
    assert cli.ok("container", "run", "--rm", "-v", "data:/data", "box:1", "cat", "/data/file") == "kept\n"
    cli.ok("container", "create", "--name", "holder", "-v", "data:/data", "box:1", "true")
    names = {one["name"]: one for one in cli.json("volumes", "volume", "list")["volumes"]}
    assert names["data"]["containers"] == ["holder"]
    assert len(names) == 2, "the image's own volume was made, too"
    assert "volume-in-use" in cli.fails("volume", "rm", "data")
    cli.ok("container", "rm", "holder")
    assert [one["name"] for one in cli.json("volumes", "volume", "list")["volumes"]] == ["data"]
    assert cli.json("volume", "volume", "inspect", "data")["size"] > 0
    assert cli.ok("volume", "prune", "--yes") == "", "a named volume goes only where that is said"
    assert cli.ok("volume", "prune", "--all", "--yes") == "data\n"
    assert "no-such-volume" in cli.fails("volume", "inspect", "data")


def test_every_byte_under_the_root_is_accounted_for(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM box:1\nRUN head -c 400000 /dev/urandom > /layer\n")
    cli.ok("image", "build", "-q", "-t", "counted:1", str(tmp_path))
    cli.ok("image", "push", "counted:1", "bayplan.internal/counted:1")
    script = "head -c 500000 /dev/urandom > /written; head -c 600000 /dev/urandom > /data/x; yes | head -c 100000"
    cli.ok("container", "run", "--name", "writer", "-v", "counted:/data", "counted:1", "sh", "-c", script)
    document = cli.json("system-df", "system", "df")
    parts = {one["name"]: one for one in document["parts"]}
    assert sum(one["bytes"] for one in parts.values()) == document["bytes"]
    assert abs(document["bytes"] - _du(cli.root.path)) <= 64 << 10
    assert parts["containers"]["bytes"] >= 500_000
    assert parts["volumes"]["bytes"] >= 600_000
    assert parts["logs"]["bytes"] >= 100_000
    assert parts["layers"]["bytes"] >= 400_000
    assert parts["containers"]["reclaimable"] == parts["containers"]["bytes"], "it does not run"
    (one,) = [each for each in document["containers"] if each["name"] == "writer"]
    assert (one["bytes"], one["log_bytes"]) == (parts["containers"]["bytes"], parts["logs"]["bytes"])
    assert "writer" in cli.ok("system", "df", "--verbose")
    assert "needs-yes" in cli.fails("system", "prune", code=64)
    removed = cli.json("system-prune", "system", "prune", "--all", "--volumes", "--yes")
    assert removed["removed"]["containers"] == ["writer"]
    assert removed["removed"]["volumes"] == ["counted"]
    assert removed["bytes"] >= 1_500_000
    cli.ok("registry", "rm", "--force", "counted")
    cli.ok("system", "prune", "--all", "--volumes", "--yes")
    assert _du(cli.root.path) < 600_000, "what stays are databases and folders"
    cli.image("box:1", 'CMD ["sh"]', 'VOLUME ["/kept"]')


def test_the_agent_is_one_per_root(cli: CommandLine) -> None:
    assert cli.json("agent", "agent", "--background")["agent"]["running"] is True
    assert "already" in cli.ok("agent", "--background")
    assert "agent-running" in cli.fails("agent")
    assert cli.ok("agent", "--stop").startswith("stopped")
    assert cli.ok("agent", "--stop") == "no agent runs\n"


def test_the_unit_names_this_root(cli: CommandLine, tmp_path: Path) -> None:
    assert f"Environment=BAYPLAN_ROOT={cli.root.path}\n" in cli.ok("agent", "--install-unit", "-")
    written = cli.json("agent-unit", "agent", "--install-unit", str(tmp_path / "b.service"))
    assert "KillMode=process" in Path(written["unit"]).read_text()


def test_doctor_finds_this_machine_able(cli: CommandLine) -> None:
    document = cli.json("doctor", "doctor")
    assert document["able"] is True
    subjects = {one["subject"]: one for one in document["findings"]}
    assert {"kernel", "overlay", "namespaces", "cgroups", "oci runtime", "conmon", "seccomp", "disk", "agent"} <= set(
        subjects
    )
    assert "containers can run here" in cli.ok("doctor")


def test_doctor_tells_what_is_missing_and_how_to_get_it(cli: CommandLine) -> None:
    document = cli.json("doctor", "doctor", code=1, BAYPLAN_OCI_RUNTIME="no-such-runtime")
    (one,) = [each for each in document["findings"] if each["status"] == "problem"]
    assert (one["code"], document["able"]) == ("no-runtime", False)
    assert "apt-get install" in one["fix"]


def test_login_is_kept_where_docker_keeps_it_and_forgotten(cli: CommandLine, tmp_path: Path) -> None:
    with serving(Root.at(tmp_path / "registry")) as address:
        kept = cli.run("login", "-u", "me", "--password-stdin", address, "--json", input=b"pass word\n")
        assert kept.returncode == 0, kept.stderr
        check("login", json.loads(kept.stdout))
        config = json.loads((cli.docker / "config.json").read_text())
        assert base64.b64decode(config["auths"][address]["auth"]) == b"me:pass word"
        assert cli.json("logout", "logout", address)["removed"] is True
        assert cli.json("logout", "logout", address)["removed"] is False
    assert "password-in-arguments" in cli.fails("login", "-u", "me", "-p", "secret", "localhost:1", code=64)
    assert "--password-stdin" in cli.fails("login", "-u", "me", "localhost:1", code=64)


def test_completion_offers_what_there_is(cli: CommandLine, tmp_path: Path) -> None:
    cli.ok("container", "create", "--name", "completed", "box:1", "true")
    (tmp_path / "bayplan").write_text(f'#!/bin/sh\nexec {" ".join(cli.argv())} "$@"\n')
    (tmp_path / "bayplan").chmod(0o755)
    (tmp_path / "script").write_text(cli.ok("completion", "bash"))

    def offered(*words: str) -> set[str]:
        quoted = " ".join(f"'{word}'" for word in words)
        text = f'. {tmp_path}/script; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _bayplan; echo "${{COMPREPLY[@]}}"'
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", text], capture_output=True, timeout=30, check=True, env={**cli.environment, "PATH": path}
        )
        return set(done.stdout.decode().split())

    assert offered("bayplan", "contai") == {"container"}
    assert {"run", "rm", "rename", "restart"} <= offered("bayplan", "container", "r")
    assert offered("bayplan", "container", "run", "--pull", "") == {"missing", "always", "never"}
    assert offered("bayplan", "container", "stop", "comp") == {"completed"}
    assert offered("bayplan", "--root", str(cli.root.path), "image", "rm", "bo") == {"box:1"}
    cli.ok("container", "rm", "completed")


def test_the_documents_of_stacks_are_what_their_schemas_say(cli: CommandLine, tmp_path: Path) -> None:
    stack = tmp_path / "first"
    cli.json("init", "init", str(stack))
    file = ("-f", str(stack / "bayplan.yaml"))
    cli.json("validate", "validate", *file)
    assert cli.json("plan", "plan", *file)["operations"]
    cli.json("graph", "graph", *file)
    applied = cli.json("apply", "apply", "--yes", *file)
    assert applied["ok"] is True
    assert cli.json("plan", "plan", *file)["operations"] == []
    cli.json("output", "output", *file)
    resources = cli.json("state-list", "state", "list", *file)["resources"]
    cli.json("state-show", "state", "show", resources[0]["address"], *file)
    (run, *_) = cli.json("state-history", "state", "history", *file)["runs"]
    cli.json("state-run", "state", "history", str(run["run"]), *file)
    assert cli.json("drift", "drift", *file)["drift"] == []
    (name,) = [one for one in cli.containers() if cli.containers()[one]["labels"].get("bayplan.dev/stack")]
    cli.ok("container", "stop", name)
    assert cli.json("drift", "drift", *file, code=2)["drift"]
    cli.json("state-changed", "state", "rebuild", *file)
    cli.ok("container", "prune", "--yes")
    assert name in cli.containers(), "what a stack owns is not pruned"
    cli.json("apply", "destroy", "--yes", *file)
    eventually(lambda: name not in cli.containers(), "destroyed")
    cli.json("errors", "validate", "-f", str(tmp_path / "missing.yaml"), code=1)
    cli.json("errors", "contaner", code=64)
    cli.json("schemas", "schema")
    cli.json("version", "version")
