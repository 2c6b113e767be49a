"""From the entries under ``resources`` to resources: checked, loops unrolled, expressions evaluated.

Two ways lead through this module. The common resource (no expression, no loop, no dependency, nothing wrong) takes the
short one: a handful of dictionary look-ups and one compiled check, 3 microseconds in all. Everything else takes the long
one, in which every step can say what is wrong and where.

``for_each`` makes one resource for each entry, with the address ``Kind.name[key]`` and the name ``name-key``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from bayplan import kinds
from bayplan.errors import BayplanError
from bayplan.kinds.check import NAME
from bayplan.kinds.expressions import Ref, SecretRef, Template
from bayplan.records import replace
from bayplan.stack.evaluate import Evaluation, Scope, Use, references
from bayplan.stack.graph import missing
from bayplan.stack.model import NO_DEPENDENCIES, NO_LIFECYCLE, Condition, Lifecycle, Resource
from bayplan.stack.scalars import BROKEN, Tree
from bayplan.stack.sections import twice
from bayplan.stack.shapes import Shape, error_of, shapes
from bayplan.stack.source import Source
from bayplan.stack.words import did_you_mean, quoted, shown

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_META = frozenset(kinds.COMMON)
_CONDITIONS = ("started", "healthy")


class Resources:
    """All resources of a stack in the making. Mistakes go to ``errors``, references to ``uses``."""

    def __init__(self, places: Mapping[str, Mapping[str, Any]], errors: list[BayplanError]) -> None:
        self.places = places  # "host" and "registry" -> what is declared by name
        self.errors = errors
        self.uses: list[Use] = []
        self.found: dict[str, Resource] = {}
        self.instances: dict[str, tuple[str, ...] | None] = {}
        self._first: dict[str, Source] = {}
        self._slow: list[tuple[str, Shape, Source, dict[str, Tree]]] = []

    # -- the short way ---------------------------------------------------------------------------------------------

    def read(self, source: Source) -> frozenset[str]:
        """Takes up the entries of a file; what is common is done with this, the rest waits for :meth:`finish`.

        The result are the keys of the rest. Where the cache gave them (``source.special``), the others were found right
        before.
        """
        entries = source.tree.get("resources") if isinstance(source.tree, dict) else None
        if not isinstance(entries, dict):
            return frozenset()
        named, make = re.compile(NAME).match, tuple.__new__
        found, first, places, known = self.found, self._first, self.places, shapes()
        before = source.special
        special: list[str] = []
        for key, given in entries.items():
            kind, _, name = key.partition(".")
            shape = known.get(kind)
            if shape is None or key in first or not named(name):
                self._bad_key(key, source)
                special.append(key)
                continue
            first[key] = source
            if (
                key not in before
                if before is not None
                else given.__class__ is dict and _META.isdisjoint(given) and not shape.problems(given)
            ):
                place = shape.place
                if place not in given or given[place] in places[place]:
                    properties = shape.absolute(given, source.folder) if shape.has_paths else given
                    # Resource(...) by its parts: half the time of its own constructor
                    found[key] = make(
                        Resource, (key, kind, name, properties, NO_DEPENDENCIES, NO_LIFECYCLE, (), source, key)
                    )
                    continue
            else:
                special.append(key)
            self._slow.append((key, shape, source, given))
        return frozenset(special)

    def _bad_key(self, key: str, source: Source) -> None:
        if key in self._first:
            self.errors.append(twice(source, "resources", key, self._first[key]))
            return
        problem = kinds.validate_address(key)
        if problem is not None and key != "<<":
            self.errors.append(error_of(problem, source, ("resources", key)))

    # -- the long way ----------------------------------------------------------------------------------------------

    def finish(self, scope: Scope, order: Sequence[Source]) -> dict[str, Resource]:
        """All resources in the order of the files. ``scope`` knows variables and secrets."""
        if not self._slow:
            return self.found
        self.instances.update(dict.fromkeys(self.found))
        loops: dict[str, list[tuple[str, Any]] | None] = {}
        for key, _, source, given in self._slow:
            loops[key] = self._loop(key, source, given, scope)
            entries = loops[key]
            self.instances[key] = None if entries is None else tuple(one for one, _ in entries)
        inner = replace(scope, instances=self.instances)
        made: dict[str, list[Resource]] = {}
        for key, shape, source, given in self._slow:
            made[key] = self._make(key, shape, source, given, inner, loops[key])
        out: dict[str, Resource] = {}
        for source in order:
            entries_of = source.tree.get("resources") if isinstance(source.tree, dict) else None
            for key in entries_of if isinstance(entries_of, dict) else ():
                if self._first.get(key) is not source:
                    continue
                if key in self.found:
                    out[key] = self.found[key]
                for resource in made.get(key, ()):
                    out[resource.address] = resource
        self._check_names(made, loops)
        return out

    def _check_names(self, made: Mapping[str, list[Resource]], loops: Mapping[str, object]) -> None:
        """A loop's names (``web[blue]`` is ``web-blue`` on the host) meet no other resource's."""
        taken = {key for key, entries in loops.items() if entries is None} | self.found.keys()
        for key, resources in made.items():
            for resource in resources if loops[key] is not None else ():
                name = f"{resource.kind}.{resource.name}"
                if name in taken:
                    message = f"{resource.address} has the name {resource.name}, which another {resource.kind} has"
                    path = ("resources", key)
                    self.errors.append(
                        resource.source.error("duplicate-name", message, path, key=True, hint="rename one")
                    )
                taken.add(name)

    def _loop(self, key: str, source: Source, given: Tree, scope: Scope) -> list[tuple[str, Any]] | None:
        """The entries of a resource's for_each; None where it has none."""
        if not isinstance(given, dict) or "for_each" not in given:
            return None
        path = ("resources", key, "for_each")
        outer = replace(scope, instances=None, nothing_waits="for_each")
        evaluation = Evaluation(source, outer, self.errors, self.uses)
        value = evaluation.tree(given["for_each"], path)
        if evaluation.failed:
            return []
        if isinstance(value, dict):
            entries = list(value.items())
        elif isinstance(value, list) and all(
            isinstance(one, (str, int)) and not isinstance(one, bool) for one in value
        ):
            entries = [(str(one), one) for one in value]
        else:
            message = f"for_each of {key} must be a list of texts or a map, not {shown(value)}"
            self.errors.append(source.error("wrong-type", message, path, key=True, hint="for example [blue, green]"))
            return []
        seen: set[str] = set()
        for index, (name, _) in enumerate(entries):
            place = (*path, name if isinstance(value, dict) else index)
            if not _KEY.fullmatch(name):
                message = f"{quoted(name)} is no key of for_each: it becomes part of an address"
                hint = "letters, digits and _ . - make a key; use a map to give it another value"
                self.errors.append(source.error("bad-address", message, place, key=True, hint=hint))
            elif name in seen:
                self.errors.append(source.error("repeated-item", f"for_each of {key} names {name} twice", place))
            seen.add(name)
        return entries

    def _make(
        self,
        key: str,
        shape: Shape,
        source: Source,
        given: Tree,
        scope: Scope,
        entries: list[tuple[str, Any]] | None,
    ) -> list[Resource]:
        if given is None:
            given = {}
        if given == BROKEN:
            return []
        if not isinstance(given, dict):
            message = f"{key} must be a map of properties, not {shown(given)}"
            self.errors.append(source.error("wrong-type", message, ("resources", key), key=True))
            return []
        if entries is None:
            return [self._one(key, key, shape, source, given, scope)]
        return [
            self._one(key, f"{key}[{name}]", shape, source, given, replace(scope, each=(name, value)))
            for name, value in entries
        ]

    def _one(
        self, key: str, address: str, shape: Shape, source: Source, given: dict[str, Tree], scope: Scope
    ) -> Resource:
        path = ("resources", key)
        evaluation = Evaluation(source, scope, self.errors, self.uses)
        properties: dict[str, Any] = {
            name: evaluation.tree(value, (*path, name)) for name, value in given.items() if name not in _META
        }
        problems = shape.problems(properties)
        if "<<" in given:  # told by the reader; what it should have brought is not missed besides
            problems = [one for one in problems if one.path and one.path != ("<<",)]
        self.errors.extend(error_of(problem, source, path) for problem in problems)
        self._check_place(shape, properties, source, path)
        depends_on = self._depends_on(key, given.get("depends_on"), evaluation) if "depends_on" in given else {}
        lifecycle = (
            self._lifecycle(key, shape, given["lifecycle"], evaluation) if "lifecycle" in given else NO_LIFECYCLE
        )
        _, _, name = address.partition(".")
        return Resource(
            address,
            shape.name,
            name.replace("[", "-").removesuffix("]"),
            shape.absolute(properties, source.folder),
            depends_on or NO_DEPENDENCIES,
            lifecycle,
            tuple(references(properties)),
            source,
            key,
        )

    def _check_place(self, shape: Shape, properties: Mapping[str, Any], source: Source, path: tuple[str, str]) -> None:
        """``host`` and ``registry`` name what is declared."""
        word = shape.place
        given = properties.get(word)
        if isinstance(given, (Ref, SecretRef, Template)) and given != BROKEN:
            message = f"{word} of {path[1]} cannot wait for a resource or a secret"
            self.errors.append(source.error("misplaced-reference", message, (*path, word), hint="use a variable"))
        if not isinstance(given, str) or given in self.places[word]:
            return
        section = "hosts" if word == "host" else "registries"
        hint = did_you_mean(given, list(self.places[word]), f"declare {given} under `{section}`")
        self.errors.append(source.error(f"unknown-{word}", f"there is no {word} {given}", (*path, word), hint=hint))

    def _depends_on(self, key: str, given: Tree, evaluation: Evaluation) -> dict[str, Condition]:
        """Both forms: a list of addresses (each started), or a map of addresses to what is waited for."""
        path = ("resources", key, "depends_on")
        source, out = evaluation.source, dict[str, Condition]()
        value = evaluation.tree(given, path)
        if isinstance(value, list):
            pairs: list[tuple[Any, Any, str | int]] = [(one, "started", index) for index, one in enumerate(value)]
        elif isinstance(value, dict):
            pairs = [(one, condition, one) for one, condition in value.items()]
        else:
            message = f"depends_on of {key} must be a list of addresses or a map, not {shown(value)}"
            hint = "write it as [Container.db] or {Container.db: healthy}"
            self.errors.append(source.error("wrong-type", message, path, key=True, hint=hint))
            return out
        for address, condition, step in pairs:
            place = (*path, step)
            if address == BROKEN or condition == BROKEN:
                continue
            if not isinstance(address, str):
                message = f"depends_on of {key} names addresses, not {shown(address)}"
                hint = "write the address alone, without ${}" if isinstance(address, (Ref, Template)) else ""
                self.errors.append(source.error("wrong-type", message, place, hint=hint))
                continue
            if condition not in _CONDITIONS:
                message = f"depends_on waits until a resource is started or healthy, not {shown(condition)}"
                hint = did_you_mean(condition, _CONDITIONS) if isinstance(condition, str) else ""
                self.errors.append(source.error("bad-value", message, place, hint=hint))
                continue
            if condition == "healthy" and not address.startswith("Container."):
                message = f"only containers can be healthy, {address} can be started"
                self.errors.append(source.error("bad-value", message, place, hint=f"write {address}: started"))
                continue
            for one in self._addresses(address, evaluation.source, place):
                out[one] = cast("Condition", condition)
        return out

    def _addresses(self, address: str, source: Source, place: tuple[str | int, ...]) -> list[str]:
        """The resources of one address: all that a for_each makes where it has no key."""
        base, bracket, rest = address.partition("[")
        key = rest.removesuffix("]").strip("\"'")
        keys = self.instances.get(base, ())
        if base in self.instances:
            if keys is None and not bracket:
                return [base]
            if keys is not None and (not bracket or key == "*"):
                return [f"{base}[{one}]" for one in keys]
            if keys is not None and key in keys:
                return [f"{base}[{key}]"]
        message, hint = missing(address, self.found, self.instances)
        self.errors.append(source.error("unknown-resource", message, place, key=True, hint=hint))
        return []

    def _lifecycle(self, key: str, shape: Shape, given: Tree, evaluation: Evaluation) -> Lifecycle:
        path = ("resources", key, "lifecycle")
        source = evaluation.source
        outer = Evaluation(
            source, replace(evaluation.scope, instances=None, nothing_waits="lifecycle"), self.errors, []
        )
        value = outer.tree(given, path)
        problems = kinds.validate_common(shape.name, {"lifecycle": value})
        self.errors.extend(error_of(problem, source, ("resources", key)) for problem in problems)
        if problems or outer.failed or not isinstance(value, dict):
            return NO_LIFECYCLE
        return Lifecycle(value.get("prevent_destroy", False), tuple(value.get("ignore_changes", ())))
