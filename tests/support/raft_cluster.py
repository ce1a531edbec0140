"""A cluster on one thread, with virtual time and a network that the test commands: theory of operation.

The members are real (`Replica`: algorithm, state machine, storage in memory); what surrounds them is this module. An
event is a message's arrival or a member's deadline; `run` jumps from one to the next. A test cuts links, crashes,
pauses and restarts members, and hands in what clients ask for:

cluster = Cluster(3) leader = cluster.run_until_serving() cluster.isolate(leader.id) answer = cluster.write(leader.id,
"SET k v") cluster.run(2.0) assert isinstance(answer.outcome, Unknown)

After every turn the cluster checks what must hold between members (figure 3 of the paper, and the leases'). `story`
says in one short line each what has happened: `print("\\n".join(cluster.story))`."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from raftkv.kv import StateMachine
from raftkv.kv_snapshot import decode
from raftkv.memory_storage import MemoryStorage
from raftkv.operations import Batch, Operation, Result, encode_batch
from raftkv.raft.configuration import Add, Change, Remove
from raftkv.raft.core import Config, Raft
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    TimeoutNow,
    TimeoutNowReply,
)
from raftkv.raft.roles import Leader
from raftkv.raft.types import NOBODY, Configuration, Entry, EntryKind, HardState, LogPosition, Proposal
from raftkv.replica import (
    Applied,
    ConfigurationChange,
    Input,
    Outcome,
    Query,
    Replica,
    Served,
    SnapshotReceived,
    Unreachable,
    Write,
)
from raftkv.snapshots import load_snapshot
from raftkv.transport import Request
from tests.support.leases import lease_due
from tests.support.snapshots import encoded, file_with

Network = Callable[[Message], Sequence[float]]
"""After how many seconds each copy of a message arrives; none: it is lost."""


def on_time(message: Message) -> Sequence[float]:
    """A network that takes a millisecond and loses nothing."""
    return (0.001,)


def entries_of(terms: Sequence[int]) -> list[Entry]:
    """A log whose entries have these terms. Equal index and term make equal entries, as Log Matching wants it."""
    return [Entry(i, term, EntryKind.TEXT, b"SET k%d %d" % (i, term)) for i, term in enumerate(terms, 1)]


class Fixed(random.Random):
    """Always draws the same, so that a test decides who times out first: 0.0 soonest, 1.0 last."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


class Machine(StateMachine):
    """A state machine whose cluster watches what it applies."""

    def __init__(self, watch: Callable[[Entry], None]) -> None:
        super().__init__()
        self._watch = watch
        self.meanwhile: Callable[[], None] = lambda: None
        """Happens while a thread is in the middle of `find`."""

    def apply(self, entry: Entry) -> list[Result]:
        self._watch(entry)
        return super().apply(entry)

    def find(self, key: bytes) -> bytes | None:
        record = super().find(key)
        self.meanwhile()
        return record


@dataclass
class Answer:
    """A caller that keeps its outcome, and insists on getting only one."""

    outcome: Outcome | None = None
    callback: Callable[[Outcome], None] = lambda outcome: None
    wanted: bool = True

    def is_wanted(self) -> bool:
        return self.wanted

    def answer(self, outcome: Outcome) -> None:
        assert self.outcome is None, f"answered twice: {self.outcome}, then {outcome}"
        self.outcome = outcome
        self.callback(outcome)


@dataclass
class Member:
    """A place for a replica: what survives its crashes, and the replica while it runs."""

    id: int
    storage: MemoryStorage
    rate: float = 1.0
    """Seconds of its clock in a true second."""
    configuration: Configuration = NOBODY
    """Which it goes by until its log says otherwise."""
    running: Replica | None = None
    starts: int = 0
    paused: bool = False
    inbox: list[Input] = field(default_factory=list)
    """What arrives during a pause."""

    @property
    def is_up(self) -> bool:
        return self.running is not None

    @property
    def replica(self) -> Replica:
        assert self.running is not None, f"member {self.id} is down"
        return self.running

    @property
    def raft(self) -> Raft:
        return self.replica.raft

    @property
    def machine(self) -> Machine:
        machine = self.replica.machine
        assert isinstance(machine, Machine)
        return machine

    @property
    def leads(self) -> bool:
        return isinstance(self.raft.role, Leader)

    @property
    def leader(self) -> Leader:
        role = self.raft.role
        assert isinstance(role, Leader)
        return role

    @property
    def log_terms(self) -> list[int]:
        log = self.raft.log
        return [log.term(i) for i in range(log.previous.index + 1, log.last_index + 1)]

    def clock(self, now: float) -> float:
        """Its own clock at the true time `now`."""
        return now * self.rate

    def has_lease(self, now: float) -> bool:
        lease = self.raft.lease
        return lease is not None and lease.is_valid(self.clock(now))


