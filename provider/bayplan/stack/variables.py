"""Variables: what a stack leaves open, with types, and the four places that values come from.

A value comes from the first of these that has it: ``--var NAME=VALUE``, a ``--var-file``, the environment variable
``BAYPLAN_VAR_NAME``, the default. Files give typed values; the command line and the environment give text, which the
declared type says how to read. The value of a ``sensitive`` variable never becomes part of the stack: a secret named
``var.NAME`` stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bayplan.errors import BayplanError
from bayplan.kinds.expressions import SecretRef
from bayplan.records import dataclass, field
from bayplan.stack.reader import read
from bayplan.stack.scalars import BROKEN, Tree, plain
from bayplan.stack.source import Source
from bayplan.stack.words import did_you_mean, listed, shown

ENVIRONMENT_PREFIX = "BAYPLAN_VAR_"

#: Type in a declaration -> Python types of its values, and in words. (A bool is no number, by its exact type.)
TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "text"),
    "number": ((int, float), "a number"),
    "integer": ((int,), "a whole number"),
    "boolean": ((bool,), "true or false"),
    "list": ((list,), "a list"),
    "map": ((dict,), "a map"),
}
_SENSITIVE_TYPES = ("string", "number", "integer")


@dataclass(frozen=True, slots=True)
class Variable:
    """One declaration, already of the right form. ``default`` counts only where ``has_default``."""

    name: str
    source: Source
    type: str = "string"
    default: Tree = None
    has_default: bool = False
    sensitive: bool = False

    @classmethod
    def declared(cls, name: str, source: Source, given: Mapping[str, Tree]) -> Variable:
        return cls(
            name,
            source,
            given.get("type", "string"),
            given.get("default"),
            "default" in given,
            given.get("sensitive", False),
        )

    @property
    def path(self) -> tuple[str, str]:
        return ("variables", self.name)


@dataclass(slots=True)
class Values:
    """The values of all variables: ``known`` by name (a SecretRef for a sensitive one), ``hidden`` by the secret's name."""

    known: dict[str, Any] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict, repr=False)


def resolve(
    declared: Mapping[str, Variable],
    flags: Mapping[str, str],
    files: Sequence[Source],
    environ: Mapping[str, str],
    errors: list[BayplanError],
) -> Values:
    """The value of every declared variable. Mistakes go to ``errors``; a variable with one is BROKEN."""
    found = Values()
    given = _from_files(declared, files, errors)
    for name in flags:
        if name not in declared:
            errors.append(_undeclared(name, declared, f"--var {name}"))
    for name, variable in declared.items():
        mistakes = len(errors)
        value: Tree = None
        if name in flags:
            value = _from_text(variable, flags[name], f"--var {name}", errors)
        elif name in given:
            value = _checked(variable, given[name][0], given[name][1], ("", name), errors)
        elif (entry := ENVIRONMENT_PREFIX + name) in environ:
            value = _from_text(variable, environ[entry], entry, errors)
        elif variable.has_default:
            value = _checked(variable, variable.default, variable.source, (*variable.path, "default"), errors)
        else:
            errors.append(_missing(variable))
        if len(errors) > mistakes:
            value = BROKEN
        elif variable.sensitive:
            found.hidden[f"var.{name}"] = str(value)
            value = SecretRef(f"var.{name}")
        found.known[name] = value
    return found


def _from_files(
    declared: Mapping[str, Variable], files: Sequence[Source], errors: list[BayplanError]
) -> dict[str, tuple[Tree, Source]]:
    """Values of the files of variables with where they stand; a later file wins."""
    given: dict[str, tuple[Tree, Source]] = {}
    for source in files:
        if source.tree is None:
            continue
        if not isinstance(source.tree, dict):
            errors.append(
                source.error("wrong-type", f"a file of variables is a map of names, not {shown(source.tree)}")
            )
            continue
        for name, value in source.tree.items():
            if name in declared:
                given[name] = (value, source)
            else:
                error = _undeclared(name, declared, "")
                errors.append(source.error(error.code, error.message, (name,), key=True, hint=error.hint))
    return given


