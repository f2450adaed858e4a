"""What the server says of itself."""

import pytest

from homeserver.matrix.errors import NotFound
from homeserver.services.discovery import support_information


def test_a_contact_is_an_address_or_a_user() -> None:
    email = {"email_address": "admin@example.org", "role": "m.role.admin"}
    assert support_information("admin@example.org") == {"contacts": [email]}
    user = {"matrix_id": "@admin:example.org", "role": "m.role.admin"}
    assert support_information("@admin:example.org") == {"contacts": [user]}


def test_without_a_contact_there_is_nothing_to_say() -> None:
    with pytest.raises(NotFound):
        support_information("")
