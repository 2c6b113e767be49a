"""The options of ``container run`` and ``create``: docker's names, read with the grammar of stack files.

:func:`spec_of` is pure but for what an option itself asks to be read: ``--env NAME`` (our environment), ``--env-file``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayplan.errors import BayplanError, UsageError

if TYPE_CHECKING:
    from bayplan.oci.image import ImageConfig
    from bayplan.runtime.spec import Attachment, ContainerSpec, Health, Mount, Port

_ENV_FILE_LIMIT = 1 << 20
_PULL = ("missing", "always", "never")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Everything that makes a container, with IMAGE and COMMAND."""
    what = parser.add_argument_group("the container")
    what.add_argument("--name", help="its name (default: made from the image's)")
    what.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable; without value: ours"
    )
    what.add_argument(
        "--env-file", action="append", default=[], metavar="FILE", help="variables, one NAME=VALUE a line"
    )
    what.add_argument(
        "--secret-env",
        action="append",
        default=[],
        metavar="NAME",
        help="a variable of ours whose value is never on a disk in clear",
    )
    what.add_argument("--entrypoint", metavar="PROGRAM", help='instead of the image\'s; "" for none')
    what.add_argument("-w", "--workdir", metavar="DIR", help="the working directory")
    what.add_argument("-u", "--user", metavar="USER[:GROUP]", help="who runs it, names or numbers")
    what.add_argument("--hostname", metavar="NAME", help="its host name (default: the beginning of its id)")
    what.add_argument("-l", "--label", action="append", default=[], metavar="NAME=VALUE", help="a label (repeatable)")
    what.add_argument("--init", action="store_true", help="run a small init as the first process")
    what.add_argument("--restart", default="no", metavar="POLICY", help="no, always, on-failure[:N], unless-stopped")
    what.add_argument("--stop-signal", metavar="SIGNAL", help="how it is asked to end (default: the image's, SIGTERM)")
    what.add_argument("--stop-timeout", default="10", metavar="SECONDS", help="before it is killed (default 10)")
    what.add_argument("-i", "--interactive", action="store_true", help="keep its standard input open")
    what.add_argument("-t", "--tty", action="store_true", help="give it a terminal")

    place = parser.add_argument_group("files and networks")
    place.add_argument(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="SOURCE:TARGET[:ro]",
        help="a volume or a folder of the host",
    )
    place.add_argument("--tmpfs", action="append", default=[], metavar="PATH[:size=SIZE]", help="a folder in memory")
    place.add_argument("--read-only", action="store_true", help="its root file system cannot be written")
    place.add_argument(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[[IP:]PORT:]PORT[/udp]",
        help="publish a port (repeatable)",
    )
    place.add_argument("-P", "--publish-all", action="store_true", help="publish every port that the image exposes")
    place.add_argument(
        "--network",
        "--net",
        action="append",
        default=[],
        metavar="NETWORK",
        help="a network, none or host (repeatable)",
    )
    place.add_argument(
        "--network-alias", action="append", default=[], metavar="NAME", help="another name on its networks"
    )
    place.add_argument("--add-host", action="append", default=[], metavar="NAME:ADDRESS", help="a line of /etc/hosts")

    limits = parser.add_argument_group("limits and rights")
    limits.add_argument("-m", "--memory", metavar="SIZE", help="the most memory: 64m, 1g")
    limits.add_argument("--cpus", metavar="NUMBER", help="the most processors: 0.5, 2")
    limits.add_argument("--pids-limit", metavar="NUMBER", help="the most processes")
    limits.add_argument("--cap-add", action="append", default=[], metavar="NAME", help="a capability more, or ALL")
    limits.add_argument("--cap-drop", action="append", default=[], metavar="NAME", help="a capability less, or ALL")
    limits.add_argument("--privileged", action="store_true", help="all rights: no protection from it at all")

    health = parser.add_argument_group("health check")
    health.add_argument("--health-cmd", metavar="COMMAND", help="run by the image's shell; 0 is healthy")
    for name in ("interval", "timeout", "start-period", "start-interval"):
        health.add_argument(f"--health-{name}", metavar="DURATION", help=f"{name.replace('-', ' ')}: 5s, 1m30s")
    health.add_argument("--health-retries", type=int, metavar="N", help="failures in a row that make it unhealthy")
    health.add_argument("--no-healthcheck", action="store_true", help="none, whatever the image says")

    source = parser.add_argument_group("the image")
    source.add_argument("--pull", choices=_PULL, default="missing", help="when to pull (default missing)")
    source.add_argument("--platform", metavar="OS/ARCH", help="of an image for several")
    parser.add_argument("image", metavar="IMAGE", help="a name, NAME@DIGEST, or the beginning of an id")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="instead of the image's")


