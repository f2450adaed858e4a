"""What use cases read from the body of a request that only they understand."""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import BadJson, MissingParam


def required_text(body: Mapping[str, Any], name: str) -> str:
    """`body[name]`, a string that has to be there. Raises MissingParam, BadJson."""
    value = body.get(name)
    if value is None:
        raise MissingParam(f"{name} is required.")
    if not isinstance(value, str):
        raise BadJson(f"{name} must be a string.")
    return value
