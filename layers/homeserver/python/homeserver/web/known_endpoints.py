"""Every path this server answers, with its methods: what tells a wrong method (405) from an unknown path (404).

A function knows its own endpoints only, and importing the other functions' would make each start as slow as all of
them. So the list stands here a second time; a test compares it with the routers. `{name}` is one segment of a path,
`{name...}` takes the rest, `{version}` is one of the versions of its table.
"""

import re
from functools import cache

from homeserver.web.endpoints import LEGACY

_R0_V3 = {
    # client_login
    "/login": "GET POST",
    "/logout": "POST",
    "/logout/all": "POST",
    "/refresh": "POST",
    "/register": "POST",
    "/register/available": "GET",
    "/register/email/requestToken": "POST",
    "/register/msisdn/requestToken": "POST",
    # client_login_pages
    "/auth/{stage_type}/fallback/web": "GET POST",
    "/login/sso/redirect": "GET",
    "/login/sso/redirect/{idp_id}": "GET",
    # client_account
    "/account/whoami": "GET",
    "/account/password": "POST",
    "/account/password/email/requestToken": "POST",
    "/account/password/msisdn/requestToken": "POST",
    "/account/3pid": "GET POST",
    "/account/3pid/add": "POST",
    "/account/3pid/delete": "POST",
    "/account/3pid/email/requestToken": "POST",
    "/account/3pid/msisdn/requestToken": "POST",
    "/account/deactivate": "POST",
    "/capabilities": "GET",
    "/devices": "GET",
    "/devices/{device_id...}": "GET PUT DELETE",
    "/delete_devices": "POST",
    # client_user
    "/profile/{user_id...}": "GET",
    "/profile/{user_id}/{key_name}": "GET PUT DELETE",
    "/user/{user_id}/account_data/{data_type...}": "GET PUT",
    "/user/{user_id}/rooms/{room_id}/account_data/{data_type...}": "GET PUT",
    "/user/{user_id}/rooms/{room_id}/tags": "GET",
    "/user/{user_id}/rooms/{room_id}/tags/{tag...}": "PUT DELETE",
    "/user/{user_id}/filter": "POST",
    "/user/{user_id}/filter/{filter_id}": "GET",
    "/user/{user_id}/openid/request_token": "POST",
    # client_rooms
    "/createRoom": "POST",
    "/join/{room_id_or_alias...}": "POST",
    "/knock/{room_id_or_alias...}": "POST",
    "/rooms/{room_id}/join": "POST",
    "/rooms/{room_id}/invite": "POST",
    "/rooms/{room_id}/leave": "POST",
    "/rooms/{room_id}/kick": "POST",
    "/rooms/{room_id}/ban": "POST",
    "/rooms/{room_id}/unban": "POST",
    "/rooms/{room_id}/forget": "POST",
    "/rooms/{room_id}/upgrade": "POST",
    "/rooms/{room_id}/aliases": "GET",
    "/joined_rooms": "GET",
    "/directory/room/{alias...}": "GET PUT DELETE",
    # client_events and client_history
    "/rooms/{room_id}/send/{event_type}/{txn_id...}": "PUT",
    "/rooms/{room_id}/redact/{event_id}/{txn_id...}": "PUT",
    "/rooms/{room_id}/state": "GET",
    "/rooms/{room_id}/state/{event_type}": "GET PUT",
    "/rooms/{room_id}/state/{event_type}/": "GET PUT",
    "/rooms/{room_id}/state/{event_type}/{state_key...}": "GET PUT",
    "/rooms/{room_id}/messages": "GET",
    "/rooms/{room_id}/event/{event_id...}": "GET",
    "/rooms/{room_id}/context/{event_id...}": "GET",
    "/rooms/{room_id}/members": "GET",
    "/rooms/{room_id}/joined_members": "GET",
    "/rooms/{room_id}/initialSync": "GET",
    "/events/{event_id...}": "GET",
    # client_ephemeral
    "/rooms/{room_id}/typing/{user_id...}": "PUT",
    "/rooms/{room_id}/receipt/{receipt_type}/{event_id...}": "POST",
    "/rooms/{room_id}/read_markers": "POST",
    # client_directory
    "/publicRooms": "GET POST",
    "/directory/list/room/{room_id...}": "GET PUT",
    "/user_directory/search": "POST",
    # client_search
    "/search": "POST",
    "/rooms/{room_id}/report": "POST",
    "/rooms/{room_id}/report/{event_id...}": "POST",
    "/users/{user_id}/report": "POST",
    # client_sync
    "/sync": "GET",
    "/events": "GET",
    "/initialSync": "GET",
}

