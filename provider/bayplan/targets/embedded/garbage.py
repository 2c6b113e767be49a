"""Everything that refers to content of a root, gathered in one place: whoever collects must know them all."""

from __future__ import annotations

from collections.abc import Iterable

from bayplan.oci.digest import Digest
from bayplan.oci.names import Names
from bayplan.oci.root import Root
from bayplan.oci.store import Collected, Referrer, Store, Usage
from bayplan.oci.unpacked import Unpacked
from bayplan.records import replace


def referrers(root: Root) -> list[Referrer]:
    """Names of the host, containers, repositories, the build cache."""
    from bayplan.build.cache import BuildCache
    from bayplan.registry.registry import Registry
    from bayplan.runtime.containers import Runtime

    store = Store(root)

    def containers() -> Iterable[Digest]:
        return [Digest.parse(one) for one in Runtime(root).references()]

    return [
        Names(root).references,
        containers,
        Registry(root, store=store).references,
        BuildCache(root.path / "build").references,
    ]


def collect(root: Root, store: Store) -> Collected:
    """Remove what nothing refers to, from the vaults of the registry, too."""
    from bayplan.registry.registry import Registry

    Unpacked(store).sweep()
    here = store.collect(referrers(root))
    there = Registry(root, store=store).collect_vaults()
    return replace(here, blobs=here.blobs + there.blobs, bytes=here.bytes + there.bytes)


def usage(root: Root, store: Store) -> Usage:
    """What lies in the store, and how much of it could go."""
    return store.usage(referrers(root))
