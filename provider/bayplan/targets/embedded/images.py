"""Images of an embedded root: built, loaded or copied into the content store, named there, pushed from there.

What makes an Image ours is a name of its own in the store, ``bayplan.internal/<stack>/<name>:current``, which carries the
labels and the key of its content; declared tags are further names with the same identity. So an Image without tags is found
and kept like any other, and two names never disagree about whose they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayplan.errors import BayplanError
from bayplan.execute.port import Feedback, Order, Outcome, Stale
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image
from bayplan.oci.names import NamedImage, Names
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.plan.model import FOLLOWS, Action, Desired, Forecast, Observed, Role, Value
from bayplan.targets import identity
from bayplan.targets.embedded.remotes import Remotes, attended
from bayplan.targets.embedded.repositories import INTERNAL, Repositories
from bayplan.targets.model import ImageResolver

if TYPE_CHECKING:
    from bayplan.build.builder import Builder
    from bayplan.build.spec import BuildForecast, BuildSpec

_KEY = identity.PREFIX + "key"
_TAG = "current"
_LOOK = 0.1  # seconds between looks at whether the user asked to stop


class Images:
    """The images of a root, in the words of plans."""

    def __init__(
        self,
        place: str,
        root: Root,
        store: Store,
        repositories: Repositories,
        remotes: Remotes,
        builder: Callable[[Callable[[str], Digest]], Builder],
    ) -> None:
        self._place = place
        self._root = root
        self._store = store
        self._names = Names(root)
        self._repositories = repositories
        self._remotes = remotes
        self._builder = builder

    # -- looking ---------------------------------------------------------------------------------------------------

    def observe(self, stack: str) -> list[Observed]:
        named = self._names.list({identity.STACK: stack})
        tags: dict[tuple[str, Digest], list[str]] = {}
        for one in named:
            if not _is_own(one.name):
                tags.setdefault((one.labels.get(identity.ADDRESS, ""), one.digest), []).append(one.name)
        return [
            self._seen(one, tags.get((one.labels.get(identity.ADDRESS, ""), one.digest), []))
            for one in named
            if _is_own(one.name)
        ]

    def _seen(self, one: NamedImage, tags: Sequence[str]) -> Observed:
        familiar = sorted(ImageName.parse(tag).familiar() for tag in tags)
        fields: dict[str, Value] = {"key": one.labels.get(_KEY, ""), "digest": str(one.digest), "tags": familiar}
        return Observed(
            address=one.labels.get(identity.ADDRESS, ""),
            kind="Image",
            place=self._place,
            uid=one.labels.get(identity.UID, ""),
            id=one.name,
            fields=fields,
            hash=identity.object_hash(one.name, fields),
            role=Role.CURRENT,
            recorded=identity.recorded(one.labels),
            outputs=self._outputs(one.digest, familiar, one.name),
            name=familiar[0] if familiar else "",
        )

    def _outputs(self, digest: Digest, tags: Sequence[str], own: str) -> dict[str, Value]:
        name = tags[0] if tags else own
        outputs: dict[str, Value] = {
            "ref": f"{ImageName.parse(name).familiar().partition('@')[0]}@{digest}",
            "digest": str(digest),
            "tags": list(tags),
        }
        try:
            outputs["id"] = str(Image.load(self._store, digest).config_descriptor.digest)
        except BayplanError:
            outputs["id"] = ""  # an index for other machines, or content that somebody removed: the plan makes it again
        return outputs

    def find(self, name: str) -> Observed | None:
        """An image by a name in the store, whoever gave it."""
        found = self._names.get(name)
        if found is None:
            return None
        seen = self._seen(found, [found.name])
        return (
            seen
            if found.labels.get(identity.STACK)
            else Observed(
                address="",
                kind="Image",
                place=self._place,
                uid=str(found.digest)[7:23],
                id=found.name,
                fields=seen.fields,
                hash=seen.hash,
                outputs=seen.outputs,
                name=seen.name,
            )
        )

    def resolve(self, name: str) -> Digest | None:
        """Rules 2 and 3 of DESIGN section 8: the store's own names, the embedded registry, the world."""
        found = self.here(name)
        parsed = ImageName.parse(name)
        return self._remotes.resolve(parsed) if found is None and not self._repositories.holds(parsed) else found

    def here(self, name: str) -> Digest | None:
        """What a name means without asking anybody else: a digest of the store, its own names, the embedded registry."""
        parsed = ImageName.parse(name)
        if parsed.digest and self._store.has(Digest.parse(parsed.digest)):
            return Digest.parse(parsed.digest)
        found = self._names.get(name)
        if found is not None:
            return found.digest
        return self._repositories.digest(parsed) if self._repositories.holds(parsed) else None

    def problems(self, desired: Desired, stack: str) -> list[str]:
        """Tags that mean an image of somebody else's here."""
        found = []
        for tag in desired.properties.get("tags") or ():
            one = self._names.get(tag) if isinstance(tag, str) else None
            if one is None or not one.labels.get(identity.STACK):
                continue
            owner = (one.labels.get(identity.STACK), one.labels.get(identity.ADDRESS))
            if owner[0] != stack:
                found.append(f"the tag {tag} belongs to {owner[1]} of the stack {owner[0]}: choose another")
        return found

    # -- forecasts -------------------------------------------------------------------------------------------------

    def bases(self, desired: Desired) -> Sequence[str]:
        """Image names that the build's reachable stages stand on."""
        if "build" not in desired.properties:
            return ()
        return self._builder(_unresolved).bases(build_spec(desired.properties["build"]))

    def forecast(self, desired: Desired, observed: Observed | None, resolve: ImageResolver, stack: str) -> Forecast:
        """What the definition would give, without effect."""
        if "rootfs" in desired.properties:
            return self._forecast_rootfs(desired, observed)
        if "copy" in desired.properties:
            return self._forecast_copy(desired, observed)
        return self._forecast_build(desired, observed, resolve, stack)

    def _forecast_rootfs(self, desired: Desired, observed: Observed | None) -> Forecast:
        source = Path(desired.properties["rootfs"])
        where = desired.positions.get("rootfs", desired.where)
        if not source.exists():
            return Forecast(key="", problem=f"there is no root file system at {_shown(source)}", where=where)
        key = self._rootfs_key(source)
        known = observed.outputs if observed is not None and observed.fields["key"] == key else None
        cause = f"{_shown(source)} {'changed' if observed is not None else 'becomes a base image'}"
        return Forecast(key=key, outputs=known, cause=cause, where=where)

    def _rootfs_key(self, source: Path) -> str:
        from bayplan.oci.fingerprint import Fingerprints

        prints = Fingerprints(_cache_folder() / "rootfs.json")
        found = prints.of(source)
        prints.save()
        return f"rootfs:{found}"

    def _forecast_copy(self, desired: Desired, observed: Observed | None) -> Forecast:
        name = ImageName.parse(str(desired.properties["copy"]))
        where = desired.positions.get("copy", desired.where)
        digest = self.resolve_source(name)
        if digest is None:
            return Forecast(key="", problem=f"there is no image '{name.familiar()}' to be had", where=where)
        key = f"copy:{digest}"
        known = observed.outputs if observed is not None and observed.fields["key"] == key else None
        return Forecast(key=key, outputs=known, cause=f"{name.familiar()} is {str(digest)[:19]}", where=where)

    def resolve_source(self, name: ImageName) -> Digest | None:
        """What a ``copy`` refers to, where it comes from."""
        return self._repositories.digest(name) if self._repositories.holds(name) else self._remotes.resolve(name)

    def _forecast_build(
        self, desired: Desired, observed: Observed | None, resolve: ImageResolver, stack: str
    ) -> Forecast:
        spec = build_spec(desired.properties["build"])
        unknown: list[str] = []

        def base(name: str) -> Digest:
            found = resolve(name)
            if found is None:
                unknown.append(name)
                raise _Unknown
            return Digest.parse(found)

        builder = self._builder(base)
        try:
            for name in builder.bases(spec):
                base(name)
            found = builder.forecast(spec, self._previous(observed))
        except _Unknown:
            return Forecast(key="", cause=f"its base {unknown[0]} is made first", where=desired.where)
        outputs: Mapping[str, Value] | None = None
        if found.digest is not None:
            tags = [
                ImageName.parse(tag).familiar() for tag in desired.properties.get("tags") or () if isinstance(tag, str)
            ]
            outputs = self._outputs(found.digest, sorted(tags), own_name(desired.address, stack))
            if observed is not None and observed.fields["key"] == found.key:
                outputs = observed.outputs
        where = found.changed_step.where if found.changed_step is not None else None
        return Forecast(
            key=found.key,
            outputs=outputs,
            cause=_cause(found, observed),
            where=where or desired.where,
            note=self._push_note(found, observed),
        )

    def _push_note(self, found: BuildForecast, observed: Observed | None) -> str:
        """What a push of the new content costs: layers that the content before did not have, and their size if known."""
        before = self._layers(str(observed.fields["digest"])) if observed is not None else {}
        if found.digest is not None:
            after = self._layers(found.digest)
            new = {digest: size for digest, size in after.items() if digest not in before}
            return f"{len(new)} of {len(after)} layers, about {_human(sum(new.values()))}"
        total = max(len(before), sum(step.layer for step in found.steps))
        return f"{found.runs} of {total} layers" if found.runs else ""

    def _layers(self, digest: str) -> dict[str, int]:
        """The layers of a stored image with their sizes; none where it is not whole here."""
        try:
            layers = Image.load(self._store, Digest.parse(digest)).layers
        except BayplanError:
            return {}
        return {str(layer.descriptor.digest): layer.descriptor.size for layer in layers}

    @staticmethod
    def _previous(observed: Observed | None) -> Mapping[str, Value] | None:
        if observed is None or not observed.fields.get("key"):
            return None
        return {"key": observed.fields["key"], "digest": observed.fields["digest"]}

    # -- acting ----------------------------------------------------------------------------------------------------

    def perform(self, order: Order, feedback: Feedback) -> Outcome:
        action = order.operation.action
        makers: Mapping[Action, Callable[[Order, Feedback], tuple[Digest, str, str]]] = {
            Action.BUILD: self._build,
            Action.LOAD: self._load,
            Action.COPY: self._copy,
        }
        if action in makers:
            self._check(order)
            with self._store.lease():
                digest, key, detail = makers[action](order, feedback)
                return self._keep(order, digest, key, detail)
        if action is Action.TAG:
            return self._tag(order)
        if action is Action.PUSH:
            return self._push(order, feedback)
        return self._delete(order)

    def _own(self, order: Order) -> NamedImage | None:
        """The image under its own name; one that was imported under the name it was found by."""
        own = self._names.get(own_name(order.operation.address, order.stack))
        return own or (self._names.get(order.operation.id) if order.operation.id else None)

    def _check(self, order: Order) -> None:
        precondition = order.operation.precondition
        if precondition == FOLLOWS:
            return
        found = next((one for one in self.observe(order.stack) if one.address == order.operation.address), None)
        if found is None and order.operation.id:
            found = self.find(order.operation.id)  # imported: known by a name that is not its own yet
        if (found.hash if found is not None else "") != precondition:
            raise Stale(order.operation.address, "the image is not what it was")

    def _build(self, order: Order, feedback: Feedback) -> tuple[Digest, str, str]:
        from bayplan.build.spec import BuildEvent, BuildEventKind

        def told(event: BuildEvent) -> None:
            if feedback.cancelled:
                raise BayplanError("cancelled", "the build was stopped")
            if event.kind is BuildEventKind.OUTPUT:
                feedback.output(event.data)
            elif event.kind is BuildEventKind.STEP:
                feedback.progress(f"{event.number}/{event.total} {event.text}")

        def base(name: str) -> Digest:
            found = self.resolve(name)
            if found is None:
                raise BayplanError("image-not-found", f"there is no image '{name}' to build on")
            return self.fetch(f"{name.partition('@')[0]}@{found}", feedback)

        spec = build_spec(order.inputs["build"], no_cache=bool(order.operation.detail.get("replace")))
        builder = self._builder(base)
        try:
            with _watched(feedback) as cancel:
                result = builder.build(spec, told, cancel=cancel)
        finally:
            builder.close()
        layers = [step for step in result.steps if step.layer]
        cached = sum(step.cached for step in layers)
        return result.digest, result.key, f"{cached} of {len(layers)} steps from the cache"

    def _load(self, order: Order, feedback: Feedback) -> tuple[Digest, str, str]:
        from bayplan.oci.archive import load_rootfs

        source = Path(order.inputs["rootfs"])
        key = self._rootfs_key(source)
        feedback.progress(f"reads {source.name}")
        return load_rootfs(self._store, source), key, ""

    def _copy(self, order: Order, feedback: Feedback) -> tuple[Digest, str, str]:
        name = ImageName.parse(str(order.inputs["copy"]))
        digest = self.resolve_source(name)
        if digest is None:
            raise BayplanError("image-not-found", f"there is no image '{name.familiar()}' to be had")
        return self.fetch(f"{name.with_digest(digest).canonical()}", feedback), f"copy:{digest}", ""

    def fetch(self, reference: str, feedback: Feedback) -> Digest:
        """An image's digest, in the store: pulled where it is not there. ``reference`` ends in ``@<digest>``."""
        text, at, digest_text = reference.rpartition("@")
        digest = Digest.parse(digest_text if at else reference)
        if self._store.touch(digest):
            return digest
        name = ImageName.parse(text or reference)
        if at and self._repositories.holds(name) and self._repositories.bring(name, digest):
            return digest
        if not at or self._repositories.holds(name):
            raise BayplanError(
                "image-not-found", f"the image {reference} is not in the store any more", hint="plan again"
            )
        feedback.progress(f"pulls {name.familiar()}")
        return attended(lambda: self._remotes.pull(name.with_digest(digest), self._store), feedback)

    def _keep(self, order: Order, digest: Digest, key: str, detail: str) -> Outcome:
        """Let the Image's own name, and the tags that are its own already, mean the new content."""
        before = self._own(order)
        uid = before.labels.get(identity.UID, order.uid) if before is not None else order.uid
        labels = identity.labels(order.stack, order.operation.address, uid, order.fields, order.uid)
        own = own_name(order.operation.address, order.stack)
        self._names.replace({}, {own: digest}, {**labels, _KEY: key})
        return Outcome(uid=uid, id=own, outputs=self._outputs(digest, self._tags(order), own), detail=detail)

    @staticmethod
    def _tags(order: Order) -> list[str]:
        return sorted(ImageName.parse(tag).familiar() for tag in order.inputs.get("tags") or ())

    def _tag(self, order: Order) -> Outcome:
        own = self._own(order)
        if own is None:
            raise Stale(order.operation.address, "the image is gone")
        if order.operation.precondition != FOLLOWS:
            self._check(order)
        detail = order.operation.detail
        mine = {one.name: one for one in self._names.list({identity.STACK: order.stack})}
        remove: dict[str, Digest] = {}
        for tag in detail.get("remove") or ():
            there = mine.get(ImageName.parse(tag).canonical())
            if there is not None and there.labels.get(identity.ADDRESS) == order.operation.address:
                remove[there.name] = there.digest
        uid = own.labels.get(identity.UID, order.uid)
        labels = identity.labels(order.stack, order.operation.address, uid, order.fields, order.uid)
        # The record first: what a crash then leaves undone is seen by the next plan.
        name = own_name(order.operation.address, order.stack)
        self._names.replace({}, {name: own.digest}, {**labels, _KEY: own.labels.get(_KEY, "")})
        self._names.replace(remove, dict.fromkeys(detail.get("add") or (), own.digest), labels)
        return Outcome(uid=uid, id=name, outputs=self._outputs(own.digest, self._tags(order), name))

    def _push(self, order: Order, feedback: Feedback) -> Outcome:
        own = self._own(order)
        if own is None:
            raise Stale(order.operation.address, "the image is gone")
        name = ImageName.parse(str(order.inputs["push"][int(order.operation.detail["index"])]))
        if self._repositories.holds(name):
            self._repositories.push(name, own.digest, order.stack)
        else:
            feedback.progress(f"to {name.familiar()}")
            attended(lambda: self._remotes.push(self._store, own.digest, name), feedback)
        return Outcome()

    def _delete(self, order: Order) -> Outcome:
        operation = order.operation
        gone = not operation.detail.get("leftover")
        found = self._names.get(operation.id)
        if found is None:
            return Outcome(gone=gone)
        self._check(order)
        mine = self._names.list({identity.STACK: order.stack, identity.ADDRESS: operation.address})
        self._names.replace({one.name: one.digest for one in (*mine, found)}, {}, {})
        return Outcome(gone=gone)

    def relabel(self, observed: Observed, stack: str, address: str) -> None:
        """Another identity for an image and its tags, or none: then the tags stay, as anybody's."""
        mine = self._names.list({identity.UID: observed.uid})
        for one in mine:
            key = {_KEY: one.labels[_KEY]} if _KEY in one.labels else {}
            if not stack:
                self._names.replace({one.name: one.digest} if _is_own(one.name) else {}, {}, {})
                if not _is_own(one.name):
                    self._names.set(one.name, one.digest, {})
                continue
            labels = {**identity.labels(stack, address, observed.uid, observed.recorded), **key}
            target = own_name(address, stack) if _is_own(one.name) else one.name
            self._names.replace({one.name: one.digest} if target != one.name else {}, {target: one.digest}, labels)

    def references(self) -> list[Digest]:
        return list(self._names.references())


