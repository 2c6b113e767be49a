"""The Pulumi face: `pulumi-resource-bayplan`, a resource provider on the raw stubs of Pulumi's provider protocol.

It is thin. Check and Diff compare what a program says with what it said before, by the schemas alone; Create, Read, Update
and Delete hand single resources to the engine that every face calls (DESIGN section 5 says who is who). Whoever only asks
for the schema or a preview pays for no engine: it is imported at the first effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayplan import rooms

if TYPE_CHECKING:
    from bayplan.pulumi.main import command

__getattr__ = rooms.names(__name__, {"command": "main"})

__all__ = ["command"]
