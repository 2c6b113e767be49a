"""What a disk may hold after a loss of power, from the calls that a program made.

The calls are recorded with strace. A file's content is durable as it was at its last fsync, a name as it was at the last fsync of its
folder; anything else may have reached the disk or not. :meth:`Disk.states` gives the two extremes after each call: all of it (what a
killed process leaves) and only what was synced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,write,pwrite64,writev,pwritev,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,fsync,fdatasync,ftruncate,close,"
    "lseek,sendto,sendmsg,copy_file_range,dup,dup2,dup3,fcntl"
)
_LINE = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_BEGUN = re.compile(r"(?P<pid>\d+) +(?P<text>\w+\(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<text>.*)$")
_CLOSING = re.compile(r"close\((\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class Inode:
    """``synced`` None: nothing of it need be there."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes | None = None


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str
    result: int

    @property
    def strings(self) -> list[bytes]:
        return [bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(self.arguments)]

    @property
    def first(self) -> int:
        return int(self.arguments.partition(",")[0].partition(")")[0])

    @property
    def last(self) -> int:
        return int(self.arguments.rpartition(",")[2])


def calls(log: Path) -> Iterator[Call]:
    """The calls of a log of ``strace -f -xx``, in the order of their ends; of ``close`` that of their beginnings, because the
    descriptor is somebody else's before the end is told."""
    begun: dict[str, str] = {}
    for line in log.read_text().splitlines():
        started, resumed = _BEGUN.match(line), _RESUMED.match(line)
        if started:
            closing = _CLOSING.match(started["text"])
            if closing:
                yield Call("close", closing[1], 0)
            else:
                begun[started["pid"]] = started["text"]
            continue
        if resumed:
            line = f"{resumed['pid']} {begun.pop(resumed['pid'], '')}{resumed['text']}"
        match = _LINE.match(line)
        if match and int(match["result"]) >= 0:
            yield Call(match["name"], match["arguments"], int(match["result"]))


