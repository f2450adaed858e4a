"""Every function asks AWS for what its policy allows, and its policy allows nothing that it never asks for.

A conversation that touches every endpoint runs on a server that records each function's API actions and resources
(`RECORD_PERMISSIONS=1`); the record is held against the policies in template.yaml.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from e2e import asked_by_servers
from e2e.asked_by_servers import be_asked
from e2e.client import V3, at_once, segments
from e2e.conversation import (
    SECRET,
    TOKEN,
    Witness,
    come_and_go,
    come_in_otherwise,
    confirmed,
    discover,
    find,
    keep_account,
    keep_data,
    keep_order,
    live_in_rooms,
    read_along,
    send_notice,
    talk,
    with_token,
)
from e2e.draft_conversation import read_as_in_2014
from e2e.draft_writing import type_in_a_crowd_as_in_2014, write_as_in_2014, write_elsewhere_as_in_2014
from e2e.elsewhere import go_elsewhere, knock_once_more
from e2e.late_rows import live_with_late_rows
from e2e.let_in import be_invited, guest_of, let_in
from e2e.local_run import SERVER_NAME, Server
from e2e.reading_servers import be_read
from e2e.remember_elsewhere import remember_elsewhere
from e2e.sent_by_servers import be_sent, crowded, full_device_box, old_gap, old_receipt
from e2e.sent_to_servers import live_with_a_server_that_does_not_answer
from e2e.told_by_servers import be_told
from e2e.used_logins import live_with_logins
from e2e.used_pages import live_with_pages
from federation_peer import Peer
from functions.handshakes import InvitedServer
from functions.remote_server import KEY
from homeserver.matrix.access_token import token_hash
from homeserver.matrix.sync_token import SyncToken
from homeserver.web.known_endpoints import known_endpoints
from infrastructure.templates import FUNCTIONS, as_list

Pair = tuple[str, str]  # (action, resource): dynamodb:GetItem, RoomsTable
OLD_SLOTS, OLD_POSITION = range(64, 640), 1 << 30  # rooms that a user has been in
MOST_INVITES = 200  # as homeserver.storage.invites has it, whose import would need a server's environment


def record(folder: Path) -> dict[str, set[Pair]]:
    """What each function asked for on a stopped server, by the function's folder."""
    found = orjson.loads((folder / "permissions.json").read_bytes())
    by_name = {f"eigenserver-{function.logical_id}": folder for folder, function in FUNCTIONS.items()}
    return {by_name[name]: {(action, short(resource)) for action, resource in pairs} for name, pairs in found.items()}


def short(resource: str) -> str:
    """The part of an ARN or name that tells resources apart."""
    name = re.sub(r"^arn:aws:[a-z]+:[^:]*:\d*:(table/|function:|parameter(?=/))?", "", resource)
    name = re.sub(r"/stream/.*", "/stream", name)
    return name.removeprefix("eigenserver-").removeprefix("DataStack-").removeprefix("QueuesStack-")


def allowed(folder: str) -> set[Pair]:
    return {
        (action, short(resource))
        for statement in FUNCTIONS[folder].statements
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    }


class ColdServer(Server):
    """A local run whose functions remember nothing from call to call."""

    module = "e2e.cold_functions"


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Pair]]:
    """What each function asked for, in all of the conversation."""
    folder = tmp_path_factory.mktemp("recorded")
    settings = {"RATE_LIMITS": "on", "REGISTRATION": "token", "REGISTRATION_TOKEN": TOKEN, "RECORD_PERMISSIONS": "1"}
    settings |= {"GUEST_ACCOUNTS": "on", "SERVER_NOTICES_LOCALPART": "server"} | asked_by_servers.SETTINGS
    settings["LEGACY_SEED_VIEWS"] = "on"
    with ColdServer(folder, REGISTRATION_SHARED_SECRET=SECRET, **settings) as server, Witness(server.url) as nobody:
        discover(nobody, server)
        alice, bob, carol = come_and_go(nobody, server)
        with alice, bob, carol:
            room_id = live_in_rooms(alice, bob, carol)
            come_in_otherwise(alice, bob, carol, server)
            keep_account(alice, server)
            keep_data(alice, room_id)
            find(alice, bob, nobody)
            talk(alice, bob, room_id)
            read_along(alice, bob, carol)
            read_as_in_2014(alice, bob, nobody)
            write_as_in_2014(alice, bob, carol)
            keep_order(alice, bob, server)
            go_elsewhere(alice, bob, carol, nobody, folder)
            write_elsewhere_as_in_2014(alice, bob, nobody, folder)
            be_told(alice, folder)
            remember_elsewhere(alice, bob, nobody, folder)
            with Peer(folder / "peer") as peer:
                be_asked(nobody, alice, peer)
            with InvitedServer(folder / "guests", key=KEY) as guests:
                let_in(alice, bob, nobody, guests)
                be_read(alice, nobody, guests)
            confirmed(carol, "POST", f"{V3}/account/deactivate", {"erase": True})
        assert server.stop() == 0
        assert "Traceback" not in server.log, server.log
    found = record(folder)
    others = (
        *live_with_late_rows(folder, record),
        *live_with_a_server_that_does_not_answer(folder, ColdServer, record),
        *live_with_pages(folder / "pages", ColdServer, record),
        *live_with_logins(folder / "logins", ColdServer, record, rewrite),
    )
    for pairs in (crowded_room(folder), repaired(folder), another_room(folder), *others):
        for function, more in pairs.items():
            found.setdefault(function, set()).update(more)
    return found


