"""The forms of values that JSON has no type for, read and written: sizes, durations, ports, mounts, signals ...

A person writes ``64m``, ``5s`` or ``127.0.0.1:8080:3000``; the engine compares and the runtimes want bytes, seconds and
their own words. Each form has one pure reader here, which gives a number or a frozen value, and one canonical text where the
value stays text in a plan (``str()`` of a :class:`Port` or :class:`Mount`). Reading a canonical text gives the same value
again, which is what makes normalisation idempotent.

Every reader raises BayplanError ``bad-value`` with what is wrong and a hint how to write it. Sources of the forms: Docker's
command line reference (``docker run``), Go's ``time.ParseDuration``, docker/go-units ``RAMInBytes``.
"""

from __future__ import annotations

import math
import posixpath
import re
from functools import lru_cache
from typing import Any

from bayplan.errors import BayplanError, nearest
from bayplan.records import dataclass

#: JSON values, with expressions at any leaf.
Value = Any

_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_HINT = "write 500ms, 10s, 1m30s or a number of seconds"
_PORT_HINT = "write 8080:3000, 127.0.0.1:8080:3000, or 3000 for a free port; /udp behind it for UDP"
_MOUNT_HINT = "write NAME:/path for a volume, ./folder:/path for a folder of the host, :ro behind it to forbid writing"
_TMPFS_HINT = "write /path or /path:size=64m"
_LONGEST = 40  # characters of a number that anybody means
_RESTART_HINT = "write no, always, on-failure, on-failure:5 or unless-stopped"

# linux/capability.h, in the kernel's order
_CAPABILITY_WORDS = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST
NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE
SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM
BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(_CAPABILITY_WORDS.split())
# signal(7), Linux on x86 and ARM; 29 is also SIGPOLL, 6 also SIGIOT, 17 also SIGCLD
_SIGNAL_WORDS = """
HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ
VTALRM PROF WINCH IO PWR SYS
"""
_SIGNALS = _SIGNAL_WORDS.split()
_SIGNAL_ALIASES = {"IOT": "ABRT", "CLD": "CHLD", "POLL": "IO", "UNUSED": "SYS"}
_REALTIME_FIRST, _REALTIME_LAST = 34, 64


@dataclass(frozen=True, slots=True)
class Port:
    """A published port. ``host`` 0: a free port is chosen; ``host_ip`` ``""``: every IPv4 address of the machine."""

    container: int
    host: int = 0
    host_ip: str = ""
    protocol: str = "tcp"

    def __str__(self) -> str:
        if self.host_ip:
            return f"{self.host_ip}:{self.host or ''}:{self.container}/{self.protocol}"
        return f"{self.host}:{self.container}/{self.protocol}" if self.host else f"{self.container}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume (``type`` ``volume``, source its name) or a folder or file of the host (``bind``, source its path)."""

    type: str
    source: str
    target: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.target}{':ro' if self.read_only else ''}"


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A folder in memory; ``size`` in bytes, None without limit."""

    target: str
    size: int | None = None

    def __str__(self) -> str:
        return self.target if self.size is None else f"{self.target}:size={self.size}"


@dataclass(frozen=True, slots=True)
class Restart:
    """``policy`` is no, always, on-failure or unless-stopped; ``retries`` 0 is without limit."""

    policy: str
    retries: int = 0

    def __str__(self) -> str:
        return f"{self.policy}:{self.retries}" if self.retries else self.policy


def wrong(value: object, what: str, hint: str = "") -> BayplanError:
    """The error of every reader: ``'64x' is not a size``."""
    return BayplanError("bad-value", f"{quoted(value)} is not {what}", hint=hint)


def quoted(value: object) -> str:
    """A scalar as messages show it: text in quotes, short and on one line."""
    if isinstance(value, (int, float)):
        return str(value).lower()
    text = str(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:61])
    return f"'{text if len(text) <= 60 else text[:57] + '...'}'"


@lru_cache(maxsize=256)
def pattern(text: str) -> re.Pattern[str]:
    """``text`` compiled when it is first needed; a pattern's ``$`` is the very end, as in ECMA 262, which schemas follow."""
    return re.compile(text[:-1] + r"\Z" if text.endswith("$") and not text.endswith(r"\$") else text)


