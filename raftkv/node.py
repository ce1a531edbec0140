"""A node: one member of the cluster as a process: theory of operation.

`RaftNode` puts threads, gRPC and a clock around a `Replica`, which does all the thinking. Its threads, and what each of
them is for:

    main             starts the node, waits for SIGTERM or SIGINT, stops it
    timer            takes the turn when time is due, or when another thread hands it over (turn.py)
    peer_*           answer AppendEntries and RequestVote: bring the message, wait for the reply  \\
    client_*         take in ServeClient: check the request, bring it, leave                         server.py
    stream_*         read the requests of a client's stream and bring them                          |
    aside_*          answer Status                                                                 /
    overdue          ends clients' calls that wait for too long (service.py)
    transfer_<peer>  sends a peer a snapshot, while there is need (snapshot_sender.py)
    install_*        take in a leader's snapshot, and make a state machine of it (snapshot_receiver.py)
    snapshot         writes snapshots, and removes files that no longer count (snapshot_thread.py)
    gRPC's own       one receives calls, and refuses those of clients when too many wait; one a peer brings the replies
                     to our requests, while there are any

None of them owns the replica: whoever brings an input takes the turn if it is free. Apart from the inbox, what threads
share is small: slots for one answer each, the counters of the bounds, a peer's back-off; each has its own lock or is a
single atomic operation. The membership is a frozen object, replaced as a whole in the turn.

An exception in any of these threads stops the node at once (`fail`, which in a process prints one line and exits): a
node that has lost a thread, or a write to its disk, can't know what it would be lying about.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

# gRPC's core writes lines of its own to stderr; what matters of them is said by this package.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from raftkv import __version__, clock
from raftkv.backup import Backups
from raftkv.config import ConfigError, NodeConfig, load_config, parse_members
from raftkv.disk import OS_DISK
from raftkv.joining import CannotJoin, Place, find_place
from raftkv.kv import StateMachine
from raftkv.log_storage import LogStorage, SnapshotReader, StorageError
from raftkv.operations import Operation, TermSettings, encode_settings
from raftkv.raft import core
from raftkv.raft.log import InvariantBroken
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
)
from raftkv.raft.types import Configuration, SnapshotMeta
from raftkv.replica import (
    ConfigurationChange,
    Input,
    NotLeader,
    NotTransferred,
    Query,
    Replica,
    Status,
    TransferOutcome,
    Transferred,
    TransferRequest,
    Unreachable,
    Write,
)
from raftkv.server import CannotListen, Server, ServerLimits
from raftkv.service import Counts, Service, ServiceLimits, Slot, members_to_wire
from raftkv.snapshot_receiver import SnapshotReceiver
from raftkv.snapshot_sender import SnapshotSenders
from raftkv.snapshot_thread import SnapshotThread
from raftkv.snapshot_transfer import Staging
from raftkv.snapshots import SnapshotPolicy, SnapshotWanted, load_snapshot
from raftkv.storage import Storage, read_identity
from raftkv.transport import SLOWEST_LINK, Membership, PeerSender, Request, SendingLimits, channel_options
from raftkv.turn import Turn

log = logging.getLogger("raftkv")

Fail = Callable[[BaseException], None]

STOP_GRACE: Final = 1.0
"""Seconds that calls in flight get to succeed when the node stops."""
FAREWELL: Final = 0.5
"""Seconds for which a node that has handed over tells its clients who leads now, before it stops."""
_LAST_WORD: Final = 1.0
"""Seconds for which the connection to a member's former address stays open."""
_SPARE_DESCRIPTORS: Final = 8
"""For files, when connections have used up all others. Writing down a vote takes two."""
_TRANSFER_PAUSE: Final = 0.05
"""Seconds before a transfer is tried again that has been refused."""
_CHUNK_TIMEOUTS: Final = 5
"""How many times longer than for other requests a follower may take for a chunk of a snapshot, which it may have to
sync: a transfer that is given up for less is soon begun again."""
_STRANGER_INTERVAL: Final = 60.0
"""Seconds before the same refusal of the same peer is logged again."""
_ENTRY_OVERHEAD: Final = 10
"""How much larger an entry may be on the wire than its payload: the shortest, of 5 bytes, takes less than 50."""


