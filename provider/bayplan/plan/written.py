"""Maps that were written down as JSON: read when somebody looks into them, and not before.

A plan that changes nothing meets ten thousand records and as many labels, and all it asks of them is whether the two say the
same. Equal texts do (both sides write canonical JSON), so nothing is decoded until something differs.
"""

from __future__ import annotations

import json
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

_read = json.JSONDecoder().raw_decode
_NOTHING: Mapping[str, Any] = {}


def written(text: str) -> Mapping[str, Any]:
    """The map that ``text`` says. What is no JSON object says nothing, which is what labels made by others come to."""
    return _NOTHING if text == "{}" else Written(text)


def within(found: Mapping[str, Any], names: Mapping[str, Any]) -> bool:
    """Whether ``found`` has no key that ``names`` lacks; of a flat map told by its text."""
    if isinstance(found, Written):
        # A quote inside of a JSON text is escaped: '"name":' is a key. Texts may hold '":' too, which counts too many.
        text = found.text
        left = text.count('":')
        for name in names:
            if f'"{name}":' in text:
                left -= 1
        if not left:
            return True
    return found.keys() <= names.keys()


class Written(Mapping[str, Any]):
    """The map that ``text`` says; equal to every map that says the same."""

    __slots__ = ("_map", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._map: dict[str, Any] | None = None

    def read(self) -> dict[str, Any]:
        """The map itself."""
        if self._map is None:
            try:
                found, _ = _read(self.text)
            except ValueError:
                found = None
            self._map = found if isinstance(found, dict) else {}
        return self._map

    def __getitem__(self, key: str) -> Any:
        return self.read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.read())

    def __bool__(self) -> bool:
        return self.text.startswith('{"') or bool(self.read())

    def __len__(self) -> int:
        return len(self.read())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Written):
            return self.text == other.text or self.read() == other.read()
        return self.read() == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.read())

    def keys(self) -> KeysView[str]:
        return self.read().keys()

    def values(self) -> ValuesView[Any]:
        return self.read().values()

    def items(self) -> ItemsView[str, Any]:
        return self.read().items()
