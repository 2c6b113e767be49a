"""Forgetting UDP flows that would follow a translation which is no longer true.

The kernel translates a flow as it translated its first packet, for as long as packets come. A TCP connection to a
container that ended breaks and is opened anew; a UDP client that keeps its port would be sent to the dead address for
minutes, or past a newly published port. So flows are deleted when a UDP port is published and when its container goes.
(ctnetlink: linux/netfilter/nfnetlink_conntrack.h; the tables of two tuples are in network byte order.)
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from .netlink import Messages, NetlinkError, attribute, attributes

_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102
_ORIGINAL, _REPLY, _ID = 1, 2, 12
_IP, _PROTOCOL = 1, 2
_HEADER = struct.pack(">BBH", socket.AF_INET, 0, 0)


class Flow(NamedTuple):
    """A UDP flow: the address and port that its first packet was sent to, and the address that answers."""

    destination: str
    port: int
    answers: str


def forget_udp(stale: Callable[[Flow], bool]) -> int:
    """Delete the UDP flows of this namespace that are ``stale``; gives their number."""
    gone = 0
    with Messages(_NETFILTER) as kernel:
        found = []
        for body in kernel.dump(_GET, _HEADER, "its connections"):
            parts = dict(attributes(body[4:]))
            flow = _flow(parts)
            if flow is not None and stale(flow):
                found.append((parts[_ORIGINAL], parts[_ID]))
        for original, identity in found:
            # The nested flag was masked off on the way in and belongs there on the way out.
            body = _HEADER + attribute(_ORIGINAL | 0x8000, original) + attribute(_ID, identity)
            try:
                kernel.request(_DELETE, 0, body, "forget a connection")
                gone += 1
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
    return gone


def _flow(parts: dict[int, bytes]) -> Flow | None:
    original, reply = dict(attributes(parts[_ORIGINAL])), dict(attributes(parts[_REPLY]))
    protocol = dict(attributes(original[_PROTOCOL]))
    if protocol[1][0] != socket.IPPROTO_UDP:
        return None
    there, back = dict(attributes(original[_IP])), dict(attributes(reply[_IP]))
    if 2 not in there or 1 not in back:
        return None
    return Flow(socket.inet_ntoa(there[2]), int.from_bytes(protocol[3], "big"), socket.inet_ntoa(back[1]))
