"""The account of a root: its number, its users and their access keys, in one file that only its owner can read.

``root/registry/account.json`` (0600) is made with the first server that is started, or the first command that asks: an account
of twelve digits, and a root access key. The secrets stand in it as they are, since whoever checks a signature needs them (RFC
2104 over the very secret); that is why the file is 0600, and why nothing else ever shows a secret twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.records import dataclass, field, replace
from bayplan.registry.access.model import PUBLIC, Principal, PrincipalKind

FILE = Path("registry/account.json")
ROOT_USER = "root"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_USER = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
_ACCOUNT = re.compile(r"[0-9]{12}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")
_MOST_KEYS = 2  # of one user, as in IAM


@dataclass(frozen=True, slots=True)
class AccessKey:
    """``id`` may be shown, ``secret`` never again once it was made."""

    id: str
    secret: str
    user: str
    created: float


@dataclass(frozen=True, slots=True)
class User:
    """A user of the account. ``policies`` are IAM documents by name, as JSON text."""

    name: str
    created: float
    policies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Account:
    """What the file says. ``seal`` is the key of the tokens that this registry gives out."""

    number: str
    region: str
    seal: bytes
    users: Mapping[str, User]
    keys: Mapping[str, AccessKey]

    @property
    def root_key(self) -> AccessKey:
        """The oldest key of the root user."""
        return min((key for key in self.keys.values() if key.user == ROOT_USER), key=lambda key: key.created)

    def principal(self, key: AccessKey) -> Principal:
        """Who a key stands for."""
        if key.user == ROOT_USER:
            return Principal(PrincipalKind.ROOT, self.number, f"arn:aws:iam::{self.number}:root", ROOT_USER, key.id)
        return self.user(key.user, key.id)

    def user(self, name: str, key: str = "") -> Principal:
        """A user of the account, known by an access key or, without one, by a password."""
        return Principal(PrincipalKind.USER, self.number, f"arn:aws:iam::{self.number}:user/{name}", name, key)

    def arn(self, repository: str, *, public: bool = False) -> str:
        """The ARN of a repository of this registry; of a public one it is without a region and the name's ``public/``."""
        if public:
            return f"arn:aws:ecr-public::{self.number}:repository/{repository.removeprefix(PUBLIC)}"
        return f"arn:aws:ecr:{self.region}:{self.number}:repository/{repository}"