_V1 = {
    # client_login
    "/login/get_token": "POST",
    "/register/m.login.registration_token/validity": "GET",
    # client_history
    "/rooms/{room_id}/timestamp_to_event": "GET",
    "/rooms/{room_id}/relations/{event_id}": "GET",
    "/rooms/{room_id}/relations/{event_id}/{rel_type}": "GET",
    "/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type...}": "GET",
    "/rooms/{room_id}/threads": "GET",
    # client_directory
    "/room_summary/{room_id_or_alias...}": "GET",
    "/rooms/{room_id}/hierarchy": "GET",
    "/mutual_rooms": "GET",
}

_FEDERATION_V1 = {
    # federation_keys
    "/version": "GET",
    # federation_query
    "/event/{event_id...}": "GET",
    "/state/{room_id}": "GET",
    "/state/{room_id}/": "GET",
    "/context/{room_id}/": "GET",
    "/pdu/{origin}/{pdu_id...}": "GET",
    "/state_ids/{room_id}": "GET",
    "/event_auth/{room_id}/{event_id...}": "GET",
    "/backfill/{room_id}": "GET",
    "/get_missing_events/{room_id}": "POST",
    "/timestamp_to_event/{room_id}": "GET",
    "/hierarchy/{room_id}": "GET",
    "/publicRooms": "GET POST",
    "/query/directory": "GET",
    "/query/profile": "GET",
    "/query/{query_type}": "GET",
    "/user/devices/{user_id...}": "GET",
    "/user/keys/query": "POST",
    "/user/keys/claim": "POST",
    "/openid/userinfo": "GET",
    # federation_transactions
    "/send/{txn_id...}": "PUT",
    "/pull": "GET",
    "/pull/": "GET",
    # federation_rooms
    "/make_join/{room_id}/{user_id...}": "GET",
    "/send_join/{room_id}/{event_id...}": "PUT",
    "/make_leave/{room_id}/{user_id...}": "GET",
    "/send_leave/{room_id}/{event_id...}": "PUT",
    "/make_knock/{room_id}/{user_id...}": "GET",
    "/send_knock/{room_id}/{event_id...}": "PUT",
    "/invite/{room_id}/{event_id...}": "PUT",
    "/exchange_third_party_invite/{room_id...}": "PUT",
    "/3pid/onbind": "PUT",
}

_FEDERATION_V2 = {
    # federation_rooms
    "/send_join/{room_id}/{event_id...}": "PUT",
    "/send_leave/{room_id}/{event_id...}": "PUT",
    "/invite/{room_id}/{event_id...}": "PUT",
}

_UNVERSIONED = {
    # server_discovery
    "/": "GET",
    "/_matrix/client/versions": "GET",
    "/.well-known/matrix/client": "GET",
    "/.well-known/matrix/server": "GET",
    "/.well-known/matrix/support": "GET",
    # federation_keys
    "/_matrix/key/v1": "GET",
    "/_matrix/key/v2/server": "GET",
    "/_matrix/key/v2/query": "POST",
    "/_matrix/key/v2/query/{server_name}": "GET",
    # client_login
    "/_synapse/admin/v1/register": "GET POST",
    # client_login_pages
    "/_matrix/static/client/login/": "GET",
    "/_matrix/client/unstable/org.eigenserver/validate/email/submit_token": "GET POST",
    # client_account
    "/_matrix/client/unstable/org.eigenserver/oauth2/link": "POST",
    "/_matrix/client/unstable/org.eigenserver/oauth2/links": "GET",
    "/_matrix/client/unstable/org.eigenserver/oauth2/links/{link_id}": "DELETE",
    # server_admin
    "/_synapse/admin/v1/send_server_notice": "POST",
    "/_synapse/admin/v1/send_server_notice/{txn_id...}": "PUT",
    # client_directory
    "/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias...}": "GET",
    "/_matrix/client/unstable/im.nheko.summary/rooms/{room_id_or_alias}/summary": "GET",
    "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms": "GET",
}

