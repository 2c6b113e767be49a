"""The first stack that ``bayplan init`` writes: it applies as it is, on a machine without network and without any image.

A container needs an image, and an image something to stand on. What every Debian has one package away is a static
busybox: a copy of it in an image ``FROM scratch`` serves a page. So the first stack is a repository, an image and a
container that answers on a port, with a health check, and shows the forms that a reader needs next.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from bayplan.errors import BayplanError

#: Where distributions put a busybox.
BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"), Path("/usr/lib/busybox/bin/busybox"))

_PT_INTERP = 3
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)

_STACK = """\
# One set of things that belong together. `bayplan plan` says what an apply would do, `bayplan apply` does it.
stack: {name}

variables:
  port: {{ type: integer, default: 8080, description: The port of this machine that answers }}

resources:
  # Where images of one name are kept, in the registry that comes with bayplan.
  Repository.app:
    repository_name: {repository}/app

  # Built from app/Dockerfile, and built again when anything in app/ changes.
  Image.app:
    build: {{ context: ./app }}
    push: ["${{Repository.app.uri}}:1.0"]

  # Follows the image by its content: another page in app/ makes another container, which takes the port over.
  Container.app:
    image: ${{Image.app.ref}}
    ports: ["${{var.port}}:8080"]
    restart: unless-stopped
    memory: 64m
    stop_signal: SIGKILL                # what serves the page here has nothing to save
    healthcheck:
      test: ["CMD", "/bin/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"]
      interval: 5s
      start_period: 10s
      start_interval: 200ms

outputs:
  url: "http://127.0.0.1:${{var.port}}/"
"""

_DOCKERFILE = """\
# The smallest base there is: nothing, and one static program. Put your own application in its place.
FROM scratch
COPY busybox /bin/busybox
COPY index.html /www/index.html
EXPOSE 8080
CMD ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]
"""

_PAGE = """\
<!doctype html>
<title>{name}</title>
<h1>{name} is up</h1>
<p>This page is app/index.html. Change it, then run <code>bayplan plan</code>.</p>
"""


def write_first_stack(folder: Path, name: str, *, busybox: Sequence[Path] = BUSYBOX) -> list[Path]:
    """Writes ``bayplan.yaml`` and ``app/`` into ``folder`` and gives the files written.

    Nothing is overwritten. Raises BayplanError: ``bad-name``, ``already-there`` (a definition or one of the files),
    ``no-busybox`` (no static one among ``busybox``), ``unwritable``.
    """
    if not _NAME.fullmatch(name):
        hint = "lower-case letters and digits make a name, between them also . _ -"
        raise BayplanError("bad-name", f"'{name}' is not a stack's name", hint=hint)
    program = _static(busybox)
    repository = re.sub(r"[._-]+", "-", name)  # a repository's name knows single separators only
    contents: dict[Path, bytes] = {
        folder / "app" / "Dockerfile": _DOCKERFILE.encode(),
        folder / "app" / "index.html": _PAGE.format(name=name).encode(),
        folder / "app" / "busybox": program.read_bytes(),
        # The definition comes last: where it stands, the rest is there.
        folder / "bayplan.yaml": _STACK.format(name=name, repository=repository).encode(),
    }
    for taken in (*contents, folder / "bayplan.yml", folder / "bayplan.json"):
        if taken.exists():
            hint = "nothing is overwritten; choose an empty folder"
            raise BayplanError("already-there", f"{taken} is there already", hint=hint)
    try:
        (folder / "app").mkdir(parents=True, exist_ok=True)
        for path, data in contents.items():
            _write(path, data, executable=path.name == "busybox")
    except OSError as error:
        message = f"{error.filename or folder} cannot be written: {os.strerror(error.errno or 0)}"
        raise BayplanError("unwritable", message) from None
    return list(contents)


def stack_name(folder: Path) -> str:
    """A stack's name made of the folder's; ``first`` where nothing of it can stay."""
    kept = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("._-")[:63].rstrip("._-")
    return kept or "first"


def _static(candidates: Sequence[Path]) -> Path:
    for path in candidates:
        if path.is_file() and is_static(path):
            return path
    hint = "install it: apt-get install -y busybox-static"
    raise BayplanError(
        "no-busybox", "the first stack serves its page with a static busybox, and there is none", hint=hint
    )


def is_static(program: Path) -> bool:
    """Whether an ELF program needs no loader (no ``PT_INTERP`` among its program headers; elf(5)), so that it runs alone."""
    with program.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:4] != b"\x7fELF":
            return False
        wide, order = head[4] == 2, "little" if head[5] == 1 else "big"

        def number(start: int, size: int) -> int:
            return int.from_bytes(head[start : start + size], order)  # type: ignore[arg-type]

        offset = number(32, 8) if wide else number(28, 4)
        size, count = (number(54, 2), number(56, 2)) if wide else (number(42, 2), number(44, 2))
        file.seek(offset)
        table = file.read(size * count)
    kinds = (table[at : at + 4] for at in range(0, len(table), size or 1))
    return all(int.from_bytes(kind, order) != _PT_INTERP for kind in kinds)  # type: ignore[arg-type]


def _write(path: Path, data: bytes, *, executable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755 if executable else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
