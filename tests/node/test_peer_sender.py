"""One sender a peer, against a server that does as the test tells it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from raftkv import clock, streams
from raftkv.raft.messages import AppendEntries, AppendEntriesReply, Reply, RequestVote, RequestVoteReply
from raftkv.raft.types import ORIGIN, Entry, EntryKind
from raftkv.transport import Membership, PeerSender, SendingLimits
from raftkv.wire import raft_pb2 as wire
from tests.support.processes import free_port, wait_until
from tests.support.stalling_proxy import StallingProxy, stalling_proxy

Answer = Callable[[wire.AppendEntriesRequest, grpc.ServicerContext], wire.AppendEntriesReply]

HEARTBEAT = AppendEntries(1, 2, 1, ORIGIN, (), 0, 0, round=1)
BULK = AppendEntries(1, 2, 1, ORIGIN, (Entry(1, 1, EntryKind.TEXT, b"SET k v"),), 0, 0, round=2)
VOTE = RequestVote(1, 2, 1, ORIGIN)
NONE = {True: 0, False: 0}
"""What is in flight: with entries, and without."""

each_way = pytest.mark.parametrize("request_", [VOTE, HEARTBEAT, BULK], ids=["call", "heartbeats' stream", "stream"])


def agree(request: wire.AppendEntriesRequest, _: grpc.ServicerContext) -> wire.AppendEntriesReply:
    return wire.AppendEntriesReply(term=1, success=True, round=request.round, match_index=len(request.entries))


class Peer:
    """A server in the place of node 2."""

    def __init__(self, address: str, answer: Answer = agree) -> None:
        self.requests: list[wire.AppendEntriesRequest] = []
        self.streams: list[grpc.ServicerContext] = []
        """Those for entries."""
        self.connections: dict[str, str] = {}
        """The caller's address, of the last request of each kind."""
        self.heartbeat_streams: list[grpc.ServicerContext] = []
        self.is_mute = False
        """Whether it takes what comes on a stream, and says nothing."""
        self.garbage = False
        """Whether a stream's answers can't be understood."""
        self.refuses_votes = False
        self.takes_another: Callable[[], bool] = lambda: True
        self.answer = answer
        self.pool = ThreadPoolExecutor(16)
        self.server = grpc.server(self.pool, options=[("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0)])
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "AppendEntries": grpc.unary_unary_rpc_method_handler(
                self._append_entries,
                request_deserializer=wire.AppendEntriesRequest.FromString,
                response_serializer=wire.AppendEntriesReply.SerializeToString,
            ),
            "AppendEntriesStream": grpc.stream_stream_rpc_method_handler(
                self._append_entries_stream,
                request_deserializer=wire.AppendEntriesRequest.FromString,
                response_serializer=lambda reply: b"\xff" if self.garbage else reply.SerializeToString(),
            ),
            "RequestVote": grpc.unary_unary_rpc_method_handler(
                self._request_vote,
                request_deserializer=wire.RequestVoteRequest.FromString,
                response_serializer=wire.RequestVoteReply.SerializeToString,
            ),
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("RaftNode", methods),))
        self.server.add_insecure_port(address)
        self.server.start()

    def _request_vote(self, request: wire.RequestVoteRequest, context: grpc.ServicerContext) -> wire.RequestVoteReply:
        self.connections["vote"] = context.peer()
        if self.refuses_votes:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "belongs to another cluster")
        return wire.RequestVoteReply(term=request.term, vote_granted=True)

    def _append_entries(
        self, request: wire.AppendEntriesRequest, context: grpc.ServicerContext
    ) -> wire.AppendEntriesReply:
        self.requests.append(request)
        return self.answer(request, context)

    def _append_entries_stream(
        self, requests: Iterator[wire.AppendEntriesRequest], context: grpc.ServicerContext
    ) -> Iterator[wire.AppendEntriesReply]:
        is_new = True
        for request in requests:
            if is_new:
                (self.streams if request.entries else self.heartbeat_streams).append(context)
            is_new = False
            self.connections["entries" if request.entries else "heartbeat"] = context.peer()
            self.requests.append(request)
            if not self.takes_another():
                return
            if not self.is_mute:
                yield self.answer(request, context)

    def stop(self) -> None:
        self.server.stop(None).wait()
        self.pool.shutdown()


