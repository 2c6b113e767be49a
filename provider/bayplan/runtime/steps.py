"""Build steps: one RUN, in the same OCI runtime and under the same defaults as containers.

Fulfils :class:`bayplan.build.port.StepRunner`. A step's own things (bundle, mount points, root file system) live in
the live folder under ``step-...`` with the process that owns them, so that recovery can clear up after a build that
was killed and leaves one that runs alone. Names and addresses files are bind mounts over points that are not in the
upper directory, so a step that writes nothing leaves an empty layer. The network namespace is made by the first step
that wants one and shared by the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bayplan.build.port import Step, StepMount
from bayplan.errors import BayplanError
from bayplan.runtime import bundle, cgroup, transitions
from bayplan.runtime.capabilities import granted
from bayplan.runtime.compiled import compiled
from bayplan.runtime.effective import DEFAULT_PATH
from bayplan.runtime.kernel import Process, unmount
from bayplan.runtime.live import close_live, open_live
from bayplan.runtime.ociruntime import (
    CLEAN_ENV,
    OciRuntime,
    cgroups_unified,
    require_root,
    runtime_for,
    runtime_message,
)
from bayplan.runtime.prepare import masked_paths, write_config
from bayplan.runtime.record import Files, RootPlace, write_json
from bayplan.runtime.rootfs import Overlay, find_user, make_working_directory, mount_overlay
from bayplan.runtime.rundir import clear_run
from bayplan.runtime.volumes import copy_tree

if TYPE_CHECKING:
    from bayplan.runtime.net import StepNetwork

PREFIX = "step-"
_HOLDER = "holder.json"
_CHUNK = 1 << 16
_DRAIN = 2.0  # seconds that output may still come after the step has ended
_LOOK = 0.2  # seconds between looks at whether the step is to be stopped


class OciStepRunner:
    """Runs the steps of one build; close it in the end (or use ``with``). Steps may run at the same time."""

    def __init__(self, root: RootPlace) -> None:
        self._root = root
        self._runtime: OciRuntime | None = None
        self._network: StepNetwork | None = None
        self._guard = threading.Lock()

    def __enter__(self) -> OciStepRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the network namespace, and the run folder when nothing else is in it. Idempotent."""
        with self._guard:
            if self._network is not None:
                self._network.close()
                self._network = None
        clear_run(self._root)

    def run(self, step: Step, output: Callable[[bytes], None]) -> int:
        """Run ``step`` to its end; its exit code (128 + n after signal n).

        Raises BayplanError ``step-failed`` when it cannot be started, ``step-timeout`` when it was killed for its time,
        ``cancelled`` when it was killed because :attr:`Step.cancel` was set.
        """
        require_root()
        files = Files.of(self._root, PREFIX + os.urandom(8).hex())
        with self._guard:
            if self._runtime is None:
                self._runtime = runtime_for(self._root)
            runtime = self._runtime
        with contextlib.ExitStack() as stack:
            open_live(self._root, files)
            stack.callback(close_live, self._root, files)
            write_json(files.live / _HOLDER, _self_json())
            stack.callback(cgroup.drop_parent, files.cgroup)
            self._prepare(step, files, runtime, stack)
            return _execute(runtime, files, step, output)

    def _prepare(self, step: Step, files: Files, runtime: OciRuntime, stack: contextlib.ExitStack) -> None:
        bindings = [
            bundle.Binding("bind", f"/etc/{name}", str(files.live / name))
            for name in ("hosts", "hostname", "resolv.conf")
        ]
        for number, mount in enumerate(step.mounts):
            bindings.append(_binding(mount, step, number, stack))
        points = dict.fromkeys(bundle.MOUNT_DIRECTORIES, "dir")
        for binding in bindings:
            points[binding.target] = "dir" if binding.type == "tmpfs" or Path(binding.source).is_dir() else "file"
        tree = Overlay(tuple(step.lower), step.upper, step.work, files.live / "points", files.rootfs)
        tree.mount(points)
        stack.callback(tree.unmount)
        user = find_user(files.rootfs, step.user)
        make_working_directory(files.rootfs, step.working_dir, user)
        network, resolv = self._network_of(step)
        hosts = f"127.0.0.1\tlocalhost {step.hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        for name, text in (("hosts", hosts), ("hostname", step.hostname + "\n"), ("resolv.conf", resolv)):
            path = files.live / name
            path.write_text(text)
            path.chmod(0o644)
        caps = granted((), (), privileged=False)
        env = {"PATH": DEFAULT_PATH, **step.env}
        program = compiled(self._root, runtime, frozenset(caps))
        made = bundle.Bundle(
            argv=tuple(step.argv),
            env=tuple(f"{name}={value}" for name, value in env.items()),
            cwd=step.working_dir,
            user=user,
            hostname=step.hostname,
            rootfs=str(files.rootfs),
            cgroup=files.cgroup,
            capabilities=caps,
            seccomp=program.filter,
            annotations=program.annotations,
            network=network,
            bindings=tuple(bindings),
            masked=masked_paths(),
            unified=cgroups_unified(),
        )
        write_config(files, made.config())

    def _network_of(self, step: Step) -> tuple[str, str]:
        """(namespace for the bundle, text of resolv.conf)."""
        if step.network == "none":
            return "", ""
        if step.network == "host":
            from bayplan.runtime.net import host_resolv_conf

            return "host", host_resolv_conf()
        if step.network != "default":
            raise BayplanError(
                "bad-network-mode", f"there is no network mode {step.network} for RUN", hint="default, none or host"
            )
        with self._guard:
            if self._network is None:
                from bayplan.runtime.net import Networks

                self._network = Networks(self._root).step_network()
            return str(self._network.netns), self._network.resolv_conf