@lru_cache(maxsize=4096, typed=True)
def parse_size(value: int | float | str) -> int:
    """Bytes of ``64m``, ``1.5 GiB``, ``1024``: units of 1024 as Docker reads them (go-units ``RAMInBytes``)."""
    hint = "write 64m, 1g or a number of bytes"
    if isinstance(value, str):
        found = pattern(r"^([0-9]+(?:\.[0-9]+)?) ?(?:([kKmMgGtT])[iI]?)?[bB]?$").match(value)
        if found is None or len(value) > _LONGEST:
            raise wrong(value, "a size", hint)
        number, unit = found.groups()
        factor = 1024 ** _UNITS[(unit or "").lower()]
        return int(float(number) * factor) if "." in number else int(number) * factor
    if value < 0 or not math.isfinite(value) or value != int(value):
        raise wrong(value, "a size", hint)
    return int(value)


@lru_cache(maxsize=4096, typed=True)
def parse_duration(value: int | float | str) -> float:
    """Seconds of ``1m30s``, ``500ms``, ``10``. Never negative."""
    if isinstance(value, str):
        if len(value) > _LONGEST:
            raise wrong(value, "a duration", _DURATION_HINT)
        if pattern(r"^[0-9]+(\.[0-9]+)?$").match(value):
            return float(value)
        parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)", value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise wrong(value, "a duration", _DURATION_HINT)
        return round(sum(float(number) * _SECONDS[unit] for number, unit in parts), 9)
    if value < 0 or not math.isfinite(value):
        raise wrong(value, "a duration", _DURATION_HINT)
    return float(value)


@lru_cache(maxsize=4096, typed=True)
def parse_number(value: int | float | str) -> float:
    """A number that may also be written as text (``"0.5"``), finite."""
    if isinstance(value, str) and (len(value) > _LONGEST or not pattern(r"^[0-9]*\.?[0-9]+$").match(value)):
        raise wrong(value, "a number", "write for example 0.5 or 2")
    number = float(value)
    if not math.isfinite(number):
        raise wrong(value, "a number", "write for example 0.5 or 2")
    return number


@lru_cache(maxsize=65536, typed=True)
def parse_port(value: int | str) -> Port:
    """``[ADDRESS:][PORT:]CONTAINER_PORT[/tcp|/udp]``; a number is a container's port. ``0.0.0.0`` is every address."""
    text = str(value)
    numbers, slash, protocol = text.partition("/")
    if slash and protocol.lower() not in ("tcp", "udp"):
        raise wrong(text, "a port", f"'{protocol}' is not a protocol; write tcp or udp")
    if "-" in numbers:
        raise wrong(text, "a port", "ranges are not known: write each port")
    if "[" in numbers:
        raise wrong(text, "a port", "ports are published on IPv4 addresses only")
    parts = numbers.split(":")
    if len(parts) > 3:
        raise wrong(
            text, "a port", "ports are published on IPv4 addresses only" if numbers.count(":") > 3 else _PORT_HINT
        )
    container, host = parts[-1], parts[-2] if len(parts) > 1 else ""
    address = parts[0] if len(parts) == 3 else ""
    if len(parts) == 2 and not host:
        raise wrong(text, "a port", _PORT_HINT)
    if address:
        parse_ipv4(address)
    elif len(parts) == 3:
        raise wrong(text, "a port", _PORT_HINT)
    return Port(
        container=_port_number(container, text),
        host=_port_number(host, text, lowest=0) if host else 0,
        host_ip="" if address == "0.0.0.0" else address,  # noqa: S104  (what the user wrote, not a bind)
        protocol=protocol.lower() or "tcp",
    )


def _port_number(digits: str, text: str, lowest: int = 1) -> int:
    if not (digits.isascii() and digits.isdigit()):
        raise wrong(text, "a port", _PORT_HINT)
    number = int(digits) if len(digits) < 9 else 1 << 16
    if not lowest <= number <= 65535:
        raise wrong(text, "a port", f"{digits} is no port: they go from 1 to 65535")
    return number


