"""``container list``, ``inspect`` and ``logs``: looking, without any effect."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.options import runtime_of
from bayplan.errors import UsageError

if TYPE_CHECKING:
    from bayplan.runtime.container import Container

#: What programs get is one of running, paused, created and exited (DESIGN section 9).
_STATES = {"restarting": "exited", "removing": "exited"}


def entry(found: Container) -> dict[str, Any]:
    """A container in a list (``schemas/output/containers.schema.json``)."""
    status = found.status
    return {
        "id": found.id,
        "name": found.name,
        "state": _STATES.get(found.state.value, found.state.value),
        "image": found.spec.image_name or found.spec.image,
        "digest": found.spec.image,
        "command": list(found.effective.argv),
        "created": show.stamp(found.created),
        "started": show.stamp(status.started_at),
        "finished": show.stamp(status.finished_at),
        "exit_code": None if found.running else status.exit_code,
        "restarting": found.state.value == "restarting",
        "restarts": status.restarts,
        "health": found.health.status,
        "ports": [_published(container, host, ip, protocol) for container, host, ip, protocol in status.ports],
        "networks": dict(status.addresses),
        "labels": dict(found.labels),
    }


def _published(container: int, host: int, ip: str, protocol: str) -> dict[str, Any]:
    return {"container": container, "host": host, "host_ip": ip or "0.0.0.0", "protocol": protocol}  # noqa: S104


def list_(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)
    wanted = [item.partition("=") for item in arguments.label]
    found = [
        one
        for one in runtime.list()
        if (arguments.all or one.running or one.state.value == "restarting")
        and all((one.labels.get(name) == value) if mark else name in one.labels for name, mark, value in wanted)
    ]
    found.reverse()  # the youngest first, as docker has it
    if arguments.json:
        show.document({"containers": [entry(one) for one in found]})
    elif arguments.quiet:
        sys.stdout.writelines(f"{one.id if arguments.no_trunc else one.id[:12]}\n" for one in found)
    else:
        rows = [_row(one, whole=arguments.no_trunc) for one in found]
        show.table(("ID", "NAME", "IMAGE", "STATE", "PORTS", "CREATED"), rows)
    if any(one.health.status and one.running for one in found):
        from bayplan.runtime.agent import agent_running

        if agent_running(runtime.root) is None:
            show.warn("note: no agent runs, so health is not watched (bayplan agent --background)")
    return 0


def _row(found: Container, *, whole: bool) -> tuple[str, ...]:
    image = found.spec.image_name or show.short(found.spec.image)
    return (
        found.id if whole else found.id[:12],
        found.name,
        image if whole or len(image) <= 48 else f"{image[:45]}...",
        _state(found),
        ", ".join(_port(*port) for port in found.status.ports) if found.running else "",
        show.ago(found.created),
    )


def _state(found: Container) -> str:
    status = found.status
    if found.running:
        health = f", {found.health.status}" if found.health.status else ""
        return f"{found.state.value} {show.span(time.time() - status.started_at)}{health}"
    if found.state.value == "exited":
        oom = ", out of memory" if status.oom else ""
        return f"exited ({status.exit_code}{oom}) {show.ago(status.finished_at)}"
    if found.state.value == "created" and status.error:
        return "created, start failed"
    return found.state.value


def _port(container: int, host: int, ip: str, protocol: str) -> str:
    return f"{ip + ':' if ip else ''}{host}->{container}/{protocol}"


def inspect(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)
    found = runtime.inspect(arguments.container)
    all_of_it = found.as_dict()
    for told in ("created", "started_at", "finished_at", "image", "image_name", "state", "addresses"):
        del all_of_it[told]  # said by the entry, in the words of the list
    show.document({**all_of_it, **entry(found), "health": all_of_it["health"], "ports": all_of_it["ports"]})
    return 0


def logs(arguments: argparse.Namespace) -> int:
    if arguments.follow and arguments.json:
        raise UsageError("usage", "--json prints one document, which --follow never ends")
    runtime = runtime_of(arguments)
    lines = runtime.logs(
        arguments.container, follow=arguments.follow, tail=_count(arguments.tail), since=_since(arguments.since)
    )
    if arguments.json:
        show.document(
            {
                "logs": [
                    {"time": one.time, "stream": one.stream, "text": one.text.decode("utf-8", "replace")}
                    for one in lines
                ]
            }
        )
        return 0
    out, err = sys.stdout.buffer, sys.stderr.buffer
    whole = True  # a part of a line is followed by its rest, which has no time of its own
    for one in lines:
        to = err if one.stream == "stderr" else out
        to.write((f"{one.time} ".encode() if arguments.timestamps and whole else b"") + one.text)
        whole = one.text.endswith(b"\n")
        if arguments.follow:
            to.flush()
    out.flush()
    err.flush()
    return 0


def _count(text: str) -> int | None:
    if text in ("all", "-1"):
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError("usage", f"--tail wants a number or 'all', not '{text}'")
    return int(text)


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) >= 9:
        return float(text)
    from bayplan.kinds.values import parse_duration

    return time.time() - parse_duration(text)
