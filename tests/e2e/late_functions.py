"""The cold local run in which rows are late: `python -m e2e.late_functions`.

A change of a room's state that is too large for its commit takes a fork that undoes very much. So that every function
meets rooms whose rows are behind, the power levels of each new room do not get their row with the commit here, and a
row of a member is there whom the state does not have. `LATE_ROWS=stay`: nobody brings the rows along.
"""

import os
import sys
from functools import cache
from typing import Any

from e2e import cold_functions
from local.__main__ import main
from local.invoke import Functions

LATE = ("m.room.power_levels", "")


@cache
def make_rows_late() -> None:
    """Change what commits do with rows; when the server has set the environment, which names the tables."""
    from homeserver.matrix import state_tree
    from homeserver.services import inboxes, rows_follow
    from homeserver.services.room_changes import RoomChanges
    from homeserver.settings import settings
    from homeserver.storage.commit import NewState

    change_rows = RoomChanges._change_rows

    def leave_behind(room: RoomChanges, root: bytes, changes: Any, own: Any, *, acting: bool) -> None:
        shown, is_new = room._rows_root, room.view is None
        change_rows(room, root, changes, own, acting=acting)
        if own is None or own.key != LATE or not is_new:
            return
        del room.rows.state[LATE]
        nobody = ("m.room.member", f"@nobody:{settings().server_name}")
        room.rows.state[nobody] = NewState(nobody, own, room.position, None, None)
        update = state_tree.update(room.nodes, shown, {nobody: own.event_id})
        room.nodes.add(update.new_nodes)
        room._rows_root = update.root

    RoomChanges._change_rows = leave_behind  # type: ignore[method-assign]  # the place where rows follow a change
    rows_follow.ROWS_AT_ONCE = 1  # so that there is a state between two
    if os.environ["LATE_ROWS"] == "stay":
        inboxes.follow_rows = lambda *_args, **_options: True


def _call_late(functions: Functions, name: str, event: Any, request_id: str | None = None) -> Any:
    make_rows_late()
    return cold_functions._call_cold(functions, name, event, request_id)


if __name__ == "__main__":
    Functions.call = _call_late  # type: ignore[method-assign]  # the one place through which every function runs
    sys.exit(main())
