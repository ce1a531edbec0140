"""Answers that clients do not take: how much of a node's memory they can have, and that it always comes back."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import Any
from unittest.mock import Mock

import grpc
import pytest

from raftkv import bounds, streams
from raftkv.bounds import SMALL_ANSWER_BYTES, AnswerBudget, Refusal
from raftkv.client_stream import ASK_AGAIN, FOUND, ClientStream
from raftkv.operations import Code, Operation
from raftkv.raft.types import Entry, EntryKind
from raftkv.replica import Query, Served, Write
from raftkv.server import _Response
from raftkv.service import Service
from raftkv.wire import raft_pb2 as wire
from tests.node.fakes import LIMITS, FakeHost, FakeNode, fake_node
from tests.node.test_client_stream import LARGE, Client, batch
from tests.support.processes import wait_until

MIB = 1 << 20
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
BIG = b"big"
"""A key whose value has a mebibyte."""
EIGHT = [BIG] * 8
"""As many as one answer holds."""


def give(host: FakeHost, key: bytes, size: int) -> None:
    write = batch(Operation(Code.SET, key, bytes(size)))
    host.machine.apply(Entry(host.machine.applied_index + 1, 1, EntryKind.BATCH, write))


@contextmanager
def node_with(max_unsent_bytes: int, call_timeout: float = 30.0, has_lease: bool = True) -> Iterator[FakeNode]:
    """It has BIG, and a small key k."""
    limits = replace(LARGE, max_unsent_bytes=max_unsent_bytes, call_timeout=call_timeout)
    with fake_node(limits, max_message_bytes=32 << 20) as node:
        give(node.host, BIG, MIB)
        give(node.host, b"k", 1)
        node.host.has_lease = has_lease
        yield node
        assert not node.bugs


def used(budget: AnswerBudget) -> int:
    return sum(budget._used)


def wait_for_nothing_unsent(node: FakeNode) -> None:
    answers = node.service.answers
    wait_until(lambda: answers._used == [0, 0] and not answers._holders, "all room is back", seconds=20)


# ---- the budget ------------------------------------------------------------------------------------------------------


def test_large_answers_have_half_of_the_room_and_small_ones_all_of_it() -> None:
    budget = AnswerBudget(4 * MIB)
    budget.take(MIB)
    budget.take(MIB)
    with pytest.raises(Refusal) as large:
        budget.take(SMALL_ANSWER_BYTES + 1)
    for _ in range(2 * MIB // SMALL_ANSWER_BYTES):
        budget.take(SMALL_ANSWER_BYTES)
    with pytest.raises(Refusal) as small:
        budget.take(1)
    for refusal in (large.value, small.value):
        assert refusal.code is EXHAUSTED
        assert "(MAX_UNSENT_BYTES); nothing has been done: take the answers" in refusal.details
    budget.give_back(3 * MIB)
    budget.take(MIB)


def test_an_answer_larger_than_all_the_room_can_be_given_but_only_one() -> None:
    budget = AnswerBudget(4 * MIB)
    budget.take(9 * MIB)
    with pytest.raises(Refusal):
        budget.take(9 * MIB)
    budget.give_back(9 * MIB)
    budget.take(9 * MIB)


def test_half_of_the_room_is_left_to_small_answers_however_large_one_is() -> None:
    budget = AnswerBudget(4 * MIB)
    budget.take(9 * MIB)
    for _ in range(2 * MIB // SMALL_ANSWER_BYTES):
        budget.take(SMALL_ANSWER_BYTES)
    with pytest.raises(Refusal):
        budget.take(1)
    budget.give_back(SMALL_ANSWER_BYTES)
    budget.take(1)


def test_an_answer_without_values_is_never_refused() -> None:
    budget = AnswerBudget(4 * MIB)
    for _ in range(5 * MIB // SMALL_ANSWER_BYTES):
        budget.count(SMALL_ANSWER_BYTES)
    with pytest.raises(Refusal):
        budget.take(1)
    budget.take(0)


def test_an_answer_that_turns_out_large_counts_as_one_and_no_longer_as_a_small_one() -> None:
    budget = AnswerBudget(4 * MIB)
    budget.take(SMALL_ANSWER_BYTES)
    budget.count(SMALL_ANSWER_BYTES + 1, taken=SMALL_ANSWER_BYTES)
    assert budget._used == [0, SMALL_ANSWER_BYTES + 1]
    budget.give_back(SMALL_ANSWER_BYTES + 1)
    assert budget._used == [0, 0]


def test_an_answer_that_is_sent_in_any_case_counts_too() -> None:
    budget = AnswerBudget(4 * MIB)
    budget.count(2 * MIB)
    with pytest.raises(Refusal):
        budget.take(MIB)


def holder(size: int, stands_since: float) -> Mock:
    return Mock(**{"unsent.return_value": (size, stands_since)})


def test_who_takes_nothing_is_disconnected_only_while_room_is_short() -> None:
    budget = AnswerBudget(4 * MIB)
    stuck, reads = holder(MIB, 1.0), holder(MIB, 3.0)
    budget.watch(stuck)
    budget.watch(reads)
    budget.take(MIB)
    budget.disconnect_stuck(6.0)
    assert not stuck.disconnect.called
    budget.take(MIB)
    budget.disconnect_stuck(6.0)
    assert (stuck.disconnect.call_count, reads.disconnect.call_count) == (1, 0)
    budget.forget(reads)
    budget.disconnect_stuck(8.0)
    assert not reads.disconnect.called


def test_who_takes_its_answers_over_a_slow_link_is_not_disconnected_nor_who_has_little_unsent() -> None:
    budget = AnswerBudget(4 * MIB)
    budget.take(9 * MIB)
    small, large = holder(SMALL_ANSWER_BYTES, 0.0), holder(8 * MIB, 0.0)
    budget.watch(small)
    budget.watch(large)
    budget.disconnect_stuck(32.0)
    assert not large.disconnect.called, "it may have had all but the last bytes"
    budget.disconnect_stuck(32.5)
    assert (small.disconnect.call_count, large.disconnect.call_count) == (0, 1)


def test_no_more_are_disconnected_than_others_need_the_room_of() -> None:
    budget = AnswerBudget(4 * MIB)
    stuck = [holder(MIB, 0.0) for _ in range(3)]
    for one in stuck:
        budget.count(MIB)
        budget.watch(one)
        one.disconnect.side_effect = lambda: budget.give_back(MIB)
    budget.disconnect_stuck(60.0)
    assert sum(one.disconnect.call_count for one in stuck) == 2


def test_who_is_disconnected_has_given_its_room_back(host: FakeHost) -> None:
    stream = Wire(host)
    stream.get(BIG)
    wait_until(lambda: stream.unsent, "an answer")
    stream.stream.disconnect()
    assert stream.budget._used == [0, 0]
    stream.send_one()
    stream.end()
    context, budget = Mock(), AnswerBudget(4 * MIB)
    call = _Response(context, Mock(), budget)
    call.admit(MIB)
    assert budget._holders == {call}
    assert call.unsent()[0] == MIB
    call.disconnect()
    assert context.cancel.called
    for _ in range(2):
        assert (budget._used, budget._holders) == ([0, 0], set())
        call.ended()


# ---- a stream, with the test in the place of the network -------------------------------------------------------------


class Wire:
    """A stream whose answers are sent when the test says so."""

    def __init__(self, host: FakeHost, max_unsent_bytes: int = 64 * MIB) -> None:
        self.service = Service(host, replace(LARGE, max_unsent_bytes=max_unsent_bytes), lambda work: work(), Mock())
        self.budget = self.service.answers
        self.unsent: list[bytes] = []
        self.taken = 0
        """Requests that have been read."""
        self.stream = ClientStream(self.service, self.unsent.append, lambda: None, lambda: None)
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self.stream.read, args=(self._read(),), daemon=True)
        self._thread.start()

    def _read(self) -> Iterator[bytes]:
        while (data := self._requests.get()) is not None:
            self.taken += 1
            yield data

    def get(self, *keys: bytes) -> None:
        self._requests.put(wire.ClientRequest(id=1, get=keys).SerializeToString())

    def wait_until_it_waits(self, taken: int) -> None:
        """For room, with that many requests read, the last of which it has not begun."""
        wait_until(lambda: self.taken == taken and self.stream._changed._waiters, "the stream waits")  # type: ignore[attr-defined]

    def send_one(self) -> wire.ClientReply:
        data = wait_until(lambda: self.unsent, "an answer").pop(0)
        self.stream.sent(len(data))
        return wire.ClientReply.FromString(data)

    def end(self) -> None:
        self._requests.put(None)
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert (self.budget._used, self.budget._holders) == ([0, 0], set())


@pytest.fixture
def host() -> FakeHost:
    host = FakeHost()
    host.has_lease = True
    give(host, BIG, MIB)
    give(host, b"k", 1)
    return host


def test_a_stream_takes_no_request_while_eight_mebibytes_of_its_answers_are_unsent(host: FakeHost) -> None:
    stream = Wire(host)
    for _ in range(10):
        stream.get(*EIGHT[:4])
    stream.wait_until_it_waits(taken=3)
    assert len(stream.unsent) == 2
    assert used(stream.budget) == sum(map(len, stream.unsent)), "what is counted is what there is"
    stream.send_one()
    stream.wait_until_it_waits(taken=4)
    for _ in range(9):
        assert stream.send_one().found == bytes([FOUND] * 4)
    stream.end()


def test_while_room_is_short_a_stream_takes_one_request_after_the_other(host: FakeHost) -> None:
    stream = Wire(host, max_unsent_bytes=4 * MIB)
    stream.budget.take(MIB)  # somebody else's
    for _ in range(3):
        stream.get(BIG)
    stream.wait_until_it_waits(taken=2)
    stream.send_one()
    stream.wait_until_it_waits(taken=3)
    stream.budget.give_back(MIB)
    for _ in range(2):
        assert stream.send_one().found == bytes([FOUND])
    stream.end()


def test_a_thousand_small_answers_may_be_unsent_whatever_others_have(host: FakeHost) -> None:
    stream = Wire(host, max_unsent_bytes=4 * MIB)
    stream.budget.take(2 * MIB)
    for _ in range(50):
        stream.get(*[b"k"] * 100)
    wait_until(lambda: len(stream.unsent) == 50, "all are answered")
    for _ in range(50):
        assert stream.send_one().found == bytes([FOUND] * 100)
    stream.budget.give_back(2 * MIB)
    stream.end()


def test_what_finds_no_room_is_refused_at_once_before_a_value_is_copied_and_what_follows_goes_on(
    host: FakeHost,
) -> None:
    find_each, copied = host.machine.find_each, []

    def find(keys: Sequence[bytes]) -> Any:
        found = find_each(keys)
        return Mock(size=found.size, values=lambda: copied.append(keys) or found.values())  # type: ignore[func-returns-value]

    host.machine.find_each = find  # type: ignore[method-assign, assignment]
    for host.has_lease in (True, False):
        stream = Wire(host, max_unsent_bytes=4 * MIB)
        stream.budget.take(2 * MIB)
        stream.get(BIG)
        reply = stream.send_one()
        assert (reply.code, reply.details.count("MAX_UNSENT_BYTES")) == (EXHAUSTED.value[0], 1)
        assert not copied
        stream._requests.put(wire.ClientRequest(id=2, batch=batch(Operation(Code.SET, b"x"))).SerializeToString())
        assert stream.send_one().code == 0, "writes go on"
        stream.budget.give_back(2 * MIB)
        stream.get(BIG)
        assert stream.send_one().found == bytes([FOUND])
        assert copied.pop() == [BIG]
        stream.end()


def test_keys_are_listed_only_if_there_is_room_for_them(host: FakeHost) -> None:
    for number in range(8000):
        give(host, b"%010d" % number, 0)
    stream = Wire(host, max_unsent_bytes=4 * MIB)
    request = wire.ClientRequest(id=1, keys=b"0").SerializeToString()
    stream.budget.take(2 * MIB)
    stream._requests.put(request)
    assert stream.send_one().code == EXHAUSTED.value[0]
    stream.budget.give_back(2 * MIB)
    stream._requests.put(request)
    (data,) = wait_until(lambda: stream.unsent, "the answer")
    assert used(stream.budget) == len(data) > SMALL_ANSWER_BYTES
    assert len(stream.send_one().values) == 8000
    stream.end()


def test_of_reads_that_wait_for_a_quorum_together_what_is_too_much_is_to_be_asked_for_again(host: FakeHost) -> None:
    """Nobody could know how large their answers would be, and whoever has them can't wait."""
    host.has_lease = False
    held: list[Query] = []
    host.bring_instead = held.append  # type: ignore[assignment]
    stream = Wire(host)
    for _ in range(20):
        stream.get(*EIGHT)
    wait_until(lambda: len(held) == 20, "all wait")
    for query in held:
        query.caller.answer(Served(query.read(host.machine)))
    assert sum(map(len, stream.unsent)) < 9 * MIB
    assert [stream.send_one().found for _ in range(20)] == [bytes([FOUND] * 8)] + [bytes([ASK_AGAIN] * 8)] * 19
    stream.end()