class Accounts:
    """The account of a root. Cheap to make; reads the file again when it has changed."""

    def __init__(self, root: Root) -> None:
        self._path = root.path / FILE
        self._name = os.fspath(self._path)
        self._known: tuple[tuple[int, int], Account] | None = None

    def load(self) -> Account:
        """The account, made where there is none. Raises BayplanError ``account-unusable``."""
        try:
            info = os.stat(self._name)  # noqa: PTH116  (asked with each request: a third of what Path.stat costs)
        except FileNotFoundError:
            with self._changing() as account:
                return account
        stamp = (info.st_mtime_ns, info.st_ino)
        if self._known is None or self._known[0] != stamp:
            self._known = (stamp, _read(self._path))
        return self._known[1]

    def settle(self, number: str | None, region: str | None) -> Account:
        """The account with this number and region, where they are given. Raises BayplanError ``bad-account``."""
        if number is not None and not _ACCOUNT.fullmatch(number):
            raise BayplanError("bad-account", f"{number!r} is no account number", hint="twelve digits")
        if region is not None and not _REGION.fullmatch(region):
            raise BayplanError("bad-account", f"{region!r} is no region", hint="for example eu-west-1")
        account = self.load()
        if number in (None, account.number) and region in (None, account.region):
            return account
        with self._changing() as account:
            changed = replace(account, number=number or account.number, region=region or account.region)
            self._write(changed)
        return changed

    def add_user(self, name: str, policies: Mapping[str, str] | None = None) -> User:
        """Raises BayplanError ``bad-user``, ``user-exists``."""
        if not _USER.fullmatch(name) or name == ROOT_USER:
            raise BayplanError(
                "bad-user", f"{name!r} is no name of a user", hint="letters, digits and +=,.@_-, up to 64"
            )
        with self._changing() as account:
            if name in account.users:
                raise BayplanError("user-exists", f"there is a user {name} already")
            made = User(name, time.time(), dict(policies or {}))
            self._write(replace(account, users={**account.users, name: made}))
        return made

    def remove_user(self, name: str) -> None:
        """A user with all keys. Raises BayplanError ``user-unknown``."""
        with self._changing() as account:
            if name not in account.users:
                raise BayplanError("user-unknown", f"there is no user {name}")
            users = {key: user for key, user in account.users.items() if key != name}
            keys = {id: key for id, key in account.keys.items() if key.user != name}
            self._write(replace(account, users=users, keys=keys))

    def add_key(self, user: str) -> AccessKey:
        """A new access key of a user. Raises BayplanError ``user-unknown``, ``too-many-keys``."""
        with self._changing() as account:
            if user != ROOT_USER and user not in account.users:
                raise BayplanError("user-unknown", f"there is no user {user}", hint=f"bayplan registry user add {user}")
            if sum(key.user == user for key in account.keys.values()) >= _MOST_KEYS:
                raise BayplanError("too-many-keys", f"{user} has {_MOST_KEYS} access keys", hint="remove one first")
            made = _new_key(user)
            self._write(replace(account, keys={**account.keys, made.id: made}))
        return made

    def remove_key(self, id: str) -> None:
        """Raises BayplanError ``key-unknown``, ``last-root-key``."""
        with self._changing() as account:
            if id not in account.keys:
                raise BayplanError("key-unknown", f"there is no access key {id}")
            keys = {name: key for name, key in account.keys.items() if name != id}
            if not any(key.user == ROOT_USER for key in keys.values()):
                raise BayplanError("last-root-key", f"{id} is the last key of the root user", hint="add another first")
            self._write(replace(account, keys=keys))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Account]:
        """The account under its lock; made where there is none."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                account = _read(self._path)
            except FileNotFoundError:
                account = _made()
                self._write(account)
            yield account
        finally:
            os.close(descriptor)

    def _write(self, account: Account) -> None:
        draft = self._path.with_suffix(f".{os.getpid()}.new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, json.dumps(_to_json(account), indent=1).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _made() -> Account:
    chance = random.SystemRandom()
    number = f"{chance.randrange(10**11, 10**12)}"
    key = _new_key(ROOT_USER)
    return Account(number, "us-east-1", os.urandom(32), {}, {key.id: key})


def _new_key(user: str) -> AccessKey:
    """An access key in IAM's form: ``AKIA`` and sixteen characters; a secret of forty."""
    chance = random.SystemRandom()
    id = "AKIA" + "".join(chance.choices(_ALPHABET, k=16))
    return AccessKey(id, "".join(chance.choices(_LETTERS, k=40)), user, time.time())


def _read(path: Path) -> Account:
    try:
        data = json.loads(path.read_bytes())
        return Account(
            number=data["account"],
            region=data["region"],
            seal=bytes.fromhex(data["seal"]),
            users={name: User(name, one["created"], one["policies"]) for name, one in data["users"].items()},
            keys={id: AccessKey(id, one["secret"], one["user"], one["created"]) for id, one in data["keys"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BayplanError(
            "account-unusable", f"{path} is no account of a registry", hint="restore or remove it"
        ) from error


def _to_json(account: Account) -> dict[str, Any]:
    return {
        "account": account.number,
        "region": account.region,
        "seal": account.seal.hex(),
        "users": {
            name: {"created": user.created, "policies": dict(user.policies)} for name, user in account.users.items()
        },
        "keys": {
            id: {"secret": key.secret, "user": key.user, "created": key.created} for id, key in account.keys.items()
        },
    }
