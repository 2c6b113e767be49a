"""Who holds a port of the machine: a container of this root, one of another root, or a process that listens.

A published port is an nftables entry, not a socket, so nothing in the kernel would refuse a second holder: the first
translation wins and a listening process is silently bypassed. This module is what refuses instead, before any effect.
Looking has no effect itself, so plans use it too.

A port on one address meets the same port on that address and on "every address"; a process that listens on ``::`` has
every IPv4 address too, unless its socket is for IPv6 only.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from bayplan.errors import BayplanError
from bayplan.records import replace
from bayplan.runtime.spec import Port

from . import listeners, nft
from .model import RootDir, State
from .ruleset import table

PROTOCOLS = ("tcp", "udp", "sctp")
_ATTEMPTS = 64
_TABLE = re.compile(r"bayplan-([0-9a-f]{8})\Z")


class Conflict(NamedTuple):
    """A port that cannot be had, and who has it."""

    port: Port
    holder: str

    def __str__(self) -> str:
        return f"port {describe(self.port)} is taken by {self.holder}"


def describe(port: Port) -> str:
    where = f"{port.host_ip}:" if port.host_ip else ""
    return f"{where}{port.host}/{port.protocol}"


def normal(ports: Iterable[Port]) -> tuple[Port, ...]:
    """Ports as they are kept: ``0.0.0.0`` is every address, doubles fall together. Raises ``bad-port``."""
    out: dict[Port, None] = {}
    for port in ports:
        host_ip = "" if port.host_ip == "0.0.0.0" else port.host_ip  # noqa: S104 - nothing is bound here
        if port.protocol not in PROTOCOLS:
            raise BayplanError("bad-port", f"{port.protocol!r} is no protocol of ports", hint="tcp, udp or sctp")
        if not 0 < port.container < 65536 or not 0 <= port.host < 65536:
            raise BayplanError("bad-port", f"port {port.host}:{port.container} is out of range", hint="1 to 65535")
        if host_ip:
            try:
                ipaddress.IPv4Address(host_ip)
            except ValueError:
                raise BayplanError(
                    "bad-port",
                    f"{host_ip!r} is no IPv4 address of this machine",
                    hint="ports are published on IPv4 for now",
                ) from None
        out[replace(port, host_ip=host_ip)] = None
    wanted = tuple(out)
    for at, port in enumerate(wanted):
        twin = next((other for other in wanted[:at] if port.host and _meet(port, other)), None)
        if twin:
            raise BayplanError("bad-port", f"port {describe(port)} of the machine is published twice")
    return wanted


def _meet(a: Port, b: Port) -> bool:
    same = a.host == b.host and a.protocol == b.protocol
    return same and (not a.host_ip or not b.host_ip or a.host_ip == b.host_ip)


def conflicts(root: RootDir, state: State, ports: Iterable[Port], besides: Collection[str]) -> list[Conflict]:
    """Every conflict that ``ports`` (host 0 has none) would meet; what the ids ``besides`` hold does not count."""
    wanted = [port for port in ports if port.host]
    if not wanted:
        return []
    out = []
    for record in state.records.values():
        if record.published and record.id not in besides:
            holder = f"the container {record.name or record.id[:12]}"
            out += [Conflict(port, holder) for port in wanted for held in record.ports if _meet(port, held)]
    for foreign in _other_roots(root):
        out += [Conflict(port, foreign.holder) for port in wanted if _meet(port, foreign.port)]
    for protocol in dict.fromkeys(port.protocol for port in wanted):
        for found in listeners.listening(protocol, (port.host for port in wanted if port.protocol == protocol)):
            held = Port(container=1, host=found.number, host_ip=found.host_ip, protocol=protocol)
            out += [Conflict(port, listeners.process(found.inode)) for port in wanted if _meet(port, held)]
    return out


# -- other roots ---------------------------------------------------------------------------------------------------


class _Held(NamedTuple):
    port: Port
    holder: str


def _other_roots(root: RootDir) -> Iterator[_Held]:
    """What the tables of other roots publish: the kernel's own word, whether or not we can read their files."""
    for entry in nft.query("list tables ip"):
        name = entry["table"]["name"]
        match = _TABLE.match(name)
        if not match or name == table(root.hash):
            continue
        for where in ("published", "published_at"):
            try:
                listed = nft.query(f"list map ip {name} {where}")
            except nft.NftError as error:
                if error.missing:
                    continue  # it went away between the two questions
                raise
            for item in listed:
                for key, _value in item["map"].get("elem", ()) if "map" in item else ():
                    port = _from_key(key["concat"])
                    yield _Held(port, _name_elsewhere(root, match[1], port))


def _from_key(key: list[str | int]) -> Port:
    host_ip = str(key[0]) if len(key) == 3 else ""
    protocol, number = key[-2:]
    return Port(container=1, host=int(number), host_ip=host_ip, protocol=str(protocol))


def _name_elsewhere(root: RootDir, other: str, port: Port) -> str:
    """The container of another root that holds ``port``, as well as its run_dir tells."""
    try:
        data = json.loads((root.run_dir.parent / other / "net" / "state.json").read_text())
    except (OSError, ValueError):
        return f"a container of another root (nftables table bayplan-{other})"
    for record in State.from_json(data).records.values():
        if record.published and any(_meet(port, held) for held in record.ports):
            return f"the container {record.name or record.id[:12]} of another root (nftables table bayplan-{other})"
    return f"a container of another root (nftables table bayplan-{other})"


# -- the kernel's choice -------------------------------------------------------------------------------------------


def resolve(root: RootDir, state: State, ports: Iterable[Port], besides: Collection[str]) -> tuple[Port, ...]:
    """``ports`` with a free number for each host port 0 (the kernel's choice among its ephemeral ports). Raises
    ``bad-port`` for an address that is not this machine's: nothing would ever come in by it."""
    out: list[Port] = []
    for port in ports:
        if port.host_ip and port.host:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                _bind(probe, port.host_ip)
        out.append(port if port.host else _choose(root, state, port, besides, out))
    return tuple(out)


def _choose(root: RootDir, state: State, port: Port, besides: Collection[str], given: list[Port]) -> Port:
    for _ in range(_ATTEMPTS):
        kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as probe:
            _bind(probe, port.host_ip)
            chosen = replace(port, host=probe.getsockname()[1])
        if not any(_meet(chosen, other) for other in given) and not conflicts(root, state, [chosen], besides):
            return chosen
    raise BayplanError("port-taken", f"found no free {port.protocol} port in {_ATTEMPTS} attempts")


def _bind(probe: socket.socket, host_ip: str) -> None:
    try:
        probe.bind((host_ip, 0))
    except OSError as error:
        raise BayplanError(
            "bad-port",
            f"cannot publish on {host_ip or 'this machine'}: {error.strerror}",
            hint="`ip -4 addr` shows the addresses of this machine",
        ) from None
