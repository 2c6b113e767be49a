"""The provider under the real Pulumi CLI: YAML programs on the embedded host, seen from outside by the command line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandLine
from pulumi_cli import Pulumi, built, plain
from pulumi_stub import kernel_limit, started

pytestmark = [pytest.mark.root, pytest.mark.timeout(2400)]

PLANTED = "planted-3d71-secret"


@pytest.fixture(scope="session")
def tools() -> Path:
    return built()


@pytest.fixture
def pulumi(tmp_path: Path, bayplan: CommandLine, busybox: Path, tools: Path) -> Pulumi:
    """A project in whose folder lies a root file system, as an image would be made of."""
    (bayplan.cwd / "tree/bin").mkdir(parents=True)
    shutil.copy(busybox, bayplan.cwd / "tree/bin/busybox")
    project = Pulumi(bayplan, tools, tmp_path / "pulumi-home")
    project.write(program())
    project.start()
    return project


def program(**container: Any) -> dict[str, Any]:
    properties = {
        "image": "${box.ref}",
        "command": ["/bin/busybox", "sleep", "1000"],
        "networkMode": "none",
        "stopSignal": "SIGKILL",
        **container,
    }
    return {
        "box": {"type": "bayplan:Image", "properties": {"rootfs": "./tree", "tags": ["shop:1"]}},
        "web": {"type": "bayplan:Container", "properties": properties},
    }


def containers(line: CommandLine) -> dict[str, dict[str, Any]]:
    """Name -> container, of every one on the host, whatever its state."""
    return {one["name"]: one for one in line.json("container", "list", "--all")["containers"]}


def test_a_preview_makes_nothing(pulumi: Pulumi, bayplan: CommandLine) -> None:
    told = pulumi.preview()
    assert told.ops == {"box": "create", "web": "create"}
    assert not bayplan.root.exists()
    assert not bayplan.state.exists()


def test_the_life_of_a_container(pulumi: Pulumi, bayplan: CommandLine) -> None:
    pulumi.up()
    (first,) = containers(bayplan).values()
    assert (first["name"], first["state"]) == ("shop-dev-web", "running")
    state = pulumi.state()
    assert state["web"]["id"].startswith("shop-dev/Container.web@")
    assert state["web"]["outputs"]["containerId"] == first["id"]

    pulumi.run("preview", "--expect-no-changes")
    pulumi.run("up", "--yes", "--skip-preview", "--expect-no-changes")
    pulumi.run("refresh", "--yes", "--skip-preview", "--expect-no-changes")
    assert containers(bayplan)["shop-dev-web"]["id"] == first["id"]

    # A live field is changed in place.
    pulumi.write(program(memory="64m"))
    told = pulumi.preview()
    assert told.ops == {"web": "update"}
    assert told.details("web") == {"memory": "add"}
    pulumi.up()
    assert containers(bayplan)["shop-dev-web"]["id"] == first["id"]
    assert kernel_limit(bayplan, "shop-dev-web", "memory") == 64 << 20
    pulumi.run("preview", "--expect-no-changes")

    # Another way of writing the same is no change.
    pulumi.write(program(memory=64 << 20))
    pulumi.run("preview", "--expect-no-changes")

    # A field that the container is made with takes a new one, under the same name.
    pulumi.write(program(memory="64m", hostname="web"))
    told = pulumi.preview()
    assert told.ops["web"] in ("replace", "create-replacement")
    assert told.details("web") == {"hostname": "add-replace"}
    pulumi.up()
    (second,) = containers(bayplan).values()
    assert second["name"] == "shop-dev-web"
    assert second["id"] != first["id"]
    pulumi.run("preview", "--expect-no-changes")

    pulumi.run("destroy", "--yes", "--skip-preview")
    assert containers(bayplan) == {}
    assert pulumi.state() == {}
    assert bayplan.json("image", "list")["images"] == []


def test_files_that_an_image_reads_change_it_and_what_is_made_from_it(pulumi: Pulumi, bayplan: CommandLine) -> None:
    pulumi.up()
    before = containers(bayplan)["shop-dev-web"]["id"]
    (bayplan.cwd / "tree/new").write_text("content")
    told = pulumi.preview()
    assert told.ops["box"] == "update"
    assert told.details("box") == {"rootfs": "update"}
    assert told.details("web") == {"image": "update-replace"}
    pulumi.up()
    assert containers(bayplan)["shop-dev-web"]["id"] != before
    pulumi.run("preview", "--expect-no-changes")


def test_what_changed_outside_shows_in_a_refresh(pulumi: Pulumi, bayplan: CommandLine) -> None:
    pulumi.up()
    bayplan.run("container", "stop", "shop-dev-web")
    told = plain(pulumi.run("refresh", "--preview-only", "--diff").stdout)
    assert "desiredState" in told
    pulumi.run("refresh", "--yes", "--skip-preview")
    pulumi.up()
    assert containers(bayplan)["shop-dev-web"]["state"] == "running"
    bayplan.run("container", "rm", "--force", "shop-dev-web")
    pulumi.run("refresh", "--yes", "--skip-preview")
    assert sorted(pulumi.state()) == ["box"]
    pulumi.up()
    assert containers(bayplan)["shop-dev-web"]["state"] == "running"


def test_an_import_expects_no_changes(pulumi: Pulumi, bayplan: CommandLine) -> None:
    pulumi.up()
    before = containers(bayplan)["shop-dev-web"]["id"]
    pulumi.run("state", "delete", "--yes", "urn:pulumi:dev::shop::bayplan:index:Container::web")
    pulumi.run(
        "import",
        "bayplan:index:Container",
        "web",
        "shop-dev/Container.web",
        "--yes",
        "--protect=false",
        "--skip-preview",
    )
    pulumi.run("preview", "--expect-no-changes")
    assert containers(bayplan)["shop-dev-web"]["id"] == before
    gone = pulumi.run("import", "bayplan:index:Container", "no", "shop-dev/Container.no", "--yes", check=None)
    assert gone.returncode == 1
    assert "does not exist" in plain(gone.stdout + gone.stderr)


def test_pulumi_adopts_what_stands_under_the_same_identity(pulumi: Pulumi, bayplan: CommandLine) -> None:
    stack = {
        "stack": "shop-dev",
        "resources": {
            "Image.box": {"rootfs": "./tree", "tags": ["shop:1"]},
            "Container.web": {
                "image": "${Image.box.ref}",
                "command": ["/bin/busybox", "sleep", "1000"],
                "network_mode": "none",
                "stop_signal": "SIGKILL",
            },
        },
    }
    (bayplan.cwd / "bayplan.yaml").write_text(json.dumps(stack))
    bayplan.run("apply", "--yes")
    before = containers(bayplan)["shop-dev-web"]["id"]
    pulumi.up()
    assert containers(bayplan)["shop-dev-web"]["id"] == before
    assert bayplan.json("plan")["operations"] == []


def test_secrets_stay_secret(pulumi: Pulumi, bayplan: CommandLine, tmp_path: Path) -> None:
    pulumi.run("config", "set", "--secret", "token", PLANTED)
    pulumi.write(
        program(env={"TOKEN": "${token}", "MODE": "test"}), config={"token": {"type": "string", "secret": True}}
    )
    pulumi.up()
    web = bayplan.json("container", "inspect", "shop-dev-web")["id"]
    assert web
    pulumi.run("preview", "--expect-no-changes")
    pulumi.run("refresh", "--yes", "--skip-preview", "--expect-no-changes")
    assert PLANTED not in pulumi.run("stack", "export").stdout
    assert PLANTED in pulumi.run("stack", "export", "--show-secrets").stdout
    kept = [*bayplan.state.rglob("*"), *pulumi.home.rglob("*")]
    assert [str(one) for one in kept if one.is_file() and PLANTED.encode() in one.read_bytes()] == []


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"memory": "lots"}, "memory"),
        ({"memroy": "64m"}, "memroy"),
        ({"restart": "sometimes"}, "restart"),
    ],
)
def test_a_mistake_is_told_with_its_property(pulumi: Pulumi, properties: dict[str, Any], message: str) -> None:
    pulumi.write(program(**properties))
    done = pulumi.run("preview", check=None)
    told = plain(done.stdout + done.stderr)
    assert done.returncode == 1
    assert message in told
    assert "Traceback" not in told


def test_what_was_made_half_is_finished_and_not_made_again(pulumi: Pulumi, bayplan: CommandLine) -> None:
    (bayplan.cwd / "data").mkdir()
    command = ["/bin/busybox", "sh", "-c", "test -e /data/ok && exec /bin/busybox sleep 1000"]
    pulumi.write(program(command=command, volumes=["./data:/data"]))
    failed = pulumi.run("up", "--yes", "--skip-preview", check=None)
    assert failed.returncode == 1
    assert "exited at once" in plain(failed.stdout + failed.stderr)
    half = pulumi.state()["web"]
    assert "exited at once" in half["initErrors"][0]
    assert pulumi.preview().ops == {"web": "update"}
    (bayplan.cwd / "data/ok").touch()
    pulumi.up()
    whole = pulumi.state()["web"]
    assert "initErrors" not in whole
    assert whole["id"] == half["id"]
    assert containers(bayplan)["shop-dev-web"]["state"] == "running"
    pulumi.run("preview", "--expect-no-changes")


def test_a_data_source_tells_of_what_anybody_made(pulumi: Pulumi) -> None:
    pulumi.up()
    call = {"fn::invoke": {"function": "bayplan:getContainer", "arguments": {"name": "shop-dev-web"}}}
    pulumi.write(program(), outputs={"there": call})
    pulumi.up()
    told = json.loads(pulumi.run("stack", "output", "--json").stdout)
    assert told["there"]["containerId"] == pulumi.state()["web"]["outputs"]["containerId"]
    call["fn::invoke"]["arguments"] = {"name": "nobody"}
    pulumi.write(program(), outputs={"there": call})
    done = pulumi.run("preview", check=None)
    assert done.returncode != 0
    assert "there is no container 'nobody'" in plain(done.stdout + done.stderr)


def test_options_of_pulumi_hold(pulumi: Pulumi, bayplan: CommandLine) -> None:
    """ignoreChanges, replaceOnChanges, protect and retainOnDelete."""
    pulumi.up()
    before = containers(bayplan)["shop-dev-web"]["id"]

    def optioned(options: dict[str, Any], **container: Any) -> dict[str, Any]:
        found = program(**container)
        found["web"]["options"] = options
        return found

    pulumi.write(optioned({"ignoreChanges": ["memory"]}, memory="64m"))
    pulumi.run("preview", "--expect-no-changes")
    pulumi.write(optioned({"replaceOnChanges": ["memory"]}, memory="64m"))
    assert pulumi.preview().ops["web"] in ("replace", "create-replacement")
    pulumi.up()
    after = containers(bayplan)["shop-dev-web"]["id"]
    assert after != before
    pulumi.run("up", "--yes", "--skip-preview", "--replace", "urn:pulumi:dev::shop::bayplan:index:Container::web")
    again = containers(bayplan)["shop-dev-web"]["id"]
    assert again == after, "what nothing differs in is found again, and the Delete that follows removes nothing"
    pulumi.write(optioned({"protect": True}, memory="64m"))
    pulumi.up()
    refused = pulumi.run("destroy", "--yes", "--skip-preview", check=None)
    assert refused.returncode != 0
    pulumi.write(optioned({"retainOnDelete": True}, memory="64m"))
    pulumi.up()
    pulumi.run("destroy", "--yes", "--skip-preview", check=None)
    assert containers(bayplan)["shop-dev-web"]["id"] == again


def test_all_ways_to_start_the_provider(pulumi: Pulumi, tmp_path: Path, bayplan: CommandLine) -> None:
    """Named by the project (all tests here), on PATH, installed, and attached to."""
    executable = tmp_path / "plugin/pulumi-resource-bayplan"
    settings = json.loads((bayplan.cwd / "Pulumi.yaml").read_text())
    del settings["plugins"]
    (bayplan.cwd / "Pulumi.yaml").write_text(json.dumps(settings))

    path = pulumi.environment()["PATH"]
    pulumi.environ = {"PATH": f"{executable.parent}:{path}"}
    assert pulumi.preview().ops == {"box": "create", "web": "create"}

    pulumi.environ = {}
    pulumi.run("plugin", "install", "resource", "bayplan", "0.1.0", "--file", str(executable))
    done = pulumi.run("preview")
    assert "2 to create" in plain(done.stdout) or "3 to create" in plain(done.stdout)
    assert "warning" not in plain(done.stdout + done.stderr)
    pulumi.run("plugin", "rm", "resource", "bayplan", "--yes")

    with started(bayplan) as stub:
        pulumi.environ = {"PULUMI_DEBUG_PROVIDERS": f"bayplan:{stub.port}"}
        assert pulumi.preview().ops == {"box": "create", "web": "create"}
        pulumi.up()
        pulumi.run("preview", "--expect-no-changes")
        pulumi.run("destroy", "--yes", "--skip-preview")
    assert containers(bayplan) == {}


def test_an_interrupted_or_killed_deployment_is_finished_by_the_next(pulumi: Pulumi, bayplan: CommandLine) -> None:
    """SIGINT ends the CLI within five seconds, SIGKILL leaves no provider behind; either way the next up converges."""
    check = {"test": ["CMD", "/bin/busybox", "false"], "interval": "1s", "startPeriod": "60s"}
    for number in (signal.SIGINT, signal.SIGKILL):
        pulumi.write(program(healthcheck=check))
        running = subprocess.Popen(
            [pulumi.tools / "pulumi", "--non-interactive", "up", "--yes", "--skip-preview"],
            cwd=bayplan.cwd,
            env=pulumi.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not containers(bayplan):
            assert time.monotonic() < deadline
        asked = time.monotonic()
        running.send_signal(number)
        assert running.wait(30) != 0
        assert time.monotonic() - asked < 5
        while providers(pulumi):
            assert time.monotonic() < asked + 15, "a provider was left behind"
            time.sleep(0.2)
        pulumi.run("cancel", "--yes", "dev", check=None)
        pulumi.write(program())
        pulumi.up()
        assert [one["state"] for one in containers(bayplan).values()] == ["running"]
        pulumi.run("preview", "--expect-no-changes")
        pulumi.run("destroy", "--yes", "--skip-preview")
        assert containers(bayplan) == {}


def providers(project: Pulumi) -> list[str]:
    """The processes of this project's provider that are alive."""
    wanted = str(project.home.parent / "plugin").encode()
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted in one.read_bytes():
                found.append(one.parent.name)
        except OSError:
            continue
    return found
