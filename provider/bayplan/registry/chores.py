"""What a server does after it has answered: scans, replication. Durable, so that a server that dies leaves nothing undone.

A chore stands as a document before the answer that promised it goes out, and until it is done. One thread for each kind carries
chores out in the order of their due time; one that fails is tried again later and later, and given up after some hours. Several
servers of one root may do the same chore twice, which every kind can bear.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from bayplan.errors import BayplanError
from bayplan.registry.registry import Registry

_PREFIX = "chore/"
_LOOK_SECONDS = 30.0  # between looks for chores of other processes, and of before this server began
_FIRST_WAIT, _LONGEST_WAIT, _MOST_TRIES = 1.0, 900.0, 20

Work = Callable[[Mapping[str, Any]], None]
GivenUp = Callable[[Mapping[str, Any], str], None]


class Chores:
    """The chores of one kind. ``work`` does one, and raises where it should be tried again; ``given_up`` is told of one that
    never worked, with the reason."""

    def __init__(self, registry: Registry, kind: str, work: Work, given_up: GivenUp) -> None:
        self._registry = registry
        self._prefix = f"{_PREFIX}{kind}/"
        self._work = work
        self._given_up = given_up
        self._bell = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"registry-{kind}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, seconds: float = 10.0) -> None:
        """Begin no other chore and wait for the one under way; what is not done stays for the next server."""
        self._ended = True
        self._bell.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def add(self, key: str, what: Mapping[str, Any]) -> None:
        """A chore, durable when this returns; one of the same key begins anew."""
        body = json.dumps({"what": what, "tries": 0, "due": 0.0, "asked": time.time_ns()})
        self._registry.set_document("", self._prefix + key, body)
        self._bell.set()

    @property
    def ended(self) -> bool:
        """Whether the server ends: a long chore looks here and raises to go on another time."""
        return self._ended

    def _run(self) -> None:
        while not self._ended:
            self._bell.clear()
            wait = _LOOK_SECONDS
            with suppress(
                BayplanError
            ):  # the database cannot be read now: /healthz tells it, and the next look tries again
                wait = self._round()
            self._bell.wait(wait)

    def _round(self) -> float:
        """Do what is due; seconds until there is more."""
        rows = [(json.loads(text), name, text) for name, text in self._registry.documents("", self._prefix)]
        now = time.time()
        for chore, name, text in sorted(rows, key=lambda row: (row[0]["due"], row[0]["asked"])):
            if self._ended:
                return 0.0
            if chore["due"] > now:
                return min(_LOOK_SECONDS, float(chore["due"]) - now)
            self._one(chore, name, text)
        return _LOOK_SECONDS

    def _one(self, chore: dict[str, Any], name: str, text: str) -> None:
        try:
            self._work(chore["what"])
        except Exception as error:  # noqa: BLE001  (whatever stops one chore must not stop the others; it is told)
            tries = chore["tries"] + 1
            if self._ended:
                return
            if tries < _MOST_TRIES:
                due = time.time() + min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (tries - 1))
                again = json.dumps({**chore, "tries": tries, "due": due})
                self._registry.replace_document("", name, text, again)
                return
            self._given_up(chore["what"], str(error))
        self._registry.replace_document("", name, text, None)  # not where it was asked for again meanwhile
