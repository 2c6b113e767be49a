"""What the registry's account has set, and what of it counts with a push or a pull. Documents of the registry, by name."""

from __future__ import annotations

from collections.abc import Mapping

from bayplan.registry.access.model import Principal
from bayplan.registry.model import StoredManifest
from bayplan.registry.registry import Registry

SETTING = "account-setting/"
EXCLUSION = "pull-time-exclusion/"
#: The values of each setting (PutAccountSetting); the first is the default.
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "BASIC_SCAN_TYPE_VERSION": ("AWS_NATIVE",),
    "REGISTRY_POLICY_SCOPE": ("V2", "V1"),
    "BLOB_MOUNTING": ("ENABLED", "DISABLED"),
}
#: What a registry policy can allow or deny in the scope V1.
FIRST_SCOPE = frozenset({"ecr:CreateRepository", "ecr:ReplicateImage", "ecr:BatchImportUpstreamImage"})


def setting(registry: Registry, name: str) -> str:
    """The value of a setting."""
    return registry.document("", SETTING + name) or SETTINGS[name][0]


def note_pull(registry: Registry, repository: str, row: StoredManifest, principal: Principal) -> None:
    """Record a pull, unless those of the caller are excluded from that (RegisterPullTimeUpdateExclusion)."""
    if not principal.arn or registry.document("", EXCLUSION + principal.arn) is None:
        registry.note_pull(repository, row)