@contextmanager
def peer_at(address: str, answer: Answer = agree) -> Iterator[Peer]:
    peer = Peer(address, answer)
    yield peer
    peer.stop()


class Bench:
    """A sender to node 2, and all that came of it."""

    def __init__(self, timeout: float = 5.0, max_backoff: float = 1.0) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.replies: list[Reply] = []
        self.failures: list[int] = []
        self.notes: list[str] = []
        self.bugs: list[BaseException] = []
        self.ahead = 0.0
        """Seconds that the sender's clock is ahead."""
        self.sender = PeerSender(
            2,
            Membership(1, {1: "127.0.0.1:1", 2: self.address}),
            SendingLimits(timeout=timeout, max_backoff=max_backoff, max_appends=2, max_message_bytes=1 << 20),
            lambda: clock.now() + self.ahead,
            self.take_reply,
            self.failures.append,
            self.notes.append,
            self.bugs.append,
        )

    def take_reply(self, reply: Reply) -> None:
        self.replies.append(reply)

    def answered(self, request: AppendEntries) -> int:
        """How often such a one has been."""
        return sum(isinstance(reply, AppendEntriesReply) and reply.round == request.round for reply in self.replies)

    @property
    def in_flight(self) -> dict[bool, int]:
        due = {is_bulk: len(line.due) for is_bulk, line in list(self.sender._lines.items())}
        return {True: due.get(True, 0), False: due.get(False, 0) + self.sender._calls_in_flight}

    def send_until_answered(self, seconds: float = 10.0) -> None:
        """As a leader does with its heartbeats."""
        before = len(self.replies)

        def answered() -> bool:
            self.sender.send(HEARTBEAT)
            return len(self.replies) > before

        wait_until(answered, "an answer", seconds)

    def wait_for_failures(self, count: int) -> None:
        wait_until(lambda: len(self.failures) == count, f"failure {count}")


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.sender.close()


def test_a_request_comes_back_as_a_reply_of_that_peer(bench: Bench) -> None:
    with peer_at(bench.address):
        bench.sender.send(BULK)
        wait_until(lambda: bench.replies, "the reply")
        assert bench.replies == [AppendEntriesReply(2, 1, 1, success=True, round=2, match_index=1)]
        bench.sender.send(VOTE)
        wait_until(lambda: len(bench.replies) == 2, "the vote")
        assert bench.replies[1] == RequestVoteReply(2, 1, 1, granted=True)
    assert not bench.failures


def test_every_request_says_who_sends_it_and_to_whom(bench: Bench) -> None:
    with peer_at(bench.address) as peer:
        bench.sender.send(HEARTBEAT)
        wait_until(lambda: len(bench.replies) == 1, "the first answer")
        bench.sender.introduce(Membership(1, {1: "127.0.0.1:1", 2: bench.address}, b"c" * 16, b"i" * 16))
        bench.sender.send(VOTE)
        bench.sender.send(HEARTBEAT)
        bench.sender.send(BULK)
        wait_until(lambda: len(bench.replies) == 4, "the other answers")
        first, *others = (request.identity for request in peer.requests)
    assert (first.sender, first.recipient, first.cluster_id) == (1, 2, b"")
    assert len(others) == 2, "the call and the one on the stream"
    for later in others:
        assert (later.sender, later.recipient, later.cluster_id, later.incarnation) == (1, 2, b"c" * 16, b"i" * 16)


