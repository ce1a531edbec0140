"""The clusters that are measured, all on 127.0.0.1 with their data on one disk: start, look, kill -9, start again.

Each has its defaults: our nodes run with the default configuration (fsync before each answer), etcd with its own.
PySyncObj keeps nothing on a disk unless it is given a journal, and never syncs that; it is measured both ways.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from benchmarks import etcd, ours
from tests.support.processes import ROOT, Cluster, free_addresses, free_port, wait_until

START_S: Final = 30.0


def spawn(command: list[str], log: Path, interactive: bool = False) -> subprocess.Popen[str]:
    """Start a process that dies with this one, its words going into a file. Interactive: stdin and stdout are pipes."""
    dies_with_us = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    with log.open("ab") as file:
        return subprocess.Popen(
            [*dies_with_us, *command],
            cwd=ROOT,
            stdin=subprocess.PIPE if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE if interactive else file,
            stderr=file,
            text=True,
        )


@dataclass(frozen=True, slots=True)
class Counters:
    """What the leader has counted; None: it does not tell."""

    entries: int | None = None
    syncs: int | None = None


class System(ABC):
    """A cluster of one of the systems. A context manager that starts it, and in the end kills what it has started."""

    def __init__(self, directory: Path, members: int) -> None:
        self.directory = directory
        self.members = members
        directory.mkdir(parents=True)

    def __enter__(self) -> System:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @abstractmethod
    def start(self) -> None:
        """Start all members that do not run; returns when a leader serves."""

    @abstractmethod
    def kill(self) -> None:
        """kill -9 for all members; returns when they are gone."""

    @abstractmethod
    def addresses(self) -> list[str]:
        """For clients; the leader's first."""

    @abstractmethod
    def pids(self) -> dict[str, int]:
        """Of the members, by their parts: "leader", "follower 1", ..."""

    def counters(self) -> Counters:
        return Counters()


def _by_part(leader: int, pids: dict[int, int]) -> dict[str, int]:
    others = (pid for member, pid in pids.items() if member != leader)
    return {"leader": pids[leader], **{f"follower {i}": pid for i, pid in enumerate(others, start=1)}}


class Ours(System):
    def __init__(self, directory: Path, members: int, settings: dict[str, object] | None = None) -> None:
        super().__init__(directory, members)
        self.cluster = Cluster(directory, members, settings)

    def start(self) -> None:
        try:
            self.cluster.start()
            self.cluster.leader()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.cluster.last_words(10)}") from None

    def kill(self) -> None:
        self.cluster.kill()

    def __exit__(self, *error: object) -> None:
        self.cluster.__exit__()
        super().__exit__(*error)

    def addresses(self) -> list[str]:
        leader = self.cluster.leader()
        return [leader.address, *(node.address for node in self.cluster.nodes if node is not leader)]

    def pids(self) -> dict[str, int]:
        return _by_part(self.cluster.leader().id, {node.id: node.pid for node in self.cluster.nodes})

    def counters(self) -> Counters:
        status = self.cluster.leader().status(timeout=5.0)
        return Counters(status.last_log_index, ours.syncs_of(status)) if status else Counters()


