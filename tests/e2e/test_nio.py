"""A conversation by matrix-nio, a client library that real clients are built on, over HTTP."""

import asyncio
import json
from pathlib import Path

import nio

from e2e.local_run import SERVER_NAME, Server
from e2e.nio_person import CONFIG, converse, nio_user, room_of_two, say, texts, until


def test_two_people_talk_and_see_it_arrive_in_a_waiting_sync(server: Server) -> None:
    async def conversation(alice: nio.AsyncClient, bob: nio.AsyncClient) -> None:
        room_id = await room_of_two(alice, bob)
        heard: list[str] = []
        for speaker, listener in ((alice, bob), (bob, alice)):
            for number in range(3):
                await until_silent(listener)
                waiting = asyncio.create_task(listener.sync(timeout=10_000))
                await asyncio.sleep(0.15)
                assert not waiting.done(), waiting.result()
                await say(speaker, room_id, f"{speaker.user} {number}")
                heard += texts(await asyncio.wait_for(waiting, 5), room_id)
        assert heard == [f"{user.user} {number}" for user in (alice, bob) for number in range(3)]

    converse(server, conversation)


async def until_silent(client: nio.AsyncClient) -> None:
    """Sync until there is nothing to tell, so that the next one waits."""
    await until(client, lambda answer: not (answer.rooms.join or answer.rooms.invite or answer.rooms.leave), wait=100)


def test_a_redacted_message_loses_its_body_for_both(server: Server) -> None:
    async def conversation(alice: nio.AsyncClient, bob: nio.AsyncClient) -> None:
        room_id = await room_of_two(alice, bob)
        event_id = await say(alice, room_id, "never mind")
        await until(bob, lambda answer: texts(answer, room_id) == ["never mind"])
        refused = await bob.room_redact(room_id, event_id)
        assert isinstance(refused, nio.RoomRedactError)
        assert refused.status_code == "M_FORBIDDEN"
        redacted = await alice.room_redact(room_id, event_id, reason="typo")
        assert isinstance(redacted, nio.RoomRedactResponse), redacted
        told = await until(bob, lambda answer: room_id in answer.rooms.join)
        redaction = told.rooms.join[room_id].timeline.events[-1]
        assert isinstance(redaction, nio.RedactionEvent)
        assert (redaction.redacts, redaction.reason) == (event_id, "typo")
        for client in (alice, bob):
            found = await client.room_get_event(room_id, event_id)
            assert isinstance(found.event, nio.RedactedEvent)
            assert found.event.redacter == alice.user_id
            assert found.event.source["content"] == {}

    converse(server, conversation)


def test_who_is_kicked_is_told_so_and_can_be_invited_again(server: Server) -> None:
    async def conversation(alice: nio.AsyncClient, bob: nio.AsyncClient) -> None:
        room_id = await room_of_two(alice, bob)
        kicked = await alice.room_kick(room_id, bob.user_id, reason="come back soon")
        assert isinstance(kicked, nio.RoomKickResponse), kicked
        told = await until(bob, lambda answer: room_id in answer.rooms.leave)
        farewell = told.rooms.leave[room_id].timeline.events[-1]
        assert isinstance(farewell, nio.RoomMemberEvent)
        assert (farewell.membership, farewell.content["reason"]) == ("leave", "come back soon")
        refused = await bob.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": "hello?"})
        assert isinstance(refused, nio.RoomSendError)
        assert refused.status_code == "M_FORBIDDEN"
        refused = await bob.join(room_id)
        assert isinstance(refused, nio.JoinError)
        await say(alice, room_id, "quiet here")
        assert isinstance(await alice.room_invite(room_id, bob.user_id), nio.RoomInviteResponse)
        await until(bob, lambda answer: room_id in answer.rooms.invite)
        assert isinstance(await bob.join(room_id), nio.JoinResponse)
        again = await until(bob, lambda answer: room_id in answer.rooms.join)
        # The history is shared: what was said in between is told as well, and nothing for a second time.
        assert texts(again, room_id) == ["quiet here"]
        assert set(bob.rooms[room_id].users) == {alice.user_id, bob.user_id}
        await say(alice, room_id, "there you are")
        await until(bob, lambda answer: texts(answer, room_id) == ["there you are"])

    converse(server, conversation)


