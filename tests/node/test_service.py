"""What a node answers, with a fake in the place of the replica: the contract's chapter "Wire", and the limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import SimpleQueue
from typing import Any
from unittest.mock import Mock

import grpc
import pytest

from raftkv.kv import KEY_OVERHEAD_BYTES
from raftkv.operations import Batch, Code, Operation, Status, TermSettings, encode_batch, encode_settings
from raftkv.raft.messages import AppendEntries, RequestVote
from raftkv.raft.types import ORIGIN, Entry, EntryKind
from raftkv.replica import Input, NotLeader, Query, Unknown, Write
from raftkv.service import remaining_time
from raftkv.streams import Answers
from raftkv.transport import Membership, request_to_wire
from raftkv.wire import raft_pb2 as wire
from tests.node.fakes import LIMITS, FakeNode, fake_node, plain_call
from tests.support.processes import wait_until

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_node() as node:
        yield node
        assert not node.bugs


def answer_with(node: FakeNode, outcome: NotLeader | Unknown) -> None:
    """Have every write and read end like this."""

    def bring(item: Input) -> None:
        assert isinstance(item, Write | Query)
        item.caller.answer(outcome)

    node.host.bring_instead = bring


def batch(*operations: Operation, session: int = 0) -> bytes:
    return encode_batch(Batch(operations, session))


# ---- the text form, for a client that knows only the first three fields ----------------------------------------------


def test_a_plain_client_can_do_all_that_the_contract_says(node: FakeNode) -> None:
    def ask(request: str) -> tuple[str, bool]:
        reply = plain_call(node.channel, request)
        assert reply.leader_id == 1
        return reply.data, reply.success

    assert ask("SET k it's  as it stands ") == ("", True)
    assert ask("GET k") == ("it's  as it stands ", True)
    assert ask("SETNX k x") == ("0", True)
    assert ask("SETNX k2 wört") == ("1", True)
    assert ask("GET k2") == ("wört", True)
    assert ask("CAS k2 nein x") == ("0", True)
    assert ask("CAS k2 wört new") == ("1", True)
    assert ask("KEYS") == ("k\nk2", True)
    assert ask("KEYS k2") == ("k2", True)
    assert ask("DEL k2") == ("1", True)
    assert ask("DEL k2") == ("0", True)
    assert ask("set k ") == ("", True)
    assert ask("get k") == ("", True)
    assert ask("SET k two\nlines") == ("", True)
    assert ask("GET k") == ("two\nlines", True)


def test_a_key_that_is_missing_is_not_found(node: FakeNode) -> None:
    assert node.refusal(request="GET k") == (grpc.StatusCode.NOT_FOUND, "there is no key 'k'")


def test_get_leader_answers_who_leads_and_reads_no_key(node: FakeNode) -> None:
    for leader_id, address in ((1, "one:1"), (2, "two:2")):
        node.host.leader_id = leader_id
        reply = plain_call(node.channel, "GET LEADER")
        assert reply == (address, leader_id, True)
    node.host.leader_id = 0
    assert plain_call(node.channel, "GET LEADER") == ("", 0, False)
    assert not node.host.brought


def test_only_the_text_form_reserves_the_word_leader(node: FakeNode) -> None:
    assert plain_call(node.channel, "SET LEADER x").success
    assert node.serve(get=b"LEADER").values == [b"x"]
    assert plain_call(node.channel, "SET leader y").success
    assert plain_call(node.channel, "GET leader").data == "y"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ("FOO", "unknown command 'FOO'"),
        ("NO-OP", "unknown command"),
        (" SET k v", "unknown command"),
        ("SET", "expected SET key value"),
        ("SET k", "expected SET key value"),
        ("SET  v", "expected SET key value"),
        ("GET", "expected GET key"),
        ("GET ", "expected GET key"),
        ("GET a b", "expected GET key"),
        ("GET a\nb", "expected GET key"),
        ("DEL a b", "expected DEL key"),
        ("CAS a b", "expected CAS key expected new"),
        ("SETNX a b c", "expected SETNX key value"),
        ("SET kkkkkkkkkkk v", "the key has 11 bytes; at most 10"),
        ("GET kkkkkkkkkkk", "the key has 11 bytes; at most 10"),
        ("GET kkkkkkkkkö", "the key has 11 bytes; at most 10"),
        ("SET k vvvvvvvvvvvvvvvvvvvvv", "the value has 21 bytes; at most 20"),
        ("CAS k vvvvvvvvvvvvvvvvvvvvv v", "the value has 21 bytes; at most 20"),
    ],
)
def test_a_text_that_makes_no_sense_is_invalid_and_does_nothing(node: FakeNode, request_: str, says: str) -> None:
    code, details = node.refusal(request=request_)
    assert code is INVALID
    assert says in details
    assert "\n" not in details
    assert not node.host.brought


def test_the_greatest_key_and_value_are_taken(node: FakeNode) -> None:
    assert node.serve(request=f"SET {'k' * 10} {'v' * 20}").success


def test_what_is_no_text_can_be_had_in_the_extended_form_only(node: FakeNode) -> None:
    node.serve(batch=batch(Operation(Code.SET, b"k\xff", b"v"), Operation(Code.SET, b"k", b"\xff")))
    for request in ("GET k", "KEYS"):
        code, details = node.refusal(request=request)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "not UTF-8" in details
    assert node.serve(get=b"k").values == [b"\xff"]
    assert node.serve(keys=b"").values == [b"k", b"k\xff"]


# ---- the limit on the state ------------------------------------------------------------------------------------------


def fill(node: FakeNode) -> None:
    """There is room for one key, and there it is."""
    limit = KEY_OVERHEAD_BYTES + 2
    settings = encode_settings(TermSettings(b"c" * 16, 10, 1000, 10, max_state_bytes=limit))
    node.host.machine.apply(Entry(1, 1, EntryKind.NO_OP, settings))
    assert node.serve(request="SET k 1").success


@pytest.mark.parametrize("early", [True, False])
def test_a_write_without_room_is_refused_before_it_is_proposed_or_when_it_is_applied(
    node: FakeNode, early: bool
) -> None:
    fill(node)
    node.host.guesses_room = early
    before = len(node.host.writes)
    for text in ("SET k 22", "SETNX l 1", "CAS k 1 22"):
        code, details = node.refusal(request=text)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "MAX_STATE_BYTES" in details
        assert "nothing has been done" in details
    assert len(node.host.writes) - before == (1 if early else 3), "a comparison has to be made"
    assert node.serve(request="GET k").data == "1"
    assert node.serve(request="SET k 2").success
    assert node.serve(request="DEL k").data == "1"


def test_a_batch_without_room_is_proposed_and_tells_which_of_its_operations_were_refused(node: FakeNode) -> None:
    fill(node)
    data = batch(Operation(Code.SET, b"l"), Operation(Code.SET, b"k", b"2"))
    assert [Status(result.status) for result in node.serve(batch=data).results] == [Status.NO_SPACE, Status.DONE]


def test_the_status_says_how_large_the_state_is_and_may_be(node: FakeNode) -> None:
    fill(node)
    status = node.call("Status", wire.StatusRequest(), wire.StatusReply)
    assert (status.state_bytes, status.quota_bytes) == (KEY_OVERHEAD_BYTES + 2, KEY_OVERHEAD_BYTES + 2)


# ---- the extended form -----------------------------------------------------------------------------------------------


def test_a_batch_is_answered_with_a_result_for_each_operation(node: FakeNode) -> None:
    data = batch(
        Operation(Code.SET, b"k k", b"v"),
        Operation(Code.DELETE, b"x"),
        Operation(Code.COMPARE_AND_SET, b"k k", b"w", b"v"),
    )
    reply = node.serve(batch=data)
    assert (reply.success, reply.leader_id, reply.leader_address) == (True, 1, "one:1")
    assert [Status(result.status) for result in reply.results] == [Status.DONE, Status.NOT_DONE, Status.DONE]
    assert node.serve(get=b"k k").values == [b"w"]
    (write,) = node.host.writes
    assert write.proposal.payload == data, "the bytes travel as they came"


def test_a_missing_key_has_no_value_and_an_empty_value_is_one(node: FakeNode) -> None:
    assert node.serve(get=b"k").values == []
    node.serve(batch=batch(Operation(Code.SET, b"k")))
    assert node.serve(get=b"k").values == [b""]


def test_an_opened_session_is_answered_with_its_id_and_can_be_closed(node: FakeNode) -> None:
    (result,) = node.serve(batch=batch(Operation(Code.OPEN_SESSION))).results
    assert result.value > 0
    close = encode_batch(Batch([Operation(Code.CLOSE_SESSION, sequence=1)], result.value, 1))
    assert node.serve(batch=close).success


@pytest.mark.parametrize(("remaining", "deadline"), [(0.5, 0.5), (None, None), (1e10, None)])
def test_a_deadline_in_a_few_hundred_years_is_none(remaining: float | None, deadline: float | None) -> None:
    context = Mock(spec=grpc.ServicerContext)
    context.time_remaining.return_value = remaining
    assert remaining_time(context) == deadline


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "exactly one of the fields"),
        ({"request": "GET k", "get": b"k"}, "exactly one of the fields"),
        ({"get": b"k", "keys": b""}, "exactly one of the fields"),
        ({"get": b""}, "a key must not be empty"),
        ({"get": b"k" * 11}, "the key has 11 bytes"),
        ({"batch": b"garbage"}, "too short"),
        ({"batch": batch(Operation(Code.SET, b"k", b"v"))[:-1]}, "whose operations end at byte"),
        ({"batch": batch()}, "no operations"),
        ({"batch": batch(*[Operation(Code.DELETE, b"k")] * 7)}, "7 operations; at most 6"),
        ({"batch": batch(Operation(Code.SET, b"k"), Operation(Code.SET, b"", b"v"))}, "a key must not be empty"),
        ({"batch": batch(Operation(Code.DELETE, b"k" * 11))}, "the key has 11 bytes"),
        ({"batch": batch(Operation(Code.SET, b"k", b"v" * 21))}, "the value has 21 bytes"),
        ({"batch": batch(Operation(Code.COMPARE_AND_SET, b"k", b"v", b"v" * 21))}, "the value has 21 bytes"),
        ({"batch": batch(*[Operation(Code.SET, b"k", b"v" * 20)] * 5)}, "at most 200"),
    ],
)
def test_an_extended_request_that_makes_no_sense_is_invalid_and_does_nothing(
    node: FakeNode, fields: dict[str, Any], says: str
) -> None:
    code, details = node.refusal(**fields)
    assert code is INVALID
    assert says in details
    assert not node.host.brought


@pytest.mark.parametrize("method", ["ServeClient", "AppendEntries", "RequestVote", "Status"])
def test_bytes_that_are_no_message_are_invalid_and_leave_no_traceback(
    node: FakeNode, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    call: Any = node.channel.unary_unary(f"/RaftNode/{method}")
    assert call.future(b"\xff\xff", timeout=10).exception().code() is INVALID
    assert "Traceback" not in capfd.readouterr().err


def test_a_single_key_is_read_under_the_lease_without_the_turn(node: FakeNode) -> None:
    node.serve(request="SET k v")
    node.host.has_lease = True
    brought = len(node.host.brought)
    assert node.serve(request="GET k").data == "v"
    assert node.serve(get=b"k").values == [b"v"]
    assert len(node.host.brought) == brought
    node.serve(keys=b"")
    assert len(node.host.brought) == brought + 1, "more than one key takes the turn"


# ---- not done, and not known -----------------------------------------------------------------------------------------

EVERY_KIND = [
    {"request": "SET k v"},
    {"request": "GET k"},
    {"request": "KEYS"},
    {"batch": batch(Operation(Code.SET, b"k", b"v"))},
    {"get": b"k"},
    {"keys": b""},
]


@pytest.mark.parametrize("fields", EVERY_KIND)
def test_a_member_that_does_not_lead_says_who_does(node: FakeNode, fields: dict[str, Any]) -> None:
    answer_with(node, NotLeader(2))
    reply = node.serve(**fields)
    assert (reply.success, reply.leader_id, reply.leader_address, reply.data) == (False, 2, "two:2", "")
    answer_with(node, NotLeader(0))
    reply = node.serve(**fields)
    assert (reply.success, reply.leader_id, reply.leader_address) == (False, 0, "")


@pytest.mark.parametrize("fields", [EVERY_KIND[0], EVERY_KIND[3]])
def test_a_write_whose_outcome_nobody_knows_is_unavailable_and_says_so(node: FakeNode, fields: dict[str, Any]) -> None:
    """Hazard 48."""
    answer_with(node, Unknown("leadership was lost"))
    code, details = node.refusal(**fields)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details == "leadership was lost; whether the write was or will be applied is unknown"


@pytest.mark.parametrize("fields", [EVERY_KIND[0], EVERY_KIND[3]])
def test_a_write_that_is_not_committed_in_time_is_unknown_too(fields: dict[str, Any]) -> None:
    """Rule 12; without a deadline of the client's the node sets one."""
    with fake_node(replace(LIMITS, call_timeout=0.1)) as node:
        node.host.bring_instead = lambda item: None
        code, details = node.refusal(timeout=None, **fields)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "unknown" in details
        (write,) = node.host.writes
        assert not write.caller.is_wanted(), "if it has not been proposed by now, it need not be"


