"""A place that wrong requests must leave as it is, and what every refusal has in common."""

import json
from typing import Any

from e2e.client import V3, Answer, segments
from e2e.local_run import SERVER_NAME, Server

# What an answer must not contain, whatever went wrong: names from inside, and places.
SECRETS = (
    "traceback",
    "homeserver.",
    ".py",
    "pynamodb",
    "botocore",
    "dynamodb",
    "orjson",
    "lambda",
    "arn:",
    "eigenserver-",
    "/home/",
    "/tmp/",
)
UNKNOWN_ROOM = f"!unknown:{SERVER_NAME}"
UNKNOWN_HASH_ROOM = "!" + "A" * 43


class Place:
    """A room with people, and everything of it that a wrong request could change."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.alice, self.bob = server.register("mallory"), server.register("victim")
        self.room_id = self.alice.create_room(name="Untouched")
        self.event_id = self.alice.send(self.room_id, "first")
        self.alice.sync()
        self.bob.sync()

    def picture(self) -> list[Any]:
        position = self.alice.ok("GET", segments("rooms", self.room_id, "messages"), query={"dir": "b", "limit": 1})
        alice, bob = self.alice.user_id, self.bob.user_id
        return [
            position["start"],
            self.alice.ok("GET", f"{V3}/joined_rooms"),
            self.bob.ok("GET", f"{V3}/joined_rooms"),
            self.alice.ok("GET", segments("profile", alice)),
            self.bob.ok("GET", segments("profile", bob)),
            self.alice.ok("GET", f"{V3}/sync", query={"filter": json.dumps({"room": {"rooms": []}})}).get(
                "account_data"
            ),
            self.bob.ok("GET", f"{V3}/sync").get("rooms"),
        ]


def refused(place: Place, answer: Answer, status: int, errcode: str, before: list[Any]) -> None:
    assert (answer.status, answer.errcode) == (status, errcode), answer
    assert isinstance(answer.json["error"], str)
    text = json.dumps(answer.json).lower() + str(dict(answer.headers)).lower()
    assert [secret for secret in SECRETS if secret in text] == []
    assert place.picture() == before
