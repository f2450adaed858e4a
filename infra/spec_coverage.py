"""Write docs/spec-coverage.md: which endpoints of the specification this server answers, and which of them are tested.

    PYTHONPATH=infra:layers/homeserver/python python infra/spec_coverage.py [--check | --page]

Reads the list of endpoints from the folder `shared` beside the checkout and compares it with
homeserver.web.known_endpoints; a test fails while the committed page is not current. Which answers the tests compare
with the specification stands in docs/spec-tests.json. The last whole test run left a record of it: without an argument
that file is made from the record, then the page. `--page` makes the page only; `--check` writes nothing, and fails if
something in the file was not compared in that run.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from homeserver.web.known_endpoints import known_endpoints

ROOT = Path(__file__).resolve().parent.parent
ENDPOINTS = ROOT.parent / "shared" / "spec" / "endpoints.json"
PAGE = ROOT / "docs" / "spec-coverage.md"
TESTS = ROOT / "docs" / "spec-tests.json"
RECORDS = ROOT / ".tools" / "compared-answers"

# What a homeserver serves. The other APIs of the specification are served by those it talks to.
APIS = {"client-server": "Client-server API", "server-server": "Server-server API (federation)"}

HEADER = """\
# Coverage of the specification

Made by `infra/spec_coverage.py` from `web/known_endpoints.py` and the list of endpoints of Matrix v{version}.
Do not edit.

