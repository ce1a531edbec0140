"""A client's stream of requests, with a fake in the place of the replica."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import grpc
import pytest

from raftkv import kv
from raftkv.client_stream import ASK_AGAIN, FOUND, MAX_UNANSWERED_REQUESTS, MISSING
from raftkv.operations import REFUSED, Batch, Code, Operation, Status, decode_batch, encode_batch
from raftkv.pipeline import NOT_TAKEN
from raftkv.raft.types import Entry, EntryKind
from raftkv.replica import Applied, Input, NotLeader, Query, Served, Unknown, Write
from raftkv.service import ServiceLimits
from raftkv.wire import raft_pb2 as wire
from tests.node.fakes import LIMITS, FakeNode, fake_node
from tests.support.processes import wait_until

INVALID, EXHAUSTED, NOT_LEADER, UNAVAILABLE = 3, 8, 9, 14
"""gRPC's codes, as `ClientReply.code` has them."""
ROOMY = replace(LIMITS, max_waiting_bytes=1 << 20)


class Client:
    """The other end of a stream."""

    def __init__(self, node: FakeNode, reads: bool = True) -> None:
        """Without `reads` the answers are left where they are."""
        self.answers: SimpleQueue[wire.ClientReply] = SimpleQueue()
        self.error: grpc.RpcError | None = None
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        begin: Any = node.channel.stream_stream("/RaftNode/ServeClientStream")
        self.call = begin(iter(self._requests.get, None))
        self._thread = threading.Thread(target=self._read, daemon=True)
        if reads:
            self.read()

    def read(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        try:
            for data in self.call:
                self.answers.put(wire.ClientReply.FromString(data))
        except grpc.RpcError as error:
            self.error = error

    def send(self, id: int, **fields: Any) -> None:
        self.send_bytes(wire.ClientRequest(id=id, **fields).SerializeToString())

    def send_bytes(self, data: bytes) -> None:
        self._requests.put(data)

    def set(self, id: int, key: bytes = b"k", value: bytes = b"v") -> None:
        self.send(id, batch=batch(Operation(Code.SET, key, value)))

    def next(self) -> wire.ClientReply:
        try:
            return self.answers.get(timeout=10)
        except Empty:
            raise AssertionError(f"no answer came; the call: {self.error}") from None

    def ask(self, id: int, **fields: Any) -> wire.ClientReply:
        self.send(id, **fields)
        reply = self.next()
        assert reply.id == id
        return reply

    def end(self) -> None:
        """Send no more, and wait for the end."""
        self._requests.put(None)
        self._thread.join(10)
        assert not self._thread.is_alive()


class Held:
    """Keeps what is brought until the test lets go of it."""

    def __init__(self, node: FakeNode) -> None:
        self.items: list[Write | Query] = []
        self._node = node
        node.host.bring_instead = self._bring

    def _bring(self, item: Input) -> None:
        assert isinstance(item, Write | Query)
        self.items.append(item)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.items) == count, f"{count} items", seconds=10)

    def carry_out(self, position: int) -> None:
        item = self.items[position]
        if isinstance(item, Query):
            item.caller.answer(Served(item.read(self._node.host.machine)))
        elif item.caller.is_wanted():
            item.caller.answer(Applied(self._node.host.apply(item)))
        else:
            item.caller.answer(NotLeader(1))


def batch(*operations: Operation, session: int = 0) -> bytes:
    return encode_batch(Batch(operations, session))


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_node(ROOMY) as node:
        yield node
        assert not node.bugs
        assert node.service.budget._used == 0


@pytest.fixture
def client(node: FakeNode) -> Iterator[Client]:
    client = Client(node)
    yield client
    client.call.cancel()


# ---- what is answered ------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_with_a_status_for_each_operation(node: FakeNode, client: Client) -> None:
    data = batch(
        Operation(Code.SET, b"a", b"1"), Operation(Code.DELETE, b"x"), Operation(Code.COMPARE_AND_SET, b"a", b"2", b"1")
    )
    reply = client.ask(7, batch=data)
    assert (reply.code, reply.statuses) == (0, bytes([Status.DONE, Status.NOT_DONE, Status.DONE]))
    (write,) = node.host.writes
    assert write.proposal.payload == data, "the bytes travel as they came"


