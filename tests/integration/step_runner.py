"""A step runner of the plainest kind, for the build's own tests: overlay mount + chroot in namespaces of its own.

It is real (the kernel's overlayfs, a real chroot) and knows nothing of the runtime core, so that a fault in one of the two
does not hide in the other.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from bayplan.build.port import Step
from bayplan.errors import BayplanError

_SCRIPT = r"""
set -e
mount -t overlay overlay -o "$OPTIONS" "$MERGED"
mkdir -p "$MERGED/proc" "$MERGED/dev"
mount -t tmpfs tmpfs "$MERGED/dev"
mknod -m 666 "$MERGED/dev/null" c 1 3
while read -r kind source target; do
  [ -n "$kind" ] || continue
  if [ "$kind" = tmpfs ]; then mkdir -p "$MERGED$target"; mount -t tmpfs tmpfs "$MERGED$target"; continue; fi
  if [ -d "$source" ]; then mkdir -p "$MERGED$target"; else mkdir -p "$MERGED$(dirname "$target")"; : > "$MERGED$target"; fi
  mount --bind "$source" "$MERGED$target"
done < "$MOUNTS"
exec /bin/busybox chroot "$MERGED" "$@"
"""


class ChrootRunner:
    """Runs steps one by one; ``ran`` collects their argv."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []

    def run(self, step: Step, output: Callable[[bytes], None]) -> int:
        self.ran.append(tuple(step.argv))
        place = step.work.parent
        merged, empty, mounts = place / "merged", place / "empty", place / "mounts"
        merged.mkdir()
        empty.mkdir()
        lines = [f"{m.type} {m.source or '-'} {m.target}" for m in step.mounts]
        mounts.write_text("".join(line + "\n" for line in lines))
        lower = ":".join(str(path) for path in step.lower) or str(empty)
        environment = {
            "PATH": os.environ["PATH"],
            "OPTIONS": f"lowerdir={lower},upperdir={step.upper},workdir={step.work},index=off,metacopy=off,redirect_dir=off",
            "MERGED": str(merged),
            "MOUNTS": str(mounts),
        }
        inner = ["/bin/busybox", "env", "-i", *(f"{k}={v}" for k, v in step.env.items())]
        inner += ["/bin/busybox", "sh", "-c", 'cd "$0" && exec "$@"', step.working_dir, *step.argv]
        argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        process = subprocess.Popen(
            [*argv, "sh", "-c", _SCRIPT, "step", *inner],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            assert process.stdout is not None
            while chunk := process.stdout.read1(65536):
                output(chunk)
            code = process.wait(timeout=step.timeout or 60)
        except BaseException:
            process.kill()
            process.wait(timeout=10)
            raise
        self._tidy(step.upper)
        if code in (125, 126, 127) and not step.argv:
            raise BayplanError("step-failed", "the step cannot be started")
        return code

    @staticmethod
    def _tidy(upper: Path) -> None:
        """Mount points made for /proc and /dev are no part of the layer."""
        for name in ("proc", "dev"):
            path = upper / name
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def close(self) -> None:
        """Nothing is kept between steps."""
