"""That the networks do to connections what faults ask of them: a partition that parts nothing would prove nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.nemesis import sandbox
from tests.nemesis.network import CUT, WHOLE, Link, Network
from tests.nemesis.proxy import ProxiedNetwork
from tests.nemesis.switch import SwitchedNetwork
from tests.support.processes import ROOT

_ECHO = """
import socket, sys
host, _, port = sys.argv[1].rpartition(":")
with socket.create_server((host, int(port))) as server:
    print("ready", flush=True)
    while True:
        connection = server.accept()[0]
        while True:
            try:
                data = connection.recv(100)
                if not data:
                    break
                connection.sendall(data)
            except OSError:
                break
"""

_TALK = """
import socket, sys
host, _, port = sys.argv[1].rpartition(":")
connection = socket.create_connection((host, int(port)))
print("ready", flush=True)
for line in sys.stdin:
    try:
        connection.sendall(line.encode())
        print(connection.recv(100).decode() or "closed", end="", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


class Conversation:
    """A process at node 1 that talks with one at node 2, over one connection."""

    def __init__(self, inside: Callable[[int], list[str]], listens_on: str, connects_to: str) -> None:
        self._processes = [self._start([*inside(2), sys.executable, "-c", _ECHO, listens_on])]
        self._processes.append(self._start([*inside(1), sys.executable, "-c", _TALK, connects_to]))

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def say(self, word: str) -> threading.Thread:
        """Send a word; the thread ends when there is an answer, which is then in `heard`."""
        talker = self._processes[1]
        assert talker.stdin is not None
        talker.stdin.write(word + "\n")
        thread = threading.Thread(target=self._hear)
        thread.start()
        return thread

    def _hear(self) -> None:
        output = self._processes[1].stdout
        assert output is not None
        self.heard = output.readline().strip()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def seconds_until(thread: threading.Thread) -> float:
    began = time.monotonic()
    thread.join(20)
    assert not thread.is_alive(), "no answer"
    return time.monotonic() - began


def check_network(network: Network, conversation: Conversation) -> None:
    assert seconds_until(conversation.say("hello")) < 1
    assert conversation.heard == "hello"
    silent = [([(1, 2)], CUT), ([(2, 1)], CUT), ([(1, 2), (2, 1)], CUT)]
    if network.loses_packets:
        silent.append(([(1, 2)], Link(loss=1.0)))
    for pairs, link in silent:
        network.change(pairs, link)
        answer = conversation.say("is anybody there")
        answer.join(0.5)
        assert answer.is_alive(), f"{pairs} was {link}, and yet there was an answer"
        network.change(pairs, WHOLE)
        seconds_until(answer)
        assert conversation.heard == "is anybody there"
    network.change([(1, 2), (2, 1)], Link(delay=0.2))
    assert seconds_until(conversation.say("slowly")) > 0.3  # 0.4, less what goes by before the clock is looked at
    network.change([(1, 2), (2, 1)], WHOLE)
    network.change([(3, 1), (1, 3), (2, 3)], CUT)
    assert seconds_until(conversation.say("the others are cut off")) < 1
    network.reset([(2, 1)])
    seconds_until(conversation.say("goodbye"))
    assert conversation.heard in ("ConnectionResetError", "closed")


def test_proxies_cut_delay_and_reset_what_passes_through_them() -> None:
    with ExitStack() as stack:
        network = ProxiedNetwork(3)
        stack.callback(network.close)
        proxy = network.proxies_of(1)[network.addresses[1]]
        conversation = Conversation(lambda _: [], network.addresses[1], proxy)
        stack.callback(conversation.close)
        check_network(network, conversation)


@pytest.mark.skipif(bool(sandbox.why_not()), reason=f"no namespaces: {sandbox.why_not()}")
def test_the_switch_cuts_delays_and_resets_what_passes_through_it() -> None:
    """Outside of a sandbox this test runs itself inside of one."""
    if not sandbox.is_inside():
        test = f"{__file__}::{test_the_switch_cuts_delays_and_resets_what_passes_through_it.__name__}"
        done = subprocess.run(
            sandbox.command([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]),
            env={**os.environ, **sandbox.ENVIRONMENT},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return
    sandbox.furnish()
    with ExitStack() as stack:
        network = SwitchedNetwork(3)
        stack.callback(network.close)
        conversation = Conversation(network.inside, network.addresses[1], network.addresses[1])
        stack.callback(conversation.close)
        check_network(network, conversation)
