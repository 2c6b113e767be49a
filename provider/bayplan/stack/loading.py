"""From files to a Stack, or to all the mistakes that the files hold.

The order is that of dependence: files and their includes, the sections over all files, variables, the name, secrets and
places, then resources, and at last what refers to what. A file that cannot be read at all ends the loading after all
files were tried; every other mistake is collected, so that one run tells all of them, each once, in the order of the
files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bayplan import kinds
from bayplan.errors import BayplanError, BayplanErrors
from bayplan.records import replace
from bayplan.stack.cache import Known, ParseCache, cache_folder
from bayplan.stack.evaluate import Evaluation, Scope, Use
from bayplan.stack.files import Gathering, default_files, read_source
from bayplan.stack.graph import check_cycles, check_uses
from bayplan.stack.model import DEFAULT_HOST, DEFAULT_REGISTRY, Stack
from bayplan.stack.reader import collector_paused
from bayplan.stack.resources import Resources
from bayplan.stack.scalars import Tree
from bayplan.stack.secrets import SecretOrigin, Secrets
from bayplan.stack.sections import Sections, merge
from bayplan.stack.shapes import error_of, kinds_version, shapes
from bayplan.stack.source import Source
from bayplan.stack.variables import Values, Variable, declaration_mistake, holds_expression, resolve

_EMBEDDED: Mapping[str, Any] = {"type": "embedded"}


def load(
    paths: Sequence[Path],
    *,
    variables: Mapping[str, str],
    variable_files: Sequence[Path],
    environ: Mapping[str, str],
) -> Stack:
    """The stack of ``paths``, or of ``bayplan.yaml`` in the current folder where none are given.

    ``variables`` are those of the command line, as text; ``environ`` is the process's environment, from which variables,
    secrets and the cache's folder come. Raises BayplanErrors with every mistake, in the order of the files.
    """
    with collector_paused():
        return _Loading(environ).stack(paths, variables, variable_files)


class _Loading:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.errors: list[BayplanError] = []
        self.uses: list[Use] = []
        self.sources: list[Source] = []

    def stack(self, paths: Sequence[Path], flags: Mapping[str, str], variable_files: Sequence[Path]) -> Stack:
        cache = ParseCache(cache_folder(self.environ), kinds_version())
        gathering = Gathering(cache, self.errors)
        gathering.add(list(paths) or default_files(Path()))
        self.sources = gathering.sources
        unread = any(error.code in _UNREADABLE or not source_of(error, self.sources) for error in self.errors)
        files = self._variable_files(variable_files)
        if unread:
            self._raise(files)

        sections = merge(self.sources, self.errors)
        values = self._variables(sections, flags, files)
        scope = Scope(variables=values.known, nothing_waits="the stack's name")
        name = self._name(sections, scope)
        scope = replace(scope, stack=name, kinds=tuple(shapes()))
        origins = self._secrets(sections, scope)
        scope = replace(scope, secrets=tuple(origins))
        hosts = self._places(sections, "hosts", scope, DEFAULT_HOST)
        registries = self._places(sections, "registries", scope, DEFAULT_REGISTRY)

        resources = Resources({"host": hosts, "registry": registries}, self.errors)
        for source in self.sources:
            special = resources.read(source)
            if source.special is None and not source.flawed:
                cache.put(source.data, Known(source.tree, special))
        found = resources.finish(scope, self.sources)
        instances = (
            {**dict.fromkeys(resources.found), **resources.instances}
            if sections.named["outputs"]
            else resources.instances
        )
        outputs = self._outputs(sections, replace(scope, instances=instances))
        if resources.uses or self.uses:
            check_uses([*resources.uses, *self.uses], found, instances, self.errors)
        if found is not resources.found:
            check_cycles(found, self.errors)
        self._raise(files)
        return Stack(
            name=name,
            resources=found,
            hosts=hosts,
            registries=registries,
            outputs=outputs,
            secrets=Secrets(origins, self.environ, values.hidden),
            variables=values.known,
            files=tuple(source.path for source in (*self.sources, *files)),
        )

    # -- sections --------------------------------------------------------------------------------------------------

    def _variable_files(self, paths: Sequence[Path]) -> list[Source]:
        """Files of variables, never through the cache: what they hold may be secret."""
        found = []
        for path in paths:
            try:
                source = read_source(str(path), path.absolute(), ParseCache(None), private=True)
            except BayplanError as error:
                self.errors.append(error)
                continue
            self.errors.extend(source.faults())
            found.append(source)
        return found

    def _variables(self, sections: Sections, flags: Mapping[str, str], files: Sequence[Source]) -> Values:
        declared: dict[str, Variable] = {}
        for name, (given, source) in sections.named["variables"].items():
            entry = {} if given is None else given
            path = ("variables", name)
            if self._misplaced(source, entry, path, "a declaration of a variable"):
                continue
            if not self._checked("variables", name, entry, source):
                declared[name] = Variable(name, source, has_default=True, default="")
                continue
            mistake = declaration_mistake(entry)
            if mistake is not None:
                part, message, hint = mistake
                self.errors.append(source.error("bad-value", message, (*path, part), hint=hint))
            declared[name] = Variable.declared(name, source, entry)
        return resolve(declared, flags, files, self.environ, self.errors)

    def _name(self, sections: Sections, scope: Scope) -> str:
        if sections.stack is None:
            if self.sources:
                hint = "start the file with `stack: NAME`; all that is applied under one name belongs together"
                self.errors.append(self.sources[0].error_at("missing-property", "the stack has no name", 1, 1, hint))
            return ""
        given, source = sections.stack
        evaluation = Evaluation(source, scope, self.errors, self.uses)
        value = evaluation.tree(given, ("stack",))
        if evaluation.failed:
            return ""
        self.errors.extend(error_of(one, source, ("stack",)) for one in kinds.validate_stack_section("stack", value))
        return value if isinstance(value, str) else ""

    def _secrets(self, sections: Sections, scope: Scope) -> dict[str, SecretOrigin]:
        found: dict[str, SecretOrigin] = {}
        outer = replace(scope, nothing_waits="the source of a secret")
        for name, (given, source) in sections.named["secrets"].items():
            evaluation = Evaluation(source, outer, self.errors, self.uses)
            entry = evaluation.tree(given, ("secrets", name))
            found[name] = SecretOrigin()
            if not self._checked("secrets", name, entry, source) or evaluation.failed:
                continue
            file = entry.get("file")
            found[name] = SecretOrigin(
                env=entry.get("env", ""),
                file=None if file is None else source.folder / file,
                command=tuple(str(one) for one in entry.get("command", ())),
                folder=source.folder,
            )
        return found

    def _places(self, sections: Sections, section: str, scope: Scope, default: str) -> dict[str, Mapping[str, Any]]:
        """Hosts or registries: the one that is there without being declared, and those declared."""
        found: dict[str, Mapping[str, Any]] = {default: _EMBEDDED}
        what = "a host" if section == "hosts" else "a registry"
        outer = replace(scope, secrets=(), nothing_waits=what)
        for name, (given, source) in sections.named[section].items():
            evaluation = Evaluation(source, outer, self.errors, self.uses)
            entry = evaluation.tree(given, (section, name))
            found[name] = entry if self._checked(section, name, entry, source) else _EMBEDDED
            if section == "registries":
                self._one_address(name, found, source)
        return found

    def _one_address(self, name: str, found: Mapping[str, Mapping[str, Any]], source: Source) -> None:
        """The embedded registry is one, whatever it is called: it has one address."""
        address = found[name].get("address")
        if address is None or found[name]["type"] != "embedded":
            return
        for alias, entry in found.items():
            if entry["type"] == "embedded" and entry.get("address", address) != address:
                message = f"{alias} and {name} are both the embedded registry, which has one address"
                hint = f"{alias} says {entry['address']}: leave one of the two out"
                place = ("registries", name, "address")
                self.errors.append(source.error("conflicting-properties", message, place, hint=hint))

    def _outputs(self, sections: Sections, scope: Scope) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, (given, source) in sections.named["outputs"].items():
            path = ("outputs", name)
            value = Evaluation(source, scope, self.errors, self.uses).tree(given, path)
            self._checked("outputs", name, value, source)
            found[name] = value
        return found

    # -- mistakes --------------------------------------------------------------------------------------------------

    def _checked(self, section: str, name: str, entry: Any, source: Source) -> bool:
        """Whether one entry of a section is what the stack file's schema says; what is not goes to the errors."""
        problems = kinds.validate_stack_section(section, {name: entry})
        self.errors.extend(error_of(problem, source, (section,)) for problem in problems)
        return not problems

    def _misplaced(self, source: Source, value: Tree, path: tuple[str | int, ...], what: str) -> bool:
        """Tells an expression where none can stand."""
        if not holds_expression(value):
            return False
        place = path
        while not isinstance(value, tuple):
            step = next(
                key
                for key, one in (value.items() if isinstance(value, dict) else enumerate(value))
                if holds_expression(one)
            )
            value, place = value[step], (*place, step)
        hint = "write `$${` for the two characters themselves"
        self.errors.append(source.error("misplaced-expression", f"{what} cannot hold an expression", place, hint=hint))
        return True

    def _raise(self, files: Sequence[Source]) -> None:
        """Raises what was found, sorted by place, each place's first mistake only: the others follow from it."""
        if not self.errors:
            return
        order = {source.name: index for index, source in enumerate((*self.sources, *files))}
        kept: dict[object, BayplanError] = {}
        for error in self.errors:
            kept.setdefault(error.where or error.message, error)
        raise BayplanErrors(sorted(kept.values(), key=lambda error: _place(error, order)))


_UNREADABLE = frozenset({"unreadable-file", "file-too-large", "include-cycle"})


def source_of(error: BayplanError, sources: Sequence[Source]) -> Source | None:
    """The file that was read and that an error stands in; None for an error of a file that could not be read."""
    return next((one for one in sources if error.where and error.where.file == one.name), None)


def _place(error: BayplanError, order: Mapping[str, int]) -> tuple[int, int, int]:
    if error.where is None:
        return (-1, 0, 0)
    return (order.get(error.where.file, len(order)), error.where.line, error.where.column)
