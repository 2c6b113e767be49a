"""System-call filters as crun compiled them, kept for the next container.

A filter is the same for nearly every container of a machine, and compiling it is the dearest thing that crun does in a start.
crun leaves the program (BPF, seccomp(2)) beside what it writes down about a container, and takes one from the annotation
``run.oci.seccomp_bpf_data`` (crun(1)) in place of compiling; both are in every crun since 0.20. The program is kept in
``/run/bayplan``, with the filter, under the digest of what both are made from (profile, capabilities, kernel, crun), until the
machine boots again. The filter itself stands in the bundle as ever: a runtime that does not know the annotation compiles it.
"""

from __future__ import annotations

import contextlib
import json
import os
from _blake2 import blake2b
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayplan.records import dataclass
from bayplan.runtime.ociruntime import OciRuntime
from bayplan.runtime.record import RootPlace, read_json, write_json
from bayplan.runtime.seccomp import PROFILE, default_filter

_ANNOTATION = "run.oci.seccomp_bpf_data"
_LONGEST = 32768  # bytes: BPF_MAXINSNS (4096) instructions of eight


@dataclass(frozen=True, slots=True)
class Compiled:
    """A filter in the runtime's form, with its program: known already, or to be had from the first container that is created
    with it. ``place`` is None where the runtime keeps no program."""

    place: Path | None
    filter: Mapping[str, Any]
    program: str = ""

    @property
    def annotations(self) -> dict[str, str]:
        """What to write into the bundle."""
        return {_ANNOTATION: self.program} if self.program else {}

    def keep(self, runtime: OciRuntime, id: str) -> None:
        """Take over the program of the container ``id``, which was created just now."""
        if self.program or self.place is None:
            return
        with contextlib.suppress(FileNotFoundError):
            made = (runtime.state / id / "seccomp.bpf").read_bytes()
            if made and not len(made) % 8 and len(made) <= _LONGEST:
                from binascii import b2a_base64

                text = b2a_base64(made, newline=False).decode("ascii")
                write_json(self.place, {"filter": self.filter, "program": text})


def compiled(root: RootPlace, runtime: OciRuntime, capabilities: frozenset[str]) -> Compiled:
    """The filter for these capabilities, with its program where one is kept. Raises what :func:`.seccomp.default_filter`
    raises."""
    if not runtime.name.startswith("crun"):
        return Compiled(None, default_filter(capabilities))
    known: list[Any] = [sorted(capabilities), os.uname().machine, os.uname().release]
    for path in (PROFILE, Path(runtime.program)):
        with contextlib.suppress(FileNotFoundError):
            info = path.stat()
            known += [str(path), info.st_size, info.st_mtime_ns]
    place = root.run_dir.parent / f"seccomp-{blake2b(json.dumps(known).encode(), digest_size=16).hexdigest()}.json"
    kept = read_json(place)
    if kept is not None:
        return Compiled(place, kept["filter"], kept["program"])
    return Compiled(place, default_filter(capabilities))
