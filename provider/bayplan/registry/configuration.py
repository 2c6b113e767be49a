"""How a registry is served: :class:`Settings`, and the file that says so (``registry serve --config FILE``).

The file is YAML (or JSON, which is YAML), as ``schemas/registry.schema.json`` describes it. All its mistakes are told at once, each
with its line. Paths in it are taken from the folder that it stands in. What a flag of the command says goes before the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError, BayplanErrors, Where, nearest
from bayplan.records import dataclass, field
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.audit.trail import Keeping
from bayplan.registry.connection import Limits
from bayplan.registry.replication import Destination
from bayplan.registry.storage.vaults import Placing

_LARGEST = 1 << 20  # bytes of a file
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
}
_DURATION = re.compile(r"([0-9]+)([smhd])")


class Challenge(StrEnum):
    """How a client is asked for credentials."""

    BASIC = "basic"
    BEARER = "bearer"


class Readers(StrEnum):
    """Who may read the metrics."""

    NONE = "none"
    LOOPBACK = "loopback"
    ALL = "all"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Tls:
    """``certificate`` None: one of our own, for ``names`` too. ``key`` None: it stands in the certificate's file."""

    certificate: Path | None = None
    key: Path | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Htpasswd:
    """``allow``: what a name may do that is no user of the account."""

    file: Path
    allow: Anonymous = Anonymous.NONE


@dataclass(frozen=True, slots=True)
class Rates:
    """What one address may do. ``per_second`` None: as much as it likes; ``burst`` is in requests."""

    per_second: float | None = None
    burst: int = 0
    wrong_passwords: int = 30  # a minute