@lru_cache(maxsize=16384)
def parse_mount(value: str) -> Mount:
    """``SOURCE:/TARGET[:ro|:rw]``; a source with a slash, or ``.`` or ``..``, is a path, else a volume's name."""
    parts = value.split(":")
    if len(parts) == 1:
        raise wrong(
            value, "a mount", "it has no name to be found by: declare a Volume" if value[:1] == "/" else _MOUNT_HINT
        )
    if len(parts) > 3:
        raise wrong(value, "a mount", _MOUNT_HINT)
    source, target = parts[0], parts[1]
    options = parts[2].split(",") if len(parts) == 3 else []
    for option in options:
        if option not in ("ro", "rw"):
            raise wrong(value, "a mount", f"'{option}' is not an option of mounts; there are ro and rw")
    if len(options) > 1:
        raise wrong(value, "a mount", _MOUNT_HINT)
    where = _target(target, value, "a mount", _MOUNT_HINT)
    if source.startswith("~"):
        raise wrong(value, "a mount", "~ means nothing here: write the whole path")
    if "/" in source or source in (".", ".."):
        return Mount("bind", canonical_path(source), where, options == ["ro"])
    if not pattern(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$").match(source):
        raise wrong(value, "a mount", _MOUNT_HINT)
    return Mount("volume", source, where, options == ["ro"])


@lru_cache(maxsize=4096)
def parse_tmpfs(value: str) -> Tmpfs:
    """``/PATH`` or ``/PATH:size=SIZE``."""
    target, colon, option = value.partition(":")
    where = _target(target, value, "a tmpfs", _TMPFS_HINT)
    if not colon:
        return Tmpfs(where)
    name, _, size = option.partition("=")
    if name != "size":
        raise wrong(value, "a tmpfs", _TMPFS_HINT)
    return Tmpfs(where, parse_size(size))


def _target(target: str, value: str, what: str, hint: str) -> str:
    if not target.startswith("/") or "\0" in value or ".." in target.split("/"):
        raise wrong(value, what, hint)
    where = "/" + posixpath.normpath(target).lstrip("/")
    if where == "/":
        raise wrong(value, what, "nothing can be mounted over the container's root")
    return where


def canonical_path(path: str) -> str:
    """A path of the host without detours; a relative one keeps its dot (``conf`` is ``./conf``)."""
    if not path or "\0" in path:
        raise wrong(path, "a path")
    normal = posixpath.normpath(path)
    if normal.startswith("/"):
        return "/" + normal.lstrip("/")
    return normal if normal in (".", "..") or normal.startswith("../") else f"./{normal}"


@lru_cache(maxsize=64)
def parse_restart(value: str) -> Restart:
    """Docker's ``--restart``."""
    policy, colon, retries = value.partition(":")
    if policy not in ("no", "always", "on-failure", "unless-stopped"):
        raise wrong(value, "a restart policy", _RESTART_HINT)
    if not colon:
        return Restart(policy)
    if policy != "on-failure" or not (retries.isascii() and retries.isdigit() and len(retries) < 10):
        raise wrong(value, "a restart policy", _RESTART_HINT)
    return Restart(policy, int(retries))


@lru_cache(maxsize=256, typed=True)
def parse_signal(value: int | str) -> str:
    """``SIGTERM`` of ``TERM``, ``sigterm``, ``15``; realtime signals as ``SIGRTMIN+3`` (signal(7), Linux numbers)."""
    text = str(value).upper().removeprefix("SIG")
    hint = "write for example SIGTERM, SIGQUIT or SIGRTMIN+3"
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) < 4 else 0
        if 1 <= number <= len(_SIGNALS):
            return f"SIG{_SIGNALS[number - 1]}"
        if _REALTIME_FIRST <= number <= _REALTIME_LAST:
            return _realtime(number - _REALTIME_FIRST)
        raise wrong(value, "a signal", hint)
    realtime = pattern(r"^RTM(IN|AX)([+-][0-9]{1,2})?$").match(text)
    if realtime:
        start = 0 if realtime[1] == "IN" else _REALTIME_LAST - _REALTIME_FIRST
        offset = start + int(realtime[2] or 0)
        if 0 <= offset <= _REALTIME_LAST - _REALTIME_FIRST:
            return _realtime(offset)
        raise wrong(value, "a signal", hint)
    name = _SIGNAL_ALIASES.get(text, text)
    if name not in _SIGNALS:
        close = nearest(text, _SIGNALS)
        raise wrong(value, "a signal", f"did you mean SIG{close}?" if close else hint)
    return f"SIG{name}"


def _realtime(offset: int) -> str:
    return f"SIGRTMIN+{offset}" if offset else "SIGRTMIN"


@lru_cache(maxsize=256)
def parse_capability(value: str) -> str:
    """``CAP_NET_ADMIN`` of ``net_admin`` or ``CAP_NET_ADMIN``; ``ALL`` stays (capabilities(7))."""
    name = value.upper().removeprefix("CAP_")
    if name == "ALL":
        return name
    if name in CAPABILITIES:
        return f"CAP_{name}"
    close = nearest(name, CAPABILITIES)
    raise wrong(value, "a capability", f"did you mean {close}?" if close else "write for example NET_ADMIN, or ALL")


def parse_ipv4(value: str) -> str:
    """An IPv4 address in its one canonical text."""
    parts = value.split(".")
    if len(parts) != 4 or not all(
        part.isascii() and part.isdigit() and len(part) < 4 and int(part) < 256 and (part == "0" or part[0] != "0")
        for part in parts
    ):
        raise wrong(value, "an IPv4 address", "write for example 127.0.0.1")
    return value


