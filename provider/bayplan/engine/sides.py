"""The recorded side of a plan: the rows of the state, set right by the labels that objects in the world bear.

The labels win: the state may be lost or lag behind. Where both say the same, which is nearly everywhere, no row is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bayplan.engine.definitions import references
from bayplan.engine.look import current
from bayplan.execute.values import holds_secret
from bayplan.plan.model import Desired, Observed, Recorded, Value, World
from bayplan.records import replace
from bayplan.state.rows import Rows


class Sides(Mapping[str, Recorded]):
    """What was recorded, by address."""

    def __init__(self, rows: Rows, world: World) -> None:
        self._rows = rows
        self._by_address: dict[str, Recorded] | None = None
        self._changed: dict[str, Recorded] = {}
        for address in world.objects:
            found = current(world.objects, address)
            if found is None or rows.says((found.place, address), found.uid, found.recorded) or not found.recorded:
                continue
            row = self._known().get(address)
            if row is None or row.uid != found.uid or row.place != found.place:
                self._changed[address] = replace(adopt(found, None), depends_on=row.depends_on if row else ())
            elif row.fields != found.recorded:
                self._changed[address] = replace(row, fields=found.recorded)

    def _known(self) -> dict[str, Recorded]:
        if self._by_address is None:
            self._by_address = {row.address: row for row in self._rows.values()}
        return self._by_address

    def __getitem__(self, address: str) -> Recorded:
        changed = self._changed.get(address)
        return self._known()[address] if changed is None else changed

    def __iter__(self) -> Iterator[str]:
        return iter({**{address: None for _, address in self._rows}, **self._changed})

    def __len__(self) -> int:
        return len({**{address: None for _, address in self._rows}, **self._changed})


def adopt(found: Observed, wanted: Desired | None) -> Recorded:
    """The row of an object that carries our identity: its labels are what was recorded."""
    values = {} if wanted is None else {k: v for k, v in wanted.properties.items() if not holds_secret(v)}
    plain = {name: value for name, value in values.items() if _is_plain(value)}
    return Recorded(
        address=found.address,
        kind=found.kind,
        place=found.place,
        uid=found.uid,
        id=found.id,
        fields=dict(found.recorded),
        values=plain,
        outputs=dict(found.outputs),
        depends_on=tuple({**dict.fromkeys(sorted(references(wanted.properties))), **wanted.depends_on})
        if wanted
        else (),
    )


def _is_plain(value: Value) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))
