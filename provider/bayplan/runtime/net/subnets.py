"""Which subnet a network gets, so that two roots, Docker, podman and the machine's own routes never meet.

The pools keep away from what the neighbours take by default: Docker 172.17.0.0/16 to 172.31.0.0/16 and
192.168.0.0/16 from below, podman 10.88.0.0/16 and 10.89.0.0/24 upwards, libvirt 192.168.122.0/24. A candidate is free
when no route of any table, no name server of the machine and no claim of any root overlaps it; the lowest free one wins.

Claims stand in ``/run/bayplan/subnets.json`` under a machine-wide lock, because a network whose containers are all
stopped has no bridge and so no route that others could see. A claim whose definition is gone is void. After a reboot
the claims are gone and the definitions are not: :func:`confirm` claims again, and says when the place has been taken.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError

from .model import Network, RootDir
from .netlink import Netlink
from .records import machine_lock, write_atomically

POOLS = tuple(IPv4Network(text) for text in ("10.180.0.0/14", "172.16.0.0/16", "192.168.128.0/17", "198.18.0.0/15"))
_PREFIX = 24


def free(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The lowest /24 of the pools that overlaps nothing in ``taken``; raises ``no-free-subnet``. Pure."""
    blocked = sorted((int(n.network_address), int(n.broadcast_address)) for n in taken)
    for pool in POOLS:
        candidate, last = int(pool.network_address), int(pool.broadcast_address)
        for low, high in blocked:
            if low > candidate + 255:
                break
            if high >= candidate:
                candidate = (high // 256 + 1) * 256
        if candidate + 255 <= last:
            return IPv4Network((candidate, _PREFIX))
    raise BayplanError(
        "no-free-subnet",
        "every subnet that a network could get overlaps a route of this machine or another network",
        hint="give the network a subnet of its own; `ip route show table all` shows what is taken",
    )


def parse(text: str) -> IPv4Network:
    """A subnet that a user wrote; raises ``bad-subnet``."""
    try:
        subnet = ipaddress.ip_network(text)
    except ValueError as error:
        raise BayplanError("bad-subnet", f"{text!r} is not a subnet: {error}", hint="for example 10.9.8.0/24") from None
    if not isinstance(subnet, IPv4Network):
        raise BayplanError("bad-subnet", f"{text} is an IPv6 subnet; networks are IPv4 for now")
    if subnet.prefixlen > 29 or subnet.prefixlen < 8:
        raise BayplanError("bad-subnet", f"{text} has no sensible size: between /8 and /29")
    if subnet.is_loopback or subnet.is_multicast or subnet.is_link_local or subnet.is_unspecified:
        raise BayplanError("bad-subnet", f"{text} is no subnet for containers", hint="for example 10.9.8.0/24")
    return subnet


def choose(
    root: RootDir,
    network: Network,
    servers: Iterable[IPv4Address],
    wanted: IPv4Network | None,
    define: Callable[[IPv4Network], None],
) -> None:
    """Claim a subnet for ``network``: the ``wanted`` one (raises ``subnet-taken`` with its holder) or a free one.

    ``define`` writes the definition, still under the machine's lock: a claim without one is void to everybody else.
    """
    with machine_lock(root, "subnets"):
        claims = _claims(root)
        others = {subnet: claim for subnet, claim in claims.items() if not _ours(claim, root, network.name)}
        if wanted is None:
            blocked = [*others, *(place for place, _ in _kernel(network.bridge))]
            subnet = free([*blocked, *(IPv4Network(server) for server in servers)])
        else:
            _refuse_overlap(wanted, others, network.bridge)
            subnet = wanted
        define(subnet)
        _write(root, {**others, subnet: {"path": str(root.path), "network": network.name}})


def confirm(root: RootDir, network: Network) -> bool:
    """Before the bridge is made (again): is the network's subnet still free for it? Claims it when it is."""
    with machine_lock(root, "subnets"):
        claims = _claims(root)
        others = {subnet: claim for subnet, claim in claims.items() if not _ours(claim, root, network.name)}
        try:
            _refuse_overlap(network.subnet, others, network.bridge)
        except BayplanError:
            return False
        if len(others) == len(claims):
            _write(root, {**others, network.subnet: {"path": str(root.path), "network": network.name}})
        return True


def release(root: RootDir, name: str) -> None:
    """Give the claim of the network ``name`` back."""
    with machine_lock(root, "subnets"):
        claims = _claims(root)
        _write(root, {subnet: claim for subnet, claim in claims.items() if not _ours(claim, root, name)})


def _ours(claim: dict[str, Any], root: RootDir, name: str) -> bool:
    return claim == {"path": str(root.path), "network": name}


def _refuse_overlap(subnet: IPv4Network, claims: dict[IPv4Network, dict[str, Any]], bridge: str) -> None:
    for place, claim in claims.items():
        if place.overlaps(subnet):
            holder = f"the network {claim['network']} of the root {claim['path']} ({place})"
            raise BayplanError("subnet-taken", f"the subnet {subnet} overlaps {holder}")
    for place, interface in _kernel(bridge):
        if place.overlaps(subnet):
            raise BayplanError("subnet-taken", f"the subnet {subnet} overlaps the route {place} by {interface}")


def _kernel(besides: str) -> Iterator[tuple[IPv4Network, str]]:
    """Destinations of the kernel's routes with their interfaces; without default routes and the bridge ``besides``."""
    with Netlink() as kernel:
        names = {index: name for name, index in kernel.links().items()}
        for route in kernel.routes():
            interface = names.get(route.interface, "no interface")
            if route.destination.prefixlen and interface != besides:
                yield route.destination, interface


def _file(root: RootDir) -> Path:
    return root.run_dir.parent / "subnets.json"


def _claims(root: RootDir) -> dict[IPv4Network, dict[str, Any]]:
    """The claims that still have a definition."""
    try:
        data = json.loads(_file(root).read_text())
    except FileNotFoundError:
        return {}
    out = {}
    for subnet, claim in data.items():
        definition = Path(claim["path"]) / "networks" / f"{claim['network']}.json"
        if definition.exists():
            out[IPv4Network(subnet)] = claim
    return out


def _write(root: RootDir, claims: dict[IPv4Network, dict[str, Any]]) -> None:
    write_atomically(_file(root), json.dumps({str(subnet): claim for subnet, claim in claims.items()}, indent=1))
