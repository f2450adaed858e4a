"""People who use matrix-nio, a client library that real clients are built on."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nio

from e2e.client import PASSWORD
from e2e.local_run import SERVER_NAME, Server

_numbers = itertools.count(1)
CONFIG = nio.AsyncClientConfig(store_sync_tokens=False, encryption_enabled=False, max_timeouts=1)


@asynccontextmanager
async def nio_user(server: Server, name: str) -> AsyncIterator[nio.AsyncClient]:
    """A new user on the server, logged in a second time: registration and login are both nio's."""
    client = nio.AsyncClient(server.url, f"{name}{next(_numbers)}", config=CONFIG)
    try:
        registered = await client.register(client.user, PASSWORD, "nio")
        assert isinstance(registered, nio.RegisterResponse), registered
        client.access_token = client.device_id = ""
        logged_in = await client.login(PASSWORD, device_name="second")
        assert isinstance(logged_in, nio.LoginResponse), logged_in
        assert logged_in.user_id.endswith(f":{SERVER_NAME}")
        assert logged_in.device_id != registered.device_id
        yield client
    finally:
        await client.close()


async def synced(client: nio.AsyncClient, wait: int = 0) -> nio.SyncResponse:
    answer = await client.sync(timeout=wait)
    assert isinstance(answer, nio.SyncResponse), answer
    return answer


async def until(
    client: nio.AsyncClient, found: Callable[[nio.SyncResponse], bool], wait: int = 2000
) -> nio.SyncResponse:
    """Sync until an answer is what is waited for. `wait` in milliseconds."""
    for _ in range(20):
        answer = await synced(client, wait)
        if found(answer):
            return answer
    raise AssertionError(f"{client.user_id} waits in vain")


async def ask(client: nio.AsyncClient, method: str, path: str, content: Any = None) -> tuple[int, Any]:
    """An endpoint that nio has no method for, over its connection: status and body. `path` begins after `client`."""
    headers = {"Authorization": f"Bearer {client.access_token}", "Content-Type": "application/json"}
    data = None if content is None else json.dumps(content)
    answer = await client.send(method, f"/_matrix/client{path}", data, headers)
    return answer.status, await answer.json()


def texts(answer: nio.SyncResponse, room_id: str) -> list[str]:
    room = answer.rooms.join.get(room_id)
    return [event.body for event in room.timeline.events if isinstance(event, nio.RoomMessageText)] if room else []


async def say(client: nio.AsyncClient, room_id: str, body: str, **more: Any) -> str:
    """Send a text, with `more` in its content; the event's ID."""
    answer = await client.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": body, **more})
    assert isinstance(answer, nio.RoomSendResponse), answer
    event_id: str = answer.event_id
    return event_id


def converse(server: Server, conversation: Callable[[nio.AsyncClient, nio.AsyncClient], Awaitable[None]]) -> None:
    """Run what two new users do."""

    async def run() -> None:
        async with nio_user(server, "nioa") as alice, nio_user(server, "niob") as bob:
            await conversation(alice, bob)

    asyncio.run(run())


async def room_of_two(alice: nio.AsyncClient, bob: nio.AsyncClient) -> str:
    """A private room: alice invites, bob sees it in his sync and joins."""
    created = await alice.room_create(name="Two", topic="of us", invite=[bob.user_id])
    assert isinstance(created, nio.RoomCreateResponse), created
    room_id: str = created.room_id
    invited = await until(bob, lambda answer: room_id in answer.rooms.invite)
    assert invited.rooms.invite[room_id].invite_state
    assert bob.invited_rooms[room_id].name == "Two"
    assert bob.invited_rooms[room_id].inviter == alice.user_id
    joined = await bob.join(room_id)
    assert isinstance(joined, nio.JoinResponse), joined
    await until(bob, lambda answer: room_id in answer.rooms.join)
    await until(alice, lambda _: bob.user_id in alice.rooms[room_id].users)
    assert set(alice.rooms[room_id].users) == {alice.user_id, bob.user_id}
    assert alice.rooms[room_id].name == "Two"
    assert bob.rooms[room_id].topic == "of us"
    return room_id
