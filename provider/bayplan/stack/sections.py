"""All files of a stack as one: whose name is what, and where it stands.

Every section (variables, hosts, resources, ...) is one map over all files. A name stands once: the second place of it is
an error that names the first.
"""

from __future__ import annotations

from collections.abc import Sequence

from bayplan import kinds
from bayplan.errors import BayplanError
from bayplan.records import dataclass, field, replace
from bayplan.stack.scalars import Tree
from bayplan.stack.shapes import error_of
from bayplan.stack.source import Source
from bayplan.stack.words import quoted, shown

#: The sections that are maps of names, besides ``resources``, which is too large to be merged here.
NAMED = ("variables", "secrets", "hosts", "registries", "outputs")
_KEYS = frozenset({"stack", "include", "resources", *NAMED})
_WORDS = {
    "variables": "variable",
    "secrets": "secret",
    "hosts": "host",
    "registries": "registry",
    "outputs": "output",
    "resources": "resource",
}


@dataclass(slots=True)
class Sections:
    """``named`` maps section and name to the entry and its file; ``stack`` is the declared name and its file."""

    named: dict[str, dict[str, tuple[Tree, Source]]] = field(default_factory=lambda: {word: {} for word in NAMED})
    stack: tuple[Tree, Source] | None = None


def merge(sources: Sequence[Source], errors: list[BayplanError]) -> Sections:
    """The sections of all ``sources``. Mistakes go to ``errors``."""
    found = Sections()
    for source in sources:
        tree = source.tree
        if tree is None:
            continue
        if not isinstance(tree, dict):
            hint = "a stack file starts with `stack: NAME`"
            errors.append(
                source.error("wrong-type", f"a stack file is a map of sections, not {shown(tree)}", hint=hint)
            )
            continue
        for key in tree:
            if key not in _KEYS and key != "<<":
                errors.extend(_unknown(key, source))
        if "stack" in tree:
            _name(found, source, tree["stack"], errors)
        for section in (*NAMED, "resources"):
            _section(found, source, section, tree.get(section), errors)
    return found


def _unknown(key: str, source: Source) -> list[BayplanError]:
    problems = kinds.validate_stack_section(key, None)
    if kinds.validate_address(key) is None:
        problems = [replace(one, hint="resources stand under `resources`, indented") for one in problems]
    return [error_of(one, source, (key,)) for one in problems]


def _name(found: Sections, source: Source, given: Tree, errors: list[BayplanError]) -> None:
    if found.stack is None:
        found.stack = (given, source)
    elif found.stack[0] != given:
        first, by = found.stack
        names = [quoted(one) if isinstance(one, str) else shown(one) for one in (given, first)]
        message = f"the stack is named {names[0]} here and {names[1]} at {by.where(('stack',))}"
        errors.append(
            source.error("conflicting-properties", message, ("stack",), hint="files of one stack name it once")
        )


def _section(found: Sections, source: Source, section: str, entries: Tree, errors: list[BayplanError]) -> None:
    if entries is None:
        return
    if not isinstance(entries, dict):
        message = f"{section} must be a map of names, not {shown(entries)}"
        errors.append(source.error("wrong-type", message, (section,), key=True))
        return
    if section == "resources":
        return
    named = found.named[section]
    for name, entry in entries.items():
        if name in named:
            errors.append(twice(source, section, name, named[name][1]))
        else:
            named[name] = (entry, source)


def twice(source: Source, section: str, name: str, first: Source) -> BayplanError:
    """The error for a name that two files declare."""
    message = f"the {_WORDS[section]} {name} stands twice; the first is at {first.where((section, name), key=True)}"
    hint = "rename one of the two, or remove it"
    return source.error("duplicate-name", message, (section, name), key=True, hint=hint)
