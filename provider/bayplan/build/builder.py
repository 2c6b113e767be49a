"""The build core's front: Dockerfile -> OCI image in the store, and what a build would do.

``forecast`` has no effect at all: it reads the Dockerfile, the stats of the context and small files of the cache. ``build``
first looks whether the very image is there (same key), then builds the stages that something still needs, side by side where
they do not depend on each other. What an image name means is not known here: ``resolve`` says it, as a digest in the store.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bayplan.build.assembling import assemble_image
from bayplan.build.cache import BuildCache, CachedImage
from bayplan.build.comparing import Row, difference, listing, rows
from bayplan.build.context import ContextDigests, ContextTree, open_context
from bayplan.build.dockerfile import Dockerfile, parse
from bayplan.build.executing import StageBuilder, StageState, Workshop
from bayplan.build.keys import Keys, digest_of
from bayplan.build.mounting import CacheMounts, Secrets
from bayplan.build.planning import Foundation, Planner, origins_of
from bayplan.build.port import StepRunner
from bayplan.build.scratch import Scratch
from bayplan.build.spec import (
    BuildForecast,
    BuildResult,
    BuildSpec,
    StepForecast,
    StepRecord,
)
from bayplan.build.stages import Output, Stages, Telling
from bayplan.errors import BayplanError, Where, nearest
from bayplan.oci.descriptor import Platform
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.oci.unpacked import Unpacked
from bayplan.records import dataclass

#: What an image name means: the digest of a manifest (or index) in the store; raises BayplanError where it means nothing.
Resolve = Callable[[str], Digest]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A build as planned: nothing has happened yet."""

    spec: BuildSpec
    dockerfile: Path
    planner: Planner
    context: ContextTree
    digests: ContextDigests
    keys: Keys
    key: str
    rows: tuple[Row, ...]

    @property
    def lineage(self) -> str:
        """Names builds of the same thing on this machine, to tell what changed; never part of a key."""
        place = os.path.realpath(self.dockerfile), os.path.realpath(self.spec.context)
        return digest_of(*place, self.spec.target, self.spec.platform)[:32]


