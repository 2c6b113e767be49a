"""Carrying out the steps of one stage: cache first, then the work.

COPY, ADD and WORKDIR are written straight into a layer; a RUN gets the unpacked layers below it and an empty upper
directory, which becomes its layer (and its own unpacked form, by a rename). A step that is found in the cache is not looked
at any further, nor is what it would have read.

A result is remembered under up to three keys: as planned; under what really lies below it; and, for a COPY from another
stage, under the content that it takes, so that a rebuilt stage with the same outcome costs its dependants nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

from bayplan.build import trees
from bayplan.build.cache import BuildCache, CachedStep
from bayplan.build.context import ContextTree
from bayplan.build.dockerfile.mounts import MountType
from bayplan.build.keys import KeyedStep, Keys, copy_with_content, digest_of, mount_source
from bayplan.build.merged import LayerView, LazyLayer, ListedLayer, MergedTree
from bayplan.build.mounting import CacheMounts, Secrets, materialise
from bayplan.build.placing import Placed, Placing
from bayplan.build.planning import Planner, StagePlan, origins_of
from bayplan.build.port import Step as RunnerStep
from bayplan.build.port import StepMount, StepRunner
from bayplan.build.scratch import Scratch
from bayplan.build.selection import Selection, select
from bayplan.build.steps import CopyStep, Mounted, Origin, RunStep, Step, WorkdirStep
from bayplan.build.trees import Tree, check_stamp
from bayplan.errors import BayplanError
from bayplan.oci.image import Layer
from bayplan.oci.layer import LayerWriter, pack_upper
from bayplan.oci.store import Store
from bayplan.oci.unpacked import Unpacked
from bayplan.records import dataclass, field

_TAIL = 16 * 1024  # bytes of a RUN's output that an error may show the end of
_TAIL_LINES = 12


@dataclass(slots=True)
class Done:
    """A step's outcome: its cache entry, and whether it came from the cache."""

    keyed: KeyedStep
    entry: CachedStep
    cached: bool


