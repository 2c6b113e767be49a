"""A schema as a tree of closures: silent and quick where a value is good, in words of the domain where it is not.

Ten thousand good resources are the common case, so a check answers None with the least work, and builds paths and sentences
only for what is wrong. A keyword that is not known here raises ValueError when a schema is compiled: no schema promises what
nobody checks. What the schemas mean is JSON Schema 2020-12 plus the forms of :mod:`.forms`; tests hold the two together.

Expressions (:mod:`.expressions`) are accepted where text is, and a reference also where the type of the output that it names
is. Secrets are accepted below properties marked ``x-secret`` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bayplan.errors import BayplanError
from bayplan.kinds.expressions import Ref, SecretRef, Template
from bayplan.kinds.forms import FORMS, Form
from bayplan.kinds.model import json_types, load
from bayplan.kinds.problem import Problem, did_you_mean, example_hint, plain, type_word, types_words
from bayplan.kinds.rules import compile_rule
from bayplan.kinds.values import pattern, quoted
from bayplan.records import dataclass, replace

Found = list[Problem] | None
Check = Callable[[Any], Found]

_ANNOTATIONS = frozenset(["$comment", "$schema", "$id", "$defs", "title", "description", "default", "examples"])
_MARKS = frozenset(
    f"x-{name}"
    for name in ("says", "default", "replaces", "live", "apply", "secret", "computed", "unordered", "outputs", "aka")
)
_STRING = frozenset(["pattern", "minLength", "maxLength", "enum"])
_NUMBER = frozenset(["minimum", "exclusiveMinimum", "maximum"])
_ARRAY = frozenset(["items", "minItems", "maxItems", "uniqueItems"])
_OBJECT = frozenset(
    ["properties", "additionalProperties", "propertyNames", "required", "minProperties", "maxProperties", "allOf"]
)
_KNOWN = _ANNOTATIONS | _MARKS | _STRING | _NUMBER | _ARRAY | _OBJECT | {"type", "anyOf", "x-type"}


@dataclass(frozen=True, slots=True)
class Around:
    """What a check knows of where it stands. ``noun`` names the nearest map (``Container``), ``also`` are names that are
    known beside the schema's own, ``outputs`` names that nobody may declare."""

    noun: str
    key: str = ""
    example: Any = None
    secret: bool = False
    also: tuple[str, ...] = ()
    outputs: frozenset[str] = frozenset()

    @property
    def hint(self) -> str:
        return example_hint(self.key, self.example) if self.key else ""


def compile_schema(schema: Mapping[str, Any], around: Around) -> Check:
    """The check of one schema. Raises ValueError for a schema that says what is not known here."""
    if unknown := schema.keys() - _KNOWN:
        raise ValueError(f"schema keywords that are not known: {', '.join(sorted(unknown))}")
    if schema.get("x-secret"):
        around = replace(around, secret=True)
    types = json_types(schema)
    form = FORMS[schema["x-type"]] if "x-type" in schema else None
    words = form.words if form and "object" not in types else types_words(types)
    stray = _stray(types, words, form, around)
    if "anyOf" in schema:
        return _by_class({one: part for each in schema["anyOf"] for one, part in _parts(each, around).items()}, stray)
    return _by_class(_parts(schema, around), stray)


def _by_class(parts: dict[type, Check], stray: Check) -> Check:
    """Chooses by the exact class of a value. One class, or one that needs no further look, is spelt out for speed."""
    if not parts:
        return stray
    if len(parts) == 1:
        ((only, part),) = parts.items()
        if part is _good:
            return lambda value: None if value.__class__ is only else stray(value)
        return lambda value: part(value) if value.__class__ is only else stray(value)
    find = parts.get
    return lambda value: (find(value.__class__) or stray)(value)


def _parts(schema: Mapping[str, Any], around: Around) -> dict[type, Check]:
    types = json_types(schema)
    form = FORMS[schema["x-type"]] if "x-type" in schema else None
    parts: dict[type, Check] = {}
    if "string" in types:
        parts[str] = _text(schema, form, around)
    if "integer" in types or "number" in types:
        number = _number(schema, form)
        parts[int] = number
        parts[float] = number if "number" in types else _whole(number, types, form, around)
    if "boolean" in types:
        parts[bool] = _good
    if "array" in types:
        parts[list] = _list(schema, form, around)
    if "object" in types:
        parts[dict] = _map(schema, around)
    return parts


def _good(_: Any) -> Found:
    return None


# -- what has another type ---------------------------------------------------------------------------------------------


def _stray(types: tuple[str, ...], words: str, form: Form | None, around: Around) -> Check:
    """The check of a value whose class the schema does not name: an expression, or a mistake."""

    def wrong(value: Any) -> Found:
        hint = around.hint
        if (
            types == ("boolean",)
            and isinstance(value, str)
            and value.lower() in ("yes", "no", "on", "off", "true", "false")
        ):
            hint = "write true or false, without quotes"
        elif value is None and "string" in types:
            hint = 'write "" for an empty text'
        return [Problem((), "wrong-type", f"must be {words}, not {type_word(value)}", hint)]

    def check(value: Any) -> Found:
        kind = value.__class__
        if kind is Template:
            if not around.secret and any(part.__class__ is SecretRef for part in value.parts):
                return _misplaced()
            if types and "string" not in types:
                return wrong(value)
            return _partial(value, form) if form and form.stand_in else None
        if kind is SecretRef:
            if not around.secret:
                return _misplaced()
            return wrong(value) if types and "string" not in types else None
        if kind is Ref:
            return None if not types or "string" in types or _gives(value, types) else wrong(value)
        return wrong(value) if types else _search(value, around)

    return check


