"""The same Dockerfiles through buildah: one tree, the same modes and owners, the same configuration."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from build_world import World, world

from bayplan.build.builder import Builder
from bayplan.runtime.steps import OciStepRunner

pytestmark = pytest.mark.root
__all__ = ["world"]  # the fixture

DOCKERFILES = {
    "many instructions": """\
FROM shell
LABEL maintainer=me version="1 2"
ENV A=1 B="two words"
ARG V=7
WORKDIR /srv/app
COPY --chown=5:6 package.json ./
RUN echo "$A $B $V" > values && mkdir -p /var/data && chmod 700 /var/data && chown 9:9 /var/data
COPY lib/ lib/
COPY --chmod=600 server.js /etc/server.js
RUN rm -r lib/sub && ln -s ../server.js lib/link
VOLUME /data
EXPOSE 3000 53/udp
USER 5:6
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo hi"]
""",
    "two stages": """\
FROM shell AS made
COPY lib /lib
RUN cat /lib/a.js /lib/sub/b.js > /all; chown 3:4 /all; chmod 640 /all
FROM scratch
COPY --from=made /all /out/
COPY --from=made /lib /lib
ENV X=y
CMD x y
""",
    "archives and links": """\
FROM shell
RUN mkdir -p /usr/lib /run && ln -s usr/lib /lib && mkdir /var && ln -s /run /var/run
ADD t.tgz /opt
COPY server.js /lib/
COPY server.js /var/run/s.js
WORKDIR /lib/deep
""",
    "shell and health": """\
FROM shell
HEALTHCHECK --interval=5s --retries=2 CMD test -f /x
ENTRYPOINT sleep 1
CMD echo $HOME
SHELL ["/bin/sh", "-e", "-c"]
RUN echo x > /x
""",
}


def by_buildah(world: World, tmp_path: Path, target: str = "") -> tuple[dict[str, str], dict[str, Any]]:
    """The tree and the configuration that buildah makes of the same context."""
    store = ["--storage-driver", "vfs", "--root", str(tmp_path / "b-root"), "--runroot", str(tmp_path / "b-run")]
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def run(*argv: str) -> str:
        done = subprocess.run(["buildah", *store, *argv], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    # buildah takes the last stage; its own --layers cache is off.
    run(
        "bud",
        "--isolation",
        "chroot",
        "--signature-policy",
        str(policy),
        "--format",
        "docker",
        "-t",
        "t",
        str(world.context),
    )
    container = run("from", "--signature-policy", str(policy), "localhost/t")
    mounted = Path(run("mount", container))
    try:
        config = json.loads(run("inspect", "--type", "image", "localhost/t"))["Docker"]["config"]
        return tree_of(mounted), config
    finally:
        run("umount", container)
        run("rm", container)


def tree_of(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        kind = stat.S_IFMT(info.st_mode)
        line = f"{stat.S_IMODE(info.st_mode):o} {info.st_uid}:{info.st_gid}"
        if kind == stat.S_IFLNK:
            line = f"-> {os.readlink(path)}"
        elif kind == stat.S_IFREG:
            line += f" {hash(path.read_bytes())}"
        found[str(path.relative_to(folder))] = line
    return found


def by_us(world: World, digest: Any) -> dict[str, str]:
    from bayplan.oci.unpacked import Unpacked

    merged = world.folder / "merged"
    merged.mkdir()
    lower = ":".join(dict.fromkeys(map(str, Unpacked(world.store).lower(world.image(digest)))))
    if ":" not in lower:
        return tree_of(Path(lower))
    subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lower}", str(merged)], check=True, timeout=30
    )
    try:
        return tree_of(merged)
    finally:
        subprocess.run(["umount", str(merged)], check=True, timeout=30)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_buildah_makes_the_same_image(name: str, world: World, tmp_path: Path) -> None:
    world.write(
        {"package.json": "{}", "server.js": "x", "lib/a.js": "a", "lib/sub/b.js": "b", ".dockerignore": "Dockerfile"}
    )
    world.archive("t.tgz", {"in/a": "one", "in/b": "two"})
    world.shell(DOCKERFILES[name])
    with OciStepRunner(world.root) as runner:
        result = Builder(world.root, runner, world.resolve).build(world.spec())
    ours, theirs = by_us(world, result.digest), None
    theirs, config = by_buildah(world, tmp_path)
    # What the two put there for the step itself is no part of the comparison.
    for tree in (ours, theirs):
        for path in [path for path in tree if path.split("/")[0] in ("proc", "sys", "dev")]:
            del tree[path]
        for path in ("etc/hosts", "etc/resolv.conf", "etc/hostname", "run/.containerenv"):
            tree.pop(path, None)
    for path in ("etc", "run"):  # buildah leaves its mount points behind
        if path not in ours and not any(each.startswith(path + "/") for each in theirs):
            theirs.pop(path, None)
    assert ours == theirs
    mine = dict(world.image(result.digest).config.raw["config"])
    assert mine["WorkingDir"] == (config.get("WorkingDir") or "/")
    for key in ("Cmd", "Entrypoint", "ExposedPorts", "User", "StopSignal", "Volumes", "Healthcheck"):
        assert (mine.get(key) or None) == (config.get(key) or None), key
    assert set(mine.get("Env") or ()) == set(config.get("Env") or ())
    extra = {"io.buildah.version"}
    assert mine.get("Labels", {}) == {k: v for k, v in (config.get("Labels") or {}).items() if k not in extra}
