"""The address that a server signed, from what is left of it: the decoded path and the raw query.

API Gateway hands the path over percent-decoded, and the signature is over the path as it was sent. Which characters of
an ID are escaped is the sender's choice; these are the choices that servers make. Each address here decodes to the path
that was handed over, and to nothing else: a `%`, `?` or `#` of the path is always escaped. So a signature that fits one
of them is a signature for the very path that is routed.
"""

from collections.abc import Iterator
from urllib.parse import quote

# What stands in an ID as it is, beside letters, digits and `-._~`.
_STYLES = (
    "",  # Python's quote(safe=""): Synapse and this server
    "$&+=:@",  # Go's PathEscape: Dendrite and its relatives
    "!$&'()*+,;=:@",  # RFC 3986, all that a segment may hold: most libraries in Rust
    "!*'()",  # JavaScript's encodeURIComponent
    "!$&'()*+,;=:@[]|\\",  # the path of the WHATWG's URL standard
)


def sent_uris(path: str, query: str, tail: str = "") -> Iterator[str]:
    """Every spelling of an address under which a server may have signed it, the most likely ones first.

    `path` is decoded, `query` as it was sent. `tail` is the last ID in the path, if slashes may stand in it: they were
    escaped or they were not, or all but one at the end were, with which addresses of the draft end. All other slashes
    separate.
    """
    head = path[: len(path) - len(tail)] if tail and path.endswith(tail) else path
    rest = path[len(head) :]
    behind = f"?{query}" if query else ""
    seen: set[str] = set()
    for safe in _STYLES:
        try:
            start, ends = quote(head, safe=safe + "/"), [quote(rest, safe=safe)]
            if "/" in rest:
                ends.append(quote(rest, safe=safe + "/"))
            if rest.endswith("/"):
                ends.append(quote(rest[:-1], safe=safe) + "/")
        except UnicodeEncodeError:
            return  # a lone surrogate: nobody can have sent that
        for uri in (start + end + behind for end in ends):
            if uri not in seen:
                seen.add(uri)
                yield uri
