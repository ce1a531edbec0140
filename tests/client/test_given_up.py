"""A write that was given up after it had been sent is applied before all later ones or never, however late it comes."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, cast

import grpc
import pytest

import raftkv.client
from raftkv.async_client import AsyncClient
from raftkv.calls import FLYING, GET, OVER, BlockingCall, Call, FutureCall
from raftkv.client import Client, OutcomeUnknown
from raftkv.connection import Connection
from raftkv.operations import Code, Status, encode_operations
from raftkv.outbox import Outbox
from raftkv.pipeline import Pipeline
from raftkv.raft.types import EntryKind
from raftkv.wire.raft_pb2 import ClientRequest
from tests.client.fake_cluster import FakeCluster, hang_undone, wait_for
from tests.kv.driving import SETTINGS, Driver
from tests.support.processes import wait_until

LONG = 20.0
MANY = 400
"""As many as do not wait for the answer to the message before them."""


# ---- what goes out and what has to wait ------------------------------------------------------------------------------


class Wire:
    """What a connection's stream carries, in order."""

    def __init__(self) -> None:
        self.requests: deque[ClientRequest] = deque()

    def send(self, data: bytes) -> None:
        self.requests.append(ClientRequest.FromString(data))


class Play:
    """An outbox with its session, and the state machine at the other end of the wire."""

    def __init__(self) -> None:
        self.driver = Driver(replace(SETTINGS, max_unanswered=1000))
        self.outbox = Outbox()
        self.outbox.begin_session(self.driver.open_session())
        self.lost: list[Wire] = []
        """What may still arrive of streams that have been left."""
        self.calls: list[Call] = []
        self.connect()

    def connect(self) -> None:
        self.wire = Wire()
        self.connection = Connection(cast(Any, None))
        self.connection.stream = cast(Any, self.wire)

    def submit(self, count: int = 1) -> list[Call]:
        calls = [Call(Code.SET, b"%04d" % (len(self.calls) + i), b"", b"", LONG) for i in range(count)]
        self.calls += calls
        self.outbox.writes.extend(calls)
        return calls

    def send(self) -> list[Call]:
        """Those of the next message; empty if nothing may be sent."""
        if not self.outbox.has_something_for(self.connection):
            return []
        message = self.outbox.take_writes(self.connection)
        if message is None:
            return []
        batch = encode_operations(message.calls, self.outbox.session, message.mark)
        self.connection.send(message, ClientRequest(batch=batch))
        return message.calls

    def lose(self) -> None:
        """The stream is left, and another one opened, as `Pipeline._leave` does it."""
        live = [call for call in self.connection.calls() if call.state is not OVER]
        for call in live:
            call.doubt = True
        self.outbox.send_again(live)
        self.lost.append(self.wire)
        self.connect()

    def give_up(self, call: Call) -> None:
        """As `Pipeline._give_up`."""
        self.connection.is_full = False
        call.doubt = call.doubt or call.state is FLYING
        self.outbox.give_up(call)

    def arrive(self, wire: Wire) -> None:
        """The next message on it; the answer is lost where its stream is."""
        request = wire.requests.popleft()
        results = self.driver.apply(EntryKind.BATCH, request.batch)
        message = self.connection.answered(request.id) if wire is self.wire else None
        for call, result in zip(message.calls if message is not None else (), results, strict=message is not None):
            if call.state is not OVER:
                assert result.status is Status.DONE
                call.state = OVER

    def applied(self) -> list[bytes]:
        """The keys in the order in which they were written, each once."""
        records = [(self.driver.machine.record(key), key) for key in self.driver.machine.all_keys()]
        assert all(record is not None and record.version == 1 for record, _ in records), "a write was applied twice"
        return [key for _, key in sorted((record.mod_revision, key) for record, key in records if record is not None)]


def test_where_nothing_was_given_up_all_goes_out_again_at_once() -> None:
    play = Play()
    calls = play.submit(5)
    assert play.send() == calls
    play.lose()
    calls += play.submit(5)
    assert play.send() == calls


def held_back() -> tuple[Play, Call, list[Call]]:
    """A write that was given up, after its stream was lost: what is before it is under way, what is behind it waits."""
    play = Play()
    first, old, third = play.submit(3)
    play.send()
    play.give_up(old)
    play.lose()
    new = play.submit(MANY)
    assert play.send() == [first]
    assert play.send() == []
    return play, first, [third, *new]


