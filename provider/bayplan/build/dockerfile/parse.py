"""The parser: a Dockerfile's bytes -> :class:`~bayplan.build.dockerfile.model.Dockerfile`.

All mistakes of a file are told at once, each at its line and column with the nearest valid name; nothing is guessed and
nothing is dropped. What this build does not offer (SSH mounts, URLs in ADD, the insecure sandbox) is refused here, before
any work, with the reason, and never quietly ignored.

Each instruction is read by one small function, found by its name in ``_READERS``; flags are declared beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

from bayplan.build.dockerfile import lines, model, mounts
from bayplan.build.dockerfile.durations import nanoseconds
from bayplan.build.dockerfile.words import NotStrings, Split, Word, blank_words, json_array, quoted_words, split
from bayplan.errors import BayplanError, BayplanErrors, Where, nearest

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_REMOTE = re.compile(r"(https?|ftp)://|git@|git://|ssh://")


def parse(data: bytes, file: str) -> model.Dockerfile:
    """Read a whole Dockerfile; ``file`` is how messages call it.

    Raises BayplanErrors with every mistake found (codes ``dockerfile-syntax``, ``unknown-instruction``, ``unknown-flag``,
    ``not-supported``), or a BayplanError where reading cannot go on.
    """
    source = lines.read(data, file)
    errors: list[BayplanError] = []
    instructions: list[model.Instruction] = []
    for line in source.lines:
        try:
            instructions.append(_read(source, line, 0))
        except BayplanErrors as several:
            errors.extend(several.errors)
        except BayplanError as error:
            errors.append(error)
    if not source.lines:
        errors.append(BayplanError("dockerfile-syntax", "the Dockerfile holds no instruction", where=Where(file)))
    elif not errors:
        errors.extend(_order(source, instructions))
    if errors:
        raise BayplanErrors(errors)
    return _stages(source, instructions)


def parse_trigger(text: str, file: str) -> model.Instruction:
    """An ONBUILD trigger from an image's config, as the instruction it is. Raises BayplanError."""
    source = lines.read(text.encode(), file)
    if len(source.lines) != 1:
        raise BayplanError(
            "dockerfile-syntax", f"the ONBUILD trigger {text!r} is not one instruction", where=Where(file)
        )
    return _read(source, source.lines[0], 0)


def _order(source: lines.Source, instructions: list[model.Instruction]) -> list[BayplanError]:
    """What must hold between instructions: FROM first (only ARG before it), stage names once."""
    found: list[BayplanError] = []
    seen = False
    for instruction in instructions:
        if isinstance(instruction, model.From):
            seen = True
        elif not seen and not isinstance(instruction, model.Arg):
            found.append(_at(source, instruction, f"{instruction.name} stands before the first FROM; only ARG may"))
            break
    if not seen and not found:
        message = "the Dockerfile has no FROM"
        found.append(
            BayplanError("dockerfile-syntax", message, where=Where(source.file), hint="begin it with FROM IMAGE")
        )
    names: dict[str, model.Instruction] = {}
    for instruction in instructions:
        if isinstance(instruction, model.From) and instruction.stage:
            first = names.setdefault(instruction.stage, instruction)
            if first is not instruction:
                message = f"the stage name {instruction.stage!r} is used twice; first in line {first.where.line}"
                found.append(_at(source, instruction, message))
    return found


def _at(source: lines.Source, instruction: model.Instruction, message: str) -> BayplanError:
    return source.error("dockerfile-syntax", message, instruction.where.line, instruction.where.column)


def _stages(source: lines.Source, instructions: list[model.Instruction]) -> model.Dockerfile:
    arguments: list[model.Arg] = []
    stages: list[tuple[model.From, list[model.Instruction]]] = []
    for instruction in instructions:
        if isinstance(instruction, model.From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, model.Arg):
            arguments.append(instruction)
    made = tuple(model.Stage(index, start, tuple(body)) for index, (start, body) in enumerate(stages))
    return model.Dockerfile(source.directives, tuple(arguments), made, source.warnings)


