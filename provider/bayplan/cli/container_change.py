"""The verbs of ``container`` that change something: several containers at once, one's failure keeps no other waiting."""

from __future__ import annotations

import argparse
from typing import Any

from bayplan.cli import show
from bayplan.cli.container_show import entry
from bayplan.cli.options import runtime_of
from bayplan.errors import BayplanError, UsageError


def stop(arguments: argparse.Namespace) -> int:
    return _each(arguments, "stop", timeout=_seconds(arguments.time))


def restart(arguments: argparse.Namespace) -> int:
    return _each(arguments, "restart", timeout=_seconds(arguments.time))


def pause(arguments: argparse.Namespace) -> int:
    return _each(arguments, "pause")


def unpause(arguments: argparse.Namespace) -> int:
    return _each(arguments, "unpause")


def kill(arguments: argparse.Namespace) -> int:
    return _each(arguments, "kill", signal_name=arguments.signal)


def _each(arguments: argparse.Namespace, verb: str, **options: Any) -> int:
    runtime = runtime_of(arguments)

    def work(reference: str) -> dict[str, Any]:
        found = runtime.inspect(reference)
        getattr(runtime, verb)(found.id, **options)
        return entry(runtime.get(found.id) or found)

    return show.each(arguments, "containers", arguments.containers, work)


def _seconds(text: str | None) -> float | None:
    from bayplan.kinds.values import parse_duration

    return None if text is None else parse_duration(text)


def wait(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)

    def work(reference: str) -> dict[str, Any]:
        found = runtime.inspect(reference)
        return {"id": found.id, "name": found.name, "exit_code": runtime.wait(found.id)}

    return show.each(arguments, "containers", arguments.containers, work, line=lambda one: str(one["exit_code"]))


def rm(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)

    def work(reference: str) -> dict[str, Any]:
        found = runtime.get(reference)
        if found is None and arguments.force:
            return {"id": "", "name": reference}
        found = found or runtime.inspect(reference)
        runtime.remove(found.id, force=arguments.force)
        return {"id": found.id, "name": found.name}

    return show.each(arguments, "containers", arguments.containers, work)


def rename(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)
    id = runtime.inspect(arguments.container).id
    runtime.rename(id, arguments.name)
    if arguments.json:
        show.document({"containers": [entry(runtime.inspect(id))]})
    return 0


def update(arguments: argparse.Namespace) -> int:
    from bayplan.cli.container_options import pids
    from bayplan.kinds import values
    from bayplan.runtime.spec import RestartPolicy

    changes: dict[str, Any] = {}
    if arguments.memory is not None:
        changes["memory"] = values.parse_size(arguments.memory) or None
    if arguments.cpus is not None:
        changes["cpus"] = values.parse_number(arguments.cpus) or None
    if arguments.pids_limit is not None:
        changes["pids_limit"] = pids(arguments.pids_limit)
    if arguments.restart is not None:
        policy = values.parse_restart(arguments.restart)
        changes |= {"restart": RestartPolicy(policy.policy), "restart_retries": policy.retries}
    if not changes:
        raise UsageError("usage", "there is nothing to change", hint="--memory, --cpus, --pids-limit or --restart")
    return _each(arguments, "update", **changes)


def prune(arguments: argparse.Namespace) -> int:
    from bayplan.cli.pruning import stopped

    runtime = runtime_of(arguments)
    runtime.recover()
    found = stopped(runtime)
    if found and not show.agreed(arguments, f"{len(found)} container{'' if len(found) == 1 else 's'} that do not run"):
        return 1
    removed = []
    for one in found:
        try:
            runtime.remove(one.id)
        except BayplanError as error:
            if error.code in ("container-running", "no-such-container", "container-busy"):
                continue  # somebody needed it meanwhile
            raise
        removed.append({"id": one.id, "name": one.name})
    if arguments.json:
        show.document({"containers": removed})
    else:
        for each in removed:
            show.say(each["name"])
    return 0
