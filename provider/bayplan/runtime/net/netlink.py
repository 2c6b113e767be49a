"""rtnetlink by hand: links, addresses and routes in about a millisecond, where forking ``ip`` costs five to thirteen.

A :class:`Netlink` belongs to the network namespace in which it was opened, whatever the thread that uses it later: so a
short-lived thread opens one inside a container's namespace and the caller configures the inside from outside.

Messages are those of rtnetlink(7) and linux/if_link.h. Only what the network core needs is here: bridges, veth pairs,
IPv4 addresses and routes. Errors are BayplanError ``netlink-failed``; the errno stands in :attr:`NetlinkError.errno`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import NamedTuple, Self

from bayplan.errors import BayplanError

_TIMEOUT = 10.0  # seconds; the kernel answers at once, or something is very wrong

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _NEWROUTE, _GETROUTE = 20, 24, 26
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_IFF_UP = 0x1

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO = 1, 3, 4, 10, 12
_IFLA_LINKINFO, _IFLA_GROUP, _IFLA_NET_NS_FD = 18, 27, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER, _BRPORT_MODE = 1, 2, 1, 4
_NESTED = 0x8000
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_RTN_UNICAST = 1
_ALL_ROUTES = struct.pack("BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)


class NetlinkError(BayplanError):
    """The kernel refused a request."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__("netlink-failed", f"the kernel refused to {what}: {os.strerror(number)}")
        self.errno = number


class Route(NamedTuple):
    """An IPv4 route of any table: its destination and the index of its interface (0 where it has none)."""

    destination: IPv4Network
    interface: int
    unicast: bool


def attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("HH", length, kind) + payload + b"\0" * (-length % 4)


def _name(kind: int, name: str) -> bytes:
    return attribute(kind, name.encode() + b"\0")


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("I", value))


def _link(family: int = 0, index: int = 0, *, up: bool = False) -> bytes:
    return struct.pack("BxHiII", family, 0, index, _IFF_UP if up else 0, _IFF_UP if up else 0)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


