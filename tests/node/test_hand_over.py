"""Handing leadership over: the call that asks for it, and a node that is about to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.raft.messages import TimeoutNow, TimeoutNowReply
from raftkv.replica import Input, NotLeader, NotTransferred, TransferOutcome, Transferred, TransferRequest
from raftkv.transport import Membership, request_to_wire
from raftkv.wire import raft_pb2 as wire
from tests.node.fakes import FakeNode, fake_node
from tests.node.members import STEADY, Members
from tests.support.processes import wait_until

SENDER = Membership(2, {1: "one:1", 2: "two:2", 3: "three:3"}, b"c" * 16)


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_node() as node:
        yield node
        assert not node.bugs


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path, 3, STEADY)
    yield members
    members.close()
    assert not any(members.failures.values())


# ---- the call --------------------------------------------------------------------------------------------------------


def answering(outcome: TransferOutcome) -> Callable[[Input], None]:
    def answer(item: Input) -> None:
        assert isinstance(item, TransferRequest)
        item.answer(outcome)

    return answer


def ask(node: FakeNode, target: int = 0, timeout: float = 10.0) -> Any:
    request = wire.TransferLeadershipRequest(target=target)
    return node.begin("TransferLeadership", request, wire.TransferLeadershipReply, timeout)


def test_the_answer_says_who_leads_now_and_where(node: FakeNode) -> None:
    node.host.bring_instead = answering(Transferred(3))
    reply = ask(node, 3).result()
    assert (reply.success, reply.leader_id, reply.leader_address) == (True, 3, "three:3")
    [request] = node.host.brought
    assert isinstance(request, TransferRequest)
    assert request.target == 3


@pytest.mark.parametrize(("leader_id", "address"), [(2, "two:2"), (0, "")])
def test_a_member_that_does_not_lead_says_who_does(node: FakeNode, leader_id: int, address: str) -> None:
    node.host.bring_instead = answering(NotLeader(leader_id))
    reply = ask(node).result()
    assert (reply.success, reply.leader_id, reply.leader_address) == (False, leader_id, address)


@pytest.mark.parametrize(
    ("outcome", "code", "details"),
    [
        (NotTransferred("no", was_refused=True), grpc.StatusCode.FAILED_PRECONDITION, "no; nothing has been done"),
        (NotTransferred("in vain", was_refused=False), grpc.StatusCode.ABORTED, "in vain"),
    ],
)
def test_a_transfer_that_fails_says_why(
    node: FakeNode, outcome: NotTransferred, code: grpc.StatusCode, details: str
) -> None:
    node.host.bring_instead = answering(outcome)
    error = ask(node).exception()
    assert (error.code(), error.details()) == (code, details)


def test_a_transfer_without_an_end_does_not_keep_the_caller(node: FakeNode) -> None:
    node.host.bring_instead = lambda item: None
    error = ask(node, timeout=0.2).exception()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: node.server._client_pool.calls == 0, "its thread is free again")


def test_timeout_now_is_brought_and_answered(node: FakeNode) -> None:
    request = request_to_wire(TimeoutNow(2, 1, 1), SENDER.identity_for(1))
    reply = node.call("TimeoutNow", request, wire.TimeoutNowReply)
    assert (reply.term, reply.accepted) == (2, True)
    [message] = node.host.brought
    assert isinstance(message, TimeoutNow)
    assert (message.sender, message.term) == (2, 1)


def test_timeout_now_of_another_cluster_is_refused(node: FakeNode) -> None:
    """Hazard 52."""
    stranger = Membership(2, SENDER.addresses, b"x" * 16)
    request = request_to_wire(TimeoutNow(2, 1, 1), stranger.identity_for(1))
    error = node.begin("TimeoutNow", request, wire.TimeoutNowReply).exception()
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert not node.host.brought


# ---- a node that is about to stop ------------------------------------------------------------------------------------


def test_a_leader_that_is_to_stop_hands_over(steady: Members) -> None:
    """Election timeouts are ten seconds here: nobody else would stand."""
    steady.start()
    leader = steady.elect(1)
    assert steady.ask(leader, "SET k v").success
    assert leader.hand_over()
    wait_until(lambda: steady.leader() is not leader, "another one serves")
    refused = steady.ask(leader, "SET k w")
    assert (refused.success, refused.leader_id) == (False, steady.leader().membership.me)
    assert steady.ask(steady.leader(), "GET k").data == "v"


def test_a_follower_has_nothing_to_hand_over(steady: Members) -> None:
    steady.start()
    steady.elect(1)
    began = time.monotonic()
    assert not steady.nodes[2].hand_over()
    assert time.monotonic() - began < 2.0


def test_a_node_without_peers_has_nobody_to_hand_over_to(tmp_path: Path) -> None:
    lone = Members(tmp_path, 1)
    lone.start()
    leader = lone.leader()
    began = time.monotonic()
    assert not leader.hand_over()
    assert time.monotonic() - began < 0.2
    lone.close()


def test_a_leader_that_nobody_answers_gives_up_in_time(tmp_path: Path) -> None:
    three = Members(tmp_path, 3)
    three.start()
    leader = three.leader()
    three.stop(*(node.membership.me for node in three.followers()))
    began = time.monotonic()
    assert not leader.hand_over()
    assert time.monotonic() - began < 2 * three.config.election_timeout + 2.0
    three.close()


def test_a_node_that_has_stopped_answers_that_it_does_not_lead(steady: Members) -> None:
    steady.start()
    leader = steady.elect(1)
    steady.stop(1)
    answers: list[TransferOutcome] = []
    leader.bring(TransferRequest(0, answers.append))
    assert answers == [NotLeader(0)]


def test_a_reply_to_timeout_now_finds_its_way(node: FakeNode) -> None:
    held: list[Input] = []
    node.host.bring_instead = held.append
    request = request_to_wire(TimeoutNow(2, 1, 1), SENDER.identity_for(1))
    calls = [node.begin("TimeoutNow", request, wire.TimeoutNowReply) for _ in range(3)]
    wait_until(lambda: len(held) == 3, "all have arrived")
    for term, item in enumerate(reversed(held), start=5):
        assert isinstance(item, TimeoutNow)
        node.service.deliver(TimeoutNowReply(1, 2, term, accepted=False, call=item.call))
    assert sorted(call.result().term for call in calls) == [5, 6, 7]