class _Reading:
    """One instruction being read: its parts, and how to complain at a place of it."""

    def __init__(self, source: lines.Source, line: lines.LogicalLine, parts: Split) -> None:
        self.source = source
        self.line = line
        self.name = parts.name.text.upper()
        self.parts = parts
        self.rest = parts.rest
        self.escape = source.directives.escape
        number, column = line.place(parts.name.offset)
        self.where = Where(source.file, number, column)
        self.values: dict[str, list[Word]] = {}

    @property
    def head(self) -> tuple[Where, str, int]:
        """The three fields that every instruction begins with."""
        return self.where, " ".join(self.line.text[self.parts.name.offset :].split()), self.line.end_line

    def fail(
        self, message: str, offset: int | None = None, *, code: str = "dockerfile-syntax", hint: str = ""
    ) -> NoReturn:
        number, column = self.line.place(self.parts.name.offset if offset is None else offset)
        raise self.source.error(code, message, number, column, hint)

    def flags(self, **kinds: str) -> None:
        """Check the flags against ``kinds`` (name -> string, bool or list; ``_`` stands for ``-``)."""
        known = {name.rstrip("_").replace("_", "-"): kind for name, kind in kinds.items()}
        for flag in self.parts.flags:
            name, equals, value = flag.text[2:].partition("=")
            if name not in known:
                close = nearest(name, sorted(known))
                hint = f"did you mean --{close}?" if close else ""
                if not hint:
                    hint = (
                        "it takes " + ", ".join(f"--{each}" for each in sorted(known)) if known else "it takes no flag"
                    )
                self.fail(f"{self.name} has no flag --{name}", flag.offset, code="unknown-flag", hint=hint)
            if name in self.values and known[name] != "list":
                self.fail(f"the flag --{name} is given twice", flag.offset)
            if known[name] == "bool":
                if (equals and not value) or value.lower() not in ("", "true", "false"):
                    self.fail(f"the flag --{name} is true or false, not {value!r}", flag.offset)
                value = value.lower() or "true"
            elif not equals:
                self.fail(f"the flag --{name} needs a value", flag.offset, hint=f"write --{name}=...")
            self.values.setdefault(name, []).append(Word(value, flag.offset))

    def flag(self, name: str) -> str:
        found = self.values.get(name)
        return found[0].text if found else ""

    def needs(self, what: str) -> None:
        if not self.rest.text:
            self.fail(f"{self.name} needs {what}")

    def array(self) -> list[str] | None:
        try:
            return json_array(self.rest.text)
        except NotStrings as error:
            self.fail(str(error), self.rest.offset)

    def command(self) -> model.Command:
        found = self.array()
        if found is not None:
            return model.Command(tuple(found), shell_form=False)
        return model.Command((self.rest.text,), True, self.line.heredocs)

    def listed(self) -> list[Word]:
        found = self.array()
        if found is not None:
            return [Word(item, self.rest.offset) for item in found]
        return blank_words(self.rest)


def _read(source: lines.Source, line: lines.LogicalLine, start: int) -> model.Instruction:
    parts = split(line.text, source.directives.escape, start)
    reading = _Reading(source, line, parts)
    reader = _READERS.get(reading.name)
    if reader is None:
        close = nearest(reading.name, sorted(_READERS))
        hint = f"did you mean {close}?" if close else "the instructions are " + ", ".join(sorted(_READERS))
        reading.fail(f"there is no instruction {parts.name.text!r}", code="unknown-instruction", hint=hint)
    return reader(reading)


def _from(at: _Reading) -> model.From:
    at.flags(platform="string")
    words = blank_words(at.rest)
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].text.upper() != "AS"):
        at.fail("FROM takes IMAGE or IMAGE AS NAME", words[1].offset if len(words) > 1 else None)
    stage = ""
    if len(words) == 3:
        stage = words[2].text.lower()
        if not _STAGE_NAME.match(stage):
            hint = "a letter first, then letters, digits, - _ and ."
            at.fail(f"{words[2].text!r} is no name for a stage", words[2].offset, hint=hint)
        if stage in ("scratch", "context"):
            at.fail(f"the stage name {stage!r} is reserved", words[2].offset)
    return model.From(*at.head, words[0].text, stage, at.flag("platform"))


def _arg(at: _Reading) -> model.Arg:
    at.flags()
    at.needs("a name")
    items: list[tuple[str, str | None]] = []
    for word in quoted_words(at.rest, at.escape):
        name, equals, value = word.text.partition("=")
        if not name:
            at.fail("the name of an ARG is empty", word.offset)
        items.append((name, value if equals else None))
    return model.Arg(*at.head, tuple(items))


