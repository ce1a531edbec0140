"""A client's calls about the membership: who the members are, and changes of that: theory of operation.

They go to the leader by themselves, beside the pipeline. A change is never sent twice once it may have been proposed:
what came of it is then *unknown*, and the list of members tells. What the leader can't do just now (another change is
under way, say) is tried again until the time is over; nothing has been done then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import grpc

from raftkv.config import ConfigError, parse_members
from raftkv.errors import NotApplied, OutcomeUnknown, WrongType, WrongValue
from raftkv.routing import Backoff, Member, Router
from raftkv.wire import raft_pb2 as wire

_ROUND_S: Final = 1.0
"""How long a member may take to say who the members are, before another leader is looked for."""
_REFUSED: Final = (
    *(grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED),
)
_NOTHING: Final = "nothing has been done"
_NOT_READ: Final = "nothing was read"
_UNKNOWN: Final = "the change may have been made: MEMBERS tells"


@dataclass(frozen=True, slots=True)
class ClusterMember:
    """A member, by the leader's configuration."""

    id: int
    address: str
    is_learner: bool
    """It receives the log and counts for nothing yet: it has to catch up first."""
    is_leader: bool
    is_wiped: bool = False
    """It has come back without its disk, and counts for nothing until it is removed and added again."""


def members(router: Router, deadline: float) -> list[ClusterMember]:
    """The members as the leader knows them, by id. `deadline` as `time.monotonic`. Raises NotApplied."""
    backoff = Backoff(deadline, router.closed)
    while True:
        leader = router.leader(deadline, _NOT_READ)
        reply = _leads(router, leader, deadline)
        if reply is not None:
            return [
                ClusterMember(m.id, m.address, m.is_learner, m.id == reply.id, m.is_wiped)
                for m in sorted(reply.members, key=lambda m: m.id)
            ]
        if not backoff.pause():
            raise router.no_leader(_NOT_READ)


def _leads(router: Router, member: Member, deadline: float) -> wire.StatusReply | None:
    """What a member says of itself that was the leader a moment ago; None, and doubt about it, if it is not now."""
    timeout = max(0.0, min(deadline - time.monotonic(), _ROUND_S))
    try:
        reply: wire.StatusReply = member.stub.Status(wire.StatusRequest(), timeout=timeout)
    except (grpc.RpcError, ValueError):  # the latter from a channel that has just been closed
        reply = wire.StatusReply()
    if reply.role != "leader":
        router.doubt(member)
        return None
    router.heard(member)
    router.told(member, reply)
    return reply


def add_member(router: Router, member: int, address: str, deadline: float) -> None:
    """Add a member, or change the address of one. Raises NotApplied or OutcomeUnknown."""
    _check_id(member)
    if not isinstance(address, str):
        raise WrongType(f"address must be str, not {type(address).__name__}", "INVALID_ARGUMENT")
    try:
        parse_members([f"{member}={address}"])
    except ConfigError as error:
        raise WrongValue(f"{error}; {_NOTHING}", "INVALID_ARGUMENT") from None
    _change(router, wire.ChangeMembershipRequest(add=wire.Member(id=member, address=address)), deadline)


def remove_member(router: Router, member: int, deadline: float) -> None:
    """Remove a member. Raises NotApplied or OutcomeUnknown."""
    _check_id(member)
    _change(router, wire.ChangeMembershipRequest(remove=member), deadline)


def _check_id(member: int) -> None:
    if not isinstance(member, int) or isinstance(member, bool):
        raise WrongType(f"a member's id must be int, not {type(member).__name__}", "INVALID_ARGUMENT")
    if not 0 < member < 2**63:
        raise WrongValue(f"a member's id is a number from 1 on, not {member}; {_NOTHING}", "INVALID_ARGUMENT")


def _change(router: Router, request: wire.ChangeMembershipRequest, deadline: float) -> None:
    backoff = Backoff(deadline, router.closed)
    while True:
        why = _attempt(router, request, deadline)
        if why is None:
            return
        if not backoff.pause():
            raise NotApplied(f"{why}; {_NOTHING}", "UNAVAILABLE")


def _attempt(router: Router, request: wire.ChangeMembershipRequest, deadline: float) -> str | None:
    """Ask the leader once. None: it is done. Else why nothing has been done, and it may be tried again."""
    leader = router.leader(deadline, _NOTHING)
    # It may have gone a moment ago: after the question nobody could say any more whether it has arrived.
    if not _leads(router, leader, deadline):
        return f"{leader.address} does not answer as the leader"
    try:
        timeout = max(0.0, deadline - time.monotonic())
        reply: wire.ChangeMembershipReply = leader.stub.ChangeMembership(request, timeout=timeout)
    except ValueError:
        raise NotApplied(f"the client is closed; {_NOTHING}", "CANCELLED") from None
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return details
        if code in _REFUSED:
            raise NotApplied(f"{details}; {_NOTHING}", code.name) from None
        router.doubt(leader)
        what = details.removesuffix(f"; {_UNKNOWN}")
        raise OutcomeUnknown(f"{leader.address}: {what}; {_UNKNOWN}", code.name) from None
    if not reply.success:
        router.doubt(leader)
        return f"{leader.address} does not lead any more"
    router.heard(leader)
    return None
