"""Access tokens: who a token belongs to, issuing, refreshing, revoking.

Source: client-server API v1.19, "Using access tokens", "Relationship between access tokens and devices", "Refreshing
access tokens", "Soft logout".

A token works as long as its record exists, so one consistent read answers a request and a revoked token is refused on
the next one. Every change of a device's tokens is one transaction with the device's item, conditional on its
revision: revoking a device removes exactly the tokens that it has at that moment, also one that was issued just now.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynamodb.expressions.update import Action

from homeserver.matrix.access_token import (
    ACCESS,
    MAX_TOKEN_LENGTH,
    RANDOM_BYTES,
    REFRESH,
    claimed_user,
    format_token,
    token_hash,
)
from homeserver.matrix.errors import UnknownToken
from homeserver.matrix.identifiers import localpart_of
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.settings import settings
from homeserver.storage import accounts, tokens
from homeserver.storage.accounts import Device, device_key
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.tokens import Token

# Only clients that can refresh get a token that expires. An hour bounds what a stolen token is worth, and a device
# that is always online pays for 24 refreshes a day.
ACCESS_TOKEN_LIFETIME_MS = 60 * 60 * 1000
# A device that was not used for this long has to log in again. Each refresh starts the time anew.
REFRESH_TOKEN_LIFETIME_MS = 365 * 24 * 60 * 60 * 1000
_TTL_SLACK_S = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks: the owner of an access token, and the device that the token was issued for."""

    user_id: str
    device_id: str
    token_hash: str
    is_guest: bool = False


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """Tokens as a client gets them, once. Lifetime in milliseconds; None where tokens do not expire."""

    access_token: str
    refresh_token: str | None = None
    expires_in_ms: int | None = None

    def body(self) -> dict[str, Any]:
        """The keys that the answers of login, registration and refresh share."""
        answer: dict[str, Any] = {"access_token": self.access_token}
        if self.refresh_token is not None:
            answer |= {"refresh_token": self.refresh_token, "expires_in_ms": self.expires_in_ms}
        return answer


def requester_of(token: str) -> Requester:
    """The owner of an access token. Raises UnknownToken; with `soft_logout` if the token has merely expired."""
    if claimed_user(token, settings().server_name) is None:
        raise UnknownToken("This is no access token of this server.")
    record = tokens.load(token_hash(token))
    if record is None or record.kind != tokens.ACCESS:
        raise UnknownToken("This access token is unknown or was revoked.")
    if record.is_expired(now_ms()):
        # Revoked tokens are deleted: the device of one that is still there is logged in and has a refresh token.
        raise UnknownToken("This access token has expired.", extra={"soft_logout": True})
    if record.unused and not tokens.mark_used(record):
        raise UnknownToken("This access token was revoked.")
    return Requester(record.user, record.device, record.hash, bool(record.guest))


def _new_pair(
    user_id: str, device_id: str, *, refreshable: bool, rotated: bool, guest: bool = False
) -> tuple[IssuedTokens, list[Token]]:
    """Fresh tokens, and the records to store. `rotated`: they come from a refresh. Guests get no refresh token."""
    now = now_ms()
    localpart = localpart_of(user_id)
    unused = True if rotated else None
    text = format_token(ACCESS, localpart, secrets.token_bytes(RANDOM_BYTES))
    access = Token(token_hash(text), kind=tokens.ACCESS, user=user_id, device=device_id, unused=unused)
    if guest:
        access.guest = True
        return IssuedTokens(text), [access]
    if not refreshable:
        return IssuedTokens(text), [access]
    refresh_text = format_token(REFRESH, localpart, secrets.token_bytes(RANDOM_BYTES))
    refresh = Token(
        token_hash(refresh_text), kind=tokens.REFRESH, user=user_id, device=device_id, unused=unused, access=access.hash
    )
    access.valid_until = now + ACCESS_TOKEN_LIFETIME_MS
    refresh.valid_until = now + REFRESH_TOKEN_LIFETIME_MS
    access.expires = refresh.expires = refresh.valid_until // 1000 + _TTL_SLACK_S
    return IssuedTokens(text, refresh_text, ACCESS_TOKEN_LIFETIME_MS), [access, refresh]


def new_device_id() -> str:
    """An ID for a device whose client gave none: ten capital letters."""
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(10))