def test_a_client_that_vanishes_has_nothing_unsent_any_more_nor_what_is_answered_later(host: FakeHost) -> None:
    host.has_lease = False
    held: list[Query | Write] = []
    stream = Wire(host)
    stream.get(BIG)
    stream.get(b"k")
    wait_until(lambda: len(stream.unsent) == 2, "two answers, a large one and a small one")
    host.bring_instead = held.append  # type: ignore[assignment]
    stream.get(BIG)
    wait_until(lambda: held, "another read waits")
    assert used(stream.budget) > MIB
    stream.stream.vanish()
    assert used(stream.budget) == 0
    stream.stream.vanish()
    held[0].caller.answer(Served(host.machine.find_each([BIG])))
    assert used(stream.budget) == 0
    for _ in range(3):
        stream.send_one()
    stream.end()


def test_a_stream_knows_what_is_unsent_and_since_when_nothing_was_taken(host: FakeHost) -> None:
    stream = Wire(host)
    assert stream.stream.unsent()[0] == 0
    begun = time.monotonic()
    stream.get(BIG)
    stream.get(BIG)
    wait_until(lambda: len(stream.unsent) == 2, "two answers")
    made = time.monotonic()
    size, since = stream.stream.unsent()
    assert size == sum(map(len, stream.unsent))
    assert begun <= since <= made
    stream.send_one()
    size, since = stream.stream.unsent()
    assert size == len(stream.unsent[0])
    assert made <= since <= time.monotonic(), "it has taken one since"
    stream.send_one()
    stream.end()


