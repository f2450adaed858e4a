"""An afternoon of people with matrix-nio: each step is asserted by what the others are told in /sync."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import nio
from nio.api import RelationshipType, ThreadInclusion
from nio.responses import PublicRoomsResponse

from e2e.client import PASSWORD
from e2e.local_run import SERVER_NAME, Server
from e2e.nio_person import ask, nio_user, room_of_two, say, synced, texts, until

Afternoon = Callable[[nio.AsyncClient, nio.AsyncClient, nio.AsyncClient], Awaitable[None]]


def spend(server: Server, afternoon: Afternoon) -> None:
    """Run what three new users do."""

    async def run() -> None:
        async with nio_user(server, "anna") as anna, nio_user(server, "ben") as ben, nio_user(server, "cleo") as cleo:
            await afternoon(anna, ben, cleo)

    asyncio.run(run())


def path(*parts: str) -> str:
    return "/v3/" + "/".join(quote(part, safe="") for part in parts)


def path_v1(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


async def ok(client: nio.AsyncClient, method: str, where: str, content: Any = None) -> Any:
    """The body of an answer that must be 200."""
    status, body = await ask(client, method, where, content)
    assert status == 200, (method, where, status, body)
    return body


async def make(client: nio.AsyncClient, **options: Any) -> str:
    """A new room; its ID."""
    created = await client.room_create(**options)
    assert isinstance(created, nio.RoomCreateResponse), created
    room_id: str = created.room_id
    return room_id


async def enter(client: nio.AsyncClient, room_id_or_alias: str) -> str:
    """Join, and sync until the room is there; its ID."""
    joined = await client.join(room_id_or_alias)
    assert isinstance(joined, nio.JoinResponse), joined
    await until(client, lambda _: joined.room_id in client.rooms)
    room_id: str = joined.room_id
    return room_id


def told(answer: nio.SyncResponse, room_id: str, kind: type) -> list[Any]:
    """The timeline's events of a kind in one answer."""
    room = answer.rooms.join.get(room_id)
    return [event for event in room.timeline.events if isinstance(event, kind)] if room else []


async def until_told(client: nio.AsyncClient, room_id: str, kind: type) -> Any:
    """The next event of a kind that a sync tells."""
    answer = await until(client, lambda answer: bool(told(answer, room_id, kind)))
    return told(answer, room_id, kind)[0]


async def place(parent: nio.AsyncClient, space_id: str, room_id: str, **content: Any) -> None:
    """Put a room into a space."""
    put = await parent.room_put_state(space_id, "m.space.child", {"via": [SERVER_NAME], **content}, room_id)
    assert isinstance(put, nio.RoomPutStateResponse), put


def rule(name: str, **content: Any) -> dict[str, Any]:
    return {"type": "m.room.join_rules", "content": {"join_rule": name, **content}}


def test_a_space_opens_the_doors_of_its_rooms(server: Server) -> None:
    async def afternoon(anna: nio.AsyncClient, ben: nio.AsyncClient, cleo: nio.AsyncClient) -> None:
        space_id = await make(anna, name="Club", space=True, preset=nio.RoomPreset.public_chat)
        allow = [{"type": "m.room_membership", "room_id": space_id}]
        board = await make(anna, name="Board", initial_state=[rule("restricted", allow=allow)])
        cellar = await make(anna, name="Cellar")
        await place(anna, space_id, board, suggested=True, order="a")
        await place(anna, space_id, cellar, order="b")

        # Who is not in the space gets into its room neither by the rule nor by luck.
        refused = await ben.join(board)
        assert isinstance(refused, nio.JoinError)
        assert refused.status_code == "M_FORBIDDEN"
        await enter(ben, space_id)
        assert ben.rooms[space_id].room_type == "m.space"
        assert ben.rooms[space_id].children == {board, cellar}
        walk = await ben.space_get_hierarchy(space_id)
        assert isinstance(walk, nio.SpaceGetHierarchyResponse), walk
        # The cellar is for those who are invited: others are not even told its name.
        assert [room["name"] for room in walk.rooms] == ["Club", "Board"]
        club, board_entry = walk.rooms
        assert (club["room_id"], club["room_type"], club["num_joined_members"]) == (space_id, "m.space", 2)
        children = {child["state_key"]: child["content"] for child in club["children_state"]}
        assert children[board] == {"via": [SERVER_NAME], "suggested": True, "order": "a"}
        assert children[cellar] == {"via": [SERVER_NAME], "order": "b"}
        assert (board_entry["join_rule"], board_entry["allowed_room_ids"]) == ("restricted", [space_id])
        whole = await anna.space_get_hierarchy(space_id)
        assert [room["name"] for room in whole.rooms] == ["Club", "Board", "Cellar"]

        await synced(anna)
        await enter(ben, board)
        joined = await until_told(anna, board, nio.RoomMemberEvent)
        assert (joined.state_key, joined.membership) == (ben.user_id, "join")
        assert joined.content["join_authorised_via_users_server"] == anna.user_id
        assert set(anna.rooms[board].users) == {anna.user_id, ben.user_id}
        assert isinstance(await cleo.join(board), nio.JoinError)

    spend(server, afternoon)