def spec_of(arguments: argparse.Namespace, digest: str, config: ImageConfig) -> ContainerSpec:
    """The specification that the options say. Raises BayplanError ``bad-value`` and UsageError."""
    from bayplan.kinds import values
    from bayplan.runtime.spec import ContainerSpec, RestartPolicy

    restart = values.parse_restart(arguments.restart)
    env = environment(arguments.env, arguments.env_file)
    hidden = {name: _ours(name) for name in arguments.secret_env}
    networks, mode = _networks(arguments.network, arguments.network_alias)
    return ContainerSpec(
        name=arguments.name or made_up_name(arguments.image),
        image=digest,
        image_name=arguments.image,
        command=tuple(arguments.command) or None,
        entrypoint=None if arguments.entrypoint is None else tuple(filter(None, (arguments.entrypoint,))),
        env={**env, **hidden},
        secret_env=frozenset(hidden),
        working_dir=arguments.workdir,
        user=None if arguments.user is None else values.parse_user(arguments.user),
        hostname=arguments.hostname,
        ports=_ports(arguments.publish, config.exposed_ports if arguments.publish_all else ()),
        networks=networks,
        network_mode=mode,
        mounts=(*map(_mount, arguments.volume), *map(_tmpfs, arguments.tmpfs)),
        read_only=arguments.read_only,
        memory=None if arguments.memory is None else values.parse_size(arguments.memory),
        cpus=None if arguments.cpus is None else values.parse_number(arguments.cpus),
        pids_limit=pids(arguments.pids_limit),
        cap_add=tuple(map(values.parse_capability, arguments.cap_add)),
        cap_drop=tuple(map(values.parse_capability, arguments.cap_drop)),
        privileged=arguments.privileged,
        restart=RestartPolicy(restart.policy),
        restart_retries=restart.retries,
        health=_health(arguments, config),
        stop_signal=None if arguments.stop_signal is None else values.parse_signal(arguments.stop_signal),
        stop_timeout=values.parse_duration(arguments.stop_timeout),
        labels=pairs(arguments.label, "--label"),
        extra_hosts=dict(map(_host, arguments.add_host)),
        init=arguments.init,
        tty=arguments.tty,
        # A terminal takes input anyway; with both, the first who leaves it would close it for all that come after.
        open_stdin=arguments.interactive and not arguments.tty,
    )


def made_up_name(image: str) -> str:
    """A name that nobody bears: ``busybox-3f2a9c``."""
    import re

    last = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    word = re.sub(r"[^a-zA-Z0-9_.-]", "-", last).strip("-.")[:40]
    return f"{word or 'container'}-{os.urandom(3).hex()}"


def pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """``NAME=VALUE`` items; without ``=`` the value is empty. Raises UsageError for an empty name."""
    found = {}
    for item in items:
        name, _, value = item.partition("=")
        if not name:
            raise UsageError("usage", f"{option} wants NAME=VALUE, not '{item}'")
        found[name] = value
    return found