def test_a_peer_that_is_not_there_is_told_once_and_left_alone_for_a_while(bench: Bench) -> None:
    bench.sender.send(HEARTBEAT)
    wait_until(lambda: bench.failures, "the failure")
    for _ in range(50):
        bench.sender.send(HEARTBEAT)
    assert bench.failures == [2]
    bench.sender.send(BULK)
    assert bench.failures == [2, 2], "the leader would wait for the answer to what was dropped"
    bench.ahead = 10
    bench.sender.send(HEARTBEAT)
    bench.wait_for_failures(3)
    assert bench.notes == [f"node 2 at {bench.address} can't be reached"]


def test_the_pauses_grow_up_to_a_second_and_no_further(bench: Bench) -> None:
    pauses = []
    for attempt in range(1, 9):
        bench.sender.send(HEARTBEAT)
        bench.wait_for_failures(attempt)
        pauses.append(bench.sender._ways[False].silent_until - clock.now() - bench.ahead)
        bench.ahead += 2
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1], abs=0.05)


def test_a_peer_that_comes_back_is_reached_within_about_a_second(bench: Bench) -> None:
    """Hazard 58: gRPC itself would wait for ever longer, up to two minutes."""

    def sixth_attempt_failed() -> bool:
        bench.sender.send(HEARTBEAT)
        return len(bench.failures) == 6

    wait_until(sixth_attempt_failed, "a few attempts in vain")
    with peer_at(bench.address):
        back_at = clock.now()
        bench.send_until_answered()
        assert clock.now() - back_at < 3.5
        assert bench.notes[1:] == [f"node 2 at {bench.address} is there again"]


def test_what_the_interruption_of_a_connection_has_cost_is_one_failure(bench: Bench) -> None:
    held = threading.Event()

    def hold(request: wire.AppendEntriesRequest, context: grpc.ServicerContext) -> wire.AppendEntriesReply:
        held.wait(10)
        return agree(request, context)

    with peer_at(bench.address, hold) as peer:
        for request in (BULK, BULK, HEARTBEAT):
            bench.sender.send(request)
        wait_until(lambda: len(peer.requests) == 2, "the heartbeat, and the first on the stream, have arrived")
        assert bench.in_flight == {True: 2, False: 1}
        peer.server.stop(None)  # before they are let go, or some might be answered yet
        wait_until(lambda: bench.in_flight == NONE, "all have failed")
        held.set()
    assert bench.failures == [2, 2], "one of each connection"


def test_bulk_beyond_the_limit_is_dropped_and_heartbeats_still_pass(bench: Bench) -> None:
    held = threading.Event()

    def hold_bulk(request: wire.AppendEntriesRequest, context: grpc.ServicerContext) -> wire.AppendEntriesReply:
        if request.entries:
            held.wait(10)
        return agree(request, context)

    with peer_at(bench.address, hold_bulk) as peer:
        for _ in range(5):
            bench.sender.send(BULK)
        wait_until(lambda: peer.requests, "the first of those that there is room for")
        assert bench.failures == [2] * 3, "the leader would wait for the answers to what was dropped"
        bench.send_until_answered()
        bench.sender.send(VOTE)
        wait_until(lambda: any(isinstance(reply, RequestVoteReply) for reply in bench.replies), "the vote")
        assert sum(bool(request.entries) for request in peer.requests) == 1, "the peer takes them in order"
        assert bench.in_flight[True] == 2
        held.set()
        wait_until(lambda: bench.in_flight == NONE, "all are answered")
        bench.sender.send(BULK)
        wait_until(lambda: sum(bool(request.entries) for request in peer.requests) == 3, "room again")


def test_a_peer_that_hangs_counts_as_failed_after_the_timeout() -> None:
    bench = Bench(timeout=0.2)
    held = threading.Event()

    def hold(request: wire.AppendEntriesRequest, context: grpc.ServicerContext) -> wire.AppendEntriesReply:
        held.wait(10)
        return agree(request, context)

    with peer_at(bench.address, hold) as peer:
        bench.sender.send(HEARTBEAT)
        wait_until(lambda: peer.requests, "it has arrived")
        bench.ahead = 0.1
        bench.sender.send(HEARTBEAT)
        assert bench.in_flight == {True: 0, False: 2}
        bench.ahead = 1.0
        bench.sender.send(HEARTBEAT)
        wait_until(lambda: bench.failures, "the failure")
        held.set()
    assert bench.failures == [2]
    bench.sender.close()


