"""The templates of mails: built in, or the operator's.

Each mail has two, `<name>.txt` and `<name>.html`. The first line of the text is `Subject: ...`, then comes an empty
line. `frame.html` stands around every HTML part; its `$content` is that part. A value is written `$name` or `${name}`,
a dollar sign `$$`. A file of the same name in the folder MAIL_TEMPLATES takes the place of a built-in one.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template

from homeserver.settings import settings

_SUBJECT = "Subject:"


@dataclass(frozen=True, slots=True)
class Written:
    """A mail that is ready to be sent."""

    subject: str
    text: str
    html: str


def written(name: str, values: Mapping[str, str]) -> Written:
    """A template with values in it; in HTML they are escaped, and nowhere do they begin a new line.

    Raises KeyError for a name in a template that has no value, ValueError for a template that is none.
    """
    plain = {key: _on_one_line(value) for key, value in values.items()}
    first, _, rest = _template(f"{name}.txt").partition("\n")
    if not first.startswith(_SUBJECT):
        raise ValueError(f"the first line of {name}.txt must be its {_SUBJECT}")
    subject = Template(first.removeprefix(_SUBJECT).strip()).substitute(plain)
    text = Template(rest.lstrip("\n")).substitute(plain)
    escaped = {key: html.escape(value) for key, value in plain.items()}
    content = Template(_template(f"{name}.html")).substitute(escaped)
    page = Template(_template("frame.html")).substitute(escaped, subject=html.escape(subject), content=content)
    return Written(subject, text, page)


def _on_one_line(value: str) -> str:
    """A value without characters that end lines, hide, or turn the direction of writing."""
    return "".join(letter if letter.isprintable() else " " for letter in value)


@cache
def _template(file_name: str) -> str:
    folder = settings().mail_templates
    if folder:
        own = Path(folder) / file_name
        if own.is_file():
            return own.read_text(encoding="utf-8")
    return files("homeserver").joinpath("mail_templates", file_name).read_text(encoding="utf-8")


def forget_templates() -> None:
    """Read the templates anew when they are needed: for who changed the setting."""
    _template.cache_clear()
