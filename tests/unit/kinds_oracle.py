"""jsonschema, taught what the schemas of the kinds add, and Hypothesis strategies made from a schema.

Not a test: the tests of the kinds share it. The oracle reads ``x-type`` with the same readers as the package, which have
tests of their own, and everything else by the standard alone.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import jsonschema
from hypothesis import settings
from hypothesis import strategies as st

from bayplan.errors import BayplanError
from bayplan.kinds import values
from bayplan.kinds.files import schema_folder
from bayplan.kinds.forms import FORMS
from bayplan.kinds.model import json_types

SOAK = bool(os.environ.get("BAYPLAN_SOAK"))
LAW = settings(max_examples=3000 if SOAK else 60, derandomize=not SOAK, deadline=None, database=None)


def read(name: str) -> dict[str, Any]:
    """One file of schemas/."""
    found: dict[str, Any] = json.loads((schema_folder() / name).read_text(encoding="utf-8"))
    return found


def _form(_validator: Any, name: str, instance: Any, schema: dict[str, Any]) -> Any:
    if isinstance(instance, dict) or instance is None or instance == [] or name == "network":
        return
    if isinstance(instance, bool) and name != "text":
        return
    if isinstance(instance, list) and "array" not in json_types(schema):
        return
    if isinstance(instance, (int, float)) and json_types(schema) == ("string",):
        return
    try:
        read = FORMS[name].canonical(instance)
    except BayplanError as error:
        yield jsonschema.ValidationError(error.message)
        return
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    if isinstance(instance, str) and isinstance(read, (int, float)) and not low <= read <= high:
        yield jsonschema.ValidationError("out of bounds")


def _pattern(_validator: Any, text: str, instance: Any, _schema: dict[str, Any]) -> Any:
    """As ECMA 262 means it, which JSON Schema names: ``$`` is the very end."""
    if isinstance(instance, str) and not values.pattern(text).search(instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {text}")


_Extended = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"x-type": _form, "pattern": _pattern})


def oracle(schema: dict[str, Any]) -> Any:
    """``oracle(schema).is_valid(value)``."""
    return _Extended(schema)


_WRITTEN = """
64m 64x 5m 1.5GiB 1g 6291456 0 0.5 -1 .5 1e3 2 9000 5s 500ms 1m30s 1s1 10 0s 0.01s 8080:80 80 80/udp 80/xdp 127.0.0.1:1:2/tcp
127.0.0.1::2 999.0.0.1:1:2 70000 1:2:3:4 v:/data ./c:/etc/c:ro c:/d:z ~/c:/d /data v:data ../a/b:/x:rw v:/../x /run
/tmp:size=64m /tmp:mode=1 no always on-failure on-failure:3 always:3 unless-stopped SIGTERM term 15 SIGRTMIN+2 SIGFOO 99
NET_ADMIN cap_chown ALL NET_FOO 10.0.0.7 fd00::7 10.0.0.256 10.89.0.0/24 10.89.0.1/24 10.0.0.0/33 nginx nginx:1.27
docker.io/library/nginx Nginx a@b localhost:5000/a/b:c team/shop team//shop CMD CMD-SHELL NONE wget running paused missing
host bridge none MUTABLE IMMUTABLE embedded oci ecr eu-west-1 1000:1000 root user: linux/amd64 linux windows/amd64
bayplan.dev/uid owner aws:x a.b-c A_B a=b started healthy restart true 127.0.0.1:5000 http://a [::1]:80 /srv/app
"""
_WORDS = [*_WRITTEN.split(), "", " ", "a b", "a\n", "\0", "ä", "x" * 130, "64m\n"]
_TEXT = st.sampled_from(_WORDS) | st.text(st.sampled_from("a1:/.-_mMsS \n="), max_size=8)
_NUMBER = st.integers(-2, 70000) | st.integers(6 << 20, 1 << 40) | st.floats(-1, 1e6, allow_nan=False)
_JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _NUMBER | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=4,
)


def mostly_good(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that are often what ``schema`` says, and often nearly so."""
    return st.one_of(_near(schema), _near(schema), _near(schema), _JUNK)


def _near(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    options: list[st.SearchStrategy[Any]] = []
    for one in schema.get("anyOf", [schema]):
        types = json_types(one)
        if "enum" in one:
            options.append(st.sampled_from(one["enum"]))
        if "examples" in one:
            options.append(st.sampled_from(one["examples"]))
        if "string" in types:
            options.append(_TEXT)
        if "integer" in types or "number" in types:
            options.append(_NUMBER)
        if "boolean" in types:
            options.append(st.booleans())
        if "array" in types:
            options.append(st.lists(_lazy(one["items"]), max_size=4))
        if "object" in types:
            options.append(_maps(one))
    return st.one_of(options) if options else _JUNK


def _lazy(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.deferred(lambda: mostly_good(schema))


def _maps(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    known = {name: _lazy(one) for name, one in schema.get("properties", {}).items()}
    required = {name: known.pop(name) for name in schema.get("required", ()) if name in known}
    rest = schema.get("additionalProperties", True)
    extra = st.dictionaries(
        _TEXT, _lazy(rest) if isinstance(rest, dict) else _JUNK, max_size=3 if isinstance(rest, dict) else 0
    )
    few = st.sets(st.sampled_from(sorted(known)), max_size=5) if known else st.just(set())

    def fill(names: set[str]) -> st.SearchStrategy[Any]:
        chosen = {name: known[name] for name in sorted(names)}
        return st.fixed_dictionaries({**chosen, **required}) | st.fixed_dictionaries(chosen)

    return st.builds(lambda some, more: {**more, **some}, few.flatmap(fill), extra)


def good(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Maps of properties that are each right, by themselves."""
    one_each = {name: mostly_good(one).filter(oracle(one).is_valid) for name, one in schema["properties"].items()}
    names = st.sets(st.sampled_from(sorted(one_each)), max_size=4)
    return names.flatmap(lambda some: st.fixed_dictionaries({name: one_each[name] for name in sorted(some)}))
