"""The example of a client of 2014, `docs/examples/2014/index.html`, at `/2014` of the local run alone.

AWS serves nothing but the API: there the page would be put wherever one keeps static files.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from local.gateway import Answer

PATH = "/2014"
_FILE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "2014" / "index.html"


def example_page(path: str, client: str, headers: Mapping[str, str]) -> Answer | None:
    """The answer to GET of this path, None if it is no example."""
    if path.rstrip("/") != PATH or not _FILE.is_file():
        return None
    content = _FILE.read_bytes()
    return (
        200,
        content,
        [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"referrer-policy", b"no-referrer"),
            (b"x-content-type-options", b"nosniff"),
            (b"content-security-policy", _policy(content.decode()).encode()),
        ],
    )


def _policy(page: str) -> str:
    """What the page may do: run and show what stands in it, and talk to this server."""
    script, style = (_hash(page, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(page: str, tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digest = sha256(found[1].encode() if found else b"").digest()
    return f"'sha256-{b64encode(digest).decode()}'"
