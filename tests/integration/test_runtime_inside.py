"""What a container finds inside: image defaults, users, mounts, security, limits, files of names; and what stays secret."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_world import World, eventually, world

from bayplan.errors import BayplanError
from bayplan.oci.image import HealthConfig, ImageConfig, assemble
from bayplan.oci.layer import pack_upper
from bayplan.runtime.container import State
from bayplan.runtime.spec import ContainerSpec, Mount

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("inside")) as made:
        yield made


def test_image_defaults_hold_where_nothing_is_declared(w: World) -> None:
    image = w.make_image(
        entrypoint=("sh", "-c"),
        cmd=("id; pwd; echo $A $B $PATH $HOME",),
        user="app",
        working_dir="/srv/new",
        env=("PATH=/bin", "A=image", "B=image"),
    )
    id = w.runtime.create(ContainerSpec(name="defaults", image=image, env={"B": "own"}, network_mode="none"))
    w.runtime.start(id)
    w.runtime.wait(id, timeout=10)
    assert w.output(id) == ("uid=1000(app) gid=1001(app) groups=63(audio)\n/srv/new\nimage own /bin /home/app\n")


def test_a_declared_entrypoint_drops_the_images_command(w: World) -> None:
    image = w.make_image(entrypoint=("echo", "image"), cmd=("command",))
    id = w.runtime.create(ContainerSpec(name="entry", image=image, entrypoint=("echo", "own"), network_mode="none"))
    w.runtime.start(id)
    w.runtime.wait(id, timeout=10)
    assert w.output(id) == "own\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("app", "uid=1000(app) gid=1001(app) groups=63(audio)"),
        ("1000:audio", "uid=1000(app) gid=63(audio)"),
        ("4711", "uid=4711 gid=0(root)"),
        ("4711:4712", "uid=4711 gid=4712"),
    ],
)
def test_users_are_looked_up_in_the_image(w: World, user: str, expected: str) -> None:
    output = w.ran(f"user-{user.replace(':', '-')}", "id", user=user).strip()
    assert output.replace(" groups=0(root)", "").replace(" groups=4712", "") == expected


def test_an_unknown_user_is_told_and_nothing_is_left(w: World) -> None:
    w.create("who", user="nobody-here")
    with pytest.raises(BayplanError) as error:
        w.runtime.start("who")
    assert error.value.code == "unknown-user"
    assert w.runtime.inspect("who").state is State.CREATED


def test_security_defaults_are_dockers(w: World) -> None:
    w.run("safe")
    _, status = w.inside("safe", "grep", "-E", "Cap(Prm|Eff|Bnd|Amb|Inh)|Seccomp:|NoNewPrivs", "/proc/1/status")
    values = dict(line.split(":\t") for line in status.splitlines())
    assert values["CapBnd"] == values["CapEff"] == values["CapPrm"] == "00000000a80425fb"
    assert values["CapAmb"] == values["CapInh"] == "0000000000000000"
    assert values["Seccomp"] == "2"
    assert w.inside("safe", "wc", "-c", "/proc/kcore", "/proc/keys", "/proc/timer_list")[1].split()[-2] == "0"
    assert w.inside("safe", "sh", "-c", "echo 1 > /proc/sys/kernel/panic")[0] != 0
    assert w.inside("safe", "ls", "/sys/firmware")[1] == ""
    assert w.inside("safe", "mount", "-t", "tmpfs", "x", "/tmp")[0] != 0
    code, said = w.inside("safe", "busybox", "unshare", "-U", "true")
    assert (code, "not permitted" in said) == (1, True), "as Docker, no new user namespace"
    group = "/sys/fs/cgroup" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "/sys/fs/cgroup/memory"
    assert w.inside("safe", "mkdir", f"{group}/x")[0] != 0


def test_a_filter_that_was_compiled_before_refuses_the_same(w: World) -> None:
    kept = set(w.root.run_dir.parent.glob("seccomp-*.json"))
    for path in kept:
        path.unlink()
    for name in ("filter-1", "filter-2"):
        w.run(name)
        assert "Seccomp:\t2" in w.inside(name, "grep", "Seccomp:", "/proc/1/status")[1]
        assert "not permitted" in w.inside(name, "busybox", "unshare", "-U", "true")[1]
    bundles = [json.loads(w.runtime.definitions.find(name).config.read_bytes()) for name in ("filter-1", "filter-2")]
    assert bundles[0]["linux"]["seccomp"] == bundles[1]["linux"]["seccomp"]
    given = [one.get("annotations", {}).get("run.oci.seccomp_bpf_data") for one in bundles]
    if w.runtime.oci_runtime.name == "crun":
        assert given[0] is None
        assert len(b64decode(given[1])) % 8 == 0
    else:
        assert given == [None, None]


def test_a_user_other_than_root_has_no_capability(w: World) -> None:
    status = w.ran("plain-user", "grep", "CapEff", "/proc/self/status", user="app")
    assert status.split()[1] == "0000000000000000"


def test_capabilities_are_added_and_dropped(w: World) -> None:
    status = w.ran("caps", "grep", "CapBnd", "/proc/self/status", cap_add=("net_admin",), cap_drop=("ALL",))
    assert status.split()[1] == "0000000000001000"
    with pytest.raises(BayplanError) as error:
        w.create("caps2", cap_add=("net_amdin",))
    assert error.value.code == "unknown-capability"
    assert "NET_ADMIN" in error.value.hint


def test_privileged_has_all_capabilities_devices_and_no_filter(w: World) -> None:
    w.run("boss", privileged=True)
    assert "Seccomp:\t0" in w.inside("boss", "grep", "Seccomp:", "/proc/1/status")[1]
    assert w.inside("boss", "mount", "-t", "tmpfs", "x", "/tmp")[0] == 0
    assert w.inside("boss", "test", "-c", "/dev/kmsg")[0] == (0 if Path("/dev/kmsg").exists() else 1)


def test_a_read_only_root_takes_writes_only_where_it_is_told(w: World) -> None:
    w.run("ro", read_only=True, mounts=(Mount("tmpfs", "/scratch", size=1 << 20), Mount("volume", "/data", "rw-data")))
    assert w.inside("ro", "touch", "/x")[0] != 0
    assert w.inside("ro", "touch", "/scratch/x", "/data/x")[0] == 0
    assert w.inside("ro", "dd", "if=/dev/zero", "of=/scratch/big", "bs=1024", "count=2048")[0] != 0, "the size holds"


def test_bind_mounts_need_their_source_and_may_be_read_only(w: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound\n")
    w.run(
        "binds",
        mounts=(
            Mount("bind", "/in/dir", str(tmp_path), read_only=True),
            Mount("bind", "/in/dir2", str(tmp_path)),
            Mount("bind", "/etc/one", str(tmp_path / "file")),
        ),
    )
    assert w.inside("binds", "cat", "/in/dir/file", "/etc/one")[1] == "bound\nbound\n"
    assert w.inside("binds", "touch", "/in/dir/x")[0] != 0
    assert w.inside("binds", "touch", "/in/dir2/y")[0] == 0
    assert (tmp_path / "y").exists()
    w.create("lost", mounts=(Mount("bind", "/in", str(tmp_path / "absent")),))
    with pytest.raises(BayplanError) as error:
        w.runtime.start("lost")
    assert error.value.code == "no-such-path"
    assert not (tmp_path / "absent").exists(), "a source is never made up"


def test_an_empty_volume_takes_what_the_image_has_there_once(w: World) -> None:
    w.run("first", mounts=(Mount("volume", "/srv/data", "seeded"),))
    assert w.inside("first", "sh", "-c", "cat /srv/data/seed; stat -c '%u:%g %a' /srv/data /srv/data/seed")[1] == (
        "from the image\n1000:1001 750\n1000:1001 644\n"
    )
    w.inside("first", "sh", "-c", "rm /srv/data/seed; echo mine > /srv/data/own")
    w.run("second", mounts=(Mount("volume", "/srv/data", "seeded"),))
    assert w.inside("second", "ls", "/srv/data")[1] == "own\n"


def test_image_volumes_are_anonymous_and_go_with_their_container(w: World) -> None:
    image = w.make_image(volumes=("/srv/data", "/var/lib/x"))
    id = w.run("anon", image=image, mounts=(Mount("volume", "/var/lib/x", "named-x"),))
    anonymous = w.runtime.inspect(id).anonymous
    assert list(anonymous) == ["/srv/data"]
    assert w.inside("anon", "cat", "/srv/data/seed")[1] == "from the image\n"
    w.inside("anon", "touch", "/srv/data/more")
    w.runtime.restart("anon")
    assert w.inside("anon", "ls", "/srv/data")[1] == "more\nseed\n"
    w.runtime.remove("anon", force=True)
    assert w.runtime.volumes.get(anonymous["/srv/data"]) is None
    assert w.runtime.volumes.get("named-x") is not None


def test_mount_points_are_not_among_what_the_container_changed(w: World, tmp_path: Path) -> None:
    id = w.run("clean", mounts=(Mount("bind", "/deep/er/point", str(tmp_path)),))
    upper = w.runtime.definitions.files(id).directory / "upper"
    assert [str(path) for path in upper.rglob("*")] == []
    w.inside("clean", "touch", "/etc/changed")
    assert sorted(path.name for path in upper.rglob("*")) == ["changed", "etc"]


def test_mount_points_that_the_image_hides_are_made_all_the_same(w: World, tmp_path: Path) -> None:
    (tmp_path / "upper/srv").mkdir(parents=True)
    (tmp_path / "upper/data").symlink_to("/srv")
    (tmp_path / "upper/etc").mkdir(mode=0o711)
    os.setxattr(tmp_path / "upper/etc", "trusted.overlay.opaque", b"y")
    layer = pack_upper(w.store, tmp_path / "upper")
    image = str(assemble(w.store, ImageConfig(env=("PATH=/bin",)), [*w._layers, layer]))
    (tmp_path / "host").mkdir()
    (tmp_path / "host/file").write_text("mounted\n")
    script = "cat /data/here/file /srv/here/file; stat -c %a /etc; ls /etc"
    mounts = (Mount("bind", "/data/here", str(tmp_path / "host")),)
    said = w.ran("hidden", "sh", "-c", script, image=image, mounts=mounts)
    assert said == "mounted\nmounted\n711\nhostname\nhosts\nresolv.conf\n"
    w.runtime.remove("hidden")


def test_the_callers_umask_does_not_reach_the_root_file_system(w: World) -> None:
    before = os.umask(0o077)
    try:
        said = w.ran(
            "masked", "stat", "-c", "%a", "/", "/proc", "/etc", "/etc/hosts", "/made", user="app", working_dir="/made"
        )
    finally:
        os.umask(before)
    assert said == "755\n555\n755\n644\n755\n"
    w.runtime.remove("masked")


def test_names_files_are_written_for_the_container(w: World) -> None:
    id = w.run("names", extra_hosts={"db": "10.9.8.7"}, hostname="box")
    assert w.inside("names", "busybox", "hostname")[1] == "box\n"
    assert w.inside("names", "cat", "/etc/hostname")[1] == "box\n"
    hosts = w.inside("names", "cat", "/etc/hosts")[1]
    assert "127.0.0.1\tlocalhost" in hosts
    assert "10.9.8.7\tdb" in hosts
    other = w.run("names2")
    assert w.inside("names2", "cat", "/etc/hostname")[1].strip() == other[:12] != id[:12]


def test_init_reaps_and_forwards(w: World) -> None:
    w.run("with-init", "sh", "-c", "sleep 1000 & sleep 1000", init=True, stop_signal="SIGTERM")
    assert "/dev/init" in w.inside("with-init", "cat", "/proc/1/cmdline")[1]
    w.runtime.stop("with-init", timeout=5)
    assert w.runtime.inspect("with-init").status.exit_code == 143


def test_limits_are_really_applied(w: World) -> None:
    w.run("limited", memory=32 << 20, cpus=0.25, pids_limit=20)
    base = Path("/sys/fs/cgroup")
    group = f"bayplan-{w.root.hash}/{w.runtime.inspect('limited').id}"
    if (base / "cgroup.controllers").exists():
        found = [(base / group / name).read_text().strip() for name in ("memory.max", "cpu.max", "pids.max")]
        assert found == [str(32 << 20), "25000 100000", "20"]
    else:
        found = [
            (base / name).read_text().strip()
            for name in (
                f"memory/{group}/memory.limit_in_bytes",
                f"cpu/{group}/cpu.cfs_quota_us",
                f"cpu/{group}/cpu.cfs_period_us",
                f"pids/{group}/pids.max",
            )
        ]
        assert found == [str(32 << 20), "25000", "100000", "20"]
    forks = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do sleep 1 & done"
    code, said = w.inside("limited", "sh", "-c", forks)
    assert code != 0 or "fork" in said


def test_running_out_of_memory_is_told(w: World) -> None:
    w.run("hungry", "sh", "-c", "x=$(yes | head -c 200000000); echo done", memory=16 << 20)
    w.runtime.wait("hungry", timeout=20)
    eventually(lambda: w.runtime.inspect("hungry").status.oom, "the kernel killed it")
    assert w.runtime.inspect("hungry").as_dict()["oom_killed"] is True


def test_host_network_is_the_hosts(w: World) -> None:
    w.run("hosted", network_mode="host")
    pid = w.runtime.inspect("hosted").status.init
    assert pid is not None
    assert os.readlink(f"/proc/{pid.pid}/ns/net") == os.readlink("/proc/self/ns/net")


def test_wrong_declarations_are_refused_before_anything_is_made(w: World) -> None:
    before = {container.id for container in w.runtime.list()}
    for code, wrong in (
        ("bad-memory", {"memory": 1000}),
        ("bad-network-mode", {"network_mode": "bridged"}),
        ("bad-path", {"mounts": (Mount("bind", "relative", "/tmp"),)}),
        ("bad-signal", {"stop_signal": "SIGNOPE"}),
        ("no-blob", {"image": "sha256:" + "0" * 64}),
        ("bad-container-name", {"name": "no/slash"}),
    ):
        values = {"name": "wrong", **wrong}
        with pytest.raises(BayplanError) as error:
            w.create(values.pop("name"), **values)
        assert error.value.code == code
    assert {container.id for container in w.runtime.list()} == before
    assert w.runtime.definitions.names.owner("wrong") == ""


def test_secret_values_are_nowhere_in_clear_but_in_memory(w: World) -> None:
    planted = "pLaNtEd-s3cret-value"
    health = HealthConfig(("CMD", "true"))
    id = w.run(
        "keeps-secret",
        env={"TOKEN": planted, "OPEN": "yes"},
        secret_env=frozenset({"TOKEN"}),
        image=w.make_image(healthcheck=health),
    )
    assert w.inside("keeps-secret", "sh", "-c", "echo $TOKEN")[1].strip() == planted
    assert w.runtime.check_health("keeps-secret").status == "healthy"
    assert planted not in str(w.runtime.inspect(id).as_dict())
    assert w.runtime.declared(id).env["TOKEN"] == planted
    w.runtime.restart("keeps-secret")
    assert w.inside("keeps-secret", "sh", "-c", "echo $TOKEN")[1].strip() == planted
    found = subprocess.run(["grep", "-rl", planted, str(w.root.path)], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    live = w.root.run_dir / "live"
    assert (
        subprocess.run(["stat", "-f", "-c", "%T", str(live)], capture_output=True, text=True, check=True).stdout.strip()
        == "tmpfs"
    )
    assert live.stat().st_mode & 0o777 == 0o700
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                argv = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            assert planted.encode() not in argv or b"grep" in argv
    w.runtime.remove("keeps-secret", force=True)
    assert not (live / id).exists()
