"""``container run``, ``create``, ``start``, ``attach`` and ``exec``: whatever makes a process in a container.

A foreground command is the container's stand-in: its streams are ours, signals that we get are passed on, its exit code is
ours. A container that could not be started by ``run`` is taken away again, so that the next try finds its name free.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from bayplan.cli import show
from bayplan.cli.options import runtime_of
from bayplan.errors import BayplanError, UsageError

if TYPE_CHECKING:
    import socket

    from bayplan.runtime.containers import Runtime
    from bayplan.runtime.spec import ContainerSpec


# -- making --------------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    if arguments.detach and arguments.interactive and not arguments.tty:
        arguments.interactive = False  # nobody could ever write to it
    if arguments.rm and arguments.restart != "no":
        raise UsageError("usage", "--rm and --restart contradict each other")
    if arguments.json and not arguments.detach:
        raise UsageError("usage", "--json tells the id of a detached container: add --detach")
    _need_terminal(arguments, arguments.detach)
    runtime = runtime_of(arguments)
    runtime.expect_start()
    id = _made(runtime, arguments)
    try:
        connection = runtime.start(id, attach=not arguments.detach)
    except BaseException:
        with contextlib.suppress(BayplanError):
            runtime.remove(id, force=True)
        raise
    if arguments.detach:
        if arguments.rm:
            _remove_later(runtime, id)
        _tell_made(arguments, runtime, id)
        return 0
    assert connection is not None, "attached, so connected"
    return _stay(runtime, id, connection, stdin=arguments.interactive, remove=arguments.rm)


def create(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)
    _tell_made(arguments, runtime, _made(runtime, arguments))
    return 0


def _made(runtime: Runtime, arguments: argparse.Namespace) -> str:
    from bayplan.cli.container_options import spec_of
    from bayplan.cli.meaning import Meaning
    from bayplan.oci.descriptor import Platform
    from bayplan.oci.image import Image
    from bayplan.oci.store import Store

    runtime.root.ensure()
    store = Store(runtime.root)
    platform = Platform.parse(arguments.platform) if arguments.platform else None
    with store.lease():
        meaning = Meaning(runtime.root, store)
        digest = meaning.resolve(arguments.image, pull=arguments.pull, platform=platform, telling=show.warn)
        image = Image.load(store, digest, platform)
        return runtime.create(spec_of(arguments, str(image.digest), image.config))


def _tell_made(arguments: argparse.Namespace, runtime: Runtime, id: str) -> None:
    if arguments.json:
        found = runtime.get(id)
        if found is not None:
            from bayplan.cli.container_show import entry

            show.document(entry(found))
            return
    show.say(id)


def _need_terminal(arguments: argparse.Namespace, detached: bool) -> None:
    if arguments.tty and arguments.interactive and not detached and not sys.stdin.isatty():
        raise UsageError(
            "usage", "--interactive with --tty needs a terminal, and standard input is none", hint="leave -t out"
        )


def _remove_later(runtime: Runtime, id: str) -> None:
    """A small process that waits for the container's end and removes it. If it is killed, ``container prune`` does."""
    sys.stdout.flush()
    if os.fork():
        return
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        runtime.wait(id)
        runtime.remove(id, force=True)
        code = 0
    except BayplanError:
        code = 0  # somebody else removed it
    finally:
        os._exit(code)


# -- staying with it -----------------------------------------------------------------------------------------------


def start(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)
    if arguments.attach:
        if len(arguments.containers) > 1:
            raise UsageError("usage", "--attach goes with one container")
        id = runtime.inspect(arguments.containers[0]).id
        connection = runtime.start(id, attach=True)
        assert connection is not None, "attached, so connected"
        return _stay(runtime, id, connection, stdin=arguments.interactive)
    from bayplan.cli.container_show import entry

    def work(reference: str) -> dict[str, object]:
        runtime.start(reference)
        return entry(runtime.inspect(reference))

    return show.each(arguments, "containers", arguments.containers, work)


def attach(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)
    found = runtime.inspect(arguments.container)
    connection = runtime.attach(found.id)
    return _stay(runtime, found.id, connection, stdin=not arguments.no_stdin, redraw=True)


def _stay(
    runtime: Runtime, id: str, connection: socket.socket, *, stdin: bool, remove: bool = False, redraw: bool = False
) -> int:
    from bayplan.cli.streams import End, Session

    spec = runtime.inspect(id).spec

    def forward(number: int) -> None:
        with contextlib.suppress(BayplanError):  # it has just ended
            runtime.kill(id, str(number))

    def resize(rows: int, columns: int) -> None:
        runtime.resize(id, rows, columns)

    with connection:
        session = Session(
            connection, stdin=stdin and _takes_input(spec), tty=spec.tty, forward=forward, resize=resize, redraw=redraw
        )
        end = session.run()
    if end is End.DETACHED:
        show.warn(f"\r\n{id[:12]} runs on")
        return 0
    if end is End.FORCED:
        show.warn(f"left; {id[:12]} did not react and may still run")
        return 130
    code = runtime.wait(id)
    if remove:
        runtime.remove(id, force=True)
    return 0 if code is None else code


def _takes_input(spec: ContainerSpec) -> bool:
    return spec.open_stdin or spec.tty


def exec_(arguments: argparse.Namespace) -> int:
    from bayplan.cli.container_options import environment

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UsageError("usage", "exec needs a command", hint="bayplan container exec CONTAINER COMMAND [ARGUMENT...]")
    _need_terminal(arguments, detached=False)
    runtime = runtime_of(arguments)
    null = None if arguments.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    # A key of the terminal is for the process inside. A handler of ours is not inherited, as SIG_IGN would be.
    before = signal.signal(signal.SIGINT, lambda *_: None) if arguments.tty else None
    try:
        return runtime.exec(
            arguments.container,
            command,
            env=environment(arguments.env, arguments.env_file),
            user=arguments.user,
            working_dir=arguments.workdir,
            tty=arguments.tty,
            stdin=null,
        )
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
        if null is not None:
            os.close(null)