**Tested** means: a test made the request, asserted its status and what its body says, and compared the body with the
specification's schema, where keys that the schema does not know are a failure. The statuses that were tested stand
behind it. **Served** endpoints are answered without such a test of the good path. **Partly** has its reason in the
line. **Missing** endpoints answer 404 `M_UNRECOGNIZED`.
Paths stand here as v{version} names them; where that is `v3`, `r0` is answered as well.
"""

# Endpoints that are answered, but not in all that the specification gives them.
PARTLY = {
    "getWellknownSupport": "404: the operator cannot name a contact yet",
    "login": "without application services",
    "register": "without telephone and application services",
    "sync": "without unread counts, presence, to-device messages and device lists",
}


def shape(path: str) -> str:
    """A path with its parameters nameless."""
    return re.sub(r"{[^}]*}", "{}", path)


def standing(
    endpoint: Mapping[str, Any], known: Mapping[str, frozenset[str]], tests: Mapping[str, Sequence[int]]
) -> str:
    """`tested`, `served`, `partly` or `missing`. `known`: methods by shape of path; `tests`: statuses by operation."""
    if endpoint["method"] not in known.get(shape(endpoint["path"]), ()):
        return "missing"
    if endpoint["operationId"] in PARTLY:
        return "partly"
    return "tested" if any(status < 400 for status in tests.get(endpoint["operationId"], ())) else "served"


_TOO_MANY = 429  # which comes only where a run is fast enough


def tested_operations(specification: Mapping[str, Any]) -> dict[str, list[int]]:
    """The statuses by operation that the last test run compared with the specification; empty without a record."""
    patterns = [(e["method"], _pattern(e["path"]), e) for e in specification["endpoints"]]
    found: dict[str, set[int]] = {}
    for record in sorted(RECORDS.glob("*.json")):
        for method, path, status in json.loads(record.read_text(encoding="utf-8")):
            modern = path.split("?")[0].replace("/_matrix/client/r0/", "/_matrix/client/v3/")
            fitting = [e for m, pattern, e in patterns if m == method and pattern.fullmatch(modern)]
            if fitting and status != _TOO_MANY:
                # The most specific: the one with the most fixed characters.
                best = max(fitting, key=lambda e: len(re.sub(r"{[^}]*}", "", e["path"])))
                found.setdefault(best["operationId"], set()).add(status)
    return {operation: sorted(statuses) for operation, statuses in sorted(found.items())}


def _pattern(path: str) -> re.Pattern[str]:
    """What requests to a path look like. A parameter may have slashes, as state keys and IDs have them."""
    parts = re.split(r"({[^}]*})", path)
    return re.compile("".join(".*" if part.startswith("{") else re.escape(part) for part in parts))


def module_title(name: str) -> str:
    """`account_data` -> "Account data"; names with parts stay as they are."""
    return name if " / " in name else name[:1].upper() + name[1:].replace("_", " ")


def page(specification: Mapping[str, Any], tests: Mapping[str, Sequence[int]]) -> str:
    """The page for a list of endpoints; `tests`: statuses by operation."""
    known: dict[str, frozenset[str]] = {}
    for path, methods in known_endpoints().items():
        known[shape(path)] = known.get(shape(path), frozenset()) | methods
    parts = [HEADER.format(version=str(specification["source"]["tag"]).removeprefix("v"))]
    for api, title in APIS.items():
        endpoints = [endpoint for endpoint in specification["endpoints"] if endpoint["api"] == api]
        modules: dict[str, list[Mapping[str, Any]]] = {}
        for endpoint in sorted(endpoints, key=lambda e: (module_title(e["module"]), e["path"], e["method"])):
            modules.setdefault(module_title(endpoint["module"]), []).append(endpoint)
        parts.append(f"\n## {title}\n\n| Module | tested | served | partly | missing |\n|---|---|---|---|---|\n")
        parts += [_row(module, found, known, tests) for module, found in modules.items()]
        parts.append(_row("**Sum**", endpoints, known, tests))
        for module, found in modules.items():
            parts.append(f"\n### {module}\n\n")
            parts += [_line(endpoint, known, tests) for endpoint in found]
    return "".join(parts)


def _row(
    title: str,
    endpoints: Iterable[Mapping[str, Any]],
    known: Mapping[str, frozenset[str]],
    tests: Mapping[str, Sequence[int]],
) -> str:
    count = Counter(standing(endpoint, known, tests) for endpoint in endpoints)
    return f"| {title} | {count['tested']} | {count['served']} | {count['partly']} | {count['missing']} |\n"


def _line(endpoint: Mapping[str, Any], known: Mapping[str, frozenset[str]], tests: Mapping[str, Sequence[int]]) -> str:
    state = standing(endpoint, known, tests)
    deprecated = " (deprecated)" if endpoint["deprecated"] else ""
    reason = f": {PARTLY[endpoint['operationId']]}" if state == "partly" else ""
    statuses = ", ".join(str(status) for status in tests.get(endpoint["operationId"], ()))
    tested = (
        f" ({statuses})" if state == "tested" else f" (tested: {statuses})" if state == "partly" and statuses else ""
    )
    return (
        f"- `{endpoint['method']} {endpoint['path']}` {endpoint['operationId']}{deprecated}, {state}{tested}{reason}\n"
    )


def read_tests() -> dict[str, list[int]]:
    """docs/spec-tests.json."""
    return dict(json.loads(TESTS.read_text(encoding="utf-8")))


def not_compared(claimed: Mapping[str, Sequence[int]], recorded: Mapping[str, Sequence[int]]) -> list[str]:
    """What is claimed to be tested, and was not in the recorded run."""
    return [
        f"{operation} {status}"
        for operation, statuses in claimed.items()
        for status in statuses
        if status not in recorded.get(operation, ())
    ]


def main() -> int:
    """Write file and page, or check the file."""
    if not ENDPOINTS.is_file():
        print(f"nothing to do: {ENDPOINTS} is absent")
        return 0
    specification = json.loads(ENDPOINTS.read_text(encoding="utf-8"))
    mode = sys.argv[1] if len(sys.argv) > 1 else ""
    if mode == "--check":
        missing = not_compared(read_tests(), tested_operations(specification))
        for line in missing:
            print(f"docs/spec-tests.json says that this is tested, and no test of the last run compared it: {line}")
        return 1 if missing else 0
    if mode != "--page":
        recorded = tested_operations(specification)
        if not recorded:
            print("there is no record of a test run: run `make test` first")
            return 1
        rows = ",\n".join(
            f"  {json.dumps(operation)}: {json.dumps(statuses)}" for operation, statuses in recorded.items()
        )
        TESTS.write_text("{\n" + rows + "\n}\n", encoding="utf-8")
    PAGE.write_text(page(specification, read_tests()), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