def test_what_is_behind_a_write_that_was_given_up_waits_for_what_is_before_it() -> None:
    play, first, behind = held_back()
    play.arrive(play.wire)
    assert play.send() == behind
    play.arrive(play.wire)
    play.arrive(play.lost[0])
    assert play.applied() == [call.key for call in (first, *behind)]


def test_each_of_several_writes_that_were_given_up_holds_back_what_is_behind_it() -> None:
    play = Play()
    calls = play.submit(6)
    play.send()
    play.lose()
    calls += play.submit(MANY)
    play.give_up(calls[1])  # it waits to be sent again
    play.give_up(calls[3])
    for call in (calls[0], calls[2]):
        assert play.send() == [call]
        assert play.send() == []
        play.arrive(play.wire)
    assert play.send() == calls[4:]


def test_nothing_waits_any_more_when_what_is_before_was_given_up_itself() -> None:
    play, first, behind = held_back()
    play.give_up(first)
    assert play.send() == behind


def test_nothing_waits_for_a_write_that_was_given_up_on_the_same_stream_or_has_nothing_before_it() -> None:
    play = Play()
    calls = play.submit(2)
    play.send()
    play.give_up(calls[1])
    new = play.submit(MANY)
    assert play.send() == new, "it can not overtake what comes after it on its stream"
    play.give_up(calls[0])
    play.lose()
    assert play.send() == new, "the mark is above both"


def test_what_was_given_up_on_one_stream_is_not_forgotten_on_the_next_ones() -> None:
    play = Play()
    first, old, third = play.submit(3)
    play.send()
    play.give_up(old)
    new = play.submit(MANY)
    for _ in range(3):
        play.lose()
        assert play.send() == [first]
        assert play.send() == []
    play.arrive(play.wire)
    assert play.send() == [third, *new]


def test_what_was_given_up_in_an_expired_session_holds_back_nothing_in_the_next() -> None:
    play = Play()
    first, old, *_ = play.submit(3)
    play.send()
    play.give_up(old)
    play.lose()
    play.outbox.begin_session(play.driver.open_session())
    new = play.submit(3)
    assert play.send() == new, "the others are lost with their session"
    assert first.state is OVER


@pytest.mark.parametrize("seed", range(300))
def test_whatever_is_lost_or_given_up_or_late_writes_are_applied_in_order(seed: int) -> None:
    rng = random.Random(seed)
    play = Play()
    for _ in range(120):
        match rng.choice(["submit", "send", "send", "arrive", "arrive", "give up", "lose", "late", "late"]):
            case "submit":
                play.submit(rng.randint(1, 4))
            case "send":
                play.outbox.max_calls = rng.randint(1, 6)
                play.send()
            case "arrive" if play.wire.requests:
                play.arrive(play.wire)
            case "give up" if live := [call for call in play.calls if call.state is not OVER]:
                play.give_up(rng.choice(live))
            case "lose" if rng.random() < 0.5:
                play.lose()
            case "late" if late := [wire for wire in play.lost if wire.requests]:
                play.arrive(rng.choice(late))
    while play.send() or play.wire.requests:  # and nothing waits for ever
        play.arrive(play.wire)
    assert all(call.state is OVER for call in play.calls), f"replay: seed {seed}"
    for wire in play.lost:
        while wire.requests:
            play.arrive(wire)
    assert play.applied() == sorted(play.applied()), f"replay: seed {seed}"


# ---- the three ways in, each as itself, against a cluster ------------------------------------------------------------


