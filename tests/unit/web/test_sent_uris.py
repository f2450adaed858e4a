"""The address that was signed, found again from the decoded path."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.web.sent_uris import sent_uris

ROOM, EVENT, USER = "!o p/q:a.org", "$abc+d/ef", "@u'=ser!:[::1]:8448"


def go_path_escape(text: str) -> str:
    return quote(text, safe="$&+=:@")


def encode_uri_component(text: str) -> str:
    return quote(text, safe="!*'()")


def rfc_3986(text: str) -> str:
    return quote(text, safe="!$&'()*+,;=:@")


def everything(text: str) -> str:
    return quote(text, safe="")


def with_slashes(text: str) -> str:
    return quote(text, safe="/")


@pytest.mark.parametrize(
    "escape", [everything, with_slashes, go_path_escape, encode_uri_component, rfc_3986], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("last", [EVENT, USER, "$plain", "$a%2Fb", "a?b", "ä#"])
def test_the_address_is_among_the_spellings_however_servers_escape(escape, last: str) -> None:
    room = "!room:a.org"
    sent = f"/_matrix/federation/v1/make_join/{escape(room)}/{escape(last)}?ver=1&ver=2%20"
    path, _, query = sent.partition("?")
    assert sent in set(sent_uris(unquote(path), query, last if "/" in last else ""))


def test_a_path_without_special_characters_has_one_spelling() -> None:
    assert list(sent_uris("/_matrix/federation/v1/send/123", "")) == ["/_matrix/federation/v1/send/123"]
    assert list(sent_uris("/_matrix/federation/v1/send/123/", "a=b")) == ["/_matrix/federation/v1/send/123/?a=b"]


def test_a_slash_behind_an_id_with_slashes_separates() -> None:
    uris = list(sent_uris("/pdu/x/$a/b/", "", "$a/b/"))
    assert {"/pdu/x/%24a%2Fb%2F", "/pdu/x/%24a%2Fb/", "/pdu/x/%24a/b/", "/pdu/x/$a%2Fb/"} <= set(uris)


def test_the_most_likely_spelling_comes_first() -> None:
    uris = list(sent_uris("/x/!a:b/@c:d", ""))
    assert uris[0] == "/x/%21a%3Ab/%40c%3Ad"
    assert len(uris) == len(set(uris)) <= 10


paths = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(lambda text: f"/{text}")


@given(paths, st.data())
def test_every_spelling_leads_to_this_path_and_to_no_other(path: str, data: st.DataObject) -> None:
    """Else a signature for one resource could be shown for another."""
    cut = data.draw(st.integers(0, len(path)))
    for uri in sent_uris(path, "", path[cut:]):
        assert unquote(uri) == path
        assert not {"?", "#"} & set(uri)
        assert uri.isascii()


@given(paths, st.text("abc=&%?", min_size=1, max_size=10))
def test_what_stands_behind_the_first_question_mark_is_the_query(path: str, query: str) -> None:
    for uri in sent_uris(path, query):
        assert uri.split("?", 1)[1] == query


def test_a_path_that_nobody_can_have_sent_has_no_spelling() -> None:
    assert list(sent_uris("/\ud800", "")) == []