def test_the_clients_own_deadline_comes_first() -> None:
    with fake_node() as node:
        node.host.bring_instead = lambda item: None
        code, _ = node.refusal(timeout=0.1, request="SET k v")
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: node.server._client_pool.calls == 0, "it counts no more")


def test_bytes_that_wait_are_bounded_and_refused_before_they_are_proposed(node: FakeNode) -> None:
    """Hazard 50. A write counts until the replica has answered it, whether or not somebody still waits."""
    waiting: list[Write] = []

    def hold(item: Input) -> None:
        assert isinstance(item, Write)
        waiting.append(item)

    node.host.bring_instead = hold
    data = batch(*[Operation(Code.SET, b"k", b"v" * 20)] * 3)
    assert len(data) <= 512, "so it counts as 512, of which two fit"
    for _ in range(2):
        code, _ = node.refusal(timeout=0.2, batch=data)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    code, details = node.refusal(batch=data)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "nothing has been done" in details
    assert len(waiting) == 2
    node.host.bring_instead = None
    waiting[0].caller.answer(NotLeader(2))
    assert node.serve(batch=data).success


# ---- between members -------------------------------------------------------------------------------------------------

SENDER = Membership(2, {1: "one:1", 2: "two:2", 3: "three:3"}, b"c" * 16)