def test_an_opened_session_is_answered_with_its_id(client: Client) -> None:
    assert client.ask(1, batch=batch(Operation(Code.OPEN_SESSION))).session > 0


@pytest.mark.parametrize("has_lease", [True, False])
def test_keys_are_read_each_by_itself(node: FakeNode, client: Client, has_lease: bool) -> None:
    client.ask(1, batch=batch(Operation(Code.SET, b"a", b"1"), Operation(Code.SET, b"b")))
    node.host.has_lease = has_lease
    brought = len(node.host.brought)
    reply = client.ask(2, get=[b"b", b"x", b"a", b"a"])
    assert (reply.code, reply.found) == (0, bytes([FOUND, MISSING, FOUND, FOUND]))
    assert reply.values == [b"", b"1", b"1"]
    assert (len(node.host.brought) == brought) == has_lease, "under the lease without the turn"


def test_keys_are_listed_sorted(client: Client) -> None:
    client.ask(1, batch=batch(*(Operation(Code.SET, key) for key in (b"kb", b"ka", b"x"))))
    assert client.ask(2, keys=b"k").values == [b"ka", b"kb"]
    assert client.ask(3, keys=b"").values == [b"ka", b"kb", b"x"]


def test_answers_come_in_any_order(node: FakeNode, client: Client) -> None:
    held = Held(node)
    client.set(1)
    client.send(2, get=[b"k"])
    client.set(3)
    held.wait_for(3)
    for position in (2, 0, 1):
        held.carry_out(position)
    assert [client.next().id for _ in range(3)] == [3, 1, 2]


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_client_is_told_of_a_change_of_the_members(node: FakeNode, client: Client) -> None:
    client.ask(1, get=[b"k"])
    node.server.announce([wire.Member(id=4, address="10.0.0.4:50051")])

    told = client.next()

    assert (told.id, [(m.id, m.address) for m in told.members]) == (0, [(4, "10.0.0.4:50051")])
    client.ask(2, get=[b"k"])
    client.end()
    node.server.announce([])  # to nobody


def test_an_operation_that_breaks_a_limit_is_refused_by_itself(node: FakeNode, client: Client) -> None:
    reply = client.ask(
        1,
        batch=batch(
            Operation(Code.SET, b"k" * 11),
            Operation(Code.SET, b"a", b"1"),
            Operation(Code.SET, b"b", b"v" * 21),
            Operation(Code.SET, b""),
            Operation(Code.DELETE, b"x"),
        ),
    )
    assert reply.code == 0
    assert reply.statuses == bytes([REFUSED, Status.DONE, REFUSED, REFUSED, Status.NOT_DONE])
    assert ["11 bytes" in reply.refused[0], "21 bytes" in reply.refused[1], "empty" in reply.refused[2]] == [True] * 3
    (write,) = node.host.writes
    assert [operation.key for operation in decode_batch(write.proposal.payload).operations] == [b"a", b"x"]
    assert client.ask(2, batch=batch(Operation(Code.DELETE, b"a"))).code == 0, "the stream goes on"


def test_of_a_batch_that_breaks_limits_throughout_nothing_is_proposed(node: FakeNode, client: Client) -> None:
    reply = client.ask(1, batch=batch(Operation(Code.SET, b""), Operation(Code.DELETE, b"")))
    assert (reply.code, reply.statuses, len(reply.refused)) == (0, bytes([REFUSED] * 2), 2)
    assert not node.host.brought


@pytest.mark.parametrize("has_lease", [True, False])
def test_a_key_that_cannot_be_is_refused_by_itself(node: FakeNode, client: Client, has_lease: bool) -> None:
    client.ask(1, batch=batch(Operation(Code.SET, b"a", b"1")))
    node.host.has_lease = has_lease
    reply = client.ask(2, get=[b"k" * 11, b"a", b"", b"x"])
    assert (reply.code, reply.found) == (0, bytes([REFUSED, FOUND, REFUSED, MISSING]))
    assert reply.values == [b"1"]
    assert len(reply.refused) == 2


