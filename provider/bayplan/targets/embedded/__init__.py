"""One embedded root as a place: the cores of this machine behind the engine's port.

A core is imported when there is something of its sort to look at or to do: a plan of repositories never loads the runtime.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.plan.model import Desired, Forecast, Observed, Recorded, Value
from bayplan.targets.identity import PlaceKey
from bayplan.targets.model import ImageResolver, Sight

if TYPE_CHECKING:
    from bayplan.build.builder import Builder
    from bayplan.execute.port import Feedback, Order, Outcome
    from bayplan.oci.digest import Digest
    from bayplan.oci.store import Store
    from bayplan.registry.registry import Registry
    from bayplan.runtime.containers import Runtime
    from bayplan.targets.embedded.containers import Containers, Wanted
    from bayplan.targets.embedded.grounds import NetworkGround, VolumeGround
    from bayplan.targets.embedded.images import Images
    from bayplan.targets.embedded.remotes import Remotes
    from bayplan.targets.embedded.repositories import Repositories


#: Where what each source looks at lies under the root.
_PARTS = {
    "containers": "_containers",
    "networks": "_networks",
    "volumes": "_volumes",
    "oci/index.db": "_images",
    "registry/registry.db": "_repositories",
}


class EmbeddedPlace:
    """The root at ``path``: containers, networks, volumes, images and repositories of this machine.

    Fulfils :class:`bayplan.targets.model.Place`. Opening it costs nothing; a root that does not exist is an empty one until
    the first effect makes it.
    """

    def __init__(self, path: Path) -> None:
        self._root = Root.at(path)
        self.place = f"embedded:{self._root.path}"
        self._key = PlaceKey(self._root.path / "key")
        self._addresses: list[str] = []
        self._insecure: set[str] = set()

    # -- the cores -------------------------------------------------------------------------------------------------

    @cached_property
    def _store(self) -> Store:
        from bayplan.oci.store import Store

        return Store(self._root)

    @cached_property
    def _remotes(self) -> Remotes:
        from bayplan.targets.embedded.remotes import Remotes

        return Remotes(frozenset(self._insecure))

    @cached_property
    def _runtime(self) -> Runtime:
        from bayplan.runtime.containers import Runtime

        return Runtime(self._root)

    @cached_property
    def _registry(self) -> Registry:
        from bayplan.registry.registry import Registry

        return Registry(self._root, store=self._store)

    @cached_property
    def _repositories(self) -> Repositories:
        from bayplan.targets.embedded.repositories import Repositories

        return Repositories(self.place, self._root, lambda: self._registry, self._addresses)

    @cached_property
    def _images(self) -> Images:
        from bayplan.targets.embedded.images import Images

        return Images(self.place, self._root, self._store, self._repositories, self._remotes, self._builder)

    @cached_property
    def _containers(self) -> Containers:
        from bayplan.targets.embedded.containers import Containers

        return Containers(self.place, self._runtime, self._store, self.digest, self._images.fetch)

    @cached_property
    def _networks(self) -> NetworkGround:
        from bayplan.targets.embedded.grounds import NetworkGround

        return NetworkGround(self.place, self._runtime)

    @cached_property
    def _volumes(self) -> VolumeGround:
        from bayplan.targets.embedded.grounds import VolumeGround

        return VolumeGround(self.place, self._runtime)

    def _builder(self, resolve: Callable[[str], Digest]) -> Builder:
        from bayplan.build.builder import Builder
        from bayplan.runtime.late_steps import LateStepRunner

        return Builder(self._root, LateStepRunner(self._root), resolve)

    def declare(self, registries: Mapping[str, Mapping[str, Value]]) -> None:
        known = {entry["address"]: entry for entry in registries.values() if "address" in entry}
        self._addresses = [name for name, entry in known.items() if entry["type"] == "embedded"]
        self._insecure = {name for name, entry in known.items() if entry.get("insecure")}
        for core in ("_repositories", "_remotes", "_images", "_containers"):
            self.__dict__.pop(core, None)  # made again when it is next needed

    # -- looking ---------------------------------------------------------------------------------------------------

    def observe(self, stack: str, desired: Sequence[Desired], recorded: Sequence[Recorded]) -> Sight:
        seen: list[Observed] = []
        calls = 0
        if self._root.path.is_dir():
            for part, source in _PARTS.items():
                if _inhabited(self._root.path / part):
                    seen.extend(getattr(self, source).observe(stack))
                calls += 1
            seen.extend(self._imported(recorded, {one.id for one in seen}))
        objects: dict[str, tuple[Observed, ...]] = {}
        for one in seen:
            objects[one.address] = (*objects.get(one.address, ()), one)
        problems = self._problems(stack, desired, objects)
        return Sight(objects, problems, self._warnings(desired, objects), len(seen), calls)

    def _imported(self, recorded: Sequence[Recorded], seen: set[str]) -> list[Observed]:
        """Objects that bear no identity of ours and are known from the state alone."""
        from bayplan.records import replace

        found = []
        for row in recorded:
            if row.imported and row.id not in seen:
                one = self.find(row.kind, row.id)
                if one is not None:
                    found.append(replace(one, address=row.address, uid=row.uid, recorded=dict(row.fields)))
        return found

    def _problems(
        self, stack: str, desired: Sequence[Desired], objects: Mapping[str, tuple[Observed, ...]]
    ) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        containers = None
        repositories = None
        wanted: Wanted | None = None
        names: set[str] | None = None
        keeping = {(stack, one.address): one for one in desired if one.kind == "Container"}
        for one in desired:
            ours = objects.get(one.address, ())
            texts: list[str] = []
            if one.kind == "Container":
                from bayplan.targets.embedded.containers import wanted_ports

                containers = self._containers.everything() if containers is None else containers
                wanted = wanted_ports(keeping.values()) if wanted is None else wanted
                texts = self._containers.problems(one, containers, ours, keeping, wanted)
            elif one.kind == "Image":
                texts = self._images.problems(one, stack)
            elif not ours:
                if one.kind == "Repository":
                    repositories = self._repositories.names() if repositories is None else repositories
                    taken = one.name in repositories and self._repositories.owner(one.name) != (stack, one.address)
                else:
                    ground = self._networks if one.kind == "Network" else self._volumes
                    # One of this very identity was made since the look, by an apply that is under way.
                    taken = ground.owner(one.name) not in (None, (stack, one.address))
                if taken and names is None:
                    names = {other.name for many in objects.values() for other in many}
                if taken and one.name not in (names or ()):
                    what = one.kind.lower()
                    texts = [
                        f"a {what} named {one.name} exists and is not this stack's: import it, or choose another name"
                    ]
            if texts:
                found[one.address] = tuple(texts)
        return found

    def _warnings(self, desired: Sequence[Desired], objects: Mapping[str, tuple[Observed, ...]]) -> tuple[str, ...]:
        """That nobody watches health, where somebody declared that it should be watched."""
        watched = [
            one.address
            for one in desired
            if one.properties.get("healthcheck")
            and any(o.fields.get("state") == "running" for o in objects.get(one.address, ()))
        ]
        if not watched:
            return ()
        from bayplan.runtime.agent import agent_running

        if agent_running(self._root):
            return ()
        return (
            f"health is not watched between applies ({', '.join(watched)}): no agent runs here; start 'bayplan agent'",
        )

    def bases(self, desired: Desired) -> Sequence[str]:
        return self._images.bases(desired)

    def forecast(
        self, stack: str, desired: Desired, observed: Observed | None, resolve: ImageResolver
    ) -> Forecast | None:
        if desired.kind == "Image":
            return self._images.forecast(desired, observed, resolve, stack)
        if desired.kind == "Repository":
            return Forecast(key="", outputs=self._repositories.outputs(desired.name))
        return None

    def remote(self, target: str) -> str | None:
        from bayplan.oci.reference import ImageName

        name = ImageName.parse(target)
        try:
            found = self._repositories.digest(name) if self._repositories.holds(name) else self._remotes.resolve(name)
        except BayplanError:
            return None  # nobody can look now; the push itself will say what is the matter
        return "" if found is None else str(found)

    def resolve_image(self, name: str, pull_policy: str) -> str | None:
        """``missing`` asks a registry only for what no container of this host was made from; ``never`` asks none, and
        ``always`` nobody else."""
        from bayplan.oci.reference import ImageName

        parsed = ImageName.parse(name)
        if pull_policy not in ("missing", "always", "never"):
            found = self._images.resolve(name)
        elif pull_policy == "always" and not parsed.digest and not self._repositories.holds(parsed):
            found = self._remotes.resolve(parsed, to_run=True)
        else:
            found = self._images.here(name) or self._containers.made_from(parsed)
            if found is None and pull_policy != "never" and not self._repositories.holds(parsed):
                found = self._remotes.resolve(parsed, to_run=True)
        return None if found is None else str(found)

    def find(self, kind: str, name: str) -> Observed | None:
        if not self._root.path.is_dir():
            return None
        finders: Mapping[str, Callable[[str], Observed | None]] = {
            "Container": self._containers.by_id,
            "Network": self._networks.find,
            "Volume": self._volumes.find,
            "Image": self._images.find,
            "Repository": self._repositories.find,
        }
        return finders[kind](name)

    def digest(self, value: Value) -> str:
        return self._key.digest(value)

    # -- acting ----------------------------------------------------------------------------------------------------

    def perform(self, order: Order, feedback: Feedback) -> Outcome:
        kind = order.operation.kind
        if kind == "Container":
            return self._containers.perform(order, feedback)
        if kind == "Image":
            return self._images.perform(order, feedback)
        if kind == "Network":
            return self._networks.perform(order)
        if kind == "Volume":
            return self._volumes.perform(order)
        return self._repositories.perform(order)

    def relabel(self, observed: Observed, stack: str, address: str) -> None:
        sources: Mapping[str, Containers | NetworkGround | VolumeGround | Images | Repositories] = {
            "Container": self._containers,
            "Network": self._networks,
            "Volume": self._volumes,
            "Image": self._images,
            "Repository": self._repositories,
        }
        sources[observed.kind].relabel(observed, stack, address)

    def recover(self) -> bool:
        self._root.ensure()
        return bool(self._runtime.recover())

    def sweep(self, stack: str) -> str:
        del stack  # what is unreferenced is nobody's
        from bayplan.targets.embedded.garbage import collect

        found = collect(self._root, self._store)
        self._runtime.networks.teardown_if_unused()
        if not found.blobs and not found.layers:
            return ""
        return f"freed {found.bytes / 1e6:.1f} MB ({found.blobs} blobs, {found.layers} unpacked layers)"

    def lock_path(self, stack: str) -> Path:
        return self._root.path / "locks" / f"{stack}.lock"


def _inhabited(part: Path) -> bool:
    """Whether there can be anything: a file, or a folder in which more lies than what is hidden."""
    try:
        with os.scandir(part) as entries:
            return any(not entry.name.startswith(".") for entry in entries)
    except NotADirectoryError:
        return True
    except FileNotFoundError:
        return False