def _misplaced() -> Found:
    hint = "secrets may stand in env of a Container"
    return [Problem((), "misplaced-secret", "a secret may not stand here: it would be kept in clear", hint)]


def _search(value: Any, around: Around) -> Found:
    """Anything goes, but a secret."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    found: list[Problem] = []
    anything = _stray((), "", None, around)
    for key, item in items:
        found += [one.below(key) for one in anything(item) or ()]
    return found or None


def _gives(reference: Ref, types: tuple[str, ...]) -> bool:
    """Whether the output that is referred to has one of ``types``. What is not known gives anything: others say so."""
    kind = load().get(reference.address.partition(".")[0])
    output = kind and kind.outputs.get(reference.attribute)
    return not output or any(name in types for name in output.type)


def _partial(value: Template, form: Form) -> Found:
    """A text with expressions in it, checked with something harmless in their place."""
    try:
        form.canonical("".join(part if isinstance(part, str) else form.stand_in for part in value.parts))
    except BayplanError as error:
        return [Problem((), error.code, f"{quoted(str(value))} is not {form.words}", error.hint)]
    return None


# -- scalars -----------------------------------------------------------------------------------------------------------


def _text(schema: Mapping[str, Any], form: Form | None, around: Around) -> Check:
    steps: list[Check] = []
    if "enum" in schema:
        members = frozenset(schema["enum"])
        listed = ", ".join(schema["enum"])

        def choice(value: str) -> Found:
            if value in members:
                return None
            return [Problem((), "bad-value", f"{quoted(value)} is not one of {listed}", _meant(value, schema["enum"]))]

        steps.append(choice)
    if "minLength" in schema or "maxLength" in schema:
        steps.append(_length(schema, around))
    if form is not None:
        steps.append(_form(form, schema))
    elif "pattern" in schema:
        steps.append(_pattern(schema["pattern"], schema["x-says"], around))
    return _all(steps)


def _meant(value: str, members: list[str]) -> str:
    hint = did_you_mean(value, members)
    return hint if hint.startswith("did") else ""


def _length(schema: Mapping[str, Any], around: Around) -> Check:
    low, high = schema.get("minLength", 0), schema.get("maxLength", 1 << 31)

    def check(value: str) -> Found:
        if low <= len(value) <= high:
            return None
        if not value:
            return [Problem((), "bad-value", "must not be empty", around.hint)]
        return [Problem((), "bad-value", f"has {len(value)} characters; at most {high} are allowed")]

    return check


def _pattern(text: str, says: str, around: Around) -> Check:
    def check(value: str) -> Found:
        if pattern(text).search(value):
            return None
        return [Problem((), "bad-value", f"{quoted(value)} is not {says}", around.hint)]

    return check


def _form(form: Form, schema: Mapping[str, Any]) -> Check:
    """The form's own reader, and the schema's bounds on what it reads."""
    low, high = schema.get("minimum"), schema.get("maximum")

    def check(value: Any) -> Found:
        try:
            read = form.canonical(value)
        except BayplanError as error:
            return [Problem((), error.code, plain(error.message), plain(error.hint))]
        if (low is None and high is None) or not isinstance(read, (int, float)):
            return None
        return _bounds(read, low, high, value, form.shown)

    return check


def _bounds(read: float, low: float | None, high: float | None, said: Any, shown: Callable[[float], str]) -> Found:
    if low is not None and read < low:
        return [Problem((), "bad-value", f"{quoted(said)} is too little", f"at least {shown(low)}")]
    if high is not None and read > high:
        return [Problem((), "bad-value", f"{quoted(said)} is too much", f"at most {shown(high)}")]
    return None


def _number(schema: Mapping[str, Any], form: Form | None) -> Check:
    low, high = schema.get("minimum"), schema.get("maximum")
    steps: list[Check] = []
    if low is not None or high is not None:
        shown = form.shown if form else str
        steps.append(lambda value: _bounds(value, low, high, value, shown))
    if form is not None:
        steps.append(_form(form, schema))
    return _all(steps)


def _whole(number: Check, types: tuple[str, ...], form: Form | None, around: Around) -> Check:
    words = form.words if form else types_words(types)

    def check(value: float) -> Found:
        if value.is_integer():
            return number(value)
        return [Problem((), "wrong-type", f"must be {words}, not {value}", around.hint)]

    return check


def _all(steps: list[Check]) -> Check:
    """The first problem is enough: the later checks stand on the earlier ones."""
    if not steps:
        return _good
    if len(steps) == 1:
        return steps[0]
    first, rest = steps[0], _all(steps[1:])
    return lambda value: first(value) or rest(value)


# -- lists and maps ----------------------------------------------------------------------------------------------------


def _list(schema: Mapping[str, Any], form: Form | None, around: Around) -> Check:
    item = compile_schema(schema["items"], around)
    low, high = schema.get("minItems", 0), schema.get("maxItems", 1 << 31)
    unique = schema.get("uniqueItems", False)
    whole = _form(form, {}) if form is not None and schema["type"] != "object" else None

    def check(value: list[Any]) -> Found:
        found: list[Problem] | None = None
        for index, one in enumerate(value):
            if problems := item(one):
                found = (found or []) + [problem.below(index) for problem in problems]
        if not low <= len(value) <= high:
            many = f"at most {high} entries" if value else "at least one entry"
            return [*(found or ()), Problem((), "bad-value", f"must have {many}", around.hint)]
        if unique and len(value) > 1 and (again := repeated(value)) is not None:
            problem = Problem((again,), "repeated-item", f"{quoted(str(value[again]))} stands in the list already")
            return [*(found or ()), problem]
        if found is None and whole is not None:
            return whole(value)
        return found

    return check


def repeated(items: list[Any]) -> int | None:
    """The index of the first item that an earlier one equals (as JSON: 1 is 1.0, but not true), or None."""
    seen: set[Any] = set()
    for index, item in enumerate(items):
        key = _identity(item)
        if key in seen:
            return index
        seen.add(key)
    return None


def _identity(item: Any) -> Any:
    if isinstance(item, bool):
        return ("bool", item)
    if isinstance(item, list):
        return ("list", *map(_identity, item))
    if isinstance(item, dict):
        return ("map", frozenset((key, _identity(one)) for key, one in item.items()))
    return item


def _map(schema: Mapping[str, Any], around: Around) -> Check:
    noun = schema.get("title", around.noun)
    named = noun.startswith("a ")
    inside = replace(around, noun=noun)
    known = {
        name: compile_schema(
            one,
            replace(
                inside,
                noun=name if named else f"{noun}.{name}",
                key=name,
                example=one["examples"][0],
                also=(),
                outputs=frozenset(),
            ),
        )
        for name, one in schema.get("properties", {}).items()
    }
    rest = schema.get("additionalProperties", True)
    other = compile_schema(rest, inside) if isinstance(rest, dict) else None
    also_known = {word: name for name, one in schema.get("properties", {}).items() for word in one.get("x-aka", ())}
    unknown = _unknown(noun, (*known, *around.also), around.outputs, also_known) if rest is False else _good
    required = tuple(schema.get("required", ()))
    needed = frozenset(required)
    rules = [compile_rule(one, named=named) for one in schema.get("allOf", ())]
    names = _names(schema.get("propertyNames"))
    most = schema.get("maxProperties", 1 << 31)
    fewest = schema.get("minProperties", 0)
    find = known.get

    def check(value: dict[str, Any]) -> Found:
        found: list[Problem] | None = None
        for name, one in value.items():
            part = find(name, other)
            problems = part(one) if part is not None else unknown(name)
            if problems:
                found = (found or []) + [problem.below(name) for problem in problems]
            if names is not None and (bad := names(name)):
                found = [*(found or ()), *bad]
        if not needed <= value.keys():
            found = [*(found or ()), *(_missing(noun, name, schema, named) for name in required if name not in value)]
        for rule in rules:
            if (problem := rule(value)) is not None:
                found = [*(found or ()), problem]
        if not fewest <= len(value) <= most:
            words = f"at most {most} entries" if value else "at least one entry"
            found = [*(found or ()), Problem((), "bad-value", f"must have {words}", around.hint)]
        return found

    return check


def _unknown(noun: str, names: tuple[str, ...], outputs: frozenset[str], also_known: Mapping[str, str]) -> Check:
    def check(name: Any) -> Found:
        if name in outputs:
            message = f"{name} of {noun} is an output and cannot be declared"
            return [Problem((), "computed-property", message, f"read it as ${{{noun}.NAME.{name}}}", False)]
        if not isinstance(name, str):
            return [Problem((), "unknown-property", f"{quoted(name)} is not a property's name", named=False)]
        message, hint = f"unknown property {quoted(name)} of {noun}", did_you_mean(name, names, also_known)
        return [Problem((), "unknown-property", message, hint, False)]

    return check


def _missing(noun: str, name: str, schema: Mapping[str, Any], named: bool) -> Problem:
    hint = example_hint(name, schema["properties"][name]["examples"][0])
    return Problem((), "missing-property", f"{noun} needs {name}", hint, named)


def _names(schema: Mapping[str, Any] | None) -> Callable[[Any], Found] | None:
    if schema is None:
        return None
    text, says, longest = schema["pattern"], schema["x-says"], schema.get("maxLength", 1 << 31)

    def check(name: Any) -> Found:
        if isinstance(name, str) and len(name) <= longest and pattern(text).search(name):
            return None
        return [Problem((name,), "bad-name", f"{quoted(name)} is not {says}", named=False)]

    return check
