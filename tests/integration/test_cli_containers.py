"""``bayplan container`` on real containers: what each verb does, prints and exits with."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import LIMIT, CommandLine, command_line
from runtime_world import eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("cli")) as made:
        made.image("box:1", 'CMD ["sh"]')
        yield made


def test_a_detached_container_prints_its_id_and_runs_until_it_is_stopped(cli: CommandLine) -> None:
    id = cli.ok("container", "run", "-d", "--name", "life", "-p", "127.0.0.1:0:80", "box:1", "sleep", "1000").strip()
    one = cli.containers()["life"]
    assert (one["id"], one["state"], one["image"], one["exit_code"]) == (id, "running", "box:1", None)
    assert one["ports"][0]["host"] > 0
    assert "life" in cli.ok("container", "ps")
    assert cli.ok("container", "stop", "--time", "0", "life") == "life\n"
    assert cli.containers()["life"]["state"] == "exited"
    assert "life" not in cli.ok("container", "list")
    assert cli.ok("container", "start", "life") == "life\n"
    full = cli.json("container", "container", "inspect", id[:12])
    assert full["pid"] > 0
    assert full["spec"]["network_mode"] == "bridge"
    assert cli.ok("container", "rm", "-f", "life") == "life\n"


def test_a_foreground_container_streams_both_outputs_and_gives_its_exit_code(cli: CommandLine) -> None:
    done = cli.run("container", "run", "--rm", "box:1", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert cli.containers() == {}


def test_standard_input_reaches_the_container_whole(cli: CommandLine) -> None:
    data = os.urandom(300_000)
    done = cli.run("container", "run", "--rm", "-i", "--network", "none", "box:1", "cat", input=data)
    assert (done.returncode, done.stdout == data) == (0, True)


def test_a_reader_that_is_slow_gets_all_of_it(cli: CommandLine) -> None:
    done = cli.run("container", "run", "--rm", "-i", "box:1", "sh", "-c", "sleep 0.3; wc -c", input=b"x" * 2_000_000)
    assert done.stdout.strip() == b"2000000"


def test_signals_are_passed_on_and_the_exit_code_is_the_containers(cli: CommandLine) -> None:
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        cli.argv("container", "run", "--rm", "--name", "signalled", "box:1", "sh", "-c", script),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=cli.environment,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 9


def test_run_on_a_terminal_has_its_size_and_can_be_left_and_come_back_to(cli: CommandLine) -> None:
    code, shown = cli.on_terminal(
        "container",
        "run",
        "-it",
        "--name",
        "shell",
        "box:1",
        "sh",
        keys=[("/ #", b"echo $((6*7))\n"), ("42", b"\x10\x11")],
    )
    assert code == 0
    assert "runs on" in shown
    code, shown = cli.on_terminal(
        "container", "attach", "shell", keys=[("/ #", b"busybox stty size\n"), ("33 101", b"exit 3\n")]
    )
    assert (code, "33 101" in shown) == (3, True)
    cli.ok("container", "rm", "shell")


def test_exec_gives_streams_environment_user_and_exit_code(cli: CommandLine) -> None:
    cli.ok("container", "run", "-d", "--name", "inside", "box:1", "sleep", "1000")
    done = cli.run(
        "container", "exec", "-e", "A=b", "-u", "app", "-w", "/tmp", "inside", "sh", "-c", "echo $A $(id -u); pwd; exit 5"
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (5, b"b 1000\n/tmp\n")
    assert cli.run("container", "exec", "-i", "inside", "cat", input=b"typed").stdout == b"typed"
    assert cli.run("container", "exec", "inside", "cat", input=b"typed").stdout == b""
    assert "exec-failed" in cli.fails("container", "exec", "inside", "/no/such/program")
    code, shown = cli.on_terminal(
        "container", "exec", "-it", "inside", "sh",
        keys=[
            ("/ #", b"busybox tty; busybox stty size\n"), ("33 101", b"sh -c 'echo $((40+2)); exec sleep 100'\n"),
            ("\n42", b"\x03"), ("/ #", b"exit 6\n"),
        ],
    )  # fmt: skip
    assert (code, "/dev/pts/" in shown) == (6, True)
    cli.ok("container", "rm", "-f", "inside")


def test_logs_tell_tail_timestamps_and_follow_to_the_end(cli: CommandLine) -> None:
    cli.ok(
        "container",
        "run",
        "-d",
        "--name",
        "talks",
        "box:1",
        "sh",
        "-c",
        "echo one; echo two >&2; sleep 0.5; echo three",
    )
    followed = cli.run("container", "logs", "-f", "talks")
    assert (followed.stdout, followed.stderr) == (b"one\nthree\n", b"two\n")
    assert cli.ok("container", "logs", "--tail", "1", "talks") == "three\n"
    assert cli.ok("container", "logs", "-t", "--tail", "1", "talks").endswith("+00:00 three\n")
    lines = cli.json("logs", "container", "logs", "talks")["logs"]
    assert [(one["stream"], one["text"]) for one in lines] == [
        ("stdout", "one\n"),
        ("stderr", "two\n"),
        ("stdout", "three\n"),
    ]
    assert cli.ok("container", "wait", "talks") == "0\n"
    cli.ok("container", "rm", "talks")


def test_detached_with_rm_is_gone_when_it_has_ended(cli: CommandLine) -> None:
    cli.ok("container", "run", "-d", "--rm", "--name", "brief", "box:1", "sleep", "0.3")
    eventually(lambda: "brief" not in cli.containers(), "it was not removed")


def test_a_run_that_cannot_start_leaves_nothing(cli: CommandLine) -> None:
    said = cli.fails("container", "run", "--name", "never", "box:1", "/no/such/program")
    assert "start-failed" in said
    assert "never" not in cli.containers()
    assert "no-such-image" in cli.fails("container", "run", "--pull", "never", "nothing-like-this:1")


def test_options_reach_the_container(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("# a comment\nFROM_FILE=yes\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("bound\n")
    script = "id -u; echo $FROM_FILE $GIVEN\n"
    script += "cat /data/file; touch /x || echo sealed; grep -F 10.1.2.3 /etc/hosts; cat /etc/hostname"
    done = cli.run(
        "container", "run", "--rm", "--read-only", "--tmpfs", "/scratch:size=1m", "--user", "app", "--hostname", "boxed",
        "--env-file", str(tmp_path / "vars"), "-e", "GIVEN", "-v", f"{tmp_path}/data:/data:ro",
        "--add-host", "box.internal:10.1.2.3",
        "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cap-drop", "ALL", "--init", "box:1", "sh", "-c", script,
        GIVEN="ours",
    )  # fmt: skip
    lines = done.stdout.decode().split("\n")
    assert lines[:4] == ["1000", "yes ours", "bound", "sealed"], done.stderr
    assert "10.1.2.3" in lines[4]
    assert lines[5] == "boxed"


def test_secret_variables_are_nowhere_in_clear(cli: CommandLine) -> None:
    secret = "hunter2-" + os.urandom(8).hex()
    cli.ok(
        "container", "run", "-d", "--name", "hidden", "--secret-env", "TOKEN", "box:1", "sleep", "1000", TOKEN=secret
    )
    assert cli.ok("container", "exec", "hidden", "sh", "-c", "echo $TOKEN").strip() == secret
    assert secret not in cli.ok("container", "inspect", "hidden")
    found = subprocess.run(["grep", "-rl", secret, str(cli.root.path)], capture_output=True, timeout=30, check=False)
    assert found.stdout == b""
    cli.ok("container", "rm", "-f", "hidden")


def test_limits_and_names_change_in_place_and_statistics_see_them(cli: CommandLine) -> None:
    cli.ok("container", "run", "-d", "--name", "before", "box:1", "sleep", "1000")
    cli.json(
        "containers",
        "container",
        "update",
        "--memory",
        "32m",
        "--pids-limit",
        "20",
        "--restart",
        "on-failure:3",
        "before",
    )
    cli.ok("container", "rename", "before", "after")
    (one,) = cli.json("stats", "container", "stats", "--no-stream", "after")["stats"]
    assert (one["memory_limit"], one["pids_limit"], one["name"]) == (32 << 20, 20, "after")
    assert "after" in cli.ok("container", "stats", "--no-stream")
    cli.ok("container", "pause", "after")
    assert cli.containers()["after"]["state"] == "paused"
    cli.ok("container", "unpause", "after")
    (ended,) = cli.json("containers", "container", "kill", "after")["containers"]
    assert (ended["state"], ended["exit_code"]) == ("exited", 137)
    cli.ok("container", "rm", "after")


def test_of_several_containers_one_that_fails_keeps_no_other_waiting(cli: CommandLine) -> None:
    cli.ok("container", "create", "--name", "there", "box:1", "sleep", "1")
    document = cli.json("containers-ended", "container", "rm", "missing", "there", code=1)
    assert [one["name"] for one in document["containers"]] == ["there"]
    assert document["errors"][0]["code"] == "no-such-container"


def test_health_is_told_and_that_nobody_watches_it(cli: CommandLine) -> None:
    cli.ok(
        "container",
        "run",
        "-d",
        "--name",
        "checked",
        "--health-cmd",
        "true",
        "--health-interval",
        "1s",
        "box:1",
        "sleep",
        "1000",
    )
    seen = cli.run("container", "list")
    assert b"starting" in seen.stdout
    assert b"health is not watched" in seen.stderr
    cli.ok("agent", "--background")
    assert cli.json("agent", "agent", "--status")["agent"]["running"] is True
    eventually(lambda: cli.containers()["checked"]["health"] == "healthy", "the agent checks", timeout=20)
    assert cli.run("container", "list").stderr == b""
    cli.ok("agent", "--stop")
    assert cli.json("agent", "agent", "--status", code=1)["agent"] == {
        "running": False, "pid": None, "root": str(cli.root.path), "log": str(cli.root.run_dir / "agent.log"),
    }  # fmt: skip
    assert cli.containers()["checked"]["state"] == "running", "the agent's end touches no container"
    cli.ok("container", "rm", "-f", "checked")


def test_prune_takes_what_ended_and_leaves_what_runs_or_belongs_to_a_stack(cli: CommandLine) -> None:
    cli.ok("container", "create", "--name", "idle", "box:1", "true")
    cli.ok("container", "create", "--name", "owned", "--label", "bayplan.dev/stack=shop", "box:1", "true")
    cli.ok("container", "run", "-d", "--name", "busy", "box:1", "sleep", "1000")
    assert "needs-yes" in cli.fails("container", "prune", code=64)
    assert cli.ok("container", "prune", "--yes") == "idle\n"
    assert set(cli.containers()) == {"owned", "busy"}
    cli.ok("container", "rm", "-f", "owned", "busy")


def test_a_wrong_command_line_is_told_with_64_and_without_effect(cli: CommandLine) -> None:
    assert "contradict" in cli.fails("container", "run", "--rm", "--restart", "always", "box:1", code=64)
    assert "needs a command" in cli.fails("container", "exec", "x", code=64)
    assert "'8080:x' is not a port" in cli.fails("container", "run", "-p", "8080:x", "box:1")
    done = cli.run("container", "inspect", "nobody", "--json")
    assert done.returncode == 1
    assert b"no-such-container" in done.stdout
