"""One member's core, whose peers the test plays.

`Lone` drives a `Raft` as ready.py demands, on a storage in memory and a clock that the test sets. What it does is kept
in `events`, in order; what it sends is also returned by each input:

    lone = Lone([1, 1, 2])                       member 1 of 3; its log has entries of terms 1, 1, 2
    lone.lead(by=[2])                            it times out, 2 grants pre-vote and vote
    sent = lone.propose("SET k v")               -> AppendEntries for 2 and 3
    lone.step(lone.ack(2, match=5))              2's answer comes in
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from raftkv.log_storage import SnapshotWriter
from raftkv.memory_storage import MemoryStorage
from raftkv.raft.configuration import Change, encode_configuration
from raftkv.raft.core import Config, Raft
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
    TimeoutNowReply,
)
from raftkv.raft.ready import Ready, ReadyRead
from raftkv.raft.roles import NAMES, Candidate, Follower, Leader, PreCandidate
from raftkv.raft.types import (
    ORIGIN,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Leadership,
    LogPosition,
    Proposal,
    SnapshotMeta,
)

DEFAULTS = Config()
NO_LEASES = Config(lease_duration=0.0)


def at(index: int, term: int) -> LogPosition:
    """A position, index first, as the figures of the paper are read."""
    return LogPosition(term, index)


def entries(terms: Sequence[int], first: int = 1) -> list[Entry]:
    """Consecutive entries with these terms. Equal index and term make equal entries, as Log Matching wants it."""
    return [Entry(i, term, EntryKind.TEXT, b"SET k%d %d" % (i, term)) for i, term in enumerate(terms, first)]


def members_entry(index: int, *voters: int, term: int, joined: Mapping[int, int] | None = None) -> Entry:
    """An entry that makes these the voters. `joined`: which entry has brought in those who are no founding members."""
    configuration = Configuration(frozenset(voters), joined=tuple(sorted((joined or {}).items())))
    payload = encode_configuration(configuration)
    return Entry(index, term, EntryKind.CONFIGURATION, payload)


def compact(storage: MemoryStorage, snapshot: SnapshotMeta, keep_from: int | None = None) -> None:
    """Have the storage adopt a snapshot of its own state, and forget the entries before `keep_from`."""
    storage.adopt_snapshot(snapshot, written(storage), snapshot.last.index + 1 if keep_from is None else keep_from)


def install(storage: MemoryStorage, snapshot: SnapshotMeta) -> None:
    """Have the storage install a snapshot that came from a leader."""
    storage.install_snapshot(snapshot, written(storage))


def written(storage: MemoryStorage) -> SnapshotWriter:
    """A snapshot, all of it: to storage it is bytes without meaning."""
    writer = storage.begin_snapshot()
    writer.write(b"snapshot")
    writer.finish()
    return writer


def text(*commands: str) -> list[Proposal]:
    return [Proposal(EntryKind.TEXT, command.encode()) for command in commands]


@dataclass(frozen=True)
class Persisted:
    """An event: one write to the disk."""

    hard_state: HardState | None
    entries: tuple[Entry, ...]


M = TypeVar("M", bound=Message)


def only(kind: type[M], messages: Iterable[Message]) -> list[M]:
    """Those of the messages that are of this kind."""
    return [message for message in messages if isinstance(message, kind)]


@dataclass(frozen=True)
class Installed:
    """An event: a snapshot has taken the place of the log."""

    snapshot: SnapshotMeta


class Lone:
    def __init__(
        self,
        terms: Sequence[int] = (),
        *,
        me: int = 1,
        size: int = 3,
        learners: Collection[int] = (),
        term: int | None = None,
        voted_for: int = 0,
        longest_promise_ms: int = 0,
        committed: int = 0,
        compacted: int = 0,
        config: Config = DEFAULTS,
        now: float = 0.0,
        seed: int = 1,
    ) -> None:
        """A member `me` of `size` voters that starts with entries of these terms; its current term is the last of them,
        if `term` does not say otherwise. Of the entries, the first `compacted` are only in a snapshot."""
        self.me = me
        self.now = now
        self.config = config
        self.configuration = Configuration(frozenset(range(1, size + 1)), frozenset(learners))
        """What it goes by until its log says otherwise."""
        self.storage = MemoryStorage(me)
        current = max([0, *terms]) if term is None else term
        committed = max(committed, compacted)
        self.storage.persist(HardState(current, voted_for, longest_promise_ms), entries(terms), committed)
        if compacted:
            compact(self.storage, self.snapshot(compacted, terms[compacted - 1]))
        self._rng = random.Random(seed)
        self.events: list[Message | Persisted | Installed | Entry | ReadyRead] = []
        self.notes: list[str] = []
        self.lost_reads: list[int] = []
        self.raft = self._start()

    def _start(self) -> Raft:
        storage = self.storage
        return Raft(
            self.config,
            self.me,
            self.configuration,
            storage,
            storage.hard_state,
            storage.commit_index,
            self._rng,
            self.now,
            self.storage.identity.joined,
            self.storage.identity.incarnation,
        )

    def restart(self) -> None:
        """Crash, and start again from what is durable."""
        self.raft = self._start()

    # ---- what it looks like ------------------------------------------------------------------------------------------

    @property
    def role(self) -> str:
        return NAMES[type(self.raft.role)]

    @property
    def leader(self) -> Leader:
        assert isinstance(self.raft.role, Leader)
        return self.raft.role

    @property
    def follower(self) -> Follower:
        assert isinstance(self.raft.role, Follower)
        return self.raft.role

    @property
    def candidate(self) -> Candidate:
        assert isinstance(self.raft.role, Candidate)
        return self.raft.role

    @property
    def pre_candidate(self) -> PreCandidate:
        assert isinstance(self.raft.role, PreCandidate)
        return self.raft.role

    @property
    def term(self) -> int:
        return self.raft.current_term

    @property
    def log_terms(self) -> list[int]:
        """Of the entries that are not only in the snapshot."""
        log = self.raft.log
        return [log.term(i) for i in range(log.previous.index + 1, log.last_index + 1)]

    def snapshot(self, index: int, term: int, time_ms: int = 0) -> SnapshotMeta:
        """A snapshot whose last entry is this one."""
        return SnapshotMeta(at(index, term), time_ms)

    def compact(self, index: int, keep_from: int | None = None) -> None:
        """Save what has been applied up to `index`, and forget the entries before `keep_from` (None: all of these)."""
        compact(self.storage, self.snapshot(index, self.raft.log.term(index)), keep_from)

    @property
    def applied(self) -> list[Entry]:
        return [event for event in self.events if isinstance(event, Entry)]

    @property
    def served(self) -> list[int]:
        """The tokens of the reads that were released."""
        return [event.token for event in self.events if isinstance(event, ReadyRead)]

    def has_lease(self) -> bool:
        return self.raft.lease is not None and self.raft.lease.is_valid(self.now)

    # ---- inputs ------------------------------------------------------------------------------------------------------

    def step(self, *messages: Message) -> list[Message]:
        """Take in all the messages at once, then do what follows. What it sent."""
        for message in messages:
            self.raft.step(message, self.now)
        return self.settle()

    def wait(self, seconds: float) -> list[Message]:
        """Let time pass as a driver does that never oversleeps. What it sent meanwhile."""
        return self.wait_until(self.now + seconds)

    def wait_until(self, end: float) -> list[Message]:
        sent: list[Message] = []
        while self.raft.deadline() <= end:
            self.now = max(self.now, self.raft.deadline())
            self.raft.tick(self.now)
            sent += self.settle()
        self.now = end
        return sent

    def oversleep(self, seconds: float) -> None:
        """Let time pass without the member's noticing, like a stopped process."""
        self.now += seconds

    def tick(self) -> list[Message]:
        self.raft.tick(self.now)
        return self.settle()

    def propose(self, *commands: str) -> list[Message]:
        self.raft.propose(text(*commands), self.now)
        return self.settle()

    def change(self, change: Change) -> list[Message]:
        self.raft.change_configuration(change, self.now)
        return self.settle()

    def read(self, token: int) -> list[Message]:
        self.raft.read(token, self.now)
        return self.settle()

    def transfer(self, target: int = 0) -> list[Message]:
        self.raft.transfer(target, self.now)
        return self.settle()

    def settle(self) -> list[Message]:
        """Carry out what is ready, in its order, until nothing is. What was sent."""
        sent: list[Message] = []
        while (ready := self.raft.ready()) is not None:
            self.notes += ready.notes
            self.events += ready.urgent
            self._persist(ready)
            self.raft.advance(ready)
            self.events += ready.messages
            self.events += ready.committed
            self.events += ready.reads
            self.lost_reads += ready.lost_reads
            sent += [*ready.urgent, *ready.messages]
        return sent

    def _persist(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            if ready.hard_state is not None:
                self.storage.persist(ready.hard_state, [], self.storage.commit_index)
            install(self.storage, ready.snapshot)
            self.events.append(Installed(ready.snapshot))
        if ready.hard_state is not None or ready.entries:
            self.storage.persist(ready.hard_state, ready.entries, ready.commit_index)
            self.events.append(Persisted(ready.hard_state, tuple(ready.entries)))

    # ---- elections, as a whole ---------------------------------------------------------------------------------------

    def time_out(self) -> list[Message]:
        """Wait for the election timeout. What it sent: the requests for pre-votes."""
        return self.wait_until(self.raft.deadline())

    def stand(self, by: Collection[int] = (2,)) -> list[Message]:
        """Time out and get the pre-votes of `by`: a candidate then, if they are enough. Its requests for votes."""
        self.time_out()
        return self.step(*(self.pre_vote(peer) for peer in by))

    def lead(self, by: Collection[int] = (2,), remaining_lease_ms: int = 0) -> list[Message]:
        """Become the leader of a new term with the votes of `by`. What it sent as such."""
        self.stand(by)
        sent = self.step(*(self.vote(peer, remaining_lease_ms=remaining_lease_ms) for peer in by))
        assert self.role == "leader"
        return sent

    def serve(self, by: Collection[int] = (2,)) -> None:
        """Lead, and commit the NO-OP with the acknowledgements of `by`."""
        self.lead(by)
        self.step(*(self.ack(peer) for peer in by))
        assert self.raft.is_serving

    # ---- what peers say ----------------------------------------------------------------------------------------------

    def pre_vote(self, sender: int, granted: bool = True, term: int | None = None) -> RequestVoteReply:
        term = self.term + (1 if granted else 0) if term is None else term
        return RequestVoteReply(sender, self.me, term, granted, pre_vote=True)

    def vote(
        self, sender: int, granted: bool = True, term: int | None = None, remaining_lease_ms: int = 0
    ) -> RequestVoteReply:
        term = self.term if term is None else term
        return RequestVoteReply(sender, self.me, term, granted, remaining_lease_ms=remaining_lease_ms)

    def vote_request(
        self,
        sender: int,
        term: int,
        last: LogPosition = ORIGIN,
        pre_vote: bool = False,
        call: int = 0,
        released: Leadership | None = None,
    ) -> RequestVote:
        return RequestVote(sender, self.me, term, last, pre_vote, call, released)

    def timeout_now(self, sender: int, term: int | None = None, call: int = 0) -> TimeoutNow:
        return TimeoutNow(sender, self.me, self.term if term is None else term, call)

    def timeout_now_reply(self, sender: int, accepted: bool = True, term: int | None = None) -> TimeoutNowReply:
        """Of a target that stands in the next term, or does not."""
        standard = self.term + 1 if accepted else self.term
        return TimeoutNowReply(sender, self.me, standard if term is None else term, accepted)

    def append(
        self,
        sender: int = 2,
        prev: LogPosition = ORIGIN,
        terms: Sequence[int] = (),
        *,
        term: int | None = None,
        commit: int = 0,
        lease_ms: int = 0,
        round: int = 1,
        call: int = 0,
    ) -> AppendEntries:
        """A leader's request with entries of these terms behind `prev`."""
        term = self.term if term is None else term
        new = tuple(entries(terms, prev.index + 1))
        return AppendEntries(sender, self.me, term, prev, new, commit, lease_ms, round, call)

    def append_members(
        self, *voters: int, sender: int = 2, prev: LogPosition = ORIGIN, commit: int = 0, lease_ms: int = 0
    ) -> AppendEntries:
        """A leader's request with a configuration of these voters behind `prev`."""
        entry = members_entry(prev.index + 1, *voters, term=self.term)
        return AppendEntries(sender, self.me, self.term, prev, (entry,), commit, lease_ms, 1)

    def install(self, sender: int, snapshot: SnapshotMeta, term: int | None = None, call: int = 0) -> InstallSnapshot:
        """A leader's snapshot, all of which has come in."""
        return InstallSnapshot(sender, self.me, self.term if term is None else term, snapshot, call)

    def installed(self, sender: int, match: int, term: int | None = None) -> InstallSnapshotReply:
        """Success of a snapshot that was sent."""
        round = self.raft.role.rounds.current if isinstance(self.raft.role, Leader) else 1
        return InstallSnapshotReply(sender, self.me, self.term if term is None else term, True, match, asked_in=round)

    def ack(
        self, sender: int, match: int | None = None, round: int | None = None, term: int | None = None
    ) -> AppendEntriesReply:
        """Success. If not said otherwise: of everything, in the current round."""
        match = self.raft.log.last_index if match is None else match
        round = self.leader.rounds.current if round is None else round
        return AppendEntriesReply(sender, self.me, self.term if term is None else term, True, round, match)

    def rejection(
        self,
        sender: int,
        rejected: int,
        conflicting_term: int = 0,
        conflicting_index: int = 0,
        round: int = 1,
        term: int | None = None,
    ) -> AppendEntriesReply:
        return AppendEntriesReply(
            sender,
            self.me,
            self.term if term is None else term,
            False,
            round,
            rejected_index=rejected,
            conflicting_term=conflicting_term,
            conflicting_index=conflicting_index,
        )
