"""One member without its surroundings: theory of operation.

A `Replica` joins the core, the storage and the state machine, and carries out what the core asks in the order that
makes it safe (raft/ready.py). It has no threads, clock or network of its own: inputs and the time come in through
`turn()`, messages leave through `send`, callers are answered through `Caller`. `RaftNode` puts gRPC and threads around
it; a simulator puts anything else.

It owns the waiting callers, keyed by the log position of what they wait for. A caller is answered exactly once:

    Applied     its entry has been committed and applied here
    Served      its read has been carried out
    NotLeader   nothing has been done
    Refused     the same, of a change of the configuration
    Unknown     it was proposed, and then leadership was lost: it may be committed yet, or never
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raftkv.kv import Found, FrozenState, StateMachine
from raftkv.log_storage import LogStorage, SnapshotWriter
from raftkv.operations import Operation, Result
from raftkv.raft import core
from raftkv.raft.configuration import Change, ChangeRefused
from raftkv.raft.log import InvariantBroken
from raftkv.raft.messages import InstallSnapshot, Message
from raftkv.raft.ready import Ready
from raftkv.raft.roles import NAMES
from raftkv.raft.transfer import TransferRefused
from raftkv.raft.types import NOBODY, Configuration, Entry, Proposal, SnapshotMeta
from raftkv.snapshots import Saver, SnapshotFailed, SnapshotPolicy, Snapshots, SnapshotSaved, SnapshotWanted


@dataclass(frozen=True, slots=True)
class Applied:
    results: list[Result]


@dataclass(frozen=True, slots=True)
class Served:
    value: Any


@dataclass(frozen=True, slots=True)
class NotLeader:
    leader_id: int
    """0: none known."""


@dataclass(frozen=True, slots=True)
class Unknown:
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A change of the configuration that is not to be made."""

    reason: str
    try_again: bool
    """The reason will pass by itself."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """Another member leads."""

    leader_id: int


@dataclass(frozen=True, slots=True)
class NotTransferred:
    """This member goes on leading."""

    reason: str
    was_refused: bool
    """Nothing has been done; else it has been tried in vain."""


Outcome = Applied | Served | NotLeader | Unknown | Refused
TransferOutcome = Transferred | NotTransferred | NotLeader


class Caller(Protocol):
    def is_wanted(self) -> bool:
        """Whether a write is still to be proposed. Asked by whoever holds the turn, just before."""

    def answer(self, outcome: Outcome) -> None:
        """Take the outcome; called once, by whoever holds the turn, and must not block."""


@dataclass(frozen=True, slots=True)
class Write:
    proposal: Proposal
    caller: Caller


@dataclass(frozen=True, slots=True)
class Query:
    """A linearizable read, carried out on the state machine within the turn."""

    read: Callable[[StateMachine], Any]
    caller: Caller


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """Leadership is to be handed over."""

    target: int
    """0: the most up-to-date voter."""
    answer: Callable[[TransferOutcome], None]
    """Called once, when somebody else leads or this member goes on; by whoever holds the turn, and must not block."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A call to the peer has failed."""

    peer: int


@dataclass(frozen=True, slots=True)
class ConfigurationChange:
    """A member to be added or removed, or its address to be changed."""

    change: Change
    caller: Caller


@dataclass(frozen=True, slots=True)
class SnapshotReceived:
    """All of a leader's snapshot has come in: the message for the algorithm, and what it is to install."""

    message: InstallSnapshot
    writer: SnapshotWriter
    """Finished: durable, checked, and this input's alone."""
    state: FrozenState
    """What is in it."""


Input = (
    Message
    | Write
    | Query
    | TransferRequest
    | Unreachable
    | ConfigurationChange
    | SnapshotSaved
    | SnapshotFailed
    | SnapshotReceived
    | SnapshotWanted
)


@dataclass(frozen=True, slots=True)
class Status:
    role: str
    term: int
    leader_id: int
    commit_index: int
    applied_index: int
    last_log_index: int
    serving: bool
    log_syncs: int = 0
    """How often the log has been made durable since the start."""
    first_log_index: int = 1
    """The first entry that the log still holds, or will hold next."""
    snapshot_index: int = 0
    """The last entry that the snapshot stands for, with which a restart would begin; 0: there is none."""
    configuration: Configuration = NOBODY

    def membership_of(self, member: int) -> str:
        """Its part by the latest configuration in this member's log: voter, learner or none."""
        if member in self.configuration.voters:
            return "voter"
        return "learner" if member in self.configuration.learners else "none"


