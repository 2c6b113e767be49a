"""``RUN --mount=``: the comma-separated fields, checked once as written and read again with the variables filled in."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from bayplan.build.dockerfile.durations import size_in_bytes
from bayplan.build.dockerfile.model import RunMount
from bayplan.errors import BayplanError, Where, nearest
from bayplan.records import dataclass

_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_FLAGS = frozenset({"readonly", "readwrite", "required"})
_KEYS = frozenset(
    {
        "type",
        "from",
        "source",
        "target",
        "readonly",
        "readwrite",
        "id",
        "sharing",
        "required",
        "size",
        "mode",
        "uid",
        "gid",
        "env",
    }
)


class MountType(StrEnum):
    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"  # noqa: S105 - the name of a mount type


@dataclass(frozen=True, slots=True)
class MountSpec:
    """One mount with its values. ``mode`` is octal already read; None where it is not given."""

    type: MountType
    target: str
    source: str = ""
    from_stage: str = ""
    read_only: bool = False
    size: int | None = None
    cache_id: str = ""
    sharing: str = "shared"
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int = 0
    gid: int = 0


def split_fields(text: str, where: Where) -> RunMount:
    """``type=bind,source=a`` -> its fields; a field in double quotes may hold commas (CSV)."""
    import csv

    row = next(csv.reader([text]), [])
    fields: list[tuple[str, str | None]] = []
    for field in row:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        fields.append((_ALIASES.get(key, key), value if equals else None))
    return RunMount(tuple(fields), where)


def check(mount: RunMount) -> None:
    """Find the mistakes that need no variable's value. Raises BayplanError."""
    for key, value in mount.fields:
        if key == "from" and value and "$" in value:
            hint = "name a stage: FROM $IMAGE AS NAME, then from=NAME"
            raise BayplanError("dockerfile-syntax", "from= of a mount takes no variable", hint=hint)
        if key not in _KEYS:
            close = nearest(key, sorted(_KEYS))
            hint = f"did you mean {close}?" if close else "the keys are " + ", ".join(sorted(_KEYS))
            raise BayplanError("unknown-flag", f"a mount has no key {key!r}", hint=hint)
        if value is None and key not in _FLAGS:
            raise BayplanError("dockerfile-syntax", f"the key {key!r} of a mount needs a value")
    if not any(value and "$" in value for _, value in mount.fields):
        resolve(mount, lambda text: text)


def resolve(mount: RunMount, expand: Callable[[str], str]) -> MountSpec:
    """The mount with its variables filled in. Raises BayplanError (at the mount's place)."""
    values = {key: expand(value) if value is not None else "true" for key, value in mount.fields}
    try:
        return _resolve(values)
    except ValueError as error:
        raise BayplanError("dockerfile-syntax", str(error), where=mount.where) from None
    except BayplanError as error:
        error.where = mount.where
        raise


def _resolve(values: dict[str, str]) -> MountSpec:
    name = values.get("type", "bind").lower()
    if name == "ssh":
        hint = "hand the key over with type=secret"
        raise BayplanError("not-supported", "RUN --mount=type=ssh is not offered by this build", hint=hint)
    if name not in MountType.__members__.values():
        close = nearest(name, list(MountType))
        hint = f"did you mean {close}?" if close else "the types are " + ", ".join(MountType)
        raise BayplanError("dockerfile-syntax", f"there is no mount type {name!r}", hint=hint)
    kind = MountType(name)
    for key, kinds in _ONLY.items():
        if key in values and kind not in kinds:
            raise ValueError(f"the key {key!r} does not belong to a mount of type {kind}")
    writable = kind in (MountType.CACHE, MountType.TMPFS)
    if "readonly" in values:
        writable = not _boolean("readonly", values["readonly"])
    if "readwrite" in values:
        writable = _boolean("readwrite", values["readwrite"])
    target = values.get("target", "")
    source = values.get("source", "")
    if kind is MountType.SECRET:
        identity = values.get("id") or source or target.rpartition("/")[2]
        if not identity:
            raise ValueError("a secret mount needs id=")
        if not target and "env" not in values:
            target = f"/run/secrets/{identity}"
        return MountSpec(
            kind,
            target,
            read_only=True,
            cache_id=identity,
            required=_boolean("required", values.get("required", "false")),
            env=(values["env"] or identity) if "env" in values else None,
            mode=_number("mode", values.get("mode", "0400"), 8),
            uid=_number("uid", values.get("uid", "0"), 10),
            gid=_number("gid", values.get("gid", "0"), 10),
        )
    if not target:
        raise ValueError(f"a mount of type {kind} needs target=")
    sharing = values.get("sharing", "shared").lower()
    if sharing not in ("shared", "private", "locked"):
        raise ValueError(f"sharing={sharing} is not shared, private or locked")
    return MountSpec(
        kind,
        target,
        source,
        values.get("from", ""),
        not writable,
        size_in_bytes(values["size"]) if "size" in values else None,
        values.get("id", "") or target,
        sharing,
        mode=_number("mode", values["mode"], 8) if "mode" in values else None,
        uid=_number("uid", values.get("uid", "0"), 10),
        gid=_number("gid", values.get("gid", "0"), 10),
    )


_ONLY: dict[str, tuple[MountType, ...]] = {
    "size": (MountType.TMPFS,),
    "sharing": (MountType.CACHE,),
    "required": (MountType.SECRET,),
    "env": (MountType.SECRET,),
    "from": (MountType.BIND, MountType.CACHE),
    "mode": (MountType.CACHE, MountType.SECRET),
    "uid": (MountType.CACHE, MountType.SECRET),
    "gid": (MountType.CACHE, MountType.SECRET),
}


def _boolean(key: str, text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise ValueError(f"{key}={text} is not true or false")


def _number(key: str, text: str, radix: int) -> int:
    try:
        value = int(text, radix)
    except ValueError:
        value = -1
    if not 0 <= value < 2**32:
        raise ValueError(f"{key}={text} is not a number")
    return value


def at_target(spec: MountSpec, target: str) -> MountSpec:
    """The same mount with its target made absolute."""
    from bayplan.records import replace

    cache_id = target if spec.type is MountType.CACHE and spec.cache_id == spec.target else spec.cache_id
    return replace(spec, target=target, cache_id=cache_id)
