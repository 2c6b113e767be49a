"""Who asks: see :mod:`.model`, where it stands."""

from __future__ import annotations

from bayplan.registry.access.model import ANONYMOUS, Principal, PrincipalKind

__all__ = ["ANONYMOUS", "Principal", "PrincipalKind"]
