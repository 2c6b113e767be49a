"""From a loaded stack to what the planner calls desired: places, names, canonical properties, all edges.

Names are given here (``<stack>-<name>`` where none is declared), image names that an Image of the stack declares become
references to it, files of environment variables are read, and every property takes the canonical form of its kind. What
needs a look at the world (a foreign image's digest) is left to :mod:`bayplan.engine.look`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from bayplan import kinds
from bayplan.engine.registries import home_of, with_names
from bayplan.errors import BayplanError
from bayplan.kinds.expressions import Ref, SecretRef, Template
from bayplan.plan.model import Condition, Desired, Lifecycle, Value
from bayplan.records import dataclass, field, replace
from bayplan.stack import Resource, Stack
from bayplan.stack.model import NO_LIFECYCLE
from bayplan.stack.secrets import SecretOrigin, Secrets

_PLACE_PROPERTIES = frozenset(("host", "registry"))
_NO_LIFECYCLE = Lifecycle()
_NO_DEPENDENCIES: Mapping[str, Condition] = {}
_SECRET_FILE = "env_file:"  # noqa: S105  (a prefix of names, no secret)


@dataclass(frozen=True, slots=True)
class Definitions:
    """A stack as the planner wants it, and where its secrets come from.

    ``secrets`` fetches a value; ``secret_sources`` says the same as plain data (where each comes from, never what it is),
    so that a saved plan can fetch them again. ``registries`` are the declared ones by alias.
    """

    stack: str
    desired: Mapping[str, Desired]
    outputs: Mapping[str, Value]
    secrets: Callable[[str], str]
    secret_sources: Mapping[str, Value] = field(default_factory=dict)
    registries: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)


def define(stack: Stack, root: Path) -> Definitions:
    """Raises BayplanErrors for what only shows when the whole stack is seen (two Images of one tag)."""
    stack = with_names(stack)
    tags = {**_push_targets(stack), **_declared_tags(stack)}
    place = home_of(root)
    grounds = _grounds(stack)
    return Definitions(
        stack.name,
        {address: _desired(stack.name, one, place, tags, grounds) for address, one in stack.resources.items()},
        stack.outputs,
        secret_source(stack.secrets),
        secret_sources(stack.secrets),
        stack.registries,
    )


def _declared_tags(stack: Stack) -> dict[str, str]:
    """Canonical image name -> address of the Image that declares it."""
    found: dict[str, str] = {}
    for address, resource in stack.resources.items():
        if resource.kind != "Image":
            continue
        for index, tag in enumerate(resource.properties.get("tags") or ()):
            if not isinstance(tag, str):
                continue
            name = canonical(tag)
            if found.setdefault(name, address) != address:
                raise BayplanError(
                    "duplicate-tag",
                    f"{address} and {found[name]} both declare the tag {tag}",
                    where=resource.position(("tags", index)),
                    hint="give each Image tags of its own",
                )
    return found


def _push_targets(stack: Stack) -> dict[str, str]:
    """Name under which an Image is pushed (canonical, or as written where it waits for a Repository) -> its address."""
    return {
        canonical(target) if isinstance(target, str) else str(target): address
        for address, resource in stack.resources.items()
        if resource.kind == "Image"
        for target in resource.properties.get("push") or ()
    }


def _grounds(stack: Stack) -> dict[tuple[str, str], str]:
    """(Network or Volume, name on the host) -> address: a name written out is as good as a reference to its owner."""
    return {
        (one.kind, _name(stack.name, one, one.properties)): address
        for address, one in stack.resources.items()
        if one.kind in ("Network", "Volume")
    }


def _referring(given: dict[str, Value], grounds: Mapping[tuple[str, str], str]) -> dict[str, Value]:
    """A container's networks and volumes, with names that the stack declares turned into references."""

    def network(value: Value) -> Value:
        if isinstance(value, Mapping):
            return {**value, "name": network(value.get("name"))}
        owner = grounds.get(("Network", value)) if isinstance(value, str) else None
        return value if owner is None else Ref(owner, "name")

    def volume(value: Value) -> Value:
        name, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
        owner = grounds.get(("Volume", name))
        return value if owner is None else Template((Ref(owner, "name"), f"{colon}{rest}"))

    if given.get("networks"):
        given["networks"] = [network(one) for one in given["networks"]]
    if given.get("volumes"):
        given["volumes"] = [volume(one) for one in given["volumes"]]
    return given


def _desired(
    stack: str,
    resource: Resource,
    place: str,
    tags: Mapping[str, str],
    grounds: Mapping[tuple[str, str], str],
) -> Desired:
    given = resource.properties
    if "host" in given or "registry" in given:
        given = {name: value for name, value in given.items() if name not in _PLACE_PROPERTIES}
    if resource.kind == "Container":
        given = _referring(_with_env_files(dict(given)), grounds)
        image = given.get("image")
        owner = tags.get(canonical(image) if isinstance(image, str) else str(image))
        if owner is not None:
            given["image"] = Ref(owner, "ref")
    normal = kinds.normalise(resource.kind, given)
    return Desired(
        address=resource.address,
        kind=resource.kind,
        name=_name(stack, resource, normal),
        place=place,
        properties=normal,
        depends_on={address: Condition(one) for address, one in resource.depends_on.items()}
        if resource.depends_on
        else _NO_DEPENDENCIES,
        lifecycle=_NO_LIFECYCLE if resource.lifecycle is NO_LIFECYCLE else _lifecycle(resource),
        positions=resource.positions,
    )


