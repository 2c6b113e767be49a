"""Named network namespaces: made on a thread, kept by a bind mount, found by their path.

``unshare(CLONE_NEWNET)`` changes the namespace of the calling thread alone, so a thread that ends afterwards makes one
without a fork; a bind mount of its ``/proc/thread-self/ns/net`` keeps the namespace alive without any process in it
(what ``ip netns add`` does), so a container's network outlives each of its processes and can be had before the first.

A thread that dies between ``unshare`` and the mount leaves nothing. One that dies after it leaves a mount below
``run_dir/net/ns``, where :func:`remove` finds it by its name.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bayplan.errors import BayplanError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8

_libc = ctypes.CDLL(None, use_errno=True)

# What Docker sets in each network namespace: any user may listen below 1024 and ping; no IPv6 on interfaces to come.
_SETTINGS = (
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _on_thread(work: Callable[[], T]) -> T:
    """Run ``work`` on a thread of its own, which ends with it, and give its result or its error."""
    out: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            out.append(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread, whatever it is
            failed.append(error)

    thread = threading.Thread(target=run, name="bayplan-netns", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return out[0]


def create(path: Path) -> None:
    """A new network namespace at ``path``; its loopback is down.

    Raises BayplanError ``netns-failed`` where the kernel does not let us.
    """

    def work() -> None:
        _checked(_libc.unshare(_CLONE_NEWNET), "unshare a network namespace")
        for name, value in _SETTINGS:
            write_setting(name, value)
        source = b"/proc/thread-self/ns/net"
        _checked(_libc.mount(source, os.fsencode(path), None, ctypes.c_ulong(_MS_BIND), None), f"bind {path}")

    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        _on_thread(work)
    except OSError as error:
        raise BayplanError(
            "netns-failed",
            f"cannot make a network namespace: {error}",
            hint="bridged networks need root (CAP_SYS_ADMIN and CAP_NET_ADMIN)",
        ) from error


def stands(path: Path) -> bool:
    """Is there a namespace at ``path`` (rather than nothing, or the bare file of a broken-off ``create``)?"""
    try:
        return path.stat().st_dev == Path("/proc/thread-self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False


def enter(path: Path, work: Callable[[], T]) -> T:
    """Run ``work`` inside the namespace at ``path`` (on a thread; what it opens stays inside)."""

    def inside() -> T:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.setns(descriptor, _CLONE_NEWNET), f"enter {path}")
        finally:
            os.close(descriptor)
        return work()

    return _on_thread(inside)


def remove(path: Path) -> bool:
    """Let go of the namespace at ``path``; False when there was none. The kernel frees it when its last process ends."""
    if not path.exists():
        return False
    if _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        if number != 22:  # EINVAL: not a mount point
            raise BayplanError("netns-failed", f"cannot unmount {path}: {os.strerror(number)}")
    path.unlink(missing_ok=True)
    return True


def write_setting(name: str, value: str) -> None:
    """Write ``/proc/sys/net/NAME`` of the calling thread's namespace; a kernel without that setting needs none."""
    try:
        descriptor = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
