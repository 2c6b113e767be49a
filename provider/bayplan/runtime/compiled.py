"""System-call filters as crun compiled them, kept for the next container.

A filter is the same for nearly every container of a machine, and compiling it is the dearest thing that crun does in a start.
crun leaves the program (BPF, seccomp(2)) beside what it writes down about a container, and takes one from the annotation
``run.oci.seccomp_bpf_data`` (crun(1)) in place of compiling; both are in every crun since 0.20. The program is kept in
``/run/bayplan`` under the digest of the filter and of the crun that compiled it, until the machine boots again. The filter itself
stands in the bundle as ever: a runtime that does not know the annotation compiles it.
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
from bayplan.runtime.record import RootPlace

_ANNOTATION = "run.oci.seccomp_bpf_data"
_LONGEST = 32768  # bytes: BPF_MAXINSNS (4096) instructions of eight


@dataclass(frozen=True, slots=True)
class Compiled:
    """One filter's program, known already or to be had from the first container that is created with it."""

    place: Path
    program: bytes

    @property
    def annotations(self) -> dict[str, str]:
        """What to write into the bundle."""
        if not self.program:
            return {}
        from binascii import b2a_base64

        return {_ANNOTATION: b2a_base64(self.program, newline=False).decode("ascii")}

    def keep(self, runtime: OciRuntime, id: str) -> None:
        """Take over the program of the container ``id``, which was created just now."""
        if self.program:
            return
        with contextlib.suppress(FileNotFoundError):
            made = (runtime.state / id / "seccomp.bpf").read_bytes()
            if made and not len(made) % 8 and len(made) <= _LONGEST:
                draft = self.place.with_name(f".{self.place.name}.{os.getpid()}")
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    os.write(descriptor, made)
                finally:
                    os.close(descriptor)
                draft.replace(self.place)


def compiled(root: RootPlace, runtime: OciRuntime, wanted: Mapping[str, Any] | None) -> Compiled | None:
    """The program of the filter ``wanted``; None where there is no filter, or the runtime is not crun."""
    if wanted is None or not runtime.name.startswith("crun"):
        return None
    info = Path(runtime.program).stat()
    identity = json.dumps([wanted, runtime.program, info.st_size, info.st_mtime_ns]).encode()
    place = root.run_dir.parent / f"seccomp-{blake2b(identity, digest_size=16).hexdigest()}.bpf"
    try:
        return Compiled(place, place.read_bytes())
    except FileNotFoundError:
        return Compiled(place, b"")
