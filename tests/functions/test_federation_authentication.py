"""Who is believed to be another server, through the whole of a function; and the question for a profile."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from starlette.requests import Request
from starlette.responses import Response

from federation_peer import KEYS, PROFILE, Peer, profile_uri
from functions.federating import LOOPBACK, signed
from functions.harness import Answer, LambdaContext, User, http_event, invoke, payload
from homeserver.matrix.canonical_json import MAX_DEPTH
from homeserver.matrix.signing import SigningKey
from homeserver.web.federation_authentication import authenticate_server
from homeserver.web.requests import json_response
from homeserver.web.routing import V1, V2, Router, lambda_handler_for

FUNCTION = "federation_query"
UNAUTHORIZED = (401, "M_UNAUTHORIZED")
OTHER_KEY = SigningKey.generate("peer", b"o" * 32)  # the ID of the peer's key, and another key


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path) as running:
        yield running


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


# ── The question for a profile ──────────────────────────────────────────────────────────────────────


def test_another_server_learns_the_profile_of_a_user(checked, peer: Peer, alice: User) -> None:
    path = f"/_matrix/client/v3/profile/{quote(alice.user_id)}/displayname"
    checked("client_user", "PUT", path, {"displayname": "Alice"}, token=alice.token)
    answer = signed(checked, peer, FUNCTION, "GET", profile_uri(alice.user_id))
    assert (answer.status, answer.json) == (200, {"displayname": "Alice"})
    one = signed(checked, peer, FUNCTION, "GET", profile_uri(alice.user_id) + "&field=displayname")
    assert one.json == {"displayname": "Alice"}
    none = signed(checked, peer, FUNCTION, "GET", profile_uri(alice.user_id) + "&field=avatar_url")
    assert (none.status, none.json) == (200, {})
    assert peer.paths() == [f"GET {KEYS}"]


def test_unknown_users_users_of_others_and_nobody_have_no_profile_here(checked, peer: Peer) -> None:
    unknown = signed(checked, peer, FUNCTION, "GET", profile_uri("@nobody:example.org"))
    assert refusal(unknown) == (404, "M_NOT_FOUND")
    foreign = signed(checked, peer, FUNCTION, "GET", profile_uri(f"@nobody:{peer.name}"))
    assert refusal(foreign) == (400, "M_INVALID_PARAM")
    assert refusal(signed(checked, peer, FUNCTION, "GET", PROFILE)) == (400, "M_MISSING_PARAM")
    assert refusal(signed(checked, peer, FUNCTION, "GET", profile_uri("x:example.org"))) == (400, "M_INVALID_PARAM")


def test_without_federation_nobody_is_answered_and_nobody_is_asked(call, peer: Peer, alice: User, server) -> None:
    server(FEDERATION="off")
    answer = signed(call, peer, FUNCTION, "GET", profile_uri(alice.user_id))
    assert refusal(answer) == (404, "M_UNRECOGNIZED")
    assert peer.asked == []


def test_the_recorded_payload_is_refused_because_its_server_is_nowhere() -> None:
    assert refusal(invoke(FUNCTION, payload("federation_query_profile"))) == UNAUTHORIZED


# ── A client that asks for the profile of a user elsewhere ──────────────────────────────────────────


def test_a_user_learns_the_profile_of_a_user_of_another_server(checked, peer: Peer, alice: User) -> None:
    bob = f"@bob/x:{peer.name}"
    peer.profiles[bob] = {"displayname": "Bob", "avatar_url": None, "org.example.mood": "calm"}
    path = f"/_matrix/client/v3/profile/{quote(bob, safe='')}"
    answer = checked("client_user", "GET", path, token=alice.token)
    assert (answer.status, answer.json) == (200, {"displayname": "Bob", "org.example.mood": "calm"})
    asked = peer.asked[-1]
    assert asked[:2] == ("GET", profile_uri(bob))
    assert f'origin="example.org",destination="{peer.name}"' in asked[2]["authorization"]
    carol = f"@carol:{peer.name}"
    peer.profiles[carol] = {"displayname": "Carol"}
    path = f"/_matrix/client/v3/profile/{quote(carol, safe='')}"
    assert checked("client_user", "GET", f"{path}/displayname", token=alice.token).json == {"displayname": "Carol"}
    assert refusal(checked("client_user", "GET", f"{path}/avatar_url", token=alice.token)) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    ("instead", "expected"),
    [
        ((404, b'{"errcode": "M_NOT_FOUND"}', {}), (404, "M_NOT_FOUND")),
        ((403, b'{"errcode": "M_FORBIDDEN"}', {}), (502, "M_UNKNOWN")),
        ((500, b"", {}), (502, "M_UNKNOWN")),
        ((200, b"[]", {}), (502, "M_UNKNOWN")),
        ((200, b"<html>", {}), (502, "M_UNKNOWN")),
    ],
)
def test_a_profile_that_the_other_server_does_not_tell_is_an_error(
    call, peer: Peer, alice: User, instead, expected
) -> None:
    peer.instead[PROFILE] = instead
    path = f"/_matrix/client/v3/profile/{quote('@bob:' + peer.name, safe='')}"
    assert refusal(call("client_user", "GET", path, token=alice.token)) == expected


def test_a_stranger_does_not_make_this_server_ask_another(checked, peer: Peer) -> None:
    path = f"/_matrix/client/v3/profile/{quote('@bob:' + peer.name, safe='')}"
    for suffix in ("", "/displayname"):
        assert refusal(checked("client_user", "GET", path + suffix)) == (404, "M_NOT_FOUND")
    assert peer.asked == []


# ── Who is believed ─────────────────────────────────────────────────────────────────────────────────


def test_a_request_without_a_signature_is_refused_before_anybody_is_asked(checked, peer: Peer, alice: User) -> None:
    for header in ({}, {"authorization": "Bearer abc"}, {"authorization": f"Bearer {alice.token}"}):
        answer = checked(FUNCTION, "GET", profile_uri(alice.user_id), headers=header)
        assert refusal(answer) == UNAUTHORIZED
    assert peer.asked == []


def test_a_request_for_another_server_is_refused(checked, peer: Peer, alice: User) -> None:
    uri = profile_uri(alice.user_id)
    assert refusal(signed(checked, peer, FUNCTION, "GET", uri, destination="other.org")) == UNAUTHORIZED
    # The same with the header changed, or without a word about the destination: it is signed.
    header = peer.header("GET", uri, "other.org")
    for changed in (header.replace("other.org", "example.org"), header.replace('destination="other.org",', "")):
        answer = checked(FUNCTION, "GET", uri, headers={"authorization": changed})
        assert refusal(answer) == UNAUTHORIZED


def test_an_old_server_need_not_name_the_destination_that_it_signed(checked, peer: Peer, alice: User) -> None:
    uri = profile_uri(alice.user_id)
    header = peer.header("GET", uri, "example.org").replace('destination="example.org",', "")
    assert checked(FUNCTION, "GET", uri, headers={"authorization": header}).status == 200


def test_a_request_in_this_servers_own_name_is_refused(checked, peer: Peer, alice: User) -> None:
    uri = profile_uri(alice.user_id)
    header = peer.header("GET", uri, "example.org").replace(peer.name, "example.org")
    assert refusal(checked(FUNCTION, "GET", uri, headers={"authorization": header})) == UNAUTHORIZED


def test_a_request_signed_by_another_key_or_for_another_server_is_refused(checked, peer: Peer, alice: User) -> None:
    uri = profile_uri(alice.user_id)
    forged = peer.header("GET", uri, "example.org", key=OTHER_KEY)
    unknown = peer.header("GET", uri, "example.org", key=SigningKey.generate("unknown", b"o" * 32))
    stolen = peer.header("GET", uri, "example.org").replace(peer.name, f"127.0.0.1:{peer.port}")
    for header in (forged, unknown, stolen):
        assert refusal(checked(FUNCTION, "GET", uri, headers={"authorization": header})) == UNAUTHORIZED


def test_one_wrong_signature_among_several_is_one_too_many(checked, peer: Peer, alice: User) -> None:
    uri = profile_uri(alice.user_id)
    right = peer.header("GET", uri, "example.org")
    unknown = peer.header("GET", uri, "example.org", key=SigningKey.generate("unknown", b"o" * 32))
    both = {"authorization": f"{right},{unknown}"}
    assert checked(FUNCTION, "GET", uri, headers=both).status == 200
    twice = {"authorization": f"{right},{peer.header('GET', uri, 'example.org', key=OTHER_KEY)}"}
    assert refusal(checked(FUNCTION, "GET", uri, headers=twice)) == UNAUTHORIZED


def test_a_signature_is_good_for_its_method_its_path_and_its_query_only(call, peer: Peer, alice: User) -> None:
    uri = profile_uri(alice.user_id)
    wrong = {
        "method": peer.header("PUT", uri, "example.org"),
        "path": peer.header("GET", uri.replace("/profile", "/directory"), "example.org"),
        "query": peer.header("GET", profile_uri("@bob:example.org"), "example.org"),
        "no query": peer.header("GET", PROFILE, "example.org"),
        "body": peer.header("GET", uri, "example.org", {}),
    }
    for what, header in wrong.items():
        assert refusal(call(FUNCTION, "GET", uri, headers={"authorization": header})) == UNAUTHORIZED, what


def test_a_server_whose_key_has_expired_is_refused(checked, peer: Peer, alice: User) -> None:
    peer.instead[KEYS] = (200, json.dumps(peer.keys(valid_until_ts=1000)).encode(), {})
    assert refusal(signed(checked, peer, FUNCTION, "GET", profile_uri(alice.user_id))) == UNAUTHORIZED


# ── Paths and bodies as API Gateway hands them over ─────────────────────────────────────────────────

router = Router(federation=True)


def told(request: Request, **parameters: str) -> Response:
    return json_response({"origin": authenticate_server(request), **parameters})


@router.get("/_matrix/federation/{version}/event/{event_id...}", V1)
def get_event(request: Request, event_id: str) -> Response:
    return told(request, event_id=event_id)


@router.put("/_matrix/federation/{version}/send_join/{room_id}/{event_id...}", V2)
def send_join(request: Request, room_id: str, event_id: str) -> Response:
    return told(request, room_id=room_id, event_id=event_id)


@pytest.fixture
def ask(peer: Peer) -> Callable[..., Answer]:
    """`ask(method, uri, body)`: a signed request of the peer; `signed_uri` and `content` are what it signed instead."""
    handler = lambda_handler_for(router)

    def request(
        method: str, uri: str, body: Any = None, *, signed_uri: str = "", content: Any = None, **change: Any
    ) -> Answer:
        signature = peer.header(method, signed_uri or uri, "example.org", content if content is not None else body)
        event = http_event(method, uri, body, headers={"authorization": signature}) | change
        answer = handler(event, LambdaContext())
        return Answer(answer["statusCode"], json.loads(answer["body"]), {})

    return request


IDS = [
    ("!room:a.org", "$event:a.org"),
    ("!r+=,;'()*&:[::1]:8448", "$Abc+d/Ef/g=="),
    ("!ä ö:a.org", "$100%25:a.org"),
]
ESCAPES = {
    "Python, quote(safe='')": lambda text: quote(text, safe=""),
    "Python, quote(): slashes stay": quote,
    "Go, url.PathEscape": lambda text: quote(text, safe="$&+=:@"),
    "JavaScript, encodeURIComponent": lambda text: quote(text, safe="!*'()"),
    "RFC 3986": lambda text: quote(text, safe="!$&'()*+,;=:@"),
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=list(ESCAPES))
@pytest.mark.parametrize(("room_id", "event_id"), IDS)
def test_a_signature_is_checked_however_its_server_escapes(
    ask, peer: Peer, escape, room_id: str, event_id: str
) -> None:
    uri = f"/_matrix/federation/v2/send_join/{escape(room_id)}/{escape(event_id)}?omit_members=true&a=%20%2f"
    answer = ask("PUT", uri, {"type": "m.room.member"})
    assert (answer.status, answer.json) == (200, {"origin": peer.name, "room_id": room_id, "event_id": event_id})


@pytest.mark.parametrize(
    ("sent", "signed_uri"),
    [
        # What the gateway decodes or cuts must not turn one resource into another.
        ("/_matrix/federation/v1/event/$a%3Fb=1", "/_matrix/federation/v1/event/$a?b=1"),
        ("/_matrix/federation/v1/event/$a%3Fb", "/_matrix/federation/v1/event/$a%3Fb"),
        ("/_matrix/federation/v1/event/$a%2525", "/_matrix/federation/v1/event/$a%25"),
        ("/_matrix/federation/v1/event/$a%23b", "/_matrix/federation/v1/event/$a#b"),
        ("/_matrix/federation/v1/event/$a", "/_matrix/federation/v1/event/$a?"),
        ("/_matrix/federation/v1/event/$a?x=1", "/_matrix/federation/v1/event/$a?x=2"),
        ("/_matrix/federation/v1/event/$a?x=%41", "/_matrix/federation/v1/event/$a?x=A"),
        ("/_matrix/federation/v1/event/$a", "/_matrix/federation/v1/event/$b"),
        ("/_matrix/federation/v1/event/$a", "/_matrix/federation/v2/event/$a"),
        ("/_matrix/federation/v1/event/$a", "/_matrix/federation/v1/event/x/../$a"),
    ],
)
def test_a_signature_for_another_address_is_refused(ask, sent: str, signed_uri: str) -> None:
    assert refusal(ask("GET", sent, signed_uri=signed_uri)) == UNAUTHORIZED


def test_a_path_that_was_not_cut_is_no_path_with_a_query(ask) -> None:
    """Should the gateway ever stop to cut: the question mark is part of the ID, and was signed as one."""
    uri, cut = "/_matrix/federation/v1/event/$a", {"rawPath": "/_matrix/federation/v1/event/$a?b=1"}
    assert refusal(ask("GET", uri, signed_uri=f"{uri}?b=1", **cut)) == UNAUTHORIZED
    assert ask("GET", uri, signed_uri=f"{uri}%3Fb=1", **cut).json["event_id"] == "$a?b=1"


PUT = "/_matrix/federation/v2/send_join/!r:a.org/$e"


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"b": {"ä": "\u2028"}, "a": [None, True, -0.5, 2**70, 1e21]},
        {"content": {"old": 1.5}, "n": 2**53},
    ],
)
def test_a_body_counts_as_the_json_it_is_however_it_is_written(ask, peer: Peer, body: Any) -> None:
    answer = ask("PUT", PUT, json.dumps(body, indent=3, ensure_ascii=True), content=lenient(body))
    assert answer.status == 200, answer.json


def lenient(body: Any) -> Any:
    return Lenient(body)


class Lenient:
    """A body that the peer signs as old room versions allow it."""

    def __init__(self, body: Any) -> None:
        self.body = body


@pytest.fixture(autouse=True)
def _peers_sign_leniently(monkeypatch: pytest.MonkeyPatch) -> None:
    import federation_peer
    from homeserver.matrix.canonical_json import encode_lenient

    def encode(value: dict[str, Any]) -> bytes:
        content = value.get("content")
        return encode_lenient({**value, "content": content.body} if isinstance(content, Lenient) else value)

    monkeypatch.setattr(federation_peer, "encode_canonical", encode)


def test_a_body_in_base64_is_the_same_body(ask) -> None:
    body = base64.b64encode(b'{"a": 1}').decode()
    assert ask("PUT", PUT, content={"a": 1}, body=body, isBase64Encoded=True).status == 200


@pytest.mark.parametrize(
    "body", ["{", "<xml/>", '{"a": NaN}', b"\xff\xfe", '{"a": "\\ud800"}', "[" * 2000 + "]" * 2000]
)
def test_a_body_that_is_no_json_is_refused_as_that(ask, body: Any) -> None:
    assert refusal(ask("PUT", PUT, body, content={})) == (400, "M_NOT_JSON")


def test_a_body_that_is_too_deep_to_be_signed_is_refused(ask) -> None:
    deep = "[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5)
    assert refusal(ask("PUT", PUT, deep, content={})) == (400, "M_BAD_JSON")


@pytest.mark.parametrize("sent", [None, {"a": 2}, {"a": 1, "b": 1}, [{"a": 1}]])
def test_another_body_than_was_signed_is_refused(ask, sent: Any) -> None:
    assert refusal(ask("PUT", PUT, sent, content={"a": 1})) == UNAUTHORIZED


def test_the_keys_of_a_server_are_not_asked_for_before_the_request_can_be_read(ask, peer: Peer) -> None:
    ask("PUT", PUT, "{", content={})
    assert peer.asked == []
