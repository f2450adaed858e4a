"""Write docs/spec-coverage.md: which endpoints of the specification this server answers.

    PYTHONPATH=infra:layers/homeserver/python python infra/spec_coverage.py [endpoints.json]

Reads the list of endpoints from the folder `shared` beside the checkout and compares it with
homeserver.web.known_endpoints; a test fails while the committed page is not current.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from homeserver.web.known_endpoints import known_endpoints

ROOT = Path(__file__).resolve().parent.parent
ENDPOINTS = ROOT.parent / "shared" / "spec" / "endpoints.json"
PAGE = ROOT / "docs" / "spec-coverage.md"

# What a homeserver serves. The other APIs of the specification are served by those it talks to.
APIS = {"client-server": "Client-server API", "server-server": "Server-server API (federation)"}

HEADER = """\
# Coverage of the specification

Made by `infra/spec_coverage.py` from `web/known_endpoints.py` and the list of endpoints of Matrix v{version}.
Do not edit.

**Served** means: a function answers this method and path, and what it answers follows the specification as far as the
README's table says. **Partly** has its reason in the line. **Missing** endpoints answer 404 `M_UNRECOGNIZED`.
Paths stand here as v{version} names them; where that is `v3`, `r0` is answered as well.
"""

# Endpoints that are answered, but not in all that the specification gives them.
PARTLY = {
    "getWellKnown": "404: there is no federation",
    "getWellknownSupport": "404: the operator cannot name a contact yet",
    "login": "`m.login.password` only",
    "register": "without e-mail, telephone and guest accounts",
    "sync": ("without unread counts, typing, receipts, presence, to-device messages and device lists"),
}
# The same method and path with another body: the path is known, this use of it is not.
NOT_THIS_USE = frozenset({"inviteBy3PID", "peekEvents"})


def shape(path: str) -> str:
    """A path with its parameters nameless."""
    return re.sub(r"{[^}]*}", "{}", path)


def standing(endpoint: Mapping[str, Any], known: Mapping[str, frozenset[str]]) -> str:
    """`served`, `partly` or `missing`. `known`: methods by shape of path."""
    if endpoint["operationId"] in NOT_THIS_USE or endpoint["method"] not in known.get(shape(endpoint["path"]), ()):
        return "missing"
    return "partly" if endpoint["operationId"] in PARTLY else "served"


def module_title(name: str) -> str:
    """`account_data` -> "Account data"; names with parts stay as they are."""
    return name if " / " in name else name[:1].upper() + name[1:].replace("_", " ")


def page(specification: Mapping[str, Any]) -> str:
    """The page for a list of endpoints."""
    known: dict[str, frozenset[str]] = {}
    for path, methods in known_endpoints().items():
        known[shape(path)] = known.get(shape(path), frozenset()) | methods
    parts = [HEADER.format(version=str(specification["source"]["tag"]).removeprefix("v"))]
    for api, title in APIS.items():
        endpoints = [endpoint for endpoint in specification["endpoints"] if endpoint["api"] == api]
        modules: dict[str, list[Mapping[str, Any]]] = {}
        for endpoint in sorted(endpoints, key=lambda e: (module_title(e["module"]), e["path"], e["method"])):
            modules.setdefault(module_title(endpoint["module"]), []).append(endpoint)
        parts.append(f"\n## {title}\n\n| Module | served | partly | missing |\n|---|---|---|---|\n")
        parts += [_row(module, found, known) for module, found in modules.items()]
        parts.append(_row("**Sum**", endpoints, known))
        for module, found in modules.items():
            parts.append(f"\n### {module}\n\n")
            parts += [_line(endpoint, known) for endpoint in found]
    return "".join(parts)


def _row(title: str, endpoints: Iterable[Mapping[str, Any]], known: Mapping[str, frozenset[str]]) -> str:
    count = Counter(standing(endpoint, known) for endpoint in endpoints)
    return f"| {title} | {count['served']} | {count['partly']} | {count['missing']} |\n"


def _line(endpoint: Mapping[str, Any], known: Mapping[str, frozenset[str]]) -> str:
    state = standing(endpoint, known)
    deprecated = " (deprecated)" if endpoint["deprecated"] else ""
    reason = f": {PARTLY[endpoint['operationId']]}" if state == "partly" else ""
    return f"- `{endpoint['method']} {endpoint['path']}` {endpoint['operationId']}{deprecated}, {state}{reason}\n"


def main() -> None:
    """Write the page."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else ENDPOINTS
    PAGE.write_text(page(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
