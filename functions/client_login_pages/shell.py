"""What all pages of this function share: the server's name on them, errors as pages, and scripts from `static`."""

from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import InvalidParam, MatrixError
from homeserver.settings import settings
from homeserver.web.pages import Html, Page, joined, page_response, paragraph, problem
from homeserver.web.requests import raw_body

_STATIC = Path(__file__).parent / "static"
_MOST_FIELDS = 50
_MOST_BYTES = 64 * 1024


@cache
def script(*names: str) -> str:
    """The JavaScript in the files `static/<name>.js`, one after the other, with names that no other script sees."""
    code = "\n".join((_STATIC / f"{name}.js").read_text(encoding="utf-8") for name in names)
    return f'"use strict";\n{{\n{code}}}\n'


def shown(title: str, body: Html, status: int = 200, **more: Any) -> Response:
    """A page of this server. `more`: what else a Page has, and `headers`."""
    headers = more.pop("headers", None)
    return page_response(Page(title, body, settings().server_name, **more), status, headers)


def error_page(error: MatrixError, title: str = "That did not work") -> Response:
    """The page for a request that cannot be answered."""
    back = paragraph("Go back to your app, or to where you came from, and try it again from there.")
    return shown(title, joined([problem(error.message), back]), error.status, headers=error.headers)


def page_route(handler: Callable[..., Response]) -> Callable[..., Response]:
    """A handler whose Matrix errors people see: they become pages."""

    @wraps(handler)
    def answer(request: Request, **parameters: str) -> Response:
        try:
            return handler(request, **parameters)
        except MatrixError as error:
            return error_page(error)

    return answer


def form_fields(request: Request) -> dict[str, str]:
    """The fields of a posted form, the first of each name. Raises InvalidParam for a body that is none."""
    data = raw_body(request)
    if len(data) > _MOST_BYTES:
        raise InvalidParam("This form is too long.")
    try:
        pairs = parse_qsl(
            data.decode(),
            keep_blank_values=True,
            strict_parsing=bool(data),
            max_num_fields=_MOST_FIELDS,
            errors="strict",
        )
    except ValueError:
        raise InvalidParam("This is no form.") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields.setdefault(name, value)
    return fields


def event_cookies(request: Request) -> dict[str, str]:
    """The cookies of a request: API Gateway hands them over beside the headers."""
    pairs = (cookie.partition("=") for cookie in request.scope["aws.event"].get("cookies") or ())
    return {name.strip(): value for name, _, value in pairs}
