"""Accounts and their devices: partition = user, sort key `account` or `device/<id>`.

A device carries the hashes of all tokens that were issued for it, changed in the transaction that issues or revokes
them. So what a device's revocation must remove is known exactly, from one consistent read, without an index.
"""

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute, UnicodeSetAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.condition import Condition

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction

ACCOUNT = "account"
_DEVICE = "device/"


class _AccountItem(Item):
    class Meta:
        table_name = table_name("ACCOUNTS")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)


class Account(_AccountItem):
    """A local user. Times are milliseconds since the epoch."""

    created = NumberAttribute()
    password = UnicodeAttribute(null=True)  # an argon2 hash; absent: nobody can log in with a password
    admin = BooleanAttribute(null=True)
    guest = BooleanAttribute(null=True)
    # Deactivation takes several steps: from the first one nobody can log in, at the last one everything is gone.
    deactivating = BooleanAttribute(null=True)
    deactivated = BooleanAttribute(null=True)
    erased = BooleanAttribute(null=True)

    @property
    def active(self) -> bool:
        """Whether the account can be logged in to."""
        return not self.deactivating and not self.deactivated

    def change_password_hash(self, old: str | None, new: str) -> bool:
        """Replace the hash of the password. False if it is no longer the old one."""
        try:
            self.update([Account.password.set(new)], usable_with(old))
        except UpdateError as error:
            if error.cause_response_code != "ConditionalCheckFailedException":
                raise
            return False
        return True


class Device(_AccountItem):
    """A logged-in device. `rev` counts the changes of its tokens; each change is conditional on it."""

    name = UnicodeAttribute(null=True)
    created = NumberAttribute()
    seen_at = NumberAttribute(null=True)
    seen_ip = UnicodeAttribute(null=True)
    tokens = UnicodeSetAttribute(null=True)
    rev = NumberAttribute(default=1)

    @property
    def device_id(self) -> str:
        """The ID that clients know."""
        return self.k.removeprefix(_DEVICE)

    @property
    def token_hashes(self) -> set[str]:
        """The hashes of the tokens that exist for this device, and of some that have expired."""
        return set(self.tokens or ())


def device_key(device_id: str) -> str:
    """The sort key of a device."""
    return _DEVICE + device_id


def load_account(user_id: str) -> Account | None:
    """The account of a user, as it is now."""
    return Account.fetch(user_id, ACCOUNT)


def load_device(user_id: str, device_id: str) -> Device | None:
    """One device of a user, as it is now."""
    return Device.fetch(user_id, device_key(device_id))


def list_devices(user_id: str) -> list[Device]:
    """All devices of a user, as they are now."""
    return list(Device.query(user_id, Device.k.startswith(_DEVICE), consistent_read=True))


def usable_with(password_hash: str | None) -> Condition:
    """The condition that an account is active and still has the password that was checked."""
    usable: Condition = Account.deactivating.does_not_exist() & Account.deactivated.does_not_exist()
    same: Condition = Account.password.does_not_exist() if password_hash is None else Account.password == password_hash
    both: Condition = usable & same
    return both


def create_account(
    transaction: Transaction,
    user_id: str,
    *,
    password_hash: str | None,
    admin: bool,
    now: int,
    guest: bool = False,
) -> None:
    """Add a new account to a transaction; its label is `account`, which fails if the user ID is taken."""
    account = Account(user_id, ACCOUNT, created=now, password=password_hash, admin=admin or None)
    account.guest = guest or None
    transaction.put("account", account, Account.user.does_not_exist())
