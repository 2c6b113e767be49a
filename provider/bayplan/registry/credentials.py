"""Who we are to a registry: the logins that docker and podman keep, read and written where they keep them.

A user who has run ``docker login`` or ``podman login`` is logged in here too, and the other way round: bayplan has no
password file of its own. A login is looked for in docker's ``config.json`` (``DOCKER_CONFIG``, else ``~/.docker``) and
then in the files of containers-auth.json(5); in each, a helper named for the registry (``credHelpers``) comes before
the general one (``credsStore``), and that before the text kept in ``auths``.

Helpers are the programs ``docker-credential-NAME`` of github.com/docker/docker-credential-helpers: the server's name or
a JSON document on standard input, an answer on standard output. They get a time limit, and a secret never stands in an
argument, a log or an error: not even a helper's own words are repeated when it was handed one.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError
from bayplan.records import dataclass, field

DOCKER_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_SECONDS = 30.0
_NOT_FOUND = "credentials not found in native keychain"
_TOKEN_USER = "<token>"  # noqa: S105  (docker's mark for "the secret is an identity token")
_CONFIG_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Credential:
    """A login. ``identity`` says that the secret is an OAuth2 refresh token instead of a password."""

    username: str
    secret: str = field(repr=False)
    identity: bool = False

    def basic(self) -> str:
        """The value of an ``Authorization`` header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.secret}".encode()).decode()


def docker_config(environment: Mapping[str, str] | None = None) -> Path:
    """The file that ``docker login`` writes."""
    env = os.environ if environment is None else environment
    folder = env.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path(env.get("HOME") or Path.home()) / ".docker") / "config.json"


