"""The command line as a user runs it: a process of its own for each command, on a root of its own.

Every JSON document that a test asks for is checked against its schema in ``schemas/output``.
"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from runtime_world import busybox_tree, eventually, leftovers

from bayplan.kinds.files import schema_text
from bayplan.oci.root import Root

LIMIT = 30.0  # seconds that any one command may take


class CommandLine:
    """``bayplan`` with a root, a state folder and a docker configuration of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = Root.at(folder / "root")
        self.docker = folder / "docker"
        self.environment = {
            **os.environ,
            "BAYPLAN_ROOT": str(self.root.path),
            "BAYPLAN_STATE": str(folder / "state"),
            "BAYPLAN_HOST_KEY": str(folder / "host.key"),
            "DOCKER_CONFIG": str(self.docker),
            "REGISTRY_AUTH_FILE": str(folder / "auth.json"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "bayplan.cli.main", *words]

    def run(self, *words: str, input: bytes | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Any exit code; output as bytes."""
        return subprocess.run(
            self.argv(*words),
            input=b"" if input is None else input,
            capture_output=True,
            timeout=LIMIT,
            check=False,
            cwd=self.folder,
            env={**self.environment, **environment},
        )

    def ok(self, *words: str, input: bytes | None = None, **environment: str) -> str:
        """A command that must do well; its output."""
        done = self.run(*words, input=input, **environment)
        assert done.returncode == 0, f"{words} gave {done.returncode}: {done.stderr.decode()}"
        return done.stdout.decode()

    def fails(self, *words: str, code: int = 1, **environment: str) -> str:
        """A command that must fail without a traceback; its standard error."""
        done = self.run(*words, **environment)
        said = done.stderr.decode()
        assert done.returncode == code, f"{words} gave {done.returncode}: {said}"
        assert "Traceback" not in said
        return said

    def json(self, schema: str, *words: str, code: int = 0, **environment: str) -> Any:
        """The document of a command with ``--json``, valid by ``schemas/output/<schema>``."""
        done = self.run(*words, "--json", **environment)
        assert done.returncode == code, f"{words} gave {done.returncode}: {done.stderr.decode()}"
        document = json.loads(done.stdout)
        check(schema, document)
        return document

    def containers(self) -> dict[str, dict[str, Any]]:
        """All containers by name."""
        return {one["name"]: one for one in self.json("containers", "container", "list", "--all")["containers"]}

    def image(self, name: str = "box:1", *changes: str) -> str:
        """An image with busybox."""
        tree = self.folder / "tree"
        if not tree.exists():
            busybox_tree(tree)
        words = [word for change in changes for word in ("--change", change)]
        return self.ok("image", "import", str(tree), name, *words).strip()

    def on_terminal(self, *words: str, keys: list[tuple[str, bytes]]) -> tuple[int, str]:
        """Run on a pty of 33 lines and 101 columns. Each of ``keys`` is typed when its text has been seen since the last.

        Returns the exit code and everything that was shown.
        """
        return _on_terminal(self.argv(*words), self.environment, self.folder, keys)

    def close(self) -> None:
        self.run("agent", "--stop")
        for name in self.containers():
            self.run("container", "rm", "--force", name)
        eventually(lambda: not leftovers(self.root), f"left behind: {leftovers(self.root)}")
        shutil.rmtree(self.root.run_dir, ignore_errors=True)


def check(schema: str, document: Any) -> None:
    """Raises jsonschema's ValidationError where the document is not what its schema says."""
    Draft202012Validator(json.loads(schema_text(f"output/{schema}"))).validate(document)


def _on_terminal(
    argv: list[str], environment: dict[str, str], folder: Path, keys: list[tuple[str, bytes]]
) -> tuple[int, str]:
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    process = subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=folder, start_new_session=True
    )
    os.close(slave)
    poller = select.poll()  # select() knows no descriptor beyond 1023
    poller.register(master, select.POLLIN)
    shown, mark = "", 0
    deadline = time.monotonic() + LIMIT
    waiting = list(keys)
    try:
        while True:
            assert time.monotonic() < deadline, f"waited for {waiting[:1]}; shown: {shown[mark:]!r}"
            if waiting and waiting[0][0] in shown[mark:]:
                mark = len(shown)
                os.write(master, waiting.pop(0)[1])
            ready = poller.poll(100)
            if ready:
                try:
                    data = os.read(master, 65536)
                except OSError:  # EIO: nobody has the other end open any more
                    break
                shown += data.decode("utf-8", "replace")
            elif process.poll() is not None:
                break
        return process.wait(LIMIT), shown
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)


@contextmanager
def command_line(folder: Path) -> Iterator[CommandLine]:
    made = CommandLine(folder)
    try:
        yield made
    finally:
        made.close()
