"""The agent: one small optional process per root, for what needs a keeper.

It checks health on schedule, restarts the unhealthy where that is declared, starts containers after a boot, and rotates
logs. Containers live without it; it can be killed at any time. Without an option it stays in the foreground.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bayplan.cli import show
from bayplan.cli.options import add_places, root_of
from bayplan.errors import BayplanError

if TYPE_CHECKING:
    from bayplan.oci.root import Root

_START = 15.0  # seconds for the agent in the background to be there
_END = 30.0  # seconds for one that was asked to end
_UNIT = Path("/etc/systemd/system/bayplan-agent.service")

UNIT = """\
# Optional: bayplan's containers live without it. It keeps what needs a keeper: health checks between applies, restart of
# the unhealthy where declared, start at boot, log rotation. Another root: systemctl edit, Environment=BAYPLAN_ROOT=...
[Unit]
Description=bayplan agent (health checks, start at boot)
After=network-online.target local-fs.target
Wants=network-online.target

[Service]
Type=simple
ExecStart={command}
{environment}Restart=always
RestartSec=2
# Containers and their monitors are started by the agent after a boot: they must outlive it.
KillMode=process
Delegate=yes
TasksMax=infinity
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""


def configure(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--background", action="store_true", help="start it and return when it is there")
    how.add_argument("--stop", action="store_true", help="end it; containers are not touched")
    how.add_argument("--status", action="store_true", help="whether it runs; exits with 1 when it does not")
    how.add_argument(
        "--install-unit",
        nargs="?",
        const=str(_UNIT),
        metavar="FILE",
        help=f"write the systemd unit (default {_UNIT}; - prints it)",
    )
    add_places(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.install_unit is not None:
        return _install(arguments)
    from bayplan.runtime import agent

    root = root_of(arguments)
    if arguments.status:
        pid = agent.agent_running(root)
        _tell(arguments, pid, f"the agent runs (process {pid})" if pid else "no agent runs")
        return 0 if pid else 1
    if arguments.stop:
        stopped = _stop(root)
        _tell(arguments, None, f"stopped (process {stopped})" if stopped else "no agent runs")
        return 0
    if arguments.background:
        known = agent.agent_running(root)
        pid = known or _start(root)
        _tell(arguments, pid, f"the agent runs{' already' if known else ''} (process {pid})")
        return 0
    agent.run(root, lambda line: show.say(f"{show.stamp(time.time())} {line}"))
    return 0


def _tell(arguments: argparse.Namespace, pid: int | None, text: str) -> None:
    if arguments.json:
        root = root_of(arguments)
        show.document(
            {"agent": {"running": pid is not None, "pid": pid, "root": str(root.path), "log": str(_log(root))}}
        )
    else:
        show.say(text)


def _log(root: Root) -> Path:
    return root.run_dir / "agent.log"


def _start(root: Root) -> int:
    """A session of its own, its words in a log on tmpfs. Raises BayplanError ``agent-failed``."""
    import subprocess

    from bayplan.runtime.agent import agent_running

    root.ensure()
    log = os.open(_log(root), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "bayplan.cli.main", "agent", "--root", str(root.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    finally:
        os.close(log)
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        pid = agent_running(root)
        if pid is not None:
            return pid
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    said = _log(root).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise BayplanError(
        "agent-failed", f"the agent did not start{': ' + said[-1] if said else ''}", hint=f"see {_log(root)}"
    )


def _stop(root: Root) -> int | None:
    """Ask the agent to end and wait until it has. Raises BayplanError ``agent-stuck``."""
    import signal

    from bayplan.runtime.agent import agent_running

    pid = agent_running(root)
    if pid is None:
        return None
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return pid
    try:
        if agent_running(root) == pid:  # the handle and the lock mean the same process
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        deadline = time.monotonic() + _END
        while agent_running(root) == pid:
            if time.monotonic() >= deadline:
                raise BayplanError("agent-stuck", f"the agent (process {pid}) did not end within {_END:g} seconds")
            time.sleep(0.05)
    except ProcessLookupError:
        return pid
    finally:
        os.close(handle)
    return pid


def unit(command: str = "/usr/bin/env bayplan agent", root: str = "") -> str:
    """The text of the systemd unit; with ``root`` for another than the default one."""
    return UNIT.format(command=command, environment=f"Environment=BAYPLAN_ROOT={root}\n" if root else "")


def _install(arguments: argparse.Namespace) -> int:
    import shutil

    root = root_of(arguments)
    program = shutil.which("bayplan")
    command = f"{program} agent" if program else f"{sys.executable} -m bayplan.cli.main agent"
    text = unit(command, "" if str(root.path) == "/var/lib/bayplan" else str(root.path))
    if arguments.install_unit == "-":
        sys.stdout.write(text)
        return 0
    path = Path(arguments.install_unit)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BayplanError(
            "cannot-write", f"{path} cannot be written: {error.strerror}", hint="--install-unit - prints it"
        ) from None
    next_step = f"systemctl daemon-reload && systemctl enable --now {path.name}"
    if arguments.json:
        show.document({"unit": str(path), "next": next_step})
    else:
        show.say(f"wrote {path}; next: {next_step}")
    return 0