# ---- a stream, over a network ----------------------------------------------------------------------------------------


def fill(node: FakeNode, requests: int = 5) -> Client:
    """A client that does not read."""
    client = Client(node, reads=False)
    for id in range(requests):
        client.send(id, get=EIGHT)
    wait_until(lambda: used(node.service.answers) > 8 * MIB, "an answer is unsent")
    return client


@pytest.mark.parametrize("is_promised", [False, True])
@pytest.mark.parametrize("has_lease", [True, False])
def test_all_room_comes_back_when_a_client_that_does_not_read_cancels_its_stream(
    monkeypatch: pytest.MonkeyPatch, is_promised: bool, has_lease: bool
) -> None:
    if is_promised:
        monkeypatch.setattr(streams, "cygrpc", None)
    with node_with(64 * MIB, has_lease=has_lease) as node:
        client = fill(node)
        assert used(node.service.answers) < 17 * MIB
        client.call.cancel()
        wait_for_nothing_unsent(node)
        wait_until(lambda: not node.server._streams, "its thread is free")


def test_all_room_comes_back_when_the_connection_is_closed() -> None:
    with node_with(64 * MIB) as node:
        fill(node)
        node.channel.close()
        wait_for_nothing_unsent(node)


def test_all_room_comes_back_when_clients_are_killed() -> None:
    """While their answers are under way, and being made."""
    program = f"""
import grpc, queue, sys, time
from raftkv.wire import raft_pb2 as wire
calls = []
for _ in range(4):
    channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.use_local_subchannel_pool", 1)])
    requests = queue.SimpleQueue()
    for id in range(20):
        requests.put(wire.ClientRequest(id=id, get=[{BIG!r}] * 8).SerializeToString())
    calls.append((channel, channel.stream_stream("/RaftNode/ServeClientStream")(iter(requests.get, None))))
time.sleep(60)
"""
    with node_with(64 * MIB) as node:
        with subprocess.Popen([sys.executable, "-c", program, node.address]) as process:
            wait_until(lambda: used(node.service.answers) > 16 * MIB, "several do not read", seconds=20)
            process.kill()
        wait_for_nothing_unsent(node)
        assert node.serve(get=b"k").success


