"""The order of writes, and limits that are smaller than the client's, whatever becomes of the requests."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any

import grpc
import pytest

from raftkv.calls import GET, FutureCall
from raftkv.client import Client, NotApplied, OutcomeUnknown
from raftkv.client_stream import ASK_AGAIN
from raftkv.operations import Code
from raftkv.routing import Backoff
from raftkv.wire.raft_pb2 import ClientReply, ClientRequest
from tests.client.fake_cluster import (
    FakeCluster,
    FakeMember,
    FakeStream,
    Step,
    answer,
    doubtful,
    lose_reply,
    lose_request,
    refuse,
    then,
    wait_for,
)
from tests.kv.driving import SETTINGS, Driver
from tests.support.processes import wait_until
from tests.support.ways import PIPELINED, Futures, Tasks

LONG = 60.0


@pytest.fixture(params=PIPELINED)
def way(request: pytest.FixtureRequest) -> type[Client]:
    taken: type[Client] = request.param
    return taken


def applied(cluster: FakeCluster) -> list[bytes]:
    """The keys in the order in which they were first written; each is written by one call."""
    machine = cluster.machine
    records = [(machine.record(key), key) for key in machine.all_keys()]
    assert all(record is not None and record.version == 1 for record, _ in records), "a write was applied twice"
    return [key for _, key in sorted((record.create_revision, key) for record, key in records if record is not None)]


def random_steps(cluster: FakeCluster, rng: random.Random) -> list[Step]:
    steps: list[Step] = [
        *[answer] * 6,
        lose_reply,
        lose_request,
        doubtful,
        refuse(grpc.StatusCode.RESOURCE_EXHAUSTED),
        refuse(grpc.StatusCode.FAILED_PRECONDITION),
        then(lambda: cluster.elect(rng.randint(1, 3)), answer),
        then(cluster.expire_sessions, answer),
    ]
    return [rng.choice(steps) for _ in range(40)]


@pytest.mark.parametrize(
    ("way", "seed"), [*((Futures, seed) for seed in range(12)), *((Tasks, seed) for seed in range(12, 18))]
)
def test_whatever_happens_writes_are_applied_once_and_in_order(seed: int, way: type[Client]) -> None:
    rng = random.Random(seed)
    window = rng.choice([4, 50, 1000])
    with (
        FakeCluster(driver=Driver(replace(SETTINGS, max_unanswered=window))) as cluster,
        way(cluster.addresses, timeout=LONG) as client,
    ):
        cluster.max_operations = rng.choice([3, 10_000])
        cluster.next_calls(*random_steps(cluster, rng))
        futures: list[Future[None]] = []
        for i in range(300):
            futures.append(client.set_async(f"{i:04}", ""))
            if rng.random() < 0.05:
                wait(futures[-rng.randint(1, 5) :], LONG)
        wait(futures, LONG)
        order = applied(cluster)
    assert order == sorted(order), f"replay: seed {seed}"
    for i, future in enumerate(futures):
        error, is_there = future.exception(), f"{i:04}".encode() in order
        assert error is None or isinstance(error, OutcomeUnknown), f"replay: seed {seed}: {error}"
        assert is_there or error is not None, f"replay: seed {seed}: {i} was lost"


@pytest.mark.parametrize("seed", range(6))
def test_calls_cancelled_at_random_are_applied_in_order_or_not_at_all_and_the_others_once(
    cluster: FakeCluster, client: Client, way: type[Client], seed: int
) -> None:
    rng = random.Random(seed)
    cluster.next_calls(*random_steps(cluster, rng))
    futures: list[Future[None]] = []
    for i in range(300):
        futures.append(client.set_async(f"{i:04}", ""))
        if rng.random() < 0.2:
            futures[rng.randint(max(0, i - 20), i)].cancel()
        if rng.random() < 0.05:
            wait(futures[-rng.randint(1, 5) :], LONG)
    assert not wait(futures, LONG).not_done
    order = applied(cluster)
    assert order == sorted(order), f"replay: seed {seed}"
    for i, future in enumerate(futures):
        is_there = f"{i:04}".encode() in order
        if future.cancelled():
            assert way is Tasks or not is_there, f"replay: seed {seed}: {i} was cancelled before it was sent"
        else:
            assert is_there or isinstance(future.exception(), OutcomeUnknown), f"replay: seed {seed}: {i} was lost"


def test_doubtful_calls_of_an_expired_session_are_unknown_and_the_others_go_on(
    cluster: FakeCluster, client: Client
) -> None:
    client.set("0", "")
    release = threading.Event()
    cluster.next_calls(wait_for(release))
    held = client.set_async("1", "")
    wait_until(lambda: not cluster._script, "the first is under way")
    cluster.next_calls(then(cluster.expire_sessions, lose_reply))
    lost = client.set_async("2", "")
    wait_until(lambda: not cluster._script, "the second, too")
    others = [client.set_async(str(i), "") for i in range(3, 6)]
    for future in (held, lost):
        assert isinstance(future.exception(LONG), OutcomeUnknown)
    release.set()
    wait(others, LONG)
    assert [future.exception() for future in others] == [None] * 3


def test_doubtful_calls_that_still_wait_when_their_session_is_found_expired_never_go_out_in_the_next(
    cluster: FakeCluster, client: Client
) -> None:
    """Hazard 56. The retry that is told of it is only one of several messages; the calls of the others were applied."""
    client.set("first", "")
    release = threading.Event()
    futures: list[Future[None]] = []

    def make_the_next_message_small() -> None:
        client._pipeline._outbox.max_calls = 2

    cluster.next_calls(
        wait_for(release),
        then(make_the_next_message_small, lose_reply),
        then(cluster.expire_sessions, answer),
    )
    held = client.set_async("held", "")
    # What a callback submits goes out as one message.
    held.add_done_callback(lambda _: futures.extend(client.set_async(f"{i}", "") for i in range(6)))
    release.set()
    wait_until(lambda: len(futures) == 6, "all are submitted")
    for future in futures:
        assert isinstance(future.exception(LONG), OutcomeUnknown)
    client.set("last", "")
    assert applied(cluster) == [b"first", b"held", *(b"%d" % i for i in range(6)), b"last"]


@pytest.mark.parametrize("most", [1, 3, 100])
def test_messages_shrink_until_the_server_takes_them(cluster: FakeCluster, client: Client, most: int) -> None:
    client.set("first", "")
    cluster.max_operations = most
    futures = [client.set_async(f"{i:04}", "") for i in range(300)]
    reads = [client.get_async(f"{i:04}") for i in range(300)]
    both: list[Future[Any]] = [*futures, *reads]
    wait(both, LONG)
    assert all(future.exception() is None for future in both)
    assert applied(cluster)[1:] == [f"{i:04}".encode() for i in range(300)]


def test_a_narrow_window_is_learnt_at_the_first_refusal(way: type[Client]) -> None:
    with FakeCluster(driver=Driver(SETTINGS)) as cluster, way(cluster.addresses) as client:
        client.set("first", "")
        futures = [client.set_async(f"{i:04}", "") for i in range(200)]
        wait(futures, LONG)
        assert all(future.exception() is None for future in futures)
        assert client._pipeline._outbox.max_unanswered == SETTINGS.max_unanswered
        assert applied(cluster)[1:] == [f"{i:04}".encode() for i in range(200)]


def test_no_write_overtakes_those_that_a_window_of_unknown_size_may_have_shut_out() -> None:
    """The servers keep the answers of four; six go out, and the last two are refused. The first four are given up
    meanwhile, so that the window of the seventh, taken by itself, would be wide enough."""
    release = threading.Event()

    def answer_late(member: FakeMember, request: ClientRequest, stream: FakeStream) -> None:
        reply = answer(member, request, stream)
        assert reply is not None

        def later(reply: ClientReply = reply) -> None:
            release.wait(LONG)
            stream.answer(reply)

        threading.Thread(target=later, daemon=True).start()

    with (
        FakeCluster(driver=Driver(replace(SETTINGS, max_unanswered=4))) as cluster,
        Client(cluster.addresses, timeout=LONG) as client,
    ):
        client.set("0", "")
        pipeline = client._pipeline
        cluster.next_calls(answer_late)
        calls = [
            FutureCall(Code.SET, b"%d" % i, b"", b"", time.monotonic() + LONG, pipeline.cancel) for i in range(1, 7)
        ]
        for call in calls:
            pipeline.enqueue(call)
        pipeline.flush()
        wait_until(lambda: not cluster._script, "the six have been carried out, as far as they are")
        connection, arrived = pipeline._connection, len(cluster.arrived)
        assert connection is not None
        for call in calls[:4]:
            assert isinstance(pipeline.abandon(call), OutcomeUnknown)
        seventh = client.set_async("7", "")
        wait_until(lambda: connection.is_full or len(cluster.arrived) > arrived, "the seventh waits, or has been sent")
        release.set()
        assert [future.exception(LONG) for future in (*calls[4:], seventh)] == [None] * 3
        assert applied(cluster) == [b"%d" % i for i in range(8)]


def ask_together(client: Client, *keys: bytes) -> list[FutureCall]:
    """Reads in one message."""
    pipeline = client._pipeline
    calls = [FutureCall(GET, key, b"", b"", time.monotonic() + LONG, pipeline.cancel) for key in keys]
    for call in calls:
        pipeline.enqueue(call)
    pipeline.flush()
    return calls


def test_values_that_do_not_fit_one_answer_are_asked_for_again(cluster: FakeCluster, client: Client) -> None:
    for i in range(4):
        client.set(f"key{i}", bytes([i]) * (3 << 20))
    before = cluster.leader.calls
    reads = ask_together(client, *(b"key%d" % i for i in range(4)))
    assert [read.result(LONG) for read in reads] == [bytes([i]) * (3 << 20) for i in range(4)]
    assert cluster.leader.calls == before + 2, "two found room in each answer"


def test_all_keys_may_have_to_be_asked_for_again(cluster: FakeCluster, client: Client) -> None:
    """The server has too many answers for this client that are not sent."""

    def ask_again(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply:
        return ClientReply(id=request.id, found=bytes([ASK_AGAIN] * len(request.get)))

    client.set("a", "1")
    client.set("b", "2")
    cluster.next_calls(ask_again, ask_again)
    before = cluster.leader.calls
    assert [read.result(LONG) for read in ask_together(client, b"a", b"b", b"c")] == [b"1", b"2", None]
    assert cluster.leader.calls == before + 3


def no_room(member: FakeMember, request: ClientRequest, stream: FakeStream) -> ClientReply | None:
    """Too many answers are not taken by their clients."""
    step = refuse(grpc.StatusCode.RESOURCE_EXHAUSTED) if request.get else answer
    return step(member, request, stream)


def test_a_read_for_whose_answer_there_is_no_room_is_held_back_and_writes_go_on(
    cluster: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set("a", "1")
    streams, calls = cluster.leader.streams, cluster.leader.calls
    monkeypatch.setattr(Backoff, "next_seconds", lambda self: LONG)
    cluster.next_calls(no_room)
    (read,) = ask_together(client, b"a")
    for i in range(20):
        client.set(f"{i}", "")
    assert not read.done()
    assert (cluster.leader.calls, cluster.leader.streams) == (calls + 21, streams)


def test_a_write_that_finds_no_room_goes_out_again_on_another_stream(cluster: FakeCluster, client: Client) -> None:
    """On this one nothing may be carried out any more: there may be others behind it."""
    client.set("a", "1")
    streams, calls = cluster.leader.streams, cluster.leader.calls
    cluster.next_calls(refuse(grpc.StatusCode.RESOURCE_EXHAUSTED))
    client.set("a", "2")
    assert (cluster.leader.calls, cluster.leader.streams) == (calls + 2, streams + 1)


def test_reads_that_find_no_room_are_asked_again_after_pauses_that_grow_until_there_is_some(
    cluster: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set("a", "1")
    streams = cluster.leader.streams
    paused: list[Backoff] = []
    monkeypatch.setattr(Backoff, "next_seconds", lambda self: paused.append(self) or 0.01)  # type: ignore[func-returns-value]
    cluster.next_calls(no_room, no_room, no_room)
    assert client.get("a") == b"1"
    cluster.next_calls(no_room)
    assert client.get("a") == b"1"
    assert [backoff is paused[0] for backoff in paused] == [True, True, True, False]
    assert cluster.leader.streams == streams


def test_an_answer_to_reads_that_were_given_up_changes_nothing(cluster: FakeCluster, client: Client) -> None:
    """Neither does it bring them back, where it says that one has to be asked for again."""
    for key in ("a", "b"):
        client.set(key, bytes(5 << 20))
    release = threading.Event()
    cluster.next_calls(wait_for(release))
    reads = ask_together(client, b"a", b"b")
    wait_until(lambda: not cluster._script, "they are under way")
    for read in reads:
        assert isinstance(client._pipeline.abandon(read), NotApplied)
    asked = cluster.leader.calls
    release.set()
    wait_until(lambda: not client._pipeline._has_calls(), "the answer")
    assert client.get("other") is None
    assert cluster.leader.calls == asked + 1
    assert not any(read.done() for read in reads)


def test_calls_given_up_do_not_keep_the_client_from_finding_the_leader(cluster: FakeCluster) -> None:
    """They stand at the head of the queue, and their time is over."""
    cluster.elect(0)
    with Client(cluster.addresses, timeout=0.5) as client:
        for _ in range(3):
            with pytest.raises(NotApplied):
                client.set("key", "")
        cluster.elect(2)
        client.set("key", "")


@pytest.mark.parametrize("way", [Futures])
def test_a_submission_while_the_lock_is_held_is_sent_when_it_is_given_back(
    cluster: FakeCluster, client: Client
) -> None:
    """As `cancel` holds it: for a moment, with nothing else to come that would send."""
    client.set("key", "")
    other: Future[None] = Future()
    pipeline = client._pipeline
    with pipeline._lock:
        future = client.set_async("key", "1")
    assert not future.done()
    pipeline.cancel(future)  # type: ignore[arg-type]
    other.cancel()
    read = client.get_async("key")
    with pipeline._lock:
        late = client.set_async("key", "2")
    del read
    assert late.result(5) is None


@pytest.mark.parametrize("way", [Futures])
def test_a_client_with_nothing_to_do_asks_nobody(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "")
    wait_until(lambda: client._pipeline._is_asleep, "the client has nothing to do")
    asked = [member.status_calls for member in cluster.members.values()], cluster.leader.calls
    assert not client._pipeline._wake.wait(0.3)
    assert ([member.status_calls for member in cluster.members.values()], cluster.leader.calls) == asked
    client.set("key", "")


def test_a_call_ends_in_time_though_a_callback_of_another_takes_long() -> None:
    """Nothing is sent while calls are being delivered; the thread that looks after deadlines may be asleep by then."""
    go_on = threading.Event()
    with FakeCluster() as cluster, Client(cluster.addresses, timeout=1.0) as client:
        client.set("a", "1")
        begun = threading.Event()

        def callback(_: Future[None]) -> None:
            begun.set()
            go_on.wait(LONG)

        client.set_async("b", "1").add_done_callback(callback)
        assert begun.wait(LONG)
        wait_until(lambda: client._pipeline._is_asleep, "the client has nothing to do")
        try:
            assert isinstance(client.set_async("c", "1").exception(timeout=10), NotApplied)
        finally:
            go_on.set()
