"""Which algorithm resolves the forks of a room."""

from homeserver.matrix.ports import AuthEvents
from homeserver.matrix.room_versions import RoomVersionRules, StateResolution
from homeserver.matrix.state_nodes import Key
from homeserver.matrix.state_resolution.auth_graph import AuthGraph
from homeserver.matrix.state_resolution.forks import Forks
from homeserver.matrix.state_resolution.v1 import resolve_v1
from homeserver.matrix.state_resolution.v2 import resolve_v2


def resolve(rules: RoomVersionRules, forks: Forks, auth: AuthEvents) -> dict[Key, str | None]:
    """The event of every conflicted key in the resolved state; None for a key that the state then does not have.

    All unconflicted entries stay as they are. From room version 2 on the result may also have keys that none of the
    forks has: events which an earlier resolution lost, and which come back with the auth chains. The new tree is
    `state_tree.update` of any fork's root with the result. Neither the order of the forks nor repeated ones make a
    difference.
    Raises MissingAuthEvents where the auth graph is not whole.
    """
    if not forks.conflicted:
        return {}
    graph = AuthGraph(auth)
    if rules.state_resolution is StateResolution.V1:
        return resolve_v1(rules, forks, graph)
    return resolve_v2(rules, forks, graph)
