"""Where a node finds its place in a running cluster: `raft_node.py <id> --join <address> ...`.

A node that joins is not told who the members are: it asks them. The cluster's configuration has to name it already
(`ADD <id>=<address>`), and says at which address it is expected to listen. Everything else it learns from the log that
the leader sends it: until then it belongs to no configuration, and never stands for election.

A new directory also keeps which entry has brought the node in (`Identity.joined`). There may have been others under the
same id, whose disks are lost, and of whom the front of the log tells: this node is none of them (rule 11). So a leader
has to show that it leads, since one that was stopped or cut off may tell of one of those, and that entry has to be
committed, since another could take its place at a lower index.

A node that has joined before knows its place; it asks all the same, since its address may have been changed while it
was away, but goes on with what it knows if nobody answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import grpc

from raftkv.errors import NotApplied
from raftkv.log_storage import Identity
from raftkv.routing import Backoff, Router
from raftkv.routing import Member as Asked
from raftkv.wire import raft_pb2 as wire

FIRST_TIME_S: Final = 15.0
"""How long a new node looks for the cluster's leader."""
AGAIN_S: Final = 1.5
"""The same of a node that knows its place: when a whole cluster starts again, there is nobody to be found yet."""
_ANY_KEY: Final = b"x"


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
    joined: int = 0
    """The index of the entry that brought it in; 0: a founding member, or not known."""


def find_place(member: int, known: Identity | None, addresses: Iterable[str]) -> Place:
    """Ask the members at `addresses` where member `member` belongs; `known` is what its directory says. Raises
    CannotJoin."""
    known_address = known.address or known.members.get(member, "") if known else ""
    timeout = AGAIN_S if known_address else FIRST_TIME_S
    router = Router(addresses, timeout)
    deadline = time.monotonic() + timeout
    try:
        leader = router.leader(deadline)
        said = leader.said if known is not None else _as_committed(member, router, deadline)
    except NotApplied as error:
        if known is not None and known_address:
            return Place(known_address, known.cluster_id)
        raise CannotJoin(f"cannot join the cluster: {error}; name members that are running") from None
    finally:
        router.close()
    assert said is not None, "a leader is known by its answer"
    if known is not None and known.cluster_id not in (b"", said.cluster_id):
        raise CannotJoin(
            f"cannot join the cluster at {leader.address}: this node's directory belongs to another one; "
            "name members of that one, or give this node an empty directory"
        )
    place = _entry_of(member, said)
    if place is None:
        listed = ", ".join(f"{m.id}={m.address}" for m in sorted(said.members, key=lambda m: m.id))
        raise CannotJoin(
            f"cannot join the cluster: node {member} is not one of its members ({listed}); add it first, with the "
            f"client's command ADD {member}=<address>"
        )
    if known is None and (place.is_wiped or not place.is_learner):
        raise CannotJoin(_explain_lost_directory(place))
    if known is not None and place.disk not in (b"", known.incarnation) and place.joined >= known.joined:
        raise CannotJoin(
            f"cannot join the cluster: this directory is not the one with which node {member} has its vote; start the "
            f"node with that one, or remove it and add it again (REMOVE {member}, ADD {member}=<address>)"
        )
    if known is not None and known.members and not known.cluster_id and place.joined:
        raise CannotJoin(
            f"cannot join the cluster: this node's directory was made for a founding member, but node {member} was "
            "added later; delete the directory, in which there is nothing yet"
        )
    return Place(place.address, said.cluster_id, is_said=True, joined=place.joined)


def _explain_lost_directory(place: wire.Member) -> str:
    """Of a member that is more than a newcomer, and comes with nothing. A founding member may never have run."""
    lost = "has lost its directory already" if place.is_wiped else "has a vote, so it has had a directory"
    mend = f"find that one, or remove it and add it again (REMOVE {place.id}, ADD {place.id}=<address>)"
    if not place.joined:
        mend += "; a founding member that has never run is started with the founding members' addresses"
    return f"cannot join the cluster: node {place.id} {lost}, which this new one can't stand for; {mend}"


def _entry_of(member: int, said: wire.StatusReply) -> wire.Member | None:
    return next((m for m in said.members if m.id == member), None)


def _as_committed(member: int, router: Router, deadline: float) -> wire.StatusReply:
    """What a leader says of itself after it has served a read, which only the cluster's leader can: everything that was
    committed before this call is in its log. If it names the member, that has been committed too. Raises NotApplied."""
    backoff = Backoff(deadline, router.closed)
    while True:
        leader = router.leader(deadline)
        said = _said_after_a_read(leader, deadline)
        if said is None:
            router.doubt(leader)
            error = router.no_leader()
        else:
            place = _entry_of(member, said)
            if place is None or place.joined <= said.commit_index:
                return said
            error = NotApplied(f"that node {member} is added has not been committed yet", "UNAVAILABLE")
        if not backoff.pause():
            raise error


def _said_after_a_read(leader: Asked, deadline: float) -> wire.StatusReply | None:
    """None: it could not be had, or does not lead."""
    try:
        remaining = max(0.0, deadline - time.monotonic())
        read: wire.ServeClientReply = leader.stub.ServeClient(wire.ServeClientRequest(get=_ANY_KEY), timeout=remaining)
        if not read.success:
            return None
        remaining = max(0.0, deadline - time.monotonic())
        said: wire.StatusReply = leader.stub.Status(wire.StatusRequest(), timeout=remaining)
    except grpc.RpcError:
        return None
    return said if said.role == "leader" else None
