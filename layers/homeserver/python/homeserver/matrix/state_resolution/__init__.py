"""State resolution: which state a room has where its forks meet.

Source: "State resolution" of room version 1 (algorithm 1), 2 to 11 (algorithm 2) and 12 (algorithm 2.1).

`resolve` is a pure function of the forks, in whatever order they come, and of the auth graph behind them. It reads the
graph by chain cover (`homeserver.matrix.chain_cover`) in a number of port calls that does not depend on how long the
room's history is.
"""

from homeserver.matrix.state_resolution.auth_graph import MissingAuthEvents
from homeserver.matrix.state_resolution.forks import Forks, fork_states
from homeserver.matrix.state_resolution.resolution import resolve

__all__ = ["Forks", "MissingAuthEvents", "fork_states", "resolve"]
