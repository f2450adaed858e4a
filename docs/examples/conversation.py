"""A conversation of two people through matrix-nio: python docs/examples/conversation.py http://127.0.0.1:8008"""
# ruff: noqa: T201, INP001 - a script for a person to read and run

import asyncio
import secrets
import sys

from nio import AsyncClient, MatrixRoom, RoomMessageText


async def main(homeserver: str) -> None:
    alice, bob = AsyncClient(homeserver), AsyncClient(homeserver)
    heard = asyncio.Event()

    async def on_message(room: MatrixRoom, event: RoomMessageText) -> None:
        print(f"{room.display_name}: {event.sender} says {event.body!r}")
        heard.set()

    try:
        for client, name in ((alice, "alice"), (bob, "bob")):
            answer = await client.register(f"{name}-{secrets.token_hex(3)}", secrets.token_hex(16))
            print("registered", answer.user_id)
        room_id = (await alice.room_create(name="Tea", invite=[bob.user_id])).room_id
        await bob.join(room_id)
        await bob.sync(full_state=True)  # what there is so far
        bob.add_event_callback(on_message, RoomMessageText)
        waiting = asyncio.create_task(bob.sync_forever(timeout=20_000))  # from now on Bob waits for news
        text = {"msgtype": "m.text", "body": "Is there tea?"}
        await alice.room_send(room_id, "m.room.message", text)
        await asyncio.wait_for(heard.wait(), timeout=20)
        waiting.cancel()
    finally:
        await alice.close()
        await bob.close()


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8008"))