class Builder:
    """Builds images into the store of ``root``; RUN goes through ``runner``."""

    def __init__(self, root: Root, runner: StepRunner, resolve: Resolve) -> None:
        self._root = root
        self._runner = runner
        self._resolve = resolve
        self._store = Store(root)
        self._folder = root.path / "build"
        self._cache = BuildCache(self._folder)
        self._caches = CacheMounts(self._folder / "mounts")

    # -- without effect --------------------------------------------------------------------------------------------

    def bases(self, spec: BuildSpec) -> tuple[str, ...]:
        """The image names that FROM, COPY --from and mounts of reachable stages need, in order, each once."""
        dockerfile, _ = self._parsed(spec)
        return Planner(dockerfile, spec, self._load).bases()

    def forecast(self, spec: BuildSpec, previous: Mapping[str, Any] | None = None) -> BuildForecast:
        """What a build would do now. ``previous`` is :attr:`BuildResult.previous` of the build to compare with; without
        it, the last build of this Dockerfile and target on this root.

        Raises BayplanError for everything that can be known to be wrong before the build.
        """
        prepared = self._prepared(spec)
        digest = None if spec.no_cache else self._finished(prepared.key)
        steps = tuple(self._step_forecast(row, spec, whole=digest is not None) for row in prepared.rows if row.keyed)
        forecast = BuildForecast(prepared.key, steps, digest)
        if digest is not None:
            return forecast
        return self._explained(forecast, prepared, str((previous or {}).get("key") or ""))

    def _step_forecast(self, row: Row, spec: BuildSpec, *, whole: bool) -> StepForecast:
        keyed = row.keyed
        if keyed is None:
            return StepForecast(row.reads.text, row.where, cached=True, layer=False, stage=row.stage.label)
        layer = keyed.step.files is not None
        cached = whole or not layer or (not spec.no_cache and self._usable(keyed.key))
        reads = keyed.selection.files if keyed.selection else 0
        return StepForecast(keyed.step.text, row.where, cached, reads, layer, row.stage.label)

    def _usable(self, key: str) -> bool:
        entry = self._cache.step(key)
        return entry is not None and (entry.layer is None or self._store.has(entry.layer.digest))

    def _explained(self, forecast: BuildForecast, prepared: _Prepared, key: str) -> BuildForecast:
        from bayplan.records import replace

        before = self._cache.image(key or self._cache.last(prepared.lineage))
        if before is None:
            first = next((step for step in forecast.steps if step.layer and not step.cached), None)
            return replace(forecast, changed_step=first, reason="has not run here yet")
        found = difference(before.steps, prepared.rows, self._cache, prepared.digests)
        if found.row is None:
            first = next((step for step in forecast.steps if step.layer and not step.cached), None)
            reason = "is not in the cache any more" if first else ""
            return replace(forecast, changed_step=first, reason=reason)
        step = self._step_forecast(found.row, prepared.spec, whole=False)
        path = shown(prepared.spec.context / found.path) if found.path else ""
        return replace(forecast, changed_step=step, changed_path=path, reason=found.reason, others=found.others)

    # -- building --------------------------------------------------------------------------------------------------

    def build(
        self, spec: BuildSpec, output: Output | None = None, *, cancel: threading.Event | None = None
    ) -> BuildResult:
        """Build, or find the image built already. Raises BayplanError (``build-failed`` where a RUN ended badly).

        ``cancel`` belongs to this one build: set by another thread, it ends the build within half a second, in a silent
        RUN too, with BayplanError ``cancelled``; nothing of it is left but what the cache has got. A stage that fails
        sets it for the others.
        """
        told = Telling(output)
        with self._store.lease():
            prepared = self._prepared(spec)
            digest = None if spec.no_cache else self._finished(prepared.key, touch=True)
            if digest is not None:
                made = {keyed.key: True for row in prepared.rows if (keyed := row.keyed) is not None}
                told.all_cached(prepared.rows)
                self._cache.put_image(prepared.key, prepared.lineage, self._record(prepared, digest))
            else:
                states = self._carried_out(prepared, told, cancel)
                digest = assemble_image(self._store, prepared.planner, states, spec.labels, _epoch(spec))
                made = {done.keyed.key: done.cached for state in states.values() for done in state.done}
                self._remember(prepared, digest)
            prepared.digests.save()
        return _result(prepared, digest, made)

    def _finished(self, key: str, *, touch: bool = False) -> Digest | None:
        """The image of this very key, if all of it is in the store still."""
        known = self._cache.image(key)
        if known is None:
            return None
        there = self._store.touch if touch else self._store.has
        if not there(known.digest):
            return None
        image = Image.load(self._store, known.digest)
        parts = (image.config_descriptor.digest, *(layer.descriptor.digest for layer in image.layers))
        return known.digest if all(there(part) for part in parts) else None

    def _carried_out(self, prepared: _Prepared, told: Telling, cancel: threading.Event | None) -> dict[int, StageState]:
        spec, planner, keys = prepared.spec, prepared.planner, prepared.keys
        order = [plan for plan in planner.order() if plan.index in self._needed(prepared)]
        told.expect(order, keys)
        stages = Stages(order, cancel)
        with Scratch(self._folder / "tmp") as scratch:
            shop = Workshop(
                self._store,
                Unpacked(self._store),
                self._cache,
                self._caches,
                Secrets(self._root, spec.secrets),
                scratch,
                self._runner,
                prepared.context,
                planner,
                keys,
                _epoch(spec),
                spec.no_cache,
                spec.step_timeout,
                stages.cancelled,
                stages.get,
                told.output,
            )
            return stages.run(lambda plan: StageBuilder(shop, plan).build(told.step))

    def _needed(self, prepared: _Prepared) -> set[int]:
        """The stages that have to be gone through: what only cached steps would read is left alone."""
        needed: set[int] = set()
        left = [prepared.planner.target]
        while left:
            index = left.pop()
            if index in needed:
                continue
            needed.add(index)
            plan = prepared.planner.plan(index)
            if plan.base is not None:
                left.append(plan.base)
            for keyed in prepared.keys.stages[index]:
                if keyed.step.files is None or (not prepared.spec.no_cache and self._held(keyed.key)):
                    continue
                left.extend(origin.stage for origin in origins_of(keyed.step) if origin.stage is not None)
        return needed

    def _held(self, key: str) -> bool:
        entry = self._cache.step(key)
        return entry is not None and (entry.layer is None or self._store.touch(entry.layer.digest))

    def _record(self, prepared: _Prepared, digest: Digest) -> CachedImage:
        return CachedImage(digest, tuple(row.reads for row in prepared.rows))

    def _remember(self, prepared: _Prepared, digest: Digest) -> None:
        for row in prepared.rows:
            if (
                row.keyed is not None
                and row.keyed.selection is not None
                and not self._cache.has_reads(row.keyed.content)
            ):
                self._cache.put_reads(row.keyed.content, listing(row.keyed.selection, prepared.digests))
        self._cache.put_image(prepared.key, prepared.lineage, self._record(prepared, digest))

    def close(self) -> None:
        """Give back what the runner keeps between steps (a network namespace)."""
        self._runner.close()

    # -- what it keeps ---------------------------------------------------------------------------------------------

    def references(self) -> Iterator[Digest]:
        """What the cache keeps alive in the store, for garbage collection."""
        return self._cache.references()

    def prune(self, *, keep_bytes: int | None = None, keep_seconds: float | None = None) -> int:
        """Forget cache entries and cache mounts not used for ``keep_seconds``, and the oldest beyond ``keep_bytes``.

        Returns how many went; their blobs go with the next garbage collection.
        """
        gone = self._cache.prune(keep_bytes=keep_bytes, keep_seconds=keep_seconds)
        return gone + (self._caches.prune(keep_seconds) if keep_seconds is not None else 0)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _parsed(self, spec: BuildSpec) -> tuple[Dockerfile, Path]:
        path = spec.context / (spec.dockerfile or "Dockerfile")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(spec, path, error) from None
        return parse(data, shown(path)), path

    def _prepared(self, spec: BuildSpec) -> _Prepared:
        dockerfile, path = self._parsed(spec)
        epoch = _epoch(spec)
        planner = Planner(dockerfile, spec, self._load)
        context = open_context(spec.context, path)
        digests = ContextDigests(self._folder / "contexts", context)
        with _undisturbed():
            keys = Keys(planner, context, digests, epoch)
        key = keys.image(spec.labels)
        return _Prepared(spec, path, planner, context, digests, keys, key, tuple(rows(planner, keys)))

    def _load(self, name: str, platform: Platform) -> Foundation:
        image = Image.load(self._store, self._resolve(name), platform)
        config = image.config
        return Foundation(
            image.layers,
            dict(config.raw.get("config") or {}),
            tuple(config.history),
            Platform(config.os, config.architecture, config.variant),
            str(config.raw.get("author") or ""),
        )