def test_more_keys_than_operations_are_too_many(node: FakeNode, client: Client) -> None:
    """They would hold the turn for too long."""
    reply = client.ask(1, get=[b"k"] * 7)
    assert reply.code == INVALID
    assert "7 keys; at most 6" in reply.details
    assert client.ask(2, get=[b"k"] * 6).code == 0


@pytest.mark.parametrize(
    "fields",
    [{"batch": b"garbage"}, {"batch": batch()}, {"batch": batch(Operation(Code.DELETE, b"k")) + b"x"}, {}],
)
def test_a_request_that_makes_no_sense_is_invalid(node: FakeNode, client: Client, fields: dict[str, Any]) -> None:
    assert client.ask(1, **fields).code == INVALID
    after = client.ask(2, batch=batch(Operation(Code.DELETE, b"k")))
    assert after.code == (NOT_LEADER if "batch" in fields else 0), "no write overtakes one that was refused"
    assert len(node.host.writes) == (0 if "batch" in fields else 1)
    assert client.ask(3, get=[b"k"]).code == 0, "reads are answered"


def test_bytes_that_are_no_message_are_invalid_and_the_stream_takes_no_more_writes(
    node: FakeNode, client: Client
) -> None:
    client.send_bytes(b"\xff\xff")
    reply = client.next()
    assert (reply.id, reply.code) == (0, INVALID)
    assert client.ask(1, batch=batch(Operation(Code.DELETE, b"k"))).code == NOT_LEADER
    assert not node.host.brought


@pytest.mark.parametrize(
    ("outcome", "code"), [(NotLeader(2), NOT_LEADER), (NotLeader(0), NOT_LEADER), (Unknown("lost"), UNAVAILABLE)]
)
def test_after_a_write_that_was_not_carried_out_no_later_one_is(
    node: FakeNode, client: Client, outcome: NotLeader | Unknown, code: int
) -> None:
    """Also one that has been brought to the replica already: `is_wanted` is asked just before it is proposed."""
    held = Held(node)
    client.set(1)
    client.set(2)
    held.wait_for(2)
    held.items[0].caller.answer(outcome)
    held.carry_out(1)
    node.host.bring_instead = None
    client.set(3)
    assert [(reply.id, reply.code) for reply in (client.next() for _ in range(3))] == [
        (1, code),
        (2, NOT_LEADER),
        (3, NOT_LEADER),
    ]
    assert node.host.machine.revision == 0
    assert client.ask(4, get=[b"k"]).found == bytes([MISSING]), "reads are answered"
    other = Client(node)
    assert other.ask(1, batch=batch(Operation(Code.SET, b"k"))).code == 0, "and so are writes on another stream"
    other.end()


def test_a_read_that_was_not_carried_out_does_not_end_the_writes(node: FakeNode, client: Client) -> None:
    held = Held(node)
    client.send(1, get=[b"k"])
    held.wait_for(1)
    held.items[0].caller.answer(NotLeader(2))
    assert client.next().code == NOT_LEADER
    node.host.bring_instead = None
    assert client.ask(2, batch=batch(Operation(Code.SET, b"k"))).code == 0


def test_bytes_that_wait_are_bounded_and_a_write_without_room_is_the_last() -> None:
    """Hazard 50."""
    with fake_node(LIMITS) as node:
        held, client = Held(node), Client(node)
        for id in (1, 2, 3):
            client.set(id)
        reply = client.next()
        assert (reply.id, reply.code) == (3, EXHAUSTED)
        assert "MAX_WAITING_BYTES" in reply.details
        assert client.ask(4, get=[b"k"]).code == EXHAUSTED
        for position in (0, 1):
            held.carry_out(position)
        assert [client.next().code for _ in range(2)] == [NOT_LEADER] * 2, "they had not been proposed yet"
        assert node.service.budget._used == 0
        node.host.bring_instead = None
        assert client.ask(5, batch=batch(Operation(Code.SET, b"k"))).code == NOT_LEADER
        assert client.ask(6, get=[b"k"]).code == 0
        client.end()