@dataclass(slots=True)
class StageState:
    """A stage so far: its layers (lowest first), how they are looked at, and the key that the next step looks under."""

    out: str
    layers: list[Layer] = field(default_factory=list)
    views: list[LayerView] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    def tree(self) -> MergedTree:
        return MergedTree(tuple(reversed(self.views)))


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all stages of one build share."""

    store: Store
    unpacked: Unpacked
    cache: BuildCache
    caches: CacheMounts
    secrets: Secrets
    scratch: Scratch
    runner: StepRunner
    context: ContextTree
    planner: Planner
    keys: Keys
    epoch: int | None
    no_cache: bool
    step_timeout: float | None
    cancelled: threading.Event
    #: Gives another stage, complete; waits for it.
    stage: Callable[[int], StageState]
    output: Callable[[KeyedStep, bytes], None]


class StageBuilder:
    """Builds one stage."""

    def __init__(self, shop: Workshop, plan: StagePlan) -> None:
        self._shop = shop
        self._plan = plan
        self._state = StageState("")

    def build(self, told: Callable[[KeyedStep, bool | None, float], None]) -> StageState:
        """All steps. ``told(step, cached, seconds)``: ``cached`` is None when the step begins. Raises BayplanError."""
        shop, plan = self._shop, self._plan
        if plan.base is not None:
            below = shop.stage(plan.base)
            self._state = StageState(below.out, list(below.layers), list(below.views))
        else:
            layers = list(plan.foundation.layers)
            self._state = StageState(shop.keys.start(plan, {}), layers, [self._lazy(layer) for layer in layers])
        for keyed in shop.keys.stages[plan.index]:
            if shop.cancelled.is_set():
                raise BayplanError("cancelled", "the build was cancelled")
            if keyed.step.files is None:
                continue
            began = time.monotonic()
            self._one(keyed, told, began)
        return self._state

    def _lazy(self, layer: Layer) -> LayerView:
        return LazyLayer(lambda: self._shop.unpacked.one(layer))

    # -- one step --------------------------------------------------------------------------------------------------

    def _one(self, keyed: KeyedStep, told: Callable[[KeyedStep, bool | None, float], None], began: float) -> None:
        shop, state = self._shop, self._state
        entry = self._known(keyed.key)
        if entry is not None:
            self._take(keyed, entry, cached=True)
            told(keyed, True, 0.0)
            return
        ends = {o.stage: shop.stage(o.stage).out for o in origins_of(keyed.step) if o.stage is not None}
        real = digest_of(state.out, digest_of(shop.keys.describe(keyed.step, ends)))
        out = real
        entry = self._known(real) if real != keyed.key else None
        source: Tree | None = None
        selection: Selection | None = keyed.selection
        files = keyed.step.files
        if entry is None and isinstance(files, CopyStep) and not files.origin.context:
            place = f"the stage {files.origin.stage}" if files.origin.stage is not None else files.origin.image
            source = self._origin_tree(files.origin)
            selection = select(source, files, keyed.step.instruction.where, place=place)
            tree = source
            content = selection.digest(lambda path, _: _content(tree, path), owners=True)
            out = digest_of(state.out, digest_of(copy_with_content(files, content, shop.epoch)))
            entry = self._known(out)
        if entry is not None:
            shop.cache.put_step(keyed.key, entry)
            self._take(keyed, entry, cached=True)
            told(keyed, True, time.monotonic() - began)
            return
        told(keyed, None, 0.0)
        layer, view = self._execute(keyed, source, selection)
        created = shop.epoch if shop.epoch is not None else int(time.time())
        descriptor = layer.descriptor if layer else None
        entry = CachedStep(descriptor, str(layer.diff_id) if layer else "", out, created)
        for key in dict.fromkeys((keyed.key, real, out)):
            shop.cache.put_step(key, entry)
        self._take(keyed, entry, cached=False, view=view)
        told(keyed, False, time.monotonic() - began)

    def _known(self, key: str) -> CachedStep | None:
        """An entry that can be used: its layer is there, and will stay while this build holds its lease."""
        if self._shop.no_cache:
            return None
        entry = self._shop.cache.step(key)
        if entry is None or (entry.layer is not None and not self._shop.store.touch(entry.layer.digest)):
            return None
        self._shop.cache.used(key)
        return entry

    def _take(self, keyed: KeyedStep, entry: CachedStep, *, cached: bool, view: LayerView | None = None) -> None:
        state = self._state
        layer = entry.made()
        if layer is not None:
            state.layers.append(layer)
            state.views.append(view or self._lazy(layer))
        state.out = entry.out
        state.done.append(Done(keyed, entry, cached))

    def _execute(
        self, keyed: KeyedStep, source: Tree | None, selection: Selection | None
    ) -> tuple[Layer | None, LayerView | None]:
        files, where = keyed.step.files, keyed.step.instruction.where
        if isinstance(files, RunStep):
            ran = self._run(keyed, files)
            return ran, self._lazy(ran)
        placing = Placing(self._state.tree(), where, self._shop.epoch)
        layer: Layer | None
        if isinstance(files, WorkdirStep):
            layer = self._write(placing.workdir(files))
        elif isinstance(files, CopyStep):
            chosen = selection if selection is not None else Selection(())
            layer = self._write(placing.copy(files, chosen, source if source is not None else self._shop.context))
        else:
            raise TypeError(f"{keyed.step.text} touches no file")
        if layer is None:
            return None, None
        written = layer
        return layer, ListedLayer(placing.placed.items(), lambda: self._shop.unpacked.one(written))

    def _write(self, placed: Iterable[Placed]) -> Layer | None:
        """A layer of the entries; None where there are none."""
        with LayerWriter(self._shop.store, clamp=self._shop.epoch) as writer:
            for each in placed:
                if each.open is not None:
                    with each.open() as file:
                        check_stamp(each.entry.name, file, each.stamp)
                        writer.add(each.entry, file)
                        check_stamp(each.entry.name, file, each.stamp)
                elif each.stream is not None:
                    writer.add(each.entry, cast("BinaryIO", each.stream))
                else:
                    writer.add(each.entry, each.data)
                if self._shop.cancelled.is_set():
                    raise BayplanError("cancelled", "the build was cancelled")
            return writer.finish() if writer.entries else None

    def _origin_tree(self, origin: Origin) -> MergedTree:
        if origin.stage is not None:
            return self._shop.stage(origin.stage).tree()
        layers = self._shop.planner.image(origin.image).layers
        return MergedTree([self._lazy(layer) for layer in reversed(layers)])

    # -- RUN -------------------------------------------------------------------------------------------------------

    def _run(self, keyed: KeyedStep, run: RunStep) -> Layer:
        shop = self._shop
        place = shop.scratch.folder()
        upper, work = place / "upper", place / "work"
        upper.mkdir()
        upper.chmod(0o755)  # it is what the step sees as /
        work.mkdir()
        # One layer may stand twice in an image; overlayfs refuses a directory twice, and the topmost says all.
        lower = tuple(dict.fromkeys(shop.unpacked.one(layer) for layer in reversed(self._state.layers)))
        tail = bytearray()

        def output(data: bytes) -> None:
            if shop.cancelled.is_set():
                raise BayplanError("cancelled", "the build was cancelled")
            tail.extend(data)
            del tail[:-_TAIL]
            shop.output(keyed, data)

        with ExitStack() as stack:
            env = dict(run.env) | dict(run.private)
            mounts = list(self._mounts(run, keyed, env, stack))
            step = RunnerStep(
                argv=run.argv,
                lower=lower,
                upper=upper,
                work=work,
                env=env,
                working_dir=run.working_dir,
                user=run.user,
                network=run.network,
                mounts=tuple(mounts),
                timeout=shop.step_timeout,
                cancel=shop.cancelled,
            )
            try:
                code = shop.runner.run(step, output)
            except BayplanError as error:
                error.where = error.where or keyed.step.instruction.where
                raise
        if code:
            raise _failed(keyed.step, code, bytes(tail))
        layer = pack_upper(shop.store, upper, clamp=shop.epoch)
        if shop.epoch is None:
            # With an epoch the times on disk differ from those in the layer: then it is unpacked when it is needed.
            shop.unpacked.adopt(layer, upper)
        shutil.rmtree(place, ignore_errors=True)
        return layer

    def _mounts(self, run: RunStep, keyed: KeyedStep, env: dict[str, str], stack: ExitStack) -> Iterator[StepMount]:
        shop, where = self._shop, keyed.step.instruction.where
        if run.script is not None:
            name, body = run.script
            folder = shop.scratch.folder()
            (folder / name).write_bytes(body)
            (folder / name).chmod(0o755)
            yield StepMount("bind", "/dev/pipes", folder, read_only=True)
        for mounted in run.mounts:
            spec = mounted.spec
            if spec.type is MountType.TMPFS:
                yield StepMount("tmpfs", spec.target, size=spec.size)
            elif spec.type is MountType.SECRET:
                value = shop.secrets.value(spec, where)
                if value is None:
                    continue
                if spec.env is not None:
                    env[spec.env] = value.decode(errors="surrogateescape")
                if spec.target:
                    yield shop.secrets.mount(spec, value, stack)
            elif spec.type is MountType.CACHE:
                initial = self._bound(mounted, keyed) if spec.from_stage else None
                data = stack.enter_context(shop.caches.use(spec, initial, shop.cancelled))
                yield StepMount("cache", spec.target, data, spec.read_only)
            else:
                yield StepMount("bind", spec.target, self._bound(mounted, keyed), spec.read_only)

    def _bound(self, mounted: Mounted, keyed: KeyedStep) -> Path:
        """The host path of what a bind mount shows."""
        if mounted.origin.context:
            selection = self._shop.keys.mounted(mounted, keyed.step)
            return materialise(self._shop.context, selection, self._shop.scratch.folder())
        tree = self._origin_tree(mounted.origin)
        whole = tree.whole(trees.resolve(tree, mounted.spec.source))
        if whole is not None:
            return whole
        selection = select(tree, mount_source(mounted), keyed.step.instruction.where, place="the mount's source")
        return materialise(tree, selection, self._shop.scratch.folder())


def _content(tree: Tree, path: str) -> bytes:
    running = hashlib.sha256()
    with tree.open(path) as file:
        while chunk := file.read(1 << 20):
            running.update(chunk)
    return running.digest()


def _failed(step: Step, code: int, tail: bytes) -> BayplanError:
    """The error of a RUN that ended badly: what it said last is most of what anybody wants to know."""
    lines = [line.rstrip() for line in tail.decode(errors="replace").replace("\r", "\n").split("\n") if line.strip()]
    last = lines[-_TAIL_LINES:]
    hint = "its last output:\n" + "\n".join(f"    {line}" for line in last) if last else "it wrote nothing"
    text = step.text if len(step.text) <= 100 else step.text[:97] + "..."
    return BayplanError("build-failed", f"{text} ended with exit code {code}", where=step.instruction.where, hint=hint)
