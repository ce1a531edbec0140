"""A node: one member of the cluster, in this process: theory of operation.

`RaftNode` puts threads, gRPC and a clock around a `Replica`, which does all the thinking. Its threads, and what each of
them is for:

    main             starts the node, waits until it is told to stop, stops it (node_program.py)
    signals          waits for SIGTERM or SIGINT
    timer            takes the turn when time is due, or when another thread hands it over (turn.py)
    peer_*           answer AppendEntries and RequestVote: bring the message, wait for the reply  \\
    client_*         take in ServeClient: check the request, bring it, leave                         server.py
    stream_*         read the requests of a client's stream and bring them                          |
    aside_*          answer Status                                                                 /
    overdue          ends clients' calls that wait for too long (service.py)
    transfer_<peer>  sends a peer a snapshot, while there is need (snapshot_sender.py)
    install_*        take in a leader's snapshot, and make a state machine of it (snapshot_receiver.py)
    snapshot         writes snapshots, and removes files that no longer count (snapshot_thread.py)
    close            closes the connection to where a peer no longer is (peers.py)
    gRPC's own       one receives calls, and refuses those of clients when too many wait; one a peer brings the replies
                     to our requests, while there are any

None of them owns the replica: whoever brings an input takes the turn if it is free. Apart from the inbox, what threads
share is small: slots for one answer each, the counters of the bounds, a peer's back-off; each has its own lock or is a
single atomic operation. The membership is a frozen object, replaced as a whole in the turn (peers.py).

An exception in any of these threads stops the node at once (`fail`, which in a process prints one line and exits): a
node that has lost a thread, or a write to its disk, can't know what it would be lying about.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from raftkv import clock
from raftkv.backup import Backups
from raftkv.config import NodeConfig
from raftkv.kv import Found, StateMachine
from raftkv.log_storage import LogStorage, SnapshotReader
from raftkv.operations import Operation
from raftkv.peers import Peers
from raftkv.raft.messages import InstallSnapshot, Message
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
from raftkv.server import Server
from raftkv.service import Counts, Service, Slot
from raftkv.settings import core_config, sending_limits, service_limits, snapshot_policy
from raftkv.snapshot_receiver import SnapshotReceiver
from raftkv.snapshot_sender import SnapshotSenders
from raftkv.snapshot_thread import SnapshotThread
from raftkv.snapshot_transfer import Staging
from raftkv.snapshots import SnapshotWanted, load_snapshot
from raftkv.transport import Membership, PeerSender, Request, channel_options
from raftkv.turn import Turn
from raftkv.wire import raft_pb2 as wire

log = logging.getLogger("raftkv")

Fail = Callable[[BaseException], None]

STOP_GRACE: Final = 1.0
"""Seconds that calls in flight get to succeed when the node stops."""
_TRANSFER_PAUSE: Final = 0.05
"""Seconds before a transfer is tried again that has been refused."""
_CHUNK_TIMEOUTS: Final = 5
"""How many times longer than for other requests a follower may take for a chunk of a snapshot, which it may have to
sync: a transfer that is given up for less is soon begun again."""
_STRANGER_INTERVAL: Final = 60.0
"""Seconds before the same refusal of the same peer is logged again."""


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
            identity.member_id,
            core_config(config, identity.cluster_id or os.urandom(16)),
            storage,
            machine,
            rng or random.Random(os.urandom(16)),
            now(),
            self._send,
            log.info,
            snapshot_policy(config),
            self._snapshot_thread,
        )
        self._turn: Turn[Input] = Turn(self, now, fail)
        self._receiver = SnapshotReceiver(self, Staging(partial(storage.begin_snapshot, at_disks_pace=True)), log.info)
        self._backups = Backups(self, config.call_timeout)
        self._service = Service(self, service_limits(config), server.aside, self._receiver)
        self._limits = limits = sending_limits(config)
        self._snapshots = SnapshotSenders(
            self, channel_options(limits), _CHUNK_TIMEOUTS * limits.timeout, log.info, fail
        )
        self._peers = Peers(storage, self._replica.raft, self._connect, self._announce, is_placed)

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
        while self._peers.senders and (seconds := deadline - time.monotonic()) > 0:
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
        self._peers.close()
        self._storage.close()

    # ---- what the service needs (service.Host) -----------------------------------------------------------------------

    @property
    def membership(self) -> Membership:
        return self._peers.membership

    def bring(self, item: Input) -> None:
        """Hand an input to the replica. From any thread."""
        self._turn.bring(item)

    def leave(self, item: Input) -> None:
        """Hand an input to the replica for another thread to work on. From any thread."""
        self._turn.leave(item)

    def read_under_lease(self, keys: Sequence[bytes]) -> Found | None:
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
        peers = self._peers
        # One after the other: what one of them brings may tell that the sender of the next is another one by now.
        more = self._replica.turn(filter(peers.has_kept_disk, inputs), now)
        self._receiver.committed(self._replica.raft.committed_index, self._server.aside)
        peers.follow_configuration()
        cluster_id = self._replica.machine.cluster_id
        if cluster_id and not peers.membership.cluster_id:
            peers.learn_cluster(cluster_id)
        return more

    def deadline(self) -> float:
        return self._replica.deadline()

    def _send(self, message: Message) -> None:
        if isinstance(message, InstallSnapshot):
            self._peers.follow_configuration()  # whom it goes to may be new in this very turn
            sender = self._peers.sender(message.recipient)
            if sender is not None and message.recipient in self._peers.membership.addresses:
                self._snapshots.send(message, sender.address)
            else:
                self.unreachable(message.recipient)  # or the leader would wait for the end of what never begins
        elif not isinstance(message, Request):
            self._service.deliver(message)
        elif sender := self._peers.sender(message.recipient):
            sender.send(message)

    def _connect(self, peer: int, membership: Membership) -> PeerSender:
        return PeerSender(
            peer, membership, self._limits, self._now, self.bring, self.unreachable, log.warning, self._fail
        )

    def _announce(self, members: list[wire.Member]) -> None:
        self._server.aside(lambda: self._server.announce(members))

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


def recover(storage: LogStorage, progress: Callable[[int, int], None]) -> StateMachine:
    """The state machine as of the storage's commit index. `progress` is called with (entries applied, of how many)."""
    machine = StateMachine()
    load_snapshot(storage, machine)
    last = storage.commit_index
    for entry in storage.replay():
        machine.apply(entry)
        progress(entry.index, last)
    return machine
