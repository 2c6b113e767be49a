"""The nftables table of a root, as text made from the records. Pure: what stands in the kernel is a function of them.

One table ``ip bayplan-HASH`` holds everything:

- two maps of published ports, ``published`` for any address of the machine and ``published_at`` for one address. A
  port is one map entry, so taking it over is one ``delete element`` and one ``add element`` in one transaction;
- address translation: into containers (from outside, from the machine itself, from other containers by the machine's
  address), and out of them (masquerade);
- what may be forwarded, as Docker has it: within a network everything; out of it everything, unless it is internal; into
  it only answers and published ports; between networks nothing else.

A published port on 127.0.0.1 works because the bridges route loopback addresses (``route_localnet``); the first rule of
all keeps containers from using that to reach the machine's own loopback (CVE-2020-8558).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bayplan.runtime.spec import Port

from .model import Network, Record


def table(root_hash: str) -> str:
    return f"bayplan-{root_hash}"


def interface_prefix(root_hash: str) -> str:
    """What the names of our interfaces start with; ``b`` for bridges and ``v`` for container ends follow, then 4 more
    (15 in all, the kernel's limit)."""
    return f"bp{root_hash}"


def bridges(root_hash: str) -> str:
    """All bridges of the root, as nftables and iptables-nft match them."""
    return f"{interface_prefix(root_hash)}b*"


def target(record: Record, networks: Sequence[Network]) -> str | None:
    """The address that published ports lead to: that in the first network with a way out."""
    inward = {network.name for network in networks if network.internal}
    return next((link.address for link in record.links if link.network not in inward), None)


def entries(record: Record, networks: Sequence[Network]) -> list[tuple[str, str, str]]:
    """The map entries of a record as (map, key, value); none while its ports are kept back."""
    address = target(record, networks)
    if not record.published or address is None:
        return []
    return [(*_key(port), f"{address} . {port.container}") for port in record.ports]


def _key(port: Port) -> tuple[str, str]:
    if port.host_ip:
        return "published_at", f"{port.host_ip} . {port.protocol} . {port.host}"
    return "published", f"{port.protocol} . {port.host}"


def change(root_hash: str, before: Iterable[tuple[str, str, str]], after: Iterable[tuple[str, str, str]]) -> str:
    """One transaction that takes the entries ``before`` away and puts ``after`` in their place; ``""`` for nothing."""
    old, new = list(before), list(after)
    name = table(root_hash)
    lines = [
        f"delete element ip {name} {where} {{ {key} }}" for where, key, value in old if (where, key, value) not in new
    ]
    lines += [
        f"add element ip {name} {where} {{ {key} : {value} }}"
        for where, key, value in new
        if (where, key, value) not in old
    ]
    return "\n".join(lines)


def whole(root_hash: str, networks: Sequence[Network], records: Iterable[Record]) -> str:
    """The transaction that makes the table again from nothing; ``networks`` are those in use."""
    name, ours = table(root_hash), bridges(root_hash)
    published: dict[str, list[str]] = {"published": [], "published_at": []}
    for record in records:
        for where, key, value in entries(record, networks):
            published[where].append(f"{key} : {value}")
    closed = _elements(f'"{network.bridge}"' for network in networks if network.internal)
    same = _elements(f'"{network.bridge}" . "{network.bridge}"' for network in networks)
    # By address, for a frame that br_netfilter translates inside the bridge has no incoming interface after routing.
    inside = _elements(f'"{network.bridge}" . {network.subnet}' for network in networks)
    outward = _elements(str(network.subnet) for network in networks if not network.internal)
    return f"""
add table ip {name}
delete table ip {name}
table ip {name} {{
  map published {{ type inet_proto . inet_service : ipv4_addr . inet_service; {_elements(published["published"])} }}
  map published_at {{
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; {_elements(published["published_at"])}
  }}
  set outward {{ type ipv4_addr; flags interval; {outward} }}
  set same {{ type ifname . ifname; {same} }}
  set inside {{ type ifname . ipv4_addr; flags interval; {inside} }}
  set closed {{ type ifname; {closed} }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{ours}" ip daddr 127.0.0.0/8 drop
  }}
  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    dnat ip to meta l4proto . th dport map @published
  }}
  chain prerouting {{ type nat hook prerouting priority -100; policy accept; fib daddr type local jump publish; }}
  chain output {{ type nat hook output priority -100; policy accept; fib daddr type local jump publish; }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    oifname "{ours}" ip saddr 127.0.0.0/8 masquerade
    oifname . ip saddr @inside ct status dnat masquerade
    oifname != "{ours}" ip saddr @outward masquerade
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
    iifname . oifname @same accept
    iifname @closed drop
    oifname @closed drop
    oifname "{ours}" ct status dnat accept
    oifname "{ours}" drop
    iifname "{ours}" oifname "docker0" ct status != dnat drop
    iifname "{ours}" oifname "podman*" ct status != dnat drop
  }}
}}
"""


def _elements(values: Iterable[str]) -> str:
    listed = ", ".join(values)
    return f"elements = {{ {listed} }};" if listed else ""