@dataclass(frozen=True)
class Packed:
    """A snapshot on its way, all of it in one piece."""

    message: InstallSnapshot
    data: bytes


class Cluster:
    def __init__(
        self,
        size: int = 3,
        *,
        config: Config | Mapping[int, Config] = Config(),  # noqa: B008 (frozen)
        logs: Mapping[int, Sequence[int]] | None = None,
        term: int = 0,
        patience: Mapping[int, float] | None = None,
        rates: Mapping[int, float] | None = None,
        network: Network = on_time,
        seed: int = 0,
    ) -> None:
        """Members 1..size, all of them started at the time 0. `logs`: the terms of the entries that a member has from
        the start. `term`: at least what everybody's current term is by then. `patience`: draws for the election
        timeouts of those named, from 0.0 to 1.0; the others draw at random."""
        self.now = 0.0
        self.configuration = Configuration(frozenset(range(1, size + 1)))
        self.network = network
        self.cut: set[tuple[int, int]] = set()
        """Links (from, to) on which nothing arrives."""
        self.report_lost = False
        """Whether a member learns (`Unreachable`) that a request of its own was lost."""
        self._story: list[tuple[float, str | Message, bool]] = []
        """(when, what, whether it was lost); put into words only when somebody reads it."""
        self.leaders: dict[int, int] = {}
        """Term -> who has led it."""
        self.committed: list[Entry] = []
        """All that any member has ever applied."""
        self._config = config
        self._patience = dict(patience or {})
        self._seed = seed
        self._arrivals: list[tuple[float, int, Input | Packed, int]] = []
        """(when, a number that keeps the order, what, to whom): a heap."""
        self._sent = 0
        self.members = {
            i: Member(i, MemoryStorage(i), (rates or {}).get(i, 1.0), self.configuration)
            for i in sorted(self.configuration.voters)
        }
        for i, member in self.members.items():
            log = entries_of((logs or {}).get(i, ()))
            member.storage.persist(HardState(max([term, *(entry.term for entry in log)])), log, 0)
            self.start(i)

    # ---- members -----------------------------------------------------------------------------------------------------

    def start(self, id: int) -> None:
        """Start a member that is down, from what is durable."""
        member = self.members[id]
        assert not member.is_up
        machine = Machine(lambda entry: self._applied(member, entry))
        load_snapshot(member.storage, machine)
        for entry in member.storage.replay():
            machine.apply(entry)
        member.starts += 1
        patience = self._patience.get(id)
        rng = random.Random(f"{self._seed} {id} {member.starts}") if patience is None else Fixed(patience)
        member.running = Replica(
            member.configuration,
            id,
            self._config if isinstance(self._config, Config) else self._config[id],
            member.storage,
            machine,
            rng,
            member.clock(self.now),
            send=self._send,
            note=lambda text: self.tell(f"S{id}: {text}"),
        )
        if member.starts > 1:
            self.tell(f"S{id}: starts again")

    def join(self, id: int, joined: int = 0) -> Member:
        """Start a new member, which knows of no configuration; or one that has lost all that it had. `joined`: which
        entry has brought it in, as the cluster has told it."""
        self.members[id] = Member(id, MemoryStorage(id, joined=joined))
        self.start(id)
        return self.members[id]

    def crash(self, id: int) -> None:
        """Stop a member dead. Its storage keeps what `persist` was given."""
        member = self.members[id]
        member.running, member.inbox, member.paused = None, [], False
        self.tell(f"S{id}: crashes")

    def compact(self, id: int, keep_from: int | None = None) -> None:
        """Have a member save its state, and forget the entries before `keep_from` (None: all that it has applied)."""
        member = self.members[id]
        meta, data = encoded(member.machine)
        keep_from = meta.last.index + 1 if keep_from is None else keep_from
        member.storage.adopt_snapshot(meta, file_with(member.storage, data), keep_from)
        self.tell(f"S{id}: forgets the entries before {keep_from}, which are in a snapshot to {meta.last.index}")

    def restart(self, id: int) -> None:
        self.crash(id)
        self.start(id)

    def pause(self, id: int) -> None:
        """Stop a member like SIGSTOP: its clock goes on, and what arrives waits for it."""
        self.members[id].paused = True
        self.tell(f"S{id}: is paused")

    def resume(self, id: int) -> None:
        """Let it go on, with all that has arrived meanwhile as one batch."""
        member = self.members[id]
        member.paused = False
        self.tell(f"S{id}: goes on")
        inputs, member.inbox = member.inbox, []
        self.turn(member, inputs)

    # ---- the network -------------------------------------------------------------------------------------------------

    def cut_between(self, ones: Sequence[int], others: Sequence[int]) -> None:
        """Cut all links between the ones and the others, both ways."""
        self.cut |= {link for a in ones for b in others for link in ((a, b), (b, a))}

    def isolate(self, *ids: int) -> None:
        """Cut these off from all the rest."""
        self.cut_between(ids, [i for i in self.members if i not in ids])

    def heal(self) -> None:
        self.cut.clear()

    def _send(self, message: Message) -> None:
        link = (message.sender, message.recipient)
        delays = () if link in self.cut else self.network(message)
        self._story.append((self.now, message, not delays))
        item = self._packed(message) if isinstance(message, InstallSnapshot) else message
        for delay in delays:
            self._schedule(self.now + delay, item, message.recipient)
        if not delays and isinstance(message, InstallSnapshot | InstallSnapshotReply):
            self._break_off(message)
        if not delays and self.report_lost and isinstance(message, Request):
            self._schedule(self.now + 0.01, Unreachable(message.recipient), message.sender)

    def _packed(self, message: InstallSnapshot) -> Packed:
        """With the file, which a real driver sends in chunks."""
        reader = self.members[message.sender].storage.open_snapshot()
        return Packed(message, reader.read(0, reader.size))

    def _unpacked(self, packed: Packed, member: Member) -> Input:
        writer = file_with(member.storage, packed.data)
        meta, state = decode(writer)
        return SnapshotReceived(replace(packed.message, snapshot=meta), writer, state)

    def _break_off(self, message: InstallSnapshot | InstallSnapshotReply) -> None:
        """A transfer has failed, or its answer was lost: the leader's driver always says so."""
        leader, peer = message.sender, message.recipient
        if isinstance(message, InstallSnapshotReply):
            leader, peer = peer, leader
        self._schedule(self.now + 0.01, Unreachable(peer), leader)

    def _schedule(self, when: float, item: Input | Packed, whom: int) -> None:
        self._sent += 1
        heapq.heappush(self._arrivals, (when, self._sent, item, whom))

    # ---- clients -----------------------------------------------------------------------------------------------------

    def write(self, id: int, *commands: str) -> Answer:
        """Hand in writes at member `id`, all in one turn. The answer of the last."""
        return self.propose(id, *(Proposal(EntryKind.TEXT, command.encode()) for command in commands))

    def batch(self, id: int, *operations: Operation, session: int = 0, lowest_unanswered: int = 0) -> Answer:
        """Hand in a client's batch at member `id`."""
        batch = Batch(operations, session, lowest_unanswered)
        return self.propose(id, Proposal(EntryKind.BATCH, encode_batch(batch)))

    def propose(self, id: int, *proposals: Proposal) -> Answer:
        answers = [Answer() for _ in proposals]
        self.turn(self.members[id], list(map(Write, proposals, answers)))
        return answers[-1]

    def change(self, id: int, change: Change) -> Answer:
        """Ask for a change of the configuration at member `id`."""
        answer = Answer()
        self.turn(self.members[id], [ConfigurationChange(change, answer)])
        return answer

    def add(self, id: int) -> Member:
        """Add a new member to the cluster, and let time pass until it has its vote."""
        leader, member = self.run_until_serving(), self.join(id)
        answer = self.change(leader.id, Add(id, f"address of {id}"))
        assert self.run_until(lambda: id in leader.raft.configuration.voters), answer.outcome
        assert self.run_until(lambda: not leader.raft.is_changing)
        return member

    def remove(self, id: int) -> None:
        """Remove a member, and let time pass until that is so."""
        answer = self.change(self.run_until_serving().id, Remove(id))
        assert self.run_until(lambda: answer.outcome is not None)
        assert isinstance(answer.outcome, Applied), answer.outcome

    def query(self, id: int, read: Callable[[StateMachine], Any]) -> Answer:
        """Hand in a linearizable read at member `id`. What it is served must hold all that anybody has applied by
        now."""
        committed = len(self.committed)

        def check(outcome: Outcome) -> None:
            applied = self.members[id].machine.applied_index
            stale = isinstance(outcome, Served) and applied < committed
            self._require(not stale, f"S{id} reads at {applied} what was at {committed} when it was asked")

        answer = Answer(callback=check)
        self.turn(self.members[id], [Query(read, answer)])
        return answer

    def read_key(self, id: int, key: bytes) -> Answer:
        return self.query(id, lambda machine: machine.get(key))

    # ---- time --------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], within: float = 30.0) -> bool:
        """Let time pass until the condition holds, or for `within` seconds. Whether it holds."""
        end = self.now + within
        while not condition():
            if not self._next_event(end):
                self.now = end
                return condition()
        return True

    def run_until_serving(self, within: float = 30.0) -> Member:
        """Let time pass until some leader serves, and return it."""
        assert self.run_until(lambda: self.serving() is not None, within), f"nobody serves\n{self.tail()}"
        leader = self.serving()
        assert leader is not None
        return leader

    def serving(self) -> Member | None:
        """The leader of the highest term, if it serves."""
        leaders = [m for m in self.members.values() if m.is_up and m.leads]
        latest = max(leaders, key=lambda m: m.raft.current_term, default=None)
        return latest if latest and latest.raft.is_serving else None

    def max_term(self) -> int:
        return max(member.storage.hard_state.term for member in self.members.values())

    def _next_event(self, end: float) -> bool:
        """Go on to the next event up to the time `end`. Whether there was one."""
        awake = [m for m in self.members.values() if m.is_up and not m.paused]
        sleeper = min(awake, key=lambda m: m.replica.deadline() / m.rate, default=None)
        deadline = sleeper.replica.deadline() / sleeper.rate if sleeper else end + 1
        arrival = self._arrivals[0][0] if self._arrivals else end + 1
        if min(deadline, arrival) > end:
            return False
        if arrival <= deadline:
            self.now = max(self.now, arrival)
            _, _, item, whom = heapq.heappop(self._arrivals)
            self.hand_in(whom, item)
        elif sleeper:
            self.now = max(self.now, deadline)
            # Rounding must not wake it up just before what it wants to be woken for.
            self.turn(sleeper, [], at_least=sleeper.replica.deadline())
        return True

    def hand_in(self, id: int, item: Input | Packed) -> None:
        """Let something arrive at a member right now."""
        member = self.members[id]
        if isinstance(item, Packed):
            if member.is_up:
                item = self._unpacked(item, member)
            else:
                self._break_off(item.message)
        if isinstance(item, Packed):
            pass  # it has not arrived
        elif member.paused:
            member.inbox.append(item)
        elif member.is_up:
            self.turn(member, [item])

    def turn(self, member: Member, inputs: Sequence[Input], at_least: float = 0.0) -> None:
        now = max(member.clock(self.now), at_least)
        more = member.replica.turn(inputs, now)
        while more:
            self._check(member)
            more = member.replica.turn([], now)
        self._check(member)
        self._require(member.raft.ready() is None, f"S{member.id} has more to do than it says")

    # ---- what must hold between members ------------------------------------------------------------------------------

    def _check(self, member: Member) -> None:
        raft = member.raft
        if member.leads:
            first = raft.current_term not in self.leaders
            leader = self.leaders.setdefault(raft.current_term, member.id)
            self._require(leader == member.id, f"S{leader} and S{member.id} lead term {raft.current_term}")
            if first and self.committed:
                last = self.committed[-1]
                self._require(raft.log.holds(last.position), f"S{member.id} leads without the committed {show(last)}")
        due = lease_due(raft)
        self._require(raft.lease == due, f"S{member.id} holds {raft.lease}, where {due} follows from the answers")
        holders = [m.id for m in self.members.values() if m.is_up and m.has_lease(self.now)]
        self._require(len(holders) <= 1, f"{holders} hold a lease at the same time")

    def _applied(self, member: Member, entry: Entry) -> None:
        if entry.index <= len(self.committed):
            known = self.committed[entry.index - 1]
            self._require(known == entry, f"S{member.id} applies {show(entry)} where {show(known)} was applied")
            return
        self.committed.append(entry)
        self.tell(f"S{member.id}: commits {show(entry)}")
        for other in self.members.values():
            lease = other.is_up and other is not member and other.has_lease(self.now)
            self._require(not lease, f"S{member.id} commits {show(entry)} while S{other.id} holds a lease")

    def check_logs(self) -> None:
        """Log Matching: where two logs have an entry of the same index and term, they are equal up to there."""
        logs = {m.id: _entries_held(m.storage) for m in self.members.values() if m.is_up}
        for (a, log_a), (b, log_b) in combinations(logs.items(), 2):
            same = [index for index in log_a.keys() & log_b.keys() if log_a[index].position == log_b[index].position]
            upto = max(same, default=0)
            parted = [i for i in log_a.keys() & log_b.keys() if i <= upto and log_a[i] != log_b[i]]
            self._require(not parted, f"the logs of S{a} and S{b} match at {upto} but not before")

    def _require(self, holds: bool, what: str) -> None:
        assert holds, f"at {self.now:.3f}: {what}\n{self.tail()}"

    # ---- the story ---------------------------------------------------------------------------------------------------

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self._story.append((self.now, what, False))

    @property
    def story(self) -> list[str]:
        return [tell_event(*event) for event in self._story]

    def tail(self, lines: int = 60) -> str:
        """The end of the story."""
        return "\n".join(tell_event(*event) for event in self._story[-lines:])