def _pairs(at: _Reading) -> tuple[tuple[str, str], ...]:
    at.flags()
    at.needs("NAME=VALUE")
    words = quoted_words(at.rest, at.escape)
    if "=" not in words[0].text:
        # The old form: one name, and everything behind the blank is its value.
        old = at.rest.text.split(None, 1)
        if len(old) < 2:
            at.fail(f"{at.name} {old[0]} has no value", at.rest.offset, hint=f"write {at.name} {old[0]}=VALUE")
        return ((old[0], old[1]),)
    pairs = []
    for word in words:
        name, equals, value = word.text.partition("=")
        if not equals:
            at.fail(f"{word.text!r} is not NAME=VALUE", word.offset, hint="quote a value that holds blanks")
        if not name:
            at.fail(f"a name of {at.name} is empty", word.offset)
        pairs.append((name, value))
    return tuple(pairs)


def _env(at: _Reading) -> model.Env:
    return model.Env(*at.head, _pairs(at))


def _label(at: _Reading) -> model.Label:
    return model.Label(*at.head, _pairs(at))


def _run(at: _Reading) -> model.Run:
    at.flags(mount="list", network="string", security="string", device="list")
    at.needs("a command")
    network = at.flag("network") or "default"
    if network not in ("default", "none", "host"):
        at.fail(f"RUN --network={network} is not default, none or host", at.values["network"][0].offset)
    for flag, allowed in (("security", "sandbox"), ("device", "")):
        for word in at.values.get(flag, ()):
            if word.text != allowed:
                at.fail(f"RUN --{flag}={word.text} is not offered by this build", word.offset, code="not-supported")
    found = []
    for word in at.values.get("mount", ()):
        number, column = at.line.place(word.offset)
        mount = mounts.split_fields(word.text, Where(at.source.file, number, column))
        try:
            mounts.check(mount)
        except BayplanError as error:
            at.fail(error.message, word.offset, code=error.code, hint=error.hint)
        found.append(mount)
    return model.Run(*at.head, at.command(), tuple(found), network)


def _copied(at: _Reading) -> tuple[tuple[str, ...], str, tuple[model.Heredoc, ...]]:
    words = at.listed()
    if len(words) < 2:
        at.fail(f"{at.name} needs at least one source and a destination")
    if lines.heredoc_word(words[-1].text) is not None and at.line.heredocs:
        at.fail(f"the destination of {at.name} cannot be a heredoc", words[-1].offset)
    bodies = {heredoc.name: heredoc for heredoc in at.line.heredocs}
    sources: list[str] = []
    documents: list[model.Heredoc] = []
    for word in words[:-1]:
        inline = lines.heredoc_word(word.text) if bodies else None
        if inline is not None:
            documents.append(bodies[inline.name])
            continue
        if _REMOTE.match(word.text):
            hint = "fetch it in a RUN (with a checksum), or put the file into the context"
            if at.name == "COPY":
                at.fail(f"COPY takes files of the context, not {word.text}", word.offset, hint=hint)
            reason = "its content cannot be known before the build, so no plan could show what it changes"
            at.fail(f"ADD of {word.text} is not offered: {reason}", word.offset, code="not-supported", hint=hint)
        sources.append(word.text)
    return tuple(sources), words[-1].text, tuple(documents)


def _copy(at: _Reading) -> model.Copy:
    at.flags(from_="string", chown="string", chmod="string", link="bool", parents="bool", exclude="list")
    sources, dest, documents = _copied(at)
    return model.Copy(
        *at.head,
        sources,
        dest,
        documents,
        at.flag("from"),
        at.flag("chown"),
        at.flag("chmod"),
        at.flag("link") == "true",
        at.flag("parents") == "true",
        tuple(word.text for word in at.values.get("exclude", ())),
    )


def _add(at: _Reading) -> model.Add:
    kinds = {"chown": "string", "chmod": "string", "link": "bool", "exclude": "list", "unpack": "bool"}
    at.flags(keep_git_dir="bool", checksum="string", **kinds)
    for word in at.values.get("checksum", ()):
        at.fail("--checksum belongs to ADD of a URL, which is not offered", word.offset, code="not-supported")
    sources, dest, documents = _copied(at)
    unpack = at.flag("unpack")
    return model.Add(
        *at.head,
        sources,
        dest,
        documents,
        "",
        at.flag("chown"),
        at.flag("chmod"),
        at.flag("link") == "true",
        False,
        tuple(word.text for word in at.values.get("exclude", ())),
        None if not unpack else unpack == "true",
    )


def _text(at: _Reading, what: str) -> str:
    at.flags()
    at.needs(what)
    return at.rest.text


