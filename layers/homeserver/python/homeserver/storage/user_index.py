"""The index of users by the words of their names: a Query finds everyone with a word that begins in some way.

Partition `user/<first character of a word>`, sort key `<word>/<user>`: a word has no slash, see matrix.folding. The
record of a user (`user`, key the user ID) says what stands in the index, and changes in the same transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from homeserver.matrix.folding import words
from homeserver.matrix.identifiers import localpart_of
from homeserver.storage.connection import Transaction, TransactionCancelled, query_raw
from homeserver.storage.listings import Listing, unpacked

_RECORDS = "user"
_WORDS_OF_NAME, _WORDS_OF_LOCALPART = 8, 4
LONGEST_WORD = 32
_LONGEST_NAME, _LONGEST_AVATAR_URL = 256, 512


@dataclass(frozen=True, slots=True)
class IndexedUser:
    """A user as searches find and show them."""

    user_id: str
    words: tuple[str, ...]
    display_name: str | None
    avatar_url: str | None

    @classmethod
    def of(cls, user_id: str, profile: Mapping[str, Any]) -> "IndexedUser":
        """The user with what a profile, or a membership event, says of them. Names are cut to a bounded size."""
        name, avatar = profile.get("displayname"), profile.get("avatar_url")
        shown = name[:_LONGEST_NAME] if isinstance(name, str) and name else None
        found = [
            *(words(shown, most=_WORDS_OF_NAME, longest=LONGEST_WORD) if shown else ()),
            *words(localpart_of(user_id), most=_WORDS_OF_LOCALPART, longest=LONGEST_WORD),
        ]
        picture = avatar if isinstance(avatar, str) and 0 < len(avatar) <= _LONGEST_AVATAR_URL else None
        return cls(user_id, tuple(dict.fromkeys(found)), shown, picture)

    def matches(self, prefixes: list[str]) -> bool:
        """Whether each of these begins one of the words."""
        return all(any(word.startswith(prefix) for word in self.words) for prefix in prefixes)

    def pack(self) -> bytes:
        return orjson.dumps({"w": self.words, "d": self.display_name, "a": self.avatar_url})


def _entry(user_id: str, stored: Mapping[str, Any]) -> IndexedUser:
    return IndexedUser(user_id, tuple(stored["w"]), stored["d"], stored["a"])


def _keys(user: IndexedUser) -> dict[str, tuple[str, str]]:
    return {word: (f"{_RECORDS}/{word[0]}", f"{word}/{user.user_id}") for word in user.words}


def add_new_user(transaction: Transaction, user: IndexedUser) -> None:
    """Add to the transaction that makes an account: the user is in the index."""
    transaction.put(f"record {user.user_id}", Listing(_RECORDS, user.user_id, packed=user.pack(), number=1))
    _put(transaction, user)


def _put(transaction: Transaction, user: IndexedUser) -> None:
    for word, key in _keys(user).items():
        transaction.put(f"word {word}", Listing(*key, packed=user.pack()))


def replace_user(user: IndexedUser) -> bool:
    """Let the index show a user like this; False if somebody else is changing it.

    Costs a read where nothing differs, else two write units for each word that the user has or loses, and two more.
    """
    record = Listing.fetch(_RECORDS, user.user_id)
    if record is not None and record.packed == user.pack():
        return True
    transaction = Transaction()
    _take_away(transaction, record, but=user)
    _put(transaction, user)
    before = int(record.number or 0) if record is not None else 0
    transaction.update(
        "record",
        Listing(_RECORDS, user.user_id),
        [Listing.packed.set(user.pack()), Listing.number.set(before + 1)],
        Listing.number == before if record is not None else Listing.k.does_not_exist(),
    )
    return _commit(transaction)


def remove_user(user_id: str) -> bool:
    """Take a user out of the index; False if somebody else is changing it."""
    record = Listing.fetch(_RECORDS, user_id)
    if record is None:
        return True
    transaction = Transaction()
    _take_away(transaction, record)
    transaction.delete("record", Listing(_RECORDS, user_id), Listing.number == record.number)
    return _commit(transaction)


def _take_away(transaction: Transaction, record: Listing | None, but: IndexedUser | None = None) -> None:
    if record is None or record.packed is None:
        return
    old = _entry(record.k, orjson.loads(record.packed))
    for word, key in _keys(old).items():
        if but is None or word not in but.words:
            transaction.delete(f"word {word}", Listing(*key))


def _commit(transaction: Transaction) -> bool:
    try:
        transaction.commit()
    except TransactionCancelled:
        return False
    return True


def find_users(prefix: str, *, limit: int) -> tuple[list[IndexedUser], bool]:
    """Users with a word that begins like this (folded, not empty), and whether there may be more: one Query.

    `limit` bounds the words that are read; a user with two such words counts twice, and is returned once.
    """
    low = prefix[:LONGEST_WORD]
    raw = query_raw(Listing, f"{_RECORDS}/{low[0]}", low, low + "\U0010ffff", consistent=False, limit=limit)
    users = {user_id: _entry(user_id, unpacked(row)) for row in raw for user_id in [row["k"]["S"].partition("/")[2]]}
    return list(users.values()), len(raw) >= limit