def test_a_published_room_is_found_and_who_knocks_is_let_in(server: Server) -> None:
    async def afternoon(anna: nio.AsyncClient, ben: nio.AsyncClient, cleo: nio.AsyncClient) -> None:
        alias = f"#porcelain-{anna.user.lstrip('@')}:{SERVER_NAME}"
        room_id = await make(anna, name="Porcelain painters", topic="Cups, mostly")
        assert isinstance(await anna.room_put_alias(alias, room_id), nio.RoomPutAliasResponse)
        named = await anna.room_put_state(room_id, "m.room.canonical_alias", {"alias": alias})
        assert isinstance(named, nio.RoomPutStateResponse), named
        assert isinstance(await anna.room_enable_knocking(room_id), nio.RoomPutStateResponse)
        await ok(anna, "PUT", path("directory", "list", "room", room_id), {"visibility": "public"})
        visible = await ben.room_get_visibility(room_id)
        assert isinstance(visible, nio.RoomGetVisibilityResponse), visible
        assert visible.visibility == "public"
        for _ in range(50):
            found = await ben.list_public_rooms(filter_generic_search_term="porcelain")
            assert isinstance(found, PublicRoomsResponse), found
            if found.public_rooms and found.public_rooms[0].join_rule == "knock":
                break
            await asyncio.sleep(0.1)
        assert [room.room_id for room in found.public_rooms] == [room_id]
        entry = found.public_rooms[0]
        assert (entry.name, entry.topic, entry.canonical_alias) == ("Porcelain painters", "Cups, mostly", alias)
        assert (entry.num_joined_members, entry.join_rule) == (1, "knock")
        summary = await ok(ben, "GET", path_v1("room_summary", alias))
        assert (summary["room_id"], summary["name"], summary["membership"]) == (room_id, "Porcelain painters", "leave")

        await synced(anna)
        assert isinstance(await ben.join(room_id), nio.JoinError)
        knocked = await ben.room_knock(alias, reason="I brought cups")
        assert isinstance(knocked, nio.RoomKnockResponse), knocked
        assert knocked.room_id == room_id
        knock = await until_told(anna, room_id, nio.RoomMemberEvent)
        assert (knock.state_key, knock.membership) == (ben.user_id, "knock")
        assert knock.content["reason"] == "I brought cups"
        state = await until_knock_is_shown(ben, room_id)
        assert state["m.room.name", ""]["name"] == "Porcelain painters"
        assert state["m.room.member", ben.user_id]["membership"] == "knock"
        # He does not see more than that before he is let in.
        assert isinstance(await ben.room_messages(room_id, ""), nio.RoomMessagesError)
        assert isinstance(await anna.room_invite(room_id, ben.user_id), nio.RoomInviteResponse)
        await until(ben, lambda answer: room_id in answer.rooms.invite)
        assert ben.invited_rooms[room_id].inviter == anna.user_id
        await enter(ben, room_id)
        joined = await until(anna, lambda _: ben.user_id in anna.rooms[room_id].users)
        assert told(joined, room_id, nio.RoomMemberEvent)[-1].membership == "join"

        # Cleo knocks, thinks better of it, and knocks again; this time Anna shakes her head.
        for reason in ("hello?", "again"):
            assert isinstance(await cleo.room_knock(room_id, reason=reason), nio.RoomKnockResponse)
            await until_knock_is_shown(cleo, room_id)
            await synced(cleo)
            if reason == "hello?":
                assert isinstance(await cleo.room_leave(room_id), nio.RoomLeaveResponse)
        assert isinstance(await anna.room_kick(room_id, cleo.user_id, reason="full"), nio.RoomKickResponse)
        left = await until(cleo, lambda answer: room_id in answer.rooms.leave)
        refusal = [
            event for event in left.rooms.leave[room_id].timeline.events if isinstance(event, nio.RoomMemberEvent)
        ]
        assert (refusal[-1].sender, refusal[-1].membership) == (anna.user_id, "leave")

    spend(server, afternoon)


