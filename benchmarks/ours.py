"""Our client library as the benchmark calls it: the one file that knows its names.

stream    `set_async` and `get_async`, which give futures; the plain blocking calls where one operation is in flight
threads   the plain blocking calls, from as many threads
asyncio   `AsyncClient`, from as many tasks
unary     no library: ServeClient calls in the text form, one operation each, as a simple program makes them
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import grpc

import raftkv
from raftkv.wire import raft_pb2 as wire

TIMEOUT_S = 15.0


def has_asyncio() -> bool:
    return hasattr(raftkv, "AsyncClient")


def client(addresses: list[str]) -> AbstractContextManager[Any]:
    """The library's client, for futures and blocking calls."""
    if not hasattr(raftkv.Client, "set_async"):
        from benchmarks.standin import ThreadedClient  # until the library has it

        return ThreadedClient(addresses, TIMEOUT_S)
    return raftkv.Client(addresses, timeout=TIMEOUT_S)


def asyncio_client(addresses: list[str]) -> Any:
    """An asynchronous context manager; to be made inside the event loop."""
    return raftkv.AsyncClient(addresses, timeout=TIMEOUT_S)  # type: ignore[attr-defined, unused-ignore]


class UnaryCaller:
    """Calls one member, the leader, once an operation."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._serve: grpc.UnaryUnaryMultiCallable[wire.ServeClientRequest, wire.ServeClientReply] = (
            self._channel.unary_unary(
                "/RaftNode/ServeClient",
                request_serializer=wire.ServeClientRequest.SerializeToString,
                response_deserializer=wire.ServeClientReply.FromString,
            )
        )

    def __enter__(self) -> UnaryCaller:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def set(self, key: bytes, value: bytes) -> None:
        self._ask(f"SET {key.decode()} {value.decode()}")

    def get(self, key: bytes) -> bytes:
        return self._ask(f"GET {key.decode()}").data.encode()

    def _ask(self, request: str) -> wire.ServeClientReply:
        reply = self._serve(wire.ServeClientRequest(request=request), timeout=TIMEOUT_S)
        if not reply.success:
            raise ConnectionError("the member does not lead any more")
        return reply


def syncs_of(status: wire.StatusReply) -> int | None:
    """How often the member's log was made durable, if its status says so."""
    count: int | None = getattr(status, "log_syncs", None)
    return count
