"""Between our terminal and a container's streams: what ``run``, ``attach`` and ``start --attach`` do while it runs.

conmon's socket brings packets that begin with the number of the stream, and takes what is typed. Nothing here waits for one
side while the other has something: a container that reads nothing does not stop its output. Signals come through a pipe
(``set_wakeup_fd``), so that they are passed on from the loop and never in the middle of something else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from enum import Enum

_CHUNK = 8192  # what conmon reads of a packet at once
_DETACH = b"\x10\x11"  # ctrl-p ctrl-q, as docker has it
_FORWARDED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
_ENOUGH = 3  # interrupts after which we leave a container that does not react alone


class End(Enum):
    """How a session ended."""

    CLOSED = "closed"  # the container's streams are at their end
    DETACHED = "detached"  # the user left; the container goes on
    FORCED = "forced"  # three interrupts


class Session:
    """One connection. ``stdin``: pass ours on. ``forward`` is told the number of a signal that we got, ``resize`` the rows
    and columns of our terminal; ``redraw`` makes a program that was there before show itself."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        stdin: bool,
        tty: bool,
        forward: Callable[[int], None] | None,
        resize: Callable[[int, int], object] | None = None,
        redraw: bool = False,
    ) -> None:
        self._connection = connection
        self._stdin = stdin
        self._tty = tty
        self._forward = forward
        self._resize = resize
        self._redraw = redraw
        self._typed = b""
        self._armed = False  # ctrl-p was typed last
        self._held = False  # our input waits until the container has read
        self._interrupts = 0

    def run(self) -> End:
        """Until the streams end, the user detaches, or presses ctrl-c three times on a container that does not react."""
        self._connection.setblocking(False)
        raw = self._stdin and self._tty and sys.stdin.isatty()
        with contextlib.ExitStack() as stack:
            wake = stack.enter_context(_wakeups((*_FORWARDED, signal.SIGWINCH)))
            if raw:
                stack.enter_context(raw_terminal())
            if self._tty:
                self._tell_size()
            # poll, not epoll: our input may be a regular file, which is always ready.
            selector = stack.enter_context(selectors.PollSelector())
            selector.register(self._connection, selectors.EVENT_READ, "out")
            selector.register(wake, selectors.EVENT_READ, "signal")
            if self._stdin:
                selector.register(0, selectors.EVENT_READ, "in")
            while True:
                for key, mask in selector.select():
                    end = self._event(selector, str(key.data), mask, wake)
                    if end is not None:
                        return end

    def _event(self, selector: selectors.BaseSelector, what: str, mask: int, wake: int) -> End | None:
        if what == "signal":
            return self._signals(os.read(wake, 64))
        if what == "in":
            return self._read_input(selector)
        if mask & selectors.EVENT_WRITE:
            self._send(selector)
        if mask & selectors.EVENT_READ:
            return self._read_output()
        return None

    def _signals(self, numbers: bytes) -> End | None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._tell_size()
                continue
            if number in (signal.SIGINT, signal.SIGTERM):
                self._interrupts += 1
                if self._interrupts >= _ENOUGH or self._forward is None:
                    return End.FORCED
            if self._forward is not None:
                self._forward(number)
        return None

    def _tell_size(self) -> None:
        if self._resize is not None and sys.stdout.isatty():
            size = os.get_terminal_size(sys.stdout.fileno())
            if self._redraw:  # programs draw themselves anew only for another size than they know
                self._redraw = False
                self._resize(size.lines + 1, size.columns)
            self._resize(size.lines, size.columns)

    def _read_output(self) -> End | None:
        from bayplan.runtime.conmon import PACKET, STDERR

        while True:
            try:
                packet = self._connection.recv(PACKET)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                return End.CLOSED
            if not packet:
                return End.CLOSED
            _write_all(2 if packet[0] == STDERR else 1, packet[1:])

    def _read_input(self, selector: selectors.BaseSelector) -> End | None:
        try:
            data = os.read(0, _CHUNK)
        except OSError as error:
            if error.errno != errno.EIO:  # the terminal went away
                raise
            data = b""
        if not data:
            selector.unregister(0)
            self._close_input()
            return None
        if self._tty:
            if (self._armed and data[:1] == _DETACH[1:]) or _DETACH in data:
                return End.DETACHED
            self._armed = data[-1:] == _DETACH[:1]
        self._typed += data
        self._send(selector)
        return None

    def _send(self, selector: selectors.BaseSelector) -> None:
        try:
            while self._typed:
                self._connection.send(self._typed[:_CHUNK])
                self._typed = self._typed[_CHUNK:]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._typed = b""
        want = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._typed else 0)
        selector.modify(self._connection, want, "out")
        # Nothing more is read while something waits: what is typed is not piled up without bound.
        watched = 0 in selector.get_map()
        if self._typed and watched:
            selector.unregister(0)
            self._held = True
        elif not self._typed and not watched and self._held:
            selector.register(0, selectors.EVENT_READ, "in")
            self._held = False

    def _close_input(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def _wakeups(numbers: tuple[signal.Signals, ...]) -> Iterator[int]:
    """A descriptor from which the numbers of the signals that come can be read."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Our terminal passes on every key as it is; back to what it was in the end."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is kept
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
