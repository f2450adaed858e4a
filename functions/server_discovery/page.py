"""The page that a browser gets at `/`: what this is, and what to tell a client."""

from homeserver.web.pages import Html, Page, facts, joined, paragraph

_REGISTRATION = {
    "open": "Anybody may register an account here.",
    "token": "Registering an account takes a registration token from the operator.",
    "closed": "No new accounts can be registered here.",
}


def front_page(server_name: str, base_url: str, registration: str) -> Page:
    """The page. `server_name` and `base_url` may be empty where they are not known yet."""
    what = "This is Eigenserver. It keeps conversations of the Matrix network; talk with any Matrix client."
    told = joined([paragraph(what), *_how_to_talk(server_name, base_url, registration)])
    return Page("A Matrix homeserver", told, server_name)


def _how_to_talk(server_name: str, base_url: str, registration: str) -> list[Html]:
    if not server_name:
        text = "It has no name yet, so nobody can have an account: the operator has to set the server name."
        return [paragraph(text)]
    told = [
        ("Homeserver address, for your client", base_url),
        ("Your user ID is then", f"@you:{server_name}"),
        ("With curl", f"curl {base_url}/_matrix/client/versions" if base_url else ""),
    ]
    return [facts(told), paragraph(_REGISTRATION[registration])]
