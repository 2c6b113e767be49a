"""The runtime: containers of one root, from their creation to their removal, with no process of ours in between.

This is what everybody else uses: ``Runtime(root)``. The transitions stand in :mod:`.lifecycle`; what else can be done
with a container stands here, each method over a room of its own: exec (:mod:`.execution`), logs, health, updates, the
hand-over, recovery, accounting (:mod:`.usage`). ``networks`` and ``volumes`` give the root's networks and volumes.
"""

from __future__ import annotations

from builtins import list as List  # noqa: N812  (the class has a method of that name)
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Literal

from bayplan.errors import BayplanError
from bayplan.records import replace
from bayplan.runtime import cgroup, conmon, transitions
from bayplan.runtime.codec import spec_from
from bayplan.runtime.container import Container, load
from bayplan.runtime.lifecycle import Lifecycle
from bayplan.runtime.prepare import full_spec
from bayplan.runtime.record import gone, read_json
from bayplan.runtime.spec import ContainerSpec, RestartPolicy

if TYPE_CHECKING:
    import socket

    from bayplan.runtime.health import HealthReport
    from bayplan.runtime.logs import LogLine
    from bayplan.runtime.recovery import Recovered
    from bayplan.runtime.usage import Pruned, Usage

_KEEP: Literal["keep"] = "keep"


