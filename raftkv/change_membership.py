"""The call ChangeMembership: a member is added, removed, or gets another address.

The answer comes once the change is committed: a new member is a learner then, and gets its vote by itself as soon as it
has caught up. Only the leader can make a change; another member says who leads. What is refused has changed nothing:
FAILED_PRECONDITION says that it makes no sense, RESOURCE_EXHAUSTED that it is not possible just now. After a proposal
the only other answers are those that mean *unknown*.
"""

from __future__ import annotations

from typing import Final

import grpc

from raftkv.bounds import Refusal
from raftkv.config import ConfigError, parse_members
from raftkv.raft.configuration import Add, Change, Remove
from raftkv.replica import Applied, ConfigurationChange, NotLeader, Refused, Unknown
from raftkv.service import Service, WaitingCaller, invalid, remaining_time
from raftkv.wire import raft_pb2 as wire

_UNKNOWN: Final = "the change may have been made: MEMBERS tells"


def change_membership(
    service: Service, request: wire.ChangeMembershipRequest, context: grpc.ServicerContext
) -> wire.ChangeMembershipReply:
    """Answer the call. Raises Refusal."""
    change = _change_asked_for(request)
    remaining, longest = remaining_time(context), service.limits.call_timeout
    waiting = WaitingCaller()
    service.host.bring(ConfigurationChange(change, waiting))
    outcome = waiting.slot.wait(longest if remaining is None else min(remaining, longest))
    match outcome:
        case Applied():
            return _reply(service, service.host.membership.me, success=True)
        case NotLeader():
            return _reply(service, outcome.leader_id, success=False)
        case Refused():
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if outcome.try_again else grpc.StatusCode.FAILED_PRECONDITION
            raise Refusal(code, outcome.reason)
        case Unknown():
            raise Refusal(grpc.StatusCode.UNAVAILABLE, f"{outcome.reason}; {_UNKNOWN}")
        case _:
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer from a quorum in time; {_UNKNOWN}")


def _change_asked_for(request: wire.ChangeMembershipRequest) -> Change:
    match request.WhichOneof("change"):
        case "add":
            try:
                ((member, address),) = parse_members([f"{request.add.id}={request.add.address}"]).items()
            except ConfigError as error:
                raise invalid(str(error)) from None
            return Add(member, address)
        case "remove":
            return Remove(request.remove)
        case _:
            raise invalid("a request names a member to add, or one to remove")


def _reply(service: Service, leader_id: int, success: bool) -> wire.ChangeMembershipReply:
    address = service.host.membership.addresses.get(leader_id, "")
    return wire.ChangeMembershipReply(success=success, leader_id=leader_id, leader_address=address)