async def until_knock_is_shown(client: nio.AsyncClient, room_id: str) -> dict[tuple[str, str], Any]:
    """The stripped state of a room that the user knocks on. nio does not look at that part of a sync."""
    for _ in range(50):
        body = await ok(client, "GET", "/v3/sync")
        knocks = body.get("rooms", {}).get("knock", {})
        if room_id in knocks:
            events = knocks[room_id]["knock_state"]["events"]
            return {(event["type"], event["state_key"]): event["content"] for event in events}
        await asyncio.sleep(0.1)
    raise AssertionError(f"{client.user_id} knocks in vain")


def relating(rel_type: str, event_id: str, **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id, **more}}


def test_threads_edits_and_reactions_reach_the_others(server: Server) -> None:
    async def afternoon(anna: nio.AsyncClient, ben: nio.AsyncClient, cleo: nio.AsyncClient) -> None:
        room_id = await room_of_two(anna, ben)
        root = await say(anna, room_id, "Who brings cake?")
        await say(anna, room_id, "unrelated")
        replies = [
            await say(who, room_id, body, **relating("m.thread", root, is_falling_back=True))
            for who, body in ((ben, "I do"), (anna, "which one?"), (ben, "plum"))
        ]
        answer = await until(ben, lambda answer: "plum" in texts(answer, room_id))
        last = told(answer, room_id, nio.RoomMessageText)[-1]
        assert last.source["content"]["m.relates_to"] == {
            "rel_type": "m.thread",
            "event_id": root,
            "is_falling_back": True,
        }
        # The root says how long the thread is, and what was said last.
        found = await ben.room_get_event(room_id, root)
        assert isinstance(found, nio.RoomGetEventResponse), found
        summary = found.event.source["unsigned"]["m.relations"]["m.thread"]
        assert (summary["count"], summary["current_user_participated"]) == (3, True)
        assert summary["latest_event"]["event_id"] == replies[-1]
        children = [event async for event in ben.room_get_event_relations(room_id, root, RelationshipType.thread)]
        assert [event.event_id for event in children] == replies[::-1]
        forward = [
            event.body
            async for event in ben.room_get_event_relations(
                room_id,
                root,
                RelationshipType.thread,
                "m.room.message",
                direction=nio.MessageDirection.front,
                limit=2,
            )
        ]
        assert forward == ["I do", "which one?", "plum"]
        other = await say(ben, room_id, "And coffee?")
        await say(ben, room_id, "I", **relating("m.thread", other))
        every = [event.event_id async for event in anna.room_get_threads(room_id)]
        assert every == [other, root]
        mine = [event.event_id async for event in anna.room_get_threads(room_id, ThreadInclusion.participated)]
        assert mine == [root]

        # An edit: the other is told the new text, and who asks for the message gets both.
        new = {"msgtype": "m.text", "body": "Who brings two cakes?"}
        edit = await say(
            anna, room_id, "* Who brings two cakes?", **{"m.new_content": new}, **relating("m.replace", root)
        )
        answer = await until(ben, lambda answer: "* Who brings two cakes?" in texts(answer, room_id))
        assert told(answer, room_id, nio.RoomMessageText)[-1].source["content"]["m.new_content"] == new
        source = (await ben.room_get_event(room_id, root)).event.source
        assert source["content"]["body"] == "Who brings cake?"
        assert source["unsigned"]["m.relations"]["m.replace"]["event_id"] == edit
        assert source["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"] == new

        # A reaction, and its end: a redacted reaction is none.
        sent = await ben.room_send(room_id, "m.reaction", relating("m.annotation", replies[0], key="\N{SHORTCAKE}"))
        assert isinstance(sent, nio.RoomSendResponse), sent
        reaction = await until_told(anna, room_id, nio.ReactionEvent)
        assert (reaction.sender, reaction.reacts_to, reaction.key) == (ben.user_id, replies[0], "\N{SHORTCAKE}")
        assert [e.event_id async for e in anna.room_get_event_relations(room_id, replies[0])] == [sent.event_id]
        twice = await ben.room_send(room_id, "m.reaction", relating("m.annotation", replies[0], key="\N{SHORTCAKE}"))
        assert isinstance(twice, nio.RoomSendError)
        assert twice.status_code == "M_DUPLICATE_ANNOTATION"
        assert isinstance(await ben.room_redact(room_id, sent.event_id), nio.RoomRedactResponse)
        redaction = await until_told(anna, room_id, nio.RedactionEvent)
        assert redaction.redacts == sent.event_id
        assert [e.event_id async for e in anna.room_get_event_relations(room_id, replies[0])] == []

        # Whoever comes later is told threads and edits with the messages.
        assert isinstance(await anna.room_invite(room_id, cleo.user_id), nio.RoomInviteResponse)
        await until(cleo, lambda answer: room_id in answer.rooms.invite)
        assert isinstance(await cleo.join(room_id), nio.JoinResponse)
        await until(cleo, lambda answer: room_id in answer.rooms.join)
        page = await cleo.room_messages(room_id, "", limit=50)
        assert isinstance(page, nio.RoomMessagesResponse), page
        shown = next(event for event in page.chunk if event.event_id == root)
        assert shown.source["unsigned"]["m.relations"]["m.replace"]["event_id"] == edit
        thread = shown.source["unsigned"]["m.relations"]["m.thread"]
        assert (thread["count"], thread["current_user_participated"]) == (3, False)

    spend(server, afternoon)


