"""The call ChangeMembership, at a node without an algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest

from raftkv.raft.configuration import Add, Remove
from raftkv.replica import Applied, ConfigurationChange, Input, NotLeader, Outcome, Refused, Unknown
from raftkv.wire import raft_pb2 as wire
from tests.node.fakes import FakeNode, fake_node

ADD_4 = wire.ChangeMembershipRequest(add=wire.Member(id=4, address="h:4"))


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_node() as node:
        yield node


def answering(outcome: Outcome) -> Callable[[Input], None]:
    def bring(item: Input) -> None:
        assert isinstance(item, ConfigurationChange)
        assert item.caller.is_wanted()
        item.caller.answer(outcome)

    return bring


def call(node: FakeNode, request: wire.ChangeMembershipRequest, timeout: float = 5.0) -> wire.ChangeMembershipReply:
    reply: wire.ChangeMembershipReply = node.call("ChangeMembership", request, wire.ChangeMembershipReply, timeout)
    return reply


def failure(node: FakeNode, request: wire.ChangeMembershipRequest, timeout: float = 5.0) -> tuple[grpc.StatusCode, str]:
    error = node.begin("ChangeMembership", request, wire.ChangeMembershipReply, timeout).exception()
    assert error is not None
    return error.code(), error.details()


def test_a_change_is_brought_and_answered_once_it_is_applied(node: FakeNode) -> None:
    node.host.bring_instead = answering(Applied([]))

    assert call(node, ADD_4) == wire.ChangeMembershipReply(success=True, leader_id=1, leader_address="one:1")
    call(node, wire.ChangeMembershipRequest(remove=2))

    assert [item.change for item in node.host.brought if isinstance(item, ConfigurationChange)] == [
        Add(4, "h:4"),
        Remove(2),
    ]


def test_another_leader_is_named(node: FakeNode) -> None:
    node.host.bring_instead = answering(NotLeader(3))
    assert call(node, ADD_4) == wire.ChangeMembershipReply(success=False, leader_id=3, leader_address="three:3")


@pytest.mark.parametrize(
    ("outcome", "code", "details"),
    [
        (Refused("it makes no sense", try_again=False), grpc.StatusCode.FAILED_PRECONDITION, "it makes no sense"),
        (Refused("not now", try_again=True), grpc.StatusCode.RESOURCE_EXHAUSTED, "not now"),
        (
            Unknown("leadership was lost"),
            grpc.StatusCode.UNAVAILABLE,
            "leadership was lost; the change may have been made: MEMBERS tells",
        ),
    ],
)
def test_the_status_says_whether_anything_can_have_been_done(
    node: FakeNode, outcome: Outcome, code: grpc.StatusCode, details: str
) -> None:
    node.host.bring_instead = answering(outcome)
    assert failure(node, ADD_4) == (code, details)


def test_without_an_answer_the_outcome_is_unknown() -> None:
    with fake_node(client_threads=1) as node:
        node.host.bring_instead = lambda item: None
        assert failure(node, ADD_4, timeout=0.3)[0] is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("request_", "details"),
    [
        (wire.ChangeMembershipRequest(), "a request names a member to add, or one to remove"),
        (wire.ChangeMembershipRequest(add=wire.Member(address="h:4")), "id from 1 on"),
        (wire.ChangeMembershipRequest(add=wire.Member(id=4)), "is not of the form <host>:<port>"),
    ],
)
def test_what_is_no_change_is_not_brought(node: FakeNode, request_: wire.ChangeMembershipRequest, details: str) -> None:
    code, said = failure(node, request_)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details in said
    assert not node.host.brought