def _undeclared(name: str, declared: Mapping[str, Variable], where: str) -> BayplanError:
    hint = did_you_mean(name, list(declared), f"declare {name} under `variables`")
    message = f"{where + ': ' if where else ''}there is no variable {name}"
    return BayplanError("unknown-variable", message, hint=hint)


def _missing(variable: Variable) -> BayplanError:
    name = variable.name
    hint = f"give it with --var {name}=VALUE, a --var-file or {ENVIRONMENT_PREFIX}{name}, or declare a default"
    return variable.source.error(
        "missing-variable", f"the variable {name} has no value", variable.path, key=True, hint=hint
    )


def _from_text(variable: Variable, text: str, origin: str, errors: list[BayplanError]) -> Tree:
    """A value given as text on the command line or in the environment, read as the declared type says."""
    value: Tree = text
    if variable.type in ("number", "integer", "boolean"):
        value = plain(text.strip())
    elif variable.type in ("list", "map"):
        value = _structured(text)
    problem = _problem(variable, value)
    if problem:
        # The value itself is not repeated for a sensitive variable.
        said = "" if variable.sensitive or variable.type in ("list", "map") else f", not {shown(text)}"
        message = f"{origin}: the variable {variable.name} {problem}{said}"
        hint = _EXAMPLES.get(variable.type, "")
        errors.append(variable.source.error("wrong-variable", message, variable.path, key=True, hint=hint))
    return value


_EXAMPLES = {
    "list": "write it as JSON or YAML on one line: [a, b]",
    "map": "write it as JSON or YAML on one line: {a: 1, b: 2}",
    "boolean": "write true or false",
}


def _structured(text: str) -> Tree:
    """A list or a map in one line of YAML or JSON; None where it is neither."""
    from yaml import YAMLError

    try:
        return read(text.encode()).value
    except (YAMLError, ValueError):
        return None


def _checked(
    variable: Variable, value: Tree, source: Source, path: tuple[str, ...], errors: list[BayplanError]
) -> Tree:
    """A value from a file; ``path`` is where it stands, its first part empty in a file of variables."""
    place = path[1:] if path[0] == "" else path
    if holds_expression(value):
        message = f"the value of the variable {variable.name} cannot hold an expression"
        errors.append(
            source.error("misplaced-expression", message, place, hint="write `$${` for the two characters themselves")
        )
        return None
    problem = _problem(variable, value)
    if problem:
        said = "" if variable.sensitive else f", not {shown(value)}"
        hint = "put it into quotes" if variable.type == "string" and isinstance(value, (int, float)) else ""
        error = source.error("wrong-variable", f"the variable {variable.name} {problem}{said}", place, hint=hint)
        if variable.sensitive:
            error.source = ""  # the line holds the value
        errors.append(error)
    return value


def holds_expression(value: Tree) -> bool:
    """Whether a value as read holds ``${``."""
    if isinstance(value, dict):
        return any(map(holds_expression, value.values()))
    if isinstance(value, list):
        return any(map(holds_expression, value))
    return isinstance(value, tuple)


def _problem(variable: Variable, value: Tree) -> str:
    """What keeps ``value`` from being one of ``variable``, in words; empty where nothing does."""
    classes, words = TYPES[variable.type]
    fits = type(value) in classes and not (isinstance(value, float) and not math.isfinite(value))
    return "" if fits else f"must be {words}"


def declaration_mistake(given: Mapping[str, Tree]) -> tuple[str, str, str] | None:
    """What a schema cannot say of a declaration: the property at fault, the message, the hint."""
    kind = given.get("type", "string")
    if given.get("sensitive") and kind not in _SENSITIVE_TYPES:
        message = f"only {listed(_SENSITIVE_TYPES)} variables can be sensitive, not {kind}"
        return ("sensitive", message, "make one variable for each secret part")
    return None
