"""One bidirectional call, with all ways of transfer."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from raftkv import streams
from raftkv.streams import Stream
from tests.support.processes import ROOT, free_port

Ended = tuple[grpc.StatusCode, str]


def echo(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        if request == b"end":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish")
        yield request


def hold(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    """Answers one whose text begins with "first" only when the next one is there."""
    for request in requests:
        if request.startswith(b"first"):
            following = next(requests)
            yield request
            yield following
        else:
            yield request


@pytest.fixture(params=["_Direct", "_Paired", "_Promised"])
def transfer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "_Promised":
        monkeypatch.setattr(streams, "cygrpc", None)
    return str(request.param)


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    handlers: Any = {
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Hold": grpc.stream_stream_rpc_method_handler(hold),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


class Opened:
    """A stream, and what comes out of it."""

    def __init__(self, channel: grpc.Channel, transfer: str, method: str = "/Test/Echo") -> None:
        self.received: SimpleQueue[bytes] = SimpleQueue()
        self.ended: SimpleQueue[Ended] = SimpleQueue()
        self.stream = Stream(
            channel,
            method,
            self.received.put,
            lambda code, text: self.ended.put((code, text)),
            is_paired=transfer == "_Paired",
        )

    def ask(self, *messages: bytes) -> list[bytes]:
        """Send them one after the other: what comes back."""
        for message in messages:
            self.stream.send(message)
        return [self.received.get(timeout=10) for _ in messages]

    def end(self) -> Ended:
        ended = self.ended.get(timeout=10)
        assert self.ended.empty()
        return ended


def test_the_way_of_transfer_is_the_one_meant(channel: grpc.Channel, transfer: str) -> None:
    opened = Opened(channel, transfer)
    assert type(opened.stream._transfer).__name__ == transfer
    opened.stream.cancel()
    opened.end()


def test_messages_go_and_come_in_order(channel: grpc.Channel, transfer: str) -> None:
    opened = Opened(channel, transfer)
    messages = [str(i).encode() * (i % 50) * 20 for i in range(500)]
    for message in messages:
        opened.stream.send(message)
    assert [opened.received.get(timeout=10) for _ in messages] == messages
    opened.stream.cancel()
    opened.end()


def test_each_thread_s_messages_stay_in_order(channel: grpc.Channel, transfer: str) -> None:
    opened = Opened(channel, transfer)

    def send(name: bytes) -> None:
        for i in range(100):
            opened.stream.send(name + b"%d" % i)

    threads = [threading.Thread(target=send, args=(name,)) for name in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    arrived = [opened.received.get(timeout=10) for _ in range(300)]
    for name in (b"a", b"b", b"c"):
        assert [m for m in arrived if m.startswith(name)] == [name + b"%d" % i for i in range(100)]
    opened.stream.cancel()
    opened.end()


def test_the_status_that_the_server_gives_is_told_and_later_messages_are_lost(
    channel: grpc.Channel, transfer: str
) -> None:
    opened = Opened(channel, transfer)
    opened.stream.send(b"end")
    assert opened.end() == (grpc.StatusCode.FAILED_PRECONDITION, "as you wish")
    opened.stream.send(b"late")
    opened.stream.send(b"later")
    opened.stream.cancel()


def test_a_cancelled_call_ends_once(channel: grpc.Channel, transfer: str) -> None:
    opened = Opened(channel, transfer)
    opened.stream.send(b"1")
    assert opened.received.get(timeout=10) == b"1"
    opened.stream.cancel()
    opened.stream.cancel()
    assert opened.end()[0] is grpc.StatusCode.CANCELLED
    opened.stream.send(b"late")


def test_a_server_that_is_not_there_ends_the_call(transfer: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{free_port()}") as channel:
        opened = Opened(channel, transfer)
        opened.stream.send(b"1")
        assert opened.end()[0] is grpc.StatusCode.UNAVAILABLE


def test_a_closed_channel_ends_the_call_and_takes_no_other(address: str, transfer: str) -> None:
    channel = grpc.insecure_channel(address)
    opened = Opened(channel, transfer)
    opened.stream.send(b"1")
    assert opened.received.get(timeout=10) == b"1"
    channel.close()
    assert opened.end()[0] is grpc.StatusCode.CANCELLED
    opened.stream.send(b"late")
    opened.stream.cancel()
    with pytest.raises(ValueError, match="closed"):
        Opened(channel, transfer)


# ---- paired messages -------------------------------------------------------------------------------------------------


class Clock:
    """In the place of the module `time`, in streams.py: an answer has taken as long as a test says."""

    def __init__(self) -> None:
        self.now = 1.0
        self.steps: list[float] = []
        """By how much it goes on after each time that it is asked; then it stands still."""

    def monotonic(self) -> float:
        now = self.now
        self.now += self.steps.pop(0) if self.steps else 0.0
        return now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(streams, "time", clock)
    return clock


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many parts each of gRPC's operations was that has begun."""
    begun: list[int] = []
    begin = streams._Direct._begin

    def note(self: Any, parts: tuple[Any, ...], done: Any) -> None:
        begun.append(len(parts))
        begin(self, parts, done)

    monkeypatch.setattr(streams._Direct, "_begin", note)
    return begun


def test_a_quick_peer_is_sent_a_message_together_with_receiving_its_answer(
    channel: grpc.Channel, clock: Clock, operations: list[int]
) -> None:
    opened = Opened(channel, "_Paired")
    for message in (b"1", b"2", b"3"):
        assert opened.ask(message) == [message]
    assert operations == [1, 1, 2, 2]  # that it is quick only the first answer tells
    opened.stream.cancel()
    opened.end()


def test_at_first_a_message_does_not_wait_for_the_answer_to_the_one_before(channel: grpc.Channel, clock: Clock) -> None:
    opened = Opened(channel, "_Paired", "/Test/Hold")
    assert opened.ask(b"first", b"second") == [b"first", b"second"]
    opened.stream.cancel()
    opened.end()


def test_a_message_does_not_wait_behind_one_whose_answer_may_take_long(channel: grpc.Channel, clock: Clock) -> None:
    opened = Opened(channel, "_Paired", "/Test/Hold")
    assert opened.ask(b"quick") == [b"quick"]
    clock.steps = [0.1]  # between the message and its answer
    assert opened.ask(b"slow") == [b"slow"]
    assert opened.ask(b"first", b"second") == [b"first", b"second"]
    opened.stream.cancel()
    opened.end()


def test_nothing_waits_behind_a_large_message(channel: grpc.Channel, clock: Clock) -> None:
    opened = Opened(channel, "_Paired", "/Test/Hold")
    assert opened.ask(b"quick") == [b"quick"]
    large = b"first" + bytes(40_000)
    assert opened.ask(large, b"second") == [large, b"second"]
    opened.stream.cancel()
    opened.end()


@pytest.mark.parametrize("module", ["raftkv", "raftkv.client", "raft_node", "client", "benchmarks.library_load"])
def test_grpc_is_told_how_to_wait_before_it_is_imported(module: str) -> None:
    """Later it would not listen any more."""
    program = f"""
        import os, sys
        class Watch:
            def find_spec(self, name, path=None, target=None):
                if name == "grpc":
                    print(os.environ.get("GRPC_EXPERIMENTS"))
        sys.meta_path.insert(0, Watch())
        import {module}
        import grpc
    """
    environment = {name: text for name, text in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "-event_engine_client,-event_engine_listener\n"
