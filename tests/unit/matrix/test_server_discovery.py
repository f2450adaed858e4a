"""Where a server is: every case of the specification's list, in its order."""

import random
from collections import Counter

import pytest

from homeserver.matrix.server_discovery import (
    ConnectTarget,
    ServerName,
    SrvRecord,
    connect_targets,
    delegated_name,
    in_order,
    parse_server_name,
    srv_questions,
    well_known_host,
    well_known_seconds,
)


def first(_: int) -> int:
    return 0


def target(host: str, port: int, header: str, tls: str) -> ConnectTarget:
    return ConnectTarget(host, port, header, tls)


SRV = [SrvRecord(10, 0, 1234, "srv.example.net")]

# name, well-known's m.server (None: there is none), SRV records (None: there are none) -> what to connect to
CASES = {
    "1 IPv4": ("192.0.2.1", None, None, target("192.0.2.1", 8448, "192.0.2.1", "192.0.2.1")),
    "1 IPv4 with port": ("192.0.2.1:80", None, None, target("192.0.2.1", 80, "192.0.2.1:80", "192.0.2.1")),
    "1 IPv6": ("[2001:db8::1]", None, None, target("2001:db8::1", 8448, "[2001:db8::1]", "2001:db8::1")),
    "1 IPv6 with port": ("[2001:db8::1]:1", None, None, target("2001:db8::1", 1, "[2001:db8::1]:1", "2001:db8::1")),
    "2 name with port": ("a.org:8448", None, None, target("a.org", 8448, "a.org:8448", "a.org")),
    "3.1 delegated to IPv4": ("a.org", "192.0.2.1", None, target("192.0.2.1", 8448, "192.0.2.1", "192.0.2.1")),
    "3.1 delegated to IPv6 with port": ("a.org", "[::1]:9", None, target("::1", 9, "[::1]:9", "::1")),
    "3.2 delegated to name with port": ("a.org", "m.org:443", None, target("m.org", 443, "m.org:443", "m.org")),
    "3.3 delegated to name with SRV": ("a.org", "m.org", SRV, target("srv.example.net", 1234, "m.org", "m.org")),
    "3.5 delegated to name": ("a.org", "m.org", None, target("m.org", 8448, "m.org", "m.org")),
    "4 name with SRV": ("a.org", None, SRV, target("srv.example.net", 1234, "a.org", "a.org")),
    "6 name": ("a.org", None, None, target("a.org", 8448, "a.org", "a.org")),
}


@pytest.mark.parametrize(("name", "delegated", "records", "expected"), CASES.values(), ids=list(CASES))
def test_each_case_has_its_address_port_host_header_and_certificate(name, delegated, records, expected) -> None:
    named = parse_server_name(name)
    if well_known_host(named) is None:
        assert delegated is None
    else:
        named = delegated_name({"m.server": delegated}) or named
    assert connect_targets(named, records, first) == [expected]


@pytest.mark.parametrize("name", ["192.0.2.1", "[::1]", "[::1]:1", "a.org:443", "192.0.2.1:8448"])
def test_an_address_or_a_port_is_asked_nothing_more(name: str) -> None:
    assert well_known_host(parse_server_name(name)) is None
    assert srv_questions(parse_server_name(name)) == ()


def test_a_name_is_asked_for_well_known_and_both_srv_records_the_new_one_first() -> None:
    name = parse_server_name("a.org")
    assert well_known_host(name) == "a.org"
    assert srv_questions(name) == ("_matrix-fed._tcp.a.org", "_matrix._tcp.a.org")


def test_records_for_an_explicit_port_are_ignored() -> None:
    assert connect_targets(parse_server_name("a.org:1"), SRV, first) == [target("a.org", 1, "a.org:1", "a.org")]


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("a.org", ServerName("a.org", "a.org", None, is_address=False)),
        ("A.org:1", ServerName("A.org:1", "A.org", 1, is_address=False)),
        ("1.2.3.4:65535", ServerName("1.2.3.4:65535", "1.2.3.4", 65535, is_address=True)),
        ("[::ffff:1.2.3.4]", ServerName("[::ffff:1.2.3.4]", "::ffff:1.2.3.4", None, is_address=True)),
        ("1.2.3", ServerName("1.2.3", "1.2.3", None, is_address=False)),
    ],
)
def test_a_name_is_taken_apart(name: str, parsed: ServerName) -> None:
    assert parse_server_name(name) == parsed


@pytest.mark.parametrize("name", ["", "a.org:0", "a.org:65536", "[::g]", "[1.2.3.4]", "a_b", "a.org:", "a/b", "::1"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"not a server name|has a port that is none"):
        parse_server_name(name)


@pytest.mark.parametrize(
    "document", [None, [], "m.org", {}, {"m.server": None}, {"m.server": 1}, {"m.server": "https://m.org"}]
)
def test_a_well_known_document_without_a_server_name_delegates_to_nobody(document) -> None:
    assert delegated_name(document) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 24 * 3600),
        ("", 24 * 3600),
        ("public", 24 * 3600),
        ("max-age=7200", 7200),
        ('Public, MAX-AGE="7200"', 7200),
        ("max-age=31536000", 48 * 3600),
        ("max-age=99999999999999999999", 48 * 3600),
        ("max-age=0", 300),
        ("no-store", 300),
        ("max-age=7200, no-cache", 300),
        ("max-age=-5", 24 * 3600),
        ("max-age=x", 24 * 3600),
    ],
)
def test_a_well_known_document_is_kept_within_bounds(header: str | None, seconds: int) -> None:
    assert well_known_seconds(header) == seconds


# ── SRV ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_without_a_target_means_that_there_is_no_service() -> None:
    assert connect_targets(parse_server_name("a.org"), [SrvRecord(0, 0, 0, "")], first) == []


def test_lower_priorities_come_first_and_all_are_tried() -> None:
    records = [SrvRecord(20, 5, 3, "c"), SrvRecord(10, 1, 1, "a"), SrvRecord(10, 9, 2, "b"), SrvRecord(30, 0, 4, "d")]
    for seed in range(20):
        ordered = in_order(records, random.Random(seed).randrange)
        assert [record.priority for record in ordered] == [10, 10, 20, 30]
        assert set(ordered) == set(records)


def test_among_equals_the_weight_decides_how_often_one_is_first() -> None:
    records = [SrvRecord(1, 60, 1, "a"), SrvRecord(1, 30, 1, "b"), SrvRecord(1, 10, 1, "c"), SrvRecord(1, 0, 1, "d")]
    drawn = Counter(in_order(records, random.Random(seed).randrange)[0].target for seed in range(3000))
    assert 1650 < drawn["a"] < 1950
    assert 780 < drawn["b"] < 1020
    assert 200 < drawn["c"] < 400
    assert 0 < drawn["d"] < 100


def test_records_with_impossible_ports_are_passed_over() -> None:
    records = [SrvRecord(1, 0, 0, "a"), SrvRecord(2, 0, 1, "b")]
    assert [t.host for t in connect_targets(parse_server_name("a.org"), records, first)] == ["b"]
