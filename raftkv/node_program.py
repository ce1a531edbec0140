"""The program `raft_node.py`, which runs one node as a process: theory of operation.

`main` reads the arguments, recovers what the directory holds, starts a `RaftNode` (node.py), and waits for SIGTERM or
SIGINT. A start may be cut off anywhere, as by a crash. A stop first has leadership handed over. Whatever else ends a
node ends the process, at once and with one line: a start that can't succeed says why, and an exception in any thread
goes to `_Executioner`, since nobody can tell what a node that goes on without it would be lying about.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from raftkv import __version__
from raftkv.config import ConfigError, load_config, parse_members
from raftkv.disk import OS_DISK
from raftkv.joining import CannotJoin, Place, find_place
from raftkv.log_storage import StorageError
from raftkv.node import RaftNode, recover
from raftkv.raft.log import InvariantBroken
from raftkv.server import CannotListen, Server
from raftkv.settings import server_limits
from raftkv.storage import Storage, read_identity

log = logging.getLogger("raftkv")

FAREWELL: Final = 0.5
"""Seconds for which a node that has handed over tells its clients who leads now, before it stops."""
_SPARE_DESCRIPTORS: Final = 8
"""For files, when connections have used up all others. Writing down a vote takes two."""


def main(argv: Sequence[str] | None = None) -> int:
    """The program, installed also as `raftkv-node`. The exit status: 0 stopped by a signal, 1 cannot run, 2
    wrong arguments."""
    try:
        arguments = _parse_arguments(argv)
        config = load_config(arguments.config)
        members = _members_given(arguments)
    except ConfigError as error:
        return _complain(error, 2)
    name = f"node {arguments.id}"
    signals = _StopSignals()
    fail = _Executioner(name)
    threading.excepthook = lambda args: fail(args.exc_value or SystemExit(f"{args.thread} died"))
    try:
        _raise_file_limit()
        OS_DISK.hold_back(_SPARE_DESCRIPTORS)
        directory = arguments.data_dir or Path("data", f"node-{arguments.id}")
        place = _place(arguments, members, directory)
        server = Server(server_limits(config), len(members or ()) - 1, fail)
        server.listen(place.address)
        storage = Storage(
            directory,
            member_id=arguments.id,
            members=members,
            segment_bytes=config.segment_bytes,
            cluster_id=place.cluster_id,
            address=place.address if members is None else "",
            joined=place.joined,
        )
        machine = recover(storage, _Progress(name))
        node = RaftNode(config, storage, machine, server, fail, is_placed=place.is_said)
    except (CannotJoin, CannotListen, StorageError) as error:
        return _complain(error, 1)
    except Exception as error:
        fail(error)
    signals.from_now_on_remember()
    _calm_the_collector()
    _start_logging(name, arguments.log_level)
    for note in storage.notes:
        log.warning(note)
    node.start()
    with suppress(OSError):  # nobody may be reading
        # In one piece: the log may go to the same file, and other threads write to that already.
        print(f"{name} ready on {place.address}\n", end="", flush=True)
    signals.wait()
    if node.hand_over():
        time.sleep(FAREWELL)
    node.stop()
    log.info("stopped")
    return 0


def _members_given(arguments: argparse.Namespace) -> dict[int, str] | None:
    """The founding members; None for a node that joins a running cluster. Raises ConfigError."""
    if arguments.join:
        if arguments.addresses:
            raise ConfigError("give either the addresses of all founding members, or --join and those of some members")
        parse_members(arguments.join)
        return None
    if not arguments.addresses:
        raise ConfigError("the following arguments are required: address (--help tells more)")
    members = parse_members(arguments.addresses)
    if arguments.id not in members:
        ids = ", ".join(map(str, sorted(members)))
        raise ConfigError(f"node {arguments.id} is not one of the members that are given ({ids})")
    return members


def _place(arguments: argparse.Namespace, members: dict[int, str] | None, directory: Path) -> Place:
    """Where this node belongs. The address of a founding member may have been changed since. Raises CannotJoin."""
    known = read_identity(directory)
    if known is not None and known.member_id != arguments.id:
        known = None  # the directory will be refused when it is opened
    if members is None:
        return find_place(arguments.id, known, parse_members(arguments.join).values())
    return Place(known.address if known and known.address else members[arguments.id])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the whole usage."""
        raise ConfigError(f"{message} (--help tells more)")