def _workdir(at: _Reading) -> model.Workdir:
    return model.Workdir(*at.head, _text(at, "a path"))


def _user(at: _Reading) -> model.User:
    return model.User(*at.head, _text(at, "a user"))


def _stop_signal(at: _Reading) -> model.StopSignal:
    return model.StopSignal(*at.head, _text(at, "a signal"))


def _maintainer(at: _Reading) -> model.Maintainer:
    return model.Maintainer(*at.head, _text(at, "a name"))


def _expose(at: _Reading) -> model.Expose:
    at.flags()
    at.needs("a port")
    return model.Expose(*at.head, tuple(word.text for word in blank_words(at.rest)))


def _volume(at: _Reading) -> model.Volume:
    at.flags()
    at.needs("a path")
    words = at.listed()
    if not words or not all(word.text.strip() for word in words):
        at.fail("a path of VOLUME is empty", at.rest.offset)
    return model.Volume(*at.head, tuple(word.text.strip() for word in words))


def _cmd(at: _Reading) -> model.Cmd:
    at.flags()
    return model.Cmd(*at.head, at.command() if at.rest.text else model.Command((), shell_form=False))


def _entrypoint(at: _Reading) -> model.Entrypoint:
    at.flags()
    return model.Entrypoint(*at.head, at.command() if at.rest.text else model.Command((), shell_form=False))


def _shell(at: _Reading) -> model.Shell:
    at.flags()
    found = at.array()
    if not found:
        at.fail("SHELL takes a JSON array of strings", at.rest.offset, hint='write SHELL ["/bin/sh", "-c"]')
    return model.Shell(*at.head, tuple(found))


def _healthcheck(at: _Reading) -> model.HealthCheck:
    names = ("interval", "timeout", "start-period", "start-interval")
    at.flags(interval="string", timeout="string", start_period="string", start_interval="string", retries="string")
    kind, _, rest = at.rest.text.partition(" ")
    if kind.upper() == "NONE":
        if rest.strip() or at.values:
            at.fail("HEALTHCHECK NONE takes nothing else", at.rest.offset)
        return model.HealthCheck(*at.head, None)
    if kind.upper() != "CMD":
        at.fail("HEALTHCHECK takes CMD and a command, or NONE", at.rest.offset)
    at.rest = Word(rest.strip(), at.rest.offset + len(kind) + 1 + len(rest) - len(rest.lstrip()))
    at.needs("a command behind CMD")
    command = at.command()
    if not command.argv:
        at.fail("HEALTHCHECK needs a command behind CMD", at.rest.offset)
    durations = []
    for name in names:
        word = at.values[name][0] if name in at.values else None
        try:
            value = nanoseconds(word.text) if word else 0
        except ValueError as error:
            at.fail(f"--{name}: {error}", word.offset if word else None, hint="for example 30s or 1m30s")
        if 0 < value < 1_000_000:
            at.fail(f"--{name} is shorter than 1ms", word.offset if word else None)
        durations.append(value)
    retries = at.flag("retries") or "0"
    if not retries.isdecimal() or int(retries) > 2**31 - 1:
        at.fail(f"--retries={retries} is not a count", at.values["retries"][0].offset)
    interval, timeout, start_period, start_interval = durations
    return model.HealthCheck(*at.head, command, interval, timeout, start_period, start_interval, int(retries))


def _onbuild(at: _Reading) -> model.OnBuild:
    at.flags()
    at.needs("an instruction")
    inner = _read(at.source, at.line, at.rest.offset)
    if isinstance(inner, model.OnBuild | model.From | model.Maintainer):
        at.fail(f"ONBUILD cannot trigger {inner.name}", at.rest.offset)
    trigger = at.line.text[at.rest.offset :].strip()
    for heredoc in at.line.heredocs:
        trigger += f"\n{heredoc.content}{heredoc.name}"
    return model.OnBuild(*at.head, trigger, inner)


_READERS: dict[str, Callable[[_Reading], model.Instruction]] = {
    "FROM": _from,
    "ARG": _arg,
    "ENV": _env,
    "LABEL": _label,
    "RUN": _run,
    "COPY": _copy,
    "ADD": _add,
    "WORKDIR": _workdir,
    "USER": _user,
    "STOPSIGNAL": _stop_signal,
    "MAINTAINER": _maintainer,
    "EXPOSE": _expose,
    "VOLUME": _volume,
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "SHELL": _shell,
    "HEALTHCHECK": _healthcheck,
    "ONBUILD": _onbuild,
}
