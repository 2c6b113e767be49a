"""From files to a stack: YAML and JSON with positions, variables, loops, references, includes, secrets.

``load`` is the one way in. What it gives is plain data (:mod:`.model`), resolved as far as the files alone allow; what it
raises are all the mistakes of the files at once. The room knows the kinds and nothing above them: no plan, no place, no
network.
"""

from __future__ import annotations

from bayplan.stack.loading import load
from bayplan.stack.model import NO_LIFECYCLE, Condition, Lifecycle, Resource, Stack, edges
from bayplan.stack.secrets import Secrets

__all__ = ["NO_LIFECYCLE", "Condition", "Lifecycle", "Resource", "Secrets", "Stack", "edges", "load"]
