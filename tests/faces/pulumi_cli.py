"""The real Pulumi CLI with its YAML host, on a file backend, beside the command line on the same root."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, CommandLine

#: Seconds that the first build of the CLI may take (eight minutes of one processor), and one command of it.
BUILD, COMMAND = 1800, 240
PLUGIN = f"#!{sys.executable}\nfrom bayplan.pulumi.main import command\n\ncommand()\n"


def built() -> Path:
    """The folder of the CLI, the YAML host and the SDK generator: built once, kept in the user's cache."""
    done = subprocess.run(
        [REPOSITORY / "tools/go/build", "pulumi"], capture_output=True, text=True, timeout=BUILD, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def plugin(folder: Path) -> Path:
    """A folder with the provider's executable in it."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "pulumi-resource-bayplan"
    script.write_text(PLUGIN)
    script.chmod(0o755)
    return folder


@dataclass
class Pulumi:
    """A project ``shop`` with the stack ``dev`` in the current folder of ``line``."""

    line: CommandLine
    tools: Path
    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        own = self.line.environment()
        return {
            **own,
            "PATH": f"{self.tools}:{own['PATH']}",
            "PULUMI_HOME": str(self.home),
            "PULUMI_BACKEND_URL": f"file://{self.home}/backend",
            "PULUMI_CONFIG_PASSPHRASE": "correct horse",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_DISABLE_REGISTRY_RESOLVE": "true",
            "NO_COLOR": "1",
            **self.environ,
        }

    def run(self, *arguments: str, check: int | None = 0, timeout: float = COMMAND) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.tools / "pulumi", "--non-interactive", *arguments],
            cwd=self.line.cwd,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check is not None and done.returncode != check:
            pytest.fail(f"pulumi {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start(self) -> None:
        (self.home / "backend").mkdir(parents=True)
        self.run("stack", "init", "dev", "--secrets-provider", "passphrase")

    def write(self, resources: dict[str, Any], **more: Any) -> None:
        """The program, as JSON, which is YAML."""
        program = {
            "name": "shop",
            "runtime": "yaml",
            "plugins": {"providers": [{"name": "bayplan", "path": str(plugin(self.home.parent / "plugin"))}]},
            "resources": resources,
            **more,
        }
        (self.line.cwd / "Pulumi.yaml").write_text(json.dumps(program, indent=1))

    def preview(self, *flags: str) -> Preview:
        return Preview(json.loads(self.run("preview", "--json", *flags).stdout))

    def up(self, *flags: str) -> str:
        done = self.run("up", "--yes", "--skip-preview", *flags)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        """Name -> resource, of those that bayplan keeps."""
        told = json.loads(self.run("stack", "export").stdout)
        return {
            one["urn"].rpartition("::")[2]: one
            for one in told["deployment"].get("resources", ())
            if one["type"].startswith("bayplan:")
        }


@dataclass(frozen=True)
class Preview:
    """``pulumi preview --json``."""

    told: dict[str, Any]

    @property
    def ops(self) -> dict[str, str]:
        """Name -> operation, for all that is not left as it is."""
        return {
            step["urn"].rpartition("::")[2]: step["op"]
            for step in self.told["steps"]
            if step["op"] != "same" and ":bayplan:" in step["urn"]
        }

    def details(self, name: str) -> dict[str, str]:
        """Path -> kind of the detailed diff of one resource."""
        found: dict[str, str] = {}
        for step in self.told["steps"]:
            if step["urn"].rpartition("::")[2] == name:
                found.update({path: one["kind"] for path, one in (step.get("detailedDiff") or {}).items()})
        return found


def plain(text: str) -> str:
    """Without the colours that YAML diagnostics keep."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
