"""Making rooms and being in them."""

from functions.harness import User

V3 = "/_matrix/client/v3"


def test_a_room_is_made_and_a_message_sent(call, alice: User) -> None:
    answer = call("client_rooms", "POST", f"{V3}/createRoom", {"name": "Tea"}, token=alice.token)
    assert (answer.status, list(answer.json)) == (200, ["room_id"]), answer
    room_id = answer.json["room_id"]
    assert room_id.startswith("!")
    sent = call(
        "client_events", "PUT", f"{V3}/rooms/{room_id}/send/m.room.message/t1", {"body": "hi"}, token=alice.token
    )
    assert sent.status == 200, sent
    again = call(
        "client_events", "PUT", f"{V3}/rooms/{room_id}/send/m.room.message/t1", {"body": "hi"}, token=alice.token
    )
    assert again.json == sent.json
