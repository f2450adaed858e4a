"""E-mail addresses in the one form in which they are compared, stored and sent to.

Only addresses that every mail server takes: a dot-atom before the @ (RFC 5322, 3.2.3), a host name with a dot in it
behind it (RFC 5321, 2.3.5). Quoted local parts, comments, address literals and local parts beyond ASCII are refused;
so is a domain beyond ASCII, whose owner knows how it is written for machines (`xn--...`). What is left has no character
that means something in a header of a mail, in a path or in HTML.

Source: client-server API v1.19, "Adding Account Administrative Contact Information" (`medium` `email`); its appendix
"3PID Types" asks for the comparison in lower case.
"""

import re
import unicodedata

MAX_LENGTH = 254  # RFC 5321, 4.5.3.1.3: a path of 256 with its angle brackets
_MAX_LOCAL_PART = 64
_LOCAL_PART = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def normalised(text: str) -> str:
    """The address in lower case. Raises ValueError, with a sentence for the person who typed it."""
    address = unicodedata.normalize("NFC", text).lower()
    if len(address) > MAX_LENGTH:
        raise ValueError(f"An e-mail address has at most {MAX_LENGTH} characters.")
    if address.count("@") != 1:
        raise ValueError("An e-mail address has one @.")
    local_part, _, domain = address.partition("@")
    if len(local_part) > _MAX_LOCAL_PART or not _LOCAL_PART.fullmatch(local_part):
        raise ValueError("What stands before the @ is not written as this server can send to it.")
    if not domain.isascii():
        raise ValueError("The domain has to be written in its ASCII form, as in xn--bcher-kva.example.")
    labels = domain.split(".")
    if len(labels) < 2 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise ValueError("What stands behind the @ is no domain.")
    return address
