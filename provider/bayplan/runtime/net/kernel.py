"""What stands in the kernel for one root, made and unmade by the records. Decides nothing.

Called under the root's lock only. Each method can be repeated: what is there already is left, what is gone already is no
error; so the same calls serve the first making, a finish after a crash and ``reconcile``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence

from . import firewall, namespaces, nft, ruleset
from .addresses import mac
from .model import Link, Network, Record, State
from .names import NameServer, files
from .netlink import Netlink
from .records import Records

_FALLBACK_MTU = 1500


class Kernel:
    """The kernel's side of one root."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.hash = records.root.hash
        self.prefix = ruleset.interface_prefix(self.hash)
        # Interface group 0 is everybody's, and the kernel's group numbers are signed.
        self.group = int(self.hash, 16) & 0x7FFFFFFF or 1
        self.name_server = NameServer(records.names)

    def open(self) -> Netlink:
        return Netlink(self.group)

    # -- bridges and containers' links ---------------------------------------------------------------------------

    def plug(self, record: Record, networks: Sequence[Network], state: State) -> bool:
        """Make all of a record's links: bridges, namespace, interfaces, addresses, the way out. True when a bridge was
        made (so that the table has to know it)."""
        by_name = {network.name: network for network in networks}
        path = self.records.namespace(record.id)
        made = False
        with self.open() as outside:
            for link in record.links:
                made = self._bridge(outside, by_name[link.network], state) or made
            if not namespaces.stands(path):
                namespaces.create(path)
            with namespaces.enter(path, Netlink) as inside:
                inside.set_up(1)
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    for link in record.links:
                        mtu = state.mtu.get(link.bridge, _FALLBACK_MTU)
                        self._link(outside, inside, descriptor, link, by_name[link.network], mtu)
                finally:
                    os.close(descriptor)
                way_out = next((by_name[k.network] for k in record.links if not by_name[k.network].internal), None)
                if way_out:
                    inside.add_default_route(str(way_out.gateway))
        return made

    def _bridge(self, outside: Netlink, network: Network, state: State) -> bool:
        if outside.index(network.bridge) is not None and network.bridge in state.mtu:
            return False
        # The smallest packet size on the way out holds for all: a bridge of 1500 behind a link of 1400 loses packets.
        way_out = next((r.interface for r in outside.routes() if r.unicast and r.destination.prefixlen == 0), 0)
        mtu = (outside.mtu(way_out) if way_out else None) or _FALLBACK_MTU
        gateway = str(network.gateway)
        if outside.index(network.bridge) is None:
            outside.add_bridge(network.bridge, mac=mac(gateway), mtu=mtu)
        index = outside.index(network.bridge)
        if index is None:
            raise AssertionError(f"{network.bridge} was made just now")
        namespaces.write_setting(f"ipv6/conf/{network.bridge}/disable_ipv6", "1")
        namespaces.write_setting(f"ipv4/conf/{network.bridge}/route_localnet", "1")
        outside.add_address(index, gateway, network.subnet)
        state.mtu[network.bridge] = mtu
        return True

    def _link(self, outside: Netlink, inside: Netlink, descriptor: int, link: Link, network: Network, mtu: int) -> None:
        bridge = outside.index(link.bridge)
        if bridge is None:
            raise AssertionError(f"{link.bridge} was made just now")
        end = outside.index(link.veth)
        if end is None:
            outside.add_veth(
                link.veth, bridge=bridge, netns_fd=descriptor, inside=link.ifname, mac=mac(link.address), mtu=mtu
            )
            end = outside.index(link.veth)
        else:
            outside.set_master(end, bridge)
        index = inside.index(link.ifname)
        if end is None or index is None:
            raise AssertionError(f"{link.veth} was made just now")
        outside.set_hairpin(end)
        inside.set_up(index)
        inside.add_address(index, link.address, network.subnet)

    def stands(self, record: Record) -> bool:
        """Is all there that ``plug`` makes?"""
        if not namespaces.stands(self.records.namespace(record.id)):
            return False
        with self.open() as outside:
            return all(outside.index(name) is not None for k in record.links for name in (k.bridge, k.veth))

    def unplug(self, record: Record, *, at_once: bool) -> None:
        """Let go of a record's namespace. Its interfaces go with it as soon as the kernel comes to it; ``at_once`` waits
        for that (20 ms each), needed before the same address is given out again."""
        if at_once:
            with self.open() as outside:
                for link in record.links:
                    outside.delete_link(link.veth)
        namespaces.remove(self.records.namespace(record.id))
        if any(port.protocol == "udp" for port in record.ports):
            from . import conntrack

            gone = {link.address for link in record.links}
            conntrack.forget_udp(lambda flow: flow.answers in gone)

    def prune(self, state: State, *, everything: bool, spare: Collection[str] = ()) -> list[str]:
        """Remove bridges that nobody uses any more; with ``everything`` also container ends that no record knows, but
        for ``spare``. Gives the names of what was removed."""
        used = {name for record in state.records.values() for k in record.links for name in (k.bridge, k.veth)}
        kinds = (f"{self.prefix}b", f"{self.prefix}v") if everything else (f"{self.prefix}b",)
        with self.open() as outside:
            stale = [
                name for name in outside.links() if name.startswith(kinds) and name not in used and name not in spare
            ]
            gone = [name for name in stale if outside.delete_link(name)]
        for name in [name for name in state.mtu if name not in used]:
            del state.mtu[name]
        return gone

    def stale_namespaces(self, state: State) -> list[str]:
        """Remove the namespaces that no record knows; gives their names."""
        stale = [path for path in self.records.namespaces.iterdir() if path.name not in state.records]
        for path in stale:
            namespaces.remove(path)
        return [path.name for path in stale]

    # -- the table, the foreign accepts, the names ---------------------------------------------------------------

    def publish(
        self, state: State, networks: Sequence[Network], before: Iterable[Record], after: Iterable[Record]
    ) -> None:
        """Change the map entries of some records in one transaction. Where the table is not what we think (somebody
        flushed it), it is made again whole."""
        old = [entry for record in before for entry in ruleset.entries(record, networks)]
        new = [entry for record in after for entry in ruleset.entries(record, networks)]
        text = ruleset.change(self.hash, old, new)
        if text:
            try:
                nft.run(text)
            except nft.NftError:
                self.table(state, networks)
        fresh = {(port.host_ip, port.host) for r in after if r.published for port in r.ports if port.protocol == "udp"}
        if fresh:
            from . import conntrack

            ours = {link.address for record in after for link in record.links}
            conntrack.forget_udp(
                lambda flow: (
                    ("", flow.port) in fresh or (flow.destination, flow.port) in fresh
                    if flow.answers not in ours
                    else False
                )
            )

    def table(self, state: State, networks: Sequence[Network]) -> None:
        """Make the whole table again, in one transaction."""
        nft.run(ruleset.whole(self.hash, networks, state.records.values()))

    def accepts(self) -> bool:
        """Have the machine forward packets, and let our bridges through foreign tables; True when an accept was added."""
        namespaces.write_setting("ipv4/ip_forward", "1")
        return firewall.ensure(self.hash)

    def names(self, state: State, networks: Sequence[Network], *, tell: bool = False) -> bool:
        """Make the name server say what the records say (``tell``: also where its files are right already); True when
        something changed."""
        return self.name_server.sync(files(networks, state.records.values()), tell=tell)

    def teardown(self) -> None:
        """Nothing of this root stays in the kernel."""
        name = ruleset.table(self.hash)
        nft.run(f"add table ip {name}\ndelete table ip {name}")
        firewall.remove(self.hash)
        self.name_server.sync({})
        for path in list(self.records.namespaces.iterdir()):
            namespaces.remove(path)
        with self.open() as outside:
            outside.delete_group()
        self.records.forget()