@dataclass(frozen=True, slots=True)
class Logging:
    """``file`` None is standard error."""

    format: LogFormat = LogFormat.TEXT
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve. Times in seconds; ``grace``: what requests under way get at the end; ``account`` and ``region``: what the
    registry's account is to be called from now on; ``token_life``, ``bearer_life``: how long tokens hold; ``vulnerabilities``: the
    database of scans."""

    listen: str = "127.0.0.1:5000"
    anonymous: Anonymous = Anonymous.NONE
    account: str | None = None
    region: str | None = None
    sparse: bool = False
    challenge: Challenge = Challenge.BASIC
    tls: Tls | None = None
    htpasswd: Htpasswd | None = None
    token_life: float = 12 * 3600.0
    bearer_life: float = 300.0
    limits: Limits = field(default_factory=Limits)
    rates: Rates = field(default_factory=Rates)
    uploads: int = 1000
    logging: Logging = field(default_factory=Logging)
    metrics: Readers = Readers.LOOPBACK
    audit: Keeping | None = field(default_factory=Keeping)
    placing: Placing = field(default_factory=Placing)
    vulnerabilities: Path | None = None
    destinations: tuple[Destination, ...] = ()
    threads: int = 16
    grace: float = 30.0


def read(file: Path) -> Settings:
    """The settings that ``file`` asks for. Raises BayplanError(s) ``bad-configuration`` with their places."""
    try:
        if file.stat().st_size > _LARGEST:
            raise BayplanError("bad-configuration", f"the file is larger than {_LARGEST} bytes", where=Where(str(file)))
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise BayplanError("bad-configuration", f"cannot be read: {error.strerror}", where=Where(str(file))) from None
    except UnicodeDecodeError:
        raise BayplanError("bad-configuration", "the file is not UTF-8", where=Where(str(file))) from None
    document = _Document(file, text)
    wrong = document.mistakes()
    if wrong:
        raise wrong[0] if len(wrong) == 1 else BayplanErrors(wrong)
    return _settings(document.value, file.parent)


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


# -- the file ------------------------------------------------------------------------------------------------------


class _Document:
    """A YAML file as plain values, with the place of each by its path."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._lines = text.splitlines()
        self._places: dict[tuple[str | int, ...], tuple[int, int]] = {(): (1, 1)}
        self._wrong: list[BayplanError] = []
        self.value = self._read(text)

    def mistakes(self) -> list[BayplanError]:
        """Everything that is wrong, in the order of the file."""
        if self._wrong:
            return self._wrong
        import jsonschema

        schema = _schema()
        found = jsonschema.Draft202012Validator(schema).iter_errors(self.value)
        told = [one for error in found for one in self._told(error)]
        return sorted(told, key=lambda error: error.where or Where(""))

    def error(self, message: str, place: tuple[int, int], hint: str = "") -> BayplanError:
        line, column = place
        source = self._lines[line - 1] if 0 < line <= len(self._lines) else ""
        return BayplanError(
            "bad-configuration", message, where=Where(str(self._file), line, column), hint=hint, source=source
        )

    def _read(self, text: str) -> dict[str, Any]:
        import yaml

        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            value = {} if node is None else self._plain(loader, node, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            self._wrong.append(self.error(f"this is not YAML: {error.problem or error.context}", place))
            return {}
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self._wrong.append(self.error(f"this is not YAML: {error or 'nested too deep'}", (1, 1)))
            return {}
        finally:
            loader.dispose()
        if not isinstance(value, dict):
            self._wrong.append(
                self.error("a configuration is a map", self._places[()], "write for example listen: 127.0.0.1:5000")
            )
            return {}
        return value

    def _plain(self, loader: Any, node: Any, path: tuple[str | int, ...]) -> Any:
        import yaml

        self._places.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(loader, item, (*path, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node)
        value: dict[str, Any] = {}
        for key, item in node.value:
            place = (key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                self._wrong.append(self.error("a key is text", place))
                continue
            if key.value in value:
                self._wrong.append(self.error(f"the key '{key.value}' stands twice", place))
            self._places[(*path, key.value)] = place  # of the key: that is where a reader looks
            value[key.value] = self._plain(loader, item, (*path, key.value))
        return value

    def _told(self, error: Any) -> list[BayplanError]:
        """An error of the schema's validator in words."""
        path = tuple(error.absolute_path)
        place = self._places.get(path, (1, 1))
        if error.validator == "additionalProperties":
            return self._unknown(path, error.instance, list(error.schema["properties"]))
        steps = list(error.absolute_schema_path)
        if steps[0] == "allOf":
            return [self.error(_schema()["allOf"][steps[1]]["x-message"], place)]
        name, shown = ".".join(map(str, path)), json.dumps(error.instance, default=str)[:80]
        if error.validator == "required":
            missing = next(key for key in error.validator_value if key not in error.instance)
            return [self.error(f"{name}: '{missing}' is missing", place)]
        if error.validator == "enum":
            return [self.error(f"{name}: {shown} is none of {', '.join(error.validator_value)}", place)]
        if error.validator == "type":
            if "enum" in error.schema:
                return []  # told by what it may be
            text = error.validator_value == "string" and not isinstance(error.instance, list | dict)
            hint = "write it in quotes" if text else ""
            return [self.error(f"{name}: {shown} is not {_TYPES[error.validator_value]}", place, hint)]
        if error.validator == "pattern":
            return [self.error(f"{name}: {shown} is not {error.schema['x-says']}", place)]
        return [self.error(f"{name}: {error.message}", place)]

    def _unknown(self, path: tuple[str | int, ...], value: Mapping[str, Any], known: list[str]) -> list[BayplanError]:
        found = []
        for key in value:
            if key in known:
                continue
            close = nearest(key, known)
            hint = f"did you mean '{close}'?" if close else f"known are {', '.join(known)}"
            name = ".".join(map(str, (*path, key)))
            found.append(self.error(f"unknown key '{name}'", self._places[(*path, key)], hint))
        return found


@cache
def _schema() -> dict[str, Any]:
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_schemas", package.parent.parent / "schemas"):
        if (folder / "registry.schema.json").is_file():
            found: dict[str, Any] = json.loads((folder / "registry.schema.json").read_text(encoding="utf-8"))
            return found
    raise BayplanError("broken-installation", f"the schemas are missing beside {package}", hint="install bayplan again")