class Replica:
    def __init__(
        self,
        configuration: Configuration,
        me: int,
        config: core.Config,
        storage: LogStorage,
        machine: StateMachine,
        rng: random.Random,
        now: float,
        send: Callable[[Message], None],
        note: Callable[[str], None],
        policy: SnapshotPolicy = SnapshotPolicy(),  # noqa: B008 (it is frozen)
        saver: Saver | None = None,
    ) -> None:
        """A member as it starts. `machine` has been restored from the snapshot, if there is one (`load_snapshot`), and
        has applied the log up to `storage.commit_index` (`LogStorage.replay`). Without a `saver` no snapshot is ever
        made."""
        if machine.applied_index != storage.commit_index:
            raise ValueError(f"applied up to {machine.applied_index}, not to {storage.commit_index}, before the start")
        self.machine = machine
        durable = storage.hard_state, storage.commit_index
        identity = storage.identity
        self.raft = core.Raft(
            config, me, configuration, storage, *durable, rng, now, identity.joined, identity.incarnation
        )
        self._snapshots = Snapshots(policy, storage, machine, self.raft, saver, note)
        self._storage = storage
        self._send = send
        self._note = note
        self._writers: dict[int, tuple[int, Caller]] = {}
        """Log index -> (term, caller). All of one term: losing the leadership answers them all."""
        self._readers: dict[int, Query] = {}
        self._received: list[SnapshotReceived] = []
        """What the algorithm has been told of in this turn."""
        self._next_token = 1
        self._transfer: TransferRequest | None = None
        """Under way, with its target chosen."""
        self._log_syncs = 0

    def deadline(self) -> float:
        """When the next turn is due, even without an input."""
        return self.raft.deadline()

    def status(self) -> Status:
        """What this member thinks; each figure is true by itself, at about the same moment."""
        raft = self.raft
        return Status(
            role=NAMES[type(raft.role)],
            term=raft.current_term,
            leader_id=raft.leader_id,
            commit_index=raft.committed_index,
            applied_index=self.machine.applied_index,
            last_log_index=raft.log.last_index,
            serving=raft.is_serving,
            log_syncs=self._log_syncs,
            first_log_index=self._storage.first_index(),
            snapshot_index=self._storage.snapshot.last.index if self._storage.snapshot else 0,
            configuration=raft.configuration,
        )

    # ---- the turn ----------------------------------------------------------------------------------------------------

    def turn(self, inputs: Iterable[Input], now: float) -> bool:
        """Take in all inputs, let time pass, and carry out what follows, with one write to the disk for all of it.

        Whether there is more to do at once. Raises StorageError or InvariantBroken; the member must stop then, and no
        message may leave it any more.
        """
        # Inputs before the time: after a stall they may hold the very answers that a timeout would miss.
        for item in inputs:
            self._take(item, now)
        self.raft.tick(now)
        ready = self.raft.ready()
        if ready is not None:
            self._carry_out(ready)
            self._snapshots.after_turn(ready.committed, now)
        return self.raft.has_ready() or self._snapshots.hurry(now)

    def _take(self, item: Input, now: float) -> None:
        if isinstance(item, Write):
            self._propose(item, now)
        elif isinstance(item, Query):
            self._ask_to_read(item, now)
        elif isinstance(item, ConfigurationChange):
            self._change_configuration(item, now)
        elif isinstance(item, TransferRequest):
            self._transfer_leadership(item, now)
        elif isinstance(item, Unreachable):
            self.raft.unreachable(item.peer, now)
        elif isinstance(item, SnapshotReceived):
            self._received.append(item)
            self.raft.step(item.message, now)
        elif isinstance(item, SnapshotWanted):
            self._snapshots.want(item)
        elif isinstance(item, SnapshotSaved):
            self._snapshots.saved(item)
        elif isinstance(item, SnapshotFailed):
            self._snapshots.failed(item, now)
        else:
            self.raft.step(item, now)

    def _propose(self, write: Write, now: float) -> None:
        if not write.caller.is_wanted():
            write.caller.answer(NotLeader(self.raft.leader_id))
            return
        try:
            (position,) = self.raft.propose([write.proposal], now)
        except core.NotLeader as error:
            write.caller.answer(NotLeader(error.leader_id))
        else:
            self._writers[position.index] = (position.term, write.caller)

    def _change_configuration(self, item: ConfigurationChange, now: float) -> None:
        try:
            position = self.raft.change_configuration(item.change, now)
        except core.NotLeader as error:
            item.caller.answer(NotLeader(error.leader_id))
        except ChangeRefused as refusal:
            item.caller.answer(Refused(str(refusal), refusal.try_again))
        else:
            self._writers[position.index] = (position.term, item.caller)

    def _ask_to_read(self, query: Query, now: float) -> None:
        token, self._next_token = self._next_token, self._next_token + 1
        try:
            self.raft.read(token, now)
        except core.NotLeader as error:
            query.caller.answer(NotLeader(error.leader_id))
        else:
            self._readers[token] = query

    def _carry_out(self, ready: Ready) -> None:
        """The steps of raft/ready.py, in their order."""
        for note in ready.notes:
            self._note(note)
        for message in ready.urgent:
            self._send(message)
        self._persist(ready)
        self.raft.advance(ready)
        for reply in ready.messages:
            self._send(reply)
        for entry in ready.committed:
            self._apply(entry)
        for read in ready.reads:
            query = self._readers.pop(read.token)
            query.caller.answer(Served(query.read(self.machine)))
        for token in ready.lost_reads:
            self._readers.pop(token).caller.answer(NotLeader(self.raft.leader_id))
        self._give_up_writers()
        self._answer_transfer()

    def _persist(self, ready: Ready) -> None:
        hard_state = ready.hard_state
        if ready.snapshot is not None:
            if hard_state is not None:
                # First of all the term: no log may end in a later one, also if there is a crash in between.
                self._storage.persist(hard_state, [], self._storage.commit_index)
                hard_state = None
            self._install(ready.snapshot)
        if hard_state is not None or ready.entries:
            self._storage.persist(hard_state, ready.entries, ready.commit_index)
            self._log_syncs += bool(ready.entries)
        received, self._received = self._received, []
        for item in received:
            item.writer.discard()

    def _install(self, snapshot: SnapshotMeta) -> None:
        """Put a snapshot that has come in where the log and the state machine were."""
        chosen = next((item for item in self._received if item.message.snapshot == snapshot), None)
        if chosen is None:
            raise InvariantBroken(f"a snapshot up to {snapshot.last.index} is to be installed that has not come in")
        self._received.remove(chosen)
        self._storage.install_snapshot(snapshot, chosen.writer)
        self.machine.restore(chosen.state)
        self._snapshots.installed()

    def _apply(self, entry: Entry) -> None:
        results = self.machine.apply(entry)
        term, caller = self._writers.pop(entry.index, (0, None))
        if caller is None:
            return
        if term == entry.term:
            caller.answer(Applied(results))
        else:
            caller.answer(Unknown(f"another leader's entry has taken its place at index {entry.index}"))

    def _give_up_writers(self) -> None:
        """Once leadership is lost nobody here will learn what becomes of a proposal: say so, do not call it failed."""
        if self._writers and not self._leads_term(next(iter(self._writers.values()))[0]):
            self._abandon_writers("leadership was lost before the write was committed")

    def _transfer_leadership(self, request: TransferRequest, now: float) -> None:
        try:
            target = self.raft.transfer(request.target, now)
        except core.NotLeader as error:
            request.answer(NotLeader(error.leader_id))
        except TransferRefused as error:
            request.answer(NotTransferred(str(error), was_refused=True))
        else:
            self._transfer = TransferRequest(target, request.answer)

    def _answer_transfer(self) -> None:
        """Once it has ended, and somebody is known to lead."""
        waiting, raft = self._transfer, self.raft
        if waiting is None or not raft.leader_id or raft.is_handing_over:
            return
        self._transfer = None
        if raft.leader_id != raft.me:
            waiting.answer(Transferred(raft.leader_id))
        else:
            reason = f"node {waiting.target} has not taken over in time, node {raft.me} goes on leading"
            waiting.answer(NotTransferred(reason, was_refused=False))

    def _leads_term(self, term: int) -> bool:
        return self.raft.leader_id == self.raft.me and self.raft.current_term == term

    def abandon(self, reason: str) -> None:
        """Answer every caller that still waits, before the replica is left for good: what becomes of a write is
        unknown, and a read has not been carried out."""
        self._abandon_writers(reason)
        self._snapshots.give_up(reason)
        readers, self._readers = self._readers, {}
        for query in readers.values():
            query.caller.answer(NotLeader(0))
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.answer(NotTransferred(reason, was_refused=False))

    def _abandon_writers(self, reason: str) -> None:
        writers, self._writers = self._writers, {}
        for _, caller in writers.values():
            caller.answer(Unknown(reason))

    # ---- reads without the turn --------------------------------------------------------------------------------------

    def read_under_lease(self, keys: Sequence[bytes], clock: Callable[[], float]) -> Found | None:
        """Read keys under the leader's lease, from any thread and without the turn; None: `Query` has to be asked. Each
        key is a read by itself: together they are no picture of one moment. As with `StateMachine.find_each`, the last
        keys are left out if there would be too much.

        The lease is looked at before *and* after: this thread may be stopped for any length of time in between, and the
        turn may meanwhile have stepped down (hazard 60).
        """
        lease = self.raft.lease
        if lease is None or not lease.is_valid(clock()):
            return None
        # Of what was committed when the read arrived, nothing may be missing.
        if self.machine.applied_index < self.raft.committed_index:
            return None
        found = self.machine.find_each(keys)
        still = self.raft.lease
        if still is None or still.term != lease.term or not still.is_valid(clock()):
            return None
        return found

    def lacks_room_for(self, operation: Operation) -> bool:
        """Whether this member leads, and the operation would come to nothing for want of space as the state is now.
        From any thread and without the turn: a guess, but a definite answer if it is given instead of a proposal."""
        raft = self.raft
        if not raft.is_serving or self.machine.applied_index < raft.committed_index:
            return False
        return not self.machine.has_room_for(operation)
