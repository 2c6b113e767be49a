"""From a definition to a bundle that an OCI runtime can run: mounts, user, network, files of names, ``config.json``.

Everything here may be repeated: a start after a crash or a reboot makes it all anew from ``container.json``. The one
room of the runtime that needs the image store; the exit hook does without, because it runs the bundle that stands.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError
from bayplan.records import dataclass, field
from bayplan.runtime import bundle, cgroup
from bayplan.runtime.capabilities import granted
from bayplan.runtime.codec import spec_from, with_secrets
from bayplan.runtime.compiled import Compiled, compiled
from bayplan.runtime.connecting import Connecting
from bayplan.runtime.effective import Effective, environment
from bayplan.runtime.live import open_live
from bayplan.runtime.ociruntime import OciRuntime, cgroups_unified
from bayplan.runtime.record import Files, RootPlace
from bayplan.runtime.rootfs import Overlay, find_user, make_working_directory, resolve
from bayplan.runtime.spec import ContainerSpec, Mount
from bayplan.runtime.volumes import Volumes

_INIT_TARGET = "/dev/init"
_INITS = ("docker-init", "catatonit", "tini-static", "tini")
_INIT_FOLDERS = ("/usr/libexec/podman/", "/usr/lib/podman/", "")
_THROTTLE = "/sys/devices/system/cpu/cpu{}/thermal_throttle"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A bundle that stands: it may be created now, and run after :meth:`connect`."""

    config: Mapping[str, Any]
    network: Connecting | None
    program: Compiled | None
    _names: Callable[[Connected], None]

    def connect(self) -> Connected:
        """Wait for the network and write the files of names. Raises what :meth:`.net.Networks.attach` raises."""
        connected = Connected()
        if self.network is not None:
            state = self.network.finish()
            ports = tuple((port.container, port.host, port.host_ip, port.protocol) for port in state.ports)
            connected = Connected(dict(state.addresses), ports, state.resolv_conf, state.gateway)
        self._names(connected)
        return connected


@dataclass(frozen=True, slots=True)
class Connected:
    """What the network gave: addresses by network, published ports (container, host, host IP, protocol)."""

    addresses: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[tuple[int, int, str, str], ...] = ()
    resolv_conf: str = ""
    gateway: str = ""


def secret_values(definition: Mapping[str, Any]) -> dict[str, str]:
    """The secret variables of a definition, opened with the host's key."""
    sealed = definition["sealed"]
    if not sealed:
        return {}
    from bayplan.runtime.hostkey import unseal

    return {name: unseal(text, f"{definition['id']}/{name}") for name, text in sealed.items()}


def full_spec(definition: Mapping[str, Any]) -> ContainerSpec:
    """The specification as it was given, secret values included."""
    return with_secrets(spec_from(definition["spec"]), secret_values(definition))


def overlay(files: Files, lower: tuple[Path, ...]) -> Overlay:
    return Overlay(lower, files.directory / "upper", files.directory / "work", files.directory / "points", files.rootfs)


def masked_paths() -> tuple[str, ...]:
    """The paths to mask that depend on the machine (moby defaults.go)."""
    found = (_THROTTLE.format(number) for number in range(os.cpu_count() or 1))
    return tuple(path for path in found if Path(path).exists())


def find_init() -> str:
    """A static init program of the distribution. Raises BayplanError ``bad-init`` naming the package."""
    from bayplan.runtime.ociruntime import find_program

    for name in _INITS:
        for folder in _INIT_FOLDERS:
            path = folder + name if folder else find_program(name)
            if path and os.access(path, os.X_OK) and _static(Path(path)):
                return os.path.realpath(path)
    raise BayplanError(
        "bad-init", "init is declared, but this machine has no init program", hint="apt-get install catatonit"
    )


def _static(path: Path) -> bool:
    """Whether an ELF program needs no interpreter (ELF64: e_phoff at 32, e_phentsize 54, e_phnum 56; PT_INTERP is
    3)."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] != b"\x7fELF" or len(head) < 64:
            return False
        order = "little" if head[5] == 1 else "big"
        offset = int.from_bytes(head[32:40], order)  # type: ignore[arg-type]
        size, count = (int.from_bytes(head[at : at + 2], order) for at in (54, 56))  # type: ignore[arg-type]
        file.seek(offset)
        table = file.read(size * count)
    kinds = (int.from_bytes(table[at : at + 4], order) for at in range(0, len(table), size))  # type: ignore[arg-type]
    return 3 not in kinds


def devices() -> Iterator[bundle.Device]:
    """The machine's device nodes, for a privileged container."""
    for directory, folders, names in os.walk("/dev"):
        folders[:] = [name for name in folders if name not in ("pts", "shm", "fd", "mqueue", ".lxc", ".udev")]
        for name in names:
            path = f"{directory}/{name}"
            info = os.lstat(path)
            kind = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""
            if kind and name not in ("console", "ptmx"):
                yield bundle.Device(
                    path,
                    kind,
                    os.major(info.st_rdev),
                    os.minor(info.st_rdev),
                    stat.S_IMODE(info.st_mode),
                    info.st_uid,
                    info.st_gid,
                )


def all_mounts(spec: ContainerSpec, definition: Mapping[str, Any]) -> list[Mount]:
    """Declared mounts, and the anonymous volumes that the image asked for."""
    return [*spec.mounts, *(Mount("volume", target, name) for target, name in sorted(definition["anonymous"].items()))]


