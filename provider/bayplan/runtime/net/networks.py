"""The one class that the runtime calls: networks, and containers on them. The contract stands in the package's docstring.

Every call that changes something has one shape: take the root's lock, recover what a dead process left, decide on the
records, write the intention, change the kernel, write the end. The order of writes is the whole of the crash safety:

- attach: the record stands as MAKING before the first effect; found so, it is undone.
- detach: the record stands as LEAVING before the first effect; found so, it is finished.
- hand_over: both records change in one write, which is the moment of the change; ``pending`` says that the table and
  the names may be behind, and whoever finds it makes them again from the records.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network

from bayplan.errors import BayplanError, nearest
from bayplan.records import replace
from bayplan.runtime.rundir import clear_run
from bayplan.runtime.spec import Attachment, Port

from . import addresses, names, namespaces, ports, ruleset, subnets
from .ahead import Ahead
from .kernel import Kernel
from .model import DEFAULT_NETWORK, Finding, Link, NetState, Network, Phase, Reconciled, Record, RootDir, State
from .records import Records, check_container_id, check_network_name, machine_lock
from .step import StepNetwork, holder_lives, this_process


class Networks:
    """The networks of one root; any number of processes and threads may use any number of these at once."""

    def __init__(self, root: RootDir) -> None:
        self._root = root
        self._records = Records(root)
        self._kernel = Kernel(self._records)

    # -- definitions ---------------------------------------------------------------------------------------------

    def create(
        self, name: str, *, labels: Mapping[str, str] | None = None, internal: bool = False, subnet: str | None = None
    ) -> Network:
        """Define a network; its bridge stands only while a container uses it.

        ``subnet`` is CIDR text, or a free one is chosen. Raises bad-network-name, network-exists, bad-subnet,
        subnet-taken, no-free-subnet; dns-missing where names could not be served.
        """
        check_network_name(name)
        if name != DEFAULT_NETWORK:
            names.required()
        wanted = subnets.parse(subnet) if subnet else None
        with self._changing():
            if self._records.definition(name):
                raise BayplanError("network-exists", f"there is a network {name} already")
            taken = {network.bridge for network in self._records.all_definitions()}
            identity, bridge = "", ""
            while not bridge or bridge in taken:
                identity = os.urandom(32).hex()
                bridge = f"{ruleset.interface_prefix(self._root.hash)}b{identity[:4]}"
            draft = IPv4Network("0.0.0.0/32")
            network = Network(
                id=identity,
                name=name,
                labels=dict(labels or {}),
                subnet=draft,
                gateway=draft.network_address,
                bridge=bridge,
                internal=internal,
                created=time.time(),
                pinned=wanted is not None,
            )
            return self._place(network, wanted)

    def _place(self, network: Network, wanted: IPv4Network | None) -> Network:
        """Give a network its subnet and write its definition."""
        placed: builtins.list[Network] = []

        def define(subnet: IPv4Network) -> None:
            placed.append(replace(network, subnet=subnet, gateway=addresses.gateway(subnet)))
            self._records.define(placed[0])

        subnets.choose(self._root, network, names.host_servers(), wanted, define)
        return placed[0]

    def ensure_default(self) -> Network:
        """The root's default network, made when it is not there."""
        found = self.get(DEFAULT_NETWORK)
        if found is not None:
            return found
        try:
            return self.create(DEFAULT_NETWORK)
        except BayplanError as error:
            if error.code != "network-exists":
                raise
            return self._need(DEFAULT_NETWORK)  # somebody else was faster

    def remove(self, name: str) -> None:
        """Remove a network that no container is attached to. Raises unknown-network, network-in-use."""
        with self._changing() as state:
            self._need(name)
            users = [record.name or record.id[:12] for record in state.users(name)]
            if users:
                raise BayplanError(
                    "network-in-use",
                    f"the network {name} is used by {', '.join(sorted(users))}",
                    hint="stop these containers first",
                )
            self._records.undefine(name)
            subnets.release(self._root, name)
            state.last.pop(name, None)
            if state.records:
                self._records.save(state)

    def relabel(self, name: str, labels: Mapping[str, str]) -> Network:
        """Give a network other labels, durably. Raises unknown-network."""
        with self._changing():
            made = replace(self._need(name), labels=dict(labels))
            self._records.define(made)
        return made

    def get(self, name: str) -> Network | None:
        return self._records.definition(name)

    def list(self, labels: Mapping[str, str] | None = None) -> builtins.list[Network]:
        """The networks of the root by name, those that carry all of ``labels``."""
        wanted = (labels or {}).items()
        return [network for network in self._records.all_definitions() if wanted <= dict(network.labels).items()]

    def _need(self, name: str) -> Network:
        found = self._records.definition(name)
        if found is None:
            near = nearest(name, [network.name for network in self._records.all_definitions()])
            hint = f"did you mean {near}?" if near else "`bayplan network list` shows those that there are"
            raise BayplanError("unknown-network", f"there is no network {name}", hint=hint)
        return found

    # -- containers ----------------------------------------------------------------------------------------------

    def attach(
        self,
        container_id: str,
        name: str,
        attachments: Sequence[Attachment],
        wanted: Sequence[Port],
        *,
        publish: bool = True,
        ahead: Ahead | None = None,
    ) -> NetState:
        """Give a container its namespace, addresses, ports and names; see the package's docstring.

        ``ahead`` is its namespace with the root's lock, where :func:`.ahead.begin` made one; after an error it is still to be
        abandoned.

        Raises unknown-network, port-taken (with the holder), bad-port, no-free-address, dns-missing, dns-failed,
        nft-failed, netlink-failed, netns-failed; after an error nothing of the attachment is left.
        """
        return self._attach(container_id, name, attachments, wanted, publish=publish, holder="", ahead=ahead)

    def _attach(
        self,
        container_id: str,
        name: str,
        attachments: Sequence[Attachment],
        wanted: Sequence[Port],
        *,
        publish: bool,
        holder: str,
        ahead: Ahead | None = None,
    ) -> NetState:
        check_container_id(container_id)
        asked = ports.normal(wanted)
        if not attachments:
            self.ensure_default()
            attachments = (Attachment(DEFAULT_NETWORK),)
        with contextlib.ExitStack() as held:
            state = held.enter_context(self._changing(ahead))
            networks = [self._need(attachment.network) for attachment in attachments]
            existing = state.records.get(container_id)
            if existing is not None:
                if _same(existing, name, attachments, asked, publish) and self._kernel.stands(existing):
                    return self._net_state(existing)
                self._drop(state, existing, at_once=True)
            if asked and all(network.internal for network in networks):
                raise BayplanError(
                    "bad-port",
                    f"{name} publishes ports, but its networks are internal: nothing could come in",
                    hint="attach it to a network that is not internal too, or publish nothing",
                )
            if asked and publish:
                held.enter_context(machine_lock(self._root, "ports"))
                self._refuse_taken(state, asked, ())
            resolved = ports.resolve(self._root, state, asked, ()) if publish else asked
            links = [self._link(state, at, entry) for at, entry in enumerate(_merged(attachments))]
            record = Record(container_id, name, Phase.MAKING, tuple(links), resolved, asked, publish, holder)
            state.records[container_id] = record
            self._records.save(state)
            try:
                record = self._make(state, record)
            except BaseException:
                self._drop(state, record, at_once=True)
                raise
            return self._net_state(record)

    def _link(self, state: State, at: int, attachment: Attachment) -> Link:
        """Decide one interface: its address and the name of its end on the host."""
        network = self._confirmed(state, self._need(attachment.network))
        links = [link for record in state.records.values() for link in record.links]
        taken = {link.address for link in links if link.network == network.name} | {str(network.gateway)}
        address = addresses.following(network.subnet, state.last.get(network.name), taken)
        state.last[network.name] = address
        used = {link.veth for link in links}
        veth = ""
        while not veth or veth in used:
            veth = f"{ruleset.interface_prefix(self._root.hash)}v{os.urandom(2).hex()}"
        return Link(network.name, network.bridge, veth, f"eth{at}", address, attachment.aliases)

    def _confirmed(self, state: State, network: Network) -> Network:
        """A network about to be used. The first use (also after a reboot) looks whether its subnet is still free."""
        if state.users(network.name) or subnets.confirm(self._root, network):
            return network
        if network.pinned:
            raise BayplanError(
                "subnet-taken",
                f"the subnet {network.subnet} of the network {network.name} is in use elsewhere on this machine",
                hint="`ip route show table all` shows by whom",
            )
        return self._place(network, None)

    def _make(self, state: State, record: Record) -> Record:
        """Carry out a record that stands as MAKING."""
        networks = self._in_use(state)
        if self._kernel.plug(record, networks, state):
            self._kernel.table(state, networks)
        else:
            self._kernel.publish(state, networks, (), (record,))
        self._kernel.accepts()
        if any(network.has_names for network in networks):
            self._kernel.names(state, networks)
        ready = record.at(Phase.READY)
        state.records[record.id] = ready
        self._records.save(state)
        return ready

    def detach(self, container_id: str) -> None:
        """Free all that a container has; nothing to do is no error."""
        with self._changing() as state:
            record = state.records.get(container_id)
            if record is not None:
                self._drop(state, record, at_once=False)
            else:
                namespaces.remove(self._records.namespace(container_id))  # made ahead of an attachment that never came

    def _drop(self, state: State, record: Record, *, at_once: bool) -> None:
        """Detach under the lock: ports and names first, so that nobody is sent to a container that goes."""
        networks = self._in_use(state)
        state.records[record.id] = record.at(Phase.LEAVING)
        self._records.save(state)
        rest = State({k: r for k, r in state.records.items() if k != record.id}, state.last, state.mtu)
        if not rest.records:
            self._kernel.unplug(record, at_once=False)
            self._teardown(state)
            return
        self._kernel.publish(rest, networks, (record,), ())
        if any(network.has_names for network in networks):
            self._names_or_later(rest, self._in_use(rest))
        self._kernel.unplug(record, at_once=at_once)
        del state.records[record.id]
        state.pending = rest.pending
        if len(self._in_use(state)) != len(networks):
            self._kernel.prune(state, everything=False)
            self._kernel.table(state, self._in_use(state))
        self._records.save(state)

    def hand_over(self, old_id: str, new_id: str, name: str, aliases: Sequence[str] = ()) -> NetState:
        """Give the new container its ports and the name ``name`` (and ``aliases`` in each of its networks besides its
        own), and withdraw the old one's, at one moment. An old one that is not attached any more has nothing to give.

        Repeating it is no error. Raises not-attached (the new one), port-taken (by a third).
        """
        with contextlib.ExitStack() as held:
            state = held.enter_context(self._changing())
            new, old = self._attached(state, new_id), state.records.get(old_id)
            held.enter_context(machine_lock(self._root, "ports"))
            both = (old_id, new_id)
            asked = [_inherit(port, old) for port in (new.ports if new.published else new.wanted)]
            self._refuse_taken(state, asked, both)
            resolved = ports.resolve(self._root, state, asked, both)
            links = tuple(replace(link, aliases=tuple(dict.fromkeys((*link.aliases, *aliases)))) for link in new.links)
            before = [record for record in (old, new) if record is not None]
            after = [replace(new, name=name, published=True, ports=resolved, links=links)]
            if old is not None:
                after.append(replace(old, published=False))
            state.records.update({record.id: record for record in after})
            state.pending = True
            self._records.save(state)  # the moment
            networks = self._in_use(state)
            self._kernel.publish(state, networks, before, after)
            self._kernel.names(state, networks)
            state.pending = False
            self._records.save(state)
            return self._net_state(after[0])

    def rename(self, container_id: str, name: str) -> None:
        """A container's name has changed: it is answered for the new one. Not attached: nothing to do."""
        with self._changing() as state:
            record = state.records.get(container_id)
            if record is None or record.name == name:
                return
            state.records[container_id] = replace(record, name=name)
            state.pending = True
            self._records.save(state)
            self._kernel.names(state, self._in_use(state))
            state.pending = False
            self._records.save(state)

    def state(self, container_id: str) -> NetState | None:
        """What an attached container has; None when it is not attached. Takes no lock."""
        record = self._records.load().records.get(container_id)
        return self._net_state(record) if record is not None and record.phase is Phase.READY else None

    def check_ports(self, wanted: Sequence[Port], *, besides: Collection[str] = ()) -> builtins.list[str]:
        """The conflicts that publishing ``wanted`` would meet, a line each; no effect, no lock. Raises bad-port."""
        found = ports.conflicts(self._root, self._records.load(), ports.normal(wanted), besides)
        return list(dict.fromkeys(str(conflict) for conflict in found))

    def step_network(self) -> StepNetwork:
        """A namespace with a way out for the steps of one build: NAT, no ports, no name. It ends with ``close``, or with
        this process."""
        identity = f"build-{os.urandom(8).hex()}"
        state = self._attach(identity, "", (), (), publish=False, holder=this_process())
        return StepNetwork(state.netns, state.resolv_conf, lambda: self.detach(identity))

    # -- the whole -----------------------------------------------------------------------------------------------

    def reconcile(self, live_ids: Iterable[str]) -> Reconciled:
        """Make the kernel agree with the records, and the records with ``live_ids`` (every container of the root that
        should be attached). Builds' namespaces live with their processes."""
        live = set(live_ids)
        with self._changing() as state:
            dead = [r for r in state.records.values() if not (holder_lives(r.holder) if r.holder else r.id in live)]
            for record in dead:
                if record.id in state.records:
                    self._drop(state, record, at_once=False)
            detached = tuple(record.id for record in dead)
            if not state.records:
                stale = tuple(self._kernel.stale_namespaces(state))
                self._teardown(state)
                return Reconciled(detached, namespaces=stale)
            networks = self._in_use(state)
            repaired = []
            for record in state.records.values():
                if not self._kernel.stands(record):
                    self._kernel.plug(record, networks, state)
                    repaired.append(record.id)
            # The ends of those just detached go by themselves.
            going = {link.veth for record in dead for link in record.links}
            links = tuple(self._kernel.prune(state, everything=True, spare=going))
            namespaces = tuple(self._kernel.stale_namespaces(state))
            self._finish(state)
            return Reconciled(detached, links, namespaces, tuple(repaired))

    def teardown_if_unused(self) -> bool:
        """Remove all that stands in the kernel when no container is attached; True when nothing stands now."""
        with self._changing() as state:
            if state.records:
                return False
            self._teardown(state)
            return True

    def diagnose(self) -> builtins.list[Finding]:
        """What this machine lacks for networks, and what stands in their way; no effect."""
        from . import doctor

        return doctor.findings(self._root.hash, self._in_use(self._records.load()))

    # -- under the lock ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self, ahead: Ahead | None = None) -> Iterator[State]:
        """The lock, and the state after whatever a dead process left has been finished or undone. When nothing of the root
        is in use after it, its run folder goes."""
        try:
            with self._records.lock() if ahead is None else ahead.lock() as state:
                left = [record for record in state.records.values() if record.phase is not Phase.READY]
                for record in left:
                    self._kernel.unplug(record, at_once=True)
                    del state.records[record.id]
                if left or state.pending:
                    self._kernel.prune(state, everything=True)
                    if state.records:
                        # The name server's files may be right already, and the signal to read them never sent.
                        self._finish(state, tell=True)
                    else:
                        self._teardown(state)
                yield state
        finally:
            clear_run(self._root)

    def _finish(self, state: State, *, tell: bool = False) -> None:
        """Table, accepts and names from the records, and the end of whatever was pending."""
        networks = self._in_use(state)
        self._kernel.table(state, networks)
        self._kernel.accepts()
        state.pending = False
        self._names_or_later(state, networks, tell=tell)
        self._records.save(state)

    def _names_or_later(self, state: State, networks: Sequence[Network], *, tell: bool = False) -> None:
        """The names, where their failure must not stand in the way of what frees and repairs: they stay pending then, so
        that the next change tries again, and ``diagnose`` tells."""
        try:
            self._kernel.names(state, networks, tell=tell)
        except BayplanError as error:
            if error.code not in ("dns-failed", "dns-missing"):
                raise
            state.pending = True

    def _teardown(self, state: State) -> None:
        self._kernel.teardown()
        state.records.clear()
        state.mtu.clear()
        state.pending = False

    def _in_use(self, state: State) -> builtins.list[Network]:
        found = (self._records.definition(name) for name in state.networks())
        return [network for network in found if network is not None]

    def _attached(self, state: State, container_id: str) -> Record:
        found = state.records.get(container_id)
        if found is None:
            raise BayplanError("not-attached", f"the container {container_id[:12]} is on no network")
        return found

    def _refuse_taken(self, state: State, wanted: Sequence[Port], besides: Collection[str]) -> None:
        found = ports.conflicts(self._root, state, wanted, besides)
        if found:
            raise BayplanError("port-taken", str(found[0]), hint="publish another port, or stop what holds this one")

    def _net_state(self, record: Record) -> NetState:
        networks = [self._need(link.network) for link in record.links]
        way_out = next((network for network in networks if not network.internal), None)
        return NetState(
            netns=self._records.namespace(record.id),
            addresses={link.network: link.address for link in record.links},
            ports=record.ports if record.published else (),
            resolv_conf=names.resolv_conf(networks),
            gateway=str(way_out.gateway) if way_out else "",
        )


def _merged(attachments: Sequence[Attachment]) -> list[Attachment]:
    """One attachment a network, with the aliases of all that name it."""
    out: dict[str, Attachment] = {}
    for entry in attachments:
        aliases = out[entry.network].aliases if entry.network in out else ()
        out[entry.network] = Attachment(entry.network, tuple(dict.fromkeys((*aliases, *entry.aliases))))
    return list(out.values())


def _same(record: Record, name: str, attachments: Sequence[Attachment], asked: Sequence[Port], publish: bool) -> bool:
    """Was exactly this asked for before? A name or ports taken over since by a hand-over are no difference."""
    links = [Attachment(link.network, link.aliases) for link in record.links]
    return (
        links == _merged(attachments)
        and record.wanted == tuple(asked)
        and (record.published == publish or record.published)
        and (record.name == name or record.published != publish)
    )


def _inherit(port: Port, old: Record | None) -> Port:
    """A port whose number was left to the kernel keeps the number that the old container had for it."""
    if port.host or old is None:
        return port
    for held in old.ports:
        if (held.container, held.host_ip, held.protocol) == (port.container, port.host_ip, port.protocol):
            return held
    return port