def test_receipts_markers_and_typing_are_seen_by_the_other(server: Server) -> None:
    async def afternoon(anna: nio.AsyncClient, ben: nio.AsyncClient, cleo: nio.AsyncClient) -> None:
        room_id = await room_of_two(anna, ben)
        root, reply = await say(anna, room_id, "root"), ""
        reply = await say(anna, room_id, "reply", **relating("m.thread", root))
        await until(ben, lambda answer: "reply" in texts(answer, room_id))
        assert isinstance(await ben.update_receipt_marker(room_id, root), nio.UpdateReceiptMarkerResponse)
        assert isinstance(
            await ben.update_receipt_marker(room_id, reply, thread_id=root), nio.UpdateReceiptMarkerResponse
        )
        await until(anna, lambda _: len(anna.rooms[room_id].threaded_read_receipts.get(ben.user_id, {})) == 2)
        by_thread = anna.rooms[room_id].threaded_read_receipts[ben.user_id]
        assert {thread: receipt.event_id for thread, receipt in by_thread.items()} == {"main": root, root: reply}

        # Read markers: the receipt is for all, the fully-read marker and the private receipt are for Ben's devices.
        last = await say(anna, room_id, "last")
        await until(ben, lambda answer: "last" in texts(answer, room_id))
        phone = nio.AsyncClient(server.url, ben.user_id)
        try:
            assert isinstance(await phone.login(PASSWORD), nio.LoginResponse)
            await synced(phone)
            marked = await ben.room_read_markers(room_id, fully_read_event=last, read_event=last)
            assert isinstance(marked, nio.RoomReadMarkersResponse), marked
            await until(anna, lambda _: ben.user_id in anna.rooms[room_id].read_receipts)
            assert anna.rooms[room_id].read_receipts[ben.user_id].event_id == last
            assert anna.rooms[room_id].read_receipts[ben.user_id].receipt_type == "m.read"
            await until(phone, lambda _: phone.rooms[room_id].fully_read_marker == last)
            assert anna.rooms[room_id].fully_read_marker is None
            secret = await say(anna, room_id, "secret")
            read_privately = await ben.room_read_markers(room_id, secret, private_read_event=secret)
            assert isinstance(read_privately, nio.RoomReadMarkersResponse), read_privately
            answer = await until(
                phone, lambda _: phone.rooms[room_id].read_receipts[ben.user_id].receipt_type == "m.read.private"
            )
            assert phone.rooms[room_id].read_receipts[ben.user_id].event_id == secret
        finally:
            await phone.close()

        # Typing begins, and ends: by saying so, and by itself.
        waiting = asyncio.create_task(until(anna, lambda _: anna.rooms[room_id].typing_users == [ben.user_id]))
        assert isinstance(await ben.room_typing(room_id, True, timeout=20_000), nio.RoomTypingResponse)
        answer = await asyncio.wait_for(waiting, 10)
        assert [event.users for event in answer.rooms.join[room_id].ephemeral] == [[ben.user_id]]
        assert isinstance(await ben.room_typing(room_id, False), nio.RoomTypingResponse)
        await until(anna, lambda _: anna.rooms[room_id].typing_users == [])
        assert isinstance(await ben.room_typing(room_id, True, timeout=1_000), nio.RoomTypingResponse)
        await until(anna, lambda _: anna.rooms[room_id].typing_users == [ben.user_id])
        await until(anna, lambda _: anna.rooms[room_id].typing_users == [])
        # The private receipt was never anything to Anna.
        assert anna.rooms[room_id].read_receipts[ben.user_id].event_id == last

    spend(server, afternoon)


