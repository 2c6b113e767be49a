"""The one way in: every face ends in these calls, observe -> plan -> execute (DESIGN sections 2 and 4).

:class:`Engine` wires the pure planner, the executor and the places together and holds no decision of its own. A plan and
a check have no effect at all; locks are taken at the first effect.
"""

from bayplan.engine.definitions import Definitions, define
from bayplan.engine.engine import Applied, Engine, Planned, Settings
from bayplan.engine.identity import Drift, drift, import_object, move, rebuild, release

__all__ = [
    "Applied",
    "Definitions",
    "Drift",
    "Engine",
    "Planned",
    "Settings",
    "define",
    "drift",
    "import_object",
    "move",
    "rebuild",
    "release",
]
