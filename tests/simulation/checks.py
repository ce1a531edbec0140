"""What must hold of the cluster as a whole, checked at every step: theory of operation.

The members' own invariants are checked by the members (raft/invariants.py). Here is what only somebody can see who sees
all of them at once, and what must survive their crashes (Raft paper, figure 3). A check looks at what the step has
changed, and at nothing else; each of them holds for the whole if it holds for each step.

What a member has made durable is kept here as its `Storage` has claimed it: the claim is checked at the next start,
when the disk gives back what it really holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from raftkv.kv import KEY_OVERHEAD_BYTES, StateMachine
from raftkv.kv_snapshot import decode
from raftkv.log_storage import LogStorage
from raftkv.operations import Operation, decode_batch, parse_text
from raftkv.raft.configuration import Configurations, decode_configuration
from raftkv.raft.lease import Grant
from raftkv.raft.log import Log
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from raftkv.raft.roles import Leader
from raftkv.raft.types import NOBODY, Configuration, Entry, EntryKind, HardState, LogPosition, SnapshotMeta
from raftkv.replica import Replica
from tests.simulation.calls import describe, describe_entry
from tests.simulation.world import Clock, Violation, World


def incarnation_of(member: int, disk: int) -> bytes:
    """Of the directory that is made on this one of the member's disks."""
    return bytes([member, disk + 1]) * 8


@dataclass(frozen=True, slots=True)
class _Persist:
    """A call of `persist` that has not returned: a crash may leave it done, half done, or not done."""

    hard_state: HardState | None
    entries: Sequence[Entry]
    commit_index: int
    term_before: int
    """Of the durable state that this one follows."""


@dataclass(frozen=True, slots=True)
class _Adopt:
    """The same, of `adopt_snapshot` and `install_snapshot`."""

    last: LogPosition
    log: list[Entry]
    """What the durable log is then, with what the snapshot stands for."""


@dataclass(slots=True)
class _View:
    """What is known of one member."""

    clock: Clock
    disk: int = 0
    """Which of its disks this is; the first is 0."""
    durable: list[Entry] = field(default_factory=list)
    """The whole log, with what a snapshot stands for now."""
    snapshot_index: int = 0
    """The last entry that the durable snapshot stands for; 0: there is none."""
    hard_state: HardState = HardState()  # noqa: RUF009 (it is frozen)
    commit_remembered: int = 0
    under_way: _Persist | _Adopt | None = None
    # Of the present life:
    replica: Replica | None = None
    term: int = 0
    commit_index: int = 0
    applied_index: int = 0
    leads_term: int = 0
    """The last term that it was seen to lead."""
    matches: dict[int, int] = field(default_factory=dict)
    lease: Grant | None = None