# ---- bounds ----------------------------------------------------------------------------------------------------------

LARGE = ServiceLimits(10, 5 << 20, 16 << 20, 100, 64 << 20, 256 << 20, call_timeout=5.0, peer_timeout=5.0)


@pytest.mark.parametrize("has_lease", [True, False])
def test_values_beyond_what_an_answer_holds_are_to_be_asked_for_again(has_lease: bool) -> None:
    with fake_node(LARGE, max_message_bytes=32 << 20) as node:
        for key in (b"a", b"b", b"c"):
            node.serve(batch=batch(Operation(Code.SET, key, key * (3 << 20))))
        node.serve(batch=batch(Operation(Code.SET, b"d")))
        node.host.has_lease = has_lease
        options = [("grpc.max_receive_message_length", -1)]
        node.channel.close()
        node.channel = grpc.insecure_channel(node.address, options=options)
        client = Client(node)
        reply = client.ask(1, get=[b"a", b"x", b"b", b"c", b"d", b"k" * 11])
        assert reply.found == bytes([FOUND, MISSING, FOUND, ASK_AGAIN, ASK_AGAIN, REFUSED])
        assert [len(value) for value in reply.values] == [3 << 20] * 2
        again = client.ask(2, get=[b"c", b"d"])
        assert again.found == bytes([FOUND, FOUND])
        client.end()