def test_a_large_request_gets_the_time_that_it_needs_on_a_slow_network() -> None:
    """Or it would be given up just before it arrives, and sent again, for ever."""
    bench = Bench(timeout=0.3)
    held = threading.Event()

    def hold(request: wire.AppendEntriesRequest, context: grpc.ServicerContext) -> wire.AppendEntriesReply:
        held.wait(10)
        return agree(request, context)

    with peer_at(bench.address, hold) as peer:
        bench.sender.send(replace(BULK, entries=(Entry(1, 1, EntryKind.BATCH, bytes(2 << 20)),)))
        wait_until(lambda: peer.requests, "it has arrived")
        bench.ahead = 2.0
        bench.sender.send(HEARTBEAT)  # which has to wait for its answer itself
        assert bench.in_flight[True] == 1
        held.set()
        wait_until(lambda: len(bench.replies) == 2, "both replies")
    assert not bench.failures
    bench.sender.close()


def test_a_refusal_is_shown_with_the_peers_own_words_and_only_once(bench: Bench) -> None:
    def refuse(_: wire.AppendEntriesRequest, context: grpc.ServicerContext) -> wire.AppendEntriesReply:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "belongs to another cluster")
        raise AssertionError

    with peer_at(bench.address, refuse) as peer:
        for attempt in range(1, 4):
            bench.sender.send(HEARTBEAT)
            bench.wait_for_failures(attempt)
            bench.ahead += 2
        assert bench.notes == [f"node 2 at {bench.address} refuses this node: belongs to another cluster"]
        peer.answer = agree
        bench.send_until_answered()
        assert bench.notes[1:] == [f"node 2 at {bench.address} is there again"]


@each_way
def test_an_exception_on_the_way_of_a_reply_stops_the_node(bench: Bench, request_: AppendEntries | RequestVote) -> None:
    """Hazard 51: gRPC's thread would log it and go on."""
    bug = ZeroDivisionError("in the turn")

    def take_reply(_: Reply) -> None:
        raise bug

    bench.sender._replied = take_reply
    with peer_at(bench.address):
        bench.sender.send(request_)
        wait_until(lambda: bench.bugs, "the bug is told")
    assert bench.bugs == [bug]


@each_way
def test_an_exception_on_the_way_of_a_failure_stops_the_node(
    bench: Bench, request_: AppendEntries | RequestVote
) -> None:
    bug = ZeroDivisionError("in the turn")

    def take_failure(_: int) -> None:
        raise bug

    bench.sender._failed = take_failure
    with peer_at(bench.address) as peer:
        peer.takes_another = lambda: False
        peer.refuses_votes = True
        bench.sender.send(request_)
        wait_until(lambda: bench.bugs, "the bug is told")
    assert bench.bugs == [bug]


def test_a_sender_that_is_closed_tells_no_failure(bench: Bench) -> None:
    held = threading.Event()

    def hold(request: wire.AppendEntriesRequest, context: grpc.ServicerContext) -> wire.AppendEntriesReply:
        held.wait(10)
        return agree(request, context)

    with peer_at(bench.address, hold) as peer:
        bench.sender.send(HEARTBEAT)
        wait_until(lambda: peer.requests, "it is on its way")
        bench.sender.close()
        wait_until(lambda: bench.in_flight == NONE, "it is given up")
        held.set()
    assert not bench.failures
    assert not bench.notes
    assert not bench.bugs