def issue_tokens(
    transaction: Transaction,
    user_id: str,
    device_id: str,
    device: Device | None,
    *,
    display_name: str | None,
    refreshable: bool,
    address: str,
    guest: bool = False,
) -> IssuedTokens:
    """Add a login to a transaction: tokens for a device, which is made if `device` (as it was read) is None.

    `guest`: whoever shows the token may do what guests may. The tokens that the device had are revoked: a device has
    one session. The transaction's label `device` fails if
    the device has changed since it was read.
    """
    issued, records = _new_pair(user_id, device_id, refreshable=refreshable, rotated=False, guest=guest)
    hashes = {record.hash for record in records}
    for record in records:
        transaction.put(f"token/{record.hash}", record)
    now = now_ms()
    if device is None:
        made = Device(
            user_id,
            device_key(device_id),
            name=display_name,
            created=now,
            seen_at=now,
            seen_ip=address,
            tokens=hashes,
        )
        transaction.put("device", made, Device.k.does_not_exist())
        return issued
    for old in device.token_hashes:
        tokens.delete(transaction, old)
    _change_tokens(transaction, device, hashes, [Device.seen_at.set(now), Device.seen_ip.set(address)])
    return issued


def _change_tokens(transaction: Transaction, device: Device, hashes: set[str], more: list[Action]) -> None:
    actions = [Device.tokens.set(hashes), Device.rev.set(device.rev + 1), *more]
    transaction.update("device", Device(device.user, device.k), actions, Device.rev == device.rev)


def refresh_tokens(refresh_token: str) -> IssuedTokens:
    """Exchange a refresh token for a new pair.

    The old pair stays usable until one of the new tokens is used: then the old refresh token is refused. If the
    answer was lost, the same refresh token gives another pair and the lost one is revoked.
    Raises UnknownToken: unknown or already exchanged; with `soft_logout` if it has expired.
    """
    if len(refresh_token) > MAX_TOKEN_LENGTH:
        raise UnknownToken("This refresh token is unknown.")
    for _ in attempts("This account"):
        old = tokens.load(token_hash(refresh_token))
        if old is None or old.kind != tokens.REFRESH:
            raise UnknownToken("This refresh token is unknown or was used.")
        if old.is_expired(now_ms()):
            raise UnknownToken("This refresh token has expired.", extra={"soft_logout": True})
        device = accounts.load_device(old.user, old.device)
        if device is None:
            raise UnknownToken("This refresh token was revoked.")
        issued, transaction = _exchange(old, device)
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            if lost.failed("new access token") or lost.failed("new refresh token"):
                now = tokens.load(old.hash)
                # Other successors: the same refresh token was exchanged at the same moment, which is no use of one.
                if now is None or now.successors == old.successors:
                    raise UnknownToken("This refresh token was used.") from lost
        else:
            return issued
    raise AssertionError("unreachable: attempts() raises")


def _exchange(old: Token, device: Device) -> tuple[IssuedTokens, Transaction]:
    issued, records = _new_pair(old.user, old.device, refreshable=True, rotated=True)
    hashes = {record.hash for record in records}
    successors = dict(zip(("new access token", "new refresh token"), old.successors or (), strict=False))
    transaction = Transaction()
    for record in records:
        transaction.put(f"token/{record.hash}", record)
    for label, successor in successors.items():
        tokens.delete_unused(transaction, successor, label)
    transaction.update(
        "refresh token",
        Token(old.hash),
        [Token.successors.set([record.hash for record in records]), Token.unused.remove()],
        Token.hash.exists(),
    )
    kept = {old.hash, old.access}
    for other in device.token_hashes - kept - set(successors.values()):
        tokens.delete(transaction, other)
    # The old pair lives on until the next exchange; an access token that has expired by then is refused anyway.
    _change_tokens(transaction, device, hashes | (device.token_hashes & kept), [])
    return issued, transaction


def revoke_device(user_id: str, device_id: str, *, also: Callable[[Transaction], None] | None = None) -> None:
    """Delete a device with all its tokens, those that are issued at this very moment included.

    `also` adds writes that happen in the same transaction.
    """
    for _ in attempts("This account"):
        device = accounts.load_device(user_id, device_id)
        if device is None and also is None:
            return
        transaction = Transaction()
        if also is not None:
            also(transaction)
        if device is not None:
            transaction.delete("device", Device(user_id, device.k), Device.rev == device.rev)
            for token in device.token_hashes:
                tokens.delete(transaction, token)
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            if not lost.failed("device") and not lost.conflict:
                raise
        else:
            return


def revoke_all_devices(user_id: str, *, keep: str | None = None) -> None:
    """Delete all devices of a user with their tokens, except one if `keep` names it."""
    for device in accounts.list_devices(user_id):
        if device.device_id != keep:
            revoke_device(user_id, device.device_id)
