"""The file of ``registry serve --config``, read as stack files are: every mistake at once, each where it stands.

It is YAML (or JSON, which is YAML), as ``schemas/registry.schema.json`` describes it. Paths in it are taken from the folder that it
stands in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError, BayplanErrors, Where, nearest
from bayplan.kinds.files import read_schema
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.audit.trail import Keeping
from bayplan.registry.configuration import (
    Challenge,
    Htpasswd,
    LogFormat,
    Logging,
    Rates,
    Readers,
    Settings,
    Tls,
)
from bayplan.registry.connection import Limits
from bayplan.registry.replication import Destination
from bayplan.registry.storage.vaults import Placing
from bayplan.stack.source import Source

_SCHEMA = "registry.schema.json"
_WRONG = "bad-configuration"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+)([smhd])")
_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
}


def read(file: Path) -> Settings:
    """The settings that ``file`` asks for. Raises BayplanError(s): ``bad-configuration`` for what may not stand there, and the codes
    of stack files for what is no YAML."""
    from bayplan.stack.cache import ParseCache
    from bayplan.stack.files import read_source

    source = read_source(str(file), file.absolute(), ParseCache(None))
    wrong = source.faults() or _mistakes(source)
    if wrong:
        raise wrong[0] if len(wrong) == 1 else BayplanErrors(wrong)
    said = source.tree or {}
    assert isinstance(said, dict)
    return _settings(said, file.parent)


def _mistakes(source: Source) -> list[BayplanError]:
    """What the schema refuses, in the order of the file."""
    import jsonschema

    if source.tree is not None and not isinstance(source.tree, dict):
        return [source.error(_WRONG, "a configuration is a map", hint="write for example listen: 127.0.0.1:5000")]
    found = jsonschema.Draft202012Validator(read_schema(_SCHEMA)).iter_errors(source.tree or {})
    told = [one for error in found for one in _told(source, error)]
    return sorted(told, key=lambda error: error.where or Where(""))


def _settings(said: Mapping[str, Any], folder: Path) -> Settings:
    """Settings of a document that its schema accepts."""
    limits, tokens, logging = said.get("limits", {}), said.get("tokens", {}), said.get("access_log", {})
    tls, htpasswd = said.get("tls"), said.get("htpasswd")
    rate = limits.get("requests_per_second")
    standard = Settings()

    def path(text: str | None) -> Path | None:
        return None if text is None else folder / Path(text).expanduser()

    def seconds(section: Mapping[str, Any], name: str, default: float) -> float:
        match = _DURATION.fullmatch(section.get(name, ""))
        return float(match[1]) * _UNITS[match[2]] if match else default

    return Settings(
        listen=said.get("listen", standard.listen),
        anonymous=Anonymous(said.get("anonymous", standard.anonymous)),
        account=said.get("account"),
        region=said.get("region"),
        sparse=said.get("sparse_indexes", standard.sparse),
        challenge=Challenge(said.get("challenge", standard.challenge)),
        tls=None
        if tls is None
        else Tls(path(tls.get("certificate")), path(tls.get("key")), tuple(tls.get("names", ()))),
        htpasswd=None
        if htpasswd is None
        else Htpasswd(folder / Path(htpasswd["file"]).expanduser(), Anonymous(htpasswd.get("allow", "none"))),
        token_life=seconds(tokens, "authorization", standard.token_life),
        bearer_life=seconds(tokens, "bearer", standard.bearer_life),
        limits=Limits(
            connections=limits.get("connections", standard.limits.connections),
            idle_seconds=seconds(limits, "idle", standard.limits.idle_seconds),
            body_seconds=seconds(limits, "silence", standard.limits.body_seconds),
        ),
        rates=Rates(
            rate,
            limits.get("burst", max(1, round(10 * rate)) if rate else 0),
            limits.get("wrong_passwords_per_minute", standard.rates.wrong_passwords),
        ),
        uploads=limits.get("uploads", standard.uploads),
        logging=Logging(LogFormat(logging.get("format", LogFormat.TEXT)), path(logging.get("file"))),
        metrics=Readers(said.get("metrics", standard.metrics)),
        audit=_audit(said.get("audit", {})),
        placing=_placing(said.get("storage", {}), path),
        vulnerabilities=path(said.get("scanning", {}).get("database")),
        destinations=tuple(
            Destination(one["region"], one.get("account"), one.get("endpoint"), one.get("profile"))
            for one in said.get("replication", {}).get("destinations", ())
        ),
        threads=said.get("threads", standard.threads),
        grace=seconds(said, "grace", standard.grace),
    )


def _placing(said: Mapping[str, Any], path: Callable[[str | None], Path | None]) -> Placing:
    sealed = said.get("encryption", {})
    key_file = path(sealed.get("key_file"))
    bucket = said.get("s3")
    second = None if bucket is None else bucket.get("second")
    first = None if bucket is None else {name: value for name, value in bucket.items() if name != "second"}
    return Placing(first, second, None if key_file is None else key_file.absolute(), sealed.get("kms"))


def _audit(said: Mapping[str, Any]) -> Keeping | None:
    if not said.get("enabled", True):
        return None
    age = _DURATION.fullmatch(said.get("keep", ""))
    return Keeping(int(said.get("file_size", 64)) << 20, float(age[1]) * _UNITS[age[2]] if age else None)


def _told(source: Source, error: Any) -> list[BayplanError]:
    """An error of the schema's validator in words."""
    path = tuple(error.absolute_path)

    def wrong(message: str, hint: str = "") -> list[BayplanError]:
        return [source.error(_WRONG, message, path, key=True, hint=hint)]

    if error.validator == "additionalProperties":
        return _unknown(source, path, error.instance, list(error.schema["properties"]))
    steps = list(error.absolute_schema_path)
    if steps[0] == "allOf":
        return wrong(read_schema(_SCHEMA)["allOf"][steps[1]]["x-message"])
    name, shown = ".".join(map(str, path)), json.dumps(error.instance, default=str)[:80]
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return wrong(f"{name}: '{missing}' is missing")
    if error.validator == "enum":
        return wrong(f"{name}: {shown} is none of {', '.join(error.validator_value)}")
    if error.validator == "type":
        if "enum" in error.schema:
            return []  # told by what it may be
        text = error.validator_value == "string" and not isinstance(error.instance, list | dict)
        hint = "write it in quotes" if text else ""
        return wrong(f"{name}: {shown} is not {_TYPES[error.validator_value]}", hint)
    if error.validator == "pattern":
        return wrong(f"{name}: {shown} is not {error.schema['x-says']}")
    return wrong(f"{name}: {error.message}")


def _unknown(
    source: Source, path: Sequence[str | int], value: Mapping[str, Any], known: list[str]
) -> list[BayplanError]:
    found = []
    for key in value:
        if key in known:
            continue
        close = nearest(key, known)
        hint = f"did you mean '{close}'?" if close else f"known are {', '.join(known)}"
        name = ".".join(map(str, (*path, key)))
        found.append(source.error(_WRONG, f"unknown key '{name}'", (*path, key), key=True, hint=hint))
    return found
