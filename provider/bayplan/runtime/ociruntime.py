"""The OCI runtime: which one works on this machine, and how it is called.

crun starts a container in a third of runc's time, so it is tried first; runc is the other. Which of them works is not
read from versions but tried: a throw-away container is created (not started) and deleted. The answer is kept in
``/run/bayplan`` (or the user's run directory) until the binary, the kernel or the cgroup layout changes, so a machine
is probed once per boot. ``BAYPLAN_OCI_RUNTIME`` names another (a path or a name on PATH), which is probed too.

crun refuses to create containers on machines with hybrid cgroups, where version 2 is mounted beside version 1 and
still owns a controller. There, ``create`` and ``run`` enter a mount namespace without that mount (``nsenter`` into
:func:`.kernel.private_mounts`); all other commands run as they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError
from bayplan.records import dataclass
from bayplan.runtime.kernel import private_mounts
from bayplan.runtime.record import RootPlace, read_json, write_json

CGROUPS = Path("/sys/fs/cgroup")
_HYBRID = CGROUPS / "unified"
_TIMEOUT = 60.0  # seconds for any one command of the runtime; none of them waits for the container
_SEARCH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What programs of the distribution are run with: nothing of the caller's environment reaches them.
CLEAN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def find_program(name: str) -> str | None:
    """The program's path, also where root's PATH lacks the sbin folders."""
    for folder in [""] if "/" in name else _SEARCH.split(":"):
        path = f"{folder}/{name}" if folder else name
        if os.access(path, os.X_OK) and not os.path.isdir(path):  # noqa: PTH112  (shutil's which costs a start more)
            return path
    return None


def cgroups_unified() -> bool:
    """Whether the machine has cgroup version 2 alone."""
    return (CGROUPS / "cgroup.controllers").exists()


def _hybrid_controllers() -> str:
    try:
        return (_HYBRID / "cgroup.controllers").read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def runtime_message(text: str) -> str:
    """The sentence for people in what a runtime or conmon said (JSON log lines or plain text)."""
    messages = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            messages.append(line.strip())
            continue
        if isinstance(entry, dict) and entry.get("msg"):
            messages.append(str(entry["msg"]))
    found = [message for message in messages if message]
    last = found[-1] if found else "no reason was given"
    for lead in ("runc create failed: ", "unable to start container process: ", "error during container init: "):
        last = last.replace(lead, "")
    return last.rstrip(".\n ")


@dataclass(frozen=True, slots=True)
class OciRuntime:
    """A runtime that works here. ``state`` is its own folder (``--root``); ``hide`` the mount that it must not see."""

    program: str
    state: Path
    hide: bool = False

    @property
    def name(self) -> str:
        return Path(self.program).name

    def options(self, log: Path | None = None) -> list[str]:
        out = ["--root", str(self.state)]
        return out if log is None else [*out, "--log-format=json", "--log", str(log)]

    @contextlib.contextmanager
    def creating(self) -> Iterator[list[str]]:
        """Words to put before the program for ``create`` and ``run``; valid inside the block."""
        if not self.hide:
            yield []
            return
        nsenter = find_program("nsenter") or "nsenter"
        with private_mounts(_HYBRID) as place:
            yield [nsenter, f"--mount={place}/ns/mnt", f"--root={place}/root", "--"]

    def call(self, *arguments: str, timeout: float = _TIMEOUT, stdin: bytes | None = None) -> str:
        """Run one command; returns its output. Raises BayplanError ``runtime-failed`` with the runtime's sentence."""
        try:
            done = subprocess.run(
                [self.program, *self.options(), *arguments],
                input=b"" if stdin is None else stdin,
                capture_output=True,
                timeout=timeout,
                env=CLEAN_ENV,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BayplanError(
                "runtime-failed", f"{self.name} {arguments[0]} gave no answer for {timeout:g} seconds"
            ) from None
        if done.returncode:
            reason = runtime_message(done.stderr.decode("utf-8", "replace"))
            raise BayplanError("runtime-failed", f"{self.name} {arguments[0]}: {reason}")
        return done.stdout.decode("utf-8", "replace")

    def status(self, id: str) -> str:
        """``created``, ``running``, ``stopped`` or ``paused``; ``""`` when the runtime knows no such container."""
        if not (self.state / id).is_dir():
            return ""
        try:
            return str(json.loads(self.call("state", id)).get("status", ""))
        except (BayplanError, ValueError):
            return ""

    def delete(self, id: str) -> None:
        """Forget the container and kill what is left of it; no error when there is nothing."""
        if (self.state / id).is_dir():
            self.call("delete", "--force", id)


def _identity(program: str) -> list[Any]:
    info = Path(program).stat()
    return [program, info.st_size, info.st_mtime_ns, os.uname().release, cgroups_unified(), _hybrid_controllers()]


def _try(runtime: OciRuntime) -> str:
    """Create and delete an empty container; ``""`` when that works, else why not."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="bayplan-probe-") as name:
        bundle = Path(name)
        for part in ("proc", "sys", "dev"):
            (bundle / "rootfs" / part).mkdir(parents=True)
        program = bundle / "rootfs" / "probe"
        program.touch()
        program.chmod(0o755)
        id = f"bayplan-probe-{os.getpid()}-{bundle.name[-8:]}"
        config = {
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/probe"], "cwd": "/", "env": [], "terminal": False},
            "root": {"path": "rootfs"},
            "hostname": "probe",
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "cgroupsPath": f"/{id}",
                "namespaces": [{"type": kind} for kind in ("mount", "uts", "pid", "ipc", "network")],
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            },
        }
        (bundle / "config.json").write_text(json.dumps(config))
        probed = OciRuntime(runtime.program, bundle / "state", runtime.hide)
        try:
            with probed.creating() as prefix, (bundle / "log").open("wb") as log:
                # To a file and not to a pipe: the created process keeps it open.
                done = subprocess.run(
                    [*prefix, probed.program, *probed.options(), "create", "--bundle", name, id],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=_TIMEOUT,
                    env=CLEAN_ENV,
                    check=False,
                )
            if done.returncode:
                return runtime_message((bundle / "log").read_text(errors="replace"))
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        finally:
            probed.delete(id)
    return ""


def probe(state: Path, cache: Path) -> OciRuntime:
    """The runtime of this machine, tried once and remembered in ``cache``.

    Raises BayplanError ``no-runtime`` when none works, with each one's reason.
    """
    told = os.environ.get("BAYPLAN_OCI_RUNTIME")
    known = read_json(cache) or {}
    reasons = []
    for name in [told] if told else ["crun", "runc"]:
        program = find_program(name)
        if program is None:
            reasons.append(f"{name} is not installed")
            continue
        identity = _identity(program)
        hide = Path(program).name.startswith("crun") and bool(_hybrid_controllers()) and not cgroups_unified()
        runtime = OciRuntime(program, state, hide)
        entry = known.get(name)
        if isinstance(entry, dict) and entry.get("identity") == identity:
            reason = str(entry["reason"])
        else:
            reason = _try(runtime)
            known = {**known, name: {"identity": identity, "reason": reason}}
            cache.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            write_json(cache, known)
        if not reason:
            return runtime
        reasons.append(f"{name}: {reason}")
    raise BayplanError(
        "no-runtime",
        f"no OCI runtime works on this machine ({'; '.join(reasons)})",
        hint="apt-get install crun conmon" if all("not installed" in r for r in reasons) else "see bayplan doctor",
    )


def runtime_for(root: RootPlace) -> OciRuntime:
    """The runtime for containers of ``root``."""
    return probe(root.run_dir / "live" / ".runtime", root.run_dir.parent / "oci-runtime.json")


def require_root() -> None:
    """Raises BayplanError ``needs-root``: containers of ordinary users are not supported yet."""
    if os.geteuid() != 0:
        raise BayplanError("needs-root", "containers on this machine are made by root", hint="run it with sudo")


def require(name: str, package: str) -> str:
    """The path of a program of the distribution. Raises BayplanError ``program-missing`` naming the package."""
    found = find_program(name)
    if found is None:
        raise BayplanError("program-missing", f"{name} is not installed", hint=f"apt-get install {package}")
    return found


def known_bad(version: Sequence[int]) -> bool:
    """Whether a runc of this version predates the fixes of CVE-2025-31133, 52565 and 52881 (fixed in 1.2.8 and
    1.3.3)."""
    v = tuple(version)
    return v < (1, 2, 8) or ((1, 3) <= v[:2] < (1, 4) and v < (1, 3, 3))