def ask_as(sender: Membership, node: FakeNode, message: AppendEntries | RequestVote, timeout: float = 10.0) -> Any:
    method = type(message).__name__
    reply_type = wire.AppendEntriesReply if method == "AppendEntries" else wire.RequestVoteReply
    return node.begin(method, request_to_wire(message, sender.identity_for(1)), reply_type, timeout)


def test_a_peers_message_is_brought_and_its_own_reply_finds_the_way_back(node: FakeNode) -> None:
    held: list[Input] = []
    node.host.bring_instead = held.append
    calls = [ask_as(SENDER, node, AppendEntries(2, 1, 1, ORIGIN, (), 0, 0, round=n)) for n in range(4)]
    wait_until(lambda: len(held) == 4, "all have arrived")
    for item in reversed(held):
        assert isinstance(item, AppendEntries)
        node.host.reply(item)
    assert [call.result().round for call in calls] == [0, 1, 2, 3]


def test_a_peer_that_gets_no_reply_in_time_is_told_so_and_its_thread_is_free(node: FakeNode) -> None:
    node.host.bring_instead = lambda item: None
    error = ask_as(SENDER, node, RequestVote(2, 1, 1, ORIGIN), timeout=0.2).exception()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: node.server._peer_pool.calls == 0, "the thread is free again")
    assert not node.service._peer_calls


