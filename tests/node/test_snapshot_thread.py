"""The thread that saves snapshots."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from raftkv.kv import StateMachine
from raftkv.kv_snapshot import decode, meta_of
from raftkv.log_storage import StorageError
from raftkv.memory_storage import MemoryStorage
from raftkv.snapshot_thread import SnapshotThread
from raftkv.snapshots import Save, SnapshotFailed, SnapshotSaved
from tests.kv.driving import Driver, set_


def save_of(keys: int) -> Save:
    driver = Driver()
    driver.batch(*(set_(b"key-%d" % n, b"v" * 100) for n in range(keys)))
    state = driver.machine.freeze()
    return Save(state, meta_of(state, b""))


class Bench:
    """A thread, with what it brings and what it fails with."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.results: SimpleQueue[SnapshotSaved | SnapshotFailed] = SimpleQueue()
        self.errors: SimpleQueue[BaseException] = SimpleQueue()
        self.rests: list[float] = []
        self.thread = SnapshotThread(self.storage, self.results.put, self.errors.put, self.rests.append)

    def result(self) -> SnapshotSaved | SnapshotFailed:
        return self.results.get(timeout=10)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.thread.stop()


def test_a_state_is_saved_and_brought_back(bench: Bench) -> None:
    bench.thread.start()
    save = save_of(5000)
    bench.thread.save(save)
    result = bench.result()
    assert isinstance(result, SnapshotSaved)
    assert result.save is save
    meta, state = decode(result.writer)
    assert meta == save.meta
    machine, original = StateMachine(), StateMachine()
    machine.restore(state)
    original.restore(save.state)
    assert machine.digest() == original.digest()


def test_after_each_piece_it_rests_so_that_others_get_their_turn(bench: Bench) -> None:
    bench.thread.start()
    bench.thread.save(save_of(10_000))
    bench.result()
    assert len(bench.rests) > 5
    assert all(rest > 0 for rest in bench.rests)


def test_one_thing_is_done_after_the_other(bench: Bench) -> None:
    saves = [save_of(10), save_of(20)]
    for save in saves:
        bench.thread.save(save)
    bench.thread.start()
    assert [bench.result().save for _ in saves] == saves


def test_files_that_no_longer_count_are_removed_in_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: SimpleQueue[str] = SimpleQueue()

    def remove() -> Generator[None, None, None]:
        for _ in range(3):
            yield
            removed.put(threading.current_thread().name)

    monkeypatch.setattr(bench.storage, "remove_leftovers", remove)
    bench.thread.start()
    bench.thread.clean()
    assert [removed.get(timeout=10) for _ in range(3)] == ["snapshot"] * 3
    assert len(bench.rests) == 3, "one before each"


def test_files_are_removed_no_longer_when_the_node_stops(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start does it."""
    begun, ended = threading.Event(), threading.Event()

    def remove() -> Generator[None, None, None]:
        begun.set()
        try:
            while True:
                yield
        finally:
            ended.set()

    monkeypatch.setattr(bench.storage, "remove_leftovers", remove)
    bench.thread.start()
    bench.thread.clean()
    assert begun.wait(10)
    bench.thread.stop()
    assert ended.wait(10)


def test_a_save_that_the_disk_refuses_is_brought_back_as_failed(bench: Bench) -> None:
    bench.storage.failure = "no room; free some space"
    bench.thread.start()
    bench.thread.save(save_of(10))
    result = bench.result()
    assert isinstance(result, SnapshotFailed)
    assert result.reason == "no room"
    assert bench.errors.empty()


def test_hazard_51_any_other_exception_stops_the_node(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread dies of an exception and the node goes on without it."""

    def broken() -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.storage, "begin_snapshot", broken)
    bench.thread.start()
    bench.thread.save(save_of(10))
    assert isinstance(bench.errors.get(timeout=10), RuntimeError)


def test_a_save_under_way_is_given_up_when_the_node_stops() -> None:
    begun, stopping = threading.Event(), threading.Event()

    def rest(seconds: float) -> None:
        begun.set()
        assert stopping.wait(10)

    results: SimpleQueue[SnapshotSaved | SnapshotFailed] = SimpleQueue()
    thread = SnapshotThread(MemoryStorage(), results.put, lambda error: None, rest)
    thread.start()
    thread.save(save_of(10_000))
    assert begun.wait(10)
    stop = threading.Thread(target=thread.stop)
    stop.start()
    assert thread._stopped.wait(10)
    stopping.set()
    stop.join(10)
    assert not stop.is_alive()
    assert isinstance(results.get(timeout=10), SnapshotFailed)


def test_who_stops_waits_for_no_rest() -> None:
    results: SimpleQueue[SnapshotSaved | SnapshotFailed] = SimpleQueue()
    thread = SnapshotThread(MemoryStorage(), results.put, lambda error: None)
    rests: SimpleQueue[float] = SimpleQueue()

    def rest(seconds: float) -> None:
        rests.put(seconds)
        wait(600)

    wait, thread._sleep = thread._sleep, rest
    thread.start()
    thread.save(save_of(10_000))
    rests.get(timeout=10)
    thread.stop()
    assert isinstance(results.get(timeout=10), SnapshotFailed)


def test_who_has_waited_long_for_the_disk_does_not_rest_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr("raftkv.snapshot_thread.time.perf_counter", lambda: next(hours))
    bench.thread.start()
    bench.thread.save(save_of(10_000))
    bench.result()
    assert set(bench.rests) == {0.1}


def test_a_thread_that_was_never_started_is_stopped_all_the_same() -> None:
    Bench().thread.stop()


def test_storage_errors_are_not_the_threads_bugs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed() -> Any:
        raise StorageError("/node: closed; start the node again")

    monkeypatch.setattr(bench.storage, "begin_snapshot", closed)
    bench.thread.start()
    bench.thread.save(save_of(10))
    assert isinstance(bench.result(), SnapshotFailed)
