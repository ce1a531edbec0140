"""No call takes longer than its timeout, whatever the client is waiting for."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import raftkv.pipeline
from raftkv.calls import GET, Call
from raftkv.client import Client, Error, NotApplied, OutcomeUnknown
from raftkv.outbox import Outbox
from tests.client.fake_cluster import FakeCluster, hang_undone
from tests.support.processes import wait_until
from tests.support.ways import PIPELINED, Tasks

ENDLESS = 20.0
"""Seconds that a search for the leader may take here, or a look around."""
SOON = 5.0
"""With this much to spare for a busy machine, a call ends in its time."""


@pytest.fixture(params=PIPELINED)
def way(request: pytest.FixtureRequest) -> type[Client]:
    taken: type[Client] = request.param
    return taken


@pytest.fixture(autouse=True)
def slow_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SEARCH_S", "FIRST_ROUND_S", "LONGEST_ROUND_S"):
        monkeypatch.setattr(raftkv.pipeline, name, ENDLESS)


def pause_all(cluster: FakeCluster) -> None:
    for member in cluster.members.values():
        member.pause()


def end_of(begin: Callable[[], Future[Any]]) -> tuple[BaseException | None, float]:
    """How a call ends, and after how many seconds."""
    start = time.monotonic()
    error = begin().exception(2 * ENDLESS)
    return error, time.monotonic() - start


@pytest.mark.parametrize("timeout", [0.05, 0.2, 1.0])
def test_calls_do_not_wait_for_the_search_for_a_leader(cluster: FakeCluster, way: type[Client], timeout: float) -> None:
    pause_all(cluster)
    with way(cluster.addresses, timeout) as client:
        for begin in (lambda: client.set_async("key", ""), lambda: client.get_async("key")):
            error, seconds = end_of(begin)
            assert isinstance(error, NotApplied)
            assert seconds < timeout + SOON


def test_calls_that_wait_for_an_answer_do_not_wait_for_what_the_other_members_say(
    cluster: FakeCluster, way: type[Client]
) -> None:
    """An answer that takes long makes the client ask whether somebody else leads by now; here all hang."""
    with way(cluster.addresses, timeout=1.0) as client:
        client.set("key", "")
        cluster.next_calls(hang_undone)

        def begin() -> Future[None]:
            future = client.set_async("key", "")
            wait_until(lambda: not cluster._script, "it has been sent")
            pause_all(cluster)
            return future

        error, seconds = end_of(begin)
        assert isinstance(error, OutcomeUnknown)
        assert seconds < 1.0 + SOON


def test_reads_that_are_sent_again_keep_the_order_of_their_submission() -> None:
    """Those of several messages, whichever comes back first: the queue's first is the one whose time ends next."""
    outbox = Outbox()
    reads = [Call(GET, b"%d" % i, b"", b"", float(i)) for i in range(8)]
    outbox.reads.extend(reads[6:])
    for again in (reads[2:4], reads[:2], reads[4:6]):
        outbox.send_again(again)
    assert [*outbox.reads] == reads
    assert next(iter(outbox.oldest_calls())) is reads[0]


def test_a_read_whose_stream_is_lost_with_the_whole_cluster_ends_in_its_time(
    cluster: FakeCluster, way: type[Client]
) -> None:
    """Though another message's reads, which have more time, are lost with it."""
    with way(cluster.addresses, timeout=2 * ENDLESS) as client:
        client.set("key", "")
        cluster.next_calls(hang_undone, hang_undone)
        set_timeout(client, 2.0)
        start = time.monotonic()
        short = client.get_async("key")
        wait_until(lambda: len(cluster._script) == 1, "it has been sent")
        set_timeout(client, 2 * ENDLESS)
        long = client.get_async("key")
        wait_until(lambda: not cluster._script, "the other one has been sent")
        cluster.elect(0)
        for member in cluster.members.values():
            member.kill()
        assert isinstance(short.exception(2 * ENDLESS), NotApplied)
        assert time.monotonic() - start < 2.0 + SOON
        assert not long.done()


def set_timeout(client: Client, seconds: float) -> None:
    """Of the calls that come."""
    (client.client if isinstance(client, Tasks) else client)._timeout = seconds


def test_the_search_goes_on_for_those_whose_time_is_not_over(cluster: FakeCluster) -> None:
    """Short timeouts alone, one after the other, find the leader who answers at last."""
    cluster.elect(0)
    with Client(cluster.addresses, timeout=0.15) as client:
        for _ in range(3):
            with pytest.raises(Error):
                client.set("key", "")
        cluster.elect(2)

        def is_through() -> bool:
            try:
                client.set("key", "through")
            except NotApplied:
                return False
            return True

        wait_until(is_through, "a write is through")