# The client API of the 2014 draft, under each of its prefixes (LEGACY in endpoints.py).
_LEGACY = {
    # client_login
    "/login": "GET POST",
    "/register": "GET POST",
    # client_login_pages
    "/login/fallback": "GET",
    "/login/email/confirm": "GET POST",
    "/login/oauth2/pick": "GET",
    "/login/oauth2/callback": "GET",
    # client_account
    "/admin/whois/{user_id...}": "GET",
    # client_sync
    "/events": "GET",
    "/initialSync": "GET",
    # client_legacy_events, and client_legacy_rooms where something is written
    "/events/{event_id...}": "GET",
    "/rooms/{room_id}/members": "GET",
    "/rooms/{room_id}/state": "GET",
    "/rooms/{room_id}/state/{event_type}": "GET PUT",
    "/rooms/{room_id}/state/{event_type}/": "GET PUT",
    "/rooms/{room_id}/state/{event_type}/{state_key...}": "GET",
    "/publicRooms": "GET",
    "/directory/room/{alias...}": "GET PUT DELETE",
    "/profile/{user_id}/displayname": "GET PUT",
    "/profile/{user_id}/avatar_url": "GET PUT",
    "/profile/{user_id...}": "GET",
    # client_legacy_rooms
    "/createRoom": "POST",
    "/createRoom/{txn_id...}": "PUT",
    "/join/{rest...}": "POST PUT",
    "/rooms/{room_id}/join": "POST",
    "/rooms/{room_id}/join/{txn_id...}": "PUT",
    "/rooms/{room_id}/leave": "POST",
    "/rooms/{room_id}/leave/{txn_id...}": "PUT",
    "/rooms/{room_id}/invite": "POST",
    "/rooms/{room_id}/invite/{txn_id...}": "PUT",
    "/rooms/{room_id}/kick": "POST",
    "/rooms/{room_id}/kick/{txn_id...}": "PUT",
    "/rooms/{room_id}/ban": "POST",
    "/rooms/{room_id}/ban/{txn_id...}": "PUT",
    "/rooms/{room_id}/send/{event_type}": "POST",
    "/rooms/{room_id}/send/{event_type}/{txn_id...}": "PUT",
    "/rooms/{room_id}/state/{event_type}/{state_key}": "PUT",
    "/rooms/{room_id}/redact/{rest...}": "POST PUT",
    "/rooms/{room_id}/typing/{user_id...}": "PUT",
    # client_history
    "/rooms/{room_id}/initialSync": "GET",
    "/rooms/{room_id}/messages": "GET",
    "/rooms/{room_id}/backfill": "GET",
}

_PARAMETER = re.compile(r"(\{[a-z_]+(?:\.\.\.)?\})")


def known_endpoints() -> dict[str, frozenset[str]]:
    """The methods of every path, with its version written out and its parameters as above."""
    methods = {path: frozenset(words.split()) for path, words in _UNVERSIONED.items()}
    for versions, table in ((("r0", "v3"), _R0_V3), (("v1",), _V1)):
        for version in versions:
            methods |= {f"/_matrix/client/{version}{path}": frozenset(words.split()) for path, words in table.items()}
    for version, table in (("v1", _FEDERATION_V1), ("v2", _FEDERATION_V2)):
        for path, words in table.items():
            methods[f"/_matrix/federation/{version}{path}"] = frozenset(words.split())
    for prefix in LEGACY:
        methods |= {f"/{prefix}{path}": frozenset(words.split()) for path, words in _LEGACY.items()}
    return methods


def methods_at(path: str) -> frozenset[str]:
    """The methods that some function of this server answers at a path; empty for an unknown one."""
    return frozenset().union(*(methods for pattern, methods in _patterns() if pattern.fullmatch(path)))


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], frozenset[str]], ...]:
    return tuple((re.compile(expression(path)), methods) for path, methods in known_endpoints().items())


def expression(path: str) -> str:
    """The regular expression that a path with parameters, as they are written above, stands for."""
    parts = _PARAMETER.split(path)
    return "".join(
        (".*" if part.endswith("...}") else "[^/]+") if part[:1] == "{" else re.escape(part) for part in parts
    )