def environment(items: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Variables of ``--env-file`` and ``--env``; the latter win. A bare ``NAME`` takes our value, if we have one."""
    found: dict[str, str] = {}
    for file in files:
        found.update(_env_file(Path(file)))
    for item in items:
        name, equals, value = item.partition("=")
        if not name:
            raise UsageError("usage", f"--env wants NAME or NAME=VALUE, not '{item}'")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _env_file(path: Path) -> dict[str, str]:
    """Docker's form: a NAME=VALUE a line, ``#`` in front of comments, values as they stand."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_ENV_FILE_LIMIT + 1)
    except OSError as error:
        raise BayplanError("bad-env-file", f"{path} cannot be read: {error.strerror}") from None
    if len(text) > _ENV_FILE_LIMIT:
        raise BayplanError("bad-env-file", f"{path} is larger than {_ENV_FILE_LIMIT} bytes")
    found = {}
    for number, raw in enumerate(text.decode("utf-8", "replace").lstrip("\ufeff").splitlines(), 1):
        line = raw.lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not name or any(c.isspace() for c in name):
            raise BayplanError("bad-env-file", f"{path}:{number} is not NAME=VALUE")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _ours(name: str) -> str:
    if name not in os.environ:
        hint = "give its value in the environment of this command, never in its arguments"
        raise UsageError("usage", f"--secret-env {name.partition('=')[0]}: there is no such variable", hint=hint)
    return os.environ[name]


def pids(text: str | None) -> int | None:
    """``--pids-limit``; 0 and -1 are no limit."""
    if text is None or text in ("0", "-1"):
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError("usage", f"--pids-limit wants a number, not '{text}'")
    return int(text)


def _networks(names: Sequence[str], aliases: Sequence[str]) -> tuple[tuple[Attachment, ...], str]:
    from bayplan.runtime.spec import Attachment

    modes = [name for name in names if name in ("none", "host")]
    if modes and len(names) > 1:
        raise UsageError("usage", f"--network {modes[0]} goes with no other network")
    if modes:
        return (), modes[0]
    if aliases and not any(name != "bridge" for name in names):
        raise UsageError("usage", "--network-alias needs a --network of its own: the default one resolves no names")
    return tuple(Attachment(name, tuple(aliases) if name != "bridge" else ()) for name in names), "bridge"


def _ports(published: Sequence[str], exposed: Sequence[str]) -> tuple[Port, ...]:
    from bayplan.kinds import values
    from bayplan.runtime.spec import Port

    found = [values.parse_port(text) for text in published]
    there = {(port.container, port.protocol) for port in found}
    for text in exposed:
        port = values.parse_port(text)
        if (port.container, port.protocol) not in there:
            found.append(port)
    return tuple(Port(port.container, port.host, port.host_ip, port.protocol) for port in found)


def _mount(text: str) -> Mount:
    from bayplan.kinds import values
    from bayplan.runtime.spec import Mount

    found = values.parse_mount(text)
    source = os.path.abspath(found.source) if found.type == "bind" else found.source  # noqa: PTH100  (links stay)
    return Mount(found.type, found.target, source, found.read_only)


def _tmpfs(text: str) -> Mount:
    from bayplan.kinds import values
    from bayplan.runtime.spec import Mount

    found = values.parse_tmpfs(text)
    return Mount("tmpfs", found.target, size=found.size)


def _host(text: str) -> tuple[str, str]:
    from bayplan.kinds import values

    name, mark, address = text.partition("=" if "=" in text else ":")
    if not name or not mark:
        raise UsageError("usage", f"--add-host wants NAME:ADDRESS, not '{text}'")
    return name, values.parse_ip(address.strip("[]"))


def _health(arguments: argparse.Namespace, config: ImageConfig) -> Health | None:
    """The check that is asked for; times alone change those of the image's own check."""
    from bayplan.kinds import values
    from bayplan.runtime.effective import health_of
    from bayplan.runtime.spec import Health

    times: Mapping[str, str | None] = {
        name: getattr(arguments, f"health_{name}") for name in ("interval", "timeout", "start_period", "start_interval")
    }
    given: dict[str, Any] = {name: values.parse_duration(text) for name, text in times.items() if text is not None}
    if arguments.health_retries is not None:
        given["retries"] = arguments.health_retries
    if arguments.no_healthcheck:
        if given or arguments.health_cmd:
            raise UsageError("usage", "--no-healthcheck goes with no other option of health checks")
        return Health(test=("NONE",))
    if arguments.health_cmd is None and not given:
        return None
    if arguments.health_cmd is None and config.healthcheck is None:
        raise UsageError("usage", "the image has no health check: give one with --health-cmd")
    from bayplan.records import replace

    base = health_of(config.healthcheck) if config.healthcheck is not None else Health(test=())
    test = base.test if arguments.health_cmd is None else ("CMD-SHELL", arguments.health_cmd)
    return replace(base, test=test, **given)
