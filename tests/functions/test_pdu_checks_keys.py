"""Keys for the events of servers that have to be asked: one answers, one does not, one is slow."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from federation_peer import KEYS, Peer, free_port
from functions.federating import LOOPBACK
from functions.foreign_pdus import OTHER_KEY, ROOM, signed_pdu
from homeserver.matrix.room_versions import V4, V11
from homeserver.matrix.signing import SigningKey, sign_event
from homeserver.services import server_keys
from homeserver.services.pdu_checks import check_pdus

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def peers(tmp_path: Path, server: Callable[..., None]) -> Iterator[Callable[[], Peer]]:
    server(**LOOPBACK)
    with ExitStack() as running:

        def start() -> Peer:
            folder = tmp_path / f"peer{len(list(tmp_path.iterdir()))}"
            return running.enter_context(Peer(folder, key=SigningKey.generate("p", folder.name.encode().ljust(32))))

        yield start


def of(peer: Peer, **change: object) -> dict[str, object]:
    return signed_pdu(V11, sender=f"@carol:{peer.name}", by={peer.name: peer.key}, **change)


def test_the_keys_of_several_servers_are_fetched_once_for_all_their_events(peers: Callable[[], Peer]) -> None:
    one, two = peers(), peers()
    pdus = [of(peer, content={"number": number}) for number in range(40) for peer in (one, two)]
    assert all(checked.event is not None for checked in check_pdus(pdus, V11, ROOM))
    assert (one.paths(), two.paths()) == ([f"GET {KEYS}"], [f"GET {KEYS}"])


def test_a_key_that_its_server_has_just_said_it_does_not_have_is_none(peers: Callable[[], Peer]) -> None:
    peer = peers()
    forged = signed_pdu(V11, sender=f"@carol:{peer.name}", by={peer.name: OTHER_KEY})
    first, again = check_pdus([forged], V11, ROOM)[0], check_pdus([forged], V11, ROOM)[0]
    assert (first.event, first.rule, first.retry) == (None, "2", False)
    # A moment later it could have another one, and is not asked for now.
    assert (again.event, again.retry) == (None, True)
    assert peer.paths() == [f"GET {KEYS}"]


def test_a_new_key_is_found_beside_the_one_that_is_known(
    peers: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = peers()
    old = [of(peer)]
    assert check_pdus(old, V11, ROOM)[0].event is not None
    peer.key = SigningKey.generate("q", b"q" * 32)
    monkeypatch.setattr(server_keys, "_REPEAT_MS", 0)
    both = check_pdus([*old, of(peer)], V11, ROOM)
    assert [checked.event is not None for checked in both] == [True, True]
    assert len(peer.paths()) == 2


def test_a_server_that_is_down_costs_its_own_events_only_and_not_for_good(peers: Callable[[], Peer]) -> None:
    peer, gone = peers(), f"localhost:{free_port()}"
    down = signed_pdu(V11, sender=f"@dan:{gone}", by={gone: OTHER_KEY})
    up, parked = check_pdus([of(peer), down], V11, ROOM)
    assert up.event is not None
    assert (parked.event, parked.rule, parked.retry) == (None, "2", True)
    # The same where the validity of keys does not count.
    down = signed_pdu(V4, sender=f"@dan:{gone}", by={gone: OTHER_KEY})
    assert check_pdus([down], V4, ROOM)[0].retry


def test_a_slow_server_holds_up_nobody_beyond_the_time_that_is_given(peers: Callable[[], Peer]) -> None:
    peer, slow = peers(), peers()

    def wait(_: BaseHTTPRequestHandler) -> None:
        time.sleep(3)

    slow.instead[KEYS] = wait
    started = time.monotonic()
    up, late = check_pdus([of(peer), of(slow)], V11, ROOM, seconds=0.7)
    assert time.monotonic() - started < 2
    assert up.event is not None
    assert (late.event, late.retry) == (None, True)


def test_thousands_of_events_are_checked_in_seconds(peers: Callable[[], Peer]) -> None:
    peer = peers()
    pdus = [of(peer, content={"body": "x" * 200}, depth=number) for number in range(3000)]
    started = time.thread_time()
    assert all(checked.event is not None for checked in check_pdus(pdus, V11, ROOM))
    assert time.thread_time() - started < 3
    assert len(peer.paths()) == 1


def test_a_policy_server_s_signature_is_no_reason_to_ask_for_keys(
    peers: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = peers()
    monkeypatch.setattr(server_keys, "_REPEAT_MS", 0)
    policy = SigningKey.generate("policy_server", b"z" * 32)
    pdus = [sign_event(of(peer, depth=number), V11, peer.name, policy) for number in range(3)]
    for pdu in pdus:
        assert check_pdus([pdu], V11, ROOM)[0].event is not None
    assert peer.paths() == [f"GET {KEYS}"]
    # It is no signature of the server.
    alone = signed_pdu(V11, sender=f"@carol:{peer.name}", by={peer.name: policy})
    (checked,) = check_pdus([alone], V11, ROOM)
    assert (checked.rule, checked.reason, checked.retry) == (
        "2",
        f"There is no Ed25519 signature by {peer.name}",
        False,
    )