class Etcd(System):
    def __init__(self, directory: Path, members: int) -> None:
        super().__init__(directory, members)
        self._clients = free_addresses(members)
        self._peers = free_addresses(members)
        self._processes: dict[int, subprocess.Popen[str]] = {}

    def start(self) -> None:
        for i in range(self.members):
            if i not in self._processes:
                self._processes[i] = spawn(self._command(i), self.directory / f"etcd-{i}.log")
        wait_until(self._leader, "etcd has a leader", START_S)

    def _command(self, i: int) -> list[str]:
        client, peer = f"http://{self._clients[i]}", f"http://{self._peers[i]}"
        options = {
            "name": f"member{i}",
            "data-dir": str(self.directory / f"member-{i}"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": ",".join(f"member{k}=http://{address}" for k, address in enumerate(self._peers)),
            "initial-cluster-state": "new",
        }
        return ["etcd", *(f"--{name}={text}" for name, text in options.items())]

    def _leader(self) -> tuple[int] | None:
        """The number of the member that leads, if all know it."""
        said = [etcd.status_of(address) for address in self._clients]
        if None in said:
            return None
        leaders = {member["leader"] for member in said if member}
        numbers = [i for i, member in enumerate(said) if member and member["member"] in leaders]
        return (numbers[0],) if len(leaders) == 1 and len(numbers) == 1 else None

    def leader(self) -> int:
        return wait_until(self._leader, "etcd has a leader", START_S)[0]

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def addresses(self) -> list[str]:
        return [self._clients[self.leader()]]

    def pids(self) -> dict[str, int]:
        return _by_part(self.leader(), {i: process.pid for i, process in self._processes.items()})

    def counters(self) -> Counters:
        address = self.addresses()[0]
        status = etcd.status_of(address)
        return Counters(status["index"] if status else None, etcd.syncs_of(address))


class PySyncObj(System):
    def __init__(self, directory: Path, members: int, journal: bool) -> None:
        super().__init__(directory, members)
        self._journal = journal
        self._addresses = free_addresses(members)
        self._processes: dict[int, subprocess.Popen[str]] = {}

    def start(self) -> None:
        for i in range(self.members):
            if i not in self._processes:
                self._processes[i] = spawn(self._command(i), self.directory / f"member-{i}.log", interactive=True)
        for process in self._processes.values():
            _await_ready(process, "a member of PySyncObj")

    def _command(self, i: int) -> list[str]:
        own = self._addresses[i]
        words = [sys.executable, "-m", "benchmarks.pysyncobj_member", own]
        words += [address for address in self._addresses if address != own]
        return words + (["--journal", str(self.directory / f"journal-{i}")] if self._journal else [])

    def ask(self, i: int, line: str) -> str:
        """A member's answer to a line."""
        stdin = _pipe(self._processes[i].stdin)
        stdin.write(line + "\n")
        stdin.flush()
        return _pipe(self._processes[i].stdout).readline()

    def leader(self) -> int:
        def find() -> tuple[int] | None:
            leaders = [i for i in self._processes if json.loads(self.ask(i, "leader"))]
            return (leaders[0],) if leaders else None

        return wait_until(find, "PySyncObj has a leader", START_S)[0]

    def leader_process(self) -> subprocess.Popen[str]:
        return self._processes[self.leader()]

    def keys(self) -> int:
        """How many the leader has."""
        return int(json.loads(self.ask(self.leader(), "count")))

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    _pipe(pipe).close()
        self._processes.clear()

    def addresses(self) -> list[str]:
        return self._addresses

    def pids(self) -> dict[str, int]:
        return _by_part(self.leader(), {i: process.pid for i, process in self._processes.items()})


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _await_ready(process: subprocess.Popen[str], who: str) -> None:
    """Wait for the process to say so; AssertionError if it ends instead, or takes too long (it is killed then)."""
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    line = _pipe(process.stdout).readline()
    watchdog.cancel()
    assert line == "ready\n", f"{who} was not ready within {START_S:g} s of its start"


class Echo(System):
    """The bare gRPC server: one process, no cluster."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, 1)
        self._address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "benchmarks.echo", self._address]
        self._process = spawn(command, self.directory / "echo.log", interactive=True)
        _await_ready(self._process, "the echo server")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                _pipe(pipe).close()
            self._process = None

    def addresses(self) -> list[str]:
        return [self._address]

    def pids(self) -> dict[str, int]:
        assert self._process is not None
        return {"leader": self._process.pid}


NAMES: Final[dict[str, Callable[[Path, int], System]]] = {
    "ours": Ours,
    "ours, leases off": lambda directory, members: Ours(directory, members, {"LEASES": "off"}),
    "etcd": Etcd,
    "pysyncobj": lambda directory, members: PySyncObj(directory, members, journal=False),
    "pysyncobj-journal": lambda directory, members: PySyncObj(directory, members, journal=True),
    "grpcio": lambda directory, _: Echo(directory),
}
"""How each is made."""


@contextmanager
def started(name: str, members: int, directory: Path) -> Iterator[System]:
    with NAMES[name](directory / f"{name.replace(', ', '-').replace(' ', '-')}-{members}", members) as system:
        yield system
