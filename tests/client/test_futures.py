"""Calls that give a future, or are tasks, and what goes out together."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

import raftkv.outbox
import raftkv.pipeline
from raftkv.calls import LeanFuture
from raftkv.client import Client, NotApplied, OutcomeUnknown
from raftkv.operations import Code
from tests.client.fake_cluster import FakeCluster, hang_undone, wait_for
from tests.support.processes import wait_until
from tests.support.ways import PIPELINED

LONG = 20.0
"""Seconds; nothing here takes so long."""


@pytest.fixture(params=PIPELINED)
def way(request: pytest.FixtureRequest) -> type[Client]:
    taken: type[Client] = request.param
    return taken


def test_each_kind_of_call_has_its_result_in_the_future(client: Client) -> None:
    assert client.set_async("key", "old").result(LONG) is None
    assert client.get_async("key").result(LONG) == b"old"
    assert client.get_async("missing").result(LONG) is None
    assert client.set_if_absent_async("key", "other").result(LONG) is False
    assert client.compare_and_set_async("key", "old", "new").result(LONG) is True
    assert client.keys_async("k").result(LONG) == [b"key"]
    assert client.delete_async("key").result(LONG) is True
    assert client.delete_async("key").result(LONG) is False


def test_futures_go_out_together_and_in_order(cluster: FakeCluster, client: Client) -> None:
    client.set("first", "")
    release = threading.Event()
    cluster.next_calls(wait_for(release), wait_for(release))
    held = [client.set_async("a", ""), client.set_async("b", "")]
    futures = [client.set_async("key", str(i)) for i in range(500)]
    requests = cluster.leader.calls
    release.set()
    wait([*held, *futures], LONG)
    assert cluster.leader.calls - requests < 20
    assert client.get("key") == b"499"
    assert [int(op.value) for a in cluster.arrived for op in a.batch.operations if op.key == b"key"] == [*range(500)]


def test_one_refused_key_among_many_fails_alone(cluster: FakeCluster, client: Client) -> None:
    client.set("first", "")
    release = threading.Event()
    cluster.next_calls(wait_for(release), wait_for(release))
    held = [client.set_async("a", ""), client.set_async("b", "")]
    too_long = "k" * 2000
    writes = [client.set_async(too_long if i == 7 else f"key{i}", "") for i in range(20)]
    release.set()
    wait([*held, *writes], LONG)
    reads = [client.get_async(too_long if i == 7 else f"key{i}") for i in range(20)]
    cases: list[tuple[Sequence[Future[Any]], str]] = [
        (writes, "the write was not applied"),
        (reads, "nothing was read"),
    ]
    for futures, nothing_done in cases:
        with pytest.raises(ValueError, match=nothing_done) as caught:
            futures[7].result(LONG)
        assert isinstance(caught.value, NotApplied)
        assert caught.value.code == "INVALID_ARGUMENT"
        assert all(future.exception(LONG) is None for i, future in enumerate(futures) if i != 7)


def test_a_future_cancelled_before_it_is_sent_is_never_applied(cluster: FakeCluster) -> None:
    cluster.elect(0)
    with Client(cluster.addresses) as client:
        futures = [client.set_async(f"key{i}", "") for i in range(3)]
        assert futures[0].cancel()
        assert futures[0].cancel()
        assert futures[0].cancelled()
        cluster.elect(1)
        wait(futures[1:], LONG)
        assert client.keys() == [b"key1", b"key2"]


@pytest.mark.parametrize("way", [Client])
def test_a_future_that_has_been_sent_can_not_be_cancelled(cluster: FakeCluster, client: Client) -> None:
    client.set("key", "")
    release = threading.Event()
    cluster.next_calls(wait_for(release))
    future = client.set_async("key", "1")
    assert not future.cancel()
    release.set()
    assert future.result(LONG) is None
    assert not future.cancel()


@pytest.mark.parametrize("way", [Client])
def test_a_callback_may_make_further_calls_but_not_wait_for_one(client: Client) -> None:
    further: list[Future[None]] = []
    errors: list[BaseException] = []
    called = threading.Event()

    def callback(_: Future[None]) -> None:
        further.append(client.set_async("key", "2"))
        try:
            client.get("key")
        except NotApplied as error:
            errors.append(error)
        called.set()

    release = threading.Event()
    client.set("other", "")
    future = client.set_async("key", "1")
    future.add_done_callback(callback)
    assert called.wait(LONG)
    assert further[0].result(LONG) is None
    assert client.get("key") == b"2"
    if errors:  # else the future was done before the callback was added, and this thread ran it
        assert "must not wait" in str(errors[0])
    release.set()


def test_a_callback_that_ends_its_thread_ends_nothing_else(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """It is run by the thread that takes the answers."""
    called = threading.Event()

    def leave(_: Future[None]) -> None:
        raise SystemExit

    with Client(cluster.addresses) as client:
        client.set("key", "0")
        with client._pipeline._lock:  # so that none is done before it has its callbacks
            futures = [client.set_async("key", str(i)) for i in range(5)]
            for future in futures:
                future.add_done_callback(leave)
            futures[0].add_done_callback(lambda _: called.set())
        client._pipeline.flush()
        assert [future.exception(LONG) for future in futures] == [None] * 5
        assert called.wait(LONG), "the other callback of the same future"
        start = time.monotonic()
        assert client.get("key") == b"4"
        assert time.monotonic() - start < 5
    wait_until(lambda: caplog.text.count("SystemExit") >= 5, "it is in the log, as any exception is")


def test_ctrl_c_in_a_callback_that_its_own_thread_runs_is_raised(cluster: FakeCluster) -> None:
    def interrupted(_: Future[None]) -> None:
        raise KeyboardInterrupt

    with Client(cluster.addresses) as client:
        future = client.set_async("key", "")
        assert future.exception(LONG) is None
        with pytest.raises(KeyboardInterrupt):
            future.add_done_callback(interrupted)


def test_futures_end_in_time_whether_the_leader_hangs_or_there_is_none(cluster: FakeCluster, way: type[Client]) -> None:
    with way(cluster.addresses, timeout=1) as client:
        client.set("key", "")
        cluster.next_calls(*[hang_undone] * 100)
        start = time.monotonic()
        writes = [client.set_async("key", str(i)) for i in range(10)]
        read = client.get_async("key")
        both: list[Future[Any]] = [*writes, read]
        assert not wait(both, 2.5).not_done
        assert time.monotonic() - start < 2.5
        assert isinstance(writes[0].exception(), OutcomeUnknown)
        assert isinstance(read.exception(), NotApplied)
        cluster.elect(0)
        lost = client.set_async("key", "")
        assert not wait([lost], 2.5).not_done


def test_more_calls_than_a_client_holds_are_refused(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, way: type[Client]
) -> None:
    monkeypatch.setattr(raftkv.pipeline, "MAX_WAITING", 10)
    cluster.elect(0)
    with way(cluster.addresses, timeout=5) as client:
        futures = [client.set_async("key", "") for _ in range(11)]
        error = futures[10].exception(LONG)
        assert isinstance(error, NotApplied)
        assert error.code == "RESOURCE_EXHAUSTED"
        assert not any(future.done() for future in futures[:10])


@pytest.fixture
def small_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds five large calls."""
    for module in (raftkv.pipeline, raftkv.outbox):
        monkeypatch.setattr(module, "MAX_WAITING_BYTES", 5000)
        monkeypatch.setattr(module, "SMALL_BYTES", 100)