def test_history_is_read_across_a_limited_timeline(server: Server) -> None:
    async def conversation(alice: nio.AsyncClient, bob: nio.AsyncClient) -> None:
        room_id = await room_of_two(alice, bob)
        before = await say(bob, room_id, "before the gap")
        await until(bob, lambda answer: texts(answer, room_id) == ["before the gap"])
        for number in range(25):
            await say(alice, room_id, str(number))
        # From the same token again, until all of them have arrived: the last answer is the one with the gap.
        since = bob.next_batch
        while True:
            answer = await bob.sync(timeout=2000, since=since)
            if texts(answer, room_id)[-1:] == ["24"]:
                break
        timeline = answer.rooms.join[room_id].timeline
        assert timeline.limited
        got = [event.body for event in timeline.events]
        assert got == [str(number) for number in range(25 - len(got), 25)]
        start, older = timeline.prev_batch, []
        while True:
            page = await bob.room_messages(room_id, start, limit=6, direction=nio.MessageDirection.back)
            assert isinstance(page, nio.RoomMessagesResponse), page
            older += page.chunk
            start = page.end
            if not start:
                break
        bodies = [event.body for event in older if isinstance(event, nio.RoomMessageText)]
        assert bodies == [*(str(number) for number in range(24 - len(got), -1, -1)), "before the gap"]
        assert len({event.event_id for event in older}) == len(older)
        assert isinstance(older[-1], nio.RoomCreateEvent)
        context = await bob.room_context(room_id, before, limit=4)
        assert isinstance(context, nio.RoomContextResponse), context
        assert context.event.event_id == before
        assert [event.body for event in context.events_after] == ["0", "1"]

    converse(server, conversation)


def test_state_and_profiles_are_shown_to_the_other(server: Server) -> None:
    async def conversation(alice: nio.AsyncClient, bob: nio.AsyncClient) -> None:
        room_id = await room_of_two(alice, bob)
        assert isinstance(await alice.set_displayname("Alice A."), nio.ProfileSetDisplayNameResponse)
        avatar = f"mxc://{SERVER_NAME}/picture"
        assert isinstance(await alice.set_avatar(avatar), nio.ProfileSetAvatarResponse)
        await until(bob, lambda _: bob.rooms[room_id].user_name(alice.user_id) == "Alice A.")
        profile = await bob.get_profile(alice.user_id)
        assert (profile.displayname, profile.avatar_url) == ("Alice A.", avatar)
        renamed = await alice.room_put_state(room_id, "m.room.name", {"name": "Us"})
        assert isinstance(renamed, nio.RoomPutStateResponse), renamed
        await until(bob, lambda _: bob.rooms[room_id].name == "Us")
        found = await bob.room_get_state_event(room_id, "m.room.name")
        assert found.content == {"name": "Us"}
        state = await bob.room_get_state(room_id)
        assert isinstance(state, nio.RoomGetStateResponse), state
        assert {event["type"] for event in state.events} >= {"m.room.create", "m.room.power_levels", "m.room.topic"}
        members = await bob.joined_members(room_id)
        assert {member.user_id: member.display_name for member in members.members}[alice.user_id] == "Alice A."
        refused = await bob.room_put_state(room_id, "m.room.name", {"name": "Mine"})
        assert isinstance(refused, nio.RoomPutStateError)
        assert refused.status_code == "M_FORBIDDEN"
        rooms = await bob.joined_rooms()
        assert rooms.rooms == [room_id]

    converse(server, conversation)


def test_a_user_leaves_forgets_and_logs_out(server: Server) -> None:
    async def conversation(alice: nio.AsyncClient, bob: nio.AsyncClient) -> None:
        room_id = await room_of_two(alice, bob)
        assert isinstance(await bob.room_leave(room_id), nio.RoomLeaveResponse)
        await until(bob, lambda answer: room_id in answer.rooms.leave)
        await until(alice, lambda _: set(alice.rooms[room_id].users) == {alice.user_id})
        assert isinstance(await bob.room_forget(room_id), nio.RoomForgetResponse)
        page = await bob.room_messages(room_id, "t0_0")
        assert isinstance(page, nio.RoomMessagesError)
        assert page.status_code == "M_FORBIDDEN"
        devices = await bob.devices()
        assert sorted(device.display_name for device in devices.devices) == ["nio", "second"]
        user_id, device_id, token = bob.user_id, bob.device_id, bob.access_token
        assert isinstance(await bob.logout(), nio.LogoutResponse)
        bob.restore_login(user_id, device_id, token)
        answer = await bob.sync()
        assert isinstance(answer, nio.SyncError)
        assert answer.status_code == "M_UNKNOWN_TOKEN"

    converse(server, conversation)


def test_nio_goes_on_after_a_restart_with_its_tokens(tmp_path: Path) -> None:
    async def first(server: Server) -> tuple[dict[str, str], str]:
        async with nio_user(server, "nioa") as alice, nio_user(server, "niob") as bob:
            room_id = await room_of_two(alice, bob)
            await until_silent(bob)
            await say(alice, room_id, "see you later")
            login = {"user_id": bob.user_id, "device_id": bob.device_id, "access_token": bob.access_token}
            return login | {"since": bob.next_batch}, room_id

    async def second(server: Server, login: dict[str, str], room_id: str) -> None:
        bob = nio.AsyncClient(server.url, login["user_id"], config=CONFIG)
        try:
            since = login.pop("since")
            bob.restore_login(**login)
            answer = await bob.sync(timeout=5000, since=since)
            assert texts(answer, room_id) == ["see you later"]
            assert not answer.rooms.join[room_id].timeline.limited
        finally:
            await bob.close()

    with Server(tmp_path) as server:
        login, room_id = asyncio.run(first(server))
        assert server.stop() == 0
    with Server(tmp_path) as server:
        asyncio.run(second(server, json.loads(json.dumps(login)), room_id))