def _member_id(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _directory(text: str) -> Path:
    if not text:  # most likely a variable that is not set; Path would take it for the current directory
        raise argparse.ArgumentTypeError("the name of the directory is empty")
    return Path(text)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog=_program(), description="Runs one node of a cluster.")
    parser.add_argument("id", type=_member_id, help="which of the members this node is")
    parser.add_argument(
        "addresses",
        nargs="*",
        metavar="address",
        help="host:port of each founding member, the first being node 1; or id=address",
    )
    parser.add_argument(
        "--join",
        nargs="+",
        metavar="address",
        help="join the running cluster of the members at these addresses (host:port), which know this node (ADD)",
    )
    parser.add_argument("--config", type=Path, help="file with settings (default: config.ini, if there is one)")
    parser.add_argument("--data-dir", type=_directory, help="where this node keeps its data (default: data/node-<id>)")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_intermixed_args(argv)  # options may stand before the addresses too


def _complain(error: Exception, status: int) -> int:
    print(f"{_program()}: {error}", file=sys.stderr)
    return status


def _program() -> str:
    """By what name the person called it."""
    return "raftkv-node" if Path(sys.argv[0]).name == "raftkv-node" else "raft_node.py"


def _raise_file_limit() -> None:
    """Connections use up file descriptors, and the storage needs one for each vote: take as many as are to be had."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _calm_the_collector() -> None:
    """Full collections stop the node for as long as it takes to look at every object: 10 ms and more for what is there
    after the start, which never goes away. So they leave that out from here on, and come seldom; what a node makes
    while it works is gone when its last reference is."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _start_logging(name: str, level: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format=f"%(asctime)s {name} %(levelname)s %(message)s")
    # gRPC reports, with a traceback, error texts of its own that are not UTF-8 ("too many open files" has one).
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)


class _StopSignals:
    """SIGTERM and SIGINT. While the node starts they end the process at once: a start may be cut off anywhere, as by a
    crash. Later the main thread waits for them. The system may hand a signal to any thread, and Python's own handler
    runs only once the main thread wakes up, which may hang at a disk. So a thread waits for them at a pipe."""

    def __init__(self) -> None:
        self._starting = True
        self._told = threading.Event()
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # the byte in the pipe says it
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def _watch(self) -> None:
        os.read(self._reader, 1)
        if self._starting:
            os._exit(0)
        self._told.set()

    def from_now_on_remember(self) -> None:
        self._starting = False

    def wait(self) -> None:
        self._told.wait()


class _Progress:
    """Tells a person who waits for a long replay how far it is."""

    _INTERVAL = 2.0  # seconds

    def __init__(self, name: str) -> None:
        self._name = name
        self._next_line_at = time.monotonic() + self._INTERVAL

    def __call__(self, done: int, total: int) -> None:
        if done % 1024 == 0 and time.monotonic() >= self._next_line_at:
            self._next_line_at += self._INTERVAL
            print(f"{self._name} replays {total:,} entries: {100 * done // total}%", file=sys.stderr, flush=True)


class _Executioner:
    """Ends the process after an exception in any thread: one clear line on stderr, exit status 1."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()

    def __call__(self, error: BaseException) -> NoReturn:
        self._lock.acquire()  # for good: one line, from the first
        try:
            if not isinstance(error, StorageError):
                log.critical("this must never happen", exc_info=error)
            print(f"{self._name} stopped: {self._explain(error)}", file=sys.stderr, flush=True)
        finally:
            # Whatever happens above: a disk that is full takes no line either, if the log is on it.
            os._exit(1)

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, StorageError):
            return str(error)
        if isinstance(error, InvariantBroken):
            return f"an invariant of the algorithm is broken ({error}); keep the data directory and report this"
        return f"a bug, {type(error).__name__}: {error}; report this with the log"
