"""One file to one tree of plain values, at close to the speed of the C parser that reads it.

libyaml's events come through PyYAML; the tree is built here, because neither of PyYAML's loaders gives what a
declaration needs: YAML 1.2 scalars, duplicate keys refused, aliases that cannot be used as a bomb. JSON is read by the
same parser (YAML 1.2's flow style covers it), so that both formats mean the same and err the same.

The loop is the hottest of the whole command (110,000 events for 10,000 resources), which explains its shape: it keeps no
positions. They are wanted only for what is shown to a user, so :mod:`.positions` finds them in a second pass over the
text that is kept anyway, when the first one is asked for. Equal plain scalars and keys become one object, which keeps
large files small in memory.

What is wrong with the form of a file but leaves its structure readable (a key given twice, an unknown tag) does not stop
the reading: the tree is marked ``flawed`` and the second pass says what and where, together with the mistakes of meaning
that the rooms above find. What makes the structure unreadable raises.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bayplan.records import dataclass
from bayplan.stack.scalars import BROKEN, CORE_TAG, Tree, plain, string, tagged

#: Bytes of one file; a file of 100,000 resources has about 12 MB.
MAX_BYTES = 64 << 20
#: Levels of maps and lists in one another.
MAX_DEPTH = 64
#: libyaml's own bound (1,000, from 0.2.6 on) is met first where it reads ahead for the end of a key.
LIBYAML_TOO_DEEP = "exceeded maximum nesting depth"
#: Values that the aliases of one file may stand for, each counted with all that is in it.
MAX_ALIASED = 100_000


class TooDeepError(ValueError):
    """Maps and lists stand in one another deeper than MAX_DEPTH."""


class TooManyAliasedError(ValueError):
    """The aliases of a file stand for more than MAX_ALIASED values."""


class ManyDocumentsError(ValueError):
    """A file holds a second document."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file says. ``flawed``: :func:`bayplan.stack.positions.locate` has faults of its form to tell."""

    value: Tree
    flawed: bool = False


@contextmanager
def collector_paused() -> Iterator[None]:
    """No cyclic garbage collection inside: trees have no cycles, and looking for them costs as much as the parse."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def size(value: Tree, limit: int) -> int:
    """How many values stand in ``value``, itself included, counting at most a little past ``limit``."""
    count = 0
    todo = [value]
    while todo and count <= limit:
        node = todo.pop()
        count += 1
        if isinstance(node, dict):
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    return count


def read(data: bytes) -> Reading:
    """The tree of one YAML or JSON document in UTF-8.

    Raises yaml.YAMLError for broken syntax and TooDeepError, TooManyAliasedError or ManyDocumentsError where a bound is met;
    :func:`bayplan.stack.syntax.explain` turns each of them into the user's error.
    """
    from yaml import MarkedYAMLError

    with collector_paused():
        try:
            return _Builder(data).document()
        except MarkedYAMLError as error:
            if error.problem == LIBYAML_TOO_DEEP:
                raise TooDeepError from error
            raise


class _Builder:
    """The state of one reading. Methods call each other per collection, never per scalar."""

    def __init__(self, data: bytes) -> None:
        from yaml import events
        from yaml._yaml import CParser

        self.next: Callable[[], Any] = CParser(data).get_event
        self.scalar = events.ScalarEvent
        self.alias = events.AliasEvent
        self.map_start = events.MappingStartEvent
        self.map_end = events.MappingEndEvent
        self.list_start = events.SequenceStartEvent
        self.list_end = events.SequenceEndEvent
        self.document_start = events.DocumentStartEvent
        self.document_end = events.DocumentEndEvent
        self.flawed = False
        self.aliased = 0
        self.anchors: dict[str, Tree] = {}
        self.values: dict[str, Tree] = {}  # plain text -> what it means
        self.keys: dict[str, str] = {}

    def document(self) -> Reading:
        self.next()  # the stream starts
        if self.next().__class__ is not self.document_start:
            return Reading(None)
        value = self.node(self.next(), 0)
        self.next()  # the document ends
        if self.next().__class__ is self.document_start:
            raise ManyDocumentsError
        return Reading(value, self.flawed)

    def node(self, event: Any, depth: int) -> Tree:
        """The value that starts with ``event``, whatever it is."""
        kind = event.__class__
        anchor = event.anchor
        if kind is self.alias:
            return self.aliased_value(anchor)
        if kind is self.scalar:
            value = self.scalar_value(event)
        elif depth >= MAX_DEPTH:
            raise TooDeepError
        elif kind is self.map_start:
            self.check_tag(event, "map")
            value = self.mapping(depth + 1)
        else:
            self.check_tag(event, "seq")
            value = self.sequence(depth + 1)
        if anchor is not None:
            self.anchors[anchor] = value
        return value

    def mapping(self, depth: int) -> dict[str, Tree]:
        out: dict[str, Tree] = {}
        following, scalar, end = self.next, self.scalar, self.map_end
        keys, values = self.keys, self.values
        while True:
            event = following()
            kind = event.__class__
            if kind is end:
                return out
            if kind is not scalar or event.tag is not None or event.anchor is not None:
                self.odd_key(event, depth)
                continue
            text = event.value
            key = keys.get(text)
            if key is None:
                key = keys[text] = text
                if not event.style and (text == "<<" or not text):
                    self.flawed = True
                if "${" in text:
                    self.flawed = True
            event = following()
            if key in out:
                self.flawed = True
                self.node(event, depth)
            elif event.__class__ is scalar and event.tag is None and event.anchor is None:
                text = event.value
                if event.style:
                    out[key] = (text,) if "${" in text else text
                elif text in values:
                    out[key] = values[text]
                else:
                    out[key] = values[text] = plain(text)
            else:
                out[key] = self.node(event, depth)

    def sequence(self, depth: int) -> list[Tree]:
        out: list[Tree] = []
        following, scalar, end = self.next, self.scalar, self.list_end
        values = self.values
        while True:
            event = following()
            if event.__class__ is end:
                return out
            if event.__class__ is scalar and event.tag is None and event.anchor is None:
                text = event.value
                if event.style:
                    out.append((text,) if "${" in text else text)
                elif text in values:
                    out.append(values[text])
                else:
                    value = values[text] = plain(text)
                    out.append(value)
            else:
                out.append(self.node(event, depth))

    def odd_key(self, event: Any, depth: int) -> None:
        """A key that is not a plain name: told by the second pass, its value is read over."""
        self.flawed = True
        self.node(event, depth)
        self.node(self.next(), depth)

    def scalar_value(self, event: Any) -> Tree:
        text: str = event.value
        style: str = event.style
        tag: str | None = event.tag
        if tag is None:
            return string(text) if style else plain(text)
        try:
            return tagged(tag, text, style)
        except (LookupError, ValueError):
            self.flawed = True
            return string(text)

    def check_tag(self, event: Any, wanted: str) -> None:
        tag = event.tag
        if tag is not None and tag not in ("!", CORE_TAG + wanted):
            self.flawed = True

    def aliased_value(self, anchor: str) -> Tree:
        if anchor not in self.anchors:
            self.flawed = True
            return BROKEN
        value = self.anchors[anchor]
        self.aliased += size(value, MAX_ALIASED)
        if self.aliased > MAX_ALIASED:
            raise TooManyAliasedError
        return value