def _binding(mount: Mount, volumes: Volumes) -> bundle.Binding:
    if mount.type == "tmpfs":
        return bundle.Binding("tmpfs", mount.target, size=mount.size, read_only=mount.read_only)
    if mount.type == "volume":
        volume = volumes.get(mount.source)
        if volume is None:
            raise BayplanError("no-such-volume", f"the volume {mount.source} for {mount.target} is gone")
        return bundle.Binding("bind", mount.target, str(volume.path), mount.read_only)
    if not Path(mount.source).exists():
        raise BayplanError(
            "no-such-path",
            f"{mount.source}, to be mounted on {mount.target}, does not exist",
            hint="create it, or correct the path",
        )
    return bundle.Binding("bind", mount.target, mount.source, mount.read_only)


def _form(binding: bundle.Binding) -> str:
    return "dir" if binding.type == "tmpfs" or Path(binding.source).is_dir() else "file"


def prepare(
    root: RootPlace,
    files: Files,
    runtime: OciRuntime,
    definition: Mapping[str, Any],
    lower: tuple[Path, ...],
    network: Connecting | None,
) -> Prepared:
    """Make the bundle in ``files.live``. Lock held; phase is ``starting``. Raises BayplanError for what the user can
    mend.

    ``network`` is the attachment that was begun, for a container that has one of its own: it goes on meanwhile.
    """
    spec = full_spec(definition)
    what = Effective.from_json(definition["effective"])
    volumes = Volumes(root)
    hostname = spec.hostname or files.id[:12]
    open_live(root, files)

    bindings = [_binding(mount, volumes) for mount in all_mounts(spec, definition)]
    own = {binding.target.rstrip("/") or "/" for binding in bindings}
    for name in ("hosts", "hostname", "resolv.conf"):
        if f"/etc/{name}" not in own:
            bindings.append(bundle.Binding("bind", f"/etc/{name}", str(files.live / name)))
    points = dict.fromkeys(bundle.MOUNT_DIRECTORIES, "dir")
    points.update((b.target, "file" if b.source.startswith(f"{files.live}/") else _form(b)) for b in bindings)
    argv = what.argv
    if spec.init:
        bindings.append(bundle.Binding("bind", _INIT_TARGET, find_init(), read_only=True))
        argv = (_INIT_TARGET, "--", *argv)

    tree = overlay(files, lower)
    tree.mount({path: form for path, form in points.items() if not path.startswith(("/dev/", "/proc/", "/sys/"))})
    for mount in all_mounts(spec, definition):
        if mount.type == "volume":
            source = resolve(files.rootfs, mount.target)
            if source.is_dir():
                volumes.fill(mount.source, source)
    user = find_user(files.rootfs, what.user)
    if not any(what.working_dir == target or what.working_dir.startswith(f"{target}/") for target in own):
        make_working_directory(files.rootfs, what.working_dir, user)

    for name in ("hosts", "hostname", "resolv.conf"):
        (files.live / name).touch(mode=0o644)
    caps = granted(spec.cap_add, spec.cap_drop, privileged=spec.privileged)
    program = None if spec.privileged else compiled(root, runtime, frozenset(caps))
    made = bundle.Bundle(
        argv=argv,
        env=environment(what.env, spec.env, hostname=hostname, tty=spec.tty),
        cwd=what.working_dir,
        user=user,
        hostname=hostname,
        rootfs=str(files.rootfs),
        cgroup=files.cgroup,
        capabilities=caps,
        seccomp=None if program is None else program.filter,
        annotations={} if program is None else program.annotations,
        network=str(network.netns()) if network is not None else "host" if spec.network_mode == "host" else "",
        bindings=tuple(bindings),
        limits=bundle.Limits(spec.memory, spec.cpus, spec.pids_limit, cgroup.accounts_swap()),
        read_only=spec.read_only,
        terminal=spec.tty,
        privileged=spec.privileged,
        devices=tuple(devices()) if spec.privileged else (),
        masked=masked_paths(),
        unified=cgroups_unified(),
    )
    config = made.config()
    write_config(files, config)
    return Prepared(config, network, program, lambda connected: _write_names(files, spec, hostname, connected))


def write_config(files: Files, config: Mapping[str, Any]) -> None:
    descriptor = os.open(files.config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, json.dumps(config).encode())
    finally:
        os.close(descriptor)


def _write_names(files: Files, spec: ContainerSpec, hostname: str, connected: Connected) -> None:
    """``/etc/hosts``, ``/etc/hostname`` and ``/etc/resolv.conf`` as Docker writes them, into the files that are mounted
    already."""
    resolv = connected.resolv_conf
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "ff00::0\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ]
    for name, address in sorted(spec.extra_hosts.items()):
        lines.append(f"{connected.gateway or '127.0.0.1' if address == 'host-gateway' else address}\t{name}")
    names = hostname if spec.hostname is None else f"{hostname} {files.id[:12]}"
    lines.extend(f"{address}\t{names}" for address in list(connected.addresses.values())[:1])
    if spec.network_mode == "host":
        from bayplan.runtime.net import host_resolv_conf

        resolv = host_resolv_conf()
        lines = [*Path("/etc/hosts").read_text().splitlines(), *lines[6:]]
    for name, text in (("hosts", "\n".join(lines)), ("hostname", hostname), ("resolv.conf", resolv.rstrip("\n"))):
        path = files.live / name
        path.write_text(text + "\n")
        path.chmod(0o644)
