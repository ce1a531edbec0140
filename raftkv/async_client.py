"""The client library for asyncio: theory of operation.

The same pipeline as `Client`'s (pipeline.py): its threads send and receive, the event loop never waits for them. What
all tasks ask for in one round of the loop goes out together; what comes back together is handed to the loop at once,
with one wake-up for all of it. A task that is cancelled gives its call up.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from raftkv.calls import GET, KEYS, Call
from raftkv.client import as_bytes, checked_addresses, checked_key, checked_timeout
from raftkv.cluster_calls import ClusterCalls
from raftkv.errors import Error, NotApplied
from raftkv.member_calls import ClusterMember
from raftkv.operations import Code
from raftkv.pipeline import Pipeline
from raftkv.routing import NodeStatus, Router

if TYPE_CHECKING:
    from raftkv.backup_file import BackupInfo, Progress

__all__ = ["AsyncClient"]

_Outcome = tuple["asyncio.Future[Any]", Any]
"""A future and what it is to be given: a result or an Error."""


class AsyncClient:
    """A connection to the cluster, for the tasks of one event loop.

        async with AsyncClient(["127.0.0.1:50051"]) as client:
            await client.set("key", "value")

    Methods, arguments and errors are those of `Client`, and so is the order of writes: that in which the calls were
    begun. A call whose task is cancelled may have been carried out.
    """

    def __init__(self, addresses: Iterable[str], timeout: float = 10.0) -> None:
        """As `Client`: any member's address will do; `timeout` is in seconds and holds for each call."""
        self._timeout = checked_timeout(timeout)
        self._router = Router(checked_addresses(addresses), self._timeout)
        self._pipeline = Pipeline(self._router, self._timeout, self._hand_over)
        self._cluster = ClusterCalls(self._router, self._timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_flush_due = False
        self._outcomes: deque[_Outcome] = deque()
        """Of calls that the pipeline has finished, and the loop has not been told of yet."""

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def set(self, key: str | bytes, value: str | bytes) -> None:
        """Give the key this value."""
        await self._call(Code.SET, as_bytes("key", key), as_bytes("value", value))

    async def get(self, key: str | bytes) -> bytes | None:
        """The key's value, None if there is no such key. Linearizable."""
        value: bytes | None = await self._call(GET, checked_key(key))
        return value

    async def delete(self, key: str | bytes) -> bool:
        """Remove the key. Whether it existed."""
        return bool(await self._call(Code.DELETE, as_bytes("key", key)))

    async def set_if_absent(self, key: str | bytes, value: str | bytes) -> bool:
        """Give the key this value if it does not exist. Whether that was done."""
        return bool(await self._call(Code.SET_IF_ABSENT, as_bytes("key", key), as_bytes("value", value)))

    async def compare_and_set(self, key: str | bytes, expected: str | bytes, new: str | bytes) -> bool:
        """Give the key the value `new` if it exists and has the value `expected`. Whether that was done."""
        key, expected, new = as_bytes("key", key), as_bytes("expected", expected), as_bytes("new", new)
        return bool(await self._call(Code.COMPARE_AND_SET, key, new, expected))

    async def keys(self, prefix: str | bytes = b"") -> list[bytes]:
        """The keys that begin with `prefix`, sorted. Linearizable."""
        keys: list[bytes] = await self._call(KEYS, as_bytes("prefix", prefix))
        return keys

    async def status(self) -> list[NodeStatus]:
        """A row for every member, as `Client.status`."""
        return await asyncio.to_thread(self._cluster.status)

    async def members(self) -> list[ClusterMember]:
        """The members of the cluster, as `Client.members`."""
        return await asyncio.to_thread(self._cluster.members)

    async def add_member(self, member: int, address: str) -> None:
        """Add a member, or change its address, as `Client.add_member`."""
        await asyncio.to_thread(self._cluster.add_member, member, address)

    async def remove_member(self, member: int) -> None:
        """Remove a member, as `Client.remove_member`."""
        await asyncio.to_thread(self._cluster.remove_member, member)

    async def transfer_leadership(self, target: int | None = None) -> int:
        """As `Client.transfer_leadership`."""
        return await asyncio.to_thread(self._cluster.transfer_leadership, target)

    async def backup(self, path: str | os.PathLike[str], progress: Progress = lambda done, size: None) -> BackupInfo:
        """Write the state of the cluster to a new file, as `Client.backup`. `progress` is called by the loop. If the
        task is cancelled no backup is made."""
        loop = asyncio.get_running_loop()
        is_wanted = True

        def told(done: int, size: int) -> None:
            if not is_wanted:
                raise NotApplied("the task was cancelled; no backup was made", "CANCELLED")
            loop.call_soon_threadsafe(progress, done, size)

        try:
            return await asyncio.to_thread(self._cluster.backup, path, told)
        finally:
            is_wanted = False

    async def close(self) -> None:
        """End the session, if that is quickly done, and the connections. Calls under way fail."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._pipeline.close()
        self._router.close()

    # ---- calls: in the loop's thread ---------------------------------------------------------------------------------

    async def _call(self, code: Code | int, key: bytes, value: bytes = b"", expected: bytes = b"") -> Any:
        loop = asyncio.get_running_loop()
        call = _AsyncCall(code, key, value, expected, time.monotonic() + self._timeout, loop, self._outcomes)
        if self._loop is not loop:
            if self._loop is not None:
                raise call.error("FAILED_PRECONDITION", "a client belongs to one event loop: make another one")
            self._loop = loop
        self._pipeline.enqueue(call)
        if not self._is_flush_due:
            self._is_flush_due = True
            loop.call_soon(self._flush)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._pipeline.abandon(call)
            raise

    def _flush(self) -> None:
        self._is_flush_due = False
        self._pipeline.flush()

    def _settle(self, outcomes: list[_Outcome]) -> None:
        for future, outcome in outcomes:
            if future.done():  # cancelled meanwhile
                continue
            if isinstance(outcome, Error):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    # ---- what the pipeline's threads do ------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Take what has been finished to the loop."""
        outcomes: list[_Outcome] = []
        with suppress(IndexError):  # several threads may be at this
            while True:
                outcomes.append(self._outcomes.popleft())
        if outcomes and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                self._loop.call_soon_threadsafe(self._settle, outcomes)


class _AsyncCall(Call):
    __slots__ = ("_outcomes", "future")

    def __init__(
        self,
        code: Code | int,
        key: bytes,
        value: bytes,
        expected: bytes,
        deadline: float,
        loop: asyncio.AbstractEventLoop,
        outcomes: deque[_Outcome],
    ) -> None:
        super().__init__(code, key, value, expected, deadline)
        self.future: asyncio.Future[Any] = loop.create_future()
        self._outcomes = outcomes

    def finish(self, answer: Any) -> None:
        self._outcomes.append((self.future, self.result_of(answer)))

    def fail(self, error: Error) -> None:
        self._outcomes.append((self.future, error))
