"""Storage classes of images: standard, or the archive, out of which an image is brought back before it can be pulled.

The archive here is a state and no other place: an archived image keeps its bytes, is listed, and is refused to whoever pulls it.
It stands as a document of the repository, in which the times of both directions are kept (Unix seconds).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from bayplan.records import dataclass
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.registry import Registry

_PREFIX = "storage-class/"
STANDARD, ARCHIVE = "STANDARD", "ARCHIVE"


@dataclass(frozen=True, slots=True)
class State:
    """``archived``: when the image last went into the archive, ``activated``: when it last came out; Unix seconds."""

    archived: float | None = None
    activated: float | None = None

    @property
    def is_archived(self) -> bool:
        return self.archived is not None and (self.activated is None or self.activated < self.archived)


_FRESH = State()


def _read(text: str | None) -> State:
    return _FRESH if text is None else State(**json.loads(text))


def states(registry: Registry, uid: str) -> Mapping[str, State]:
    """By digest, the images of a repository that ever were in the archive."""
    return {key.removeprefix(_PREFIX): _read(text) for key, text in registry.documents(uid, _PREFIX)}


def state(registry: Registry, repository: str, digest: str) -> State:
    """The state of one image of the repository of that name."""
    return _read(registry.repository_document(repository, _PREFIX + digest))


def move(registry: Registry, uid: str, digest: str, target: str, now: float) -> State:
    """Bring an image of a repository (by its uid) into a storage class; its state then."""
    before = _read(registry.document(uid, _PREFIX + digest))
    if before.is_archived == (target == ARCHIVE):
        return before
    after = State(now, before.activated) if target == ARCHIVE else State(before.archived, now)
    registry.set_document(uid, _PREFIX + digest, json.dumps({"archived": after.archived, "activated": after.activated}))
    return after


def require_active(registry: Registry, repository: str, digest: str) -> None:
    """Raises RegistryError ``denied`` for an image in the archive."""
    if state(registry, repository, digest).is_archived:
        raise RegistryError(
            Fault.DENIED,
            f"the image {digest} is archived",
            hint="aws ecr update-image-storage-class --target-storage-class STANDARD brings it back",
        )
