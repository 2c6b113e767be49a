"""The recorded side as a plan wants it: whole where something differs, and hardly touched where nothing does.

Of each row a plan asks first whether it is what the labels of the object in the world say. That takes its identity and the
digests of its fields; the rest (values, outputs, dependencies) is read for all rows at once when one of them is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from bayplan.plan.model import Recorded
from bayplan.plan.written import Written

#: (place, address)
Key = tuple[str, str]
#: Identity, digests of the fields as they were written, whether it was imported.
Mark = tuple[str, str, int]


class Rows(Mapping[Key, Recorded]):
    """Recorded resources by (place, address). ``whole`` reads them all; a row that is gone by then is in here no more."""

    def __init__(self, marks: Mapping[Key, Mark], whole: Callable[[], Mapping[Key, Recorded]]) -> None:
        self._marks = marks
        self._read = whole
        self._whole: Mapping[Key, Recorded] | None = None

    def says(self, key: Key, uid: str, fields: Mapping[str, Any]) -> bool:
        """Whether there is a row under ``key`` of this identity and these digests."""
        mark = self._marks.get(key)
        if mark is None or mark[0] != uid:
            return False
        if isinstance(fields, Written) and fields.text == mark[1]:
            return True
        return bool(Written(mark[1]) == fields)

    def imported(self) -> list[Recorded]:
        """The rows of objects that bear no identity of ours."""
        return [self[key] for key, mark in self._marks.items() if mark[2]]

    def of(self, places: Container[str]) -> Rows:
        """The rows of these places."""
        marks = {key: mark for key, mark in self._marks.items() if key[0] in places}
        return self if len(marks) == len(self._marks) else Rows(marks, lambda: self._rows())

    def _rows(self) -> Mapping[Key, Recorded]:
        if self._whole is None:
            whole = self._read()
            self._marks = {key: mark for key, mark in self._marks.items() if key in whole}
            self._whole = whole
        return self._whole

    def __getitem__(self, key: Key) -> Recorded:
        if key not in self._marks:
            raise KeyError(key)
        return self._rows()[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._marks)

    def __len__(self) -> int:
        return len(self._marks)

    def values(self) -> Any:
        rows = self._rows()
        return [rows[key] for key in self._marks]

    def items(self) -> Any:
        rows = self._rows()
        return [(key, rows[key]) for key in self._marks]

    def __repr__(self) -> str:
        return repr(dict(self.items()))