LARGE = "v" * 1000


@pytest.mark.usefixtures("small_client")
def test_more_bytes_than_a_client_holds_are_refused_until_others_have_gone_out(
    cluster: FakeCluster, way: type[Client]
) -> None:
    cluster.elect(0)
    with way(cluster.addresses, timeout=LONG) as client:
        futures = [client.set_async("key", LARGE) for _ in range(6)]
        error = futures.pop().exception(LONG)
        assert isinstance(error, NotApplied)
        assert error.code == "RESOURCE_EXHAUSTED"
        with pytest.raises(NotApplied, match="5000 bytes wait in this client"):
            client.set("key", LARGE)
        with pytest.raises(NotApplied, match="nothing was read"):
            client.keys(LARGE)
        assert not any(future.done() for future in futures)
        futures.append(client.set_async("key", "small"))  # their number bounds those
        cluster.elect(1)
        wait(futures, LONG)
        assert [future.exception() for future in futures] == [None] * 6
        assert client._pipeline._outbox.large_bytes == 0
        client.set("key", LARGE)


@pytest.mark.usefixtures("small_client")
def test_calls_that_are_over_make_room_for_others(cluster: FakeCluster, way: type[Client]) -> None:
    cluster.elect(0)
    with way(cluster.addresses, timeout=1) as client:
        for _ in range(2):
            futures: list[Future[Any]] = [client.set_async("key", LARGE) for _ in range(4)]
            futures.append(client.compare_and_set_async("key", LARGE, ""))
            error = client.set_async("key", LARGE).exception(LONG)
            assert isinstance(error, NotApplied)
            assert error.code == "RESOURCE_EXHAUSTED"
            assert futures[2].cancel()
            wait(futures, LONG)
            wait_until(lambda: not client._pipeline._outbox.large_bytes, "none of them is held any more")


def test_closing_fails_what_is_under_way(cluster: FakeCluster, way: type[Client]) -> None:
    client = way(cluster.addresses)
    client.set("key", "")
    cluster.next_calls(*[hang_undone] * 10)
    futures = [client.set_async("key", "") for _ in range(5)]
    read = client.get_async("key")
    wait_until(lambda: len(cluster._script) <= 8, "some have been sent")
    client.close()
    assert isinstance(futures[0].exception(LONG), OutcomeUnknown)
    assert isinstance(read.exception(LONG), NotApplied)
    assert all(future.exception(LONG) is not None for future in futures)


def test_many_threads_have_their_own_results(cluster: FakeCluster, client: Client) -> None:
    def work(i: int) -> None:
        for n in range(20):
            assert client.set_if_absent(f"{i}.{n}", str(i)) is True
            assert client.get(f"{i}.{n}") == str(i).encode()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    codes = [op.code for a in cluster.arrived for op in a.batch.operations]
    assert codes.count(Code.SET_IF_ABSENT) == 320
    assert len(cluster.arrived) < 320


def test_a_finalizer_may_look_at_a_future_while_another_is_made_ready_to_be_waited_for() -> None:
    """It runs in whatever allocation the garbage collector chooses, and must not find a lock held there."""
    futures = [LeanFuture() for _ in range(1000)]
    seen: list[bool] = []

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            seen.append(futures.pop().cancelled())
            if len(futures) > 500:
                Garbage()

    def look() -> None:
        Garbage()
        for future in futures[:400]:
            future.cancelled()

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(10)
    finally:
        gc.set_threshold(*before)
    assert not looking.is_alive()
    assert len(seen) > 100


def test_a_future_that_somebody_looks_at_is_not_done_in_between() -> None:
    """`concurrent.futures.wait` holds the conditions while it looks at the states, twice: one that changed in between
    would be counted wrongly, and the wait be over too early."""
    future = LeanFuture()
    with future._condition:
        settling = threading.Thread(target=future.settle, args=("answer", None))
        settling.start()
        settling.join(0.1)
        assert not future.done()
    settling.join()
    assert future.result() == "answer"