def _binding(mount: StepMount, step: Step, number: int, stack: contextlib.ExitStack) -> bundle.Binding:
    """One ``--mount``. What a step writes into a writable ``bind`` is dropped: it writes into a copy or an overlay."""
    if mount.type == "tmpfs":
        return bundle.Binding("tmpfs", mount.target, size=mount.size, executable=True)
    source = mount.source
    if source is None or not source.exists():
        raise BayplanError("no-such-path", f"the source of the mount on {mount.target} does not exist")
    if mount.type == "bind" and not mount.read_only:
        place = step.work.parent / f".mount-{number}-{os.urandom(4).hex()}"
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        place.mkdir()
        if source.is_file():
            shutil.copy2(source, place / "file")
            return bundle.Binding("bind", mount.target, str(place / "file"))
        for name in ("upper", "work", "merged"):
            (place / name).mkdir()
        try:
            mount_overlay((source,), place / "upper", place / "work", place / "merged")
        except OSError:  # a source that overlayfs cannot stand on (another overlay, a network file system)
            copy_tree(source, place / "merged")
        else:
            stack.callback(unmount, place / "merged")
        return bundle.Binding("bind", mount.target, str(place / "merged"))
    return bundle.Binding("bind", mount.target, str(source), mount.read_only)


def _execute(runtime: OciRuntime, files: Files, step: Step, output: Callable[[bytes], None]) -> int:
    log, pidfile = files.live / "runtime.log", files.live / "pidfile"
    try:
        _stop_if_due(step, None)
        cgroup.make(files.cgroup)
        with runtime.creating() as prefix:
            process = subprocess.Popen(
                [
                    *prefix, runtime.program, *runtime.options(log), "run", "--bundle", str(files.live),
                    "--pid-file", str(pidfile), files.id,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=CLEAN_ENV,
                start_new_session=True,  # Ctrl-C on a terminal is the build's to answer, not the step's
            )  # fmt: skip
            try:
                code = _pump(process, step, output)
            finally:
                if process.poll() is None:
                    _kill(pidfile, process)
                if process.stdout is not None:
                    process.stdout.close()
        if code and not pidfile.exists():
            reason = runtime_message(log.read_text(errors="replace")) if log.exists() else "no reason was given"
            raise BayplanError("step-failed", f"the step cannot be started: {reason}")
        return 128 - code if code < 0 else code
    finally:
        cgroup.destroy(files.cgroup)
        transitions.forget(runtime, files.id)


def _stop_if_due(step: Step, deadline: float | None) -> None:
    """Raises BayplanError ``cancelled`` or ``step-timeout`` when the step is to be killed now."""
    if step.cancel is not None and step.cancel.is_set():
        raise BayplanError("cancelled", "the step was stopped")
    if deadline is not None and time.monotonic() >= deadline:
        raise BayplanError("step-timeout", f"the step did not end within {step.timeout:g} seconds and was killed")


def _pump(process: subprocess.Popen[bytes], step: Step, output: Callable[[bytes], None]) -> int:
    """Pass on the output until the step has ended; its exit code. Raises as :func:`_stop_if_due`, which is asked five
    times a second, whether the step speaks or is silent.

    A process that a step left in the background keeps the pipe open but ends with the step's namespace; a step that
    closes its streams runs on without them.
    """
    assert process.stdout is not None, "its output is a pipe"
    descriptor = process.stdout.fileno()
    deadline = None if step.timeout is None else time.monotonic() + step.timeout
    asked, ended = time.monotonic(), 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            chunk = None
            if selector.select(_LOOK):
                chunk = os.read(descriptor, _CHUNK)
                if chunk:
                    output(chunk)
            now = time.monotonic()
            if now - asked >= _LOOK or chunk is None:
                asked = now
                _stop_if_due(step, deadline)
            if chunk == b"":
                break
            if chunk is None and process.poll() is not None:
                ended = ended or now
                if now - ended > _DRAIN:
                    break
    while True:
        try:
            return process.wait(_LOOK)
        except subprocess.TimeoutExpired:
            _stop_if_due(step, deadline)


def _kill(pidfile: Path, process: subprocess.Popen[bytes]) -> None:
    """End the step: its init, when the runtime has made it already, and with that the runtime; else the runtime itself,
    whose half-made container the caller's clearing up ends."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        inside = Process.of(int(pidfile.read_text()))
        if inside is not None:
            inside.send(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_DRAIN)
                return
    process.kill()
    process.wait()


def _self_json() -> dict[str, int]:
    own = transitions.own_process()
    return {"pid": own.pid, "start": own.start}


def held(files: Files) -> bool:
    """Whether a step's live folder belongs to a build that runs."""
    try:
        data = json.loads((files.live / _HOLDER).read_bytes())
    except (FileNotFoundError, ValueError):
        # Just made: its holder is being written. A folder that stays so for long belongs to nobody.
        try:
            return time.time() - files.live.stat().st_mtime < _DRAIN
        except FileNotFoundError:
            return False
    return Process(data["pid"], data["start"]).alive
