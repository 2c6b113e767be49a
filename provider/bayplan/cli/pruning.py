"""What nobody uses: which containers, networks, volumes and image names may go.

What belongs to a stack (its labels say so) is never among it: a container that a stack wants stopped is wanted, and a
network without containers may be waiting for the next apply. ``destroy`` removes those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayplan.cli.meaning import owner

if TYPE_CHECKING:
    from bayplan.oci.digest import Digest
    from bayplan.oci.names import NamedImage, Names
    from bayplan.oci.store import Store
    from bayplan.runtime.container import Container
    from bayplan.runtime.containers import Runtime
    from bayplan.runtime.net import Network
    from bayplan.runtime.volumes import Volume


def stopped(runtime: Runtime) -> list[Container]:
    """Containers that do not run, will not be started again by themselves, and belong to no stack."""
    return [one for one in runtime.list() if one.state.value in ("exited", "created") and not owner(one.labels)]


def unused_networks(runtime: Runtime) -> list[Network]:
    """Networks that no container names, but for the default one."""
    from bayplan.runtime.net.model import DEFAULT_NETWORK

    used = {attachment.network for one in runtime.list() for attachment in one.spec.networks}
    return [
        one
        for one in runtime.networks.list()
        if one.name != DEFAULT_NETWORK and one.name not in used and not owner(one.labels)
    ]


def unused_volumes(runtime: Runtime, *, named: bool) -> list[Volume]:
    """Volumes that no container mounts: those that were made for one alone and, with ``named``, all others."""
    users = runtime.definitions.volume_users()
    return [
        one
        for one in runtime.volumes.list()
        if (one.anonymous or named) and not users.get(one.name) and not owner(one.labels)
    ]


def digests_in_use(runtime: Runtime) -> set[Digest]:
    """Digests of images that containers were made from."""
    from bayplan.oci.digest import Digest

    return {Digest.parse(one) for one in runtime.references()}


def unused_names(names: Names, runtime: Runtime, store: Store) -> list[NamedImage]:
    """Names of images that no container was made from."""
    used = digests_in_use(runtime)
    return [one for one in names.list() if not owner(one.labels) and not (members(store, one.digest) & used)]


def members(store: Store, digest: Digest) -> set[Digest]:
    """An image's digest, and those of the images in it where it is an index."""
    import json

    from bayplan.errors import BayplanError
    from bayplan.oci.digest import Digest

    found = {digest}
    try:
        manifest = json.loads(store.read(digest))
    except (BayplanError, ValueError):
        return found
    for one in manifest.get("manifests") or () if isinstance(manifest, dict) else ():
        if isinstance(one, dict) and isinstance(one.get("digest"), str):
            found.add(Digest.parse(one["digest"]))
    return found


#: What may be said of an object that somebody began to use, or removed, since it was looked at.
MEANWHILE = frozenset(
    {
        "container-running",
        "no-such-container",
        "container-busy",
        "network-in-use",
        "unknown-network",
        "volume-in-use",
        "no-such-volume",
    }
)
