"""A bare gRPC server that answers what it is sent: what a call costs, and a message of a stream, before anything has
been done for it.

python -m benchmarks.echo ADDRESS
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final

import grpc

METHOD: Final = "/Echo/Echo"
STREAM: Final = "/Echo/Stream"
_THREADS: Final = 32


class Caller:
    """A blocking client of it."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._echo: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(METHOD)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def set(self, key: bytes, value: bytes) -> None:
        self._echo(key + value, timeout=15.0)


class StreamCaller:
    """One message after the other on one stream, as gRPC has it for everybody. A write that is alone takes two such
    round trips, from the client to the leader and from there to a follower, and a sync."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        begin: Any = self._channel.stream_stream(STREAM)
        self._answers = begin(iter(self._requests.get, None))

    def __enter__(self) -> StreamCaller:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._channel.close()

    def set(self, key: bytes, value: bytes) -> None:
        self._requests.put(key + value)
        next(self._answers)


class _Echo(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: requests)
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request) if details.method == METHOD else None


def main(address: str) -> None:
    """Serve until SIGTERM."""
    server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[_Echo()])
    server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
