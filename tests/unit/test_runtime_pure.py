"""The runtime's decisions: what runs, with which rights, when it is started again, when it is healthy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.errors import BayplanError
from bayplan.oci.image import HealthConfig, ImageConfig
from bayplan.runtime import bundle, capabilities, cgroup, effective, health, logs, restarting, seccomp
from bayplan.runtime.codec import secrets_of, spec_from, spec_json, with_secrets
from bayplan.runtime.container import HealthReport
from bayplan.runtime.kernel import Process
from bayplan.runtime.ociruntime import known_bad, runtime_message
from bayplan.runtime.record import Phase, Status
from bayplan.runtime.rootfs import find_user, resolve
from bayplan.runtime.spec import Attachment, ContainerSpec, Health, Mount, Port, RestartPolicy

IMAGE = "sha256:" + "0" * 64


def defaults(**config: Any) -> effective.ImageDefaults:
    return effective.ImageDefaults.of(ImageConfig(**config))


@pytest.mark.parametrize(
    ("entrypoint", "command", "expected"),
    [
        (None, None, ("e", "c")),
        (None, ("own",), ("e", "own")),
        (("own",), None, ("own",)),
        (("own",), ("x",), ("own", "x")),
        (("",), ("x",), ("x",)),
        (None, (), ("e",)),
    ],
)
def test_entrypoint_and_command_are_merged_as_docker_does(
    entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    spec = ContainerSpec("n", IMAGE, entrypoint=entrypoint, command=command)
    assert effective.effective(spec, defaults(entrypoint=("e",), cmd=("c",))).argv == expected


def test_nothing_to_run_is_an_error() -> None:
    with pytest.raises(BayplanError) as error:
        effective.effective(ContainerSpec("n", IMAGE, entrypoint=("",)), defaults(cmd=("c",)))
    assert error.value.code == "no-command"


def test_a_health_check_is_inherited_replaced_or_disabled() -> None:
    image = defaults(cmd=("c",), healthcheck=HealthConfig(("CMD", "x"), interval=2.0))
    assert effective.effective(ContainerSpec("n", IMAGE), image).health == Health(("CMD", "x"), interval=2.0)
    own = Health(("CMD", "y"))
    assert effective.effective(ContainerSpec("n", IMAGE, health=own), image).health == own
    assert effective.effective(ContainerSpec("n", IMAGE, health=Health(("NONE",))), image).health is None


def test_variables_of_the_container_win() -> None:
    words = effective.environment({"A": "image", "PATH": "/bin"}, {"A": "own"}, hostname="h", tty=True)
    assert dict(word.split("=", 1) for word in words) == {"PATH": "/bin", "HOSTNAME": "h", "TERM": "xterm", "A": "own"}


@pytest.mark.parametrize(
    ("text", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("sigquit", 3)]
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    assert effective.signal_number(text) == number


@pytest.mark.parametrize("text", ["SIGNOPE", "0", "99", "", "SIGRTMIN+99", "TERM+"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(BayplanError) as error:
        effective.signal_number(text)
    assert error.value.code == "bad-signal"


def test_capabilities_follow_docker() -> None:
    machine = frozenset(capabilities.NAMES)
    assert set(capabilities.granted((), (), privileged=False, machine=machine)) == set(capabilities.DEFAULT)
    assert capabilities.granted(("ALL",), (), privileged=False, machine=machine) == capabilities.NAMES
    assert capabilities.granted(("net_admin",), ("ALL",), privileged=False, machine=machine) == ("CAP_NET_ADMIN",)
    assert "CAP_CHOWN" not in capabilities.granted((), ("chown",), privileged=False, machine=machine)
    with pytest.raises(BayplanError) as error:
        capabilities.granted(("SYS_TIME",), (), privileged=False, machine=frozenset(capabilities.DEFAULT))
    assert error.value.code == "capability-missing"


def filtered(*caps: str) -> set[str]:
    profile = json.loads(seccomp.PROFILE.read_text())
    flat = seccomp.flatten(profile, caps, "x86_64", "6.1.0")
    assert flat["architectures"] == ["SCMP_ARCH_X86_64"]
    return {name for rule in flat["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}


def test_the_filter_depends_on_capabilities_and_kernel() -> None:
    plain = filtered()
    assert {"read", "execve", "clone"} <= plain
    assert not {"mount", "reboot", "kexec_load", "bpf", "unshare", "keyctl", "clone3", "setns"} & plain
    assert {"mount", "unshare", "clone3"} <= filtered("CAP_SYS_ADMIN")
    assert "reboot" in filtered("CAP_SYS_BOOT")
    rule = {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}}
    for kernel, there in (("4.4.0", False), ("4.8.0-1-amd64", True), ("6.1", True)):
        profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}
        flat = seccomp.flatten(profile, (), "x86_64", kernel)
        assert any("ptrace" in each["names"] for each in flat["syscalls"]) is there


def made(**more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "argv": ("x",),
        "env": (),
        "cwd": "/",
        "user": bundle.User(),
        "hostname": "h",
        "rootfs": "/r",
        "cgroup": "/g/i",
        "capabilities": ("CAP_CHOWN",),
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
    }
    return bundle.Bundle(**{**values, **more}).config()


def test_mounts_inside_mounts_come_later_and_own_ones_replace_defaults() -> None:
    bindings = (
        bundle.Binding("bind", "/a/b", "/y"),
        bundle.Binding("bind", "/a", "/x"),
        bundle.Binding("tmpfs", "/dev/shm"),
    )
    targets = [mount["destination"] for mount in made(bindings=bindings)["mounts"]]
    assert targets.index("/a") < targets.index("/a/b")
    assert targets.count("/dev/shm") == 1


def test_privileged_lifts_masks_filter_and_devices() -> None:
    plain, boss = made(), made(privileged=True)
    assert "/proc/kcore" in plain["linux"]["maskedPaths"]
    assert plain["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert not {"maskedPaths", "readonlyPaths", "seccomp"} & set(boss["linux"])
    assert boss["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_namespaces_follow_the_network() -> None:
    def network(value: str) -> list[dict[str, str]]:
        return [each for each in made(network=value)["linux"]["namespaces"] if each["type"] == "network"]

    assert network("") == [{"type": "network"}]
    assert network("/run/netns/x") == [{"type": "network", "path": "/run/netns/x"}]
    assert network("host") == []


def test_limits_become_resources() -> None:
    limits = bundle.Limits(memory=64 << 20, cpus=1.5, pids=10, swap=True)
    assert limits.resources() == {
        "memory": {"limit": 64 << 20, "swap": 128 << 20},
        "cpu": {"quota": 150_000, "period": 100_000},
        "pids": {"limit": 10},
    }
    assert bundle.Limits().resources() == {}


ENDS = {"exit_code": 1, "stopped": False, "restarts": 0, "delay": 0.0, "ran_for": 1.0}


@pytest.mark.parametrize(
    ("policy", "change", "again"),
    [
        (RestartPolicy.NO, {}, False),
        (RestartPolicy.ALWAYS, {"exit_code": 0}, True),
        (RestartPolicy.ALWAYS, {"stopped": True}, False),
        (RestartPolicy.UNLESS_STOPPED, {}, True),
        (RestartPolicy.UNLESS_STOPPED, {"stopped": True}, False),
        (RestartPolicy.ON_FAILURE, {"exit_code": 0}, False),
        (RestartPolicy.ON_FAILURE, {}, True),
        (RestartPolicy.ON_FAILURE, {"restarts": 2}, True),
        (RestartPolicy.ON_FAILURE, {"restarts": 3}, False),
    ],
)
def test_restart_policies(policy: RestartPolicy, change: dict[str, Any], again: bool) -> None:
    assert restarting.decide(policy, 3, **{**ENDS, **change}).again is again


@given(st.lists(st.floats(0, 30), min_size=1, max_size=40))
@settings(max_examples=50, derandomize=True)
def test_pauses_double_to_a_minute_and_begin_anew_after_a_good_run(runs: list[float]) -> None:
    delay, restarts = 0.0, 0
    for ran in runs:
        before = delay
        found = restarting.decide(
            RestartPolicy.ALWAYS, 0, exit_code=1, stopped=False, restarts=restarts, delay=delay, ran_for=ran
        )
        delay, restarts = found.delay, found.restarts
        assert restarting.FIRST_DELAY <= delay <= restarting.LONGEST_DELAY
        assert delay == (restarting.FIRST_DELAY if ran >= 10 or not before else min(before * 2, 60))
    assert restarts == len(runs)


@pytest.mark.parametrize(
    ("policy", "stopped", "ran", "starts"),
    [
        (RestartPolicy.NO, False, True, False),
        (RestartPolicy.ALWAYS, True, False, True),
        (RestartPolicy.UNLESS_STOPPED, True, False, False),
        (RestartPolicy.UNLESS_STOPPED, False, True, True),
        (RestartPolicy.UNLESS_STOPPED, False, False, False),
        (RestartPolicy.ON_FAILURE, False, True, True),
        (RestartPolicy.ON_FAILURE, True, False, False),
    ],
)
def test_what_is_started_at_boot(policy: RestartPolicy, stopped: bool, ran: bool, starts: bool) -> None:
    assert restarting.at_boot(policy, stopped=stopped, ran=ran) is starts


def after(report: HealthReport, check: Health, *results: tuple[float, int]) -> HealthReport:
    """The report after results at the given seconds since the start."""
    for when, code in results:
        report = health.advance(report, check, health.Result(1000 + when, 1000 + when, code, "said"), 1000.0)
    return report


def test_retries_failures_in_a_row_make_unhealthy_and_one_success_heals() -> None:
    check = Health(("CMD", "x"), interval=10, retries=3)
    sick = after(HealthReport("starting"), check, (10, 1), (20, 1))
    assert (sick.status, sick.failing) == ("starting", 2)
    assert after(sick, check, (30, 1)).status == "unhealthy"
    assert (after(sick, check, (30, 0)).status, after(sick, check, (30, 0)).failing) == ("healthy", 0)
    assert after(sick, check, (30, 0), (40, 1), (50, 1)).status == "healthy"


def test_failures_in_the_start_period_do_not_count_until_it_was_healthy_once() -> None:
    check = Health(("CMD", "x"), interval=1, retries=2, start_period=60)
    assert after(HealthReport("starting"), check, (2, 1), (4, 1), (6, 1)).failing == 0
    assert after(HealthReport("starting"), check, (2, 0), (4, 1), (6, 1)).status == "unhealthy"


def test_looking_early_can_only_find_health_sooner() -> None:
    check = Health(("CMD", "x"), interval=30, retries=1)
    assert after(HealthReport("starting"), check, (0.1, 1), (0.3, 1), (5, 1)).status == "starting"
    assert after(HealthReport("starting"), check, (0.1, 1), (0.3, 0)).status == "healthy"
    assert after(HealthReport("starting"), check, (0.1, 1), (30, 1)).status == "unhealthy"


def test_only_the_last_results_are_kept() -> None:
    report = after(HealthReport("starting"), Health(("CMD", "x")), *((number, 0) for number in range(9)))
    assert len(report.log) == 5


def test_checks_are_due_after_an_interval_and_sooner_in_the_start_period() -> None:
    check = Health(("CMD", "x"), interval=30, start_period=20, start_interval=2)
    assert health.next_check(HealthReport("starting"), check, 1000) == 1002
    assert health.next_check(HealthReport("starting", checked_at=1025), check, 1000) == 1055
    assert health.next_check(HealthReport("healthy", checked_at=1004), check, 1000) == 1034


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(
    st.builds(
        ContainerSpec,
        name=TEXTS,
        image=TEXTS,
        command=st.none() | st.lists(TEXTS, max_size=3).map(tuple),
        entrypoint=st.none() | st.lists(TEXTS, max_size=3).map(tuple),
        env=st.dictionaries(TEXTS, TEXTS, max_size=3),
        ports=st.lists(st.builds(Port, st.integers(1, 65535), st.integers(0, 65535)), max_size=2).map(tuple),
        networks=st.lists(st.builds(Attachment, TEXTS, st.lists(TEXTS, max_size=2).map(tuple)), max_size=2).map(tuple),
        mounts=st.lists(st.builds(Mount, st.just("tmpfs"), TEXTS, size=st.none() | st.integers(0)), max_size=2).map(
            tuple
        ),
        memory=st.none() | st.integers(0),
        restart=st.sampled_from(RestartPolicy),
        health=st.none() | st.builds(Health, st.lists(TEXTS, max_size=2).map(tuple)),
        labels=st.dictionaries(TEXTS, TEXTS, max_size=2),
    ),
    st.data(),
)
@settings(max_examples=60, derandomize=True)
def test_a_specification_survives_json_and_its_secrets_do_not_enter_it(
    spec: ContainerSpec, data: st.DataObject
) -> None:
    secret = frozenset(data.draw(st.sets(st.sampled_from(sorted(spec.env) or [""])))) & set(spec.env)
    spec = replace(spec, secret_env=frozenset(secret))
    written = json.loads(json.dumps(spec_json(spec)))
    assert not secret & set(written["env"])
    assert with_secrets(spec_from(written), secrets_of(spec)) == spec


def test_a_status_survives_json() -> None:
    status = Status(
        Phase.STARTED, 3, "boot", Process(1, 2), Process(3, 4), ports=((80, 8080, "", "tcp"),), addresses={"n": "a"}
    )
    assert Status.from_json(json.loads(json.dumps(status.to_json()))) == status


def test_links_in_an_image_never_lead_out_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real/dir").mkdir(parents=True)
    (root / "up").symlink_to("../../../etc")
    (root / "abs").symlink_to("/real")
    (root / "chain").symlink_to("abs/dir/../dir")
    assert resolve(root, "/up/passwd") == root / "etc/passwd"
    assert resolve(root, "../../x") == root / "x"
    assert resolve(root, "/abs/dir") == root / "real/dir"
    assert resolve(root, "/chain/new") == root / "real/dir/new"
    (root / "loop").symlink_to("loop")
    with pytest.raises(BayplanError) as error:
        resolve(root, "/loop/x")
    assert error.value.code == "bad-path"


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "l1", "l2", "l3", ""]), max_size=8), st.data())
@settings(max_examples=80, derandomize=True)
def test_whatever_the_path_it_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("tree")
    (root / "a/b").mkdir(parents=True)
    for name, target in (("l1", "../.."), ("l2", "/a/../../.."), ("l3", "a/b/../../../l1")):
        (root / name).symlink_to(target)
        (root / "a" / name).symlink_to(target)
    assert resolve(root, "/".join(parts)).is_relative_to(root)


def test_users_come_from_the_images_own_tables(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\nbroken\n#c:x:1:1::/:\n")
    (tmp_path / "etc/group").write_text("web:x:44:\nlog:x:50:web,x\n")
    assert find_user(tmp_path, "web") == bundle.User(33, 44, (50,), "/srv")
    assert find_user(tmp_path, "33").groups == (50,)
    assert find_user(tmp_path, "web:log") == bundle.User(33, 50, (), "/srv")
    assert find_user(tmp_path, "1234") == bundle.User(1234, 0)
    assert find_user(tmp_path, "") == bundle.User(0, 0, (), "/root")
    for wrong in ("nobody", "web:nogroup", "99999999999"):
        with pytest.raises(BayplanError) as error:
            find_user(tmp_path, wrong)
        assert error.value.code == "unknown-user"


def test_hostile_tables_are_not_followed_out_or_read_without_end(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/dev/zero")
    assert find_user(tmp_path, "7") == bundle.User(7, 0)


def test_log_lines_have_streams_and_parts() -> None:
    line = logs.parse(b"2026-11-23T16:53:21.513571768+00:00 stdout F some text")
    assert line is not None
    assert (line.stream, line.text, round(line.timestamp, 3)) == ("stdout", b"some text\n", 1795452801.514)
    part = logs.parse(b"2026-11-23T16:53:21.5+00:00 stderr P half")
    assert part is not None
    assert part.text == b"half"
    assert logs.parse(b"torn") is None
    assert logs.parse(b"t stdout X y") is None


def test_statistics_are_read_from_either_version(tmp_path: Path) -> None:
    one = tmp_path / "v2/bp/id"
    one.mkdir(parents=True)
    for name, text in {
        "memory.current": "1000\n",
        "memory.stat": "anon 1\ninactive_file 300\n",
        "memory.max": "max\n",
        "cpu.stat": "usage_usec 2500000\n",
        "pids.current": "3\n",
        "pids.max": "10\n",
        "io.stat": "8:0 rbytes=5 wbytes=7 rios=1\n9:0 rbytes=1 wbytes=1\n",
    }.items():
        (one / name).write_text(text)
    seen = cgroup.stats("/bp/id", base=tmp_path / "v2", unified=True)
    assert (seen.memory, seen.memory_limit, seen.cpu, seen.pids, seen.pids_limit) == (700, None, 2.5, 3, 10)
    assert (seen.read_bytes, seen.written_bytes) == (6, 8)
    for name, text in {
        "memory/bp/id/memory.usage_in_bytes": "1000",
        "memory/bp/id/memory.stat": "total_inactive_file 300",
        "memory/bp/id/memory.limit_in_bytes": "9223372036854771712",
        "cpuacct/bp/id/cpuacct.usage": "2500000000",
        "pids/bp/id/pids.current": "3",
        "pids/bp/id/pids.max": "10",
        "blkio/bp/id/blkio.throttle.io_service_bytes": "8:0 Read 6\n8:0 Write 8\nTotal 14",
    }.items():
        path = tmp_path / "v1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    old = cgroup.stats("/bp/id", base=tmp_path / "v1", unified=False)
    assert replace(old, time=0) == replace(seen, time=0)
    assert cgroup.stats("/none", base=tmp_path / "v1", unified=False).memory == 0


def tree(folder: Path, files: dict[str, str]) -> Path:
    """A control group tree as plain files: what the kernel shows, in so far as files can."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_freezing_is_read_from_either_version(tmp_path: Path) -> None:
    new = tree(tmp_path / "v2", {"g/i/cgroup.freeze": "1\n", "g/i/cgroup.events": "populated 1\nfrozen 0\n"})
    asked = {"base": new, "unified": True}
    assert cgroup.frozen("/g/i", **asked), "it was asked for"
    assert not cgroup.still("/g/i", **asked), "not every process stands yet"
    tree(new, {"g/i/cgroup.events": "populated 1\nfrozen 1\n"})
    assert cgroup.still("/g/i", **asked)
    cgroup.thaw("/g/i", **asked)
    assert not cgroup.frozen("/g/i", **asked)
    cgroup.thaw("/g/none", **asked)
    assert not (new / "g/none").exists()
    for state, seen in {"FREEZING": (True, False), "FROZEN": (True, True), "THAWED": (False, False)}.items():
        old = tree(tmp_path / "v1", {"freezer/g/i/freezer.state": f"{state}\n"})
        assert (
            cgroup.frozen("/g/i", base=old, unified=False),
            cgroup.still("/g/i", base=old, unified=False),
        ) == seen
    cgroup.thaw("/g/i", base=tmp_path / "v1", unified=False)
    assert (tmp_path / "v1/freezer/g/i/freezer.state").read_text().startswith("THAWED")


