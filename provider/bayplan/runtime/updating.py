"""Changes of a container that need no new one: limits, restart policy, labels, name.

Order: the kernel first, because it may refuse; then the bundle, which a restart by the exit hook runs again; then the
definition, durably. A kill between them leaves a limit that is in force and not recorded: the next plan sees the
difference and sets it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bayplan.errors import BayplanError
from bayplan.records import replace
from bayplan.runtime import bundle, cgroup
from bayplan.runtime.codec import spec_from, spec_json
from bayplan.runtime.definitions import Definitions
from bayplan.runtime.names import check_name
from bayplan.runtime.ociruntime import OciRuntime, cgroups_unified
from bayplan.runtime.prepare import write_config
from bayplan.runtime.record import Files, gone, read_json

_LIMITS = ("memory", "cpus", "pids_limit")


def update(
    definitions: Definitions, files: Files, runtime: OciRuntime, changes: Mapping[str, Any], *, running: bool
) -> None:
    """Apply ``changes`` (fields of the specification). Lock held. Raises BayplanError ``update-failed``."""
    definition = read_json(files.definition)
    if definition is None:
        raise gone(files.id)
    spec = replace(spec_from(definition["spec"]), **changes)
    if any(name in changes for name in _LIMITS):
        limits = bundle.Limits(spec.memory, spec.cpus, spec.pids_limit, cgroup.accounts_swap())
        if running:
            _apply(files, runtime, limits)
        config = read_json(files.config)
        if config is not None:
            devices = config["linux"]["resources"]["devices"]
            config["linux"]["resources"] = {"devices": devices, **limits.resources()}
            write_config(files, config)
    definitions.write(files, {**definition, "spec": spec_json(spec)})


def _apply(files: Files, runtime: OciRuntime, limits: bundle.Limits) -> None:
    """Put the limits in force; -1 takes the memory's away, the others are lifted by hand: crun writes a -1 there that
    the kernel refuses.

    Version 1 of control groups refuses a memory limit below what is used; version 2 would kill until it fits
    (cgroup-v2.rst, memory.max), so that is asked first there.
    """
    used = cgroup.stats(files.cgroup).memory if cgroups_unified() else 0
    if limits.memory is not None and used > limits.memory:
        raise BayplanError(
            "update-failed",
            f"the container {files.id[:12]} uses {used} bytes of memory, more than the new limit of {limits.memory}",
            hint="a limit of memory cannot be below what is in use",
        )
    resources: dict[str, Any] = {"memory": {"limit": limits.memory if limits.memory is not None else -1}}
    if limits.cpus is not None:
        resources["cpu"] = {"quota": round(limits.cpus * bundle.CPU_PERIOD), "period": bundle.CPU_PERIOD}
    if limits.pids is not None:
        resources["pids"] = {"limit": limits.pids}
    if limits.swap:
        resources["memory"]["swap"] = limits.memory * 2 if limits.memory is not None else -1
    path = files.live / "resources.json"
    path.write_text(json.dumps(resources))
    try:
        runtime.call("update", "--resources", str(path), files.id)
        if limits.cpus is None:
            cgroup.lift_cpu_quota(files.cgroup)
        if limits.pids is None:
            cgroup.lift_pids_limit(files.cgroup)
    except BayplanError as error:
        raise BayplanError(
            "update-failed",
            f"the limits of the container {files.id[:12]} cannot be changed: {error.message}",
            hint="a limit of memory cannot be below what is in use",
        ) from error
    finally:
        path.unlink(missing_ok=True)


def rename(definitions: Definitions, files: Files, name: str) -> None:
    """Give the container another name. Lock held. Raises BayplanError ``name-taken``, ``bad-container-name``."""
    from bayplan.runtime.net import Networks

    check_name(name)
    definition = read_json(files.definition)
    if definition is None:
        raise gone(files.id)
    old = definition["spec"]["name"]
    if old == name:
        return
    definitions.names.claim(name, files.id)
    definitions.write(files, {**definition, "spec": {**definition["spec"], "name": name}})
    definitions.names.release(old, files.id)
    Networks(definitions.root).rename(files.id, name)
