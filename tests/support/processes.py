"""Clusters of real processes for tests: theory of operation.

A `Cluster` is a directory with, for each `Node`, its data, its two output files and the settings that all nodes share;
a `Node` is `python raft_node.py ...` in a process of its own, which a test may kill, pause, resume, stop and start
again. Nothing here sleeps for luck: `wait_until` polls for what is waited for, and a wait that is in vain fails with
the last words of every node.

Leaving the cluster's `with` block kills everything that was started. Should the tests themselves be killed, the kernel
kills the nodes (PR_SET_PDEATHSIG, through util-linux's setpriv, where that is installed).

Ports lie below the range from which the kernel takes those of outgoing connections, so nobody gets one by chance, and
each is held by a lock on a file while this process lives, so two test runs on one machine don't meet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Final, TypeVar

import grpc

from raftkv import Client
from raftkv.wire import raft_pb2 as wire

ROOT: Final = Path(__file__).resolve().parents[2]
START_SECONDS: Final = 30.0
"""How long a node may take to be ready, and a cluster to have a leader, on a busy machine."""

Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found | None], what: str, seconds: float = 10.0) -> Found:
    """The first truthy answer of `condition`, asked again and again; AssertionError if there is none in `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)
    return found


# ---- ports -----------------------------------------------------------------------------------------------------------

_FIRST_PORT: Final = 15000
_END_PORT: Final = 32000
_held_ports: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that no other test run will take while this process lives."""
    while True:
        port = random.randrange(_FIRST_PORT, _END_PORT)
        if port not in _held_ports and _take_port(port):
            _held_ports.add(port)
            return port


def _take_port(port: int) -> bool:
    locks = _port_locks()
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        fcntl.lockf(locks, fcntl.LOCK_UN, 1, port)
        return False
    return True


@cache
def _port_locks() -> IO[bytes]:
    """A file of which each process locks a byte for each of its ports: one descriptor, where a file for each port would
    take a thousand of them. Such locks end with the process, or when it closes the file; so it never does."""
    return (Path(tempfile.gettempdir()) / f"raftkv-test-ports-{os.getuid()}.locks").open("wb")


def free_addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{free_port()}" for _ in range(count)]


# ---- one node --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finished:
    """What a process that has ended leaves behind."""

    status: int
    stdout: str
    stderr: str


class Node:
    """One member: its directory, and the process while it runs."""

    def __init__(self, cluster: Cluster, node_id: int, address: str) -> None:
        self.id = node_id
        self.address = address
        self.joins = False
        """It is no founding member, or is to ask the others where it belongs."""
        self.data_dir = cluster.directory / f"node-{node_id}"
        self._stdout = cluster.directory / f"node-{node_id}.out"
        self._stderr = cluster.directory / f"node-{node_id}.log"
        self._began = (0, 0)
        """Where the output of the present process begins in the two files."""
        self._cluster = cluster
        self.process: subprocess.Popen[bytes] | None = None
        self.is_paused = False

    def __str__(self) -> str:
        return f"node {self.id}"

    # ---- starting and stopping ---------------------------------------------------------------------------------------

    def start(self, *options: str, open_files: int = 0, wait: bool = True) -> None:
        """Start the process, and wait until it is ready. `options` are more words of the command line; `open_files`
        is its limit on file descriptors (0: as it is here)."""
        assert not self.is_running, f"{self} runs already"
        self._began = size_of(self._stdout), size_of(self._stderr)
        with self._stdout.open("ab") as out, self._stderr.open("ab") as log:
            self.process = subprocess.Popen(
                [*_dies_with_us(), *self._cluster.launcher(self), *self.command(*options)],
                cwd=self._cluster.directory,
                env=self._cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )
        if open_files:
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (open_files, open_files))
        self.is_paused = False
        if wait:
            self.wait_ready()

    def command(self, *options: str) -> list[str]:
        """The words that start this node: default data directory, the cluster's settings."""
        cluster = self._cluster
        members = ["--join", *self._others()] if self.joins else cluster.founders
        words = [sys.executable, *cluster.program, str(self.id), *members]
        return [*words, "--data-dir", str(self.data_dir), "--config", str(cluster.config), *options]

    def _others(self) -> list[str]:
        others = [node for node in self._cluster.nodes if node is not self]
        return [node.address for node in [n for n in others if n.is_running] or others]

    def wait_ready(self) -> None:
        """Return once the node has said that it serves."""

        def ready() -> bool:
            assert self.is_running, f"{self} has ended with status {self.exit_status}: {self.log.strip()}"
            return f"node {self.id} ready on {self.address}\n" in self.output

        wait_until(ready, f"{self} is ready", START_SECONDS)

    def kill(self) -> None:
        """kill -9; returns when the process is gone. Nothing to do if it is gone already."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.is_paused = False

    def pause(self) -> None:
        """SIGSTOP; returns when it stands still."""
        self._signal(signal.SIGSTOP)
        wait_until(lambda: self._state() == "T", f"{self} stands still")
        self.is_paused = True

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self.is_paused = False

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the node to stop; returns at once."""
        self._signal(number)

    def wait(self, seconds: float = 10.0) -> Finished:
        """Wait for the process to end by itself; what it leaves."""
        assert self.process is not None
        wait_until(lambda: not self.is_running, f"{self} ends", seconds)
        return Finished(self.process.returncode, self.output, self.log)

    def stop(self) -> Finished:
        """SIGTERM, and wait for the end."""
        self.terminate()
        return self.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        assert self.is_running, f"{self} does not run: {self.log.strip()}"
        self.process.send_signal(number)

    def _state(self) -> str:
        """One letter, as ps shows it."""
        shown = subprocess.run(["ps", "-o", "state=", "-p", str(self.pid)], capture_output=True, text=True, check=False)
        return shown.stdout.strip()[:1]

    # ---- looking -----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def exit_status(self) -> int | None:
        return None if self.process is None else self.process.poll()

    @property
    def output(self) -> str:
        """What the present process has written to stdout."""
        return _text_from(self._stdout, self._began[0])

    @property
    def log(self) -> str:
        """What the present process has written to stderr."""
        return _text_from(self._stderr, self._began[1])

    @property
    def whole_log(self) -> str:
        """What all its processes have written to stderr."""
        return _text_from(self._stderr, 0)

    def status(self, timeout: float = 1.0) -> wire.StatusReply | None:
        """What the node says of itself; None if it does not answer within `timeout` seconds."""
        try:
            return self._cluster.caller(self.address).status(timeout)
        except grpc.RpcError:
            return None


def size_of(path: Path) -> int:
    """In bytes; 0 if there is no such file, or no longer: a node may remove it at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _text_from(path: Path, offset: int) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")


def _dies_with_us() -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []


# ---- a client that knows nothing but the contract --------------------------------------------------------------------


class PlainCaller:
    """Calls one node, and that one only, in the text form. It never follows a leader and never repeats a call."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 1000),
                ("grpc.max_receive_message_length", -1),
            ],
        )
        self.serve: grpc.UnaryUnaryMultiCallable[wire.ServeClientRequest, wire.ServeClientReply] = (
            self.channel.unary_unary(
                "/RaftNode/ServeClient",
                request_serializer=wire.ServeClientRequest.SerializeToString,
                response_deserializer=wire.ServeClientReply.FromString,
            )
        )
        self._status: grpc.UnaryUnaryMultiCallable[wire.StatusRequest, wire.StatusReply] = self.channel.unary_unary(
            "/RaftNode/Status",
            request_serializer=wire.StatusRequest.SerializeToString,
            response_deserializer=wire.StatusReply.FromString,
        )

        self._transfer: grpc.UnaryUnaryMultiCallable[wire.TransferLeadershipRequest, wire.TransferLeadershipReply] = (
            self.channel.unary_unary(
                "/RaftNode/TransferLeadership",
                request_serializer=wire.TransferLeadershipRequest.SerializeToString,
                response_deserializer=wire.TransferLeadershipReply.FromString,
            )
        )

    def ask(self, request: str, timeout: float = 5.0) -> wire.ServeClientReply:
        """The answer to `SET key value`, `GET key`, ... Raises grpc.RpcError."""
        return self.serve(wire.ServeClientRequest(request=request), timeout=timeout)

    def begin(self, request: str, timeout: float = 5.0) -> grpc.Future[wire.ServeClientReply]:
        """The same without waiting."""
        return self.serve.future(wire.ServeClientRequest(request=request), timeout=timeout)

    def status(self, timeout: float = 1.0) -> wire.StatusReply:
        """Raises grpc.RpcError."""
        return self._status(wire.StatusRequest(), timeout=timeout)

    def begin_transfer(self, target: int = 0, timeout: float = 5.0) -> grpc.Future[wire.TransferLeadershipReply]:
        """Have the node hand over, without waiting; 0: to anybody."""
        return self._transfer.future(wire.TransferLeadershipRequest(target=target), timeout=timeout)

    def begin_status(self, timeout: float = 1.0) -> grpc.Future[wire.StatusReply]:
        """The same without waiting."""
        return self._status.future(wire.StatusRequest(), timeout=timeout)


# ---- a cluster -------------------------------------------------------------------------------------------------------


def _as_is(_: Node) -> Sequence[str]:
    return ()


class Cluster:
    """Nodes with a common list of addresses. A context manager: its end is theirs."""

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        settings: Mapping[str, object] | None = None,
        addresses: Sequence[str] = (),
    ) -> None:
        """Nothing runs yet. `settings` are keys and values of config.ini; the others have their defaults."""
        self.directory = directory
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.program = [str(ROOT / "raft_node.py")]
        self.launcher: Callable[[Node], Sequence[str]] = _as_is
        """Words to put before a node's command."""
        self.config = directory / "config.ini"
        directory.mkdir(parents=True, exist_ok=True)
        self.configure(settings or {})
        self.nodes = [Node(self, i, address) for i, address in enumerate(addresses or free_addresses(size), start=1)]
        self.founders = [node.address for node in self.nodes]
        """What the founding members are started with."""
        self._callers: dict[str, PlainCaller] = {}

    def join(self, client: Client) -> Node:
        """Have a new member added, started, and become a voter."""
        node = Node(self, len(self.nodes) + 1, *free_addresses(1))
        node.joins = True
        self.nodes.append(node)
        client.add_member(node.id, node.address)
        node.start()
        self.wait_voter(client, node)
        return node

    def wait_voter(self, client: Client, node: Node, seconds: float = 30.0) -> None:
        """Wait until the node has its vote."""
        wait_until(
            lambda: any(m.id == node.id and not m.is_learner for m in client.members()), f"{node} is a voter", seconds
        )

    def configure(self, settings: Mapping[str, object]) -> None:
        """Settings for the nodes that start from now on."""
        self.config.write_text("[DEFAULT]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        for caller in self._callers.values():
            caller.channel.close()

    def __getitem__(self, node_id: int) -> Node:
        return self.nodes[node_id - 1]

    # ---- all at once -------------------------------------------------------------------------------------------------

    def start(self, nodes: Iterable[Node] = ()) -> None:
        """Start these nodes, by default all that do not run, and wait until each is ready."""
        chosen = list(nodes) or [node for node in self.nodes if not node.is_running]
        for node in chosen:
            node.start(wait=False)
        for node in chosen:
            node.wait_ready()

    def stop(self, nodes: Iterable[Node] = ()) -> list[Finished]:
        """SIGTERM for these nodes, by default all that run, at once, and wait for the end of each."""
        chosen = list(nodes) or [node for node in self.nodes if node.is_running]
        for node in chosen:
            node.terminate()
        return [node.wait() for node in chosen]

    def kill(self, nodes: Iterable[Node] = ()) -> None:
        """kill -9 for these nodes, by default all, at once."""
        chosen = [node for node in list(nodes) or self.nodes if node.is_running]
        for node in chosen:
            os.kill(node.pid, signal.SIGKILL)
        for node in chosen:
            node.kill()

    # ---- talking to it -----------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def caller(self, address: str) -> PlainCaller:
        """A client bound to one node; one for each address."""
        if address not in self._callers:
            self._callers[address] = PlainCaller(address)
        return self._callers[address]

    def client(self, timeout: float = 10.0) -> Client:
        """The client library. The caller closes it."""
        return Client(self.addresses, timeout=timeout)

    def find_leader(self) -> Node | None:
        """The node that serves as the leader now, of the newest term if two say so; None if nobody does."""
        awake = [node for node in self.nodes if node.is_running and not node.is_paused]
        calls = [self.caller(node.address).begin_status(timeout=0.5) for node in awake]
        replies = [call.result() for call in calls if call.exception() is None]
        leaders = [(reply.term, reply.id) for reply in replies if reply.role == "leader" and reply.serving]
        return self[max(leaders)[1]] if leaders else None

    def leader(self, seconds: float = START_SECONDS) -> Node:
        """Wait for a leader that serves."""
        return wait_until(self.find_leader, "a leader serves", seconds)

    def followers(self) -> list[Node]:
        """All but the present leader."""
        leader = self.leader()
        return [node for node in self.nodes if node is not leader]

    def wait_caught_up(self, seconds: float = 20.0) -> int:
        """Wait until every node has applied all that is in the leader's log; that index."""

        def index_of_all() -> int | None:
            replies = [node.status() for node in self.nodes]
            indexes = {(r.last_log_index, r.commit_index, r.applied_index) if r else (0, -1, -1) for r in replies}
            last, *others = next(iter(indexes))
            return last if len(indexes) == 1 and others == [last, last] else None

        return wait_until(index_of_all, "all nodes have applied the same log", seconds)

    def last_words(self, lines: int = 40) -> str:
        """The ends of all logs, for a person who wonders why a test failed."""
        return "\n".join(f"--- {node}\n{_last_lines(node.whole_log, lines)}" for node in self.nodes)


def _last_lines(text: str, count: int) -> str:
    return "\n".join(text.splitlines()[-count:])


def unexpected_in(log: str) -> str:
    """The first sign of a bug in a node's log; empty if there is none."""
    for sign in ("Traceback", "AssertionError", "InvariantBroken", "Exception in thread"):
        if sign in log:
            return sign
    return ""


def run(
    command: Sequence[str],
    directory: Path,
    seconds: float = 20.0,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run a program to its end, `stdin` being its input, in the environment `env` (None: ours). One that does not end
    is killed, and AssertionError raised."""
    done = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            command,
            cwd=directory,
            env=env,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    assert done is not None, f"{command} goes on after {seconds:g} s"
    return Finished(done.returncode, done.stdout, done.stderr)