class Runtime(Lifecycle):
    """Containers on this machine under one root."""

    # -- inside -----------------------------------------------------------------------------------------------------

    def exec(
        self,
        reference: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        working_dir: str | None = None,
        tty: bool = False,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Run a command in a running container; streams are as for ``subprocess``, None inherits ours. Returns its
        exit code.

        Raises BayplanError ``not-running``, ``exec-failed`` (it cannot be started), ``exec-timeout`` (it was killed).
        """
        from bayplan.runtime.execution import execute

        files = self.definitions.find(reference)
        self._need_running(files, mend=False)
        return execute(
            files,
            self.oci_runtime,
            argv,
            env=env or {},
            user=user,
            working_dir=working_dir,
            tty=tty,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            timeout=timeout,
        )

    def attach(self, reference: str) -> socket.socket:
        """A connection to a running container's streams (:func:`.conmon.attach`). Raises BayplanError
        ``not-running``."""
        return conmon.attach(self.definitions.find(reference))

    def resize(self, reference: str, rows: int, columns: int) -> bool:
        """Tell the container's terminal its size; False when it does not run."""
        return conmon.resize(self.definitions.find(reference), rows, columns)

    def logs(
        self,
        reference: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: float | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Iterator[LogLine]:
        """The container's output, oldest first; ``follow`` goes on until it has ended (or ``cancel()`` says so)."""
        from bayplan.runtime.logs import read

        files = self.definitions.find(reference)

        def over() -> bool:
            status = files.status()
            return not transitions.running(status) and not transitions.restart_pending(status)

        return read(files, follow=follow, tail=tail, since=since, over=over, cancel=cancel)

    def stats(self, reference: str) -> cgroup.Stats:
        """What a running container uses now. Raises BayplanError ``not-running``."""
        files = self.definitions.find(reference)
        status = self._need_running(files, mend=False)
        assert status.init is not None, "a running container has an init process"
        received, sent = cgroup.network_bytes(status.init.pid)
        return replace(cgroup.stats(files.cgroup), received_bytes=received, sent_bytes=sent)

    def check_health(self, reference: str) -> HealthReport:
        """Run the health check once, now; the new report. Raises BayplanError ``no-health``, ``not-running``."""
        from bayplan.runtime.health import check

        return check(self, self.definitions.find(reference))

    def wait_healthy(self, reference: str, *, timeout: float, cancel: Callable[[], bool] | None = None) -> None:
        """Check until it is healthy. Raises BayplanError ``unhealthy``, ``exited-at-once``, ``health-timeout``,
        ``cancelled``."""
        from bayplan.runtime.health import wait

        wait(self, self.definitions.find(reference), timeout=timeout, cancel=cancel)

    # -- changing ---------------------------------------------------------------------------------------------------

    def update(
        self,
        reference: str,
        *,
        memory: int | Literal["keep"] | None = _KEEP,
        cpus: float | Literal["keep"] | None = _KEEP,
        pids_limit: int | Literal["keep"] | None = _KEEP,
        restart: RestartPolicy | Literal["keep"] = _KEEP,
        restart_retries: int | Literal["keep"] = _KEEP,
        labels: Mapping[str, str] | Literal["keep"] = _KEEP,
    ) -> None:
        """Change limits, restart policy or labels in place, of a running container too; None takes a limit away.

        Raises BayplanError ``update-failed`` where the kernel refuses (a limit below what is used); nothing is
        recorded then.
        """
        from bayplan.runtime.updating import update

        changes = {
            name: value
            for name, value in {
                "memory": memory,
                "cpus": cpus,
                "pids_limit": pids_limit,
                "restart": restart,
                "restart_retries": restart_retries,
                "labels": labels,
            }.items()
            if value != _KEEP
        }
        files = self.definitions.find(reference)
        with files.locked():
            status = self.mended(files)
            update(self.definitions, files, self.oci_runtime, changes, running=transitions.running(status))

    def rename(self, reference: str, name: str) -> None:
        """Give a container another name. Raises BayplanError ``name-taken``, ``bad-container-name``."""
        from bayplan.runtime.updating import rename

        files = self.definitions.find(reference)
        with files.locked():
            self.mended(files)
            rename(self.definitions, files, name)

    def hand_over(self, old: str, new: str, aside_name: str) -> None:
        """Give ``new`` the published ports and the name of ``old``, which is called ``aside_name`` from then on.

        The ports move in one transaction of the kernel: a client that connects meets the one or the other. A kill at
        any instant leaves it undone or to be finished by :meth:`recover`.
        """
        from bayplan.runtime.handover import hand_over

        hand_over(self, self.definitions.find(old), self.definitions.find(new), aside_name)

    # -- seeing -----------------------------------------------------------------------------------------------------

    def list(self, labels: Mapping[str, str] | None = None) -> List[Container]:
        """Every container that bears all of ``labels``, oldest first."""
        wanted = labels or {}
        found = []
        for id in self.definitions.ids():
            container = load(self.definitions.files(id))
            if container is not None and all(container.labels.get(key) == value for key, value in wanted.items()):
                found.append(container)
        return sorted(found, key=lambda container: (container.created, container.id))

    def get(self, reference: str) -> Container | None:
        """The container now, or None."""
        try:
            return load(self.definitions.find(reference))
        except BayplanError as error:
            if error.code == "no-such-container":
                return None
            raise

    def inspect(self, reference: str) -> Container:
        """The container now. Raises BayplanError ``no-such-container``."""
        found = load(self.definitions.find(reference))
        if found is None:
            raise gone(reference)
        return found

    def declared(self, reference: str) -> ContainerSpec:
        """The specification with its secret values, for whoever compares them. Never print or store it."""
        files = self.definitions.find(reference)
        definition = read_json(files.definition)
        if definition is None:
            raise gone(reference)
        return full_spec(definition)

    def references(self) -> set[str]:
        """Digests of the images that containers need, for garbage collection."""
        return self.definitions.references()

    def disk_usage(self) -> Usage:
        """Bytes by container and volume."""
        from bayplan.runtime.usage import measure

        return measure(self)

    def prune(self, *, containers: bool = True, volumes: bool = False) -> Pruned:
        """Remove containers that do not run, debris, and volumes that nobody mounts."""
        from bayplan.runtime.usage import prune

        return prune(self, containers=containers, volumes=volumes)

    # -- mending ----------------------------------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """Finish or remove everything that dead processes left half done. Cheap when there is nothing."""
        from bayplan.runtime.recovery import recover

        return recover(self)

    def spec(self, reference: str) -> ContainerSpec:
        """The specification without secret values."""
        files = self.definitions.find(reference)
        definition = read_json(files.definition)
        if definition is None:
            raise gone(reference)
        return spec_from(definition["spec"])