def test_a_kill_for_want_of_memory_is_read_from_either_version(tmp_path: Path) -> None:
    new = tree(tmp_path / "v2", {"g/i/memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n"})
    assert cgroup.oom_killed("/g/i", base=new, unified=True)
    tree(new, {"g/i/memory.events": "low 0\nmax 9\noom 1\noom_kill 0\n"})
    assert not cgroup.oom_killed("/g/i", base=new, unified=True), "full is not killed"
    assert not cgroup.oom_killed("/g/none", base=new, unified=True)
    old = tree(tmp_path / "v1", {"memory/g/i/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"})
    assert cgroup.oom_killed("/g/i", base=old, unified=False)


def test_whether_swap_can_be_limited_is_asked_from_the_kernel(tmp_path: Path) -> None:
    new = tree(tmp_path / "with", {"a/cgroup.procs": "", "b/memory.max": "max", "b/memory.swap.max": "max"})
    assert cgroup.accounts_swap(base=new, unified=True)
    assert not cgroup.accounts_swap(base=tree(tmp_path / "without", {"b/memory.max": "max"}), unified=True)
    assert cgroup.accounts_swap(base=tree(tmp_path / "old", {"memory/memory.memsw.limit_in_bytes": "0"}), unified=False)
    assert not cgroup.accounts_swap(base=tmp_path / "nothing", unified=False)


def test_what_a_runtime_says_is_cut_to_its_sentence() -> None:
    said = '{"level":"error","msg":"runc create failed: unable to start container process: exec: \\"/x\\": no such file"}\n'
    assert runtime_message(said) == 'exec: "/x": no such file'
    assert runtime_message("") == "no reason was given"


def test_known_bad_versions() -> None:
    assert [known_bad(v) for v in ((1, 1, 5), (1, 2, 7), (1, 2, 8), (1, 3, 2), (1, 3, 3), (1, 4, 0))] == [
        True, True, False, True, False, False
    ]  # fmt: skip
