"""The root file system of a container or a build step: an overlay of image layers under one writable directory.

Mount points that the image lacks (``/proc``, ``/etc/hosts``, the target of a volume) come from a small *points* layer,
so that they never appear among what the container changed: a ``RUN`` that does nothing makes an empty layer. It lies
below the image, which so says owner, mode and time of everything that it has itself. What a link, a whiteout or an
opaque folder of the image hides there, comes from a second such layer between the image and the writable directory,
which repeats the folders on the way as the image has them.

The trees are made by strangers, so every path inside is resolved by :func:`resolve`, which never leaves the root
whatever the links say. Nothing runs in the tree while it is being prepared, so looking first and acting then is no
race.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from bayplan.errors import BayplanError
from bayplan.records import dataclass
from bayplan.runtime.bundle import User
from bayplan.runtime.kernel import mount, unmount

_OPTIONS = "index=off,metacopy=off,redirect_dir=off"
_PASSWD_LIMIT = 8 << 20  # bytes of /etc/passwd or /etc/group that we are willing to read
_LINK_LIMIT = 40  # as the kernel's MAXSYMLINKS


def resolve(root: Path, path: str) -> Path:
    """The host path of ``path`` inside ``root``, every link followed as if ``root`` were ``/``; need not exist.

    Raises BayplanError ``bad-path`` on a loop of links.
    """
    done: list[str] = []
    rest = [part for part in PurePosixPath(path).parts if part != "/"]
    rest.reverse()
    links = 0
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if done:
                done.pop()
            continue
        here = root.joinpath(*done, part)
        try:
            target = os.readlink(here)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                raise
            done.append(part)
            continue
        links += 1
        if links > _LINK_LIMIT:
            raise BayplanError("bad-path", f"{path}: too many symbolic links in the image")
        if target.startswith("/"):
            done = []
        rest.extend(reversed([piece for piece in PurePosixPath(target).parts if piece != "/"]))
    return root.joinpath(*done)


def _plain(path: Path) -> bool:
    return not any(character in str(path) for character in ":,\\")


def mount_overlay(lower: Sequence[Path], upper: Path | None, work: Path | None, target: Path) -> None:
    """Mount the layers (topmost first) on ``target``; without ``upper`` read-only. Raises OSError.

    mount(2) takes one page of options. Where the paths do not fit, or hold characters that overlayfs would read as its
    own, each directory is named by a descriptor instead (``/proc/self/fd/N``).
    """
    layers = list(lower)
    if upper is None and len(layers) == 1:
        mount(str(layers[0]), target, "none", 4096)  # MS_BIND: an overlay needs two layers
        return
    paths = [*layers, *([upper, work] if upper is not None and work is not None else [])]
    with ExitStack() as stack:
        names = [str(path) for path in paths]
        if sum(map(len, names)) + len(names) > 3500 or not all(map(_plain, paths)):
            names = []
            for path in paths:
                descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                names.append(f"/proc/self/fd/{descriptor}")
        text = "lowerdir=" + ":".join(names[: len(layers)])
        if upper is not None:
            text += f",upperdir={names[-2]},workdir={names[-1]}"
        mount("overlay", target, "overlay", 0, f"{text},{_OPTIONS}")


def _clear(folder: Path) -> None:
    if folder.exists():
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Overlay:
    """Where the parts of one root file system lie. ``points`` is where the layer of missing mount points is made."""

    lower: tuple[Path, ...]
    upper: Path
    work: Path
    points: Path
    target: Path

    def mount(self, wanted: Mapping[str, str]) -> None:
        """Mount on ``target``; ``wanted`` maps mount points to ``dir`` or ``file``, made where the image lacks them.

        The points layer is made anew each time. Raises BayplanError ``rootfs`` when the kernel refuses.
        """
        self.target.mkdir(parents=True, exist_ok=True)
        below = self.points / "below"
        _clear(below)
        for path in (self.upper, self.work, below):
            _make_folder(path)
        _make_below(below, wanted)
        # One layer may stand twice in an image; overlayfs refuses a folder twice, and the topmost says all.
        lower = (*dict.fromkeys(self.lower), below)
        try:
            mount_overlay(lower, self.upper, self.work, self.target)
            missing = self._missing(wanted)
            if not missing:
                return
            layer = self.points / "layer"
            _clear(layer)
            layer.mkdir()
            self._make_points(layer, missing)
            unmount(self.target)
            mount_overlay((layer, *lower), self.upper, self.work, self.target)
        except OSError as error:
            unmount(self.target)
            raise BayplanError(
                "rootfs",
                f"the root file system cannot be mounted: {error}",
                hint="overlayfs is needed; see bayplan doctor",
            ) from error

    def unmount(self) -> None:
        """Unmount and remove the mount point; removing it also drops the mount from any other mount namespace."""
        unmount(self.target)
        try:
            self.target.rmdir()
        except FileNotFoundError:
            return

    def _missing(self, wanted: Mapping[str, str]) -> list[tuple[str, str]]:
        """(path relative to the root with links resolved, form) of each point that is not there."""
        out = []
        for path, form in sorted(wanted.items()):
            real = resolve(self.target, path)
            if real != self.target and not real.exists():
                out.append((str(real.relative_to(self.target)), form))
        return out

    def _make_points(self, layer: Path, missing: Sequence[tuple[str, str]]) -> None:
        _mirror(self.target, layer)
        for relative, form in missing:
            parts = PurePosixPath(relative).parts
            for depth in range(1, len(parts)):
                here = layer.joinpath(*parts[:depth])
                if not here.exists():
                    _make_folder(here)
                    _mirror(self.target.joinpath(*parts[:depth]), here)
            point = layer.joinpath(*parts)
            if form == "dir":
                _make_folder(point)
            else:
                point.touch()
                point.chmod(0o644)
        # Times last: making the entries changed them.
        for directory, _, _ in os.walk(layer, topdown=False):
            source = self.target / Path(directory).relative_to(layer)
            if source.is_dir():
                info = source.lstat()
                os.utime(directory, ns=(info.st_mtime_ns, info.st_mtime_ns))


def _make_below(layer: Path, wanted: Mapping[str, str]) -> None:
    """The points in a layer of their own. One that stands in another's way is left out: it is found missing then."""
    for path, form in sorted(wanted.items()):
        parts = PurePosixPath(path).parts
        if ".." in parts:
            continue
        point = layer.joinpath(*(part for part in parts if part != "/"))
        try:
            if form == "dir":
                _make_folder(point)
            elif not point.exists():
                _make_folder(point.parent)
                point.touch()
                point.chmod(0o644)
        except (FileExistsError, NotADirectoryError):
            continue


