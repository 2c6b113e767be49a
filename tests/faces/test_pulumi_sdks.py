"""The package schema and what Pulumi's generators make of it: fresh, described, compiled, and run by the Automation API."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, CommandLine
from pulumi_cli import Pulumi, built, plain, plugin

pytestmark = [pytest.mark.root, pytest.mark.timeout(2400)]

SCHEMA = REPOSITORY / "provider/bayplan/pulumi/schema_generated.json"
PROGRAM = """
import json, sys
import pulumi
import pulumi_bayplan as bayplan
from pulumi import automation


def program():
    box = bayplan.Image("box", rootfs="./tree", tags=["shop:1"])
    web = bayplan.Container(
        "web",
        image=box.ref,
        command=["/bin/busybox", "sleep", "1000"],
        network_mode="none",
        stop_signal="SIGKILL",
        memory=sys.argv[1],
        healthcheck=bayplan.ContainerHealthcheckArgs(test=["CMD", "/bin/busybox", "true"], start_period="1s"),
    )
    pulumi.export("id", web.container_id)


here = automation.LocalWorkspaceOptions(work_dir=".")
stack = automation.create_or_select_stack("dev", project_name="shop", program=program, opts=here)
told = {"preview": stack.preview().change_summary}
up = stack.up()
told["up"] = up.summary.resource_changes
told["id"] = up.outputs["id"].value
told["again"] = stack.preview(expect_no_changes=True).change_summary
told["refresh"] = stack.refresh(expect_no_changes=True).summary.resource_changes
if len(sys.argv) > 2:
    stack.destroy()
print("told " + json.dumps({key: str(value) for key, value in told.items()}))
"""


@pytest.fixture(scope="session")
def tools() -> Path:
    return built()


def generated(language: str, folder: Path) -> Path:
    tool = REPOSITORY / "tools/generate_pulumi.py"
    subprocess.run([sys.executable, tool, "--sdk", language, folder], check=True, timeout=1800)
    return folder


def test_the_schema_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools/generate_pulumi.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_everything_in_the_schema_is_described() -> None:
    schema = json.loads(SCHEMA.read_text())
    bare: list[str] = []

    def look(path: str, value: Any) -> None:
        if not value.get("description"):
            bare.append(path)
        for part in ("properties", "inputProperties"):
            for name, one in value.get(part, {}).items():
                look(f"{path}.{name}", one)

    for part in ("resources", "types", "functions"):
        for name, one in schema[part].items():
            look(name, one)
    assert bare == []
    assert not {"id", "urn", "pulumi"} & {name for one in schema["resources"].values() for name in one["properties"]}


def test_pulumi_accepts_the_schema(tools: Path) -> None:
    done = subprocess.run(
        [tools / "pulumi", "schema", "check", SCHEMA], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_python_sdk_is_fresh(tmp_path: Path) -> None:
    made = generated("python", tmp_path / "sdk") / "pulumi_bayplan"
    kept = REPOSITORY / "provider/pulumi_bayplan"
    names = sorted(str(one.relative_to(made)) for one in made.rglob("*") if one.is_file())
    there = sorted(
        str(one.relative_to(kept)) for one in kept.rglob("*") if one.is_file() and "__pycache__" not in one.parts
    )
    assert there == names
    same, different, missing = filecmp.cmpfiles(made, kept, names, shallow=False)
    assert (different, missing) == ([], [])
    assert same


def test_the_go_sdk_compiles(tmp_path: Path) -> None:
    """With the modules that the CLI is made of, which are there."""
    folder = generated("go", tmp_path / "sdk")
    modules = (REPOSITORY / "tools/go/pulumi/go.mod").read_text()
    (folder / "go.mod").write_text(modules.replace("module bayplan.dev/tools/go/pulumi", "module bayplan.dev/sdk/go"))
    text = (folder / "go.mod").read_text()
    (folder / "go.mod").write_text(text.replace("\tbayplan.dev/tools/go/pulumi/sdkgen\n", ""))
    shutil.copy(REPOSITORY / "tools/go/pulumi/go.sum", folder / "go.sum")
    done = subprocess.run(
        ["go", "vet", "./bayplan"],
        cwd=folder,
        env={**os.environ, "GOWORK": "off", "GOFLAGS": "-mod=mod", "GOPROXY": "off"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_python_program_runs_by_the_automation_api(
    bayplan: CommandLine, tools: Path, tmp_path: Path, busybox: Path
) -> None:
    (bayplan.cwd / "tree/bin").mkdir(parents=True)
    shutil.copy(busybox, bayplan.cwd / "tree/bin/busybox")
    project = Pulumi(bayplan, tools, tmp_path / "pulumi-home")
    (project.home / "backend").mkdir(parents=True)
    environ = project.environment()
    environ["PATH"] = f"{plugin(tmp_path / 'plugin')}:{environ['PATH']}"
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)

    def run(*arguments: str) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, script, *arguments],
            cwd=bayplan.cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, plain(done.stdout + done.stderr)
        line = next(one for one in done.stdout.splitlines() if one.startswith("told "))
        found: dict[str, str] = json.loads(line.removeprefix("told "))
        return found

    first = run("64m")
    (there,) = bayplan.json("container", "list", "--all")["containers"]
    assert there["id"] == first["id"]
    second = run("96m", "destroy")
    assert second["id"] == first["id"], "memory changes in place"
    assert bayplan.json("container", "list", "--all")["containers"] == []