class RaftNode:
    """One member, running in this process from `start` to `stop`."""

    def __init__(
        self,
        config: NodeConfig,
        storage: LogStorage,
        machine: StateMachine,
        server: Server,
        fail: Fail,
        now: Callable[[], float] = clock.now,
        rng: random.Random | None = None,
        is_placed: bool = False,
    ) -> None:
        """`machine` has been recovered from `storage` (`recover`), and `server` listens already. `fail` is called with
        an exception that must stop the node, and had better not return. `is_placed`: the cluster has just said where
        this node listens, so what its log says of that may be older."""
        identity = storage.identity
        me = identity.member_id
        self._address = identity.address or identity.members[me]
        """That it listens on."""
        self.membership = Membership(
            me,
            {**identity.members, me: self._address},
            identity.cluster_id,
            identity.incarnation,
            identity.joined,
            peers=identity.peers,
            founders=identity.members,
        )
        self._config = config
        self._fail = fail
        self._storage = storage
        self._server = server
        self._now = now
        self._election_timeout = config.election_timeout
        self._strangers: dict[int, tuple[str, float]] = {}
        """By the id they claim (0 for any that is not a member's): what was said of the last one, and when."""
        self._snapshot_thread = SnapshotThread(storage, self.bring, fail)
        self._replica = Replica(
            Configuration(frozenset(identity.members), addresses=tuple(sorted(identity.members.items()))),
            me,
            _core_config(config, identity.cluster_id or os.urandom(16)),
            storage,
            machine,
            rng or random.Random(os.urandom(16)),
            now(),
            self._send,
            log.info,
            _snapshot_policy(config),
            self._snapshot_thread,
        )
        self._turn: Turn[Input] = Turn(self, now, fail)
        self._receiver = SnapshotReceiver(self, Staging(storage.begin_snapshot), log.info)
        self._backups = Backups(self, config.call_timeout)
        self._service = Service(self, _service_limits(config), server.aside, self._receiver)
        limits = _sending_limits(config)
        self._snapshots = SnapshotSenders(
            self, channel_options(limits), _CHUNK_TIMEOUTS * limits.timeout, log.info, fail
        )
        self._senders: dict[int, PeerSender] = {}
        """Made when there is something to send."""
        self._configuration: Configuration | None = None
        """What the membership has been made from."""
        self._follow_configuration(is_placed)

    def start(self) -> None:
        """Answer calls, and take part in the cluster."""
        self._snapshot_thread.start()
        self._service.start()
        self._server.serve(self._service, self._backups)
        self._turn.start()

    def hand_over(self) -> bool:
        """If this node leads, have another one lead, so that its end costs no election: whether that has been done.
        Takes at most two election timeouts."""
        deadline = time.monotonic() + 2 * self._election_timeout
        while self._senders and (seconds := deadline - time.monotonic()) > 0:
            slot = Slot[TransferOutcome]()
            self.bring(TransferRequest(0, slot.answer))
            outcome = slot.wait(seconds)
            if isinstance(outcome, Transferred):
                log.info("has handed over to node %d", outcome.leader_id)
                return True
            if not isinstance(outcome, NotTransferred):
                return False
            time.sleep(_TRANSFER_PAUSE)
        return False

    def stop(self, grace: float = STOP_GRACE) -> None:
        """Stop for good. Calls in flight are answered: those that can't be carried out within `grace` seconds with
        *unknown*, those that have not begun with "not the leader"."""
        self._receiver.close()
        self._snapshots.close()
        self._server.drain(grace)
        self._turn.finish(lambda: _Stopped(self._replica))
        self._service.stop()
        self._server.stop()
        self._snapshot_thread.stop()
        for sender in self._senders.values():
            sender.close()
        self._storage.close()

    # ---- what the service needs (service.Host) -----------------------------------------------------------------------

    def bring(self, item: Input) -> None:
        """Hand an input to the replica. From any thread."""
        self._turn.bring(item)

    def read_under_lease(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        return self._replica.read_under_lease(keys, self._now)

    def status(self) -> Status:
        return self._replica.status()

    def count(self) -> Counts:
        machine = self._replica.machine
        return Counts(len(machine), machine.revision, machine.state_bytes, machine.max_state_bytes)

    def lacks_room_for(self, operation: Operation) -> bool:
        return self._replica.lacks_room_for(operation)

    def note_stranger(self, claimed_id: int, where: str, why: str) -> None:
        """A peer was refused: say so, but not each time."""
        key = claimed_id if claimed_id in self.membership.addresses else 0
        said, when = self._strangers.get(key, ("", 0.0))
        if why != said or self._now() - when > _STRANGER_INTERVAL:
            self._strangers[key] = why, self._now()
            log.warning("refuses node %d at %s: %s", claimed_id, where, why)

    # ---- what happens in the turn (turn.Worker) ----------------------------------------------------------------------

    def turn(self, inputs: list[Input], now: float) -> bool:
        """One round of the replica's work. By the holder of the turn."""
        assert self._turn.is_held_here()
        # One after the other: what one of them brings may tell that the sender of the next is another one by now.
        more = self._replica.turn((item for item in inputs if self._has_kept_disk(item)), now)
        self._receiver.committed(self._replica.raft.committed_index, self._server.aside)
        self._follow_configuration()
        cluster_id = self._replica.machine.cluster_id
        if cluster_id and not self.membership.cluster_id:
            self._learn_cluster(cluster_id)
        return more

    def deadline(self) -> float:
        return self._replica.deadline()

    def _learn_cluster(self, cluster_id: bytes) -> None:
        """The log has told which cluster this is: from now on the directory belongs to it, and others are refused."""
        self._storage.remember_cluster(cluster_id)
        self.membership = replace(self.membership, cluster_id=cluster_id)
        for sender in self._senders.values():
            sender.introduce(self.membership)
        log.info("belongs to cluster %s", cluster_id.hex())

    def _follow_configuration(self, is_placed: bool = False) -> None:
        """Go by the latest configuration in the log: who the members are, and where; but not for where this one is, if
        the cluster has just told it."""
        configuration = self._replica.raft.configuration
        if configuration is self._configuration:
            return
        self._configuration = configuration
        before, me = self.membership.addresses, self.membership.me
        addresses = dict(configuration.addresses)
        address = addresses.get(me, before[me])
        if not configuration.counts_with(me, self.membership.incarnation):
            log.warning(
                "node %d has its vote with another data directory than this one, which counts for nothing: stop this "
                "node, or remove it and add it again (REMOVE %d, ADD %d=<address>)",
                *(me, me, me),
            )
        if address != before[me] and not is_placed:
            self._storage.remember_address(address)
            if address != self._address:
                log.warning("is to be reached at %s from now on: stop this node, and start it again", address)
        joined = dict(configuration.joined)
        self.membership = replace(
            self.membership,
            addresses={me: before[me], **addresses},
            joined=joined,
            wiped=frozenset(p for p in self.membership.wiped if joined.get(p) == self.membership.joined.get(p)),
        )
        for peer, sender in list(self._senders.items()):
            # Whoever has been removed is still told so, over the channel that is there.
            if peer in addresses and addresses[peer] != before.get(peer):
                _close_later(self._senders.pop(peer))
            else:
                sender.introduce(self.membership)
        new = [m for m in members_to_wire(self.membership, configuration) if m.address != before.get(m.id)]
        if new:
            self._server.aside(lambda: self._server.announce(new))

    def _has_kept_disk(self, item: Input) -> bool:
        """Whether a message comes from the member that it was, with all that it has promised (hazard 46). A founding
        member that is met for the first time is remembered, before anything that it says counts, and before it is
        answered. Of the others, the algorithm goes by what the configuration says of their disks."""
        if not isinstance(
            item, AppendEntries | AppendEntriesReply | RequestVote | RequestVoteReply | InstallSnapshotReply
        ):
            return True
        self._follow_configuration()
        peer, incarnation, membership = item.sender, item.incarnation, self.membership
        if not incarnation or peer not in membership.addresses:
            return True
        if membership.is_founder(peer, item.joined):
            if membership.has_lost_disk(peer, incarnation, item.joined):
                self._note_wiped(peer)
                return False
            if membership.peers.get(peer) != (0, incarnation):
                self._storage.remember_peer(peer, 0, incarnation)
                self.membership = replace(membership, peers=self._storage.identity.peers)
        elif self._has_another_disk(item):
            self._note_wiped(peer)
            return True
        if peer in membership.wiped and not isinstance(item, AppendEntries | RequestVote):
            self.membership = replace(self.membership, wiped=membership.wiped - {peer})
            log.info("node %d has its disk again", peer)
        return True

    def _has_another_disk(self, message: Message) -> bool:
        """Whether a member that was added later answers, where it is to be found, from another disk than the one that
        has its vote; and does not speak of an entry that our log does not tell of yet."""
        if not isinstance(message, AppendEntriesReply | RequestVoteReply | InstallSnapshotReply):
            return False
        is_known = message.joined <= self.membership.joined.get(message.sender, 0)
        return is_known and not self._replica.raft.configuration.counts_with(message.sender, message.incarnation)

    def _note_wiped(self, peer: int) -> None:
        if peer not in self.membership.wiped:
            self.membership = replace(self.membership, wiped=self.membership.wiped | {peer})
            log.warning(
                "node %d has come back without its disk: nothing that it says counts until it is removed and added "
                "again (REMOVE %d, ADD %d=<address>)",
                peer,
                peer,
                peer,
            )

    def _sender(self, peer: int) -> PeerSender | None:
        """The sender to a peer; None if nobody knows where that is."""
        sender = self._senders.get(peer)
        if sender is None:
            self._follow_configuration()  # it may have changed in this very turn
            if peer in self.membership.addresses:
                limits, unreachable = _sending_limits(self._config), self.unreachable
                sender = self._senders[peer] = PeerSender(
                    peer, self.membership, limits, self._now, self.bring, unreachable, log.warning, self._fail
                )
        return sender

    def _send(self, message: Message) -> None:
        if isinstance(message, InstallSnapshot):
            self._follow_configuration()  # whom it goes to may be new in this very turn
            if message.recipient in self.membership.addresses:
                self._snapshots.send(message)
            else:
                self.unreachable(message.recipient)  # or the leader would wait for the end of what never begins
        elif not isinstance(message, Request):
            self._service.deliver(message)
        elif sender := self._sender(message.recipient):
            sender.send(message)

    def unreachable(self, peer: int) -> None:
        """A call to the peer, or a transfer, has failed. From any thread."""
        self.bring(Unreachable(peer))

    # ---- what the transfers of snapshots need (snapshot_sender.Host) -------------------------------------------------

    def open_snapshot(self, meta: SnapshotMeta) -> SnapshotReader | None:
        return self._storage.open_snapshot() if self._storage.snapshot == meta else None

    def leads(self, term: int) -> bool:
        raft = self._replica.raft
        return raft.current_term == term and raft.leader_id == raft.me

    def now(self) -> float:
        return self._now()


class _Stopped:
    """Takes the turn's inputs after the end: nothing is done any more."""

    def __init__(self, replica: Replica) -> None:
        replica.abandon("the node is stopping")

    def turn(self, inputs: list[Input], now: float) -> bool:
        for item in inputs:
            if isinstance(item, Write | Query | ConfigurationChange):
                item.caller.answer(NotLeader(0))
            elif isinstance(item, TransferRequest):
                item.answer(NotLeader(0))
            elif isinstance(item, SnapshotWanted):
                item.answer("the node is stopping")
        return False

    def deadline(self) -> float:
        return float("inf")


# ---- settings --------------------------------------------------------------------------------------------------------


def _core_config(config: NodeConfig, cluster_id: bytes) -> core.Config:
    settings = TermSettings(
        cluster_id,
        config.max_sessions,
        int(config.session_timeout * 1000),
        config.max_unanswered,
        config.max_state_bytes,
    )
    return core.Config(
        election_timeout=config.election_timeout,
        heartbeat_interval=config.heartbeat_interval,
        lease_duration=config.lease_duration if config.leases else 0.0,
        clock_drift=config.clock_drift,
        max_append_bytes=config.max_append_bytes,
        max_appends_in_flight=config.max_appends_in_flight,
        append_timeout=config.peer_timeout + (config.max_append_bytes + config.max_batch_bytes) / SLOWEST_LINK,
        term_settings=encode_settings(settings),
    )


def _snapshot_policy(config: NodeConfig) -> SnapshotPolicy:
    return SnapshotPolicy(config.snapshot_log_bytes, config.snapshot_log_entries, config.kept_log_bytes)


def _max_message_bytes(config: NodeConfig) -> int:
    """What fits any message that a correct member or client sends: AppendEntries counts only payloads (hazard 58)."""
    largest = _ENTRY_OVERHEAD * config.max_append_bytes + config.max_batch_bytes + (1 << 20)
    return largest if largest < 1 << 31 else -1


def _service_limits(config: NodeConfig) -> ServiceLimits:
    return ServiceLimits(
        max_key_bytes=config.max_key_bytes,
        max_value_bytes=config.max_value_bytes,
        max_batch_bytes=config.max_batch_bytes,
        max_batch_operations=config.max_batch_operations,
        max_waiting_bytes=config.max_waiting_bytes,
        call_timeout=config.call_timeout,
        peer_timeout=config.peer_timeout,
    )


def _sending_limits(config: NodeConfig) -> SendingLimits:
    return SendingLimits(
        timeout=config.peer_timeout,
        max_backoff=config.peer_backoff,
        max_appends=2 * config.max_appends_in_flight,
        max_message_bytes=_max_message_bytes(config),
    )


def _close_later(sender: PeerSender) -> None:
    """Of a member that moves: what has just left for its old address tells it where to go."""
    timer = threading.Timer(_LAST_WORD, sender.close)
    timer.daemon = True
    timer.start()


def server_limits(config: NodeConfig) -> ServerLimits:
    """How the settings bound what a node takes in."""
    return ServerLimits(
        config.client_threads, config.max_waiting_calls, config.max_client_streams, _max_message_bytes(config)
    )


# ---- starting and stopping a process ---------------------------------------------------------------------------------


def recover(storage: LogStorage, progress: Callable[[int, int], None]) -> StateMachine:
    """The state machine as of the storage's commit index. `progress` is called with (entries applied, of how many)."""
    machine = StateMachine()
    load_snapshot(storage, machine)
    for entry in storage.replay():
        machine.apply(entry)
        progress(entry.index, storage.commit_index)
    return machine


def main(argv: Sequence[str] | None = None) -> int:
    """The program `raft_node.py`, installed as `raftkv-node`. The exit status: 0 stopped by a signal, 1 cannot run, 2
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
    crash. Later the main thread waits for them at a pipe: the system may hand a signal to any thread, and Python's own
    handler runs only once the main thread wakes up, which a lock would not make it do."""

    def __init__(self) -> None:
        self._starting = True
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, *_: Any) -> None:
        if self._starting:
            os._exit(0)

    def from_now_on_remember(self) -> None:
        self._starting = False

    def wait(self) -> None:
        os.read(self._reader, 1)


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
