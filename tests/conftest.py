"""What all tests share: roots of their own, the command line as a child process, Debian's base once a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent


@dataclass
class CommandLine:
    """``bayplan`` on a root and a state of its own. ``cwd`` is where commands run."""

    root: Path
    state: Path
    cwd: Path
    environ: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, check: int | None = 0, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; ``check`` is the expected exit code (None: any)."""
        done = subprocess.run(
            [sys.executable, "-m", "bayplan.cli.main", *arguments],
            cwd=self.cwd,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check is not None and done.returncode != check:
            pytest.fail(f"bayplan {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *arguments: str, check: int | None = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", check=check).stdout)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY / "provider"),
            "BAYPLAN_ROOT": str(self.root),
            "BAYPLAN_STATE": str(self.state),
            "XDG_CACHE_HOME": str(self.state.parent / "cache"),
            **self.environ,
        }

    def end(self) -> None:
        """Leave nothing running: whatever the test made goes, by force."""
        from bayplan.oci.root import Root
        from bayplan.runtime.containers import Runtime

        if not self.root.is_dir():
            return
        runtime = Runtime(Root.at(self.root))
        runtime.recover()
        for one in runtime.list():
            runtime.remove(one.id, force=True)
        for network in runtime.networks.list():
            runtime.networks.remove(network.name)
        runtime.networks.reconcile([])
        runtime.networks.teardown_if_unused()


@pytest.fixture
def bayplan(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line in an empty folder, on a root of its own."""
    work = tmp_path / "work"
    work.mkdir()
    line = CommandLine(tmp_path / "root", tmp_path / "state", work)
    yield line
    line.end()


@pytest.fixture(scope="session")
def debian_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minimal Debian with node and npm as an archive: made once a run (about a minute)."""
    archive = tmp_path_factory.mktemp("base") / "debian-node.tar"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates,nodejs,npm", "bookworm", archive],
        check=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )
    return archive


@pytest.fixture
def busybox() -> Path:
    """The static busybox of the distribution."""
    found = shutil.which("busybox")
    assert found is not None, "busybox-static is missing: tools/system-packages test"
    return Path(found)
