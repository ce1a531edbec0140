"""Having another member lead: what the client library does for `transfer_leadership`."""

from __future__ import annotations

import time
from typing import Final

import grpc

from raftkv.errors import NotApplied, OutcomeUnknown, WrongType, WrongValue
from raftkv.routing import Backoff, Router
from raftkv.wire.raft_pb2 import TransferLeadershipRequest

_NOTHING: Final = "nothing has been done"
_REFUSALS: Final = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.ABORTED,
)
"""The leader's own answers: it goes on leading. The last one: its successor has not taken over in time."""


def checked_target(target: int | None) -> int:
    """A member's id as the wire has it. Raises WrongType or WrongValue."""
    if target is None:
        return 0
    if not isinstance(target, int) or isinstance(target, bool):
        raise WrongType(f"target must be a member's id, not {type(target).__name__}", "INVALID_ARGUMENT")
    if not 0 < target < 1 << 63:
        raise WrongValue(f"{target} is no member's id: ids are counted from 1", "INVALID_ARGUMENT")
    return target


def transfer_leadership(router: Router, target: int, deadline: float) -> int:
    """Have `target` lead, 0: anybody but who leads now. The id of the member that does. Until `deadline` (seconds,
    `time.monotonic`). Raises an Error."""
    backoff = Backoff(deadline, router.closed)
    former, in_doubt = 0, False
    while True:
        try:
            leader = router.leader(deadline, _NOTHING)
        except NotApplied as error:
            raise (_in_doubt() if in_doubt else error) from None
        former = former or leader.id
        # It may lead already; or an answer got lost, and it has been done.
        if leader.id == (target or leader.id) and (target or leader.id != former):
            return leader.id
        try:
            reply = leader.stub.TransferLeadership(
                TransferLeadershipRequest(target=target), timeout=max(0.0, deadline - time.monotonic())
            )
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code in _REFUSALS:
                # Which may be that what was asked for before is still under way.
                raise (_in_doubt() if in_doubt else NotApplied(details, code.name)) from None
            in_doubt = True
        else:
            if reply.success:
                router.doubt(leader)
                return int(reply.leader_id)
        router.doubt(leader)
        if not backoff.pause():
            raise _in_doubt() if in_doubt else router.no_leader(_NOTHING)


def _in_doubt() -> OutcomeUnknown:
    return OutcomeUnknown("no answer in time; another member may lead by now", "DEADLINE_EXCEEDED")
