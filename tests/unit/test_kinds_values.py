"""The value forms: what each reader makes of what people write, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds_oracle import LAW

from bayplan.errors import BayplanError
from bayplan.kinds import values
from bayplan.kinds.values import Mount, Port, Restart, Tmpfs


@pytest.mark.parametrize(
    ("read", "written", "meant"),
    [
        (values.parse_size, "64m", 64 << 20),
        (values.parse_size, "64M", 64 << 20),
        (values.parse_size, "64MiB", 64 << 20),
        (values.parse_size, "1.5 g", 3 << 29),
        (values.parse_size, "0", 0),
        (values.parse_size, "1048576", 1 << 20),
        (values.parse_size, 7.0, 7),
        (values.parse_duration, "1m30s", 90.0),
        (values.parse_duration, "500ms", 0.5),
        (values.parse_duration, "1h0m0.5s", 3600.5),
        (values.parse_duration, "10", 10.0),
        (values.parse_duration, 0, 0.0),
        (values.parse_number, "0.5", 0.5),
        (values.parse_number, ".5", 0.5),
        (values.parse_port, 3000, Port(3000)),
        (values.parse_port, "8080:3000", Port(3000, 8080)),
        (values.parse_port, "8080:3000/UDP", Port(3000, 8080, "", "udp")),
        (values.parse_port, "127.0.0.1:8080:3000", Port(3000, 8080, "127.0.0.1")),
        (values.parse_port, "127.0.0.1::3000", Port(3000, 0, "127.0.0.1")),
        (values.parse_port, "0.0.0.0:80:80", Port(80, 80)),
        (values.parse_mount, "data:/data", Mount("volume", "data", "/data")),
        (values.parse_mount, "./conf/:/etc/conf/:ro", Mount("bind", "./conf", "/etc/conf", True)),
        (values.parse_mount, "..:/up:rw", Mount("bind", "..", "/up")),
        (values.parse_mount, "//srv/x:/x", Mount("bind", "/srv/x", "/x")),
        (values.parse_tmpfs, "/run", Tmpfs("/run")),
        (values.parse_tmpfs, "/tmp:size=1k", Tmpfs("/tmp", 1024)),
        (values.parse_restart, "no", Restart("no")),
        (values.parse_restart, "on-failure:5", Restart("on-failure", 5)),
        (values.parse_signal, "sigterm", "SIGTERM"),
        (values.parse_signal, 9, "SIGKILL"),
        (values.parse_signal, "SIGRTMIN+3", "SIGRTMIN+3"),
        (values.parse_signal, "RTMAX-1", "SIGRTMIN+29"),
        (values.parse_signal, 34, "SIGRTMIN"),
        (values.parse_signal, "CLD", "SIGCHLD"),
        (values.parse_capability, "net_admin", "CAP_NET_ADMIN"),
        (values.parse_capability, "all", "ALL"),
        (values.parse_ip, "FD00::0007", "fd00::7"),
        (values.parse_subnet, "10.89.4.0/24", "10.89.4.0/24"),
        (values.parse_user, 1000, "1000"),
        (values.parse_text, True, "true"),
        (values.parse_text, 1.5, "1.5"),
        (values.parse_test, "test -e /x", ["CMD-SHELL", "test -e /x"]),
        (values.parse_address, "registry.example.com", "registry.example.com"),
        (values.parse_address, "[::1]:5000", "[::1]:5000"),
    ],
)
def test_what_people_write_is_what_they_mean(read: Callable[[Any], Any], written: Any, meant: Any) -> None:
    found = read(written)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("read", "written", "hint"),
    [
        (values.parse_size, "64x", "write 64m"),
        (values.parse_size, "-1", ""),
        (values.parse_size, "64m\n", ""),
        (values.parse_size, 1.5, ""),
        (values.parse_size, float("nan"), ""),
        (values.parse_size, "9" * 5000, ""),
        (values.parse_duration, "5 s", "write 500ms"),
        (values.parse_duration, "s", ""),
        (values.parse_duration, -1, ""),
        (values.parse_duration, "1s2", ""),
        (values.parse_duration, float("inf"), ""),
        (values.parse_number, "1e3", ""),
        (values.parse_port, "80-90:80-90", "ranges"),
        (values.parse_port, "[::1]:80:80", "IPv4"),
        (values.parse_port, "80/sctp", "tcp or udp"),
        (values.parse_port, "8080:", ""),
        (values.parse_port, ":80", ""),
        (values.parse_port, "0", "1 to 65535"),
        (values.parse_port, "99999", "1 to 65535"),
        (values.parse_port, "²", ""),
        (values.parse_port, "localhost:80:80", "127.0.0.1"),
        (values.parse_mount, "/data", "declare a Volume"),
        (values.parse_mount, "~/x:/x", "whole path"),
        (values.parse_mount, "v:data", "NAME:/path"),
        (values.parse_mount, "v:/", "root"),
        (values.parse_mount, "v:/a/../../b", ""),
        (values.parse_mount, "v:/data:z", "ro and rw"),
        (values.parse_mount, "v:/data:ro,rw", ""),
        (values.parse_mount, "a b:/data", ""),
        (values.parse_tmpfs, "run", "/path"),
        (values.parse_tmpfs, "/run:mode=1777", "size"),
        (values.parse_restart, "always:3", "on-failure:5"),
        (values.parse_restart, "on-failure:-1", ""),
        (values.parse_signal, "SIGTERN", "SIGTERM"),
        (values.parse_signal, 0, ""),
        (values.parse_signal, "RTMAX+1", ""),
        (values.parse_capability, "NET_ADMN", "NET_ADMIN"),
        (values.parse_ip, "10.0.0.300", ""),
        (values.parse_ip, "fd00::x", ""),
        (values.parse_subnet, "10.89.4.7/24", "10.89.4.0/24"),
        (values.parse_subnet, "10.89.4.0", ""),
        (values.parse_subnet, "10.0.0.0/30", "8 to 29"),
        (values.parse_subnet, "127.0.0.0/8", "something else"),
        (values.parse_subnet, "169.254.1.0/24", "something else"),
        (values.parse_image, "Shop:1", "lower-case"),
        (values.parse_image, "shop:", ""),
        (values.parse_image, "https://x/y", ""),
        (values.parse_user, "a:b:c", ""),
        (values.parse_address, "https://x", "scheme"),
        (values.parse_address, "x:port", ""),
        (values.parse_test, ["wget"], "CMD"),
        (values.parse_test, ["CMD"], ""),
        (values.parse_test, [], ""),
        (values.parse_test, ["NONE", "x"], ""),
        (values.parse_text, "a\0", "NUL"),
        (values.canonical_path, "", ""),
    ],
)
def test_what_means_nothing_is_refused_with_a_hint(read: Callable[[Any], Any], written: Any, hint: str) -> None:
    with pytest.raises(BayplanError) as caught:
        read(written)
    assert caught.value.code == "bad-value"
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


_PORTS = st.builds(
    Port,
    st.integers(1, 65535),
    st.integers(0, 65535),
    st.sampled_from(["", "127.0.0.1", "10.1.2.3"]),
    st.sampled_from(["tcp", "udp"]),
)
_NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)
_TARGETS = st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
_MOUNTS = st.builds(Mount, st.just("volume"), _NAMES, _TARGETS, st.booleans()) | st.builds(
    Mount, st.just("bind"), _TARGETS, _TARGETS, st.booleans()
)


@LAW
@given(_PORTS, _MOUNTS, st.builds(Tmpfs, _TARGETS, st.none() | st.integers(0, 1 << 40)), st.integers(0, 99))
def test_a_canonical_text_reads_back_as_itself(port: Port, mount: Mount, tmpfs: Tmpfs, retries: int) -> None:
    assert values.parse_port(str(port)) == port
    assert values.parse_mount(str(mount)) == mount
    assert values.parse_tmpfs(str(tmpfs)) == tmpfs
    restart = Restart("on-failure", retries)
    assert values.parse_restart(str(restart)) == restart


@LAW
@given(st.text(max_size=20))
def test_no_reader_fails_but_in_words(text: str) -> None:
    for name in dir(values):
        if name.startswith("parse_") or name == "canonical_path":
            try:
                getattr(values, name)(text)
            except BayplanError as error:
                words = error
                assert words.code == "bad-value"
