"""Sockets of this machine that hold a port: TCP that listens, UDP that is not connected.

Asked through sock_diag(7), where the kernel walks the listening sockets of one port; reading ``/proc/net/tcp`` walks
every bucket of the connection table (8 ms on an idle machine) and does not tell IPv6-only sockets. ``/proc/net`` is what
is left where the kernel has no sock_diag.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .netlink import Messages, NetlinkError, attributes

_SOCK_DIAG, _BY_FAMILY = 4, 20
_V6ONLY = 11  # INET_DIAG_SKV6ONLY
_STATES = {"tcp": 10, "udp": 7}  # TCP_LISTEN; TCP_CLOSE is what an unconnected UDP socket is in
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Listener(NamedTuple):
    """``host_ip`` ``""`` is every IPv4 address; ``inode`` names the socket in /proc/PID/fd."""

    host_ip: str
    number: int
    protocol: str
    inode: int


def listening(protocol: str, numbers: Iterable[int]) -> list[Listener]:
    """The sockets of ``protocol`` that hold one of the ports ``numbers`` on some IPv4 address; no effect."""
    if protocol not in _STATES:
        return []
    wanted = set(numbers)
    try:
        with Messages(_SOCK_DIAG) as kernel:
            return [
                found for number in wanted for family in _FAMILIES for found in _ask(kernel, protocol, family, number)
            ]
    except (NetlinkError, OSError):
        return [found for found in _from_proc(protocol) if found.number in wanted]


def _ask(kernel: Messages, protocol: str, family: int, number: int) -> Iterator[Listener]:
    """struct inet_diag_req_v2 and inet_diag_msg of linux/inet_diag.h."""
    wire = socket.IPPROTO_TCP if protocol == "tcp" else socket.IPPROTO_UDP
    identity = struct.pack(">HH", number, 0) + bytes(44)
    request = struct.pack("BBBxI", family, wire, 0, 1 << _STATES[protocol]) + identity
    for body in kernel.dump(_BY_FAMILY, request, "its listening sockets"):
        (port,) = struct.unpack_from(">H", body, 4)
        if port != number:
            continue
        (inode,) = struct.unpack_from("I", body, 68)
        only_v6 = any(kind == _V6ONLY and value[:1] == b"\1" for kind, value in attributes(body[72:]))
        host_ip = covered(body[8:12] if family == socket.AF_INET else body[8:24])
        if host_ip is not None and not only_v6:
            yield Listener(host_ip, number, protocol, inode)


def covered(address: bytes) -> str | None:
    """The IPv4 address that a socket bound to ``address`` (4 or 16 bytes) covers: ``""`` for all, None for none."""
    if not any(address):
        return ""
    if len(address) == 4:
        return socket.inet_ntoa(address)
    return socket.inet_ntoa(address[12:]) if address[:12] == bytes(10) + b"\xff\xff" else None


def _from_proc(protocol: str) -> Iterator[Listener]:
    for family in ("", "6"):
        try:
            text = Path(f"/proc/thread-self/net/{protocol}{family}").read_text()
        except FileNotFoundError:
            continue
        yield from parse_proc(text, protocol)


def parse_proc(text: str, protocol: str) -> Iterator[Listener]:
    """The holders of ports in the text of ``/proc/net/tcp`` and its kin (proc_net(5): words in host byte order)."""
    for line in text.splitlines()[1:]:
        fields = line.split(maxsplit=10)
        address, _, number = fields[1].rpartition(":")
        if int(fields[3], 16) != _STATES[protocol]:
            continue
        words = (int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8))
        host_ip = covered(b"".join(words))
        if host_ip is not None:
            yield Listener(host_ip, int(number, 16), protocol, int(fields[9]))


def process(inode: int) -> str:
    """Who has a socket: ``the process NAME (pid N)`` where /proc lets us see it."""
    wanted = f"socket:[{inode}]"
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            for entry in os.scandir(folder / "fd"):
                if str(Path(entry.path).readlink()) == wanted:
                    return f"the process {(folder / 'comm').read_text().strip()} (pid {folder.name})"
        except OSError:
            continue  # it ended, or is not ours to look into
    return "a process of this machine that listens on it"
