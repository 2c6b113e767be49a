"""``image build``: the build core with a face. Base images are resolved as names by hand are (:mod:`.meaning`)."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.container_options import pairs
from bayplan.cli.image_move import name_it
from bayplan.cli.image_show import meaning_of
from bayplan.cli.meaning import config_id
from bayplan.errors import BayplanError, UsageError
from bayplan.oci.reference import ImageName

if TYPE_CHECKING:
    from bayplan.build.spec import BuildEvent, BuildSpec
    from bayplan.oci.digest import Digest


def build(arguments: argparse.Namespace) -> int:
    from bayplan.build.builder import Builder
    from bayplan.oci.descriptor import Platform
    from bayplan.runtime.late_steps import LateStepRunner

    meaning = meaning_of(arguments)
    for tag in arguments.tag:
        ImageName.parse(tag)
    spec = _spec(arguments)
    meaning.root.ensure()
    platform = Platform.parse(arguments.platform) if arguments.platform else None
    pull = "always" if arguments.pull else "missing"

    def base(name: str) -> Digest:
        return meaning.resolve(name, pull=pull, platform=platform, telling=None if arguments.quiet else show.warn)

    began = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    with meaning.store.lease(), LateStepRunner(meaning.root) as runner:
        output = _output(arguments)
        try:
            result = Builder(meaning.root, runner, base).build(spec, output)
        finally:
            if isinstance(output, Live):
                output.close()
        for tag in arguments.tag:
            name_it(meaning, tag, result.digest)
    if arguments.iidfile:
        Path(arguments.iidfile).write_text(f"{result.digest}\n", encoding="ascii")
    if arguments.json:
        show.document(
            {
                "digest": str(result.digest),
                "id": config_id(meaning.store, result.digest),
                "tags": [ImageName.parse(tag).familiar() for tag in arguments.tag],
                "steps": [
                    {
                        "text": step.text,
                        "file": step.where.file,
                        "line": step.where.line,
                        "stage": step.stage,
                        "cached": step.cached,
                        "layer": step.layer,
                    }
                    for step in result.steps
                ],
                "cached_steps": result.cached_steps,
                "seconds": round(time.monotonic() - began, 3),
            }
        )
    else:
        show.say(str(result.digest))
    return 0


def _interrupt(number: int, _: FrameType | None) -> None:
    """SIGTERM ends a build as ctrl-c does: its steps are killed and cleared away."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def _spec(arguments: argparse.Namespace) -> BuildSpec:
    from bayplan.build.spec import BuildSpec

    args = {}
    for item in arguments.build_arg:
        name, equals, value = item.partition("=")
        if not name:
            raise UsageError("usage", f"--build-arg wants NAME or NAME=VALUE, not '{item}'")
        if equals or name in os.environ:
            args[name] = value if equals else os.environ[name]
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return BuildSpec(
        context=Path(arguments.context),
        dockerfile=Path(arguments.file).absolute() if arguments.file else None,
        target=arguments.target,
        args=args,
        labels=pairs(arguments.label, "--label"),
        platform=arguments.platform,
        source_date_epoch=int(epoch) if epoch.isdigit() and "SOURCE_DATE_EPOCH" not in args else None,
        no_cache=arguments.no_cache,
        secrets=secrets(arguments.secret),
    )


def secrets(items: Sequence[str]) -> dict[str, Path | bytes]:
    """``id=ID,src=FILE``, ``id=ID,env=NAME``, ``id=ID`` (a variable of that name, else a file), as docker reads them."""
    found: dict[str, Path | bytes] = {}
    for item in items:
        fields = dict(part.partition("=")[::2] for part in item.split(","))
        unknown = fields.keys() - {"id", "src", "source", "env", "type"}
        id = fields.get("id", "")
        if not id or unknown:
            raise UsageError(
                "usage", f"--secret wants id=ID,src=FILE or id=ID,env=NAME, not '{item.partition(',')[0]}...'"
            )
        file = fields.get("src") or fields.get("source")
        name = fields.get("env") or (id if not file and id in os.environ else "")
        if name:
            if name not in os.environ:
                raise UsageError("usage", f"--secret {id}: there is no variable {name}")
            found[id] = os.environ[name].encode("utf-8", "surrogateescape")
        else:
            path = Path(file or id)
            if not path.is_file():
                raise BayplanError("secret-missing", f"the secret {id} has no file at {path}")
            found[id] = path
    return found


def _output(arguments: argparse.Namespace) -> Callable[[BuildEvent], None] | None:
    if arguments.quiet or (arguments.json and arguments.progress == "auto"):
        return None
    live = arguments.progress == "tty" or (arguments.progress == "auto" and sys.stderr.isatty())
    return Live() if live else Plain()


class Plain:
    """Lines on standard error: each step when it begins, what it writes, when it is done."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._rest: dict[int, bytes] = {}

    def __call__(self, event: BuildEvent) -> None:
        with self._guard:
            head = f"[{event.number}/{event.total}]"
            kind = event.kind.value
            if kind == "step":
                show.warn(f"{head} {_stage(event)}{event.text}")
            elif kind == "cached":
                show.warn(f"{head} {_stage(event)}{event.text}: from the cache")
            elif kind == "output":
                *lines, rest = (self._rest.get(event.number, b"") + event.data).split(b"\n")
                self._rest[event.number] = rest
                for line in lines:
                    show.warn(f"{head} | {line.decode('utf-8', 'replace')}")
            else:
                rest = self._rest.pop(event.number, b"")
                if rest:
                    show.warn(f"{head} | {rest.decode('utf-8', 'replace')}")
                show.warn(f"{head} done in {event.seconds:.1f}s")
            sys.stderr.flush()


class Live:
    """A terminal: finished steps scroll by, those at work stand below with the last lines that they wrote."""

    _LINES = 6

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(stderr=True, highlight=False)
        self._running: dict[int, tuple[float, str, list[str]]] = {}
        self._guard = threading.RLock()
        self._live = RichLive(console=self._console, refresh_per_second=8, transient=True, get_renderable=self._shown)
        self._live.start()

    def close(self) -> None:
        self._live.stop()

    def __call__(self, event: BuildEvent) -> None:
        from rich.text import Text

        with self._guard:
            head = f"[{event.number}/{event.total}] {_stage(event)}{event.text}"
            kind = event.kind.value
            if kind == "step":
                self._running[event.number] = (time.monotonic(), head, [])
            elif kind == "output" and event.number in self._running:
                lines = self._running[event.number][2]
                lines.extend(event.data.decode("utf-8", "replace").splitlines())
                del lines[: -self._LINES]
            elif kind in ("cached", "done"):
                self._running.pop(event.number, None)
                mark = Text("cached ", "cyan") if kind == "cached" else Text(f"{event.seconds:5.1f}s ", "green")
                self._console.print(mark + Text(head))

    def _shown(self) -> Any:
        from rich.text import Text

        with self._guard:
            shown = Text()
            for began, head, lines in self._running.values():
                shown.append(f"{time.monotonic() - began:5.1f}s ", "yellow").append(head + "\n")
                for line in lines:
                    shown.append(f"       {line}\n", "dim")
            return shown


def _stage(event: BuildEvent) -> str:
    return f"{event.stage}: " if event.stage else ""
