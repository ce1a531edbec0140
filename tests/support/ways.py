"""The three ways into the client library behind one face, that of the blocking `Client`: theory of operation.

What a client does must not depend on the way in which it is asked. So a test that takes a *way*, one of `WAYS`, and
makes its client of it, says of each of them what it says of one: `Client` itself; `Futures`, where each call asks for
a future and waits for it; `Tasks`, where each call is a task of an event loop, which all such clients of the process
share. In the latter the `_async` methods begin a task: it is that which `cancel` cancels.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from raftkv import AsyncClient, Client, Error, NotApplied, OutcomeUnknown
from raftkv.client import ClusterMember, NodeStatus

if TYPE_CHECKING:
    from raftkv.backup_file import BackupInfo, Progress

_LONG: Final = 60.0
"""Seconds. Every call ends by itself before that."""

Text = str | bytes
Result = TypeVar("Result")


class Futures(Client):
    """Its calls wait for what the `_async` methods give."""

    cancelled: ClassVar[type[Error]] = NotApplied
    """What is certain of a call after `cancel` has said that it did so."""

    def set(self, key: Text, value: Text) -> None:
        self.set_async(key, value).result(_LONG)

    def get(self, key: Text) -> bytes | None:
        return self.get_async(key).result(_LONG)

    def delete(self, key: Text) -> bool:
        return self.delete_async(key).result(_LONG)

    def set_if_absent(self, key: Text, value: Text) -> bool:
        return self.set_if_absent_async(key, value).result(_LONG)

    def compare_and_set(self, key: Text, expected: Text, new: Text) -> bool:
        return self.compare_and_set_async(key, expected, new).result(_LONG)

    def keys(self, prefix: Text = b"") -> list[bytes]:
        return self.keys_async(prefix).result(_LONG)


_making = threading.Lock()
"""Several threads may be the first: `cache` alone would make a loop for each, and a client belongs to one."""


def _loop() -> asyncio.AbstractEventLoop:
    with _making:
        return _the_loop()


@cache
def _the_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="tasks", daemon=True).start()
    return loop


class Tasks(Futures):
    """An `AsyncClient`, asked by a task for each call. Tasks begin in the order of the calls."""

    cancelled = OutcomeUnknown

    def __init__(self, addresses: Iterable[str], timeout: float = 10.0) -> None:
        self.client = AsyncClient(addresses, timeout)
        self._pipeline, self._router = self.client._pipeline, self.client._router

    def begin(self, call: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(call, _loop())

    def set_async(self, key: Text, value: Text) -> Future[None]:
        return self.begin(self.client.set(key, value))

    def get_async(self, key: Text) -> Future[bytes | None]:
        return self.begin(self.client.get(key))

    def delete_async(self, key: Text) -> Future[bool]:
        return self.begin(self.client.delete(key))

    def set_if_absent_async(self, key: Text, value: Text) -> Future[bool]:
        return self.begin(self.client.set_if_absent(key, value))

    def compare_and_set_async(self, key: Text, expected: Text, new: Text) -> Future[bool]:
        return self.begin(self.client.compare_and_set(key, expected, new))

    def keys_async(self, prefix: Text = b"") -> Future[list[bytes]]:
        return self.begin(self.client.keys(prefix))

    def status(self) -> list[NodeStatus]:
        return self.begin(self.client.status()).result(_LONG)

    def members(self) -> list[ClusterMember]:
        return self.begin(self.client.members()).result(_LONG)

    def add_member(self, member: int, address: str) -> None:
        self.begin(self.client.add_member(member, address)).result(_LONG)

    def remove_member(self, member: int) -> None:
        self.begin(self.client.remove_member(member)).result(_LONG)

    def transfer_leadership(self, target: int | None = None) -> int:
        return self.begin(self.client.transfer_leadership(target)).result(_LONG)

    def backup(self, path: str | os.PathLike[str], progress: Progress = lambda done, size: None) -> BackupInfo:
        return self.begin(self.client.backup(path, progress)).result(_LONG)

    def close(self) -> None:
        self.begin(self.client.close()).result(_LONG)


WAYS: Final[tuple[type[Client], ...]] = (Client, Futures, Tasks)
PIPELINED: Final = (Futures, Tasks)
"""Those in which one thread may have many calls under way, in an order."""
UNLIKE: Final = (Client, Tasks)
"""The two that have least in common, for tests that take long: a thread sees to its own time-out, and who sees to a
task's sees to a future's."""
