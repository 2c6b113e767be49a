"""Which stages a build needs and what each asks for: Dockerfile + arguments -> :class:`StagePlan`, on demand.

Only what the target reaches is looked at: its base, the stages and images that its COPYs and mounts name, and theirs in
turn, ONBUILD triggers of base images included. A stage that nothing reaches is never read, so a mistake in its variables
or a base that is not there does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bayplan.build.dockerfile import Dockerfile, model, parse_trigger
from bayplan.build.dockerfile.expand import Expander, SubstitutionError
from bayplan.build.reading import StageReader, scratch_config
from bayplan.build.spec import BuildSpec
from bayplan.build.steps import CopyStep, Origin, RunStep, Step
from bayplan.errors import BayplanError, Where, nearest
from bayplan.oci.descriptor import Platform
from bayplan.oci.image import Layer
from bayplan.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Foundation:
    """What a chain of layers stands on: an image of the store, or nothing (scratch). Layers bottom first."""

    layers: tuple[Layer, ...] = ()
    config: Mapping[str, Any] = field(default_factory=scratch_config)
    history: tuple[Mapping[str, Any], ...] = ()
    platform: Platform | None = None
    author: str = ""


#: Loads an image by name for a platform ("": the build's); raises BayplanError where there is none.
LoadImage = Callable[[str, Platform], Foundation]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage, read. ``base`` is the stage it is built on, else ``foundation`` is what it stands on.

    ``image`` is the name in its FROM as written; ``stages`` and ``images`` are what its steps copy or mount from.
    """

    index: int
    label: str
    where: Where
    base: int | None
    image: str
    foundation: Foundation
    steps: tuple[Step, ...]
    config: Mapping[str, Any]
    author: str
    arguments: Mapping[str, str]
    stages: tuple[int, ...]
    images: tuple[str, ...]