class Messages:
    """A netlink socket of the namespace of the thread that opens it: requests and their answers (netlink(7))."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, kind: int, flags: int, body: bytes) -> int:
        self._sequence += 1
        header = struct.pack("IHHII", 16 + len(body), kind, _REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        return self._sequence

    def answers(self, sequence: int, what: str) -> Iterator[tuple[int, bytes]]:
        """The answers to one request; messages left over from an earlier, broken-off one are skipped."""
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                raise BayplanError("netlink-failed", f"the kernel did not answer a request to {what}") from None
            at = 0
            while at + 16 <= len(data):
                length, kind, _flags, number, _pid = struct.unpack_from("IHHII", data, at)
                if number == sequence:
                    yield kind, data[at + 16 : at + length]
                at += (length + 3) & ~3

    def request(self, kind: int, flags: int, body: bytes, what: str, *, answer: bool = False) -> bytes:
        sequence = self.send(kind, flags if answer else flags | _ACK, body)
        for got, payload in self.answers(sequence, what):
            if got == _ERROR:
                (code,) = struct.unpack_from("i", payload)
                if code:
                    raise NetlinkError(-code, what)
                return b""
            if answer:
                return payload
        raise AssertionError("unreachable: messages end by an error or an answer")

    def dump(self, kind: int, body: bytes, what: str) -> Iterator[bytes]:
        sequence = self.send(kind, _DUMP, body)
        for got, payload in self.answers(sequence, f"list {what}"):
            if got == _DONE:
                return
            if got == _ERROR:
                raise NetlinkError(-struct.unpack_from("i", payload)[0], f"list {what}")
            yield payload


class Netlink(Messages):
    """A rtnetlink socket of the namespace of the thread that opens it. Not for use by two threads at once.

    Interfaces that it makes belong to the interface group ``group``, so that all of a root can go in one request.
    """

    def __init__(self, group: int = 0) -> None:
        super().__init__(socket.NETLINK_ROUTE)
        self.group = group

    # -- links ---------------------------------------------------------------------------------------------------

    def add_bridge(self, name: str, *, mac: bytes, mtu: int) -> None:
        """A bridge that is up. The fixed ``mac`` keeps it from changing with the ports that join and leave."""
        info = attribute(_IFLA_LINKINFO, _name(_INFO_KIND, "bridge"))
        body = _link(up=True) + _name(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, mac) + _u32(_IFLA_MTU, mtu)
        body += _u32(_IFLA_GROUP, self.group) + info
        self.request(_NEWLINK, _CREATE | _EXCL, body, f"make the bridge {name}")

    def add_veth(self, name: str, *, bridge: int, netns_fd: int, inside: str, mac: bytes, mtu: int) -> None:
        """A veth pair: ``name``, up, on the bridge with that index, and ``inside`` in the other namespace.

        The end inside is still down: the kernel makes it first, and an end without its peer cannot come up (ENOTCONN).
        """
        peer = (
            _link()
            + _name(_IFLA_IFNAME, inside)
            + attribute(_IFLA_ADDRESS, mac)
            + _u32(_IFLA_MTU, mtu)
            + _u32(_IFLA_NET_NS_FD, netns_fd)
        )
        info = _name(_INFO_KIND, "veth") + attribute(_INFO_DATA, attribute(_VETH_PEER, peer))
        body = (
            _link(up=True)
            + _name(_IFLA_IFNAME, name)
            + _u32(_IFLA_MTU, mtu)
            + _u32(_IFLA_MASTER, bridge)
            + _u32(_IFLA_GROUP, self.group)
            + attribute(_IFLA_LINKINFO, info)
        )
        self.request(_NEWLINK, _CREATE | _EXCL, body, f"make the interface pair {name}")

    def set_hairpin(self, index: int) -> None:
        """Let a bridge port send frames back where they came from: a container reaches its own published port also
        where br_netfilter translates addresses inside the bridge."""
        body = _link(socket.AF_BRIDGE, index) + attribute(_IFLA_PROTINFO | _NESTED, attribute(_BRPORT_MODE, b"\1"))
        self.request(_SETLINK, 0, body, "set the hairpin mode")

    def set_master(self, index: int, bridge: int) -> None:
        """Make an interface a port of a bridge (again)."""
        self.request(_NEWLINK, 0, _link(index=index, up=True) + _u32(_IFLA_MASTER, bridge), "join a bridge")

    def set_up(self, index: int) -> None:
        self.request(_NEWLINK, 0, _link(index=index, up=True), "bring an interface up")

    def delete_link(self, name: str) -> bool:
        """Remove an interface at once (both ends of a pair); False when there is none of this name.

        It takes some 20 ms (60 for a bridge), all of it waiting for the kernel's grace periods.
        """
        return self._delete(_name(_IFLA_IFNAME, name), f"remove the interface {name}")

    def delete_group(self) -> bool:
        """Remove every interface of our group, for the price of one; False when there is none."""
        if not self.group:
            raise ValueError("group 0 holds the interfaces of everybody else")
        return self._delete(_u32(_IFLA_GROUP, self.group), "remove our interfaces")

    def _delete(self, which: bytes, what: str) -> bool:
        try:
            self.request(_DELLINK, 0, _link() + which, what)
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    def index(self, name: str) -> int | None:
        """The index of an interface, or None."""
        found = self._get_link(_name(_IFLA_IFNAME, name), 0)
        return found[0] if found else None

    def mtu(self, index: int) -> int | None:
        found = self._get_link(b"", index)
        return found[1] if found else None

    def links(self) -> dict[str, int]:
        """Every interface of the namespace: name to index."""
        out: dict[str, int] = {}
        for body in self.dump(_GETLINK, _link(), "its interfaces"):
            (index,) = struct.unpack_from("i", body, 4)
            for kind, value in attributes(body[16:]):
                if kind == _IFLA_IFNAME:
                    out[value.rstrip(b"\0").decode()] = index
        return out

    def _get_link(self, wanted: bytes, index: int) -> tuple[int, int] | None:
        try:
            body = self.request(_GETLINK, 0, _link(index=index) + wanted, "look up an interface", answer=True)
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        (found,) = struct.unpack_from("i", body, 4)
        mtu = next((struct.unpack("I", value)[0] for kind, value in attributes(body[16:]) if kind == _IFLA_MTU), 1500)
        return found, mtu

    # -- addresses and routes ------------------------------------------------------------------------------------

    def add_address(self, index: int, address: str, subnet: IPv4Network) -> None:
        packed = socket.inet_aton(address)
        body = struct.pack("BBBBi", socket.AF_INET, subnet.prefixlen, 0, 0, index)
        body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
        body += attribute(_IFA_BROADCAST, subnet.broadcast_address.packed)
        self.request(_NEWADDR, _CREATE | _REPLACE, body, f"add the address {address}")

    def add_default_route(self, gateway: str) -> None:
        body = struct.pack("BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 3, 0, _RTN_UNICAST, 0)
        body += attribute(_RTA_GATEWAY, socket.inet_aton(gateway))
        self.request(_NEWROUTE, _CREATE | _REPLACE, body, f"route by {gateway}")

    def routes(self) -> list[Route]:
        """The IPv4 routes of all tables (so also the addresses of the machine itself, in table ``local``)."""
        out = []
        for body in self.dump(_GETROUTE, _ALL_ROUTES, "its routes"):
            if body[0] != socket.AF_INET:
                continue
            destination, interface = b"\0\0\0\0", 0
            for kind, value in attributes(body[12:]):
                if kind == _RTA_DST:
                    destination = value
                elif kind == _RTA_OIF:
                    (interface,) = struct.unpack("I", value)
            network = IPv4Network((int.from_bytes(destination, "big"), body[1]), strict=False)
            out.append(Route(network, interface, body[7] == _RTN_UNICAST))
        return out
