"""Which address a container gets: decided from what is written down alone. Pure.

The next one after the address given out last, round the subnet: so an address that has just become free rests as long
as possible, and neither a client's old connection nor a stale name leads to somebody else's container.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network

from bayplan.errors import BayplanError


def gateway(subnet: IPv4Network) -> IPv4Address:
    """The address of the machine in a subnet: the first one."""
    return subnet.network_address + 1


def following(subnet: IPv4Network, last: str | None, taken: Collection[str]) -> str:
    """The next free address after ``last``; raises ``no-free-address`` when all are taken."""
    first, end = int(subnet.network_address) + 2, int(subnet.broadcast_address)
    count = end - first
    start = int(IPv4Address(last)) + 1 if last and IPv4Address(last) in subnet else first
    for step in range(count):
        candidate = str(IPv4Address(first + (start - first + step) % count))
        if candidate not in taken:
            return candidate
    raise BayplanError(
        "no-free-address",
        f"all {count} addresses of {subnet} are taken",
        hint="make a network with a larger subnet, for example a /16",
    )


def mac(address: str) -> bytes:
    """The MAC address that goes with an address (as Docker's): whoever has cached it stays right when the address is
    given out again."""
    return b"\x02\x42" + IPv4Address(address).packed
