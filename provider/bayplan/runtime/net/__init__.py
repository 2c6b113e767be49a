"""Networks of the embedded runtime: bridges, addresses, published ports and names, without a daemon and without forks.

What a container needs from the network is six things: a namespace, an interface in it with an address, a way out, a
way in (published ports), names, and nobody in between. This package makes them with the kernel's own interfaces:
rtnetlink for links and routes (:mod:`.netlink`), ``unshare`` on a thread of its own for namespaces
(:mod:`.namespaces`), one nftables table per root through libnftables (:mod:`.nft`, :mod:`.ruleset`), and one
aardvark-dns per root for names (:mod:`.names`), started by the first network that has names and stopped after the last.

**What is true stands in one file.** ``run_dir/net/state.json`` says which containers have which addresses and ports; it
lies on tmpfs, so it lives exactly as long as the kernel objects that it describes. Every change is: lock, write the
intention (an atomic rename: the moment at which the change happens), change the kernel, write the end, unlock. Whoever
takes the lock next and finds an intention without its end knows that its writer is dead, and finishes or undoes it
before anything else. So a ``kill -9`` anywhere leaves nothing that the next call does not put right.
Definitions of networks outlive a reboot: ``root/networks/NAME.json``, written durably.

**The kernel is a function of that file**: a bridge exists while a container uses its network, the table while the root
has any attachment; after the last one has gone nothing of ours remains. Every name carries the root's hash.

The contract (all in :class:`Networks`; every call is safe from any number of processes and threads)::

    Networks(root)                       # root: .path, .hash (8 hex), .run_dir
      .create(name, *, labels=None, internal=False, subnet=None) -> Network
      .remove(name)                      # error network-in-use names the containers; unknown-network
      .get(name) -> Network | None
      .list(labels=None) -> list[Network]        # labels: all must be equal
      .ensure_default() -> Network       # the network "bridge"; as Docker's, it has no names
      .attach(container_id, name, attachments, ports, *, publish=True, ahead=None) -> NetState
      .detach(container_id)              # idempotent; frees namespace, addresses, ports, names
      .hand_over(old_id, new_id, name, aliases=()) -> NetState
      .rename(container_id, name)        # the name follows; not attached: nothing to do
      .state(container_id) -> NetState | None    # of an attached container; no lock
      .check_ports(ports, *, besides=()) -> list[str]   # one line per conflict; besides: ids that may hold them
      .step_network() -> StepNetwork     # context manager: .netns, .resolv_conf; .close() frees it
      .reconcile(live_ids) -> Reconciled # whoever is not in live_ids is detached; the table is made again
      .teardown_if_unused() -> bool      # True when nothing of this root is in the kernel
      .diagnose() -> list[Finding]       # for doctor; no effect
    host_resolv_conf() -> str            # for containers in the host's network namespace

``attach`` with no attachments joins the default network. It is idempotent per container: the same request again returns
the same state; another request makes the attachment anew. With ``publish=False`` neither the ports nor the names
of the container (its aliases, its name) are taken: they are kept back until ``hand_over``, which in one nftables
transaction gives the new container its ports, withdraws the old one's, and lets the names follow. A host port that the
kernel chose for the old one (``Port.host == 0``) stays the same number. Connections that stand go on with the old
container until it ends.

A network is in use by attached containers alone: that a stopped container wants it again is for the runtime to know.
Where the name server fails, attach to a network with names and hand_over say so; detach and reconcile go on without it,
try again at the next change, and ``diagnose`` tells.

Not known here: images, OCI runtimes, stacks. Errors are BayplanError with the codes bad-network-name, bad-container-id,
network-exists, network-in-use, unknown-network, bad-subnet, subnet-taken, no-free-subnet, no-free-address, port-taken,
bad-port, dns-missing, dns-failed, nft-failed, netlink-failed, netns-failed, iptables-missing, iptables-failed,
not-attached, network-lock.
IPv4 only for now: the interfaces of containers and our bridges have IPv6 switched off, as Docker's have by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayplan import rooms

if TYPE_CHECKING:
    from .model import Finding, NetState, Network, Reconciled
    from .names import host_resolv_conf
    from .networks import Networks
    from .step import StepNetwork

__getattr__ = rooms.names(
    __name__,
    {
        "Finding": "model",
        "NetState": "model",
        "Network": "model",
        "Networks": "networks",
        "Reconciled": "model",
        "StepNetwork": "step",
        "host_resolv_conf": "names",
    },
)

__all__ = ["Finding", "NetState", "Network", "Networks", "Reconciled", "StepNetwork", "host_resolv_conf"]
