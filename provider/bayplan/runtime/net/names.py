"""Names of containers, answered by aardvark-dns, and what stands in a container's resolv.conf.

One aardvark-dns per root serves all of its networks that have names, on each one's gateway address. It reads one file a
network from ``run_dir/net/dns`` (first line the gateway, then ``ID ADDRESS  NAME,ALIAS``), again at SIGHUP. It is
started by the first container on such a network and stopped after the last; killed in between, the next change or
``reconcile`` starts it again. What it does not know it asks the machine's own resolvers, from the machine's own
namespace: so a resolver on 127.0.0.53 works too, which from inside a container it would not.

The default network has no names, as in Docker: its containers get the machine's resolvers directly. Where those are only
on loopback, systemd-resolved's list of the real ones is taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import signal
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from bayplan.errors import BayplanError

from . import listeners
from .model import Network, Record
from .records import write_atomically

_PROGRAMS = ("/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns", "/usr/lib/aardvark-dns/aardvark-dns")
_RESOLV_CONF = Path("/etc/resolv.conf")
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
_PORT = 53
_START, _LISTEN, _STOP = 10.0, 3.0, 2.0  # seconds


def program() -> Path | None:
    """aardvark-dns where distributions put it."""
    return next((Path(name) for name in _PROGRAMS if os.access(name, os.X_OK)), None)


def required() -> Path:
    """aardvark-dns, or the error ``dns-missing`` that names its package."""
    found = program()
    if found is None:
        raise BayplanError(
            "dns-missing",
            "networks with names need aardvark-dns, which is not here",
            hint="apt-get install aardvark-dns",
        )
    return found


# -- files (pure) --------------------------------------------------------------------------------------------------


def files(networks: Sequence[Network], records: Iterable[Record]) -> dict[str, str]:
    """aardvark's files: name to text, for the networks that have names. ``%int`` in a file's name tells it (from 1.6 on)
    that the network is internal, so that questions are not carried outside."""
    known = list(records)
    out = {}
    for network in networks:
        if not network.has_names:
            continue
        lines = [str(network.gateway)]
        for record in known:
            for link in record.links:
                if link.network == network.name:
                    lines.append(f"{record.id} {link.address}  {','.join(_names(record, link.aliases))}")
        out[network.name + ("%int" if network.internal else "")] = "\n".join(lines) + "\n"
    return out


def _names(record: Record, aliases: Sequence[str]) -> list[str]:
    """What a container answers to: its short id always; its name and aliases unless they are kept back."""
    words = [record.name, *aliases] if record.published else []
    return list(dict.fromkeys(word.lower() for word in (*words, record.id[:12]) if word))


def silent(networks: Sequence[Network]) -> list[str]:
    """The networks in use that have names, and on whose gateway nobody listens."""
    heard = {found.host_ip for found in listeners.listening("udp", [_PORT])}
    return [network.name for network in networks if network.has_names and str(network.gateway) not in heard]


# -- the process ---------------------------------------------------------------------------------------------------


class NameServer:
    """The aardvark-dns of one root, by its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pid_file = folder / "aardvark.pid"
        self._lock_file = folder.parent / "dns.lock"

    def sync(self, wanted: dict[str, str], *, tell: bool = False) -> bool:
        """Make the files as ``wanted`` and the process follow them; True when something was changed. ``tell`` has it
        read its files in any case.

        Raises ``dns-missing`` or ``dns-failed``.
        """
        present = {entry.name for entry in self.folder.iterdir() if entry != self._pid_file}
        changed = tell
        for name in present - wanted.keys():
            (self.folder / name).unlink(missing_ok=True)
            changed = True
        for name, text in wanted.items():
            path = self.folder / name
            if name not in present or path.read_text() != text:
                self._write(path, text)
                changed = True
        if not wanted:
            return self.stop() or changed
        descriptor = self._open()
        if descriptor is None:
            self._start()
            self._answering(wanted)
            return True
        try:
            if changed:
                signal.pidfd_send_signal(descriptor, signal.SIGHUP)
        finally:
            os.close(descriptor)
        if wanted.keys() - present:
            self._answering(wanted)
        return changed

    def _answering(self, wanted: dict[str, str]) -> None:
        """Wait until port 53 of every gateway is listened on: where it cannot have one, aardvark says nothing and goes on
        without that network. Raises ``dns-failed``."""
        gateways = {text.splitlines()[0] for text in wanted.values()}
        end, pause = time.monotonic() + _LISTEN, 0.0005
        while missing := gateways - {found.host_ip for found in listeners.listening("udp", [_PORT])}:
            if time.monotonic() > end:
                holder = next((f for f in listeners.listening("udp", [_PORT]) if not f.host_ip), None)
                raise BayplanError(
                    "dns-failed",
                    f"the name server cannot have port {_PORT} of {', '.join(sorted(missing))}"
                    + (f": {listeners.process(holder.inode)} has it on every address" if holder else ""),
                    hint="let that server listen on addresses of its own, or use the default network",
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def _write(self, path: Path, text: str) -> None:
        # aardvark takes every file of its folder for a network, so the new one is written beside the folder.
        beside = self.folder.parent / "dns.new"
        write_atomically(beside, text)
        beside.replace(path)

    def running(self) -> int | None:
        """The process id, or None."""
        descriptor = self._open()
        if descriptor is None:
            return None
        os.close(descriptor)
        return self._pid()

    def _pid(self) -> int | None:
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _open(self) -> int | None:
        """A pidfd of our process; None when there is none.

        The process holds a lock that it inherited, from before its first instruction to its end. So one that was started by
        somebody who died meanwhile, and has not written its pid yet, is waited for and not started twice.
        """
        end = time.monotonic() + _START
        while True:
            pid = self._pid()
            found = self._checked(pid) if pid else None
            if found is not None or self._take_lock(keep=False) is not None:
                return found
            if time.monotonic() > end:
                break
            time.sleep(0.005)
        # It lives and its pid file is gone: by its command line, then.
        others = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return next((found for pid in others if (found := self._checked(pid)) is not None), None)

    def _checked(self, pid: int) -> int | None:
        """A pidfd of ``pid`` if that is our process; by now it may be somebody else's number."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            command = []
        if os.fsencode(self.folder) in command:
            return descriptor
        os.close(descriptor)
        return None

    def _take_lock(self, *, keep: bool) -> int | None:
        """The lock that our process holds while it lives; None when it does. ``keep``: the caller closes it."""
        descriptor = os.open(self._lock_file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if not keep:
            os.close(descriptor)
        return descriptor

    def _start(self) -> None:
        """aardvark forks itself into the background and returns when it listens."""
        import subprocess

        program = str(required())
        self._pid_file.unlink(missing_ok=True)
        lock = self._take_lock(keep=True)
        if lock is None:
            raise BayplanError("dns-failed", "an aardvark-dns of this root that cannot be found is still running")
        try:
            done = subprocess.run(
                [program, "--config", str(self.folder), "-p", str(_PORT), "run"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env={"PATH": os.defpath},
                pass_fds=(lock,),
                start_new_session=True,
                timeout=_START,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BayplanError("dns-failed", f"aardvark-dns was not ready within {_START:.0f} s") from None
        finally:
            os.close(lock)
        if done.returncode != 0 or self.running() is None:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise BayplanError(
                "dns-failed",
                f"aardvark-dns did not start: {said[-1] if said else f'it ended with {done.returncode}'}",
                hint=f"{program} --config {self.folder} -p {_PORT} run",
            )

    def stop(self) -> bool:
        """End the process, bounded; False when there was none."""
        descriptor = self._open()
        if descriptor is None:
            self._pid_file.unlink(missing_ok=True)
            return False
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
                if _ended(descriptor, _STOP):
                    break
        finally:
            os.close(descriptor)
        self._pid_file.unlink(missing_ok=True)
        return True


def _ended(descriptor: int, timeout: float) -> bool:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            return True
    return False


# -- resolv.conf ---------------------------------------------------------------------------------------------------


def host_resolv_conf() -> str:
    """The machine's own resolv.conf, for containers in the machine's network namespace; ``""`` when it has none."""
    try:
        return _RESOLV_CONF.read_text()
    except FileNotFoundError:
        return ""


def host_servers() -> list[IPv4Address]:
    """The machine's name servers that a container could ask itself (IPv4, not on loopback)."""
    for text in (host_resolv_conf(), _RESOLVED.read_text() if _RESOLVED.exists() else ""):
        found = [server for server in _servers(text) if not server.is_loopback]
        if found:
            return found
    return []


def _servers(text: str) -> list[IPv4Address]:
    out = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            with contextlib.suppress(ipaddress.AddressValueError):
                out.append(IPv4Address(words[1]))
    return out


def resolv_conf(networks: Sequence[Network]) -> str:
    """The resolv.conf of a container on ``networks``: their gateways where they have names, else the machine's servers.

    ``ndots:0`` as Docker writes it: a container's bare name is asked for as it is, before the search list.
    """
    named = sorted((network for network in networks if network.has_names), key=lambda network: network.internal)
    host = [line.split() for line in host_resolv_conf().splitlines() if line.strip()]
    lines = [" ".join(words) for words in host if words[0] in ("search", "domain")]
    if named:
        lines += [f"nameserver {network.gateway}" for network in named[:3]]
        lines.append("options ndots:0")
    else:
        lines += [f"nameserver {server}" for server in host_servers()[:3]]
        lines += [" ".join(words) for words in host if words[0] == "options"]
    return "".join(line + "\n" for line in lines)