def another_room(folder: Path) -> dict[str, set[Pair]]:
    """A function that remembers the rooms of a user meets one that is new to it."""
    with Server(folder, REGISTRATION="open", RECORD_PERMISSIONS="1") as server:
        user = server.register("settled")
        for _ in range(2):
            room_id = user.create_room()
            user.sync_until(lambda room_id=room_id: room_id in user.seen)
        assert server.stop() == 0
    return record(folder)


def crowded_room(folder: Path) -> dict[str, set[Pair]]:
    """More than fifty local members: the follower hands parts to the queue."""
    with ColdServer(folder, REGISTRATION="open", RECORD_PERMISSIONS="1") as server:
        owner = server.register("owner")
        room_id = owner.create_room(preset="public_chat")

        def enter(name: str) -> None:
            server.register(name).join(room_id)

        for start in range(0, 54, 9):
            at_once(*(partial(enter, f"guest{start + number}") for number in range(9)))
        server.register("popular")
        owner.invite(room_id, f"@popular:{SERVER_NAME}")
        event_id = owner.send(room_id, "welcome")
        owner.sync_until(lambda: owner.bodies(room_id) == ["welcome"])
        bob = server.client().log_in("bob")
        for notices in bob.sync()["rooms"]["invite"]:  # here they can be refused
            assert bob.act(notices, "leave").status == 200
        owner.ok("POST", segments("rooms", room_id, "receipt", "m.read", event_id), {})
        type_in_a_crowd_as_in_2014(owner, room_id)
        assert server.stop() == 0
    return record(folder)


def repaired(folder: Path) -> dict[str, set[Pair]]:
    """What takes long to come about, written into the store by hand; the start's sweep finds every room behind."""
    rewrite(folder, "Rooms", without_cursors_and_with_old_previews)
    stored = {"k": {"S": f"regtoken/{token_hash('stored')}"}, "completed": {"N": "0"}}
    rewrite(folder, "Server", lambda items: [*items, stored])
    rewrite(folder, "Inbox", inbox_of_a_busy_server)
    sending, newcomer = InvitedServer(folder / "sending", key=KEY), Peer(folder / "newcomer")
    rewrite(folder, "ToDevice", lambda items: [*items, *full_device_box(f"@owner:{SERVER_NAME}")])
    rewrite(folder, "Received", lambda items: [*items, old_gap(sending.name)])
    rewrite(folder, "Staging", lambda items: [*items, old_receipt()])
    settings = {"REGISTRATION": "token", "RATE_LIMITS": "on", "SERVER_NOTICES_LOCALPART": "server"}
    settings |= asked_by_servers.SETTINGS
    with ColdServer(folder, RECORD_PERMISSIONS="1", **settings) as server:
        owner = server.client().log_in("owner")
        late = with_token(server.client(), "late", "stored")
        with InvitedServer(folder / "inviting", key=KEY) as inviting:
            be_invited(f"@popular:{SERVER_NAME}", guest_of(server.client(), inviting))
        knock_once_more(server.client().log_in("popular"), server.client(), folder)
        with sending, newcomer:
            be_sent(owner, crowded(owner), server.client(), sending, newcomer)
        owner.create_room(invite=[f"@popular:{SERVER_NAME}"])
        owner.sync()
        assert owner.since is not None
        token = SyncToken.decode(owner.since, user_id=owner.user_id)
        long = replace(token, positions=token.positions | dict.fromkeys(OLD_SLOTS, OLD_POSITION))
        lost = replace(token, base=7)
        # More positions than one token holds, and a base that is not there any more.
        for claimed, timeout in ((long, 0), (lost, 300)):
            owner.ok("GET", f"{V3}/sync", query={"since": claimed.encode(), "timeout": timeout})
        late.sync()
        late.sync(timeout=0.2)
        send_notice(server.client().log_in("root"), f"@bob:{SERVER_NAME}")  # who is invited again
        assert server.stop() == 0
        assert server.lagging_rooms() == []
        assert "Traceback" not in server.log, server.log
    return record(folder)


