"""Which servers may take part in a room: `m.room.server_acl`.

Source: Matrix v1.19, client-server API, "Server Access Control Lists (ACLs) for rooms" and `m.room.server_acl`;
appendices, "Glob-style matching".
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_PORT = re.compile(r":[0-9]*\Z")
# By the grammar of server names, not by which addresses exist: 999.1.1.1 is none, and no name either.
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")


def allows(content: Mapping[str, Any] | None, server_name: str) -> bool:
    """Whether a server access control list lets a server take part in the room.

    content: that of the room's `m.room.server_acl` event, None where it has none: then everybody may. Lists that are
        none count as empty, entries that are no strings are passed over, an `allow_ip_literals` that is no boolean
        counts as true. So a list without a usable `allow` shuts everybody out, this server included.
    server_name: with or without a port, which never matters.
    """
    if content is None:
        return True
    host = _without_port(server_name).lower()
    if content.get("allow_ip_literals") is False and _is_ip_literal(host):
        return False
    if _matches_any(content.get("deny"), host):
        return False
    return _matches_any(content.get("allow"), host)


def _without_port(server_name: str) -> str:
    if server_name.startswith("["):
        # The colons within the brackets are the address's own.
        address, bracket, _ = server_name.partition("]")
        return address + bracket
    return _PORT.sub("", server_name)


def _is_ip_literal(host: str) -> bool:
    return host.startswith("[") or _IPV4.fullmatch(host) is not None


def _matches_any(globs: Any, host: str) -> bool:
    return isinstance(globs, list) and any(isinstance(glob, str) and matches_glob(glob, host) for glob in globs)


def matches_glob(glob: str, host: str) -> bool:
    """Whether a host, in lower case, matches a glob in any case: `*` stands for any characters, `?` for one.

    Takes time in proportion to the lengths of both, whatever the glob: these come from strangers.
    """
    if not glob.isascii():
        return False  # server names are ASCII, and no other character may pass for one of theirs in lower case
    glob = glob.lower()
    if "*" not in glob:
        return _fits(glob, host) if "?" in glob else glob == host
    first, *middle, last = glob.split("*")
    end = len(host) - len(last)
    if len(first) > end or not _fits(first, host[: len(first)]) or not _fits(last, host[end:]):
        return False
    return _in_order(middle, host[len(first) : end])


def _fits(part: str, text: str) -> bool:
    """Whether a part of a glob that has no `*` is all of a text."""
    if len(part) != len(text):
        return False
    return part == text or all(wanted in ("?", found) for wanted, found in zip(part, text, strict=True))


def _in_order(parts: Sequence[str], text: str) -> bool:
    """Whether the parts between the asterisks stand in a text, one behind the other: each as early as it can."""
    at = 0
    for part in parts:
        if not part:
            continue
        at = _find(part, text, at)
        if at < 0:
            return False
        at += len(part)
    return True


def _find(part: str, text: str, start: int) -> int:
    if "?" not in part:
        return text.find(part, start)
    places = range(start, len(text) - len(part) + 1)
    return next((at for at in places if _fits(part, text[at : at + len(part)])), -1)
