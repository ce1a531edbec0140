"""A bare gRPC server that answers what it is sent: what a call costs before anything has been done for it.

python -m benchmarks.echo ADDRESS
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

METHOD: Final = "/Echo/Echo"
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


class _Echo(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)


def main(address: str) -> None:
    """Serve until SIGTERM."""
    server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[_Echo()])
    server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
