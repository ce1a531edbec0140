"""A stand-in for `set_async` and `get_async` on a client library that does not have them yet: threads that wait."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import raftkv

_THREADS = 32


class ThreadedClient(raftkv.Client):
    def __init__(self, addresses: list[str], timeout: float) -> None:
        super().__init__(addresses, timeout=timeout)
        self._pool = ThreadPoolExecutor(_THREADS)

    def set_async(self, key: bytes, value: bytes) -> Future[None]:
        return self._pool.submit(self.set, key, value)

    def get_async(self, key: bytes) -> Future[bytes | None]:
        return self._pool.submit(self.get, key)

    def close(self) -> None:
        self._pool.shutdown()
        super().close()