def test_tags_direct_chats_and_searches_find_what_one_looks_for(server: Server) -> None:
    async def afternoon(anna: nio.AsyncClient, ben: nio.AsyncClient, cleo: nio.AsyncClient) -> None:
        room_id = await room_of_two(anna, ben)
        tag = path("user", ben.user_id, "rooms", room_id, "tags", "m.favourite")
        await ok(ben, "PUT", tag, {"order": 0.25})
        await until(ben, lambda _: ben.rooms[room_id].tags == {"m.favourite": {"order": 0.25}})
        await ok(ben, "DELETE", tag)
        await until(ben, lambda _: ben.rooms[room_id].tags == {})
        await ok(ben, "PUT", path("user", ben.user_id, "account_data", "m.direct"), {anna.user_id: [room_id]})
        direct = await ben.list_direct_rooms()
        assert isinstance(direct, nio.DirectRoomsResponse), direct
        assert direct.rooms == {anna.user_id: [room_id]}

        said = [await say(anna, room_id, body) for body in ("A zither for sale", "nothing", "The zither is sold")]
        elsewhere = await make(anna, name="Alone")
        await say(anna, elsewhere, "my zither diary")
        criteria = {"search_term": "zither", "order_by": "recent", "event_context": {"before_limit": 1}}
        found = (await ok(ben, "POST", "/v3/search", {"search_categories": {"room_events": criteria}}))[
            "search_categories"
        ]["room_events"]
        assert [result["result"]["event_id"] for result in found["results"]] == [said[2], said[0]]
        assert found["count"] == 2
        assert [event["event_id"] for event in found["results"][0]["context"]["events_before"]] == [said[1]]
        await anna.room_redact(room_id, said[0])
        found = (await ok(ben, "POST", "/v3/search", {"search_categories": {"room_events": criteria}}))[
            "search_categories"
        ]["room_events"]
        assert [result["result"]["event_id"] for result in found["results"]] == [said[2]]

        name = f"Xylophone{ben.user.lstrip('@')}"
        assert isinstance(await ben.set_displayname(f"Ben {name}"), nio.ProfileSetDisplayNameResponse)
        await until(anna, lambda _: anna.rooms[room_id].user_name(ben.user_id) == f"Ben {name}")
        people: dict[str, Any] = {}
        for _ in range(50):
            people = await ok(anna, "POST", "/v3/user_directory/search", {"search_term": name.lower()})
            if people["results"]:
                break
            await asyncio.sleep(0.1)
        assert people == {"limited": False, "results": [{"user_id": ben.user_id, "display_name": f"Ben {name}"}]}
        # Cleo shares no room with him, and he is in none that is open.
        hidden = await ok(cleo, "POST", "/v3/user_directory/search", {"search_term": name.lower()})
        assert hidden["results"] == []

    spend(server, afternoon)