def _entries_held(storage: MemoryStorage) -> dict[int, Entry]:
    first, last = storage.first_index(), storage.last_index()
    return {entry.index: entry for entry in storage.entries(first, last, 1 << 40)} if first <= last else {}


def tell_event(when: float, what: str | Message, lost: bool) -> str:
    if not isinstance(what, str):
        what = f"S{what.sender} -> S{what.recipient}  {describe(what)}{'  (lost)' if lost else ''}"
    return f"{when:7.3f}  {what}"


def show(entry: Entry) -> str:
    return f"{entry.index}@t{entry.term}"


def _show_position(position: LogPosition) -> str:
    return f"{position.index}@t{position.term}"


def describe(message: Message) -> str:
    """A message in a few words: `3@t2` is the entry at index 3, of term 2."""
    t = f"t{message.term}"
    if isinstance(message, AppendEntries):
        what = " ".join(map(show, message.entries)) or "nothing"
        return f"append {t}: {what} after {_show_position(message.prev)}, commit {message.leader_commit}"
    if isinstance(message, AppendEntriesReply):
        if message.success:
            return f"appended {t}: match {message.match_index}"
        why = f"t{message.conflicting_term}" if message.conflicting_term else "too short,"
        return f"rejected {t}: at {message.rejected_index}, {why} from {message.conflicting_index}"
    if isinstance(message, InstallSnapshot):
        return f"snapshot {t}: up to {_show_position(message.snapshot.last)}"
    if isinstance(message, InstallSnapshotReply):
        return f"snapshot {t}: {f'match {message.match_index}' if message.success else 'no'}"
    if isinstance(message, TimeoutNow):
        return f"take over from {t}"
    if isinstance(message, TimeoutNowReply):
        return f"takes over {t}: {'yes' if message.accepted else 'no'}"
    kind = "pre-vote" if message.pre_vote else "vote"
    if isinstance(message, RequestVote):
        released = f", released by S{message.released.leader} in t{message.released.term}" if message.released else ""
        return f"{kind}? {t}: last {_show_position(message.last)}{released}"
    lease = f", lease left {message.remaining_lease_ms} ms" if message.remaining_lease_ms else ""
    return f"{kind} {t}: {'yes' if message.granted else 'no'}{lease}"
