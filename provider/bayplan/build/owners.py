"""Owners and modes as ``--chown`` and ``--chmod`` write them.

Names are looked up in the image's own ``/etc/passwd`` and ``/etc/group``, never in this machine's.
"""

from __future__ import annotations

import re

from bayplan.build.merged import MergedTree
from bayplan.build.trees import Kind, Node
from bayplan.errors import BayplanError

_LIMIT = 8 << 20
_LARGEST = 2**32 - 2
_SYMBOLIC = re.compile(r"([ugoa]*)([-+=])([rwxXst]*|[ugo])\Z")
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007}
_WHAT = {"r": 0o444, "w": 0o222, "x": 0o111}


def owner(text: str, image: MergedTree) -> tuple[int, int]:
    """``app``, ``app:staff``, ``1000:1000``, ``:staff`` -> (uid, gid). Raises BayplanError ``unknown-user``.

    Without a group, a name has its group from /etc/passwd and a number has the same number (BuildKit's rule).
    """
    user, colon, group = text.partition(":")
    uid, gid = 0, 0
    if user:
        number = _number(user)
        if number is not None:
            uid = gid = number
        else:
            uid, gid = _user(user, image)
    if colon and group:
        number = _number(group)
        gid = number if number is not None else _group(group, image)
    return uid, gid


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdecimal():
        return None
    if int(text) > _LARGEST:
        raise BayplanError("unknown-user", f"{text} is too large for a user or group number")
    return int(text)


def _rows(image: MergedTree, path: str) -> list[list[str]]:
    text = image.read(path, _LIMIT).decode(errors="replace")
    return [line.split(":") for line in text.split("\n") if ":" in line]


def _user(name: str, image: MergedTree) -> tuple[int, int]:
    for row in _rows(image, "etc/passwd"):
        if row[0] == name and len(row) >= 4 and row[2].isdecimal() and row[3].isdecimal():
            return int(row[2]), int(row[3])
    hint = "the name must stand in the image's /etc/passwd; a number needs no entry"
    raise BayplanError("unknown-user", f"the image has no user {name!r}", hint=hint)


def _group(name: str, image: MergedTree) -> int:
    for row in _rows(image, "etc/group"):
        if row[0] == name and len(row) >= 3 and row[2].isdecimal():
            return int(row[2])
    hint = "the name must stand in the image's /etc/group; a number needs no entry"
    raise BayplanError("unknown-user", f"the image has no group {name!r}", hint=hint)


class Chmod:
    """``--chmod``: octal, or symbolic as chmod(1) has it (``u=rwX,go=rX``). Raises BayplanError ``bad-mode``."""

    def __init__(self, text: str) -> None:
        self._octal: int | None = None
        self._clauses: list[tuple[str, str, str]] = []
        if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
            self._octal = int(text, 8)
            return
        for clause in text.split(","):
            match = _SYMBOLIC.match(clause)
            if not match:
                hint = "for example 755, or u=rwX,go=rX"
                raise BayplanError("bad-mode", f"--chmod={text} is neither an octal nor a symbolic mode", hint=hint)
            self._clauses.append((match.group(1), match.group(2), match.group(3)))

    def apply(self, node: Node) -> int:
        """The mode that ``node`` gets."""
        if self._octal is not None:
            return self._octal
        mode = node.mode
        for who, operator, what in self._clauses:
            mask = 0
            for letter in who.replace("a", "ugo") or "ugo":
                mask |= _WHO[letter]
            if what and what in "ugo":
                shift = {"u": 6, "g": 3, "o": 0}[what]
                bits = ((mode >> shift) & 7) * 0o111
            else:
                bits = 0
                for letter in what:
                    if letter == "X":
                        bits |= 0o111 if node.kind is Kind.DIRECTORY or mode & 0o111 else 0
                    elif letter == "s":
                        bits |= 0o6000
                    elif letter == "t":
                        bits |= 0o1000
                        mask |= 0o1000
                    else:
                        bits |= _WHAT[letter]
            bits &= mask
            if operator == "+":
                mode |= bits
            elif operator == "-":
                mode &= ~bits
            else:
                mode = mode & ~(mask & 0o777) | bits
        return mode
