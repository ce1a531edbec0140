"""The server's side of a call whose messages come in pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from raftkv.streams import Exchange, Stream

Serve = Callable[[Exchange], object]


class Pair:
    """A caller, and a server that takes its requests out of an `Exchange`."""

    def __init__(self, channel: grpc.Channel, server: grpc.Server, is_over: threading.Event) -> None:
        self.server = server
        self.is_over = is_over
        """The server's thread has come to the end."""
        self.answers: SimpleQueue[bytes] = SimpleQueue()
        self.stream = Stream(channel, "/Test/Pair", self.answers.put, lambda *_: None)

    def take(self, count: int) -> list[bytes]:
        return [self.answers.get(timeout=10) for _ in range(count)]

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self.stream.send(message)

    def leave(self) -> None:
        self.stream.cancel()
        self.see_the_end()

    def see_the_end(self) -> None:
        assert self.is_over.wait(10), "the server's thread goes on waiting"


@contextmanager
def pair(serve: Serve) -> Iterator[Pair]:
    is_over = threading.Event()

    def answer(_: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        serve(Exchange(context))
        is_over.set()
        yield from ()

    server = grpc.server(ThreadPoolExecutor(2))
    handlers: Any = {"Pair": grpc.stream_stream_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Pair(channel, server, is_over)
    server.stop(None).wait()


def echo(exchange: Exchange) -> None:
    for request in exchange:
        exchange.send(request)


def test_requests_are_answered_one_by_one_and_many_at_a_time() -> None:
    messages = [b"%d" % i * (i % 40) * 100 for i in range(300)]
    with pair(echo) as caller:
        for message in messages[:50]:
            caller.send(message)
            assert caller.take(1) == [message]
        caller.send(*messages[50:])
        assert caller.take(250) == messages[50:]
        caller.leave()


def test_several_requests_may_be_taken_before_the_first_answer() -> None:
    """And no answer waits for a request that has not been made."""

    def serve(exchange: Exchange) -> None:
        while requests := list(islice(exchange, 3)):
            for request in requests:
                exchange.send(request)

    with pair(serve) as caller:
        for _ in range(20):
            caller.send(b"1", b"2", b"3")
            assert caller.take(3) == [b"1", b"2", b"3"]
        caller.leave()


def test_an_answer_may_come_from_another_thread_while_requests_go_on_being_taken() -> None:
    taken: SimpleQueue[bytes | None] = SimpleQueue()

    def serve(exchange: Exchange) -> None:
        def answer() -> None:
            while (request := taken.get()) is not None:
                exchange.send(request)

        thread = threading.Thread(target=answer)
        thread.start()
        for request in exchange:
            taken.put(request)
        taken.put(None)
        thread.join()

    with pair(serve) as caller:
        for count in (1, 1, 2, 1, 100, 1, 1):
            messages = [b"%d" % i for i in range(count)]
            caller.send(*messages)
            assert caller.take(count) == messages
        caller.leave()


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_the_end_of_the_call_ends_the_iteration(answered: int) -> None:
    """Whether something is owed, or all is answered and the next request awaited. And an answer that comes too late is
    lost without a word."""
    taken: SimpleQueue[bytes] = SimpleQueue()

    def serve(exchange: Exchange) -> None:
        for count, request in enumerate(exchange):
            if count < answered:
                exchange.send(request)
            taken.put(request)
        for _ in range(2 - answered):
            exchange.send(b"late")

    with pair(serve) as caller:
        caller.send(b"1", b"2")
        assert [taken.get(timeout=10), taken.get(timeout=10)] == [b"1", b"2"]
        assert caller.take(answered) == [b"1", b"2"][:answered]
        caller.leave()


def test_a_caller_that_says_nothing_is_waited_for_until_it_leaves() -> None:
    has_begun = threading.Event()

    def serve(exchange: Exchange) -> None:
        has_begun.set()
        echo(exchange)

    with pair(serve) as caller:
        assert has_begun.wait(10)
        caller.leave()


def test_the_end_of_the_server_ends_the_iteration_though_grpc_does_nothing_any_more() -> None:
    taken: SimpleQueue[bytes] = SimpleQueue()
    go_on = threading.Event()

    def serve(exchange: Exchange) -> None:
        for request in exchange:
            taken.put(request)
            go_on.wait(10)

    with pair(serve) as caller:
        caller.send(b"1")
        assert taken.get(timeout=10) == b"1"
        caller.server.stop(None).wait()
        go_on.set()
        caller.see_the_end()


@pytest.mark.parametrize("refuse", [lambda *_: 8, lambda *_: int("no valid call")])
def test_what_grpc_refuses_to_begin_ends_the_iteration(refuse: Callable[..., int]) -> None:
    """It tells by a code, or by a ValueError."""
    call = SimpleNamespace(start_server_batch=refuse)
    context: Any = SimpleNamespace(
        send_initial_metadata=lambda _: None,
        add_callback=lambda _: True,
        _rpc_event=SimpleNamespace(call=call),
    )
    ended: SimpleQueue[list[bytes]] = SimpleQueue()
    for answers in (0, 1):
        exchange = Exchange(context)
        for _ in range(answers):
            exchange.send(b"lost")
        threading.Thread(target=lambda requests: ended.put(list(requests)), args=(exchange,), daemon=True).start()
        assert ended.get(timeout=10) == []