def test_a_node_stops_though_its_clients_do_not_read_and_nothing_is_held_then() -> None:
    with node_with(64 * MIB) as node:
        fill(node)
    wait_for_nothing_unsent(node)


def test_a_client_that_takes_nothing_makes_room_for_others_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SLOWEST_BYTES_PER_S", 1 << 30)
    with node_with(16 * MIB, call_timeout=0.3) as node:
        fill(node)
        wait_until(lambda: not node.server._streams, "it is disconnected")
        wait_for_nothing_unsent(node)
        other = Client(node)
        assert other.ask(1, get=[BIG]).found == bytes([FOUND])
        other.end()


def test_a_client_that_reads_is_never_refused_for_its_own_answers_however_much_it_asks_for_at_once() -> None:
    with node_with(4 * MIB) as node:
        client = Client(node)
        for id in range(40):
            client.send(id, get=[BIG])
        answers = [client.next() for _ in range(40)]
        assert {(reply.code, reply.found) for reply in answers} == {(0, bytes([FOUND]))}
        client.end()
        wait_for_nothing_unsent(node)


def test_clients_that_read_much_at_once_get_it_all_if_they_ask_again_and_small_reads_are_never_refused() -> None:
    with node_with(2 * MIB) as node:
        clients = [Client(node) for _ in range(8)]
        for client in clients:
            for id in range(20):
                client.send(id, get=[BIG] * 3)
        for _ in range(20):
            assert node.serve(get=b"k").values == [b"\0"]
        for client in clients:
            answered = 0
            while answered < 20:
                reply = client.next()
                assert (reply.code, reply.found) in [(0, bytes([FOUND] * 3)), (EXHAUSTED.value[0], b"")]
                answered += not reply.code
                if reply.code:
                    client.send(reply.id, get=[BIG] * 3)
            client.end()
        wait_for_nothing_unsent(node)


