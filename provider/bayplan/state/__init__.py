"""What bayplan remembers of a stack: recorded resources, the write-ahead journal, runs, locks.

The world carries identity (labels, deterministic names, digests), so that this is a cache plus a history: it can be made
again from the world, and a run that finds it missing adopts what it sees. One SQLite file a stack; nothing secret in it.
"""

from bayplan.state.locks import Lock
from bayplan.state.store import Phase, RunRow, State, StepRow

__all__ = ["Lock", "Phase", "RunRow", "State", "StepRow"]
