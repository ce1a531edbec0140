"""What asyncio adds to the calls: tasks that are cancelled or fail, loops that end, and what goes out in one round.

That everything else is as in the blocking client is for the other tests to say, which take all three ways.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from raftkv import AsyncClient, Client, NotApplied, OutcomeUnknown
from raftkv.operations import Code
from tests.client.fake_cluster import FakeCluster, hang_undone, wait_for
from tests.support.processes import wait_until
from tests.support.ways import Tasks

LONG = 10.0
"""Seconds; nothing here takes so long."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """In a loop of its own. What goes wrong in one of the loop's callbacks, which asyncio only logs, is an error."""

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: trouble.append(context))
        await asyncio.wait_for(main, LONG)

    trouble: list[dict[str, Any]] = []
    asyncio.run(watched())
    assert not trouble


async def until(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


def written(cluster: FakeCluster) -> list[tuple[bytes, int, int]]:
    """Key, number and mark of each write that arrived."""
    return [
        (operation.key, operation.sequence, arrived.batch.lowest_unanswered)
        for arrived in cluster.arrived
        for operation in arrived.batch.operations
        if operation.code not in (Code.OPEN_SESSION, Code.CLOSE_SESSION)
    ]


def test_each_call_has_its_result(cluster: FakeCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.addresses) as client:
            assert await client.set("key", "old") is None  # type: ignore[func-returns-value]
            assert await client.get("key") == b"old"
            assert await client.get("missing") is None
            assert await client.set_if_absent("key", "other") is False
            assert await client.set_if_absent("another", "") is True
            assert await client.compare_and_set("key", "other", "new") is False
            assert await client.compare_and_set("key", "old", "new") is True
            assert await client.get("key") == b"new"
            assert await client.keys() == [b"another", b"key"]
            assert await client.keys("k") == [b"key"]
            assert await client.delete("key") is True
            assert await client.delete("key") is False
            assert [row.role for row in await client.status()] == ["leader", "follower", "follower"]
            assert [member.is_leader for member in await client.members()] == [True, False, False]
            assert await client.transfer_leadership(2) == 2

    run(main())


def test_the_tests_take_every_call_through_the_loop() -> None:
    """Else what says that it is asyncio would be the blocking client once more."""
    public = {name for name in vars(Client) if not name.startswith("_")}
    own = set(vars(Tasks))
    assert {name for name in public if name not in own and f"{name}_async" not in own} == set()


# ---- order, and what goes out together -------------------------------------------------------------------------------


def test_what_tasks_ask_for_in_one_round_is_sent_at_once_and_each_answer_is_one_wake_up(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.addresses) as client:
            await client.set("first", "")
            loop, wake_ups, flushed_by, requests = asyncio.get_running_loop(), [], [], cluster.leader.calls
            wake_up, flush = loop.call_soon_threadsafe, client._pipeline.flush

            def flush_and_tell() -> None:
                flushed_by.append(threading.get_ident())
                flush()

            monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *words: wake_ups.append(wake_up(*words)))
            monkeypatch.setattr(client._pipeline, "flush", flush_and_tell)
            await asyncio.gather(*(client.set(f"{i:03}", "") for i in range(400)))
            assert flushed_by.count(threading.get_ident()) == 1
            assert await asyncio.gather(*(client.get(f"{i:03}") for i in range(400))) == [b""] * 400
            assert flushed_by.count(threading.get_ident()) == 2
            # The pipeline's own threads may have sent what there was already.
            assert len(wake_ups) <= cluster.leader.calls - requests < 10
            monkeypatch.undo()

    run(main())
    assert [key for key, _, _ in written(cluster)] == [b"first", *(f"{i:03}".encode() for i in range(400))]


def test_writes_are_applied_in_the_order_in_which_their_calls_were_begun(cluster: FakeCluster) -> None:
    """Also those that wait while others are under way, and whichever round of the loop they come from."""
    release = threading.Event()

    async def main() -> None:
        async with AsyncClient(cluster.addresses) as client:
            await client.set("first", "")
            cluster.next_calls(wait_for(release), wait_for(release))
            tasks = [asyncio.create_task(client.set("held", ""))]
            for i in range(200):
                tasks.append(asyncio.create_task(client.set("key", str(i))))
                if i % 7 == 0:
                    await asyncio.sleep(0)
            release.set()
            await asyncio.gather(*tasks)
            assert await client.get("key") == b"199"

    run(main())
    written_to_key = [op.value for a in cluster.arrived for op in a.batch.operations if op.key == b"key"]
    assert written_to_key == [b"%d" % i for i in range(200)]


# ---- cancellation ----------------------------------------------------------------------------------------------------


