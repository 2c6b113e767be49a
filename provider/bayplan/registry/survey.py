"""One quick look at many repositories: what a plan of ten thousand asks for before it knows that nothing changed.

One statement, one tuple a repository, and none of the registry's own modules: this room is all that such a plan imports of
the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from bayplan.oci.root import Root
from bayplan.registry.database import Database

#: Where the registry of a root keeps its rows, below the root.
DATABASE = "registry/registry.db"

#: (name, uid, mutability, resource tags as JSON, value of each label that was asked for or None)
Surveyed = tuple[str, ...]


def survey(root: Root, key: str, value: str, showing: Sequence[str]) -> list[Surveyed]:
    """The repositories that carry the label ``key`` = ``value``, in no order, with their labels ``showing``.

    A root without a registry has none, and none is made.
    """
    if not (root.path / DATABASE).exists():
        return []
    columns = ", (SELECT value FROM label WHERE repository = id AND key = ?)" * len(showing)
    query = (
        "SELECT name, uid, mutability, "  # noqa: S608
        f"(SELECT json_group_object(key, value) FROM resource_tag WHERE repository = id){columns} FROM repository "
        "WHERE id IN (SELECT repository FROM label WHERE key = ? AND value = ?)"
    )
    database = Database(root.path / DATABASE)
    try:
        rows = database.read(lambda db: db.execute(query, (*showing, key, value)).fetchall())
    finally:
        database.close()
    return cast("list[Surveyed]", rows)
