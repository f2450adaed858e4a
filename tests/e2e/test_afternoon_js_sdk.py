"""An afternoon of people with matrix-js-sdk, the library under Element; `js/afternoon.mjs` tells what they see."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.local_run import SERVER_NAME, Server
from infrastructure.local_process import ROOT

_PROJECT = Path(__file__).parent / "js"
_INSTALLED = ROOT / ".tools" / "js"  # by `make tools`
_SECONDS = 60
ADA, BO, CY = (f"@{name}:{SERVER_NAME}" for name in ("ada", "bo", "cy"))


def _node() -> str:
    """The interpreter; skips where it or the library is absent."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("matrix-js-sdk was not tried: Node.js is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    if int(version.strip().removeprefix("v").partition(".")[0]) < 20:
        pytest.skip(f"matrix-js-sdk was not tried: it needs Node.js 20 or newer, this is {version.strip()}")
    lock = _INSTALLED / "installed-lock.json"
    if not lock.is_file() or lock.read_bytes() != (_PROJECT / "package-lock.json").read_bytes():
        pytest.skip("matrix-js-sdk was not tried: `make tools` has not installed it (it needs npm and a registry)")
    return node


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the afternoon told, by step."""
    node = _node()
    with Server(tmp_path_factory.mktemp("afternoon")) as server:
        # `run` ends the process when time is up, or when anything else goes wrong here.
        ran = subprocess.run(
            [node, str(_PROJECT / "afternoon.mjs"), server.url],
            env={"NODE_MODULES": str(_INSTALLED / "node_modules"), "PATH": str(Path(node).parent)},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        steps = [json.loads(line) for line in ran.stdout.splitlines()]
        told = [step.pop("step") for step in steps]
        assert ran.returncode == 0, f"came as far as {told[-1:]}\n{ran.stderr[-6000:]}"
        assert server.stop() == 0
        assert "Traceback" not in server.log, server.log
    return dict(zip(told, steps, strict=True))


def test_an_invitation_names_the_room_and_two_people_talk(seen: dict[str, Any]) -> None:
    assert seen["invited"] == {"name": "Garden", "inviter": ADA}
    words = [[ADA, "peas?"], [BO, "peas!"]]
    assert seen["met"] == {"name": "Garden", "topic": "Peas", "members": 2, "words": words}


def test_an_edit_replaces_the_text_and_a_redaction_takes_it_away(seen: dict[str, Any]) -> None:
    assert seen["edited"] == {
        "body": "six rows",
        "original": "five rows",
        "isTheEdit": True,
        "bundled": "six rows",
        "isBundledEdit": True,
    }
    assert seen["redacted"] == {"content": {}, "by": ADA, "reason": "seven"}


def test_reactions_are_counted_by_key_until_they_are_redacted(seen: dict[str, Any]) -> None:
    assert seen["reacted"] == {"aggregated": [["\N{SHOWER}", [ADA, BO]]]}
    assert seen["reaction redacted"] == {"aggregated": [["\N{SHOWER}", [ADA]]], "served": [ADA]}


def test_a_thread_has_its_replies_and_their_count_for_both(seen: dict[str, Any]) -> None:
    thread = {
        "replies": ["slugs", "beer", "ducks", "hedgehogs"],
        "served": [3, True, "hedgehogs"],
        "mainTimeline": ["slugs"],
    }
    assert seen["thread of ada"] == thread
    assert seen["thread of bo"] == thread
    assert seen["thread edited"] == {"changed": "ducks, two of them"}


def test_receipts_are_seen_by_thread_and_private_ones_by_nobody_else(seen: dict[str, Any]) -> None:
    assert seen["read"] == {
        "unread": None,
        "threadReaders": True,
        "ofTheThread": True,
        "before": False,
        "after": True,
        "markerOfTheOther": None,
    }
    assert seen["read privately"] == {"seenByTheOther": None}


def test_who_types_is_shown_as_long_as_they_do(seen: dict[str, Any]) -> None:
    assert seen["typed"] == {"typing": [BO], "after": False}


def test_who_comes_later_finds_the_threads_and_all_members(seen: dict[str, Any]) -> None:
    assert seen["threads found later"] == {
        "threads": [["slugs", 4, False]],
        "replies": ["slugs", "beer", "ducks, two of them", "hedgehogs", "and toads"],
        "reactions": ["\N{DUCK}"],
        "last": "and toads",
        "all": ["slugs"],
        "mine": [],
    }
    assert seen["members loaded"] == {"members": [ADA, BO, CY]}


def test_a_knock_is_heard_and_answered(seen: dict[str, Any]) -> None:
    assert seen["knocked"] == {"refused": "M_FORBIDDEN", "name": "Shed", "reason": "rain"}
    assert seen["let in"] == {"members": 2}


def test_a_space_is_walked_in_pages_and_opens_its_rooms(seen: dict[str, Any]) -> None:
    assert seen["space"] == {
        "isSpace": True,
        "refused": "M_FORBIDDEN",
        "names": ["Allotments", "North", "South"],
        "paged": ["Allotments", "North", "South"],
        "suggested": True,
        "joinRule": "restricted",
        "by": ADA,
    }


def test_directory_summary_and_searches_find_room_message_and_people(seen: dict[str, Any]) -> None:
    assert seen["found"] == {
        "published": [[True, "Orchard", 1]],
        "summary": [True, "Orchard", "leave", "public"],
        "count": 1,
        "results": [["Quinces ripen late", ["Quinces ripen late", "yes they do"]]],
        "people": [ADA],
        "shared": True,
    }


def test_history_is_scrolled_back_to_the_creation_of_the_room(seen: dict[str, Any]) -> None:
    scrolled = seen["scrolled back"]
    assert 0 < scrolled.pop("atFirst") < 40
    assert scrolled == {"texts": [f"day {day}" for day in range(1, 41)], "first": "m.room.create", "twice": 0}
    assert seen["jumped"] == {"known": True, "near": True, "toTheStart": ["day 1", "day 2", "day 3"]}


def test_an_upgraded_room_is_followed_and_hides_its_predecessor(seen: dict[str, Any]) -> None:
    assert seen["upgraded"] == {
        "refused": "M_FORBIDDEN",
        "followed": True,
        "closed": "M_FORBIDDEN",
        "predecessor": True,
        "version": "12",
        "name": "Compost",
        "visible": [False, True],
        "history": [0, 1],
    }


def test_tags_and_direct_chats_come_back_through_sync(seen: dict[str, Any]) -> None:
    assert seen["tagged"]["tags"] == {"m.favourite": {"order": 0.5}}
    assert seen["tagged"]["after"] == {}
    assert list(seen["tagged"]["direct"]) == ["@ada:here"]


def test_who_is_kicked_is_told_why_forgets_and_logs_out(seen: dict[str, Any]) -> None:
    assert seen["kicked"] == {"reason": "weeds", "refused": "M_FORBIDDEN", "forgotten": [None, None]}
    assert seen["logged out"] == {"whoami": "M_UNKNOWN_TOKEN", "other": True}
