"""Repositories of the embedded registry, and what its names mean.

``bayplan.internal`` is the embedded registry of whatever root one stands in: a name that is the same on every machine and
leads nowhere on any network. A registry entry that declares an ``address`` goes by that one, so that the uri it outputs is
what other clients pull from ``bayplan registry serve``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from bayplan.errors import BayplanError
from bayplan.plan.model import FOLLOWS, Action, Observed, Role, Value
from bayplan.plan.written import written
from bayplan.registry.survey import survey
from bayplan.targets import identity

if TYPE_CHECKING:
    from bayplan.execute.port import Order, Outcome
    from bayplan.oci.digest import Digest
    from bayplan.oci.reference import ImageName
    from bayplan.oci.root import Root
    from bayplan.registry.model import Repository
    from bayplan.registry.registry import Registry

INTERNAL = "bayplan.internal"


class Repositories:
    """The repositories of a root, in the words of plans. ``registry`` gives the core, which a look does not need."""

    def __init__(self, place: str, root: Root, registry: Callable[[], Registry], addresses: Sequence[str] = ()) -> None:
        self._place = place
        self._root = root
        self._core = registry
        self._addresses = frozenset((INTERNAL, *addresses))
        #: How the registry is called in the uris that repositories output: the declared address, else its own.
        self.address = next(iter(addresses), INTERNAL)

    @property
    def _registry(self) -> Registry:
        return self._core()

    def observe(self, stack: str) -> list[Observed]:
        found = survey(self._root, identity.STACK, stack, (identity.ADDRESS, identity.FIELDS, _FORCE, identity.ROLE))
        known: dict[str, tuple[dict[str, str], str]] = {}  # many repositories carry the same few tags
        observed, current = self._observed, Role.CURRENT
        seen = []
        for name, uid, mutability, text, address, fields, force, aside in found:
            tags = known.get(text)
            if tags is None:
                tags = known[text] = _tags(json.loads(text))
            role = Role.ASIDE if aside else current
            seen.append(observed(name, uid, mutability, tags, address, written(fields or "{}"), force == "true", role))
        return seen

    def find(self, name: str) -> Observed | None:
        found = self._described(name)
        return None if found is None else self._seen(found)

    def _described(self, name: str) -> Repository | None:
        try:
            return self._registry.describe(name)
        except BayplanError as error:
            if error.code == "repository-unknown":
                return None
            raise

    def names(self) -> set[str]:
        """Every repository's name."""
        return set(self._registry.catalog())

    def owner(self, name: str) -> tuple[str, str] | None:
        """The stack and address of the repository of this name (empty: nobody's); None where there is none."""
        found = self._described(name)
        return None if found is None else (found.labels.get(identity.STACK, ""), found.labels.get(identity.ADDRESS, ""))

    def _seen(self, one: Repository) -> Observed:
        return self._observed(
            one.name,
            one.uid,
            one.mutability.value,
            _tags(one.tags),
            one.labels.get(identity.ADDRESS, ""),
            identity.recorded(one.labels),
            one.labels.get(_FORCE) == "true",
            identity.role(one.labels),
        )

    def _observed(
        self,
        name: str,
        uid: str,
        mutability: str,
        tags: tuple[dict[str, str], str],
        address: str,
        recorded: Mapping[str, str],
        force: bool,
        role: Role,
    ) -> Observed:
        return Observed(
            address=address,
            kind="Repository",
            place=self._place,
            uid=uid,
            id=name,
            fields={
                "repository_name": name,
                "image_tag_mutability": mutability,
                "tags": tags[0],
                "force_delete": force,
            },
            hash=f"{uid} {mutability} {tags[1]}{' force' if force else ''}",
            recorded=recorded,
            outputs=self.outputs(name),
            name=name,
            role=role,
        )

    def outputs(self, name: str) -> dict[str, Value]:
        return {"uri": f"{self.address}/{name}", "name": name}

    # -- acting ----------------------------------------------------------------------------------------------------

    def perform(self, order: Order) -> Outcome:
        from bayplan.execute.port import Outcome, Stale
        from bayplan.registry.model import TagMutability

        operation = order.operation
        name = str(operation.detail.get("name") or operation.id)
        if operation.action is Action.CREATE:
            made = self._create(order, name)
            return Outcome(uid=made.uid, id=made.name, outputs=self.outputs(made.name))
        found = self._described(operation.id)
        if operation.action is Action.DELETE:
            if found is not None:
                self._check(order, found)
                self._delete(found)
            return Outcome(gone=not operation.detail.get("leftover"))
        if found is None:
            raise Stale(operation.address, "the repository is gone")
        self._check(order, found)
        if operation.action is Action.REPLACE:
            made = self._replace(order, found, name)
            return Outcome(uid=made.uid, id=made.name, outputs=self.outputs(made.name))
        # What the plan does not say stays as it is: a property that is ignored, or that nobody declared.
        named = {change.field for change in operation.changes}
        labels = self._labels(order, found.labels.get(identity.UID, order.uid))
        kept = [_PUSHED] if "force_delete" in named else [_PUSHED, _FORCE]
        for label in kept:
            labels.pop(label, None)
        mutability = TagMutability(order.inputs.get("image_tag_mutability", "MUTABLE"))
        made = self._registry.update_repository(
            found.name,
            mutability=mutability if "image_tag_mutability" in named else None,
            tags=(order.inputs.get("tags") or {}) if "tags" in named else None,
            labels={**labels, **{name: found.labels[name] for name in kept if name in found.labels}},
        )
        return Outcome(uid=made.uid, id=made.name, outputs=self.outputs(made.name))

    def _replace(self, order: Order, old: Repository, name: str) -> Repository:
        """One name holds one repository; under another one the successor stands before the old one goes."""
        if old.name == name:
            self._delete(old)
            return self._create(order, name)
        self._registry.update_repository(old.name, labels=identity.aside(old.labels))
        try:
            made = self._create(order, name)
        except BayplanError:
            self._registry.update_repository(old.name, labels=dict(old.labels))
            raise
        self._delete(old)
        return made

    def _create(self, order: Order, name: str) -> Repository:
        from bayplan.registry.model import TagMutability

        return self._registry.create_repository(
            name,
            mutability=TagMutability(order.inputs.get("image_tag_mutability", "MUTABLE")),
            tags=order.inputs.get("tags") or {},
            labels=self._labels(order, order.uid),
        )

    def _labels(self, order: Order, uid: str) -> dict[str, str]:
        labels = identity.labels(order.stack, order.operation.address, uid, order.fields)
        return {**labels, _FORCE: "true"} if order.inputs.get("force_delete") else labels

    def _check(self, order: Order, found: Repository) -> None:
        from bayplan.execute.port import Stale

        if order.operation.precondition not in (FOLLOWS, self._seen(found).hash):
            raise Stale(order.operation.address, "the repository is not what it was")

    def relabel(self, observed: Observed, stack: str, address: str) -> None:
        labels: Mapping[str, str] = {}
        if stack:
            labels = identity.labels(stack, address, observed.uid, observed.recorded)
        self._registry.update_repository(observed.id, labels=labels)

    # -- images in them --------------------------------------------------------------------------------------------

    def holds(self, name: ImageName) -> bool:
        """Whether an image name means this registry."""
        return name.registry in self._addresses

    def digest(self, name: ImageName) -> Digest | None:
        """What a name in this registry refers to now, or None."""
        try:
            return self._registry.resolve(name.repository, name.digest or name.tag or "latest").digest
        except BayplanError as error:
            if error.code in ("repository-unknown", "tag-unknown", "manifest-unknown"):
                return None
            raise

    def bring(self, name: ImageName, digest: Digest) -> bool:
        """Have an image of a repository that is kept elsewhere (sealed, in a bucket) in the store, in clear; False where it is
        nowhere. The caller holds a lease."""
        try:
            self._registry.localize(name.repository, digest)
        except BayplanError as error:
            if error.code not in ("no-blob", "repository-unknown"):
                raise
            return False
        return self._registry.store.has(digest)

    def push(self, name: ImageName, digest: Digest, stack: str) -> None:
        """A push within the root: one manifest write, no copy. The repository notes what its own stack pushed."""
        found = self._registry.describe(name.repository)
        pushed = _pushed(found)
        if found.labels.get(identity.STACK) == stack and str(digest) not in pushed:
            labels = {**found.labels, _PUSHED: json.dumps([*pushed, str(digest)][-_REMEMBERED:])}
            self._registry.update_repository(found.name, labels=labels)
        self._registry.push_local(name.repository, name.tag or "latest", digest)

    def _delete(self, found: Repository) -> None:
        """Images that the stack pushed itself go with their repository; anybody else's need ``force_delete``."""
        force = found.labels.get(_FORCE) == "true"
        if not force:
            ours = set(_pushed(found))
            force = all(str(tag.digest) in ours for tag in self._registry.tags(found.name))
        self._registry.delete_repository(found.name, force=force)


def _tags(tags: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Resource tags, and what stands for them in the precondition of operations."""
    ordered = dict(sorted(tags.items()))
    return ordered, blake2b(repr(ordered).encode(), digest_size=8).hexdigest()


_FORCE = identity.PREFIX + "force-delete"
_PUSHED = identity.PREFIX + "pushed"
_REMEMBERED = 1000


def _pushed(found: Repository) -> list[str]:
    """The digests that the repository's own stack pushed, newest last."""
    loaded = json.loads(found.labels.get(_PUSHED, "[]"))
    return [str(one) for one in loaded]
