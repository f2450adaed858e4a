"""What the server says to those who do not know it, and to paths that it does not have."""

import asyncio
from html.parser import HTMLParser

import pytest

from functions.harness import invoke, payload
from homeserver.services.server_setup import set_up

FUNCTION = "server_discovery"
API_HOST = "abcdefghij.execute-api.eu-central-1.amazonaws.com"


def test_the_recorded_payloads_are_answered():
    assert invoke(FUNCTION, payload("server_discovery_versions")).json["versions"] == ["v1.1"]
    well_known = invoke(FUNCTION, payload("server_discovery_well_known"))
    assert well_known.json == {"m.homeserver": {"base_url": f"https://{API_HOST}"}}
    unknown = invoke(FUNCTION, payload("server_discovery_unknown"))
    assert (unknown.status, unknown.errcode) == (404, "M_UNRECOGNIZED")
    assert invoke(FUNCTION, payload("server_discovery_front_page")).status == 200


def test_versions_name_one_release_and_what_works_beyond_it(checked):
    answer = checked(FUNCTION, "GET", "/_matrix/client/versions")
    features = {
        "uk.tcpip.msc4133.stable",
        "org.matrix.msc2285.stable",
        "org.matrix.msc3771",
        "org.matrix.msc3440.stable",
        "org.matrix.msc3981",
        "org.matrix.msc3874",
        "uk.half-shot.msc2666.query_mutual_rooms",
        "uk.half-shot.msc2666.query_mutual_rooms.stable",
        "org.eigenserver.legacy_v1",
    }
    assert answer.json == {"versions": ["v1.1"], "unstable_features": dict.fromkeys(features, True)}
    assert answer.headers["content-type"] == "application/json"


def test_well_known_names_the_address_that_was_asked(checked):
    local = {"host": "127.0.0.1:8008", "x-forwarded-proto": "http"}
    answer = checked(FUNCTION, "GET", "/.well-known/matrix/client", headers=local)
    assert answer.json == {"m.homeserver": {"base_url": "http://127.0.0.1:8008"}}


def test_well_known_prefers_what_the_operator_set(checked, server):
    server(PUBLIC_BASE_URL="https://matrix.example.org/")
    answer = checked(FUNCTION, "GET", "/.well-known/matrix/client")
    assert answer.json == {"m.homeserver": {"base_url": "https://matrix.example.org"}}


@pytest.mark.parametrize("headers", [{"host": "a/b"}, {"host": ""}, {"x-forwarded-proto": "javascript"}])
def test_well_known_repeats_no_address_that_cannot_be_one(checked, headers):
    answer = checked(FUNCTION, "GET", "/.well-known/matrix/client", headers=headers)
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


def test_well_known_says_nothing_that_is_not_so(checked):
    answer = checked(FUNCTION, "GET", "/.well-known/matrix/support")
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


def test_other_servers_are_sent_to_the_domain_of_the_api(checked, server):
    server(API_DOMAIN="matrix.example.org", PUBLIC_BASE_URL="https://public.example.org/path")
    answer = checked(FUNCTION, "GET", "/.well-known/matrix/server")
    assert (answer.status, answer.json) == (200, {"m.server": "matrix.example.org:443"})
    server(API_DOMAIN="")
    assert checked(FUNCTION, "GET", "/.well-known/matrix/server").json == {"m.server": "public.example.org:443"}


def test_without_a_domain_other_servers_are_sent_to_the_address_that_was_asked(checked):
    assert checked(FUNCTION, "GET", "/.well-known/matrix/server").json == {"m.server": f"{API_HOST}:443"}
    local = {"host": "localhost:8448", "x-forwarded-proto": "https"}
    answer = checked(FUNCTION, "GET", "/.well-known/matrix/server", headers=local)
    assert answer.json == {"m.server": "localhost:8448"}


@pytest.mark.parametrize(
    "headers",
    [{"host": "a/b"}, {"host": "a:99999"}, {"host": ""}, {"host": "localhost:8008", "x-forwarded-proto": "http"}],
)
def test_other_servers_are_sent_nowhere_without_tls_or_an_address(checked, headers):
    answer = checked(FUNCTION, "GET", "/.well-known/matrix/server", headers=headers)
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