class Network:
    """Holds back the next message to the leader, as a buffer on the way may: it arrives at last, though its stream and
    whoever sent it have long gone."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._release = threading.Event()
        cluster.next_calls(wait_for(self._release))

    def has_taken_it(self) -> bool:
        return not self._cluster._script

    def cut(self) -> None:
        """The stream ends."""
        stream = self._cluster.leader.last_stream
        assert stream is not None
        stream.end(grpc.StatusCode.UNAVAILABLE, "connection reset by the test")

    def let_it_arrive(self) -> None:
        before = len(self._cluster.arrived)
        self._release.set()
        wait_until(lambda: len(self._cluster.arrived) > before, "what was held back has arrived")


@pytest.fixture
def way() -> type[Client]:
    return Client


@contextmanager
def in_one_message(pipeline: Pipeline) -> Iterator[None]:
    """What is submitted in here goes out together."""
    with pipeline._lock:
        yield
    pipeline.flush()


def make(pipeline: Pipeline, code: int, key: bytes, value: bytes = b"", seconds: float = LONG) -> FutureCall:
    """A call that has so much time; it is not sent yet."""
    call = FutureCall(code, key, value, b"", time.monotonic() + seconds, pipeline.cancel)
    pipeline.enqueue(call)
    return call


def test_a_cancelled_write_of_a_task_does_not_arrive_behind_a_later_one(cluster: FakeCluster) -> None:
    async def play() -> bytes | None:
        async with AsyncClient(cluster.addresses, timeout=LONG) as client:
            await client.set("key", "start")
            network = Network(cluster)
            first = asyncio.create_task(client.set("other", ""))
            old = asyncio.create_task(client.set("key", "old"))  # in the same message
            await asyncio.to_thread(wait_until, network.has_taken_it, "both are on their way")
            old.cancel()
            with suppress(asyncio.CancelledError):
                await old
            network.cut()
            await client.set("key", "new")
            await first
            await asyncio.to_thread(network.let_it_arrive)
            return await client.get("key")

    assert asyncio.run(play()) == b"new"


@pytest.mark.parametrize("way", [Client])
def test_a_call_that_was_broken_off_does_not_arrive_behind_a_later_one(
    cluster: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off = threading.Event()

    class Interrupted(BlockingCall):
        __slots__ = ()

        def wait(self, seconds: float) -> bool:
            """Ctrl-C, in the thread that waits."""
            broken_off.wait(seconds)
            raise KeyboardInterrupt

    def write() -> None:
        with pytest.raises(KeyboardInterrupt):
            client.set("key", "old")

    client.set("key", "start")
    network, pipeline = Network(cluster), client._pipeline
    with in_one_message(pipeline), monkeypatch.context() as patched:
        patched.setattr(raftkv.client, "BlockingCall", Interrupted)
        first = make(pipeline, Code.SET, b"other")
        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: len(pipeline._writes) == 2, "both are submitted")
    wait_until(network.has_taken_it, "both are on their way")
    broken_off.set()
    writer.join()
    network.cut()
    client.set("key", "new")
    network.let_it_arrive()
    assert client.get("key") == b"new"
    assert first.result(LONG) is None


def test_a_future_whose_time_was_over_does_not_arrive_behind_a_later_one(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "start")
    network, pipeline = Network(cluster), client._pipeline
    with in_one_message(pipeline):
        first = make(pipeline, Code.SET, b"other")
        old = make(pipeline, Code.SET, b"key", b"old", seconds=0.5)
    wait_until(network.has_taken_it, "both are on their way")
    cluster.next_calls(hang_undone)
    make(pipeline, GET, b"key", seconds=0.5)  # whose end makes the client look whose time is over, too
    pipeline.flush()
    assert isinstance(old.exception(LONG), OutcomeUnknown)
    network.cut()
    assert client.set_async("key", "new").result(LONG) is None
    network.let_it_arrive()
    assert client.get("key") == b"new"
    assert first.result(LONG) is None


def test_a_write_that_a_new_leader_refuses_does_not_arrive_behind_a_later_one(
    cluster: FakeCluster, client: Client
) -> None:
    """It takes shorter values than the leader before it; what that one was sent may still arrive there."""
    client.set("key", "start")
    network, pipeline = Network(cluster), client._pipeline
    with in_one_message(pipeline):
        first = make(pipeline, Code.SET, b"other")
        old = make(pipeline, Code.SET, b"key", b"older")
    wait_until(network.has_taken_it, "both are on their way")
    pipeline._outbox.max_calls = 1
    held = Network(cluster)
    limits, cluster.limits = cluster.limits, replace(cluster.limits, max_value_bytes=3)
    network.cut()
    error = old.exception(LONG)
    assert isinstance(error, OutcomeUnknown)
    assert "5 bytes" in str(error)
    new = make(pipeline, Code.SET, b"key", b"new")
    pipeline.flush()
    with pytest.raises(TimeoutError):  # the first one is not answered yet
        new.result(0.2)
    cluster.limits = limits
    held._release.set()
    assert first.result(LONG) is None
    assert new.result(LONG) is None
    network.let_it_arrive()
    assert client.get("key") == b"new"
