"""Where everything of a file stands: the second pass over a file's text, made when the first position is asked for.

A plan that changes nothing and a valid file show no position at all, so the reader keeps none (it is the hot path, and
200,000 positions as objects would be most of the memory). This pass walks the same events and writes three compact
arrays in the order of the file: line, column, and where the next sibling starts, so that a path is found without looking
into what stands beside it. 12 bytes a key or value; an alias is one entry, its content stands at its anchor.

The same walk tells the faults of form that the reader marked a file ``flawed`` for, because here both places of a key
given twice are known.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from bayplan.records import dataclass, field
from bayplan.stack.reader import LIBYAML_TOO_DEEP, MAX_ALIASED, MAX_DEPTH
from bayplan.stack.scalars import CORE_TAG, Tree, tagged

#: A path in a file: keys of maps, indexes of lists.
Path = tuple[str | int, ...]

#: Maps with more keys than this get an index when one of their keys is looked up.
_INDEXED = 24


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake in the form of a file. ``line`` and ``column`` count from 1."""

    code: str
    message: str
    line: int
    column: int
    hint: str = ""


@dataclass(slots=True)
class Positions:
    """The places of one file's keys and values, in preorder: entry 0 is the document, a key stands before its value."""

    lines: array[int] = field(default_factory=lambda: array("I"))
    columns: array[int] = field(default_factory=lambda: array("I"))
    ends: array[int] = field(default_factory=lambda: array("I"))
    faults: list[Fault] = field(default_factory=list)
    indexes: dict[int, dict[str, int]] = field(default_factory=dict)

    def place(self, tree: Tree, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value at ``path`` of ``tree``, or of its key where ``key`` is true.

        A path that leads nowhere (a missing property, what an alias or an expression stands for) gives the place of the
        last step that exists; where that step is a map's key, the key's own place, since that is where something is
        missing.
        """
        entry, node, at_key = 0, tree, False
        key_entry = -1
        for step in path:
            if self.ends[entry] == entry + 1 and isinstance(node, (dict, list)) and node:
                break  # an alias
            if isinstance(node, dict) and step in node:
                key_entry = self._key_entry(entry, node, str(step))
                entry, node = key_entry + 1, node[step]
            elif isinstance(node, list) and isinstance(step, int) and step < len(node):
                key_entry, entry = -1, self._item_entry(entry, step)
                node = node[step]
            else:
                at_key = isinstance(node, dict)
                break
        if (key or at_key) and key_entry >= 0:
            entry = key_entry
        return self.lines[entry], self.columns[entry]

    def _key_entry(self, entry: int, node: dict[str, Tree], key: str) -> int:
        index = self.indexes.get(entry)
        if index is not None:
            return index[key]
        if len(node) > _INDEXED:
            index = self.indexes[entry] = {}
            child = entry + 1
            for name in node:
                index[name] = child
                child = self.ends[child + 1]
            return index[key]
        child = entry + 1
        for name in node:
            if name == key:
                return child
            child = self.ends[child + 1]
        raise KeyError(key)

    def _item_entry(self, entry: int, step: int) -> int:
        child = entry + 1
        for _ in range(step):
            child = self.ends[child]
        return child


def locate(data: bytes) -> Positions:
    """The positions and faults of a text that :func:`bayplan.stack.reader.read` has read without raising."""
    return _Locator(data).document()


class _Locator:
    def __init__(self, data: bytes) -> None:
        from yaml import events
        from yaml._yaml import CParser

        self.next: Callable[[], Any] = CParser(data).get_event
        self.events: Any = events
        self.out = Positions()
        self.anchors: set[str] = set()

    def document(self) -> Positions:
        events = self.events
        self.next()
        if not isinstance(self.next(), events.DocumentStartEvent):
            self._entry(1, 1)
            self.out.ends[0] = 1
            return self.out
        self.node(self.next(), 0, record=True)
        return self.out

    def _entry(self, line: int, column: int) -> int:
        self.out.lines.append(line)
        self.out.columns.append(column)
        self.out.ends.append(0)
        return len(self.out.lines) - 1

    def fault(self, mark: Any, code: str, message: str, hint: str = "") -> None:
        self.out.faults.append(Fault(code, message, mark.line + 1, mark.column + 1, hint))

    def node(self, event: Any, depth: int, *, record: bool) -> None:
        """One value. ``record`` is false inside what the reader has read over: it has no entries, only faults."""
        events, mark = self.events, event.start_mark
        entry = self._entry(mark.line + 1, mark.column + 1) if record else -1
        kind = event.__class__
        if kind is events.AliasEvent:
            if event.anchor not in self.anchors:
                hint = "an anchor `&name` must stand before `*name`; quote a text that starts with `*`"
                self.fault(mark, "unknown-anchor", f"nothing above is anchored as &{event.anchor}", hint)
        elif kind is events.ScalarEvent:
            self.scalar(event)
        elif kind is events.MappingStartEvent:
            self.collection_tag(event, "map")
            self.mapping(depth + 1, record=record)
        else:
            self.collection_tag(event, "seq")
            while (item := self.next()).__class__ is not events.SequenceEndEvent:
                self.node(item, depth + 1, record=record)
        if event.anchor is not None and kind is not events.AliasEvent:
            self.anchors.add(event.anchor)
        if entry >= 0:
            self.out.ends[entry] = len(self.out.lines)

    def mapping(self, depth: int, *, record: bool) -> None:
        events = self.events
        seen: dict[str, int] = {}
        while (event := self.next()).__class__ is not events.MappingEndEvent:
            mark = event.start_mark
            if event.__class__ is not events.ScalarEvent or event.tag is not None or event.anchor is not None:
                self.fault(mark, "bad-key", "a key must be a plain name, not a list, a map, an alias or tagged")
                self.node(event, depth, record=False)
                self.node(self.next(), depth, record=False)
                continue
            key, line = event.value, mark.line + 1
            self.key(event)
            first = key not in seen
            if first:
                seen[key] = line
                if record:
                    entry = self._entry(line, mark.column + 1)
                    self.out.ends[entry] = entry + 1
            else:
                hint = "keep one of the two"
                self.fault(mark, "duplicate-key", f"{key} is given twice; the first is on line {seen[key]}", hint)
            self.node(self.next(), depth, record=record and first)

    def key(self, event: Any) -> None:
        if not event.style and event.value == "<<":
            hint = "repeat the keys, or make several resources of one with for_each; `*alias` as a whole value works"
            self.fault(event.start_mark, "merge-key", "merge keys (<<) are not part of YAML 1.2", hint)
        elif not event.value and not event.style:
            self.fault(event.start_mark, "bad-key", "a key is missing before the colon")
        elif "${" in event.value:
            hint = "expressions stand in values; a key is a plain name"
            self.fault(event.start_mark, "expression-in-key", "a key cannot hold an expression", hint)

    def scalar(self, event: Any) -> None:
        if event.tag is None:
            return
        try:
            tagged(event.tag, event.value, event.style)
        except LookupError:
            self.unknown_tag(event)
        except ValueError:
            short = event.tag.removeprefix(CORE_TAG)
            self.fault(event.start_mark, "wrong-type", f"`{event.value}` is not what its tag !!{short} says")

    def collection_tag(self, event: Any, wanted: str) -> None:
        if event.tag is not None and event.tag not in ("!", CORE_TAG + wanted):
            self.unknown_tag(event)

    def unknown_tag(self, event: Any) -> None:
        name = event.tag.replace(CORE_TAG, "!!")
        hint = "remove it; only !!str, !!int, !!float, !!bool, !!null, !!map and !!seq are known"
        self.fault(event.start_mark, "unknown-tag", f"the tag {name} is not known here", hint)


def _too_deep(mark: Any) -> Fault:
    message = f"maps and lists stand in one another more than {MAX_DEPTH} deep"
    return Fault("too-deep", message, mark.line + 1, mark.column + 1)


def bound_fault(data: bytes, error: Exception) -> Fault:
    """The fault behind a bound that the reader met (TooDeepError, TooManyAliasedError, ManyDocumentsError), at its place."""
    from yaml import MarkedYAMLError, events
    from yaml._yaml import CParser

    following: Callable[[], Any] = CParser(data).get_event
    name = type(error).__name__
    depth, documents, last_alias = 0, 0, (1, 1)
    while True:
        try:
            event = following()
        except MarkedYAMLError as met:
            if met.problem != LIBYAML_TOO_DEEP or met.problem_mark is None:
                raise
            return _too_deep(met.problem_mark)
        if event is None:
            break
        mark = event.start_mark
        if isinstance(event, events.CollectionStartEvent):
            depth += 1
            if name == "TooDeepError" and depth > MAX_DEPTH:
                return _too_deep(mark)
        elif isinstance(event, events.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, events.DocumentStartEvent):
            documents += 1
            if name == "ManyDocumentsError" and documents > 1:
                hint = "put it into a file of its own and name it under `include`"
                return Fault("many-documents", "a second document starts here", mark.line + 1, mark.column + 1, hint)
        elif isinstance(event, events.AliasEvent) and last_alias == (1, 1):
            last_alias = (mark.line + 1, mark.column + 1)
    message = f"the aliases of this file stand for more than {MAX_ALIASED:,} values".replace(",", " ")
    return Fault("too-many-aliases", message, *last_alias, "the first alias is here; write the values out")