class Checks:
    def __init__(self, world: World, trusts_clocks: bool) -> None:
        """`trusts_clocks`: the clocks are as good as is assumed, so that what is said of leases must hold."""
        self._world = world
        self._trusts_clocks = trusts_clocks
        self.elected: Callable[[int], None] = lambda member: None
        """Is told of every election that is won."""
        self._views: dict[int, _View] = {}
        self._shelf: dict[tuple[int, int], _View] = {}
        """(member, disk) -> what was known of it when it had this one."""
        self._leaders: dict[int, int] = {}
        """Term -> who has led it."""
        self._votes: dict[tuple[int, int, int], int] = {}
        """(voter, its disk, term) -> for whom."""
        self.configuration = NOBODY
        """The last one that has been committed; before that, the founding one, which is to be set."""
        self._entries: dict[tuple[int, int], tuple[int, Entry]] = {}
        """(index, term) -> the term before, and the entry itself."""
        self.committed: list[Entry] = []
        """What any member has ever taken for committed: it must stay so."""
        self.committed_in: dict[int, int] = {}
        """Index -> the term of whoever was the first to take it for committed; its own if nobody was seen to."""
        self._released: set[tuple[int, int]] = set()
        """(member, term): it has told somebody to take over from it, so it must not hold a lease in that term."""
        self._digests: dict[int, bytes] = {}
        self._executed: dict[bytes, int] = {}
        """A value that a client has written -> the index of the entry that did it. No value is written twice."""
        self._executed_to = 0

    def watch(self, member: int, clock: Clock) -> None:
        """There is a member with this clock."""
        self._views[member] = _View(clock)

    def wiped(self, member: int) -> int:
        """It has an empty disk, and is another one from now on. The disk's number."""
        disk = 1 + max([self._views[member].disk, *(number for other, number in self._shelf if other == member)])
        self._shelf[member, disk] = _View(self._views[member].clock, disk)
        self.exchanged(member, disk)
        return disk

    def exchanged(self, member: int, disk: int) -> None:
        """It has another one of its disks, with all that it knew when it had that."""
        present = self._views[member]
        assert present.replica is None, "it is off"
        self._shelf[member, present.disk] = present
        self._views[member] = self._shelf.pop((member, disk))
        for view in self._views.values():
            view.matches.pop(member, None)

    def disk_of(self, member: int) -> int:
        """The number of the disk with which it belongs to the cluster; if there is none, of the one that it has."""
        return self._meant(self.configuration, member).disk

    def former_disk(self, member: int) -> int:
        """Of all that it has had but does not have, the latest."""
        return max(number for other, number in self._shelf if other == member)

    def _meant(self, configuration: Configuration, member: int) -> _View:
        """The member with the disk with which it has its vote by this configuration."""
        present, number = self._views[member], -1
        if disk := configuration.disk_of(member):
            number = next(n for n in range(256) if incarnation_of(member, n) == disk)
        elif member in configuration.voters and member not in dict(configuration.joined):
            number = 0
        return present if number in (-1, present.disk) else self._shelf[member, number]

    def perhaps_members(self) -> set[int]:
        """Whoever belongs to the cluster by the last configuration that has been committed, or by any that may be
        committed yet."""
        found = set(self.configuration.members)
        for configuration in self._uncommitted():
            found |= configuration.members
        return found

    def _uncommitted(self) -> list[Configuration]:
        """Those in any log behind what has been committed."""
        found, committed = [], len(self.committed)
        for view in self._views.values():
            log = Configurations(NOBODY, committed)
            log.take_in(entry for entry in view.durable[committed:])
            raft = view.replica.raft if view.replica is not None else None
            if raft is not None and raft.log.configurations.latest_index > committed:
                found.append(raft.configuration)
            if log.latest_index > committed:
                found.append(log.latest)
        return found

    # ---- the disk ----------------------------------------------------------------------------------------------------

    def persisting(
        self, member: int, hard_state: HardState | None, entries: Sequence[Entry], commit_index: int
    ) -> None:
        """The member is about to make this durable."""
        view = self._views[member]
        if view.replica is not None and commit_index > len(self.committed):
            self._check_commit(member, view, view.replica)  # it is remembered with the entries
        view.under_way = _Persist(hard_state, list(entries), commit_index, view.hard_state.term)

    def persisted(self, member: int) -> None:
        """It says that it has."""
        view = self._views[member]
        persist, view.under_way = view.under_way, None
        assert isinstance(persist, _Persist)
        if persist.hard_state is not None:
            self._remember_hard_state(member, view, persist.hard_state)
        if persist.entries:
            self._remember_entries(member, view, persist)

    def adopting(self, member: int, meta: SnapshotMeta, content: bytes) -> None:
        """The member is about to begin every restart from this snapshot."""
        self._check_snapshot(member, meta, content)
        view = self._views[member]
        view.under_way = _Adopt(meta.last, view.durable)

    def installing(self, member: int, meta: SnapshotMeta, content: bytes) -> None:
        """The same, of a snapshot from a leader."""
        self._check_snapshot(member, meta, content)
        view, index = self._views[member], meta.last.index
        if index <= view.commit_index:
            raise Violation(f"n{member} installs a snapshot up to {index}, but has committed up to {view.commit_index}")
        view.under_way = _Adopt(meta.last, self.committed[:index])
        self._world.count("storage", "snapshots installed")

    def _check_snapshot(self, member: int, meta: SnapshotMeta, content: bytes) -> None:
        view, last = self._views[member], meta.last
        if last.index > len(self.committed) or self.committed[last.index - 1].term != last.term:
            raise Violation(f"n{member} adopts a snapshot up to {last}, which was never committed")
        if last.index <= view.snapshot_index:
            raise Violation(f"n{member} adopts a snapshot up to {last} after one up to entry {view.snapshot_index}")
        found, state = decode(_InMemory(content))
        if found != meta:
            raise Violation(f"n{member} adopts a snapshot of {found} as one of {meta}")
        machine = StateMachine()
        machine.restore(state)
        self.compare(member, machine)

    def installed(self, member: int) -> None:
        """It says that it will."""
        view = self._views[member]
        self._take_snapshot(view)
        view.applied_index = view.snapshot_index
        self._world.tell(f"n{member}", f"has installed the state after entry {view.snapshot_index}")

    def _take_snapshot(self, view: _View) -> None:
        begun, view.under_way = view.under_way, None
        assert isinstance(begun, _Adopt)
        view.snapshot_index, view.durable = begun.last.index, begun.log

    def adopted(self, member: int, first_index: int) -> None:
        """It says that it will."""
        view = self._views[member]
        self._take_snapshot(view)
        self._world.count("storage", "snapshots adopted")
        if first_index > 1:
            self._world.count("storage", "snapshots adopted, of a log that begins later than with entry 1")
        self._world.tell(f"n{member}", f"has saved its state after entry {view.snapshot_index}")

    def _remember_hard_state(self, member: int, view: _View, new: HardState) -> None:
        old = view.hard_state
        if new.term < old.term or new.longest_promise_ms < old.longest_promise_ms:
            raise Violation(f"n{member}'s durable state goes back from {old} to {new}")
        if new.voted_for:
            self._vote(member, new.term, new.voted_for)
        view.hard_state = new

    def _remember_entries(self, member: int, view: _View, persist: _Persist) -> None:
        entries, log = persist.entries, view.durable
        first = entries[0].index
        replaced = log[first - 1 :]
        del log[first - 1 :]
        for entry in entries:
            self._match(member, log[-1].term if log else 0, entry)
            log.append(entry)
        view.commit_remembered = min(persist.commit_index, len(log))
        if replaced:
            self._check_truncation(member, view, replaced, persist.term_before)

    def _check_truncation(self, member: int, view: _View, replaced: Sequence[Entry], term_before: int) -> None:
        """What has been committed stays. But for a member that hears a leader of before late: it has acknowledged to no
        later one what it has, so nothing was committed by that; and it can't know better."""
        log = view.durable
        self._world.count("storage", "truncations")
        if self._world.is_traced:
            self._world.tell(f"n{member}", f"replaces its entries from {replaced[0].index} to {replaced[-1].index}")
        for entry in replaced:
            if entry.index > len(self.committed) or self.committed[entry.index - 1].term != entry.term:
                break
            if entry.index > len(log) or (term := log[entry.index - 1].term) != entry.term:
                committed_in = self.committed_in.get(entry.index, entry.term)
                if entry.index <= len(log) and max(term, term_before) < committed_in and self._is_kept(entry):
                    self._world.count("storage", "committed entries dropped for a leader of before")
                    break
                raise Violation(f"n{member} drops the committed entry {describe_entry(entry)}")
        for other, leader in self._views.items():
            if leader.leads_term != view.hard_state.term or leader.matches.get(member, 0) <= len(log):
                continue
            if leader.replica is None or self._meant(leader.replica.raft.configuration, member) is view:
                raise Violation(f"n{member} drops entries that n{other}, the leader of its term, counts on")

    def _is_kept(self, entry: Entry) -> bool:
        """Whether what has been committed is durable on a majority as it is now."""
        return any(
            _is_majority(configuration.voters, self._holders_of(entry.position, configuration))
            for configuration in [self.configuration, *self._uncommitted()]
        )

    def _match(self, member: int, previous_term: int, entry: Entry) -> None:
        """Log Matching: equal index and term, equal entry; and equal before it, since that was checked in its turn."""
        known = self._entries.setdefault((entry.index, entry.term), (previous_term, entry))
        if known[0] != previous_term or (known[1] is not entry and known[1] != entry):
            raise Violation(
                f"n{member} has {describe_entry(entry)} after one of term {previous_term}, "
                f"another member has {describe_entry(known[1])} after one of term {known[0]} (Log Matching)"
            )

    def recovered(self, member: int, storage: LogStorage) -> None:
        """A start has found this on the disk: what was durable has to be there, and nothing that was never written."""
        view, first, last = self._views[member], storage.first_index(), storage.last_index()
        found = storage.entries(first, last, 1 << 60) if first <= last else []
        snapshot_index = storage.snapshot.last.index if storage.snapshot else 0
        if first > snapshot_index + 1:
            raise Violation(f"n{member} has a snapshot up to {snapshot_index}, and a log from {first} on")
        if first > 1 and storage.previous() != self.committed[first - 2].position:
            raise Violation(f"n{member} has forgotten {storage.previous()}, not {self.committed[first - 2].position}")
        possible = self._possible(view)
        if (storage.hard_state, snapshot_index, storage.commit_index, found) not in (
            (state, snapshot, max(snapshot, commit), log[first - 1 :]) for state, snapshot, commit, log in possible
        ):
            expected = " or ".join(
                f"{state}, snapshot to {snapshot}, log to {len(log)}, commit {commit}"
                for state, snapshot, commit, log in possible
            )
            raise Violation(
                f"n{member} recovers {storage.hard_state}, snapshot to {snapshot_index}, log from {first} to {last}, "
                f"commit {storage.commit_index}, but what it made durable was {expected}"
            )
        if storage.commit_index > len(self.committed):
            raise Violation(f"n{member} recovers commit index {storage.commit_index}, which was never committed")
        # What was found counts as durable from now on, as the start has synced it.
        self._finish(member, view, storage, last)

    def _possible(self, view: _View) -> list[tuple[HardState, int, int, list[Entry]]]:
        """What a start may find: hard state, snapshot's index, commit index, log."""
        begun, snapshot, commit, log = view.under_way, view.snapshot_index, view.commit_remembered, view.durable
        possible = [(view.hard_state, snapshot, commit, log)]
        if isinstance(begun, _Adopt):
            possible.append((view.hard_state, begun.last.index, commit, begun.log))
        elif begun is not None:
            hard_state = begun.hard_state or view.hard_state
            possible.append((hard_state, snapshot, commit, log))
            if begun.entries:
                log = [*log[: begun.entries[0].index - 1], *begun.entries]
                possible.append((hard_state, snapshot, min(begun.commit_index, len(log)), log))
        return possible

    def _finish(self, member: int, view: _View, storage: LogStorage, last: int) -> None:
        begun = view.under_way
        if isinstance(begun, _Adopt) and storage.snapshot is not None and storage.snapshot.last == begun.last:
            self._take_snapshot(view)
        view.under_way = None
        if isinstance(begun, _Persist):
            if storage.hard_state != view.hard_state:
                self._remember_hard_state(member, view, storage.hard_state)
            entries = begun.entries
            if entries and last == entries[-1].index and storage.term(last) == entries[-1].term:
                self._remember_entries(member, view, begun)

    # ---- a member's life ---------------------------------------------------------------------------------------------

    def started(self, member: int, replica: Replica) -> None:
        """A new life begins."""
        view = self._views[member]
        view.replica = replica
        view.term, view.commit_index = replica.raft.current_term, replica.raft.committed_index
        view.applied_index, view.leads_term = replica.machine.applied_index, 0
        view.matches, view.lease = {}, None

    def ended(self, member: int) -> None:
        """The process is no more."""
        self._views[member].replica = None

    def after_turn(self, member: int) -> None:
        """Check what a turn can have changed."""
        view = self._views[member]
        assert view.replica is not None
        raft = view.replica.raft
        if raft.current_term < view.term:
            raise Violation(f"n{member} goes back from term {view.term} to {raft.current_term}")
        view.term = raft.current_term
        if isinstance(raft.role, Leader):
            view.matches = {peer: match for peer, match in view.matches.items() if peer in raft.role.progress}
            self._check_leader(member, view, raft.role)
        if raft.committed_index != view.commit_index:
            self._check_commit(member, view, view.replica)
        if raft.lease is not view.lease:
            view.lease = raft.lease
            if view.lease is not None and (member, view.lease.term) in self._released:
                raise Violation(f"n{member} has let go of term {view.lease.term}, and holds a lease in it again")
            if view.lease is not None and self._trusts_clocks:
                self._check_lease(member, view)

    def _check_leader(self, member: int, view: _View, role: Leader) -> None:
        if view.leads_term != view.term:
            self._check_election(member, view)
        if view.hard_state.term != view.term or view.hard_state.voted_for != member:
            raise Violation(f"n{member} leads term {view.term}, but its own vote is not durable: {view.hard_state}")
        for peer, progress in role.progress.items():
            match = progress.match_index
            if match == view.matches.get(peer, 0) or peer in role.leaving:
                continue  # who is leaving counts for nothing, and may have lost its disk by now
            view.matches[peer] = match
            if not match:
                continue
            assert view.replica is not None
            meant = self._meant(view.replica.raft.configuration, peer)
            theirs = meant.durable
            if meant.hard_state.term != view.term:
                continue  # a leader of a later term may have replaced what the peer acknowledged to this one
            if match > len(theirs) or theirs[match - 1].term != self._term(view.replica.raft.log, match):
                raise Violation(
                    f"n{member} counts on n{peer} for entry {match}, but that is not in n{peer}'s durable log"
                )

    def _term(self, log: Log, index: int) -> int:
        return log.term(index) if index >= log.previous.index else self.committed[index - 1].term

    def _check_election(self, member: int, view: _View) -> None:
        leader = self._leaders.setdefault(view.term, member)
        if leader != member:
            raise Violation(f"n{leader} and n{member} both lead term {view.term} (Election Safety)")
        view.leads_term, view.matches = view.term, {}
        self._world.count("elections", "won")
        self._vote(member, view.term, member)
        assert view.replica is not None
        log, configuration = view.replica.raft.log, view.replica.raft.configuration
        voters = configuration.voters
        granted = {
            voter
            for voter in self._views
            if self._votes.get((voter, self._meant(configuration, voter).disk, view.term)) == member
        }
        if not _is_majority(voters, granted):
            raise Violation(f"n{member} leads term {view.term} by the votes of {granted} among {set(voters)}")
        if self.committed and not log.holds(self.committed[-1].position):
            last = describe_entry(self.committed[-1])
            raise Violation(
                f"n{member} leads term {view.term} without the committed entry {last} (Leader Completeness)"
            )
        self.elected(member)

    def _vote(self, voter: int, term: int, candidate: int) -> None:
        earlier = self._votes.setdefault((voter, self._views[voter].disk, term), candidate)
        if earlier != candidate:
            raise Violation(f"n{voter} votes for n{earlier} and for n{candidate} in term {term}")

    def _check_commit(self, member: int, view: _View, replica: Replica) -> None:
        log, index = replica.raft.log, replica.raft.committed_index
        if index < view.commit_index:
            raise Violation(f"n{member}'s commit index goes back from {view.commit_index} to {index}")
        view.commit_index = index
        if index > len(self.committed):
            term = log.term(index)
            configurations = self._configurations_at_commit(replica)
            holders = [self._holders_of(LogPosition(term, index), configuration) for configuration in configurations]
            if not any(_is_majority(c.voters, held_by) for c, held_by in zip(configurations, holders, strict=True)):
                raise Violation(f"n{member} commits entry {index}, which is durable only on {holders[0] or 'nobody'}")
            self._check_later_leaders(member, replica, LogPosition(term, index))
            if isinstance(replica.raft.role, Leader) and self._trusts_clocks:
                self._check_no_older_lease(member, view)
            for entry in log.entries(len(self.committed) + 1, index, 1 << 60):
                self.committed.append(entry)
                self.committed_in[entry.index] = replica.raft.current_term
                self._check_configuration(entry)
        if log.term(index) != self.committed[index - 1].term:
            ours = describe_entry(log.entries(index, index, 0)[0])
            theirs = describe_entry(self.committed[index - 1])
            raise Violation(f"n{member} commits {ours}, but another has committed {theirs}")

    def _holders_of(self, position: LogPosition, configuration: Configuration) -> list[int]:
        """On whose disks an entry is durable; of each the one with which it has its vote."""
        logs = {member: self._meant(configuration, member).durable for member in self._views}
        index, term = position.index, position.term
        return [member for member, log in logs.items() if len(log) >= index and log[index - 1].term == term]

    def _configurations_at_commit(self, replica: Replica) -> list[Configuration]:
        """Whose majority can have committed what this replica commits: of a leader that is the present configuration,
        or the one before, if it has begun to change it since. A follower has heard it from one that may be gone."""
        own = replica.raft.log.configurations
        configurations = [own.latest, own.previous]
        if not isinstance(replica.raft.role, Leader):
            configurations += [self.configuration, *self._uncommitted()]
        return configurations

    def _check_configuration(self, entry: Entry) -> None:
        """Committed configurations differ by one vote at most, each from the one before (dissertation, 4.1)."""
        if entry.kind is not EntryKind.CONFIGURATION:
            return
        before, self.configuration = self.configuration, decode_configuration(entry.payload)
        changed = before.voters ^ self.configuration.voters
        if len(changed) > 1:
            raise Violation(f"the votes of {set(changed)} change at once, with {describe_entry(entry)}")
        self._world.count("membership", "changes committed")
        if changed - before.voters:
            self._world.count("membership", "promotions")

    def _check_later_leaders(self, member: int, replica: Replica, position: LogPosition) -> None:
        """Leader Completeness, of those that were elected before this was known to be committed."""
        for other, view in self._views.items():
            raft = view.replica.raft if view.replica is not None else None
            if raft is None or not isinstance(raft.role, Leader) or raft.current_term <= replica.raft.current_term:
                continue
            if not raft.log.holds(position):
                raise Violation(
                    f"n{member} commits entry {position.index} of term {position.term}, which n{other}, the leader of "
                    f"term {raft.current_term}, does not have (Leader Completeness)"
                )

    # ---- leases ------------------------------------------------------------------------------------------------------

    def _holders(self) -> list[tuple[int, Grant]]:
        """Who could serve reads under a lease at this moment: also somebody who stands still."""
        found = []
        for member, view in self._views.items():
            lease = view.replica.raft.lease if view.replica is not None else None
            if lease is not None and lease.is_valid(view.clock.read()):
                found.append((member, lease))
        return found

    def _check_lease(self, member: int, view: _View) -> None:
        assert view.lease is not None
        if not view.lease.is_valid(view.clock.read()):
            return
        for other, lease in self._holders():
            if other != member:
                raise Violation(
                    f"n{member} holds a valid lease of term {view.lease.term}, and n{other} one of term {lease.term}"
                )

    def _check_no_older_lease(self, member: int, view: _View) -> None:
        for other, lease in self._holders():
            if lease.term < view.term:
                raise Violation(
                    f"n{member} commits in term {view.term} inside the lease of n{other}, term {lease.term}"
                )

    # ---- messages ----------------------------------------------------------------------------------------------------

    def sending(self, member: int, message: Message) -> None:
        """A message leaves: what it depends on must be durable."""
        view = self._views[member]
        if not (isinstance(message, RequestVote | RequestVoteReply) and message.pre_vote) and (
            message.term > view.hard_state.term
        ):
            raise Violation(f"n{member} sends before its term is durable: {describe(message)}")
        if isinstance(message, RequestVoteReply) and message.granted and not message.pre_vote:
            self._vote(member, message.term, message.recipient)
            # A later term may have begun in the same turn: that also rules out another vote in this one.
            durable = view.hard_state
            if durable.term == message.term and durable.voted_for != message.recipient:
                raise Violation(f"n{member} grants a vote that is not durable: {describe(message)}")
        # As above: in a later term, which may have begun in the same turn, its leader may have replaced these entries.
        same_term = message.term == view.hard_state.term
        if (
            isinstance(message, AppendEntriesReply | InstallSnapshotReply)
            and message.success
            and same_term
            and message.match_index > len(view.durable)
        ):
            raise Violation(f"n{member} acknowledges what is not durable: {describe(message)}")
        if isinstance(message, TimeoutNow):
            self._released.add((member, message.term))
            lease = view.replica.raft.lease if view.replica is not None else None
            if lease is not None:
                raise Violation(f"n{member} tells n{message.recipient} to take over, and still holds a lease")
        if (
            isinstance(message, AppendEntries | InstallSnapshot)
            and self._leaders.setdefault(message.term, member) != member
        ):
            raise Violation(
                f"n{member} acts as leader of term {message.term}, which n{self._leaders[message.term]} leads"
            )

    # ---- the state machine -------------------------------------------------------------------------------------------

    def applied(self, member: int, entry: Entry, machine: StateMachine, revision_before: int) -> None:
        """An entry has been applied: the same one everywhere, with the same effect."""
        view, index = self._views[member], entry.index
        if self._world.is_traced:
            self._world.tell(f"n{member}", f"applies {describe_entry(entry)}")
        if view.replica is not None and index != view.applied_index + 1:
            raise Violation(f"n{member} applies entry {index} after entry {view.applied_index}")
        view.applied_index = index
        if index > len(self.committed):
            # Committed in this very turn, whose check is still to come.
            assert view.replica is not None
            self._check_commit(member, view, view.replica)
        if entry != self.committed[index - 1]:
            committed = describe_entry(self.committed[index - 1])
            raise Violation(
                f"n{member} applies {describe_entry(entry)}, but another {committed} (State Machine Safety)"
            )
        if index > self._executed_to:
            self._executed_to = index
            self._check_executed(entry, machine, revision_before)
        self._check_size(member, machine)
        self.compare(member, machine)

    def _check_size(self, member: int, machine: StateMachine) -> None:
        records = {key: machine.record(key) for key in machine.all_keys()}
        size = sum(len(key) + len(record.value) + KEY_OVERHEAD_BYTES for key, record in records.items() if record)
        if machine.state_bytes != size:
            raise Violation(f"n{member} counts {machine.state_bytes} bytes of state, and has {size}")
        if 0 < machine.max_state_bytes < size:  # the limit is the same from the beginning on
            raise Violation(f"n{member}'s state of {size} bytes is larger than {machine.max_state_bytes}")

    def _check_executed(self, entry: Entry, machine: StateMachine, revision_before: int) -> None:
        """No client's write has an effect twice. It has had one now if its value stands there since this entry."""
        for operation in _operations(entry):
            record = machine.record(operation.key) if operation.value else None
            if record is not None and record.value == operation.value and record.mod_revision > revision_before:
                earlier = self._executed.setdefault(operation.value, entry.index)
                if earlier != entry.index:
                    raise Violation(
                        f"{operation.value!r} is written by entry {earlier} and by entry {entry.index} again"
                    )

    def compare(self, member: int, machine: StateMachine) -> None:
        """The same entries have led to the same state on every member."""
        digest = machine.digest()
        if self._digests.setdefault(machine.applied_index, digest) != digest:
            raise Violation(f"n{member}'s state after entry {machine.applied_index} is not that of the others")


@dataclass(frozen=True, slots=True)
class _InMemory:
    """A snapshot as `decode` reads it."""

    content: bytes
    name: str = "a snapshot"

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def _is_majority(voters: Collection[int], members: Collection[int]) -> bool:
    """Counted here: the algorithm's own function may be what is wrong."""
    return 2 * len(set(voters) & set(members)) > len(voters)


def _operations(entry: Entry) -> Sequence[Operation]:
    match entry.kind:
        case EntryKind.TEXT:
            return [parse_text(entry.payload.decode())]
        case EntryKind.BATCH:
            return decode_batch(entry.payload).operations
    return []
