"""Everything that a warm process remembers, and how to forget it: what a cold start begins with."""


def forget_everything() -> None:
    """Empty the caches of this process, as in a function that was just started (its modules are loaded)."""
    # Models take their tables' names from the environment when they are imported: not before the server has set it.
    from homeserver.services import sync_wait
    from homeserver.storage import large_rooms, limits, rooms, server, slots, state_cache, state_nodes, timeline_cache

    rooms._authorising.clear()
    state_nodes._cache.clear()
    slots._rooms.clear()
    large_rooms._rooms.clear()
    timeline_cache._rooms.clear()
    state_cache._events.clear()
    limits._hints.clear()
    server.forget_identity()
    sync_wait.forget_epoch()
