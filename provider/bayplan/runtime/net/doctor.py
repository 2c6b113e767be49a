"""What ``doctor`` says about networks: parts that are missing, rights that we do not have, firewalls in the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from . import firewall, names, nft
from .model import Finding, Network


def findings(root_hash: str, networks: Sequence[Network]) -> list[Finding]:
    """Everything worth telling; no effect. ``networks`` are those on which containers of this root are now."""
    out = []
    in_use = bool(networks)
    if os.geteuid() != 0:
        return [
            Finding("network-rights", "bridged networks need root", "run bayplan as root, or use network_mode host")
        ]
    if not nft.available():
        out.append(Finding("nft-missing", "nftables cannot be spoken to", "apt-get install libnftables1 nftables"))
    if names.program() is None:
        out.append(Finding("dns-missing", "networks with names need aardvark-dns", "apt-get install aardvark-dns"))
    elif silent := names.silent(networks):
        out.append(
            Finding(
                "dns-silent",
                f"nobody answers for container names on {', '.join(silent)}",
                "any `bayplan apply` starts the name server again; another one on port 53 of every address must go",
            )
        )
    if not names.host_servers():
        out.append(
            Finding(
                "dns-loopback-only",
                "the name servers of this machine are on loopback only: containers on the default network have none",
                "put a reachable name server into /etc/resolv.conf, or use a network with names",
            )
        )
    if in_use and Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() != "1":
        out.append(
            Finding(
                "ip-forward-off",
                "the machine does not forward packets (net.ipv4.ip_forward is 0): containers cannot reach the outside",
                "sysctl -w net.ipv4.ip_forward=1",
            )
        )
    if nft.available():
        out += firewall.findings(root_hash, in_use=in_use)
    return out
