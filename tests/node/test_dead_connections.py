"""A connection that carries nothing any more, though TCP sees nothing wrong with it, is given up soon."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from raftkv import clock, routing
from raftkv.streams import Stream
from raftkv.transport import SendingLimits, channel_options
from tests.support.processes import wait_until
from tests.support.stalling_proxy import stalling_proxy

METHOD = "/Test/Echo"
PEERS = channel_options(SendingLimits(timeout=1.0, max_backoff=1.0, max_appends=2, max_message_bytes=1 << 20))

SHORTENED = {"grpc.keepalive_time_ms": 500, "grpc.http2.ping_timeout_ms": 1000}


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of a server that answers each message of a stream with itself."""
    handler: Any = grpc.stream_stream_rpc_method_handler(lambda requests, _: requests)
    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool, options=[("grpc.http2.max_ping_strikes", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()
    pool.shutdown()


@pytest.mark.parametrize("options", [PEERS, routing._CHANNEL_OPTIONS], ids=["a member's", "a client's"])
def test_a_stream_on_which_nothing_comes_through_ends(echo: str, options: Sequence[tuple[str, int]]) -> None:
    """After twelve seconds; here, after one and a half. gRPC's own patience is a minute, whatever keepalive says, if it
    is not told of pings, too."""
    options = [(name, SHORTENED.get(name, value)) for name, value in options]
    arrived, ended = threading.Event(), threading.Event()
    with stalling_proxy(echo) as proxy, grpc.insecure_channel(proxy.address, options=options) as channel:
        stream = Stream(channel, METHOD, lambda _: arrived.set(), lambda *_: ended.set())
        stream.send(b"message")
        assert arrived.wait(10)
        proxy.stall()
        since = clock.now()
        stream.send(b"message")
        assert ended.wait(20)
        assert clock.now() - since < 8.0

        again = threading.Event()

        def is_answered() -> bool:
            Stream(channel, METHOD, lambda _: again.set(), lambda *_: None).send(b"message")
            return again.wait(1)

        wait_until(is_answered, "an answer on a new connection")
        assert proxy.connections > 1
