"""Which files make a stack: those named, or the one in the current folder, and what they include.

Each file is read once however often it is named, by its real path, and through the parse cache. Names in messages are as
a user would write them from where the command runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.stack.cache import ParseCache
from bayplan.stack.reader import MAX_BYTES, Reading, read
from bayplan.stack.source import Source
from bayplan.stack.words import shown

#: What is looked for in the current folder, in this order.
DEFAULT_FILES = ("bayplan.yaml", "bayplan.yml", "bayplan.json")

_GLOB = re.compile(r"[*?\[]")
#: JSON writes a character outside the first plane as two escapes; YAML knows one escape for it.
_PAIR = re.compile(rb"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def default_files(folder: Path) -> list[Path]:
    """The definition file of a folder. Raises BayplanError ``no-definition`` where there is none."""
    for name in DEFAULT_FILES:
        if (folder / name).is_file():
            return [Path(name)]
    hint = "say which file with -f FILE, or start one with `bayplan init`"
    raise BayplanError("no-definition", f"there is no {DEFAULT_FILES[0]} in {folder}", hint=hint)


def read_source(name: str, path: Path, cache: ParseCache, *, private: bool = False) -> Source:
    """One file as a Source; of a ``private`` one no line is shown.

    Raises BayplanError: ``unreadable-file``, ``file-too-large``, or what is wrong with its syntax.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = (
            "look at its path, from the folder where the command runs" if isinstance(error, FileNotFoundError) else ""
        )
        raise BayplanError("unreadable-file", f"{name} cannot be read: {reason}", hint=hint) from None
    if len(data) > MAX_BYTES:
        message = f"{name} is larger than {MAX_BYTES >> 20} MiB"
        raise BayplanError("file-too-large", message, hint="split it and name the parts under `include`")
    source = Source(name, path, data, private=private)
    known = cache.get(data)
    if known is not None:
        source.tree, source.special = known.value, known.special
    else:
        reading = _parsed(source)
        source.tree, source.flawed = reading.value, reading.flawed
    return source


def _parsed(source: Source) -> Reading:
    try:
        text = source.data
        if source.path.suffix == ".json":
            text = _PAIR.sub(_one_escape, text)
        return read(text)
    except Exception as error:
        if not isinstance(error, ValueError) and type(error).__module__.partition(".")[0] != "yaml":
            raise
        from bayplan.stack.syntax import explain

        raise explain(source, error) from None


def _one_escape(match: re.Match[bytes]) -> bytes:
    high, low = int(match[2], 16), int(match[3], 16)
    return match[1] + b"\\U%08x" % (0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


class Gathering:
    """All files of one stack, in the order of reading, each before what it includes. Mistakes go to ``errors``."""

    def __init__(self, cache: ParseCache, errors: list[BayplanError]) -> None:
        self.cache = cache
        self.errors = errors
        self.sources: list[Source] = []
        self._seen: set[str] = set()

    def add(self, paths: Sequence[Path]) -> None:
        """The files a user named. One that cannot be read is an error of the command, without a place."""
        for path in paths:
            if path.is_dir():
                try:
                    path = path / default_files(path)[0]
                except BayplanError as error:
                    self.errors.append(error)
                    continue
            self._add(os.path.normpath(path), path.absolute(), None, ())

    def _add(
        self, name: str, path: Path, included: tuple[Source, int] | None, chain: tuple[tuple[str, str], ...]
    ) -> None:
        real = os.path.realpath(path)
        if any(real == one for one, _ in chain):
            source, index = included  # type: ignore[misc]
            names = [one for _, one in chain[[one for one, _ in chain].index(real) :]]
            message = f"the include of {name} goes round: {' -> '.join([*names, name])}"
            self.errors.append(
                source.error("include-cycle", message, ("include", index), hint="remove one of the includes")
            )
            return
        if real in self._seen:
            return
        self._seen.add(real)
        try:
            source = read_source(name, Path(real), self.cache)
        except BayplanError as error:
            if included is not None and error.where is None:
                by, index = included
                hint = _taken_from(by) if error.code == "unreadable-file" else error.hint
                error = by.error(error.code, error.message, ("include", index), hint=hint)
            self.errors.append(error)
            return
        self.sources.append(source)
        self.errors.extend(source.faults())
        self._includes(source, (*chain, (real, name)))

    def _includes(self, source: Source, chain: tuple[tuple[str, str], ...]) -> None:
        if not isinstance(source.tree, dict) or "include" not in source.tree:
            return
        given = source.tree["include"]
        if given is not None and not isinstance(given, (str, list, tuple)):
            message = f"include must be a file or a list of files, not {shown(given)}"
            self.errors.append(source.error("wrong-type", message, ("include",), hint="for example [other.yaml]"))
            return
        for index, entry in enumerate(given if isinstance(given, list) else [given] if given else []):
            place = ("include", index)
            if isinstance(entry, tuple):
                message = "the name of an included file cannot hold an expression"
                self.errors.append(source.error("misplaced-expression", message, place, hint="choose files with -f"))
            elif not isinstance(entry, str) or not entry:
                message = f"item {index + 1} of include must be the name of a file, not {shown(entry)}"
                self.errors.append(source.error("wrong-type", message, place))
            else:
                self._include(source, index, entry, chain)

    def _include(self, source: Source, index: int, entry: str, chain: tuple[tuple[str, str], ...]) -> None:
        shown_folder = os.path.dirname(source.name)  # noqa: PTH120 -- the name is text for messages, not a path to open
        found = [entry]
        if _GLOB.search(entry) and not (source.folder / entry).exists():
            found = _matching(source.folder, entry)
            if not found:
                message = f"no file matches {entry}"
                place = ("include", index)
                self.errors.append(source.error("unreadable-file", message, place, hint=_taken_from(source)))
        for one in found:
            path = source.folder / one
            if len(found) > 1 and os.path.realpath(path) == chain[-1][0]:
                continue  # a pattern may match the file that it stands in
            self._add(os.path.normpath(f"{shown_folder}/{one}" if shown_folder else one), path, (source, index), chain)


def _taken_from(source: Source) -> str:
    return f"the path is taken from the folder of {source.name}"


def _matching(folder: Path, pattern: str) -> list[str]:
    """The files that a pattern names, as paths from ``folder`` (or absolute, where the pattern is)."""
    import glob

    found = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 -- Path.glob refuses ../ and absolute ones
    return sorted(one for one in found if (folder / one).is_file())
