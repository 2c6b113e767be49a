"""The transitions of a container, from creation to removal: the part of :class:`.containers.Runtime` that changes the world.

Each method takes the container's lock, first mends what a dead process left half done, makes its own effects in an order
that a kill -9 at any instant leaves mendable (:mod:`.transitions`), writes down where it got, and unlocks. Nothing is kept
in memory from one call to the next, so any number of processes may use one root at once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayplan.errors import BayplanError
from bayplan.records import replace
from bayplan.runtime import cgroup, conmon, logs, transitions
from bayplan.runtime.codec import secrets_of, spec_from, spec_json
from bayplan.runtime.connecting import Connecting
from bayplan.runtime.container import State, load, state_of
from bayplan.runtime.definitions import Definitions
from bayplan.runtime.effective import ImageDefaults, effective, signal_number
from bayplan.runtime.kernel import boot_id, until
from bayplan.runtime.names import check_name
from bayplan.runtime.ociruntime import OciRuntime, require_root, runtime_for
from bayplan.runtime.prepare import find_init, prepare
from bayplan.runtime.record import Files, Phase, Status, gone, read_json
from bayplan.runtime.spec import ContainerSpec
from bayplan.runtime.volumes import Volumes

if TYPE_CHECKING:
    import socket

    from bayplan.oci.image import Image
    from bayplan.oci.root import Root
    from bayplan.runtime.net import Networks

_FREEZE_WAIT = 10.0  # seconds until every process of a paused container stands still
_KILL_WAIT = 30.0  # seconds after SIGKILL before a process counts as stuck in the kernel


class Lifecycle:
    """Creation, start, stop, removal of the containers of one root."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.definitions = Definitions(root)
        self.volumes = Volumes(root)

    @property
    def networks(self) -> Networks:
        from bayplan.runtime.net import Networks

        return Networks(self.root)

    @property
    def oci_runtime(self) -> OciRuntime:
        """The OCI runtime that works here. Raises BayplanError ``no-runtime``."""
        return runtime_for(self.root)

    # -- entering and leaving ---------------------------------------------------------------------------------------

    def create(self, spec: ContainerSpec, *, succeeds: str = "") -> str:
        """Make a container from an image that is in the store; nothing runs yet. Returns its id.

        ``succeeds`` is the id of a container whose ports and names this one will get by :meth:`hand_over`: until then
        it starts without them. A kill at any instant leaves no container, or a whole one in state ``created``. Raises
        BayplanError ``name-taken``, ``no-command``, ``bad-...``, ``no-such-path``, ``unknown-network``, what the
        image store raises.
        """
        from bayplan.oci.store import Store

        require_root()
        check_name(spec.name)
        with Store(self.root).lease():
            what = effective(spec, self._defaults(spec.image))
            self._check(spec)
            with self.definitions.entering() as files:
                self.definitions.names.claim(spec.name, files.id)
                try:
                    self._enter(files, spec, what.to_json(), what.volumes, succeeds)
                except BaseException:
                    self.definitions.names.release(spec.name, files.id)
                    raise
        return files.id

    def _image(self, digest: str) -> Image:
        from bayplan.oci.digest import Digest
        from bayplan.oci.image import Image
        from bayplan.oci.store import Store

        return Image.load(Store(self.root), Digest.parse(digest))

    def _defaults(self, digest: str) -> ImageDefaults:
        return ImageDefaults.of(self._image(digest).config)

    def _enter(
        self, files: Files, spec: ContainerSpec, what: Mapping[str, Any], wanted: Sequence[str], succeeds: str
    ) -> None:
        sealed: dict[str, str] = {}
        hidden = secrets_of(spec)
        if hidden:
            from bayplan.runtime.hostkey import seal

            sealed = {name: seal(value, f"{files.id}/{name}") for name, value in hidden.items()}
        declared = {mount.target.rstrip("/") for mount in spec.mounts}
        anonymous: dict[str, str] = {}
        try:
            for mount in spec.mounts:
                if mount.type == "volume":
                    self.volumes.create(mount.source, exist_ok=True)
            for number, target in enumerate(wanted):
                if target.rstrip("/") not in declared:
                    # The name says whose it is, so that one whose container never came to be can be found.
                    volume = self.volumes.create(f"{files.id}-{number}", anonymous=True)
                    anonymous[target] = volume.name
            self.definitions.write(
                files,
                {
                    "version": 1,
                    "id": files.id,
                    "created": time.time(),
                    "spec": spec_json(spec),
                    "sealed": sealed,
                    "effective": what,
                    "anonymous": anonymous,
                    "succeeds": succeeds,
                },
            )
        except BaseException:
            for name in anonymous.values():
                self.volumes.remove(name, {})
            raise

    def _check(self, spec: ContainerSpec) -> None:
        """Find out now what would otherwise fail at the start. Raises BayplanError."""
        from bayplan.runtime.capabilities import granted

        granted(spec.cap_add, spec.cap_drop, privileged=spec.privileged)
        if spec.network_mode not in ("bridge", "none", "host"):
            raise BayplanError(
                "bad-network-mode", f"there is no network mode {spec.network_mode}", hint="bridge, none or host"
            )
        if spec.network_mode != "bridge" and (spec.ports or spec.networks):
            raise BayplanError(
                "bad-network-mode",
                f"a container in network mode {spec.network_mode} has no ports or networks of its own",
            )
        if spec.memory is not None and spec.memory < 6 << 20:
            raise BayplanError("bad-memory", f"{spec.memory} bytes of memory are too few; Docker's least is 6 MiB too")
        if spec.cpus is not None and spec.cpus < 0.01:
            raise BayplanError("bad-cpus", f"{spec.cpus} processors are too few; the least is 0.01")
        if spec.init:
            find_init()
        seen: set[str] = set()
        for mount in spec.mounts:
            target = mount.target.rstrip("/")
            if not target.startswith("/") or "/../" in f"{target}/":
                raise BayplanError("bad-path", f"{mount.target!r} is no place to mount on: an absolute path is wanted")
            if target in seen:
                raise BayplanError("bad-path", f"two mounts on {target}")
            seen.add(target)
            if mount.type == "bind" and not mount.source.startswith("/"):
                raise BayplanError("bad-path", f"the bind mount's source {mount.source!r} is not absolute")

    def remove(self, reference: str, *, force: bool = False, volumes: bool = True) -> None:
        """Remove a container, with the volumes that were made for it alone; ``force`` kills it first.

        Raises BayplanError ``container-running``, ``no-such-container``.
        """
        files = self.definitions.find(reference)
        with files.locked():
            status = self.mended(files)
            if transitions.running(status) and not force:
                raise BayplanError(
                    "container-running",
                    f"the container {reference} is running",
                    hint="stop it first, or remove with --force",
                )
            self._remove(files, files.change_status(status, phase=Phase.REMOVING, stopped=True), volumes=volumes)

    def _remove(self, files: Files, status: Status, *, volumes: bool = True) -> None:
        """Finish a removal whose intention is written down. Lock held; may be repeated."""
        definition = read_json(files.definition) or {}
        runtime = self.oci_runtime
        if status.init is not None and status.boot == boot_id():
            status.init.send(signal.SIGKILL)
            if cgroup.frozen(files.cgroup):
                cgroup.destroy(files.cgroup)
            if not status.init.wait(_KILL_WAIT):
                raise _stuck(files.id)
        self._end_helpers(status)
        if status.run or files.live.exists():
            transitions.release(self.root, files, runtime)
        self.definitions.names.release(definition.get("spec", {}).get("name", ""), files.id)
        if volumes:
            for name in definition.get("anonymous", {}).values():
                if self.volumes.get(name) is not None:
                    self.volumes.remove(name, {})
        self.definitions.discard(files)

    def _end_helpers(self, status: Status) -> None:
        transitions.end_monitor(status)
        if status.hook is not None and status.boot == boot_id():
            status.hook.send(signal.SIGKILL)

    # -- running ----------------------------------------------------------------------------------------------------

    def expect_start(self) -> None:
        """A start comes soon: begin what it would wait for (:func:`.cgroup.wake`). The earlier, the better; no duty."""
        cgroup.wake()

    def start(self, reference: str, *, attach: bool = False) -> socket.socket | None:
        """Start a container; one that runs is left as it is. With ``attach``: a connection to its streams, from the
        first byte on (:func:`.conmon.attach` says what it speaks).

        Raises BayplanError ``start-failed``, ``port-taken``, ``no-such-path``, ``unknown-user``, ...; it is then as
        it was before.
        """
        files = self.definitions.find(reference)
        self.expect_start()
        with files.locked():
            status = self.mended(files)
            if transitions.running(status):
                return conmon.attach(files) if attach else None
            if status.hook is not None and transitions.hook_alive(status):
                status.hook.send(signal.SIGKILL)
            status = replace(status, restarts=0, delay=0.0)
            return self._start(files, status, attach=attach)

    def _start(self, files: Files, before: Status, *, attach: bool = False) -> socket.socket | None:
        """Lock held; the container does not run."""
        definition = read_json(files.definition)
        if definition is None:
            raise gone(files.id)
        runtime = self.oci_runtime
        if files.live.exists():
            transitions.release(self.root, files, runtime)
        files.clear_drafts()
        logs.rotate(files)
        starting = files.change_status(
            before,
            phase=Phase.STARTING,
            run=before.run + 1,
            boot=boot_id(),
            init=None,
            monitor=None,
            hook=None,
            stopped=False,
            restart_at=0.0,
        )
        connection: socket.socket | None = None
        network: Connecting | None = None
        try:
            spec = spec_from(definition["spec"])
            if spec.network_mode == "bridge":
                publish = not definition.get("succeeds")
                network = Connecting(self.root, files, spec, self.definitions.attaching, publish=publish)
            made = prepare(self.root, files, runtime, definition, self._lower(spec.image), network)
            at_work = network.go_on if network is not None else None
            launched = transitions.launch(self.root, files, runtime, definition, starting, at_work=at_work)
            if made.program is not None:
                made.program.keep(runtime, files.id)
            if attach:
                connection = conmon.attach(files)
            connected = made.connect()
            # Before it runs: whoever finds it running after we died finds its addresses too.
            launched = files.change_status(launched, addresses=connected.addresses, ports=connected.ports)
            transitions.go(files, runtime, launched)
        except BaseException as error:
            told = error
            if network is not None:
                network.settle()
                if isinstance(error, BayplanError) and network.error is not None:
                    told = network.error  # the runtime misses the namespace of an attachment that failed
            if connection is not None:
                connection.close()
            failed = files.status()
            if failed.init is not None:
                failed.init.send(signal.SIGKILL)
            self._end_helpers(failed)
            transitions.kill_helpers(files.id)
            transitions.release(self.root, files, runtime)
            message = told.message if isinstance(told, BayplanError) else ""
            phase = Phase.EXITED if before.finished_at else Phase.CREATED
            files.change_status(
                before, phase=phase, run=starting.run, init=None, monitor=None, hook=None, restart_at=0.0, error=message
            )
            if told is not error:
                raise told from error
            raise
        return connection

    def _lower(self, digest: str) -> tuple[Path, ...]:
        from bayplan.oci.store import Store
        from bayplan.oci.unpacked import Unpacked

        return tuple(Unpacked(Store(self.root)).lower(self._image(digest)))

    def stop(self, reference: str, *, timeout: float | None = None) -> None:
        """End a container: its stop signal, then SIGKILL after ``timeout`` seconds (its own by default). It stays
        stopped.

        One that does not run is left as it is, but for a restart that was due. The lock is not held while waiting.
        """
        files = self.definitions.find(reference)
        with files.locked():
            status = self.mended(files)
            if transitions.restart_pending(status):
                self._end_helpers(status)
                transitions.finish(self.root, files, self.oci_runtime, replace(status, stopped=True))
                return
            if not transitions.running(status):
                if status.phase is Phase.EXITED and not status.stopped:
                    files.change_status(status, stopped=True)
                return
            status = files.change_status(status, stopped=True)
            definition = read_json(files.definition) or {}
            paused = cgroup.frozen(files.cgroup)
        wait = definition["spec"]["stop_timeout"] if timeout is None else timeout
        init = status.init
        assert init is not None, "a running container has an init process"
        init.send(definition["effective"]["stop_signal"])
        if paused:
            cgroup.thaw(files.cgroup)
        if not init.wait(wait):
            init.send(signal.SIGKILL)
            if not init.wait(_KILL_WAIT):
                raise _stuck(files.id)
        self._ended(files, status.run)

    def _ended(self, files: Files, run: int) -> None:
        """Settle a container whose init has just ended by our doing, before its exit hook comes to it."""
        with files.locked():
            status = files.status()
            if status.run != run or status.phase is not Phase.STARTED:
                return
            status = transitions.settle(files, status)
            transitions.end_monitor(status)
            transitions.finish(self.root, files, self.oci_runtime, status)

    def kill(self, reference: str, signal_name: str = "SIGKILL") -> None:
        """Send a signal to the container's init. SIGKILL and its stop signal mean that the user wants it to end.

        Raises BayplanError ``not-running``, ``bad-signal``.
        """
        files = self.definitions.find(reference)
        number = signal_number(signal_name)
        definition = read_json(files.definition) or {}
        with files.locked():
            status = self._need_running(files)
            final = number in (signal.SIGKILL, definition["effective"]["stop_signal"])
            if final:
                status = files.change_status(status, stopped=True)
            assert status.init is not None, "a running container has an init process"
            status.init.send(number)
            if number == signal.SIGKILL:
                cgroup.thaw(files.cgroup)
        if number == signal.SIGKILL:
            if not status.init.wait(_KILL_WAIT):
                raise _stuck(files.id)
            self._ended(files, status.run)

    def restart(self, reference: str, *, timeout: float | None = None) -> None:
        """Stop and start again."""
        self.stop(reference, timeout=timeout)
        self.start(reference)

    def pause(self, reference: str) -> None:
        """Freeze every process, and wait until they stand still. Raises BayplanError ``not-running``, ``stuck`` (a process
        hangs in the kernel; nothing is paused then); one that is paused is left as it is."""
        files = self.definitions.find(reference)
        with files.locked():
            self._need_running(files)
            if not cgroup.frozen(files.cgroup):
                self.oci_runtime.call("pause", files.id)
            if not until(lambda: cgroup.still(files.cgroup), _FREEZE_WAIT):
                cgroup.thaw(files.cgroup)
                raise BayplanError(
                    "stuck", f"the container {reference} cannot be paused: a process hangs in the kernel"
                )

    def unpause(self, reference: str) -> None:
        """Let a paused container go on. Raises BayplanError ``not-running``."""
        files = self.definitions.find(reference)
        with files.locked():
            self._need_running(files)
            cgroup.thaw(files.cgroup)

    def wait(self, reference: str, *, timeout: float | None = None) -> int | None:
        """Wait until the container has ended; its exit code, or None when ``timeout`` seconds passed before."""
        files = self.definitions.find(reference)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status = files.status()
            if status.phase is Phase.STARTED and transitions.running(status):
                assert status.init is not None, "a running container has an init process"
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not status.init.wait(left):
                    return None
            elif status.phase is Phase.STARTED:
                code = transitions.await_exit_code(files, status)
                return transitions.UNKNOWN_EXIT if code is None else code
            elif status.phase is Phase.EXITED:
                return status.exit_code
            elif not files.definition.exists():
                raise gone(reference)
            elif deadline is not None and time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.02)

    def wait_started(self, reference: str, *, settle: float = 0.3) -> None:
        """See that a container that was started stays up for ``settle`` seconds.

        Raises BayplanError ``exited-at-once`` with its exit code and the last lines of its log.
        """
        files = self.definitions.find(reference)
        status = files.status()
        run = status.run
        if transitions.running(status):
            assert status.init is not None, "a running container has an init process"
            if not status.init.wait(settle):
                return
        until(lambda: self._over(files, run), 5.0)
        raise self.exited_at_once(files)

    def _over(self, files: Files, run: int) -> bool:
        state, status = state_of(files, files.status())
        return (
            status.run != run
            or (state is not State.RUNNING and conmon.exit_code(files) is not None)
            or status.phase is Phase.EXITED
        )

    def exited_at_once(self, files: Files) -> BayplanError:
        """The error that tells how a container ended that should run, with its last words."""
        found = load(files)
        name = found.name if found else files.id[:12]
        status = found.status if found else Status()
        how = f"exited at once with code {status.exit_code}" + (" (out of memory)" if status.oom else "")
        said = logs.tail_text(files, 5)
        return BayplanError(
            "exited-at-once",
            f"the container {name} {how}",
            hint=f"its last words:\n{said}" if said else "it wrote nothing",
        )

    # -- mending ----------------------------------------------------------------------------------------------------

    def mended(self, files: Files) -> Status:
        """The status of a container whose lock the caller holds, after finishing what a dead process left of it. Lock
        held."""
        status = files.status()
        if status.phase is Phase.REMOVING:
            self._remove(files, status)
            raise gone(files.id)
        if status.phase is Phase.STARTING:
            return transitions.undo_start(self.root, files, self.oci_runtime, status)
        if status.phase is Phase.STARTED and not transitions.running(status):
            return transitions.conclude(self.root, files, self.oci_runtime, status)
        return status

    def _need_running(self, files: Files, *, mend: bool = True) -> Status:
        status = self.mended(files) if mend else files.status()
        if not transitions.running(status) or status.phase is not Phase.STARTED:
            spec = (read_json(files.definition) or {}).get("spec", {})
            raise BayplanError("not-running", f"the container {spec.get('name', files.id[:12])} is not running")
        return status


def _stuck(id: str) -> BayplanError:
    return BayplanError(
        "stuck", f"the container {id[:12]} does not end even on SIGKILL: a process of it hangs in the kernel"
    )