# ---- single calls ----------------------------------------------------------------------------------------------------


class Shut:
    """A connection on which calls are made, and none of their answers' bytes is allowed to be sent: HTTP/2's window is
    0."""

    def __init__(self, node: FakeNode, calls: int, key: bytes = BIG) -> None:
        host, _, port = node.address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        message = wire.ServeClientRequest(get=key).SerializeToString()
        body = b"\0" + struct.pack(">I", len(message)) + message
        data = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, struct.pack(">HI", 4, 0))
        for id in range(1, 2 * calls, 2):
            data += _frame(1, 4, id, _HEADERS) + _frame(0, 1, id, body)
        self._socket.sendall(data)

    def cancel(self, calls: int) -> None:
        self._socket.sendall(b"".join(_frame(3, 0, id, struct.pack(">I", 8)) for id in range(1, 2 * calls, 2)))

    def close(self) -> None:
        self._socket.close()


def _frame(kind: int, flags: int, id: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", id) + payload


def _text(text: bytes) -> bytes:
    return bytes([len(text)]) + text


_HEADERS = b"\x83\x86\x44" + _text(b"/RaftNode/ServeClient") + b"\x41" + _text(b"x")
for _name, _value in ((b"content-type", b"application/grpc"), (b"te", b"trailers")):
    _HEADERS += b"\x40" + _text(_name) + _text(_value)


@pytest.mark.parametrize("has_lease", [True, False])
@pytest.mark.parametrize("end", [lambda shut: shut.close(), lambda shut: shut.cancel(20)], ids=["closed", "cancelled"])
def test_of_calls_whose_answers_are_not_taken_no_more_are_answered_than_there_is_room_for(
    has_lease: bool, end: Callable[[Shut], None]
) -> None:
    with node_with(8 * MIB, has_lease=has_lease) as node:
        shut = Shut(node, calls=20)
        wait_until(lambda: used(node.service.answers) == 4 * MIB, "half of the room")
        code, details = node.refusal(get=BIG)
        assert code is EXHAUSTED
        assert "(MAX_UNSENT_BYTES); nothing has been done: take the answers that have come" in details
        code, _ = node.refusal(request="GET big")
        assert code is EXHAUSTED
        assert node.serve(get=b"k").values == [b"\0"], "small answers have room"
        assert node.serve(batch=batch(Operation(Code.SET, b"x", b"1"))).success
        end(shut)
        wait_for_nothing_unsent(node)
        wait_until(lambda: node.server._client_pool.calls == 0, "no call is left")
        assert len(node.serve(get=BIG).values[0]) == MIB
        shut.close()


def test_a_single_call_lists_keys_only_if_there_is_room_for_them() -> None:
    with node_with(4 * MIB) as node:
        for number in range(8000):
            give(node.host, b"%010d" % number, 0)
        node.service.answers.take(2 * MIB)
        assert node.refusal(keys=b"0")[0] is EXHAUSTED
        assert node.refusal(request="KEYS 0")[0] is EXHAUSTED
        node.service.answers.give_back(2 * MIB)
        assert len(node.serve(keys=b"0").values) == 8000
        wait_for_nothing_unsent(node)


def test_single_calls_whose_answers_are_not_taken_make_room_for_others_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "SLOWEST_BYTES_PER_S", 1 << 30)
    with node_with(8 * MIB, call_timeout=0.3) as node:
        shut = Shut(node, calls=4)
        wait_until(lambda: used(node.service.answers) == 4 * MIB, "half of the room")
        wait_until(lambda: not node.service.answers.is_short, "some are disconnected")
        assert len(node.serve(get=BIG).values[0]) == MIB
        shut.close()
        wait_for_nothing_unsent(node)


def test_the_answer_to_a_call_that_has_been_given_up_takes_no_room() -> None:
    """The replica may answer long after that."""
    with node_with(8 * MIB, has_lease=False) as node:
        held: list[Query] = []
        node.host.bring_instead = held.append  # type: ignore[assignment]
        call = node.begin("ServeClient", wire.ServeClientRequest(get=BIG), wire.ServeClientReply)
        wait_until(lambda: held, "it waits")
        call.cancel()
        wait_until(lambda: node.server._client_pool.calls == 0, "it has gone")
        held[0].caller.answer(Served(held[0].read(node.host.machine)))
        assert used(node.service.answers) == 0
        assert not node.service.answers._holders


def test_a_value_that_is_refused_as_text_gives_its_room_back() -> None:
    with fake_node(LIMITS) as node:
        node.serve(batch=batch(Operation(Code.SET, b"b", b"\xff")))
        assert node.refusal(request="GET b")[0] is grpc.StatusCode.FAILED_PRECONDITION
        wait_for_nothing_unsent(node)
