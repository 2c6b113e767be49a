"""The network core's decisions: addresses, subnets, rules, ports, names' files; no kernel."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.errors import BayplanError
from bayplan.runtime.net import addresses, firewall, listeners, names, ports, ruleset, subnets
from bayplan.runtime.net.model import Link, Network, Phase, Record, State
from bayplan.runtime.net.records import check_container_id, check_network_name
from bayplan.runtime.spec import Port

HASH = "0123abcd"


def network(name: str, subnet: str, *, internal: bool = False) -> Network:
    place = IPv4Network(subnet)
    return Network(name * 8, name, {}, place, place.network_address + 1, f"bp{HASH}b{name[:4]}", internal, 1.0)


def record(identity: str, *links: tuple[Network, str], **more: object) -> Record:
    made = tuple(Link(n.name, n.bridge, f"bp{HASH}v{at}", f"eth{at}", ip) for at, (n, ip) in enumerate(links))
    return Record(identity, identity, Phase.READY, made, **more)


# -- addresses -----------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(2, 14)), st.one_of(st.none(), st.integers(0, 15)))
@settings(max_examples=60, derandomize=True)
def test_an_address_is_free_inside_the_subnet_and_neither_its_ends_nor_the_gateway(taken: set[int], last: int) -> None:
    subnet = IPv4Network("10.0.0.0/28")
    busy = {f"10.0.0.{n}" for n in taken}
    before = None if last is None else f"10.0.0.{last}"
    if len(taken) == 13:
        with pytest.raises(BayplanError, match="all 13 addresses"):
            addresses.following(subnet, before, busy)
        return
    chosen = addresses.following(subnet, before, busy)
    assert chosen not in busy
    assert 2 <= int(chosen.rsplit(".", 1)[1]) <= 14


def test_addresses_go_round_before_one_comes_again() -> None:
    subnet, last, seen = IPv4Network("10.0.0.0/28"), None, []
    for _ in range(14):
        last = addresses.following(subnet, last, ())
        seen.append(last)
    assert seen[:13] == [f"10.0.0.{n}" for n in range(2, 15)]
    assert seen[13] == "10.0.0.2"


# -- subnets -------------------------------------------------------------------------------------------------------

places = st.builds(
    lambda base, bits: IPv4Network((base >> (32 - bits) << (32 - bits), bits)),
    st.sampled_from(
        [int(IPv4Address(a)) for a in ("10.180.0.0", "10.181.3.7", "172.16.0.0", "10.0.0.0", "10.183.255.9")]
    ),
    st.integers(8, 32),
)


@given(st.lists(places, max_size=12))
@settings(max_examples=80, derandomize=True)
def test_a_chosen_subnet_overlaps_nothing_that_is_taken_and_is_the_lowest(taken: list[IPv4Network]) -> None:
    chosen = subnets.free(taken)
    assert not any(chosen.overlaps(place) for place in taken)
    pool = next(pool for pool in subnets.POOLS if chosen.subnet_of(pool))
    lower = int(pool.network_address)
    while lower < int(chosen.network_address):
        assert any(IPv4Network((lower, 24)).overlaps(place) for place in taken)
        lower += 256


def test_pools_keep_off_the_defaults_of_docker_and_podman() -> None:
    neighbours = [IPv4Network(t) for t in ("172.17.0.0/16", "172.18.0.0/15", "172.20.0.0/14", "172.24.0.0/13")]
    neighbours += [IPv4Network(t) for t in ("10.88.0.0/16", "10.89.0.0/16", "192.168.122.0/24")]
    assert not any(pool.overlaps(place) for pool in subnets.POOLS for place in neighbours)


def test_when_everything_is_taken_the_error_says_so() -> None:
    with pytest.raises(BayplanError) as caught:
        subnets.free(subnets.POOLS)
    assert caught.value.code == "no-free-subnet"


@pytest.mark.parametrize(
    "text", ["x", "10.0.0.1/24", "fd00::/64", "10.0.0.0/30", "0.0.0.0/0", "127.0.0.0/24", "224.0.0.0/24"]
)
def test_a_subnet_that_cannot_be_one_is_refused(text: str) -> None:
    with pytest.raises(BayplanError) as caught:
        subnets.parse(text)
    assert caught.value.code == "bad-subnet"


# -- rules ---------------------------------------------------------------------------------------------------------

one, inner = network("one", "10.180.0.0/24"), network("inner", "10.180.1.0/24", internal=True)


def test_published_ports_are_map_entries_that_lead_to_the_network_with_a_way_out() -> None:
    web = record(
        "web", (inner, "10.180.1.2"), (one, "10.180.0.2"), ports=(Port(80, 8080), Port(53, 53, "127.0.0.1", "udp"))
    )
    assert ruleset.entries(web, [one, inner]) == [
        ("published", "tcp . 8080", "10.180.0.2 . 80"),
        ("published_at", "127.0.0.1 . udp . 53", "10.180.0.2 . 53"),
    ]


def test_ports_that_are_kept_back_have_no_entries() -> None:
    assert ruleset.entries(record("web", (one, "10.180.0.2"), ports=(Port(80, 8080),), published=False), [one]) == []


def test_a_change_touches_only_what_differs() -> None:
    stays, goes = ("published", "tcp . 1", "a . 1"), ("published", "tcp . 2", "a . 2")
    moved = ("published", "tcp . 2", "b . 2")
    assert ruleset.change(HASH, [stays, goes], [stays, moved]).splitlines() == [
        f"delete element ip bayplan-{HASH} published {{ tcp . 2 }}",
        f"add element ip bayplan-{HASH} published {{ tcp . 2 : b . 2 }}",
    ]
    assert ruleset.change(HASH, [stays], [stays]) == ""


def test_the_whole_table_closes_internal_networks_and_lets_the_others_out() -> None:
    text = ruleset.whole(HASH, [one, inner], [record("web", (one, "10.180.0.2"), ports=(Port(80, 8080),))])
    assert f"add table ip bayplan-{HASH}\ndelete table ip bayplan-{HASH}\n" in text
    assert f'set closed {{ type ifname; elements = {{ "{inner.bridge}" }}; }}' in text
    assert "set outward { type ipv4_addr; flags interval; elements = { 10.180.0.0/24 }; }" in text
    assert "elements = { tcp . 8080 : 10.180.0.2 . 80 };" in text


def test_names_of_interfaces_fit_the_kernel() -> None:
    assert len(one.bridge) <= 15
    assert len(f"{ruleset.interface_prefix(HASH)}vffff") == 15


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ({"FORWARD": "accept", "INPUT": "accept"}, []),
        ({"FORWARD": "drop", "INPUT": "accept"}, ["FORWARD o", "FORWARD i"]),
        ({"FORWARD": "drop", "DOCKER-USER": ""}, ["DOCKER-USER o", "DOCKER-USER i"]),
        ({"FORWARD": "accept", "DOCKER-USER": ""}, ["DOCKER-USER o", "DOCKER-USER i"]),
        ({"INPUT": "drop"}, ["INPUT i", "INPUT i"]),
    ],
)
def test_accepts_stand_where_somebody_drops(policies: dict[str, str], expected: list[str]) -> None:
    assert [f"{a.chain} {a.direction}" for a in firewall.wanted(policies, policies)] == expected


# -- ports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [
        [Port(0)],
        [Port(70000)],
        [Port(80, 70000)],
        [Port(80, protocol="icmp")],
        [Port(80, 80, "::1")],
        [Port(80, 80, "nowhere")],
        [Port(80, 8080), Port(81, 8080)],
        [Port(80, 8080), Port(80, 8080, "127.0.0.1")],
    ],
)
def test_ports_that_cannot_be_are_refused(wanted: list[Port]) -> None:
    with pytest.raises(BayplanError) as caught:
        ports.normal(wanted)
    assert caught.value.code == "bad-port"


def test_every_address_has_one_spelling_and_doubles_fall_together() -> None:
    assert ports.normal([Port(80, 8080, "0.0.0.0"), Port(80, 8080), Port(80), Port(81)]) == (
        Port(80, 8080),
        Port(80),
        Port(81),
    )
    assert len(ports.normal([Port(80, 1, "127.0.0.1"), Port(80, 1, "127.0.0.2"), Port(80, 1, protocol="udp")])) == 3


def test_listening_sockets_are_read_from_proc_where_the_kernel_has_no_sock_diag() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    rest = "00000000:00000000 00:00000000 00000000     0        0"
    lines = [
        head,
        f"   0: 0100007F:1F90 00000000:0000 0A {rest} 111 1 0 100 0 0 10 0",
        f"   1: 00000000:0050 00000000:0000 0A {rest} 222 1 0 100 0 0 10 0",
        f"   2: 0100007F:1F91 0100007F:D431 01 {rest} 333 1 0 100 0 0 10 0",
        f"   3: 0000000000000000FFFF00000100007F:1F92 {'0' * 32}:0000 0A {rest} 444 1 0 100 0 0 10 0",
        f"   4: {'0' * 24}01000000:1F93 {'0' * 32}:0000 0A {rest} 555 1 0 100 0 0 10 0",
        f"   5: {'0' * 32}:1F94 {'0' * 32}:0000 0A {rest} 666 1 0 100 0 0 10 0",
    ]
    found = [(one.host_ip, one.number, one.inode) for one in listeners.parse_proc("\n".join(lines), "tcp")]
    assert found == [("127.0.0.1", 8080, 111), ("", 80, 222), ("127.0.0.1", 8082, 444), ("", 8084, 666)]


# -- names ---------------------------------------------------------------------------------------------------------


def test_the_name_servers_files_say_who_is_on_which_network_under_which_names() -> None:
    plain = network("bridge", "10.180.9.0/24")
    web = Record(
        "0123456789abcdef",
        "Web",
        Phase.READY,
        (Link("one", one.bridge, "v", "eth0", "10.180.0.2", ("www", "web")),),
    )
    back = record("new", (one, "10.180.0.3"), (plain, "10.180.9.2"), published=False)
    assert names.files([one, inner, plain], [web, back]) == {
        "one": "10.180.0.1\n0123456789abcdef 10.180.0.2  web,www,0123456789ab\nnew 10.180.0.3  new\n",
        "inner%int": "10.180.1.1\n",
    }


def test_resolv_conf_leads_to_the_gateway_or_to_servers_that_a_container_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, real = tmp_path / "resolv.conf", tmp_path / "resolved.conf"
    monkeypatch.setattr(names, "_RESOLV_CONF", host)
    monkeypatch.setattr(names, "_RESOLVED", real)
    plain = network("bridge", "10.180.9.0/24")
    host.write_text("# a stub\nsearch example.org\nnameserver 127.0.0.53\nnameserver ::1\noptions edns0\n")
    real.write_text("nameserver 192.0.2.53\n")
    assert names.resolv_conf([plain]) == "search example.org\nnameserver 192.0.2.53\noptions edns0\n"
    assert names.resolv_conf([inner, one]) == (
        "search example.org\nnameserver 10.180.0.1\nnameserver 10.180.1.1\noptions ndots:0\n"
    )
    assert names.host_resolv_conf() == host.read_text()
    host.unlink()
    assert names.host_resolv_conf() == ""


# -- form on disk --------------------------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read() -> None:
    web = record("web", (one, "10.180.0.2"), ports=(Port(80, 8080),), wanted=(Port(80),), holder="1:2")
    state = State({"web": web}, {"one": "10.180.0.2"}, {one.bridge: 1400}, pending=True)
    assert State.from_json(json.loads(json.dumps(state.to_json()))) == state
    assert Network.from_json(json.loads(json.dumps(inner.to_json()))) == inner


@pytest.mark.parametrize("name", ["", "-a", "a/b", "..", "host", "none", "default", "container", "a\n", "x" * 128])
def test_bad_names_are_refused_before_they_become_files(name: str) -> None:
    with pytest.raises(BayplanError):
        check_network_name(name)


def test_an_id_that_is_no_file_name_is_refused() -> None:
    with pytest.raises(BayplanError):
        check_container_id("../../etc")
