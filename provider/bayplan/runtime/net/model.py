"""The words of the network core, as plain frozen values, and their form on disk.

Two files hold them: a :class:`Network` per ``root/networks/NAME.json`` (a definition: it outlives a reboot) and one
:class:`State` in ``run_dir/net/state.json`` (what stands in the kernel: it ends with the kernel). Nothing here touches
either; :mod:`.records` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Protocol

from bayplan.records import dataclass, field, replace
from bayplan.runtime.spec import Port

DEFAULT_NETWORK = "bridge"


class RootDir(Protocol):
    """What is used of :class:`bayplan.oci.root.Root`."""

    @property
    def path(self) -> Path: ...
    @property
    def hash(self) -> str: ...
    @property
    def run_dir(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Network:
    """A network of this root. ``bridge`` is the name of its interface while a container uses it; ``created`` is in
    seconds since 1970. ``pinned`` means that the user chose the subnet; others may move when a route takes their place
    while nothing runs on them."""

    id: str
    name: str
    labels: Mapping[str, str]
    subnet: IPv4Network
    gateway: IPv4Address
    bridge: str
    internal: bool
    created: float
    pinned: bool = False

    @property
    def has_names(self) -> bool:
        """As in Docker, the default network resolves no container names."""
        return self.name != DEFAULT_NETWORK

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "labels": dict(self.labels),
            "subnet": str(self.subnet),
            "gateway": str(self.gateway),
            "bridge": self.bridge,
            "internal": self.internal,
            "created": self.created,
            "pinned": self.pinned,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Network:
        return cls(
            id=data["id"],
            name=data["name"],
            labels=dict(data["labels"]),
            subnet=IPv4Network(data["subnet"]),
            gateway=IPv4Address(data["gateway"]),
            bridge=data["bridge"],
            internal=data["internal"],
            created=data["created"],
            pinned=data["pinned"],
        )


@dataclass(frozen=True, slots=True)
class NetState:
    """What a container got. ``addresses`` maps network names to IPv4 addresses, the first attachment first; ``ports``
    are those published now, with host port 0 resolved (none while they are kept back); ``gateway`` is ``""`` where
    there is no way out."""

    netns: Path
    addresses: Mapping[str, str]
    ports: tuple[Port, ...]
    resolv_conf: str
    gateway: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that ``doctor`` should tell: what is the matter, and what to do about it."""

    code: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What ``reconcile`` had to put right; empty tuples when all was well."""

    detached: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()


class Phase(StrEnum):
    """Where an attachment stands. MAKING and LEAVING, seen under the lock, mean that their process died."""

    MAKING = "making"
    READY = "ready"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Link:
    """One interface of a container: ``veth`` is its end on the host, ``ifname`` the one inside."""

    network: str
    bridge: str
    veth: str
    ifname: str
    address: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One attached container. ``ports`` are resolved; they and the names count only while ``published``.

    ``wanted`` keeps the request's own ports (host 0 unresolved) to recognise a repeated attach. ``holder`` is
    ``PID:STARTTIME`` for the namespace of a build, which ends with its process.
    """

    id: str
    name: str
    phase: Phase
    links: tuple[Link, ...]
    ports: tuple[Port, ...] = ()
    wanted: tuple[Port, ...] = ()
    published: bool = True
    holder: str = ""

    def at(self, phase: Phase) -> Record:
        return replace(self, phase=phase)

    def to_json(self) -> dict[str, Any]:
        # By hand: dataclasses.asdict copies deeply, and every attach writes all records.
        return {
            "id": self.id,
            "name": self.name,
            "phase": self.phase.value,
            "links": [
                {
                    "network": link.network,
                    "bridge": link.bridge,
                    "veth": link.veth,
                    "ifname": link.ifname,
                    "address": link.address,
                    "aliases": link.aliases,
                }
                for link in self.links
            ],
            "ports": [_port_json(port) for port in self.ports],
            "wanted": [_port_json(port) for port in self.wanted],
            "published": self.published,
            "holder": self.holder,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        return cls(
            id=data["id"],
            name=data["name"],
            phase=Phase(data["phase"]),
            links=tuple(Link(**{**link, "aliases": tuple(link["aliases"])}) for link in data["links"]),
            ports=tuple(Port(**port) for port in data["ports"]),
            wanted=tuple(Port(**port) for port in data["wanted"]),
            published=data["published"],
            holder=data["holder"],
        )


def _port_json(port: Port) -> dict[str, Any]:
    return {"container": port.container, "host": port.host, "host_ip": port.host_ip, "protocol": port.protocol}


@dataclass(slots=True)
class State:
    """All that stands in the kernel for one root. ``pending`` says that the table, the foreign accepts or the names may
    be behind the records; ``last`` is the address given out last, per network, so that a freed one rests for a while;
    ``mtu`` that of each bridge that stands."""

    records: dict[str, Record] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    mtu: dict[str, int] = field(default_factory=dict)
    pending: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "records": [record.to_json() for record in self.records.values()],
            "last": self.last,
            "mtu": self.mtu,
            "pending": self.pending,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        records = (Record.from_json(entry) for entry in data["records"])
        return cls({r.id: r for r in records}, dict(data["last"]), dict(data["mtu"]), data["pending"])

    def users(self, network: str) -> list[Record]:
        """The records with a link in ``network``."""
        return [r for r in self.records.values() if any(link.network == network for link in r.links)]

    def networks(self) -> list[str]:
        """The names of the networks in use, in the order of their first use."""
        return list(dict.fromkeys(link.network for r in self.records.values() for link in r.links))
