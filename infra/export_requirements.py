"""Export the packages of the Lambda functions from requirements.lock to layers/dependencies/requirements.txt.

The lock covers the functions, the local run and the tests. What the functions import is the closure of
`[project].dependencies`, which the lock's "# via" comments spell out; versions and hashes are taken over as they stand.
Run it after every change of the lock (`make requirements`); a test fails while the exported file is not current.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
EXPORT = ROOT / "layers" / "dependencies" / "requirements.txt"

PROJECT = "eigenserver (pyproject.toml)"
"""How the lock names `[project].dependencies` as the reason for a package."""

NOT_NEEDED = {
    "pycparser": "cffi needs it to compile declarations; the wheels of argon2 and PyNaCl are compiled already",
}
"""Packages that their dependents name but that no Lambda function imports, each with the reason."""

HEADER = """\
# Exported from requirements.lock by infra/export_requirements.py: what the Lambda functions import. Do not edit.
"""

_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==")
_VIA = re.compile(r"^ +# +(?:via +)?(\S.*)$")


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One package of the lock: its lines with version, marker and hashes, and who asked for it."""

    name: str
    lines: tuple[str, ...]
    wanted_by: frozenset[str]


def locked_packages(lock: str) -> list[LockedPackage]:
    """Parse the text of a lock written by `uv pip compile`, in its order."""
    packages: list[LockedPackage] = []
    name, lines, wanted_by = "", list[str](), set[str]()

    def finish() -> None:
        if name:
            packages.append(LockedPackage(name, tuple(lines), frozenset(wanted_by)))

    for line in lock.splitlines():
        if match := _REQUIREMENT.match(line):
            finish()
            name, lines, wanted_by = match[1], [line], set()
        elif line.startswith("    --hash="):
            lines.append(line)
        elif name and (match := _VIA.match(line)) and match[1] != "via":
            wanted_by.add(match[1])
    finish()
    return packages


def closure(packages: list[LockedPackage]) -> list[LockedPackage]:
    """Those packages that `[project].dependencies` need, directly or through others, in the order given."""
    wanted = {PROJECT}
    while True:
        found = {p.name for p in packages if p.wanted_by & wanted and p.name not in NOT_NEEDED}
        if found <= wanted:
            return [p for p in packages if p.name in wanted]
        wanted |= found


def export(lock: str) -> str:
    """The text of layers/dependencies/requirements.txt for the text of a lock."""
    return HEADER + "".join("\n".join(package.lines) + "\n" for package in closure(locked_packages(lock)))


def main() -> None:
    EXPORT.write_text(export(LOCK.read_text()))
    print(f"{EXPORT.relative_to(ROOT)}: {len(closure(locked_packages(LOCK.read_text())))} packages")


if __name__ == "__main__":
    main()