class Disk:
    """The files below ``root``, which hold what they hold now, durably, when the recording begins."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self.names: dict[str, Inode] = {}
        self.folders: set[str] = {self._root}
        for path in root.rglob("*"):
            if path.is_dir():
                self.folders.add(str(path))
            elif path.is_file():
                data = path.read_bytes()
                self.names[str(path)] = Inode(bytearray(data), data)
        self.durable = dict(self.names)
        self.durable_folders = set(self.folders)
        self._open: dict[
            int, tuple[str, Inode | None, int]
        ] = {}  # descriptor: (path, file or None for a folder, offset)
        self.sent: list[bytes] = []

    def attach(self, process: int) -> None:
        """Know what a process has open already."""
        for entry in Path(f"/proc/{process}/fd").iterdir():
            try:
                path = str(entry.readlink())
                said = Path(f"/proc/{process}/fdinfo/{entry.name}").read_text()
            except FileNotFoundError:
                continue
            if path in self.names:
                self._open[int(entry.name)] = (path, self.names[path], int(said.split()[1]))
            elif path in self.folders:
                self._open[int(entry.name)] = (path, None, 0)

    def apply(self, call: Call) -> bool:
        """Carry out a call; whether the disk may differ afterwards."""
        handler = getattr(self, f"_{call.name}", None)
        return bool(handler(call)) if handler else False

    # -- names -----------------------------------------------------------------------------------------------------

    def _ours(self, path: str) -> bool:
        return path.startswith(self._root)

    def _openat(self, call: Call) -> bool:
        path = call.strings[0].decode()
        if not self._ours(path):
            self._open.pop(call.result, None)
            return False
        if path in self.folders:
            self._open[call.result] = (path, None, 0)
            return False
        made = path not in self.names
        inode = self.names.setdefault(path, Inode())
        if "O_TRUNC" in call.arguments:
            inode.content.clear()
        self._open[call.result] = (path, inode, 0)
        return made

    def _close(self, call: Call) -> bool:
        self._open.pop(call.first, None)
        return False

    def _mkdir(self, call: Call) -> bool:
        path = call.strings[0].decode()
        if self._ours(path):
            self.folders.add(path)
        return self._ours(path)

    _mkdirat = _mkdir

    def _rename(self, call: Call) -> bool:
        old, new = (text.decode() for text in call.strings[:2])
        if not self._ours(old) or old not in self.names:
            return False
        self.names[new] = self.names.pop(old)
        return True

    _renameat = _renameat2 = _rename

    def _unlink(self, call: Call) -> bool:
        return self.names.pop(call.strings[0].decode(), None) is not None

    _unlinkat = _unlink

    # -- contents --------------------------------------------------------------------------------------------------

    def _file(self, call: Call) -> Inode | None:
        return self._open.get(call.first, ("", None, 0))[1]

    def _put(self, inode: Inode, at: int, data: bytes) -> None:
        if len(inode.content) < at:
            inode.content.extend(bytes(at - len(inode.content)))
        inode.content[at : at + len(data)] = data

    def _write(self, call: Call) -> bool:
        inode = self._file(call)
        if inode is None:
            if call.strings and call.strings[0].startswith(b"HTTP/"):
                self.sent.append(call.strings[0])
            return False
        path, _, at = self._open[call.first]
        at = len(inode.content) if path.endswith(".jsonl") else at  # O_APPEND
        self._put(inode, at, call.strings[0][: call.result])
        self._open[call.first] = (path, inode, at + call.result)
        return True

    def _sendto(self, call: Call) -> bool:
        self.sent.append(call.strings[0])
        return False

    def _lseek(self, call: Call) -> bool:
        if call.first in self._open:
            path, inode, _ = self._open[call.first]
            self._open[call.first] = (path, inode, call.result)
        return False

    def _pwrite64(self, call: Call) -> bool:
        inode = self._file(call)
        if inode is None:
            return False
        self._put(inode, call.last, call.strings[0][: call.result])
        return True

    def _ftruncate(self, call: Call) -> bool:
        inode = self._file(call)
        if inode is None:
            return False
        size = call.last
        del inode.content[size:]
        self._put(inode, size, b"")
        return True

    # -- what is durable -------------------------------------------------------------------------------------------

    def _fsync(self, call: Call) -> bool:
        path, inode, _ = self._open.get(call.first, ("", None, 0))
        if inode is not None:
            inode.synced = bytes(inode.content)
        elif path:
            self._sync_folder(path)
        return bool(path)

    _fdatasync = _fsync

    def _sync_folder(self, folder: str) -> None:
        def within(path: str) -> bool:
            return path.rpartition("/")[0] == folder

        self.durable = {path: inode for path, inode in self.durable.items() if not within(path)}
        self.durable |= {path: inode for path, inode in self.names.items() if within(path)}
        self.durable_folders |= {path for path in self.folders if within(path)}

    # -- states ----------------------------------------------------------------------------------------------------

    def all(self) -> dict[str, bytes]:
        """What a killed process leaves."""
        return {path: bytes(inode.content) for path, inode in self.names.items()}

    def least(self) -> dict[str, bytes]:
        """What a loss of power leaves at least."""

        def reachable(path: str) -> bool:
            folder = path.rpartition("/")[0]
            while folder != self._root:
                if folder not in self.durable_folders:
                    return False
                folder = folder.rpartition("/")[0]
            return True

        return {
            path: inode.synced for path, inode in self.durable.items() if inode.synced is not None and reachable(path)
        }

    def make(self, files: dict[str, bytes], target: Path) -> None:
        """Put a state below ``target``."""
        for path, data in files.items():
            if path.endswith("-shm"):
                continue  # memory that processes share; nobody relies on it after a loss of power
            place = target / path.removeprefix(self._root + "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            place.chmod(0o600)
