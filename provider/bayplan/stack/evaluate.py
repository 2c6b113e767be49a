"""What the expressions of a value stand for, in a scope.

Variables, ``each`` and functions become plain values. References and secrets stay, as the leaves that the rest of bayplan
knows: ``Ref`` and ``SecretRef`` where they are a whole value, ``Template`` where a text holds them. An expression that is a
whole scalar keeps its type (``${var.count}`` is a number), one inside a text becomes text.

Whether a referred resource exists is not asked here, since it may stand further down or in another file: each use is
noted with its place, and checked when all resources are known.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bayplan.errors import BayplanError
from bayplan.kinds.expressions import Ref, SecretRef, Template
from bayplan.records import dataclass, field
from bayplan.stack.functions import FUNCTIONS, JOIN, FunctionError
from bayplan.stack.language import Call, Every, Expression, ExpressionError, Literal, PathExpression, parse
from bayplan.stack.scalars import BROKEN, Tree
from bayplan.stack.shapes import shapes
from bayplan.stack.source import Source
from bayplan.stack.words import did_you_mean, listed, shown

#: What a resource of a scope's stack looks like before it is made: the keys of its for_each, None without one.
Instances = Mapping[str, "tuple[str, ...] | None"]


@dataclass(frozen=True, slots=True)
class Scope:
    """The names that an expression may use. ``each`` is the key and value of the present for_each.

    ``instances`` maps the address of every resource to the keys of its for_each, None where it has none; it is None
    where no resource may be referred to, and ``nothing_waits`` says where that is.
    """

    stack: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    secrets: Collection[str] = ()
    kinds: Collection[str] = ()
    instances: Instances | None = None
    each: tuple[str, Any] | None = None
    nothing_waits: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """A reference where it stands."""

    ref: Ref
    source: Source
    path: tuple[str | int, ...]
    text: str
    offset: int


class Evaluation:
    """Evaluates the values of one file in one scope; collects mistakes in ``errors`` and references in ``uses``."""

    def __init__(self, source: Source, scope: Scope, errors: list[BayplanError], uses: list[Use]) -> None:
        self.source = source
        self.scope = scope
        self.errors = errors
        self.uses = uses
        self.failed = False
        self._path: tuple[str | int, ...] = ()
        self._text = ""

    def tree(self, value: Tree, path: tuple[str | int, ...]) -> Any:
        """``value``, which stands at ``path``, its expressions evaluated; a broken one is BROKEN, and ``failed`` set."""
        if isinstance(value, tuple):
            return self.text(value[0], path)
        if isinstance(value, dict):
            return {key: self.tree(one, (*path, key)) for key, one in value.items()}
        if isinstance(value, list):
            out: list[Any] = []
            for index, one in enumerate(value):
                found = self.tree(one, (*path, index))
                # ${Container.web[*].name} as an item stands for that many items
                if isinstance(one, tuple) and isinstance(found, _Several):
                    out.extend(found)
                else:
                    out.append(found)
            return out
        return value

    def text(self, text: str, path: tuple[str | int, ...]) -> Any:
        """One scalar that holds expressions."""
        self._path, self._text = path, text
        try:
            pieces = parse(text)
            if len(pieces) == 1 and not isinstance(pieces[0], str):
                return self.value(pieces[0])
            return _joined([piece if isinstance(piece, str) else self.piece(piece) for piece in pieces])
        except ExpressionError as error:
            self.failed = True
            self.errors.append(
                self.source.error_within(error.code, error.message, path, text, error.offset, hint=error.hint)
            )
            return BROKEN

    def piece(self, expression: Expression) -> str | Ref | SecretRef | Template:
        """What an expression adds to the text around it."""
        return _as_text(self.value(expression), expression.offset)

    def value(self, expression: Expression) -> Any:
        if isinstance(expression, Literal):
            return expression.value
        if isinstance(expression, Call):
            return self.call(expression)
        return self.path(expression)

    # -- functions -------------------------------------------------------------------------------------------------

    def call(self, call: Call) -> Any:
        if call.function == "join":
            return self.join(call)
        function = FUNCTIONS.get(call.function)
        if function is None:
            names = [*FUNCTIONS, "join"]
            hint = did_you_mean(call.function, names, f"there are {listed(sorted(names), 'and')}")
            message = f"there is no function {call.function}"
            raise ExpressionError("unknown-function", message, call.offset, hint)
        if not function.least <= len(call.arguments) <= function.most:
            message = f"{call.function} is called with {len(call.arguments)} arguments"
            raise ExpressionError("bad-call", message, call.offset, f"write {function.signature}")
        arguments = [self.value(one) for one in call.arguments]
        if BROKEN in arguments:
            return BROKEN
        for argument, expression in zip(arguments, call.arguments, strict=True):
            if waits(argument):
                message = f"{call.function} needs a value that is known before the apply, not {_name_of(argument)}"
                hint = "functions work on variables and plain values; join alone also takes references"
                raise ExpressionError("bad-call", message, expression.offset, hint)
        try:
            return function.call(*arguments)
        except FunctionError as error:
            message = f"{call.function}: {error}"
            raise ExpressionError("bad-call", message, call.offset, f"write {function.signature}") from None

    def join(self, call: Call) -> Any:
        if len(call.arguments) != 2:
            message = f"join is called with {len(call.arguments)} arguments"
            raise ExpressionError("bad-call", message, call.offset, f"write {JOIN}")
        separator, items = self.value(call.arguments[0]), self.value(call.arguments[1])
        if BROKEN in (separator, items):
            return BROKEN
        if not isinstance(separator, str) or not isinstance(items, list):
            message = "join: the separator must be a text and what it joins a list"
            raise ExpressionError("bad-call", message, call.offset, f"write {JOIN}")
        pieces: list[str | Ref | SecretRef | Template] = []
        for index, item in enumerate(items):
            if index:
                pieces.append(separator)
            pieces.append(_as_text(item, call.arguments[1].offset))
        return _joined(pieces)

    # -- names -----------------------------------------------------------------------------------------------------

    def path(self, path: PathExpression) -> Any:
        if path.root == "var":
            return self.variable(path)
        if path.root == "secret":
            return self.secret(path)
        if path.root == "each":
            return self.each(path)
        if path.root == "stack":
            return self.stack(path)
        if path.root in self.scope.kinds and path.steps:
            return self.reference(path)
        raise self.unknown(path)

    def unknown(self, path: PathExpression) -> ExpressionError:
        message = f"nothing is called {path.root} here"
        if not path.steps and path.root in self.scope.variables:
            hint = f"did you mean var.{path.root}?"
        elif not path.steps:
            hint = f"declare {path.root} under `variables`, write ${{var.{path.root}}}, and set BAYPLAN_VAR_{path.root}"
        else:
            roots = ["var", "secret", "each", "stack", *self.scope.kinds]
            hint = did_you_mean(path.root, roots, "there are var, secret, each, stack and resources as Kind.name")
        return ExpressionError("unknown-name", message, path.offset, hint)

    def first(self, path: PathExpression, what: str) -> str:
        """The name right behind the root."""
        if not path.steps or not isinstance(path.steps[0], str):
            message = f"{path.root} needs the name of {what}"
            raise ExpressionError("bad-expression", message, path.offset, f"write {path.root}.NAME")
        return path.steps[0]

    def variable(self, path: PathExpression) -> Any:
        name = self.first(path, "a variable")
        if name not in self.scope.variables:
            hint = did_you_mean(name, list(self.scope.variables), f"declare {name} under `variables`")
            raise ExpressionError("unknown-variable", f"there is no variable {name}", path.offset, hint)
        return self.inside(self.scope.variables[name], path, 1, f"var.{name}")

    def secret(self, path: PathExpression) -> SecretRef:
        name = self.first(path, "a secret")
        if name not in self.scope.secrets:
            hint = did_you_mean(name, list(self.scope.secrets), f"declare {name} under `secrets`")
            raise ExpressionError("unknown-secret", f"there is no secret {name}", path.offset, hint)
        if len(path.steps) > 1:
            raise ExpressionError("bad-expression", f"the secret {name} has nothing inside", path.offset)
        return SecretRef(name)

    def each(self, path: PathExpression) -> Any:
        if self.scope.each is None:
            message = "each has a meaning only in a resource with for_each"
            raise ExpressionError("unknown-name", message, path.offset, "add for_each, or use a variable")
        part = self.first(path, "its part")
        if part not in ("key", "value"):
            message = f"each has no {part}"
            raise ExpressionError(
                "unknown-name", message, path.offset, did_you_mean(part, ["key", "value"], "it has key and value")
            )
        return self.inside(self.scope.each[part == "value"], path, 1, f"each.{part}")

    def stack(self, path: PathExpression) -> str:
        if path.steps != ("name",) or not self.scope.stack:
            message = "stack has a name, and nothing else" if self.scope.stack else "the stack has no name yet here"
            raise ExpressionError("unknown-name", message, path.offset, "write stack.name" if self.scope.stack else "")
        return self.scope.stack

    def inside(self, value: Any, path: PathExpression, start: int, name: str) -> Any:
        """What the steps from ``start`` on lead to in a plain value."""
        for step in path.steps[start:]:
            if value == BROKEN:
                return BROKEN
            key = self.key(step)
            if isinstance(value, dict) and isinstance(key, str):
                if key not in value:
                    hint = did_you_mean(
                        key, list(value), f"it has {listed(list(value)[:8], 'and')}" if value else "it is empty"
                    )
                    raise ExpressionError("unknown-name", f"{name} has no {key}", path.offset, hint)
                value, name = value[key], f"{name}.{key}"
            elif isinstance(value, list) and str(key).isdigit():
                index = int(key)
                if index >= len(value):
                    message = f"{name} has {len(value)} items; the first is number 0"
                    raise ExpressionError("unknown-name", message, path.offset)
                value, name = value[index], f"{name}[{index}]"
            else:
                what = shown(value) if not waits(value) else "not known before the apply"
                raise ExpressionError("unknown-name", f"{name} is {what} and has no {key}", path.offset)
        return value

    def key(self, step: str | Expression | Every) -> str | int:
        """A step as a key: a bare name in brackets is itself, anything else is evaluated."""
        if isinstance(step, str):
            return step
        if isinstance(step, Every):
            raise ExpressionError(
                "bad-expression", "[*] stands for all resources of a for_each, nothing else", step.offset
            )
        if isinstance(step, PathExpression) and not step.steps:
            return step.root
        value = self.value(step)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ExpressionError("bad-expression", "a key in brackets must be a text or a whole number", step.offset)
        return value

    def reference(self, path: PathExpression) -> Any:
        scope = self.scope
        if scope.instances is None:
            message = f"{scope.nothing_waits} cannot wait for a resource"
            raise ExpressionError("misplaced-reference", message, path.offset, "use a variable")
        base = f"{path.root}.{self.first(path, 'a resource')}"
        rest = list(path.steps[1:])
        keys: list[str] | None = None
        keyed = bool(rest) and not isinstance(rest[0], str)
        if keyed:
            step = rest.pop(0)
            keys = list(scope.instances.get(base) or ()) if isinstance(step, Every) else [str(self.key(step))]
        if len(rest) != 1 or not isinstance(rest[0], str):
            outputs = shapes()[path.root].outputs
            message = f"a reference to {base} must say which attribute it reads"
            hint = f"there are {listed(outputs, 'and')}: write ${{{base}{'[KEY]' if keyed else ''}.{outputs[0]}}}"
            if rest:
                message = f"an attribute of {base} has nothing inside"
            raise ExpressionError("bad-expression", message, path.offset, hint)
        several = keyed and isinstance(path.steps[1], Every)
        if several and scope.instances.get(base, ()) is None:
            message = f"{base} has no for_each, so there is only one"
            raise ExpressionError("unknown-resource", message, path.offset, f"write ${{{base}.{rest[0]}}}")
        if several and base not in scope.instances:
            keys = None  # told where all references are checked
        addresses = [base] if keys is None else [f"{base}[{key}]" for key in keys]
        refs = [Ref(address, rest[0]) for address in addresses]
        self.uses.extend(Use(ref, self.source, self._path, self._text, path.offset) for ref in refs)
        return _Several(refs) if several else refs[0]


class _Several(list[Ref]):
    """What ``[*]`` stands for: a list that becomes part of the list it stands in."""


def waits(value: Any) -> bool:
    """Whether a value holds something that only an apply knows."""
    if isinstance(value, (Ref, SecretRef, Template)):
        return True
    if isinstance(value, dict):
        return any(map(waits, value.values()))
    return isinstance(value, list) and any(map(waits, value))


def references(value: Any) -> list[Ref]:
    """All references in a value, in order."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, Template):
        return [part for part in value.parts if isinstance(part, Ref)]
    if isinstance(value, dict):
        return [ref for one in value.values() for ref in references(one)]
    if isinstance(value, list):
        return [ref for one in value for ref in references(one)]
    return []


def _name_of(value: Any) -> str:
    return str(value) if isinstance(value, (Ref, SecretRef, Template)) else "a value with references"


def _as_text(value: Any, offset: int) -> str | Ref | SecretRef | Template:
    """A value as part of a text. Raises ExpressionError for what has no one way to be written."""
    if isinstance(value, (str, Ref, SecretRef, Template)):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    what = "nothing" if value is None else shown(value)
    hint = "join a list with ${join(',', ...)}, or write a value as JSON with ${json(...)}"
    if value is None:
        hint = "give it a value with ${default(..., '')}"
    raise ExpressionError("bad-expression", f"{what} cannot be part of a text", offset, hint)


def _joined(pieces: Sequence[str | Ref | SecretRef | Template]) -> str | Template | Ref | SecretRef:
    """Pieces as one text; neighbouring literals become one."""
    parts: list[str | Ref | SecretRef] = []
    for piece in pieces:
        for part in piece.parts if isinstance(piece, Template) else (piece,):
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part != "":
                parts.append(part)
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return Template(tuple(parts))
