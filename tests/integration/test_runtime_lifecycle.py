"""A container's life from creation to removal, on the real runtime of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_world import World, eventually, world

from bayplan.errors import BayplanError
from bayplan.oci.image import ImageConfig, assemble
from bayplan.oci.layer import pack_tree
from bayplan.runtime.container import State
from bayplan.runtime.kernel import Process
from bayplan.runtime.spec import Mount, RestartPolicy

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("runtime")) as made:
        yield made


def test_a_container_is_created_started_stopped_and_removed(w: World) -> None:
    id = w.create("life", "sh", "-c", "echo hello; echo oops >&2; exec sleep 1000")
    assert w.runtime.inspect("life").state is State.CREATED
    w.runtime.start("life")
    seen = w.runtime.inspect(id[:12])
    assert seen.state is State.RUNNING
    assert seen.status.init is not None
    eventually(lambda: len(w.output("life").split()) == 2, "both streams are logged")
    assert {(line.stream, line.text) for line in w.runtime.logs("life")} == {
        ("stdout", b"hello\n"),
        ("stderr", b"oops\n"),
    }
    w.runtime.stop("life")
    after = w.runtime.inspect("life")
    assert (after.state, after.status.exit_code) == (State.EXITED, 137)
    assert not (w.root.run_dir / "live" / id).exists(), "a stopped container holds nothing in the kernel"
    w.runtime.remove("life")
    assert w.runtime.get("life") is None


def test_start_and_stop_of_what_runs_and_what_does_not_change_nothing(w: World) -> None:
    w.run("again")
    before = w.runtime.inspect("again").status.init
    w.runtime.start("again")
    assert w.runtime.inspect("again").status.init == before
    w.runtime.stop("again")
    w.runtime.stop("again")
    w.runtime.start("again")
    assert w.runtime.inspect("again").running
    w.runtime.remove("again", force=True)


def test_what_a_container_wrote_is_there_after_a_restart(w: World) -> None:
    w.run("keeps", "sh", "-c", "cat /tmp/note; echo kept > /tmp/note; exec sleep 1000")
    eventually(lambda: w.inside("keeps", "cat", "/tmp/note")[1] == "kept\n", "it writes")
    w.runtime.restart("keeps")
    eventually(lambda: "kept\n" in w.output("keeps"), "the second run reads it")
    w.runtime.remove("keeps", force=True)


def test_stop_sends_the_stop_signal_and_kills_after_the_timeout(w: World) -> None:
    w.run("polite", "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done", stop_signal="SIGTERM")
    eventually(lambda: w.inside("polite", "true")[0] == 0, "it runs")
    w.runtime.stop("polite", timeout=5)
    assert w.runtime.inspect("polite").status.exit_code == 7
    w.run("deaf", "sleep", "1000", stop_signal="SIGTERM")
    begin = time.monotonic()
    w.runtime.stop("deaf", timeout=0.3)
    assert 0.3 <= time.monotonic() - begin < 3
    assert w.runtime.inspect("deaf").status.exit_code == 137
    w.runtime.remove("polite")
    w.runtime.remove("deaf")


def test_wait_gives_the_exit_code(w: World) -> None:
    w.run("seven", "sh", "-c", "sleep 0.2; exit 7")
    assert w.runtime.wait("seven", timeout=0.01) is None
    assert w.runtime.wait("seven", timeout=10) == 7
    eventually(lambda: w.runtime.inspect("seven").state is State.EXITED, "it is settled")
    assert w.runtime.wait("seven") == 7
    w.runtime.remove("seven")


def test_an_ended_container_leaves_the_kernel_by_itself(w: World) -> None:
    id = w.run("short", "true")
    w.runtime.wait("short", timeout=10)
    eventually(lambda: not (w.root.run_dir / "live" / id).exists(), "the exit hook releases it")
    w.runtime.remove("short")


def test_pause_freezes_and_unpause_goes_on(w: World) -> None:
    w.run("ice", "sh", "-c", "while :; do echo x; sleep 0.02; done")
    w.runtime.pause("ice")
    assert w.runtime.inspect("ice").state is State.PAUSED
    time.sleep(0.1)
    size = len(w.output("ice"))
    time.sleep(0.2)
    assert len(w.output("ice")) == size
    w.runtime.unpause("ice")
    eventually(lambda: len(w.output("ice")) > size, "it goes on")
    w.runtime.pause("ice")
    w.runtime.stop("ice", timeout=2)
    assert w.runtime.inspect("ice").state is State.EXITED
    w.runtime.start("ice")
    w.runtime.pause("ice")
    w.runtime.remove("ice", force=True)


def test_kill_sends_any_signal(w: World) -> None:
    w.run("sig", "sh", "-c", "trap 'echo usr1' USR1; while :; do sleep 0.02; done")
    eventually(lambda: w.inside("sig", "true")[0] == 0, "it runs")
    w.runtime.kill("sig", "usr1")
    eventually(lambda: "usr1" in w.output("sig"), "the handler ran")
    assert w.runtime.inspect("sig").running
    w.runtime.kill("sig")
    assert w.runtime.inspect("sig").status.exit_code == 137
    with pytest.raises(BayplanError) as error:
        w.runtime.kill("sig")
    assert error.value.code == "not-running"
    w.runtime.remove("sig")


def test_an_image_may_hold_one_layer_twice_and_the_topmost_says_all(w: World, tmp_path: Path) -> None:
    (tmp_path / "a/d").mkdir(parents=True)
    (tmp_path / "a/d/one").write_text("first\n")
    (tmp_path / "b/d").mkdir(parents=True)
    (tmp_path / "b/d/one").write_text("second\n")
    (tmp_path / "empty").mkdir()
    first, second, empty = (pack_tree(w.store, tmp_path / name) for name in ("a", "b", "empty"))
    config = ImageConfig(cmd=("cat", "/d/one"), env=("PATH=/bin",))
    image = str(assemble(w.store, config, [*w._layers, empty, first, second, empty, first]))
    assert w.ran("twice", "cat", "/d/one", image=image) == "first\n"
    w.runtime.remove("twice")


def test_a_name_has_one_owner(w: World) -> None:
    id = w.create("mine")
    with pytest.raises(BayplanError) as error:
        w.create("mine")
    assert error.value.code == "name-taken"
    assert id[:12] in error.value.message
    w.runtime.rename("mine", "yours")
    w.create("mine")
    assert w.runtime.inspect("yours").id == id
    w.runtime.remove("mine")
    w.runtime.remove("yours")


def test_of_many_that_want_one_name_one_gets_it(w: World) -> None:
    results: list[str] = []

    def try_it() -> None:
        try:
            results.append(w.create("race"))
        except BayplanError as error:
            results.append(error.code)

    threads = [threading.Thread(target=try_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results)[1:] == ["name-taken"] * 5 or results.count("name-taken") == 5
    w.runtime.remove("race")


def test_a_program_that_is_missing_is_told_and_leaves_nothing(w: World) -> None:
    id = w.create("nope", "/no/such/program")
    with pytest.raises(BayplanError) as error:
        w.runtime.start("nope")
    assert error.value.code == "start-failed"
    assert "/no/such/program" in error.value.message
    seen = w.runtime.inspect("nope")
    assert seen.state is State.CREATED
    assert "/no/such/program" in seen.status.error
    assert not (w.root.run_dir / "live" / id).exists()
    w.runtime.remove("nope")


def test_a_running_container_is_removed_only_by_force(w: World) -> None:
    w.run("stays")
    with pytest.raises(BayplanError) as error:
        w.runtime.remove("stays")
    assert error.value.code == "container-running"
    w.runtime.remove("stays", force=True)
    with pytest.raises(BayplanError) as error:
        w.runtime.inspect("stays")
    assert error.value.code == "no-such-container"


def test_a_container_that_exits_at_once_is_reported_with_its_last_words(w: World) -> None:
    w.run("brief", "sh", "-c", "echo config missing; exit 3")
    with pytest.raises(BayplanError) as error:
        w.runtime.wait_started("brief")
    assert error.value.code == "exited-at-once"
    assert "code 3" in error.value.message
    assert "config missing" in error.value.hint
    w.run("fine")
    w.runtime.wait_started("fine", settle=0.1)
    w.runtime.remove("brief")
    w.runtime.remove("fine", force=True)


def test_exec_runs_with_streams_user_and_directory(w: World) -> None:
    w.run("host-of-exec", env={"OWN": "1"})
    assert w.inside("host-of-exec", "sh", "-c", "echo $OWN $FROM_IMAGE; exit 4") == (4, "1 yes\n")
    assert w.inside("host-of-exec", "id", user="app")[1] == "uid=1000(app) gid=1001(app) groups=63(audio)\n"
    assert (
        w.inside("host-of-exec", "sh", "-c", "echo $X; ls", env={"X": "y"}, working_dir="/srv/data")[1] == "y\nseed\n"
    )
    read, write = os.pipe()
    os.write(write, b"typed")
    os.close(write)
    out_read, out_write = os.pipe()
    assert w.runtime.exec("host-of-exec", ["cat"], stdin=read, stdout=out_write) == 0
    assert os.read(out_read, 100) == b"typed"
    for descriptor in (read, out_read, out_write):
        os.close(descriptor)
    with pytest.raises(BayplanError) as error:
        w.runtime.exec("host-of-exec", ["/nope"], stderr=subprocess.DEVNULL)
    assert error.value.code == "exec-failed"
    with pytest.raises(BayplanError) as error:
        w.runtime.exec("host-of-exec", ["sleep", "100"], timeout=0.3)
    assert error.value.code == "exec-timeout"
    eventually(lambda: "sleep 100\n" not in w.inside("host-of-exec", "busybox", "ps")[1], "it was killed inside too")
    w.runtime.remove("host-of-exec", force=True)


def test_logs_follow_until_the_end_and_tail(w: World) -> None:
    w.run("talks", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done")
    lines = [line.text for line in w.runtime.logs("talks", follow=True)]
    assert lines == [f"line {number}\n".encode() for number in range(1, 6)]
    assert [line.text for line in w.runtime.logs("talks", tail=2)] == [b"line 4\n", b"line 5\n"]
    middle = list(w.runtime.logs("talks"))[2].timestamp
    assert [line.text for line in w.runtime.logs("talks", since=middle)] == [b"line 3\n", b"line 4\n", b"line 5\n"]
    eventually(lambda: w.runtime.inspect("talks").state is State.EXITED, "it ended")
    w.runtime.remove("talks")


def test_attach_sees_the_first_byte_and_feeds_stdin(w: World) -> None:
    w.create("talk-back", "sh", "-c", "echo first; read x; echo got $x", open_stdin=True)
    connection = w.runtime.start("talk-back", attach=True)
    assert connection is not None
    connection.settimeout(10)
    assert connection.recv(16384) == b"\x02first\n"
    connection.send(b"word\n")
    assert connection.recv(16384) == b"\x02got word\n"
    connection.close()
    w.runtime.wait("talk-back", timeout=10)
    eventually(lambda: w.runtime.inspect("talk-back").state is State.EXITED, "it ended")
    w.runtime.remove("talk-back")


def test_a_terminal_has_the_size_that_it_is_told(w: World) -> None:
    w.run("tty", "sh", "-c", "while :; do busybox stty size; sleep 0.05; done", tty=True)
    eventually(lambda: "0 0" in w.output("tty") or "\r\n" in w.output("tty"), "it has a terminal")
    assert w.runtime.resize("tty", 33, 99)
    eventually(lambda: "33 99" in w.output("tty"), "it was resized")
    w.runtime.remove("tty", force=True)


def test_stats_count_memory_processor_and_processes(w: World) -> None:
    w.run("busy", "sh", "-c", "while :; do :; done", memory=64 << 20, pids_limit=50)
    eventually(lambda: w.runtime.stats("busy").cpu > 0.1, "it uses the processor")
    seen = w.runtime.stats("busy")
    assert seen.memory_limit == 64 << 20
    assert seen.pids_limit == 50
    assert seen.pids >= 1
    assert 0 < seen.memory < 64 << 20
    w.runtime.remove("busy", force=True)


def test_limits_labels_and_policy_change_in_place(w: World) -> None:
    w.run("grows", memory=64 << 20, labels={"a": "1"})
    before = w.runtime.inspect("grows").status.init
    w.runtime.update("grows", memory=96 << 20, cpus=0.5, pids_limit=30, restart=RestartPolicy.ALWAYS, labels={"a": "2"})
    seen = w.runtime.inspect("grows")
    assert seen.status.init == before, "it was not restarted"
    assert (seen.spec.memory, seen.spec.cpus, seen.spec.restart) == (96 << 20, 0.5, RestartPolicy.ALWAYS)
    assert [container.name for container in w.runtime.list({"a": "2"})] == ["grows"]
    assert w.runtime.stats("grows").memory_limit == 96 << 20
    assert w.runtime.stats("grows").pids_limit == 30
    w.runtime.update("grows", memory=None, cpus=None, pids_limit=None)
    assert w.runtime.stats("grows").memory_limit is None
    assert w.runtime.stats("grows").pids_limit is None
    w.runtime.update("grows", memory=64 << 20)
    w.runtime.restart("grows")
    assert w.runtime.stats("grows").memory_limit == 64 << 20, "what was changed live holds after a restart"
    w.runtime.remove("grows", force=True)


def test_disk_usage_names_every_byte_and_prune_gives_it_back(w: World) -> None:
    w.ran("writer", "dd", "if=/dev/zero", "of=/big", "bs=1024", "count=2048", mounts=(Mount("volume", "/data", "vol"),))
    usage = {each.name: each for each in w.runtime.disk_usage().containers}
    assert usage["writer"].writable >= 2 << 20
    volumes = {each.name: each for each in w.runtime.disk_usage().volumes}
    assert volumes["vol"].users == ("writer",)
    assert w.image in w.runtime.references()
    with pytest.raises(BayplanError) as error:
        w.runtime.volumes.remove("vol", w.runtime.definitions.volume_users())
    assert error.value.code == "volume-in-use"
    eventually(lambda: w.runtime.inspect("writer").state is State.EXITED, "it ended")
    w.run("stays-up")
    pruned = w.runtime.prune(volumes=True)
    assert "writer" in pruned.containers
    assert "stays-up" not in pruned.containers
    assert pruned.volumes == ("vol",)
    assert pruned.bytes >= 2 << 20
    w.runtime.remove("stays-up", force=True)


def test_the_monitor_may_be_killed_and_the_end_is_still_noticed(w: World) -> None:
    w.run("orphan", "sh", "-c", "sleep 0.7; exit 5")
    monitor = w.runtime.inspect("orphan").status.monitor
    assert isinstance(monitor, Process)
    monitor.send(signal.SIGKILL)
    monitor.wait(5)
    assert w.runtime.inspect("orphan").running, "the container lives without its monitor"
    assert w.runtime.wait("orphan", timeout=10) == 255
    assert w.runtime.recover().lines
    seen = w.runtime.inspect("orphan")
    assert (seen.state, seen.status.exit_code) == (State.EXITED, 255)
    assert "nobody saw" in seen.status.error
    w.runtime.remove("orphan")


def test_a_reboot_leaves_an_exited_container_that_starts_again(w: World) -> None:
    """A reboot is told by another boot id; the live folder is gone with /run."""
    id = w.run("survivor", restart=RestartPolicy.UNLESS_STOPPED)
    files = w.runtime.definitions.files(id)
    status = files.status()
    w.runtime.kill("survivor")
    files.change_status(status, boot="another-boot")
    assert w.runtime.inspect("survivor").state is State.EXITED
    w.runtime.recover()
    assert w.runtime.inspect("survivor").status.exit_code == 255
    w.runtime.start("survivor")
    assert w.runtime.inspect("survivor").running
    w.runtime.remove("survivor", force=True)


def test_nothing_is_left_when_the_last_container_is_gone(w: World, tmp_path: Path) -> None:
    for container in w.runtime.list():
        w.runtime.remove(container.id, force=True)
    eventually(lambda: not w.left(), f"left: {w.left()}")
