"""RUN and what surrounds it: forms, environment, mounts, failure, interruption."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from build_world import World, ran, world

from bayplan.build.scratch import Scratch
from bayplan.errors import BayplanError
from bayplan.oci.root import Root

pytestmark = pytest.mark.root
__all__ = ["world"]  # the fixture


def test_shell_exec_and_heredoc_forms(world: World) -> None:
    world.shell(
        "FROM shell\n"
        "ENV WHO=me\nWORKDIR /w\n"
        "RUN echo $WHO > shell\n"
        'RUN ["/bin/touch", "ex ec"]\n'
        "RUN <<EOF\necho one > heredoc\necho $WHO >> heredoc\nEOF\n"
        "RUN <<EOF cat > inner; echo done >> inner\ntext $WHO\nEOF\n"
        "RUN <<X\n#!/bin/ash\necho from $0 > script\nX\n"
        'SHELL ["/bin/sh", "-x", "-c"]\n'
        "RUN echo $- > flags\n"
    )
    result = world.build()
    tree = world.tree(result.digest)
    assert tree.names("w") == ["ex ec", "flags", "heredoc", "inner", "script", "shell"]
    assert world.read(result.digest, "w/shell") == "me\n"
    assert world.read(result.digest, "w/heredoc") == "one\nme\n"
    assert world.read(result.digest, "w/inner") == "text me\ndone\n"
    assert world.read(result.digest, "w/script") == "from /dev/pipes/X\n"
    assert "x" in world.read(result.digest, "w/flags")


def test_env_beats_arg_and_stages_inherit(world: World) -> None:
    world.shell(
        "FROM shell AS one\nARG A=arg\nARG E=arg\nENV E=env\nENV F=$A-$E\n"
        "FROM one\nRUN echo $A $E $F $TARGETARCH > /out\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n"
    )
    result = world.build(platform="linux/arm64")
    assert world.read(result.digest, "out") == "arg env arg-env\n"
    assert world.read(result.digest, "arch") == "arm64\n"
    assert world.image(result.digest).config.architecture == "arm64"


def test_deletions_reach_the_image(world: World) -> None:
    world.write({"d/a": "a", "d/b": "b"})
    world.shell(
        "FROM shell\nCOPY d /d\nRUN rm /d/a\nCOPY --from=0 /bin/busybox /x\nRUN rm -r /d && mkdir /d && echo n > /d/new\n"
    )
    assert world.tree(world.build().digest).names("d") == ["new"]


def test_a_failing_command_is_told_with_its_place_and_last_words(world: World) -> None:
    world.shell("FROM shell\nRUN echo first && \\\n  echo the reason >&2 && \\\n  exit 7\n")
    with pytest.raises(BayplanError) as caught:
        world.build()
    assert caught.value.render() == (
        "app/Dockerfile:5:1: error[build-failed]: RUN echo first && echo the reason >&2 && exit 7 ended with exit code 7\n"
        "  hint: its last output:\n    first\n    the reason"
    )
    assert not list((world.root.path / "build" / "tmp").iterdir())
    world.shell("FROM shell\nRUN true\n")
    assert ran(world.build()) == ["RUN true"]


def test_mounts_show_what_they_should_and_leave_nothing(world: World) -> None:
    world.write({"conf/a": "from context\n", "conf/secret": "ignored", ".dockerignore": "conf/secret\n"})
    world.shell(
        "FROM shell AS made\nRUN echo made > /made\n"
        "FROM shell\n"
        "RUN --mount=type=bind,source=conf,target=/c cat /c/a > /bound; ls /c >> /bound\n"
        "RUN --mount=type=bind,from=made,source=/made,target=/m cat /m > /from\n"
        "RUN --mount=type=cache,target=/cache,id=x,mode=0700,uid=5 "
        "date +%N >> /cache/n; wc -l < /cache/n > /count; ls -ld /cache\n"
        "RUN --mount=type=tmpfs,target=/t touch /t/x\n"
    )
    first = world.build()
    assert world.read(first.digest, "bound") == "from context\na\n"
    assert world.read(first.digest, "from") == "made\n"
    assert b"drwx------    2 5" in b"".join(event.data for event in world.events)
    second = world.build(no_cache=True)
    assert world.read(second.digest, "count") == "2\n"
    assert not {"cache/n", "t/x"} & {line.split()[3] for line in world.listing(second.digest)}
    assert world.builder.prune(keep_seconds=-1) > 0
    assert world.read(world.build(no_cache=True).digest, "count") == "1\n"


def test_a_bound_file_counts_in_the_key(world: World) -> None:
    world.write({"conf/a": "one\n"})
    world.shell("FROM shell\nRUN --mount=source=conf,target=/c cat /c/a > /a\n")
    world.build()
    assert ran(world.build()) == []
    world.write({"conf/a": "two\n"})
    assert world.read(world.build().digest, "a") == "two\n"


def test_secrets_are_seen_by_their_step_and_nowhere_else(world: World, tmp_path: Path) -> None:
    world.shell(
        "FROM shell\n"
        "RUN --mount=type=secret,id=tok wc -c < /run/secrets/tok > /length; stat -c %a /run/secrets/tok > /mode\n"
        "RUN --mount=type=secret,id=tok,env=TOK echo ${#TOK} > /env\n"
        "RUN --mount=type=secret,id=file,target=/f test -f /f\n"
        "RUN --mount=type=secret,id=absent true\n"
    )
    (tmp_path / "file").write_text("planted-5dd0c1")
    result = world.build(secrets={"tok": b"planted-77aa31", "file": tmp_path / "file"})
    assert [world.read(result.digest, name) for name in ("length", "mode", "env")] == ["14\n", "400\n", "14\n"]
    found = subprocess.run(
        ["grep", "-rl", "planted-", str(world.root.path)], capture_output=True, text=True, timeout=60
    )
    assert found.stdout == ""
    assert not list(world.root.run_dir.glob("secret-*"))
    world.shell("FROM shell\nRUN --mount=type=secret,id=tok,required true\n")
    with pytest.raises(BayplanError, match="the secret 'tok' is not given"):
        world.build()


def test_independent_stages_run_at_the_same_time(world: World) -> None:
    world.shell(
        "FROM shell AS a\nRUN sleep 0.7; touch /a\nFROM shell AS b\nRUN sleep 0.7; touch /b\n"
        "FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    )
    world.build(target="shell")
    began = time.monotonic()
    result = world.build()
    assert time.monotonic() - began < 1.3
    assert [line.split()[3] for line in world.listing(result.digest)] == ["/a", "/b"]


def test_one_failing_stage_ends_the_others(world: World) -> None:
    world.shell(
        "FROM shell AS a\nRUN for i in 1 2 3 4 5 6 7 8 9; do sleep 1; echo $i; done\n"
        "FROM shell AS b\nRUN sleep 0.2; exit 3\n"
        "FROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n"
    )
    began = time.monotonic()
    with pytest.raises(BayplanError, match="ended with exit code 3"):
        world.build()
    assert time.monotonic() - began < 5


def test_triggers_of_a_base_run_in_the_stage_built_on_it(world: World) -> None:
    world.write({"f": "text", "Dockerfile.base": "FROM scratch\nONBUILD COPY f /triggered\nONBUILD ENV T=1\n"})
    world.bases["base"] = world.build(dockerfile=Path("Dockerfile.base")).digest
    assert world.image(world.bases["base"]).config.onbuild == ("COPY f /triggered", "ENV T=1")
    world.write({"Dockerfile": "FROM base\nCOPY f /own\n"})
    result = world.build()
    assert world.listing(result.digest) == ["f 644 0:0 /own = text", "f 644 0:0 /triggered = text"]
    assert "T=1" in world.image(result.digest).config.env
    assert world.image(result.digest).config.onbuild == ()


def test_an_interrupt_leaves_nothing_half_made(world: World) -> None:
    world.shell("FROM shell\nRUN echo started; sleep 30\n")

    def stop(event: object) -> None:
        if b"started" in getattr(event, "data", b""):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.builder.build(world.spec(), stop)
    assert not list((world.root.path / "build" / "tmp").iterdir())
    assert not list((world.root.path / "oci" / "incoming").iterdir())
    assert str(world.root.path) not in Path("/proc/self/mountinfo").read_text()


def test_a_killed_build_is_cleared_up_by_the_next(world: World, tmp_path: Path) -> None:
    world.shell("FROM shell\nRUN echo started; sleep 5\n")
    program = (
        "from pathlib import Path; from build_world import World\n"
        f"w = World(Path({str(tmp_path / 'kill')!r})); w.context = Path({str(world.context)!r})\n"
        "w.builder.build(w.spec(), lambda e: print(e.data, flush=True) if e.data else None)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert b"started" in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    left = tmp_path / "kill" / "root" / "build" / "tmp"
    assert len(list(left.iterdir())) == 1
    shutil.rmtree(Root.at(tmp_path / "kill" / "root").run_dir, ignore_errors=True)
    with Scratch(left):
        assert len(list(left.iterdir())) == 1
    assert not list(left.iterdir())
