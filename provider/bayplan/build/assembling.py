"""The end of a build: layers + configuration -> a manifest in the store.

The configuration is the base image's document carried on, so that keys nobody here has a name for survive. Times: with an
epoch all of them are the epoch. Without one, ``created`` is when the newest layer was made, and a step from the cache keeps
the time at which it really ran: so the same cache gives the same digest, whenever the build is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bayplan.build.executing import Done, StageState
from bayplan.build.planning import Planner, StagePlan
from bayplan.oci.descriptor import Descriptor, MediaType
from bayplan.oci.digest import Digest
from bayplan.oci.image import canonical_json
from bayplan.oci.store import Store


def assemble_image(
    store: Store, planner: Planner, states: Mapping[int, StageState], labels: Mapping[str, str], epoch: int | None
) -> Digest:
    """Write configuration and manifest of the target; returns the manifest's digest. Called under the build's lease."""
    plan = planner.plan(planner.target)
    state = states[planner.target]
    config = dict(plan.config)
    if labels:
        config["Labels"] = {**(config.get("Labels") or {}), **labels}
    history, created = _history(planner, plan, states, epoch)
    platform = plan.foundation.platform or planner.platform
    document: dict[str, Any] = {"created": _stamp(created)}
    if plan.author:
        document["author"] = plan.author
    document["architecture"] = platform.architecture
    if platform.variant:
        document["variant"] = platform.variant
    document["os"] = platform.os
    document["config"] = {name: config[name] for name in sorted(config)}
    document["rootfs"] = {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in state.layers]}
    document["history"] = history
    data = canonical_json(document)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MediaType.MANIFEST,
        "config": Descriptor(MediaType.CONFIG, store.put(data), len(data)).to_json(),
        "layers": [layer.descriptor.to_json() for layer in state.layers],
    }
    return store.put(canonical_json(manifest))


def _history(
    planner: Planner, plan: StagePlan, states: Mapping[int, StageState], epoch: int | None
) -> tuple[list[dict[str, Any]], int]:
    """The history of a stage with those below it, and when the newest part of it was made (Unix seconds)."""
    below: list[dict[str, Any]]
    if plan.base is not None:
        below, latest = _history(planner, planner.plan(plan.base), states, epoch)
    else:
        below, latest = [dict(entry) for entry in plan.foundation.history], epoch or 0
    done: Sequence[Done] = states[plan.index].done if plan.index in states else ()
    made = {id(each.keyed.step): each.entry for each in done}
    for step in plan.steps:
        entry = made.get(id(step))
        if entry is not None and epoch is None:
            latest = max(latest, entry.created)
        line: dict[str, Any] = {"created": _stamp(latest), "created_by": step.created_by, "comment": "bayplan"}
        if entry is None or entry.layer is None:
            line["empty_layer"] = True
        below.append(line)
    return below, latest


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
