"""Which vaults a registry has: each described by a document of the registry, so that every process of the root finds it.

A vault's name says where it is and under which key; a repository keeps the name that it was made with. The descriptions hold no
secret: paths, addresses, ids of keys.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.records import dataclass
from bayplan.registry.storage.bucket import Bucket
from bayplan.registry.storage.vault import Vault

if TYPE_CHECKING:
    from bayplan.registry.registry import Registry

PREFIX = "vault/"
#: The vault of repositories that say nothing else; empty: the root's own store.
DEFAULT = "vault-default"
#: What vaults under a key of AWS KMS are made from.
KMS = "vault-kms"
_FOLDER = "registry/vaults"


@dataclass(frozen=True, slots=True)
class Placing:
    """How a server has new repositories kept. ``bucket`` and ``second``: settings of S3 buckets; ``key_file``: new repositories are
    sealed with it; ``kms``: where AWS KMS is and its default ``key``, for repositories that want it."""

    bucket: Mapping[str, Any] | None = None
    second: Mapping[str, Any] | None = None
    key_file: Path | None = None
    kms: Mapping[str, Any] | None = None


def described(placing: Placing, kms_key: str | None = None) -> tuple[str, dict[str, Any]]:
    """(name, description) of the vault for new repositories; with ``kms_key`` of one under that key of KMS. The name is empty where
    it is the root's own store."""
    said: dict[str, Any] = {}
    if placing.bucket is not None:
        said["bucket"] = dict(placing.bucket)
        if placing.second is not None:
            said["second"] = dict(placing.second)
    if kms_key is not None:
        said["kms"] = {**(placing.kms or {}), "key": kms_key}
    elif placing.key_file is not None:
        said["key_file"] = str(placing.key_file)
    if not said:
        return "", {}
    # Where it is makes it another one, not how it is reached or which keys its file holds now.
    telling = [said.get("bucket", {}).get("bucket"), said.get("bucket", {}).get("prefix"), kms_key, "key_file" in said]
    kind = "-".join(name for name in ("bucket", "kms", "key_file") if name in said).replace("_", "-")
    return f"{kind}-{hashlib.sha256(json.dumps(telling).encode()).hexdigest()[:12]}", said


def settle(registry: Registry, placing: Placing) -> None:
    """Have the registry keep new repositories as ``placing`` says. Raises BayplanError ``storage-unreachable``, ``bad-key-file`` for
    what cannot be used: better now than with the first push."""
    name, said = described(placing)
    before = registry.document("", DEFAULT)
    for there, text in registry.documents("", PREFIX):
        reached = json.dumps(_reached(json.loads(text), placing))
        if reached != text:
            registry.set_document("", there, reached)
    if name:
        registry.set_document("", PREFIX + name, json.dumps(said))
        vault = registry.vault(name)
        for bucket in filter(None, (vault.bucket, vault.second)):
            bucket.check()
    if (before or "") != name:
        registry.set_document("", DEFAULT, name or None)
    kms = (
        None
        if placing.kms is None
        else json.dumps({"kms": dict(placing.kms), "bucket": placing.bucket, "second": placing.second})
    )
    if registry.document("", KMS) != kms:
        registry.set_document("", KMS, kms)


def _reached(said: dict[str, Any], placing: Placing) -> dict[str, Any]:
    """A vault's description with its bucket, key file and KMS reached as the configuration says now."""
    now = dict(said)
    bucket = placing.bucket
    if bucket is not None and "bucket" in said and _place(bucket) == _place(said["bucket"]):
        now["bucket"] = dict(bucket)
        now.pop("second", None)
        if placing.second is not None:
            now["second"] = dict(placing.second)
    if placing.kms is not None and "kms" in said:
        now["kms"] = {**placing.kms, "key": said["kms"]["key"]}
    if placing.key_file is not None and "key_file" in said:
        now["key_file"] = str(placing.key_file)
    return now


def _place(bucket: Mapping[str, Any]) -> tuple[str, str]:
    return bucket["bucket"], bucket.get("prefix", "")


def under_kms(registry: Registry, key: str | None) -> str | None:
    """The name of the vault for a repository under a key of KMS (None: the configured one); None where there is no KMS."""
    text = registry.document("", KMS)
    if text is None:
        return None
    said = json.loads(text)
    name, description = described(Placing(said["bucket"], said["second"], None, said["kms"]), key or said["kms"]["key"])
    registry.add_document("", PREFIX + name, json.dumps(description))
    return name


class Vaults:
    """The vaults of a root's registry. ``read`` gives a document of the registry by its name. Any thread may ask."""

    def __init__(self, root: Root, read: Callable[[str], str | None]) -> None:
        self._root = root
        self._read = read
        self._known: dict[str, tuple[str, float, Vault]] = {}
        self._guard = threading.Lock()

    def get(self, name: str) -> Vault:
        """A vault by its name. Raises BayplanError ``no-vault``, ``bad-key-file``."""
        text = self._read(PREFIX + name)
        if text is None:
            raise BayplanError("no-vault", f"the registry has no storage {name!r} any more, in which a repository lies")
        said = json.loads(text)
        changed = (
            Path(said["key_file"]).stat().st_mtime if "key_file" in said and Path(said["key_file"]).exists() else 0.0
        )
        with self._guard:
            known = self._known.get(name)
            if known is None or known[:2] != (text, changed):
                known = (text, changed, self._made(name, said))
                self._known[name] = known
            return known[2]

    def _made(self, name: str, said: Mapping[str, Any]) -> Vault:
        from bayplan.registry.storage.keys import FileKeys, KmsKeys
        from bayplan.registry.storage.sealing import Keyring

        keys: Keyring | None = None
        if "key_file" in said:
            keys = FileKeys(Path(said["key_file"]))
        elif "kms" in said:
            keys = KmsKeys(said["kms"], name)
        bucket = Bucket(said["bucket"]) if "bucket" in said else None
        second = Bucket(said["second"]) if "second" in said else None
        return Vault(self._root.path / _FOLDER / name, keys, bucket, second)
