"""Everything that a warm process remembers, and how to forget it: what a cold start begins with."""


def forget_everything() -> None:
    """Empty the caches of this process, as in a function that was just started (its modules are loaded)."""
    # Models take their tables' names from the environment when they are imported: not before the server has set it.
    from homeserver.adapters import federation_http, oauth_client, server_resolution
    from homeserver.services import (
        destinations,
        ignored_users,
        lazy_members,
        profile,
        remote_hierarchy,
        resolve_state,
        room_summary,
        server_keys,
        sync_wait,
    )
    from homeserver.storage import (
        auth_events,
        large_rooms,
        limits,
        open_rooms,
        published_rooms,
        relations,
        room_counts,
        rooms,
        server,
        slots,
        state_cache,
        state_nodes,
        timeline_cache,
    )

    rooms._authorising.clear()
    state_nodes._cache.clear()
    resolve_state._resolved.clear()
    for cache in (auth_events._records, auth_events._leaves, auth_events._taken):
        cache.clear()
    slots._rooms.clear()
    large_rooms._rooms.clear()
    timeline_cache._rooms.clear()
    timeline_cache._roots.clear()
    timeline_cache._aggregated.clear()
    relations._parents.clear()
    state_cache._events.clear()
    limits._hints.clear()
    room_counts._known.clear()
    room_summary._unsaved.clear()
    lazy_members._told.clear()
    ignored_users._lists.clear()
    open_rooms.forget_open_rooms()
    published_rooms.forget_searchable()
    server.forget_identity()
    sync_wait.forget_epoch()
    server_keys.forget_keys()
    server_resolution.forget_servers()
    oauth_client.forget_providers()
    federation_http.close_connections()
    destinations.forget_destinations()
    remote_hierarchy.forget_hierarchies()
    profile.forget_profiles()