def without_cursors_and_with_old_previews(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """No room was ever followed; of the published ones one is not in the directory yet, others had more members."""
    kept = [item for item in items if item["k"]["S"] != "cursor/inbox"]
    for number, preview in enumerate(item for item in kept if item["k"]["S"] == "preview" and "ls" in item):
        if number == 0:
            del preview["ls"]
        else:
            preview["ls"] = preview["jn"] = {"N": "50"}
    return kept


def inbox_of_a_busy_server(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A user with as many ended invitations as there can be; one with many rooms, the first of which is a large one."""
    popular, owner = ({"S": f"@{name}:{SERVER_NAME}"} for name in ("popular", "owner"))
    kept = [item for item in items if item["user"] != popular or not item["k"]["S"].startswith("v/")]
    for item in kept:
        if item["user"] == owner and item["k"]["S"] == "i00":
            item["h0"] = {"N": "1"}
    old = {"user": popular, "p": {"N": "1"}, "m": {"S": "leave"}, "j": {"B": base64.b64encode(b"[]").decode()}}
    shards: dict[int, dict[str, Any]] = {}
    for slot in OLD_SLOTS:
        shard = shards.setdefault(slot // 64, {"user": owner, "k": {"S": f"i{slot // 64:02d}"}})
        shard[str(slot % 64)] = {"N": str(OLD_POSITION * 100_000)}
    kept += shards.values()
    return [*kept, *(old | {"k": {"S": f"v/!old{n}:e2e.test"}, "n": {"N": str(n)}} for n in range(1, MOST_INVITES + 1))]


def rewrite(folder: Path, table: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the items of a table in the snapshot of a stopped server."""
    store = folder / "store"
    files = orjson.loads((store / "manifest.json").read_bytes())["tables"]
    path = store / next(file for name, file in files.items() if name.endswith(f"{table}Table"))
    items = [item for line in path.read_bytes().splitlines() for item in orjson.loads(line)]
    path.write_bytes(orjson.dumps(change(items)) + b"\n")


# ── What it shows ───────────────────────────────────────────────────────────────────────────────────


def test_the_conversation_touches_every_endpoint(called: dict[str, set[Pair]]) -> None:
    """Only then does a right that was not used mean a right that is not needed."""
    untouched = []
    for path, methods in known_endpoints().items():
        if path.startswith(("/_matrix/client/r0", "/matrix/client", "/.well-known/matrix/s")):
            continue
        if "/msisdn/" in path:
            continue  # these only ever say that there are no phone numbers here
        parts = re.split(r"(\{[a-z_]+(?:\.\.\.)?\})", path)
        pattern = "".join(re.escape(p) if p[:1] != "{" else (".*" if "..." in p else "[^/]+") for p in parts)
        untouched += [
            f"{method} {path}"
            for method in methods
            if not any(m == method and re.fullmatch(pattern, p) for m, p in Witness.answered)
        ]
    assert untouched == []
    assert set(called) == set(FUNCTIONS)


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_a_function_asks_only_for_what_its_policy_allows(called: dict[str, set[Pair]], folder: str) -> None:
    assert sorted(called[folder] - allowed(folder)) == []


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_a_policy_allows_only_what_its_function_asks_for(called: dict[str, set[Pair]], folder: str) -> None:
    assert sorted(allowed(folder) - called[folder]) == []


def test_a_function_is_told_where_to_find_what_it_asks_for(called: dict[str, set[Pair]]) -> None:
    """The local run's functions share one environment; on AWS each has its own."""
    names = {
        "ssm:GetParameter": "SIGNING_KEY_PARAMETER",
        ("lambda:InvokeFunction", "SyncAnswerFunction"): "SYNC_ANSWER_FUNCTION",
        ("lambda:InvokeFunction", "MailWorkerFunction"): "MAIL_WORKER_FUNCTION",
        "states:StartExecution": "LOGIN_MACHINE",
        ("sqs:SendMessage", "InboxFanoutQueue"): "INBOX_FANOUT_QUEUE",
        ("sqs:SendMessage", "FederationOutboundQueue.fifo"): "FEDERATION_OUTBOUND_QUEUE",
        "scheduler:CreateSchedule": "FEDERATION_SCHEDULES",
        "iam:PassRole": "FEDERATION_SCHEDULES_ROLE",
        ("sqs:SendMessage", "FailedRecordsQueue"): "FAILED_RECORDS_QUEUE",
        ("sqs:SendMessage", "FederationInboundQueue.fifo"): "FEDERATION_INBOUND_QUEUE",
    }
    for folder, pairs in called.items():
        wanted = {names.get(pair) or names.get(pair[0]) for pair in pairs} - {None}
        assert wanted == set(names.values()) & set(FUNCTIONS[folder].environment), folder