def test_an_upgraded_room_is_followed_and_the_old_one_forgotten(server: Server) -> None:
    async def afternoon(anna: nio.AsyncClient, ben: nio.AsyncClient, cleo: nio.AsyncClient) -> None:
        alias = f"house-{anna.user.lstrip('@')}"
        old = await make(
            anna, name="House", topic="of cards", alias=alias, room_version="10", preset=nio.RoomPreset.public_chat
        )
        await enter(ben, f"#{alias}:{SERVER_NAME}")
        await ok(ben, "PUT", path("user", ben.user_id, "rooms", old, "tags", "u.cards"), {"order": 0.5})
        await until(ben, lambda _: ben.rooms[old].tags == {"u.cards": {"order": 0.5}})
        assert ben.rooms[old].room_version == "10"
        refused, _ = await ask(ben, "POST", path("rooms", old, "upgrade"), {"new_version": "12"})
        assert refused == 403
        new = (await ok(anna, "POST", path("rooms", old, "upgrade"), {"new_version": "12"}))["replacement_room"]
        tombstone = await until_told(ben, old, nio.RoomUpgradeEvent)
        assert (tombstone.sender, tombstone.replacement_room) == (anna.user_id, new)
        assert ben.rooms[old].replacement_room == new
        closed = await ben.room_send(old, "m.room.message", {"msgtype": "m.text", "body": "still here"})
        assert isinstance(closed, nio.RoomSendError)
        assert closed.status_code == "M_FORBIDDEN"

        await enter(ben, new)
        room = ben.rooms[new]
        assert (room.name, room.topic, room.room_version) == ("House", "of cards", "12")
        created = await ben.room_get_state_event(new, "m.room.create")
        assert created.content["predecessor"]["room_id"] == old
        moved = await ben.room_resolve_alias(f"#{alias}:{SERVER_NAME}")
        assert isinstance(moved, nio.RoomResolveAliasResponse), moved
        assert moved.room_id == new
        await until(ben, lambda _: ben.rooms[new].tags == {"u.cards": {"order": 0.5}})
        await say(anna, new, "new walls")
        await until(ben, lambda answer: texts(answer, new) == ["new walls"])

        assert isinstance(await ben.room_leave(old), nio.RoomLeaveResponse)
        await until(ben, lambda answer: old in answer.rooms.leave)
        await until(anna, lambda _: ben.user_id not in anna.rooms[old].users)
        assert "leave" not in (await ok(ben, "GET", "/v3/sync"))["rooms"]
        assert isinstance(await ben.room_forget(old), nio.RoomForgetResponse)
        gone = await ben.room_messages(old, "")
        assert isinstance(gone, nio.RoomMessagesError)
        assert gone.status_code == "M_FORBIDDEN"
        left_rooms = quote('{"room":{"include_leave":true}}')
        for where in ("/v3/sync", f"/v3/sync?filter={left_rooms}"):
            rooms = (await ok(ben, "GET", where))["rooms"]
            assert (set(rooms["join"]), rooms.get("leave", {})) == ({new}, {})

    spend(server, afternoon)