@contextlib.contextmanager
def _watched(feedback: Feedback) -> Iterator[threading.Event]:
    """An event that is set soon after the user asked to stop: a build listens to it while a silent RUN goes on."""
    cancel, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK):
            if feedback.cancelled:
                cancel.set()
                return

    thread = threading.Thread(target=watch, name="bayplan-build-cancel", daemon=True)
    thread.start()
    try:
        yield cancel
    finally:
        over.set()
        thread.join()


class _Unknown(Exception):
    """A base that only the apply will know."""


def _unresolved(name: str) -> Digest:
    raise BayplanError("image-not-found", f"the meaning of '{name}' was not asked for")


def build_spec(value: Mapping[str, Value], *, no_cache: bool = False) -> BuildSpec:
    """A build in the build core's words."""
    from bayplan.build.spec import BuildSpec

    dockerfile = value.get("dockerfile")
    return BuildSpec(
        context=Path(value["context"]),
        dockerfile=Path(dockerfile) if dockerfile else None,
        target=str(value.get("target") or ""),
        args={str(k): str(v) for k, v in (value.get("args") or {}).items()},
        labels={str(k): str(v) for k, v in (value.get("labels") or {}).items()},
        platform=str(value.get("platform") or ""),
        source_date_epoch=value.get("source_date_epoch"),
        no_cache=no_cache or bool(value.get("no_cache", False)),
    )


def own_name(address: str, stack: str) -> str:
    """The Image's own name in the store: lower case, as names are, with a digest where that lost something."""
    text = f"{stack}/{address.partition('.')[2]}"
    safe = "/".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") or "x" for part in text.split("/"))
    if safe != text:
        safe = f"{safe}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    return f"{INTERNAL}/stacks/{safe}:{_TAG}"


def _human(size: int) -> str:
    """``12 kB`` or ``3.4 MB``, in powers of ten as registries count."""
    if size < 1_000_000:
        return f"{max(1, round(size / 1000))} kB"
    return f"{size / 1e6:.1f} MB"


def _is_own(name: str) -> bool:
    return name.startswith(f"{INTERNAL}/stacks/") and name.endswith(f":{_TAG}")


def _cause(found: BuildForecast, observed: Observed | None) -> str:
    return found.cause if observed is not None else f"new; {found.cause}"


def _shown(path: Path) -> str:
    """A path as people know it: relative where it lies below the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayplan"