def _make_folder(path: Path) -> None:
    """A folder that everybody may look into, with those above it, whatever the umask; one that is there stays as it is."""
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    except FileNotFoundError:
        _make_folder(path.parent)
        path.mkdir()
    path.chmod(0o755)


def _mirror(source: Path, copy: Path) -> None:
    """Give the directory ``copy`` owner, mode and extended attributes of ``source``, when that exists."""
    try:
        info = source.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        raise BayplanError(
            "bad-path", f"{source.name} in the image is no directory, but something is to be mounted in it"
        )
    os.chown(copy, info.st_uid, info.st_gid)
    copy.chmod(stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        if not name.startswith("trusted.overlay."):
            os.setxattr(copy, name, os.getxattr(source, name, follow_symlinks=False))


def make_working_directory(root: Path, path: str, user: User) -> None:
    """Create the working directory where the image lacks it, owned by the user (as BuildKit's WORKDIR)."""
    real = resolve(root, path)
    made = []
    while real != root and not real.exists():
        made.append(real)
        real = real.parent
    for directory in reversed(made):
        _make_folder(directory)
        os.chown(directory, user.uid, user.gid)


def _table(root: Path, path: str, fields: int) -> list[list[str]]:
    """The rows of a colon-separated table in the image; empty when it is not there."""
    try:
        with resolve(root, path).open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return []
            text = file.read(_PASSWD_LIMIT).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return []
    rows = (line.split(":") for line in text.splitlines() if line and not line.startswith("#"))
    return [row for row in rows if len(row) >= fields]


def find_user(root: Path, text: str) -> User:
    """``USER`` of an image: ``name|uid[:group|gid]``, names looked up in the image's own tables.

    As moby (libcontainer user.GetExecUser): without a group, the user's primary one and all that list the user's
    name; a number without an entry is taken as it is, group 0. Raises BayplanError ``unknown-user``.
    """
    wanted, _, wanted_group = text.partition(":")
    wanted = wanted or "0"
    uid, gid, home, name = -1, 0, "/", ""
    for row in _table(root, "/etc/passwd", 6):
        if (row[0] == wanted or row[2] == wanted) and row[2].isdigit() and row[3].isdigit():
            uid, gid, home, name = int(row[2]), int(row[3]), row[5] or "/", row[0]
            break
    if uid < 0:
        if not wanted.isdigit():
            raise BayplanError(
                "unknown-user",
                f"the image has no user {wanted} in its /etc/passwd",
                hint="use a number, or add the user in the Dockerfile",
            )
        uid = int(wanted)
    groups: list[int] = []
    if wanted_group:
        for row in _table(root, "/etc/group", 3):
            if (row[0] == wanted_group or row[2] == wanted_group) and row[2].isdigit():
                gid = int(row[2])
                break
        else:
            if not wanted_group.isdigit():
                raise BayplanError("unknown-user", f"the image has no group {wanted_group} in its /etc/group")
            gid = int(wanted_group)
    elif name:
        for row in _table(root, "/etc/group", 4):
            if row[2].isdigit() and name in row[3].split(","):
                groups.append(int(row[2]))
    if not 0 <= uid < 2**32 - 1 or not 0 <= gid < 2**32 - 1:
        raise BayplanError("unknown-user", f"{text} is not a valid user number")
    return User(uid, gid, tuple(sorted(set(groups))), home)