def test_one_value_beyond_what_an_answer_holds_is_given_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it could never be read."""
    monkeypatch.setattr(kv, "MAX_READ_BYTES", 4)
    with fake_node(ROOMY) as node:
        client = Client(node)
        client.set(1, b"a", b"v" * 10)
        assert client.next().code == 0
        assert client.ask(2, get=[b"a", b"a"]).found == bytes([FOUND, ASK_AGAIN])
        client.end()


def test_a_client_that_does_not_read_its_answers_makes_its_own_stream_wait() -> None:
    """Its requests stay where they are: in the network, and with the client."""
    with fake_node(LARGE, max_message_bytes=32 << 20) as node:
        node.serve(batch=batch(Operation(Code.SET, b"k", bytes(100_000))))
        node.host.has_lease = True
        client = Client(node, reads=False)
        for id in range(200):
            client.send(id, get=[b"k"])
        (stream,) = wait_until(lambda: list(node.server._streams), "the stream")
        wait_until(lambda: stream._unsent >= MAX_UNANSWERED_REQUESTS, "as many as may be unanswered")
        assert node.serve(get=b"k").success, "others are served"
        assert stream._unsent == MAX_UNANSWERED_REQUESTS
        client.read()
        assert sorted(client.next().id for _ in range(200)) == list(range(200))
        client.end()


@pytest.mark.parametrize("has_lease", [True, False])
def test_a_key_that_is_refused_though_it_exists_leaves_the_others_their_values(
    node: FakeNode, client: Client, has_lease: bool
) -> None:
    """It was written before MAX_KEY_BYTES was lowered."""
    written = batch(Operation(Code.SET, b"a", b"1"), Operation(Code.SET, b"k" * 11, b"2"))
    node.host.machine.apply(Entry(1, 1, EntryKind.BATCH, written))
    node.host.has_lease = has_lease
    reply = client.ask(1, get=[b"k" * 11, b"a"])
    assert (reply.code, reply.found, list(reply.values)) == (0, bytes([REFUSED, FOUND]), [b"1"])


def test_more_streams_than_may_be_are_refused_though_they_say_nothing(node: FakeNode) -> None:
    """And do not keep the threads that refuse them, which answer Status too."""
    clients = [Client(node) for _ in range(10)]
    for client in clients:
        client.ask(1, get=[b"k"])
    for _ in range(5):
        refused = Client(node)
        refused._thread.join(10)
        assert refused.error is not None
        assert refused.error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "10 clients are connected already (MAX_CLIENT_STREAMS)" in str(refused.error.details())
        assert NOT_TAKEN in str(refused.error.details()), "the client goes by this"
    status = node.call("Status", wire.StatusRequest(), wire.StatusReply, timeout=5)
    assert status.role == "leader"
    clients[0].end()
    wait_until(lambda: node.server._stream_pool.calls == 9, "there is room again")
    assert Client(node).ask(1, get=[b"k"]).code == 0
    for client in clients:
        client.call.cancel()


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_a_client_that_sends_no_more_still_gets_its_answers(node: FakeNode, client: Client) -> None:
    held = Held(node)
    client.set(1)
    client.set(2)
    held.wait_for(2)
    ending = threading.Thread(target=client.end)
    ending.start()
    (stream,) = node.server._streams
    wait_until(lambda: stream._is_closing, "its end is known")
    held.carry_out(0)
    held.carry_out(1)
    ending.join(10)
    assert [client.next().code for _ in range(2)] == [0, 0]
    assert client.error is None
    wait_until(lambda: not node.server._streams, "nothing is left")


@pytest.mark.parametrize("is_full", [False, True])
def test_a_stream_that_waits_for_answers_or_for_room_ends_when_its_client_vanishes(
    node: FakeNode, is_full: bool
) -> None:
    """Its thread reads no requests just then, and so would not learn of it: the client has sent all that it wants to,
    or as much as may be unanswered."""
    held, client = Held(node), Client(node)
    count = MAX_UNANSWERED_REQUESTS if is_full else 1
    for id in range(count):
        client.set(id)
    held.wait_for(count)
    (stream,) = node.server._streams
    if is_full:
        make_room, has_come = stream._make_room, threading.Event()
        stream._make_room = lambda: has_come.set() or make_room()  # type: ignore[method-assign, func-returns-value]
        client.set(count)
        assert has_come.wait(10)
    else:
        client._requests.put(None)
        wait_until(lambda: stream._is_closing, "the end of the requests")
    client.call.cancel()
    wait_until(lambda: not node.server._streams, "the end of the stream's thread")
    for position in range(count):
        held.carry_out(position)


def test_of_a_client_that_vanishes_nothing_is_left_but_what_the_replica_has(node: FakeNode) -> None:
    held, client = Held(node), Client(node)
    client.set(1)
    client.send(2, get=[b"k"])
    held.wait_for(2)
    client.call.cancel()
    wait_until(lambda: not node.server._streams and node.server._stream_pool.calls == 0, "its threads are free")
    assert node.service.budget._used == 1024, "the replica holds them still"
    assert not held.items[0].caller.is_wanted(), "a write that nobody waits for any more need not be proposed"
    held.carry_out(0)
    held.carry_out(1)


def test_a_node_that_stops_answers_what_it_has_taken_and_ends_the_stream(node: FakeNode, client: Client) -> None:
    held = Held(node)
    client.set(1)
    held.wait_for(1)
    draining = threading.Thread(target=node.server.drain, args=(5.0,))
    draining.start()
    (stream,) = node.server._streams
    wait_until(lambda: stream._is_closing, "the stream takes no more")
    held.carry_out(0)
    assert client.next().code == 0
    draining.join(5)
    assert not draining.is_alive()
    client._thread.join(10)
    assert not client._thread.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_while_a_request_is_taken_stops_the_node() -> None:
    """Hazard 51."""
    bug = ZeroDivisionError("in the reading thread")

    def fail(_: Input) -> None:
        raise bug

    with fake_node(ROOMY) as node:
        node.host.bring_instead = fail
        Client(node).set(1)
        wait_until(lambda: node.bugs == [bug], "the node is told to stop")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_while_an_answer_is_made_stops_the_node() -> None:
    """Hazard 51: gRPC would log it and go on."""

    def answer(item: Input) -> None:
        assert isinstance(item, Write)
        item.caller.answer(Applied(["no result"]))  # type: ignore[list-item]

    with fake_node(ROOMY) as node:
        node.host.bring_instead = answer
        Client(node).set(1)
        wait_until(lambda: node.bugs, "the node is told to stop")
        assert isinstance(node.bugs[0], AttributeError)
