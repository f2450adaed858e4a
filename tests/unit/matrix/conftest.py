"""The published and derived test vectors, and the key that signs them."""

import json
from pathlib import Path
from typing import Any

import pytest

from homeserver.matrix import unpadded_base64
from homeserver.matrix.signing import SigningKey


@pytest.fixture(scope="session")
def vectors(shared_folder: Path) -> dict[str, Any]:
    return json.loads((shared_folder / "spec" / "vectors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def vector_key(vectors: dict[str, Any]) -> SigningKey:
    given = vectors["published"]["signing_key"]
    return SigningKey(given["key_id"], unpadded_base64.decode(given["seed_unpadded_base64"]))
