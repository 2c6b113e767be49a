"""The file of ``registry serve --config``: what may stand in it, and what is said of what may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bayplan.cli.registry_settings import read
from bayplan.errors import BayplanError, BayplanErrors
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.configuration import Challenge, LogFormat, Readers, Settings

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/registry.schema.json").read_text())
WHOLE = """
listen: 0.0.0.0:5000
anonymous: pull
account: "123456789012"
region: eu-west-1
sparse_indexes: true
challenge: bearer
tls: {certificate: ./a.pem, key: ./a.key}
htpasswd: {file: users, allow: push}
tokens: {authorization: 1h, bearer: 15m}
limits: {requests_per_second: 50, connections: 10, uploads: 20, idle: 30s, silence: 2m, wrong_passwords_per_minute: 5}
access_log: {format: json, file: /var/log/registry.log}
metrics: all
audit: {file_size: 2, keep: 90d}
scanning: {database: osv.zip}
replication: {destinations: [{region: eu-west-1, account: "210987654321", endpoint: "https://example.com", profile: west}]}
grace: 10s
threads: 4
"""


def told(folder: Path, text: str) -> list[BayplanError]:
    """What is wrong with a file, in order."""
    file = folder / "registry.yaml"
    file.write_text(text)
    try:
        read(file)
    except BayplanErrors as errors:
        return list(errors.errors)
    except BayplanError as error:
        return [error]
    raise AssertionError("nothing is wrong with it")


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text("# nothing\n")
    assert read(file) == Settings()


def test_everything_can_be_said(tmp_path: Path) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text(WHOLE)
    found = read(file)
    assert (found.listen, found.anonymous, found.account, found.region) == (
        "0.0.0.0:5000", Anonymous.PULL, "123456789012", "eu-west-1"
    )  # fmt: skip
    assert (found.sparse, found.challenge, found.metrics) == (True, Challenge.BEARER, Readers.ALL)
    assert found.tls is not None
    assert (found.tls.certificate, found.tls.key) == (tmp_path / "a.pem", tmp_path / "a.key"), "from the file's folder"
    assert found.htpasswd is not None
    assert (found.htpasswd.file, found.htpasswd.allow) == (tmp_path / "users", Anonymous.PUSH)
    assert (found.token_life, found.bearer_life, found.grace) == (3600.0, 900.0, 10.0)
    assert (found.rates.per_second, found.rates.burst, found.rates.wrong_passwords) == (50, 500, 5)
    assert (found.limits.connections, found.limits.idle_seconds, found.limits.body_seconds) == (10, 30.0, 120.0)
    assert (found.logging.format, found.logging.file) == (LogFormat.JSON, Path("/var/log/registry.log"))
    assert found.audit is not None
    assert (found.audit.size, found.audit.age) == (2 << 20, 90 * 86400.0)
    assert found.vulnerabilities == tmp_path / "osv.zip"
    (there,) = found.destinations
    assert (there.region, there.account, there.endpoint, there.profile) == (
        "eu-west-1", "210987654321", "https://example.com", "west"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("lisen: a\n", 1, "unknown key 'lisen'"),
        ("listen: 127.0.0.1:1\nlimits:\n  burst: 3\n", 2, "requests_per_second is missing"),
        ("tls:\n  key: a\n", 1, "tls.certificate is missing"),
        ("anonymous: maybe\n", 1, "none of none, pull, push"),
        ("listen: 1\n", 1, "not text"),
        ("region: eu-west-1\naccount: 123456789012\n", 2, "not text"),
        ('account: "12"\n', 1, "an account number"),
        ("tokens:\n  bearer: soon\n", 2, "a duration"),
        ("limits:\n  connections: 0\n", 2, "limits.connections"),
        ("scanning: {}\n", 1, "'database' is missing"),
        ("- a\n", 1, "a configuration is a map"),
    ],
)
def test_a_mistake_is_told_where_it_stands(tmp_path: Path, text: str, line: int, said: str) -> None:
    error = told(tmp_path, text)[0]
    assert error.code == "bad-configuration"
    assert error.where is not None
    assert error.where.line == line, error
    assert said in error.message


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("listen: a\nlisten: b\n", "duplicate-key"),
        ("listen: [\n", "bad-syntax"),
        ("listen: &a [*a]\n", "unknown-anchor"),
        ("a: !!python/object/apply:os.system [true]\n", "unknown-tag"),
        ("listen: \x00\n", "not-text"),
        ("[" * 10_000, "too-deep"),
        (BOMB, "too-many-aliases"),
    ],
)
def test_what_is_no_yaml_is_told_as_in_stack_files(tmp_path: Path, text: str, code: str) -> None:
    (error,) = told(tmp_path, text)
    assert error.code == code
    assert error.where is not None
    assert error.where.line > 0


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = told(tmp_path, "listen: 1\nanonymus: pull\ngrace: 1\nthreads: many\n")
    assert [error.where.line for error in found if error.where] == [1, 2, 3, 4]
    assert found[1].hint == "did you mean 'anonymous'?"


Place = tuple[str | int, ...]


def _places(schema: Any, place: Place = ()) -> list[tuple[Place, Any]]:
    """(place, schema) of everything that may stand in the file."""
    inner = [((*place, name), one) for name, one in schema.get("properties", {}).items()]
    inner += [((*place, 0), schema["items"])] if "items" in schema else []
    return [(place, schema), *(pair for path, one in inner for pair in _places(one, path))]


def _written(place: Place, value: Any) -> tuple[str, int]:
    """A file with ``value`` at a place, each step on a line of its own; the line of the last."""
    opened = [("[" if isinstance(step, int) else f"{{{json.dumps(step)}:") for step in place]
    closed = ["]" if isinstance(step, int) else "}" for step in reversed(place)]
    line = len(place) + (1 if place and isinstance(place[-1], int) else 0)  # an item has no key: its place is its own
    return "\n".join([*opened, json.dumps(value), *closed]) + "\n", line


@pytest.mark.parametrize(("place", "schema"), [pair for pair in _places(SCHEMA) if pair[0]])
def test_what_is_of_another_type_is_told_where_it_stands(tmp_path: Path, place: Place, schema: Any) -> None:
    text, line = _written(place, 7 if schema["type"] in ("object", "array", "string") else "seven")
    name = ".".join(map(str, place))
    (found,) = [
        one for one in told(tmp_path, text) if one.message.startswith(f"{name}: ") and "missing" not in one.message
    ]
    assert found.where is not None
    assert found.where.line == line
    quoted = schema["type"] == "string" and "enum" not in schema
    assert found.hint == ("write it in quotes" if quoted else "")


@pytest.mark.parametrize("place", [place for place, schema in _places(SCHEMA) if schema["type"] == "object"])
def test_a_key_that_is_unknown_is_told_in_every_section(tmp_path: Path, place: Place) -> None:
    text, line = _written((*place, "nonsense"), 1)
    name = ".".join(map(str, (*place, "nonsense")))
    (found,) = [one for one in told(tmp_path, text) if one.message == f"unknown key '{name}'"]
    assert found.where is not None
    assert found.where.line == line
    assert found.hint


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BayplanError, match="cannot be read"):
        read(tmp_path / "absent")
    binary = tmp_path / "binary"
    binary.write_bytes(b"listen: \xff\n")
    with pytest.raises(BayplanError, match="0xff is not text"):
        read(binary)


def _examples(schema: Any) -> list[tuple[dict[str, Any], Any]]:
    """(schema, example) of a schema and all within it."""
    found = [(schema, example) for example in schema.get("examples", ())]
    inner = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return [*found, *(pair for one in inner for pair in _examples(one))]


def test_the_schemas_examples_are_right_and_everything_has_one() -> None:
    for schema, example in _examples(SCHEMA):
        jsonschema.Draft202012Validator(schema).validate(example)
    for name, schema in SCHEMA["properties"].items():
        assert schema["description"], name
        assert schema["examples"], name
        assert "default" in schema or "x-default" in schema, name
