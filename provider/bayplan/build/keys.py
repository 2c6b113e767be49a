"""Keys: what makes a step's result what it is.

A step's key is a hash over the key of what lies below it and a description of the step: words after substitution, digests of
the content it reads, keys of the stages and images it copies from. A RUN's description holds its whole environment, and
an argument is part of it only where it was declared. LABEL, CMD and their like change no file and no key of a file step;
they enter the key of the image, which ends the chain.

Never part of any key: times, umask, paths of this machine, the names of images (their content is).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bayplan.build.context import ContextDigests, ContextTree
from bayplan.build.dockerfile.mounts import MountType
from bayplan.build.planning import Foundation, Planner, StagePlan
from bayplan.build.selection import Selection, select
from bayplan.build.steps import CopyStep, Mounted, Origin, RunStep, Step, WorkdirStep
from bayplan.records import dataclass

#: Part of every key: a change of what steps write begins a new cache.
_FORM = "bayplan-build-1"


def digest_of(*parts: object) -> str:
    """SHA-256 (hex) of JSON values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def foundation_key(foundation: Foundation) -> str:
    """The key under the first step: the layers of the image that a stage stands on; its configuration is in RUN's keys."""
    return digest_of(_FORM, "layers", [str(layer.diff_id) for layer in foundation.layers])


@dataclass(frozen=True, slots=True)
class KeyedStep:
    """A step with its keys as planned. ``own`` describes the step alone, ``key`` everything up to it."""

    step: Step
    own: str
    key: str
    selection: Selection | None = None
    content: str = ""  # digest of what the selection holds


class Keys:
    """The keys of all steps of a build, and the selections behind them, each computed once."""

    def __init__(self, planner: Planner, context: ContextTree, fingerprints: ContextDigests, epoch: int | None) -> None:
        self._planner = planner
        self._context = context
        self._fingerprints = fingerprints
        self._epoch = epoch
        self._selected: dict[int, tuple[Selection, str]] = {}
        self.stages: dict[int, tuple[KeyedStep, ...]] = {}
        self.ends: dict[int, str] = {}
        for plan in planner.order():
            self._stage(plan)

    def _stage(self, plan: StagePlan) -> None:
        key = self.start(plan, self.ends)
        keyed: list[KeyedStep] = []
        for step in plan.steps:
            if step.files is None:
                keyed.append(KeyedStep(step, digest_of(step.text, step.settings), key))
                continue
            own = digest_of(self.describe(step, self.ends))
            key = digest_of(key, own)
            selection, content = self.selected(step) or (None, "")
            keyed.append(KeyedStep(step, own, key, selection, content))
        self.stages[plan.index] = tuple(keyed)
        self.ends[plan.index] = key

    def start(self, plan: StagePlan, ends: Mapping[int, str]) -> str:
        """The key below a stage's first step."""
        return ends[plan.base] if plan.base is not None else foundation_key(plan.foundation)

    def image(self, labels: Mapping[str, str]) -> str:
        """The key of the whole build."""
        plan = self._planner.plan(self._planner.target)
        history = [step.created_by for step in plan.steps]
        platform = str(plan.foundation.platform or self._planner.platform)
        return digest_of(
            _FORM,
            "image",
            self.ends[plan.index],
            plan.config,
            plan.author,
            dict(labels),
            platform,
            self._epoch,
            history,
            [dict(entry) for entry in plan.foundation.history],
        )

    def selected(self, step: Step) -> tuple[Selection, str] | None:
        """What a COPY or ADD takes from the context, and the digest of its content."""
        if not isinstance(step.files, CopyStep) or not step.files.origin.context:
            return None
        return self._select(id(step), step.files, step)

    def _select(self, identity: int, copy: CopyStep, step: Step) -> tuple[Selection, str]:
        known = self._selected.get(identity)
        if known is None:
            found = select(self._context, copy, step.instruction.where, place="the build context")
            known = self._selected[identity] = (found, self._fingerprints.of(found))
        return known

    def describe(self, step: Step, ends: Mapping[int, str]) -> dict[str, Any]:
        """Everything in a file step that its result depends on, as JSON values; ``ends`` are the keys of other stages."""
        files = step.files
        described: dict[str, Any]
        if isinstance(files, WorkdirStep):
            described = {"workdir": files.path, "user": files.user}
        elif isinstance(files, CopyStep):
            described = _copy(files)
            found = self.selected(step)
            described["content"] = found[1] if found else self._origin(files.origin, ends)
            if not found:
                described["sources"] = [files.sources, files.exclude]
        elif isinstance(files, RunStep):
            described = _run(files)
            described["mounts"] = [self._mount(mounted, step, ends) for mounted in files.mounts]
        else:
            raise TypeError(f"{step.text} touches no file")
        described["epoch"] = self._epoch
        return described

    def _origin(self, origin: Origin, ends: Mapping[int, str]) -> str:
        if origin.stage is not None:
            return ends[origin.stage]
        return foundation_key(self._planner.image(origin.image)) if origin.image else ""

    def _mount(self, mounted: Mounted, step: Step, ends: Mapping[int, str]) -> list[Any]:
        """A mount as far as it can change a result: a cache's content and a secret's value are no part of it."""
        spec = mounted.spec
        content = ""
        if spec.type is MountType.BIND or (spec.type is MountType.CACHE and spec.from_stage):
            if mounted.origin.context:
                content = self._select(id(mounted), mount_source(mounted), step)[1]
            else:
                content = self._origin(mounted.origin, ends)
        return [spec.type, spec.target, spec.source, spec.read_only, spec.size, spec.cache_id, spec.env, content]

    def mounted(self, mounted: Mounted, step: Step) -> Selection:
        """What a bind mount from the context holds."""
        return self._select(id(mounted), mount_source(mounted), step)[0]


def mount_source(mounted: Mounted) -> CopyStep:
    """The source of a bind mount, as a copy of it would be asked for."""
    return CopyStep("RUN --mount", mounted.origin, (mounted.spec.source or "/",), (), "/")


def copy_with_content(step: CopyStep, content: str, epoch: int | None) -> dict[str, Any]:
    """The description of a COPY from a stage or image by what it really takes."""
    return {**_copy(step), "content": content, "epoch": epoch}


def _copy(step: CopyStep) -> dict[str, Any]:
    return {
        "copy": step.dest,
        "documents": [[name, hashlib.sha256(data).hexdigest()] for name, data in step.documents],
        "chown": step.chown,
        "chmod": step.chmod,
        "unpack": step.unpack,
        "parents": step.parents,
        "link": step.link,
    }


def _run(step: RunStep) -> dict[str, Any]:
    return {
        "run": step.argv,
        "env": dict(step.env),
        "dir": step.working_dir,
        "user": step.user,
        "network": step.network,
        "script": hashlib.sha256(step.script[1]).hexdigest() if step.script else "",
    }