def test_a_task_cancelled_before_its_write_is_sent_has_it_never_applied(cluster: FakeCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.addresses) as client:
            cluster.elect(0)
            tasks = [asyncio.create_task(client.set(f"key{i}", "")) for i in range(3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]
            cluster.elect(1)
            await asyncio.gather(tasks[0], tasks[2])
            assert await client.keys() == [b"key0", b"key2"]

    run(main())
    assert [(key, sequence) for key, sequence, _ in written(cluster)] == [(b"key0", 1), (b"key2", 2)]


def test_a_task_cancelled_after_its_write_was_sent_gives_its_number_up(cluster: FakeCluster) -> None:
    """Or the session's mark would stay there, and the window run full, until the client's own time is over."""

    async def main() -> None:
        async with AsyncClient(cluster.addresses) as client:
            await client.set("key", "0")
            cluster.next_calls(hang_undone)
            task = asyncio.create_task(client.set("key", "cancelled"))
            await until(lambda: not cluster._script, "it has been sent")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await client.set("key", "2")
            assert await client.get("key") == b"2"

    run(main())
    assert written(cluster) == [(b"key", 1, 1), (b"key", 3, 3)]


def test_a_call_that_is_waited_for_no_longer_is_given_up(cluster: FakeCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.addresses) as client:
            await client.set("key", "0")
            cluster.next_calls(hang_undone, hang_undone)
            calls: list[Callable[[], Awaitable[object]]] = [lambda: client.get("key"), lambda: client.set("key", "1")]
            for call in calls:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(call(), 0.2)
            connection = client._pipeline._connection
            assert connection is not None
            assert not [*connection.oldest_calls()]
            assert await client.get("key") == b"0"

    run(main())


def test_the_answers_of_others_arrive_whoever_was_cancelled_meanwhile(cluster: FakeCluster) -> None:
    """The loop learns of all of them at once; one is cancelled when it has been told so and has not looked yet."""

    async def main() -> None:
        async with AsyncClient(cluster.addresses) as client:
            await client.set("key", "0")
            tasks = [asyncio.create_task(client.set_if_absent(f"key{i}", "")) for i in range(5)]
            settle = client._settle

            def cancel_and_settle(outcomes: list[Any]) -> None:
                tasks[2].cancel()
                settle(outcomes)

            client._settle = cancel_and_settle  # type: ignore[method-assign]
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [result is True for result in done] == [True, True, False, True, True]
            assert isinstance(done[2], asyncio.CancelledError)

    run(main())


def test_an_error_in_one_task_is_that_tasks_alone(cluster: FakeCluster) -> None:
    """Its sibling is cancelled in the middle of a call by who looks after both, and the client goes on."""

    async def main() -> None:
        async with AsyncClient(cluster.addresses) as client:
            await client.set("key", "0")
            cluster.next_calls(hang_undone)
            sibling = asyncio.create_task(client.set("sibling", ""))
            await until(lambda: not cluster._script, "it has been sent")
            refused, other = await asyncio.gather(
                client.set("k" * 2000, ""), client.set("other", ""), return_exceptions=True
            )
            assert isinstance(refused, ValueError)
            assert isinstance(refused, NotApplied)
            assert other is None
            sibling.cancel()
            await asyncio.wait([sibling])
            assert await client.keys() == [b"key", b"other"]

    run(main())


# ---- time, and the end -----------------------------------------------------------------------------------------------


def test_a_call_ends_with_the_clients_own_time(cluster: FakeCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.addresses, timeout=0.5) as client:
            await client.set("key", "0")
            cluster.next_calls(hang_undone, hang_undone)
            write, read = await asyncio.wait_for(
                asyncio.gather(client.set("key", "1"), client.get("key"), return_exceptions=True), 3.0
            )
            assert isinstance(write, OutcomeUnknown)
            assert isinstance(read, NotApplied)
            assert (write.code, read.code) == ("DEADLINE_EXCEEDED",) * 2

    run(main())


def test_closing_fails_the_calls_of_other_tasks_and_says_what_is_certain(cluster: FakeCluster) -> None:
    async def main() -> None:
        client = AsyncClient(cluster.addresses)
        await client.set("key", "0")
        cluster.next_calls(hang_undone, hang_undone)
        calls = [asyncio.create_task(client.set("key", "1")), asyncio.create_task(client.get("key"))]
        await until(lambda: not cluster._script, "both have been sent")
        await client.close()
        write, read = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(write, OutcomeUnknown)
        assert isinstance(read, NotApplied)
        assert (write.code, read.code) == ("CANCELLED",) * 2
        with pytest.raises(NotApplied, match="closed"):
            await client.get("key")
        await client.close()

    run(main())


@pytest.mark.parametrize("call", [AsyncClient.status, AsyncClient.members, AsyncClient.close])
def test_the_loop_goes_on_while_a_member_that_hangs_is_waited_for(
    cluster: FakeCluster, call: Callable[[AsyncClient], Coroutine[Any, Any, object]]
) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.addresses) as client:
            await client.set("key", "")
            cluster.leader.pause()
            task = asyncio.create_task(call(client))
            await asyncio.sleep(0)
            assert not task.done()
            cluster.leader.resume()
            await task

    run(main())


def test_a_client_is_one_loops_and_another_loop_is_told_so(cluster: FakeCluster) -> None:
    client = AsyncClient(cluster.addresses)

    async def use() -> None:
        await client.set("key", "value")

    async def use_and_close() -> None:
        with pytest.raises(NotApplied, match=r"one event loop.*the write was not applied") as caught:
            await client.set("key", "other")
        assert caught.value.code == "FAILED_PRECONDITION"
        with pytest.raises(NotApplied, match=r"one event loop.*nothing was read"):
            await client.get("key")
        await client.close()

    run(use())
    run(use_and_close())
    assert cluster.machine.get(b"key") == b"value"


def test_an_answer_that_comes_when_the_loop_is_gone_disturbs_nobody(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop was stopped, not run to its end: the task and its call are still there."""
    client, release, handed_over = AsyncClient(cluster.addresses), threading.Event(), threading.Event()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(client.set("key", "0"))
    cluster.next_calls(wait_for(release))
    task = loop.create_task(client.set("key", "1"))
    loop.run_until_complete(until(lambda: not cluster._script, "it has been sent"))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    hand_over, trouble = client._pipeline._delivered, []

    def watched() -> None:
        try:
            hand_over()
        except BaseException as error:
            trouble.append(error)
        handed_over.set()

    monkeypatch.setattr(client._pipeline, "_delivered", watched)
    release.set()
    assert handed_over.wait(LONG)
    assert not trouble
    client._close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # what asyncio says of it is meant here
