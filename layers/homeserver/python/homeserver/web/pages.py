"""Pages for people: one shell and one style, everything escaped, nothing from elsewhere.

A page is put together with `markup`, which escapes every value that is not markup itself, and answered with
`page_response`, which sets the headers that a page with a secret in its address needs.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape as escape_html
from typing import LiteralString
from urllib.parse import urlsplit

from starlette.responses import Response

from homeserver.web.page_style import STYLE


class Html(str):
    """Markup: text in which everything that people or programs brought is escaped."""

    __slots__ = ()


def escape(value: object) -> Html:
    """A value as text, or as a quoted attribute, of a page. Markup stays as it is."""
    return value if isinstance(value, Html) else Html(escape_html(str(value), quote=True))


def markup(template: LiteralString, **values: object) -> Html:
    """A template with its `{names}` filled in, escaped."""
    return Html(template.format(**{name: escape(value) for name, value in values.items()}))


def joined(parts: Iterable[Html]) -> Html:
    """Pieces of markup, one after the other."""
    return Html("\n".join(parts))


@dataclass(frozen=True, slots=True)
class Page:
    """What a page has of its own: a title, which is its heading too, and what stands in its card.

    `server_name` stands above. `script`: JavaScript of ours; `data`: JSON for it, which it finds in the element `data`.
    `foreign`: sources, by the directives of a Content-Security-Policy, that the page needs besides itself.
    """

    title: str
    body: Html
    server_name: str = ""
    script: str = ""
    data: str = ""
    foreign: Mapping[str, tuple[str, ...]] | None = None


def page_response(page: Page, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that shows a page. No cache keeps it, no other site frames it or is told its address."""
    nonce = secrets.token_urlsafe(16)
    return Response(
        _document(page, nonce),
        status_code=status,
        headers={
            "Content-Security-Policy": _policy(page, nonce),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            **(headers or {}),
        },
        media_type="text/html",
    )


def redirect(url: str, status: int = 303) -> Response:
    """Go on at another address, which was checked before. Nothing on the way is kept or told."""
    headers = {"Location": url, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return Response(status_code=status, headers=headers)


def origin_of(url: str) -> str:
    """Scheme, host and port of an http or https address; of another one its scheme, as such policies name it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in {"http", "https"} else f"{parts.scheme}:"


def _policy(page: Page, nonce: str) -> str:
    sources: dict[str, list[str]] = {
        "default-src": ["'none'"],
        "script-src": [f"'nonce-{nonce}'"] if page.script else ["'none'"],
        "style-src": [f"'nonce-{nonce}'"],
        "img-src": ["data:"],
        "connect-src": ["'self'"] if page.script else ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    for directive, extra in (page.foreign or {}).items():
        sources.setdefault(directive, []).extend(extra)
    return "; ".join(f"{directive} {' '.join(listed)}" for directive, listed in sources.items())


_MARK = Html(
    '<svg viewBox="0 0 32 32" aria-hidden="true" focusable="false">'
    '<circle cx="16" cy="16" r="14" fill="none" stroke="currentColor" stroke-width="2.5"/>'
    '<path d="M9 23 22 10M14 9.5h8.5V18" fill="none" stroke="currentColor" stroke-width="3" stroke-linecap="round" '
    'stroke-linejoin="round"/></svg>'
)


def _document(page: Page, nonce: str) -> str:
    return markup(
        """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<link rel="icon" href="data:,">
<title>{title}</title>
<style nonce="{nonce}">{style}</style>
</head>
<body>
<header>{mark}<span>{name}</span></header>
<main><div class="card" id="card">
<h1 tabindex="-1">{heading}</h1>
{body}
</div></main>
<footer>Eigenserver, a homeserver of the Matrix network</footer>
{script}
</body>
</html>
""",
        title=f"{page.title} · {page.server_name}" if page.server_name else page.title,
        heading=page.title,
        nonce=nonce,
        style=Html(STYLE),
        mark=_MARK,
        name=page.server_name or "Matrix homeserver",
        body=page.body,
        script=_script(page, nonce),
    )


def _script(page: Page, nonce: str) -> Html:
    if not page.script:
        return Html("")
    # JSON within a page: "<" is the one character that could end the element.
    data = Html(page.data.replace("<", "\\u003c"))
    return markup(
        """<script type="application/json" id="data" nonce="{nonce}">{data}</script>
<script nonce="{nonce}">{code}</script>""",
        nonce=nonce,
        data=data,
        code=Html(page.script),
    )


# ── What stands in cards ────────────────────────────────────────────────────────────────────────────


def paragraph(text: object) -> Html:
    """A paragraph."""
    return markup("<p>{text}</p>", text=text)


def problem(message: str) -> Html:
    """What went wrong, announced to those who cannot see it."""
    return markup('<div class="notice bad" role="alert"><p>{message}</p></div>', message=message)


def success(message: str) -> Html:
    """What has been done."""
    return markup('<div class="notice good" role="status"><p>{message}</p></div>', message=message)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """A list of names and values; those without a value are left out."""
    rows = [markup("<div><dt>{name}</dt><dd>{value}</dd></div>", name=n, value=v) for n, v in pairs if v]
    return markup("<dl>{rows}</dl>", rows=joined(rows)) if rows else Html("")


def field(
    name: str,
    label: str,
    *,
    kind: str = "text",
    value: str = "",
    autocomplete: str = "off",
    hint: str = "",
    numeric: bool = False,
    maximum: int = 512,
) -> Html:
    """A labelled text field of a form that must be filled in. `numeric`: for a code of digits."""
    return markup(
        """<div class="field"><label for="{name}">{label}</label>
<input type="{kind}" id="{name}" name="{name}" value="{value}" autocomplete="{autocomplete}" maxlength="{maximum}"
 required autocapitalize="none" spellcheck="false"{extra}>{hint}</div>""",
        name=name,
        label=label,
        kind=kind,
        value=value,
        autocomplete=autocomplete,
        maximum=maximum,
        extra=Html(
            (' inputmode="numeric" class="code"' if numeric else "")
            + (f' aria-describedby="{escape(name)}-hint"' if hint else "")
        ),
        hint=markup('<p class="hint" id="{name}-hint">{hint}</p>', name=name, hint=hint) if hint else "",
    )


def hidden(**values: str) -> Html:
    """Hidden fields of a form."""
    return joined(
        markup('<input type="hidden" name="{name}" value="{value}">', name=name, value=value)
        for name, value in values.items()
    )


def form(content: Html, button: str, *, second: bool = False) -> Html:
    """A form that posts to the address of its page."""
    return markup(
        '<form method="post">{content}<button type="submit"{kind}>{button}</button></form>',
        content=content,
        button=button,
        kind=Html(' class="second"' if second else ""),
    )


def link_button(url: str, text: str, *, second: bool = False) -> Html:
    """A link that looks like a button. The address was checked before: it is https, http or an app's own scheme."""
    kind = "button second" if second else "button"
    return markup('<a class="{kind}" href="{url}" rel="noreferrer">{text}</a>', kind=kind, url=url, text=text)