class Planner:
    """Reads the stages that a build needs. ``dockerfile`` is parsed already; ``load`` is asked only for needed images."""

    def __init__(self, dockerfile: Dockerfile, spec: BuildSpec, load: LoadImage) -> None:
        self._dockerfile = dockerfile
        self._load = load
        self.platform = Platform.parse(spec.platform) if spec.platform else Platform.here()
        self._given = dict(spec.args)
        if spec.epoch is not None:
            self._given["SOURCE_DATE_EPOCH"] = str(spec.epoch)
        self._globals = self._global_arguments()
        self._plans: dict[int, StagePlan] = {}
        self._images: dict[tuple[str, str], Foundation] = {}
        self.target = self._target(spec.target)

    # -- the graph without any image ---------------------------------------------------------------------------------

    def bases(self) -> tuple[str, ...]:
        """The image names that reachable stages need, in order of the file, each once. Loads nothing."""
        found: dict[str, None] = {}
        for index in sorted(self._reachable()):
            for origin in self._origins(index):
                if origin.image:
                    found[origin.image] = None
        return tuple(found)

    def _reachable(self) -> set[int]:
        seen: set[int] = set()
        left = [self.target]
        while left:
            index = left.pop()
            if index not in seen:
                seen.add(index)
                left.extend(origin.stage for origin in self._origins(index) if origin.stage is not None)
        return seen

    def _origins(self, index: int) -> Iterator[Origin]:
        stage = self._dockerfile.stages[index]
        yield self._base(stage)
        for instruction in stage.instructions:
            yield from (self._origin(name, index) for name in _names_from(instruction))

    def _target(self, name: str) -> int:
        stages = self._dockerfile.stages
        if not name:
            return len(stages) - 1
        for stage in stages:
            if stage.start.stage == name.lower():
                return stage.index
        if name.isascii() and name.isdecimal() and int(name) < len(stages):
            return int(name)
        names = [stage.start.stage for stage in stages if stage.start.stage]
        close = nearest(name, names)
        hint = f"did you mean {close}?" if close else "the stages are " + (", ".join(names) or "not named")
        where = stages[0].start.where
        raise BayplanError("unknown-target", f"{where.file} has no stage {name!r}", where=Where(where.file), hint=hint)

    def _global_arguments(self) -> dict[str, str]:
        here = Platform.here()
        found: dict[str, str] = {}
        for prefix, platform in (("BUILD", here), ("TARGET", self.platform)):
            found[f"{prefix}PLATFORM"] = str(platform)
            found[f"{prefix}OS"] = platform.os
            found[f"{prefix}ARCH"] = platform.architecture
            found[f"{prefix}VARIANT"] = platform.variant
        for argument in self._dockerfile.arguments:
            expander = Expander(found, self._dockerfile.directives.escape)
            for name, default in argument.items:
                if name in self._given:
                    found[name] = self._given[name]
                elif default is not None:
                    found[name] = _expand(expander, default, argument.where)
        return found

    def _base(self, stage: model.Stage) -> Origin:
        expander = Expander(self._globals, self._dockerfile.directives.escape)
        name = _expand(expander, stage.start.image, stage.start.where)
        if not name:
            unset = ", ".join(sorted(expander.unset)) or stage.start.image
            hint = f"give {unset} a default with ARG before the first FROM, or a build argument"
            raise BayplanError(
                "bad-image-name", f"FROM {stage.start.image} names nothing", where=stage.start.where, hint=hint
            )
        for earlier in reversed(self._dockerfile.stages[: stage.index]):
            if earlier.start.stage and earlier.start.stage == name.lower():
                return Origin(stage=earlier.index)
        return Origin() if name == "scratch" else Origin(image=name)

    def _origin(self, name: str, index: int) -> Origin:
        """What ``--from=name`` means in stage ``index``: an earlier stage by name or number, else an image."""
        for earlier in reversed(self._dockerfile.stages[:index]):
            if earlier.start.stage and earlier.start.stage == name.lower():
                return Origin(stage=earlier.index)
        where = self._dockerfile.stages[index].start.where
        if name.isascii() and name.isdecimal():
            if int(name) < index:
                return Origin(stage=int(name))
            message = f"--from={name} is not an earlier stage of stage {index}"
            raise BayplanError("unknown-stage", message, where=where, hint="stages count from 0")
        if any(later.start.stage == name.lower() for later in self._dockerfile.stages[index:]):
            hint = "a stage can copy only from stages above it"
            raise BayplanError("unknown-stage", f"--from={name} names a stage that comes later", where=where, hint=hint)
        return Origin(image=name)

    # -- reading stages ------------------------------------------------------------------------------------------------

    def plan(self, index: int) -> StagePlan:
        """Stage ``index``, read, with the stages below it."""
        known = self._plans.get(index)
        if known is None:
            known = self._plans[index] = self._read(self._dockerfile.stages[index])
        return known

    def order(self) -> tuple[StagePlan, ...]:
        """All stages that the target needs, each after those it needs; the target last."""
        done: dict[int, StagePlan] = {}

        def visit(index: int) -> None:
            if index in done:
                return
            plan = self.plan(index)
            for needed in ((plan.base,) if plan.base is not None else ()) + plan.stages:
                visit(needed)
            done[index] = plan

        visit(self.target)
        return tuple(done.values())

    def image(self, name: str, platform: Platform | None = None) -> Foundation:
        """An image of the store, loaded once."""
        wanted = platform or self.platform
        key = (name, str(wanted))
        if key not in self._images:
            self._images[key] = self._load(name, wanted)
        return self._images[key]

    def _read(self, stage: model.Stage) -> StagePlan:
        base = self._base(stage)
        inherited: Mapping[str, str] = {}
        foundation = Foundation()
        config: dict[str, Any]
        triggers: list[str]
        if base.stage is not None:
            below = self.plan(base.stage)
            inherited = below.arguments
            foundation = below.foundation
            config, triggers = dict(below.config), list(below.config.get("OnBuild") or ())
        else:
            if base.image:
                foundation = self._from_image(stage, base.image)
            config = dict(foundation.config)
            triggers = [str(each) for each in config.get("OnBuild") or ()]
        config.pop("OnBuild", None)
        reader = StageReader(
            config,
            inherited,
            self._globals,
            self._given,
            lambda name: self._origin(name, stage.index),
            self._dockerfile.directives.escape,
        )
        reader.read([self._trigger(text, stage) for text in triggers])
        reader.read(stage.instructions)
        origins = [origin for step in reader.steps for origin in origins_of(step)]
        return StagePlan(
            stage.index,
            stage.label,
            stage.start.where,
            base.stage,
            stage.start.image,
            foundation,
            tuple(reader.steps),
            reader.config,
            reader.author or foundation.author,
            reader.arguments,
            tuple(dict.fromkeys(origin.stage for origin in origins if origin.stage is not None)),
            tuple(dict.fromkeys(origin.image for origin in origins if origin.image)),
        )

    def _from_image(self, stage: model.Stage, name: str) -> Foundation:
        expander = Expander(self._globals, self._dockerfile.directives.escape)
        text = _expand(expander, stage.start.platform, stage.start.where)
        try:
            return self.image(name, Platform.parse(text) if text else None)
        except BayplanError as error:
            error.where = error.where or stage.start.where
            raise

    def _trigger(self, text: str, stage: model.Stage) -> model.Instruction:
        from bayplan.records import replace

        instruction = parse_trigger(text, f"ONBUILD of {stage.start.image}")
        return replace(instruction, where=stage.start.where)


def _expand(expander: Expander, text: str, where: Where) -> str:
    try:
        return expander.word(text)
    except SubstitutionError as error:
        raise BayplanError("dockerfile-syntax", str(error), where=where) from None


def _names_from(instruction: model.Instruction) -> Iterator[str]:
    """The ``--from`` and ``from=`` names of an instruction as written."""
    if isinstance(instruction, model.Copy) and instruction.from_stage:
        yield instruction.from_stage
    if isinstance(instruction, model.Run):
        for mount in instruction.mounts:
            yield from (value for key, value in mount.fields if key == "from" and value)


def origins_of(step: Step) -> Iterator[Origin]:
    """Where a step's files come from."""
    if isinstance(step.files, CopyStep):
        yield step.files.origin
    elif isinstance(step.files, RunStep):
        yield from (mounted.origin for mounted in step.files.mounts if mounted.spec.type in ("bind", "cache"))