def test_a_peer_of_another_cluster_is_refused_and_noted_and_nothing_is_brought(node: FakeNode) -> None:
    """Hazard 52."""
    stranger = Membership(2, SENDER.addresses, b"x" * 16)
    error = ask_as(stranger, node, RequestVote(2, 1, 9, ORIGIN)).exception()
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "another cluster" in error.details()
    ((claimed, where, why),) = node.host.strangers
    assert (claimed, why) == (2, error.details())
    assert "127.0.0.1" in where
    assert not node.host.brought


def test_a_malformed_message_of_a_peer_never_reaches_the_algorithm(node: FakeNode) -> None:
    error = ask_as(SENDER, node, RequestVote(2, 1, 0, ORIGIN)).exception()
    assert error.code() is INVALID
    assert not node.host.brought


class PeerStream:
    """A peer's stream of AppendEntries."""

    def __init__(self, node: FakeNode) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        begin: Any = node.channel.stream_stream("/RaftNode/AppendEntriesStream")
        self.call = begin(iter(self._requests.get, None))

    def send(self, round: int = 0, sender: Membership = SENDER, term: int = 1, entries: tuple[Entry, ...] = ()) -> None:
        message = AppendEntries(2, 1, term, ORIGIN, entries, 0, 0, round=round)
        self._requests.put(request_to_wire(message, sender.identity_for(1)).SerializeToString())

    def send_bytes(self, data: bytes) -> None:
        self._requests.put(data)

    def next(self) -> wire.AppendEntriesReply:
        return wire.AppendEntriesReply.FromString(next(self.call))

    def refusal(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            next(self.call)
        error: Any = caught.value
        return error.code(), error.details()


def test_a_peers_stream_is_answered_in_order(node: FakeNode) -> None:
    stream = PeerStream(node)
    for round in range(20):
        stream.send(round)
    assert [stream.next().round for _ in range(20)] == list(range(20))
    stream.call.cancel()
    wait_until(lambda: node.server._peer_pool.calls == 0, "the thread is free again")


def test_what_a_stranger_or_nobody_would_send_ends_a_peers_stream_with_the_reason(
    node: FakeNode, capfd: pytest.CaptureFixture[str]
) -> None:
    """Hazard 52."""
    stranger = Membership(2, SENDER.addresses, b"x" * 16)
    cases: list[tuple[Callable[[PeerStream], None], grpc.StatusCode, str]] = [
        (lambda stream: stream.send(sender=stranger), grpc.StatusCode.FAILED_PRECONDITION, "another cluster"),
        (lambda stream: stream.send(term=0), INVALID, "terms are counted from 1"),
        (lambda stream: stream.send_bytes(b"\xff\xff"), INVALID, "not a AppendEntriesRequest"),
    ]
    for send, code, says in cases:
        stream = PeerStream(node)
        send(stream)
        refusal = stream.refusal()
        assert refusal[0] is code
        assert says in refusal[1]
    assert not node.host.brought
    assert not node.server._peer_streams
    assert "Traceback" not in capfd.readouterr().err


def test_a_stream_whose_peer_has_opened_another_keeps_no_thread(node: FakeNode) -> None:
    """The end of the old one may have been lost with the network between; a few of those would take all threads."""
    streams = []
    for _ in range(30):
        # One after the other, as a peer does it: the server takes them in the order in which they arrive, and one that
        # has been opened without a request would have to wait for those that have not sent theirs either.
        streams.append(PeerStream(node))
        streams[-1].send(7)
        assert streams[-1].next().round == 7
    wait_until(lambda: node.server._peer_pool.calls == 1, "the others have ended")
    streams[-1].send(8)
    assert streams[-1].next().round == 8
    streams[-1].call.cancel()


def test_a_heartbeat_is_left_to_others_so_that_no_disk_holds_up_the_next_one(node: FakeNode) -> None:
    entries, heartbeats = PeerStream(node), PeerStream(node)
    heartbeats.send(1)
    entries.send(2, entries=(Entry(1, 1, EntryKind.TEXT, b"SET k v"),))
    assert (heartbeats.next().round, entries.next().round) == (1, 2)
    assert [item.round for item in node.host.left if isinstance(item, AppendEntries)] == [1]
    assert len(node.host.brought) == 2
    for stream in (entries, heartbeats):
        stream.call.cancel()


def test_a_server_that_stops_ends_both_streams_of_a_peer(node: FakeNode) -> None:
    entries, heartbeats = PeerStream(node), PeerStream(node)
    entries.send(1, entries=(Entry(1, 1, EntryKind.TEXT, b"SET k v"),))
    heartbeats.send(2)
    assert (entries.next().round, heartbeats.next().round) == (1, 2)
    wait_until(lambda: len(node.server._peer_streams) == 2, "both are known")
    ended: list[float] = []
    for context in node.server._peer_streams.values():
        context.add_callback(lambda: ended.append(time.monotonic()))
    node.server.drain(0.0)
    began = time.monotonic()
    node.server.stop()
    wait_until(lambda: len(ended) == 2, "both have ended")
    assert max(ended) - began < 0.5, "one was left to gRPC, which lets it go on for a second"


def test_a_peer_has_a_stream_for_entries_and_one_for_heartbeats(node: FakeNode) -> None:
    """Neither ends the other, nor does one that has been opened anew."""
    entries, heartbeats = PeerStream(node), PeerStream(node)
    for round in (1, 2):
        entries.send(round, entries=(Entry(1, 1, EntryKind.TEXT, b"SET k v"),))
        heartbeats.send(round)
        assert (entries.next().round, heartbeats.next().round) == (round, round)
    assert node.server._peer_pool.calls == 2
    again = PeerStream(node)
    again.send(3)
    assert again.next().round == 3
    assert heartbeats.refusal()[0] is grpc.StatusCode.CANCELLED
    entries.send(4)
    assert entries.next().round == 4
    for stream in (entries, again):
        stream.call.cancel()


def test_requests_on_a_stream_are_taken_in_while_earlier_ones_wait_for_their_reply(node: FakeNode) -> None:
    """So that a member whose disk is slow takes them together."""
    waiting: list[Input] = []
    node.host.bring_instead = waiting.append
    stream = PeerStream(node)
    for round in (1, 2, 3):
        stream.send(round)
    wait_until(lambda: len(waiting) == 3, "all have been taken in")
    for item in waiting:
        assert isinstance(item, AppendEntries)
        node.host.reply(item)
    assert [stream.next().round for _ in range(3)] == [1, 2, 3]
    assert not node.service._peer_calls


def test_where_grpc_has_no_answers_without_waiting_a_request_that_gets_no_reply_in_time_ends_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Answers, "are_possible", lambda _: False)
    with fake_node(replace(LIMITS, peer_timeout=0.1)) as node:
        node.host.bring_instead = lambda item: None
        stream = PeerStream(node)
        stream.send()
        assert stream.refusal() == (grpc.StatusCode.DEADLINE_EXCEEDED, "the node is too busy to answer")
        wait_until(lambda: node.server._peer_pool.calls == 0, "the thread is free again")
        assert not node.service._peer_calls


def test_an_exception_on_a_peers_stream_stops_the_node() -> None:
    """Hazard 51."""
    bug = ZeroDivisionError("in the turn")

    def fail(_: Input) -> None:
        raise bug

    with fake_node() as node:
        node.host.bring_instead = fail
        stream = PeerStream(node)
        stream.send()
        assert stream.refusal()[0] is grpc.StatusCode.UNKNOWN
        assert node.bugs == [bug]


def test_status_tells_what_the_node_thinks(node: FakeNode) -> None:
    node.serve(request="SET k v")
    status = node.call("Status", wire.StatusRequest(), wire.StatusReply)
    assert (status.id, status.role, status.leader_id, status.keys, status.revision) == (1, "leader", 1, 1, 1)
    assert [(member.id, member.address) for member in status.members] == [(1, "one:1"), (2, "two:2"), (3, "three:3")]
    assert status.cluster_id == b"c" * 16
    assert status.serving