def test_entries_have_a_connection_of_their_own(bench: Bench) -> None:
    """Hazard 49: on a slow network heartbeats and votes would stand behind them in TCP."""
    with peer_at(bench.address) as peer:
        bench.sender.send(BULK)
        bench.sender.send(HEARTBEAT)
        bench.sender.send(VOTE)
        wait_until(lambda: len(bench.replies) == 3, "the answers")
        assert peer.connections["heartbeat"] == peer.connections["vote"]
        assert peer.connections["heartbeat"] != peer.connections["entries"]


@contextmanager
def peer_behind_proxy(bench: Bench) -> Iterator[StallingProxy]:
    real = f"127.0.0.1:{free_port()}"
    with peer_at(real), stalling_proxy(real, int(bench.address.rpartition(":")[2])) as proxy:
        yield proxy


def test_entries_that_do_not_come_through_take_a_new_connection_and_silence_nobody() -> None:
    """The heartbeats, which come through, keep the leader in office: it must not go on leading without its entries."""
    bench = Bench(timeout=0.3)
    with peer_behind_proxy(bench) as proxy:
        bench.sender.send(BULK)
        wait_until(lambda: bench.replies, "the first answer")
        proxy.stall()
        bench.sender.send(HEARTBEAT)
        wait_until(lambda: len(bench.replies) == 2, "the answer to the heartbeat")

        def is_answered() -> bool:
            heartbeats = bench.answered(HEARTBEAT)
            bench.sender.send(HEARTBEAT)
            wait_until(lambda: bench.answered(HEARTBEAT) > heartbeats, "the heartbeats are answered all the time")
            bench.sender.send(BULK)
            return bench.answered(BULK) > 1

        since = clock.now()
        wait_until(is_answered, "entries are answered")
        assert clock.now() - since < 5.0, "and not only when gRPC gives up the connection"
        bench.sender.close()
    name = f"node 2 at {bench.address}"
    assert bench.notes == [f"{name} can't be reached", f"{name} is there again"]


def test_a_call_that_does_not_come_through_takes_a_new_connection() -> None:
    bench = Bench(timeout=0.3)
    with peer_behind_proxy(bench) as proxy:
        bench.sender.send(VOTE)
        wait_until(lambda: bench.replies, "the first answer")
        proxy.stall()
        since = clock.now()

        def is_answered() -> bool:
            bench.sender.send(VOTE)
            return len(bench.replies) > 1

        wait_until(is_answered, "an answer")
        assert clock.now() - since < 5.0, "and not only when gRPC gives up the connection"
        bench.sender.close()


# ---- the streams -----------------------------------------------------------------------------------------------------


def bulk(number: int) -> AppendEntries:
    return replace(BULK, round=number)


def test_entries_travel_on_one_stream_and_are_answered_in_order(bench: Bench) -> None:
    with peer_at(bench.address) as peer:
        for number in range(20):
            wait_until(lambda: bench.in_flight[True] < 2, "room")
            bench.sender.send(bulk(number))
        wait_until(lambda: len(bench.replies) == 20, "all replies")
        assert [reply.round for reply in bench.replies if isinstance(reply, AppendEntriesReply)] == list(range(20))
        assert len(peer.streams) == 1
    assert not bench.failures


def wait_for_replies(bench: Bench, count: int) -> None:
    wait_until(lambda: len(bench.replies) == count, f"{count} answers")


def test_heartbeats_travel_on_a_stream_of_their_own(bench: Bench) -> None:
    with peer_at(bench.address) as peer:
        for number in range(10):
            bench.sender.send(replace(HEARTBEAT, round=number))
            bench.sender.send(replace(BULK, round=100 + number))
            wait_for_replies(bench, 2 * (number + 1))
        rounds = [reply.round for reply in bench.replies if isinstance(reply, AppendEntriesReply)]
        assert [round for round in rounds if round < 100] == list(range(10))
        assert (len(peer.streams), len(peer.heartbeat_streams), len(peer.requests)) == (1, 1, 20)
    assert not bench.failures


