"""The shell of pages: what is escaped, what a policy lets in, and colours that can be read."""

import re

import pytest

from homeserver.web.page_style import DARK, LIGHT, STYLE
from homeserver.web.pages import (
    Html,
    Page,
    escape,
    facts,
    field,
    form,
    hidden,
    link_button,
    markup,
    origin_of,
    page_response,
    problem,
    redirect,
    success,
)

HOSTILE = "\"'><script>&amp;"
ESCAPED = "&quot;&#x27;&gt;&lt;script&gt;&amp;amp;"


def test_whatever_is_filled_in_is_escaped_but_markup_itself() -> None:
    assert markup("<p>{text}</p>", text=HOSTILE) == f"<p>{ESCAPED}</p>"
    assert markup("<p>{text}</p>", text=Html("<b>{braces}</b>")) == "<p><b>{braces}</b></p>"
    assert markup("{number}", number=7) == "7"
    assert escape(escape(HOSTILE)) == ESCAPED


@pytest.mark.parametrize(
    "made",
    [
        problem(HOSTILE),
        success(HOSTILE),
        facts([(HOSTILE, HOSTILE)]),
        field("name", HOSTILE, value=HOSTILE, hint=HOSTILE, autocomplete=HOSTILE),
        hidden(session=HOSTILE),
        form(escape(HOSTILE), HOSTILE),
        link_button(f"https://x/{HOSTILE}", HOSTILE, second=True),
    ],
)
def test_no_piece_of_a_page_lets_a_text_become_markup(made: Html) -> None:
    assert ESCAPED in made
    assert "<script>" not in made
    assert "\"'" not in made


def test_a_list_of_nothing_is_nothing() -> None:
    assert facts([("Account", None), ("On", "")]) == ""


def document(page: Page) -> tuple[str, dict[str, list[str]]]:
    response = page_response(page)
    policy = response.headers["content-security-policy"]
    return bytes(response.body).decode(), {name: s for name, *s in (part.split() for part in policy.split(";"))}


def test_a_page_without_a_script_runs_none_and_asks_nobody() -> None:
    html, policy = document(Page(HOSTILE, Html("<p>x</p>"), HOSTILE))
    assert "<script" not in html
    assert html.count(ESCAPED) == 4  # the title twice, each with the server's name
    assert policy["script-src"] == ["'none'"]
    assert policy["connect-src"] == ["'none'"]
    assert policy["form-action"] == ["'self'"]


def test_what_a_script_is_handed_cannot_end_it() -> None:
    html, policy = document(Page("x", Html(""), script="run();", data='{"a": "</script><!--"}'))
    assert '{"a": "\\u003c/script>\\u003c!--"}' in html
    (nonce,) = policy["script-src"]
    assert re.findall(r'<script nonce="([^"]+)">run\(\);</script>', html) == [nonce[7:-1]]


def test_a_page_may_name_whom_it_needs_besides_itself() -> None:
    foreign = {"img-src": ("https://a.example",), "frame-src": ("https://b.example",)}
    _, policy = document(Page("x", Html(""), foreign=foreign))
    assert policy["img-src"] == ["data:", "https://a.example"]
    assert policy["frame-src"] == ["https://b.example"]


def test_a_redirect_tells_nobody_where_from() -> None:
    response = redirect("https://a.example/?x=1", 302)
    assert response.status_code == 302
    assert response.headers["location"] == "https://a.example/?x=1"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a.example:8443/x?y#z", "https://a.example:8443"),
        ("http://a.example", "http://a.example"),
        ("org.example.app://x", "org.example.app:"),
    ],
)
def test_the_origin_of_an_address_is_what_policies_name(url: str, origin: str) -> None:
    assert origin_of(url) == origin


# ── Colours ─────────────────────────────────────────────────────────────────────────────────────────


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


TEXTS = [
    *(("text", ground) for ground in ("ground", "card")),
    *(("quiet", ground) for ground in ("ground", "card")),
    *(("accent", ground) for ground in ("ground", "card")),
    ("on-accent", "accent"),
    ("bad", "bad-ground"),
    ("bad", "card"),
    ("good", "good-ground"),
]


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXTS)
def test_every_text_can_be_read(colours: dict[str, str], text: str, ground: str) -> None:
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_the_edge_of_a_field_and_the_focus_can_be_seen(colours: dict[str, str]) -> None:
    assert contrast(colours["edge"], colours["card"]) >= 3
    assert contrast(colours["accent"], colours["card"]) >= 3


def test_the_contrast_of_black_on_white_is_what_it_must_be() -> None:
    assert contrast("#000000", "#ffffff") == 21
    assert round(contrast("#777777", "#ffffff"), 2) == 4.48


def test_both_schemes_have_the_same_colours_and_the_style_uses_no_others() -> None:
    assert set(LIGHT) == set(DARK)
    assert set(re.findall(r"var\(--([a-z-]+)\)", STYLE)) == set(LIGHT)
    beyond = STYLE.partition("*, *::before")[2]
    assert re.findall(r"#[0-9a-f]{3,8}\b(?! >)|rgba?\(|url\(|@import", beyond) == []