def _lifecycle(resource: Resource) -> Lifecycle:
    return Lifecycle(resource.lifecycle.prevent_destroy, frozenset(resource.lifecycle.ignore_changes))


def _name(stack: str, resource: Resource, properties: Mapping[str, Value]) -> str:
    """The name on the host: the declared one, else ``<stack>-<name>``; an Image has none but its tags."""
    if resource.kind == "Image":
        return ""
    declared = properties.get("repository_name" if resource.kind == "Repository" else "name")
    return declared if isinstance(declared, str) else f"{stack}-{resource.name}"


def with_bases(desired: Desired, bases: Mapping[str, str]) -> Desired:
    """``desired`` with an edge to each Image of the stack that its definition stands on."""
    edges = {address: Condition.STARTED for address in bases.values() if address != desired.address}
    return replace(desired, depends_on={**edges, **desired.depends_on})


def canonical(name: str) -> str:
    """An image name in its one form."""
    from bayplan.oci.reference import ImageName

    return ImageName.parse(name).canonical()


def declared_tags(definitions: Definitions) -> dict[str, str]:
    """Canonical image name -> address, from desired resources."""
    return {
        canonical(tag): one.address
        for one in definitions.desired.values()
        if one.kind == "Image"
        for tag in one.properties.get("tags") or ()
        if isinstance(tag, str)
    }


def references(value: Value) -> set[str]:
    """Addresses that stand anywhere in ``value``."""
    if isinstance(value, Ref):
        return {value.address}
    if isinstance(value, Template):
        return {part.address for part in value.parts if isinstance(part, Ref)}
    if isinstance(value, Mapping):
        return set().union(*map(references, value.values())) if value else set()
    if isinstance(value, (list, tuple)):
        return set().union(*map(references, value)) if value else set()
    return set()


def _with_env_files(given: dict[str, Value]) -> dict[str, Value]:
    """``env_file`` read into ``env`` as secrets: such files are where people keep them. ``env`` itself wins."""
    files = given.pop("env_file", None)
    if not files:
        return given
    merged: dict[str, Value] = {}
    for file in [files] if isinstance(files, str) else files:
        for key in parse_env_file(Path(file)):
            merged[key] = SecretRef(f"{_SECRET_FILE}{file}:{key}")
    return {**given, "env": {**merged, **(given.get("env") or {})}}


def parse_env_file(path: Path) -> dict[str, str]:
    """``KEY=value`` lines as ``docker run --env-file`` reads them: ``#`` comments, no quoting, bare ``KEY`` inherits."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BayplanError(
            "env-file", f"the file of environment variables {path} cannot be read: {error}", hint="look at env_file"
        ) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.lstrip()
        if not text or text.startswith("#"):
            continue
        key, equals, value = text.partition("=")
        if not key or key != key.strip() or " " in key:
            raise BayplanError("env-file", f"{path}:{number}: '{key}' is no name of an environment variable")
        if equals:
            found[key] = value
        elif key in os.environ:
            found[key] = os.environ[key]
    return found


def secret_source(secrets: Secrets) -> Callable[[str], str]:
    """Fetches by name: the stack's secrets, its sensitive variables, entries of ``env_file``."""
    files: dict[str, dict[str, str]] = {}

    def fetch(name: str) -> str:
        if name.startswith(_SECRET_FILE):
            file, _, key = name.removeprefix(_SECRET_FILE).rpartition(":")
            if file not in files:
                files[file] = parse_env_file(Path(file))
            if key not in files[file]:
                raise BayplanError("env-file", f"{file} no longer gives {key}", hint="plan again")
            return files[file][key]
        return secrets.value(name)

    return fetch


def secret_sources(secrets: Secrets) -> dict[str, Value]:
    """Where each secret comes from, as plain data."""
    return {
        name: {
            "env": origin.env,
            "file": str(origin.file) if origin.file else "",
            "command": list(origin.command),
            "folder": str(origin.folder),
        }
        for name, origin in secrets.origins.items()
    }


def secrets_again(sources: Mapping[str, Value], environ: Mapping[str, str], given: Mapping[str, str]) -> Secrets:
    """The other way round of :func:`secret_sources`; ``given`` are sensitive variables by their full names."""
    origins = {
        name: SecretOrigin(
            env=source["env"],
            file=Path(source["file"]) if source["file"] else None,
            command=tuple(source["command"]),
            folder=Path(source["folder"]),
        )
        for name, source in sources.items()
    }
    return Secrets(origins, environ, given)