def test_a_heartbeat_that_is_not_answered_holds_back_neither_the_next_one_nor_a_vote(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that has been slow has to find the later ones when it looks whether there still is a leader."""
    monkeypatch.setattr(streams, "_QUICK_S", 10.0)  # so that a paired stream would wait for the answer
    with peer_at(bench.address) as peer:
        bench.send_until_answered()
        wait_until(lambda: bench.in_flight == NONE, "all are answered")
        peer.is_mute = True
        before = len(peer.requests)
        for _ in range(20):
            bench.sender.send(HEARTBEAT)
        assert bench.in_flight == {True: 0, False: 8}
        wait_until(lambda: len(peer.requests) - before == 8, "all have arrived")
        bench.sender.send(VOTE)
        wait_until(lambda: any(isinstance(reply, RequestVoteReply) for reply in bench.replies), "the vote")
        bench.ahead = 6.0
        bench.sender.send(VOTE)
        wait_until(lambda: sum(isinstance(reply, RequestVoteReply) for reply in bench.replies) == 2, "another one")
        wait_until(lambda: bench.in_flight == NONE, "the heartbeats are given up")
    assert bench.failures == [2]


def test_an_answer_that_cannot_be_understood_counts_as_none(bench: Bench) -> None:
    """Or a stream would be opened again at once, for every request."""
    with peer_at(bench.address) as peer:
        peer.garbage = True
        for count, request in enumerate((HEARTBEAT, BULK, HEARTBEAT, BULK), start=1):
            bench.sender.send(request)
            bench.wait_for_failures(count)
            assert bench.sender._ways[bool(request.entries)].silent_until > clock.now() + bench.ahead
            bench.ahead += 2.0
        peer.garbage = False
        bench.send_until_answered()
        assert bench.notes == [
            f"node 2 at {bench.address} can't be reached",
            f"node 2 at {bench.address} is there again",
        ]


def test_heartbeats_on_a_stream_that_has_ended_cost_an_attempt_and_a_pause(bench: Bench) -> None:
    """As calls that fail at once: the next ones wait until it is worth trying again."""
    with peer_at(bench.address) as peer:
        peer.takes_another = lambda: False
        for count in (1, 2, 3):
            bench.sender.send(HEARTBEAT)
            bench.wait_for_failures(count)
            for _ in range(10):
                bench.sender.send(HEARTBEAT)
            assert len(peer.heartbeat_streams) == count
            bench.ahead += 2.0
        peer.takes_another = lambda: True
        bench.send_until_answered()
        assert len(bench.failures) == 3


def test_a_request_on_the_stream_that_is_overdue_costs_the_stream_and_is_one_failure() -> None:
    bench = Bench(timeout=5.0)
    held = threading.Event()

    def hold_bulk(request: wire.AppendEntriesRequest, context: grpc.ServicerContext) -> wire.AppendEntriesReply:
        if request.entries:
            held.wait(10)
        return agree(request, context)

    with peer_at(bench.address, hold_bulk) as peer:
        bench.sender.send(bulk(1))
        bench.sender.send(bulk(2))
        wait_until(lambda: peer.requests, "it has arrived")
        bench.ahead = 6.0
        bench.sender.send(HEARTBEAT)
        wait_until(lambda: bench.in_flight == NONE, "both are given up, and the heartbeat is over")
        assert bench.failures == [2]
        held.set()
        bench.ahead = 20.0
        bench.send_until_answered()
        bench.sender.send(bulk(3))
        wait_until(
            lambda: any(reply.round == 3 for reply in bench.replies if isinstance(reply, AppendEntriesReply)), ""
        )
        assert len(peer.streams) == 2
        assert [
            reply.round for reply in bench.replies if isinstance(reply, AppendEntriesReply) and reply.round > 1
        ] == [3], "what was given up is no answer any more"
    assert bench.failures == [2]
    bench.sender.close()


def test_a_stream_that_ends_while_nothing_is_under_way_is_opened_anew_without_a_word(bench: Bench) -> None:
    with peer_at(bench.address) as peer:
        bench.sender.send(bulk(1))
        wait_until(lambda: len(bench.replies) == 1, "the first answer")
        peer.streams[0].cancel()
        wait_until(lambda: not bench.sender._lines, "the end of the stream")
        assert not bench.failures
        bench.sender.send(bulk(2))
        wait_until(lambda: len(bench.replies) == 2, "the second answer")
        assert len(peer.streams) == 2
    assert not bench.failures
    assert not bench.notes


def test_a_stream_that_ends_without_an_answer_is_a_failure(bench: Bench) -> None:
    """As from a peer that stops."""
    with peer_at(bench.address) as peer:
        peer.takes_another = lambda: False
        bench.sender.send(bulk(1))
        bench.wait_for_failures(1)
        assert bench.in_flight == NONE
        peer.takes_another = lambda: True
        bench.ahead = 2.0
        bench.sender.send(bulk(2))
        wait_until(lambda: bench.replies, "the answer")
    assert bench.failures == [2]


def test_each_stream_that_is_lost_is_a_failure_of_its_own(bench: Bench) -> None:
    """Were the second one taken for more of what the first has cost, the leader would wait for its answer in vain."""
    with peer_at(bench.address) as peer:
        peer.takes_another = lambda: False
        for count in (1, 2, 3):
            bench.ahead += 2.0
            bench.sender.send(bulk(count))
            bench.wait_for_failures(count)
        assert len(peer.streams) == 3


def test_a_request_that_was_about_to_leave_when_the_peer_was_lost_is_no_failure_of_its_own(bench: Bench) -> None:
    open_line = bench.sender._open_line

    def open_as_another_is_lost(is_bulk: bool) -> Any:
        line = open_line(is_bulk)
        interruptions = bench.sender._ways[is_bulk].interruptions
        bench.sender._interrupted(is_bulk, grpc.StatusCode.UNAVAILABLE, "", interruptions)
        return line

    bench.sender._open_line = open_as_another_is_lost  # type: ignore[method-assign]
    with peer_at(bench.address) as peer:
        peer.takes_another = lambda: False
        bench.sender.send(HEARTBEAT)
        wait_until(lambda: peer.requests, "it has arrived")
        wait_until(lambda: bench.in_flight == NONE, "it is lost, too")
    assert bench.failures == [2]


def test_a_refusal_on_the_stream_is_shown_with_the_peers_own_words(bench: Bench) -> None:
    def refuse(_: wire.AppendEntriesRequest, context: grpc.ServicerContext) -> wire.AppendEntriesReply:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "belongs to another cluster")
        raise AssertionError

    with peer_at(bench.address, refuse) as peer:
        bench.sender.send(BULK)
        bench.wait_for_failures(1)
        assert bench.notes == [f"node 2 at {bench.address} refuses this node: belongs to another cluster"]
        peer.answer = agree
        bench.ahead = 2.0
        bench.sender.send(BULK)
        wait_until(lambda: bench.replies, "the answer")
        assert bench.notes[1:] == [f"node 2 at {bench.address} is there again"]


def test_a_sender_is_closed_at_once_whatever_its_stream_is_doing(bench: Bench) -> None:
    """A channel whose thread has left with a message still to come would wait for it for ever."""
    held = threading.Event()

    def hold(request: wire.AppendEntriesRequest, context: grpc.ServicerContext) -> wire.AppendEntriesReply:
        held.wait(10)
        return agree(request, context)

    with peer_at(bench.address, hold) as peer:
        bench.sender.send(BULK)
        bench.sender.send(BULK)
        wait_until(lambda: peer.requests, "it is on its way")
        closing = threading.Thread(target=bench.sender.close, daemon=True)
        closing.start()
        closing.join(5)
        assert not closing.is_alive()
        held.set()
    assert not bench.failures
    assert not bench.bugs
