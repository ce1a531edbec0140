"""Where a node finds its place in a running cluster: `raft_node.py <id> --join <address> ...`.

A node that joins is not told who the members are: it asks them. The cluster's configuration has to name it already
(`ADD <id>=<address>`), and says at which address it is expected to listen. Everything else it learns from the log that
the leader sends it: until then it belongs to no configuration, and never stands for election.

A node that has joined before knows its place; it asks all the same, since its address may have been changed while it
was away, but goes on with what it knows if nobody answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from raftkv.errors import NotApplied
from raftkv.log_storage import Identity
from raftkv.routing import Router

FIRST_TIME_S: Final = 15.0
"""How long a new node looks for the cluster's leader."""
AGAIN_S: Final = 1.5
"""The same of a node that knows its place: when a whole cluster starts again, there is nobody to be found yet."""


class CannotJoin(Exception):
    """The cluster was not found, or does not know this node. The text is one line with the mend."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node belongs."""

    address: str
    """That it listens on."""
    cluster_id: bytes = b""
    """Empty: not known yet."""
    is_said: bool = False
    """By the cluster, just now."""


def find_place(member: int, known: Identity | None, addresses: Iterable[str]) -> Place:
    """Ask the members at `addresses` where member `member` belongs; `known` is what its directory says. Raises
    CannotJoin."""
    known_address = known.address or known.members.get(member, "") if known else ""
    router = Router(addresses)
    try:
        leader = router.leader(time.monotonic() + (AGAIN_S if known_address else FIRST_TIME_S))
    except NotApplied as error:
        if known is not None and known_address:
            return Place(known_address, known.cluster_id)
        raise CannotJoin(f"cannot join the cluster: {error}; name members that are running") from None
    finally:
        router.close()
    said = leader.said
    assert said is not None, "a leader is known by its answer"
    if known is not None and known.cluster_id not in (b"", said.cluster_id):
        raise CannotJoin(
            f"cannot join the cluster at {leader.address}: this node's directory belongs to another one; "
            "name members of that one, or give this node an empty directory"
        )
    members = {m.id: m.address for m in said.members}
    if member not in members:
        listed = ", ".join(f"{id}={address}" for id, address in sorted(members.items()))
        raise CannotJoin(
            f"cannot join the cluster: node {member} is not one of its members ({listed}); add it first, with the "
            f"client's command ADD {member}=<host>:<port>"
        )
    return Place(members[member], said.cluster_id, is_said=True)