def auth_files(environment: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """The files of containers-auth.json(5), those that podman, buildah and skopeo use, in their order."""
    env = os.environ if environment is None else environment
    explicit = env.get("REGISTRY_AUTH_FILE")
    if explicit:
        return (Path(explicit),)
    runtime = env.get("XDG_RUNTIME_DIR")
    home = Path(env.get("HOME") or Path.home())
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    return (
        Path(runtime) / "containers/auth.json" if runtime else Path(f"/run/containers/{os.getuid()}/auth.json"),
        config / "containers/auth.json",
    )


class Keychain:
    """The logins of this user. Every call reads the files anew: another tool may have logged in meanwhile."""

    def __init__(
        self, environment: Mapping[str, str] | None = None, *, helper_timeout: float = _HELPER_SECONDS
    ) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        self._timeout = helper_timeout
        self.path = docker_config(self._environment)

    def find(self, registry: str, repository: str = "") -> Credential | None:
        """The login for ``registry`` (``docker.io``, ``localhost:5000``), or None.

        ``repository`` lets a more specific entry win, as containers-auth.json(5) allows (``host/team``).
        Raises ``credential-file`` for a file that cannot be read, ``credential-helper`` for a helper that fails.
        """
        for path in (self.path, *auth_files(self._environment)):
            config = _read(path)
            if config:
                found = self._in_config(config, path, registry, repository)
                if found is not None:
                    return found
        return None

    def login(self, registry: str, username: str, password: str) -> str:
        """Keep a login that has been tried. Returns where it went: the path of the file, or the helper's program."""
        if not username or not password:
            raise BayplanError("bad-login", f"a login to {registry} needs a user name and a password")
        server = _server_key(registry)
        with _Rewrite(self.path) as config:
            helper = _helper_for(config, registry)
            auths = _table(config, "auths", self.path)
            if helper:
                document = json.dumps({"ServerURL": server, "Username": username, "Secret": password})
                self._helper(helper, "store", document, secret=True)
                auths[server] = {}  # docker leaves an empty entry, which is how `docker logout` finds it
            else:
                pair = base64.b64encode(f"{username}:{password}".encode()).decode()
                kept = auths.get(server)
                auths[server] = {**(kept if isinstance(kept, dict) else {}), "auth": pair}
                auths[server].pop("identitytoken", None)
            config["auths"] = auths
        return f"docker-credential-{helper}" if helper else str(self.path)

    def logout(self, registry: str) -> bool:
        """Forget the login to ``registry`` in docker's configuration; False where there was none."""
        if not _read(self.path):
            return False
        forgotten = False
        with _Rewrite(self.path) as config:
            helper = _helper_for(config, registry)
            auths = _table(config, "auths", self.path)
            for key in [k for k in auths if _names(k, registry)]:
                forgotten = True
                del auths[key]
            if helper:
                present = self._helper(helper, "get", _server_key(registry)) is not None
                if present:
                    self._helper(helper, "erase", _server_key(registry))
                forgotten = forgotten or present
            if "auths" in config:
                config["auths"] = auths
        return forgotten

    # -- one file --------------------------------------------------------------------------------------------------

    def _in_config(self, config: dict[str, Any], path: Path, registry: str, repository: str) -> Credential | None:
        helper = _helper_for(config, registry)
        if helper:
            answer = self._helper(helper, "get", _server_key(registry))
            if answer is not None:
                return _from_helper(answer, helper)
        auths = _table(config, "auths", path)
        wanted = [f"{registry}/{part}" for part in _prefixes(repository)]
        for name in wanted:
            if name in auths:
                return _from_entry(auths[name], path)
        for key, entry in auths.items():
            if _names(key, registry):
                found = _from_entry(entry, path)
                if found is not None:
                    return found
        return None

    def _helper(self, name: str, verb: str, text: str, *, secret: bool = False) -> str | None:
        """Run a helper; its standard output, or None where it knows no such login."""
        program = f"docker-credential-{name}"
        if not _HELPER_NAME.fullmatch(name):
            raise BayplanError("credential-helper", f"{name!r} is not the name of a credential helper")
        try:
            done = subprocess.run(
                [program, verb],
                input=text.encode(),
                capture_output=True,
                timeout=self._timeout,
                check=False,
                env=self._environment,
            )
        except FileNotFoundError:
            raise BayplanError(
                "credential-helper",
                f"the credential helper {program} is not installed",
                hint=f"install it, or take it out of {self.path}",
            ) from None
        except subprocess.TimeoutExpired:
            raise BayplanError(
                "credential-helper",
                f"{program} {verb} gave no answer within {self._timeout:g} s",
                hint="it may be waiting for a locked keychain",
            ) from None
        output = done.stdout.decode("utf-8", "replace")
        if done.returncode == 0:
            return output
        if verb == "get" and (
            _NOT_FOUND in output or "credentials not found" in done.stderr.decode("utf-8", "replace")
        ):
            return None
        told = "" if secret else (output.strip() or done.stderr.decode("utf-8", "replace").strip())
        reason = f": {told.splitlines()[0][:200]}" if told else ""
        raise BayplanError("credential-helper", f"{program} {verb} failed with exit code {done.returncode}{reason}")


# -- names ---------------------------------------------------------------------------------------------------------


def _server_key(registry: str) -> str:
    return _HUB_KEY if registry in _HUB_HOSTS else registry


def _host(key: str) -> str:
    """The host of a key of ``auths``: docker writes ``https://host/v1/`` as well as ``host``."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key


def _names(key: str, registry: str) -> bool:
    host = _host(key)
    if registry in _HUB_HOSTS:
        return host in _HUB_HOSTS
    return host == registry


def _prefixes(repository: str) -> Iterator[str]:
    """``a/b/c``, ``a/b``, ``a``: the longest first."""
    parts = [part for part in repository.split("/") if part]
    for count in range(len(parts), 0, -1):
        yield "/".join(parts[:count])


def _helper_for(config: Mapping[str, Any], registry: str) -> str:
    named = config.get("credHelpers")
    if isinstance(named, dict):
        for key, helper in named.items():
            if _names(str(key), registry):
                return str(helper)
    return str(config.get("credsStore") or "")


# -- documents -----------------------------------------------------------------------------------------------------


def _broken(path: Path, why: str) -> BayplanError:
    return BayplanError("credential-file", f"{path} {why}", hint="docker and podman could not read it either; mend it")


def _read(path: Path) -> dict[str, Any]:
    """The document at ``path``; empty where there is none, or none that we may see."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_CONFIG_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _broken(path, f"cannot be read: {error.strerror}") from None
    if len(text) > _CONFIG_LIMIT:
        raise _broken(path, "is larger than 4 MiB")
    if not text.strip():
        return {}
    try:
        document = json.loads(text)
    except ValueError:
        raise _broken(path, "is not JSON") from None
    if not isinstance(document, dict):
        raise _broken(path, "is not a JSON object")
    return document


def _table(config: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    table = config.get(key)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise _broken(path, f"has an entry {key!r} that is not an object")
    return dict(table)


def _from_entry(entry: object, path: Path) -> Credential | None:
    if not isinstance(entry, dict):
        return None
    username, secret = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            pair = base64.b64decode(str(entry["auth"]), validate=True).decode()
        except (binascii.Error, ValueError):
            raise _broken(path, "has a login that is not base64 text") from None
        username, _, secret = pair.rstrip("\x00").partition(":")
    if entry.get("identitytoken"):
        return Credential(username, str(entry["identitytoken"]), identity=True)
    return Credential(username, secret) if username and secret else None


def _from_helper(answer: str, helper: str) -> Credential | None:
    try:
        document = json.loads(answer)
        username, secret = str(document["Username"]), str(document["Secret"])
    except (ValueError, KeyError, TypeError):
        raise BayplanError("credential-helper", f"docker-credential-{helper} get answered no login in JSON") from None
    if username == _TOKEN_USER:
        return Credential(username, secret, identity=True)
    return Credential(username, secret) if secret else None


class _Rewrite:
    """``with _Rewrite(path) as document``: change docker's configuration and write it back whole, atomically, 0600.

    The folder is locked meanwhile, so that two logins at once do not lose one; a configuration that is a symbolic link
    stays one. Unknown keys are kept: the file belongs to docker.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))

    def __enter__(self) -> dict[str, Any]:
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX)
            self._document = _read(self._path)
        except BaseException:
            os.close(self._folder)
            raise
        self._before = json.dumps(self._document)
        return self._document

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and (json.dumps(self._document) != self._before or not self._path.exists()):
                self._write()
        finally:
            os.close(self._folder)

    def _write(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix=".config-", dir=self._path.parent)  # mkstemp makes it 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(self._document, stream, indent="\t")
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        os.fsync(self._folder)
