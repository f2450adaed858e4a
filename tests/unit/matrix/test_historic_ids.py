"""Names from 2014 and soon after, as other servers still have them: each is read as what it is."""

import pytest

from homeserver.matrix.identifiers import (
    domain_of,
    is_event_id,
    is_new_user_id,
    is_room_alias,
    is_room_id,
    is_user_id,
    localpart_of,
)


@pytest.mark.parametrize(
    "user_id", ["@Dave:peer.test", "@dave smith:peer.test", "@éric!:peer.test:8448", "@:peer.test"]
)
def test_a_user_of_those_days_is_a_user_but_no_name_for_a_new_one(user_id: str) -> None:
    assert is_user_id(user_id)
    assert not is_new_user_id(user_id)
    assert domain_of(user_id).startswith("peer.test")


@pytest.mark.parametrize(
    ("identifier", "check"),
    [
        ("!QtykxKocfZaZOUrTwp:peer.test", is_room_id),
        ("!opaque/with slash:peer.test", is_room_id),
        ("$1410949336123qXvLm:peer.test", is_event_id),
        ("#The_Pub:peer.test", is_room_alias),
        ("#café:peer.test:8448", is_room_alias),
    ],
)
def test_rooms_events_and_aliases_of_those_days_are_known_by_their_form(identifier: str, check) -> None:
    assert check(identifier)
    assert identifier[1:] == f"{localpart_of(identifier)}:{domain_of(identifier)}"


def test_an_event_of_before_it_had_a_sigil_is_none() -> None:
    assert not is_event_id("1410949336123qXvLm@peer.test")