@lru_cache(maxsize=1024)
def parse_ip(value: str) -> str:
    """An IPv4 or IPv6 address in canonical text (RFC 5952)."""
    if ":" not in value:
        return parse_ipv4(value)
    import ipaddress

    try:
        return str(ipaddress.IPv6Address(value))
    except ValueError:
        raise wrong(value, "an address", "write for example 10.0.0.7 or fd00::7") from None


@lru_cache(maxsize=1024)
def parse_subnet(value: str) -> str:
    """An IPv4 network in CIDR form with room for two containers at least, and no bit of a host in it."""
    hint = "write for example 10.89.4.0/24"
    address, slash, digits = value.partition("/")
    if not slash or not (digits.isascii() and digits.isdigit() and len(digits) < 3) or not 8 <= int(digits) <= 29:
        raise wrong(value, "a subnet", f"{hint}; prefixes go from 8 to 29" if slash else hint)
    prefix = int(digits)
    octets = [int(part) for part in parse_ipv4(address).split(".")]
    number = octets[0] << 24 | octets[1] << 16 | octets[2] << 8 | octets[3]
    network = number >> (32 - prefix) << (32 - prefix)
    if network != number:
        first = ".".join(str(network >> shift & 255) for shift in (24, 16, 8, 0))
        raise wrong(value, "a subnet", f"the network of that address is {first}/{prefix}")
    if octets[0] in (0, 127) or octets[0] >= 224 or octets[:2] == [169, 254]:
        raise wrong(value, "a subnet", "these addresses mean something else: write for example 10.89.4.0/24")
    return f"{address}/{prefix}"


@lru_cache(maxsize=16384)
def parse_image(value: str) -> str:
    """An image name by distribution/reference's grammar: ``[HOST[:PORT]/]PATH[:TAG][@DIGEST]``. It is kept as it is."""
    if pattern(
        r"^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]+)?/)?"
        r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[a-z0-9]+:[0-9a-f]{32,})?$"
    ).match(value):
        # What has a dot before the first slash is a registry, and those have no underscores.
        first, slash, _ = value.partition("/")
        if not slash or "." not in first or "_" not in first:
            return value
        raise wrong(value, "an image name", f"{first} is not the name of a registry")
    name = value.rpartition("/")[2].partition(":")[0]
    if name != name.lower():
        raise wrong(value, "an image name", "image names are lower-case")
    raise wrong(value, "an image name", "write NAME, NAME:TAG or REGISTRY/NAME:TAG")


def parse_address(value: str) -> str:
    """``HOST`` or ``HOST:PORT``."""
    if "//" in value:
        raise wrong(value, "an address", "leave the scheme out: HOST:PORT")
    found = pattern(r"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::([1-9][0-9]{0,4}))?$").match(
        value
    )
    if found is None or int(found[1] or 0) > 65535:
        raise wrong(value, "an address", "write HOST or HOST:PORT, for example 127.0.0.1:5000")
    return value


def parse_user(value: int | float | str) -> str:
    """``USER[:GROUP]``, names or numbers, as text."""
    text = str(int(value)) if isinstance(value, (int, float)) else value
    if not pattern(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?$").match(text):
        raise wrong(value, "a user", "write USER or USER:GROUP, names or numbers")
    return text


def parse_test(value: str | list[Value]) -> list[Value]:
    """A health check's test as Docker's list: text is run by the image's shell. Items may be expressions."""
    hint = 'write ["CMD", "program", "argument"], or text for a shell, or ["NONE"]'
    if isinstance(value, str):
        return ["CMD-SHELL", value]
    if not value:
        raise wrong("", "a test", hint)
    first, rest = value[0], value[1:]
    if first not in ("CMD", "CMD-SHELL", "NONE"):
        raise wrong(first, "what a test begins with (CMD, CMD-SHELL or NONE)", hint)
    if (first == "NONE") == bool(rest):
        raise wrong(" ".join(map(str, value)), "a test", hint)
    return value


def lone_name(value: dict[str, Value]) -> Value:
    """A network's entry: the bare name where it says no more than that."""
    return value if value.get("aliases") or "name" not in value else value["name"]


def parse_text(value: str | int | float | bool) -> str:
    """A scalar as text, written as YAML would: ``true`` rather than ``True``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else str(value)
    if "\0" in text:
        raise wrong(text, "a text", "the character NUL cannot stand in it")
    return text