def test_a_server_without_federation_sends_other_servers_nowhere(checked, server):
    server(FEDERATION="off", API_DOMAIN="matrix.example.org")
    answer = checked(FUNCTION, "GET", "/.well-known/matrix/server")
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    "path",
    [
        "/_matrix/client/v3/pushrules/",
        "/_matrix/client/v3/login/",
        "/_matrix/client/v2/login",
        "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
        "/_matrix/federation/v2/version",
        "/.well-known/matrix/policy_server",
        "/favicon.ico",
        "/_matrix/client/v3/rooms/!Ac9d2vP3gB8Qy7nTzXk1LwRs5uE0iJmH4oFfCtVbN6-/presence/@a:example.org",
    ],
)
def test_an_unknown_path_is_unrecognized(call, path):
    answer = call(FUNCTION, "PUT", path, {})
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/_matrix/client/v3/login", "GET, POST"),
        ("DELETE", "/_matrix/client/r0/login", "GET, POST"),
        ("POST", "/_matrix/client/versions", "GET"),
        ("POST", "/_matrix/client/v1/register/m.login.registration_token/validity", "GET"),
        ("POST", "/_matrix/client/v3/rooms/!a:example.org/state/m.room.topic/", "GET, PUT"),
        ("POST", "/_matrix/client/v3/profile/@a:example.org", "GET"),
        ("PUT", "/_matrix/client/v3/sync", "GET"),
        ("DELETE", "/_synapse/admin/v1/register", "GET, POST"),
        ("PUT", "/", "GET"),
    ],
)
def test_a_known_path_with_another_method_says_which_ones_it_has(call, method, path, allowed):
    answer = call(FUNCTION, method, path, {})
    assert (answer.status, answer.errcode, answer.headers["allow"]) == (405, "M_UNRECOGNIZED", allowed)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/_matrix/client/v3/rooms/!a%3Fb:example.org/send/m.room.message/1"),
        ("PUT", "/_matrix/client/v3/rooms/!a%2Fb:example.org/send/m.room.message/1"),
        ("POST", "/_matrix/client/v3/user/@a%3Fb:example.org/filter"),
        ("PATCH", "/_matrix/client/v3/profile/@a%2Fb:example.org/displayname"),
    ],
)
def test_an_id_that_the_gateway_cut_is_refused_clearly(call, method, path):
    answer = call(FUNCTION, method, path, {})
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


class _Page(HTMLParser):
    """Text of a page, and everything that it would load or link to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.links, self.tags = "", [], {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = dict(attrs)
        self.links += [value for name, value in attrs if name in {"href", "src", "srcset", "action"}]

    def handle_data(self, data):
        self.text += data


def test_the_page_says_what_this_is_and_how_to_talk_to_it(call):
    set_up("example.org")
    local = {"host": "127.0.0.1:8008", "x-forwarded-proto": "http"}
    answer = call(FUNCTION, "GET", "/", headers=local)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = _Page(answer.json)
    assert "A Matrix homeserver · example.org" in page.text
    assert "curl http://127.0.0.1:8008/_matrix/client/versions" in page.text
    assert "@you:example.org" in page.text
    assert "Anybody may register" in page.text
    assert page.links == ["data:,"]  # an icon that is none: browsers do not ask for another
    assert page.tags["html"] == {"lang": "en"}
    assert {"main", "h1", "title"} <= page.tags.keys()
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_page_of_a_server_without_a_name_says_so(call):
    assert "It has no name yet" in call(FUNCTION, "GET", "/").json
    set_up("")
    assert "It has no name yet" in call(FUNCTION, "GET", "/").json


def test_the_page_repeats_no_host_that_is_none(call):
    set_up("example.org")
    page = call(FUNCTION, "GET", "/", headers={"host": "<script>alert(1)</script>"}).json
    assert "script" not in page
    assert "@you:example.org" in page


def test_a_browser_may_ask_for_the_head_of_the_page(call):
    answer = call(FUNCTION, "HEAD", "/")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_a_thread_whose_event_loop_was_taken_away_still_answers(call):
    asyncio.run(asyncio.sleep(0))
    assert call(FUNCTION, "GET", "/_matrix/client/versions").status == 200