def _result(prepared: _Prepared, digest: Digest, made: Mapping[str, bool]) -> BuildResult:
    records = []
    for row in prepared.rows:
        if row.keyed is None:
            continue
        layer = row.keyed.step.files is not None
        cached = not layer or made.get(row.keyed.key, True)
        records.append(StepRecord(row.reads.text, row.where, row.keyed.key, cached, layer, row.stage.label))
    cached_steps = sum(record.cached for record in records if record.layer)
    return BuildResult(digest, prepared.key, tuple(records), cached_steps)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without Python's cycle collector: it goes through all of the heap again and again while a large context is read,
    for thousands of new objects and no cycle among them (half of the time for ten thousand files).
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _epoch(spec: BuildSpec) -> int | None:
    try:
        epoch = spec.epoch
    except ValueError:
        epoch = -1
    if epoch is not None and not 0 <= epoch < 2**33:
        hint = "SOURCE_DATE_EPOCH counts seconds since 1970, for example from git log -1 --format=%ct"
        raise BayplanError("bad-epoch", "SOURCE_DATE_EPOCH is not a number of seconds", hint=hint)
    return epoch


def shown(path: Path) -> str:
    """A path as messages show it: from the current folder where it lies below it."""
    absolute = os.path.normpath(Path.cwd() / path)
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith("..") else relative


def _unreadable(spec: BuildSpec, path: Path, error: OSError) -> BayplanError:
    if not spec.context.is_dir():
        hint = "context: takes a folder; a build from an archive or a Git address is not offered"
        return BayplanError("context-missing", f"the build context {shown(spec.context)} is not a folder", hint=hint)
    names = [entry.name for entry in spec.context.iterdir() if entry.is_file()]
    close = nearest(path.name, names)
    hint = f"did you mean {close}?" if close else "give its path below the context with dockerfile:"
    return BayplanError("dockerfile-missing", f"{shown(path)}: {error.strerror}", where=Where(shown(path)), hint=hint)
