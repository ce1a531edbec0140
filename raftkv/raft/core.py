"""The Raft algorithm of one member: theory of operation.

`Raft` is a state machine without surroundings. Inputs are `step(message)`, `tick()`, `propose()`, `read()`,
`transfer()` and `unreachable()`, each with the time at which it happens; the output is `ready()`, whose contract is in
ready.py. One owner at a time, no threads, no clock, no input or output; randomness is handed in.

How a message is treated (Raft paper, figure 2; numbers in the comments are its sections, "diss." the dissertation's):

1. a difference of terms is settled once, in `_settle_term`, for all kinds of messages;
2. a table names the handler for the message; an answer is an input like any other, judged by the term and role of now;
3. handlers change state and put messages into the outbox; `ready()` alone decides what may leave before the disk.

Elections are in elections.py, changes of the membership in membership.py, the handing over of leadership in
transfer.py: functions of a `Raft`, which use what begins with an underscore here as its own methods do. Nobody else
does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raftkv.raft import elections, membership, transfer
from raftkv.raft.configuration import Change
from raftkv.raft.invariants import check_state, check_transition, observe
from raftkv.raft.lease import Grant, Promises
from raftkv.raft.log import InvariantBroken, Log, LogStore
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
    SignedReply,
    TimeoutNow,
    TimeoutNowReply,
)
from raftkv.raft.progress import Progress, State
from raftkv.raft.quorum import reached_by_majority
from raftkv.raft.ready import Ready, ReadyRead, Urgent
from raftkv.raft.roles import Candidate, Follower, Leader, Role, WaitingRead
from raftkv.raft.types import (
    ORIGIN,
    Configuration,
    Entry,
    HardState,
    LogPosition,
    Proposal,
    SnapshotMeta,
)


@dataclass(frozen=True, slots=True)
class Config:
    """What is tunable about the algorithm. Times in seconds."""

    election_timeout: float = 0.5
    """A follower waits for its leader for this long at least, and for a random time up to twice as long."""
    heartbeat_interval: float = 0.1
    lease_duration: float = 0.4
    """What a leader asks its followers to promise; 0: no leases, every read goes through ReadIndex."""
    clock_drift: float = 0.01
    """How far the rate of a member's clock may be from the true one, as a fraction."""
    max_append_bytes: int = 1 << 20
    """Payload of one AppendEntries; a single entry may be larger."""
    max_appends_in_flight: int = 2
    append_timeout: float = 0.5
    """How long entries may stay unanswered before they count as lost. A driver that says itself when a call has failed
    (`unreachable`) gives them longer: on a slow link, what is sent again only slows it down further."""
    max_apply_bytes: int = 1 << 18
    """Payload of what one Ready hands out to be applied, so that a long catch-up can't hold up the heartbeats."""
    term_settings: bytes = b""
    """The payload of this member's NO-OP, should it lead."""

    @property
    def lease_duration_ms(self) -> int:
        return int(self.lease_duration * 1000)


class NotLeader(Exception):
    """Only a leader can do this. Nothing has been done."""

    def __init__(self, leader_id: int) -> None:
        super().__init__(f"not the leader; the leader is {leader_id or 'not known'}")
        self.leader_id = leader_id
        """Who might be; 0: nobody known."""


class Raft:
    def __init__(
        self,
        config: Config,
        me: int,
        configuration: Configuration,
        store: LogStore,
        hard_state: HardState,
        committed_index: int,
        rng: random.Random,
        now: float,
        joined: int = 0,
        disk: bytes = b"",
    ) -> None:
        """The member `me` as it starts from what is durable: `hard_state`, the log in `store`, and `committed_index`, a
        commit index that was true before the restart (0 is always safe). Entries up to it count as applied already.
        `configuration`: the one that holds until the log, or the store's snapshot, says otherwise. `joined`: the index
        of the entry that brought in a member which has joined a running cluster; 0: not known. `disk`: the incarnation
        of the disk on which all this is."""
        self.config = config
        self.me = me
        self.log = Log(store, committed_index, configuration)
        self.handed_out_index = committed_index
        """The last entry handed out to be applied. handed_out_index <= log.committed_index <= log.last_index."""
        self.lease: Grant | None = None
        """The lease under which reads may be served right now; None without one. Replaced, never changed in place, so
        that it can be read without the turn."""
        self._joined = 0 if me in configuration.members else max(joined, 1)
        """Who was brought in by an entry before this one had its id before it; 0: it is a founding member."""
        self._disk = disk
        self._hard_state = hard_state
        self._durable_hard_state = hard_state
        self._promises = Promises(config.clock_drift)
        # What it had promised before it stopped is not known, so it counts as promised in full just now (rule 7).
        if hard_state.longest_promise_ms:
            self._promises.promise(0, 0, hard_state.longest_promise_ms, now)
        self._rng = rng
        self._now = now
        self._outbox: list[Message] = []
        self._lost_reads: list[int] = []
        self._notes: list[str] = []
        self._outstanding: Ready | None = None
        alone = self.configuration.voters == {me}
        self.role: Role = Follower(now if alone else self._draw_election_deadline())
        self._observed = observe(self)

    # ---- what can be asked of it at any time -------------------------------------------------------------------------

    @property
    def current_term(self) -> int:
        return self._hard_state.term

    @property
    def voted_for(self) -> int:
        return self._hard_state.voted_for

    @property
    def longest_promise_ms(self) -> int:
        return self._hard_state.longest_promise_ms

    @property
    def configuration(self) -> Configuration:
        """The latest one in the log, committed or not (diss. 4.1)."""
        return self.log.configurations.latest

    @property
    def is_changing(self) -> bool:
        """Whether the latest configuration is not known to be committed yet."""
        return self.log.configurations.latest_index > self.committed_index

    @property
    def committed_index(self) -> int:
        return self.log.committed_index

    @property
    def leader_id(self) -> int:
        """The leader of the current term as far as known, else 0."""
        role = self.role  # looked at once: whoever asks without the turn may see it change
        if isinstance(role, Leader):
            return self.me
        return role.leader_id if isinstance(role, Follower) else 0

    @property
    def is_serving(self) -> bool:
        """Whether it leads and has committed an entry of its own term, so that its commit index is current (6.4)."""
        role = self.role  # as above
        return isinstance(role, Leader) and self.committed_index >= role.term_start_index

    def deadline(self) -> float:
        """When `tick` is due next, if no other input comes first."""
        role = self.role
        if not isinstance(role, Leader):
            return role.election_deadline
        deadline = role.heartbeat_due
        if role.serve_from > self._now:
            deadline = min(deadline, role.serve_from)
        if role.transfer is not None:
            deadline = min(deadline, role.transfer.give_up_at)
        return deadline

    @property
    def is_handing_over(self) -> bool:
        """Whether it leads, and a transfer is under way: proposals are refused."""
        return isinstance(self.role, Leader) and self.role.transfer is not None

    # ---- inputs ------------------------------------------------------------------------------------------------------

    def step(self, message: Message, now: float) -> None:
        """Take in a message from a peer. Every request gets exactly one reply, also one of somebody who is no member as
        far as this one knows (diss. 4.1): its log may be behind. Whose answers count is judged when they do."""
        self._begin_input(now)
        if message.sender in (0, self.me) or message.recipient != self.me:
            raise ValueError(f"message from {message.sender} to {message.recipient} reached member {self.me}")
        if self._is_from_anothers_disk(message):
            return
        if self._settle_term(message):
            _HANDLERS[type(message)](self, message)

    def tick(self, now: float) -> None:
        """Let time pass: elections, heartbeats, the end of a wait."""
        self._begin_input(now)
        role = self.role
        if isinstance(role, Leader):
            self._tick_leader(role)
        elif self._now >= role.election_deadline:
            elections.start_pre_vote(self)

    def propose(self, proposals: Sequence[Proposal], now: float) -> list[LogPosition]:
        """Append entries to the leader's log; they go out with the next Ready. Raises NotLeader; also while leadership
        is being handed over, for the target could never catch up with a log that goes on growing (3.10)."""
        self._begin_input(now)
        leader = self._require_leader()
        if leader.transfer is not None:
            raise NotLeader(leader.transfer.target)
        time_ms = leader.log_time(self._now)
        first = self.log.last_index + 1
        entries = [Entry(first + i, self.current_term, p.kind, p.payload, time_ms) for i, p in enumerate(proposals)]
        self.log.append(entries)
        return [entry.position for entry in entries]

    def read(self, token: int, now: float) -> None:
        """Ask to serve a linearizable read; `token` comes back in `Ready.reads`, or in `Ready.lost_reads` if leadership
        is lost first. Raises NotLeader. (Dissertation, 6.4.)"""
        self._begin_input(now)
        leader = self._require_leader()
        under_lease = self.lease is not None and self.lease.is_valid(self._now)
        # Without a lease, only a round that has not begun yet can prove that no other leader was there when it arrived.
        round = 0 if under_lease else leader.rounds.current + 1
        leader.reads.append(WaitingRead(token, self.committed_index, round))
        leader.wanted_round = max(leader.wanted_round, round)

    def change_configuration(self, change: Change, now: float) -> LogPosition:
        """Append the configuration that the change leads to, and use it from now on (diss. 4.1). Raises NotLeader, or
        ChangeRefused: one change at a time, and none before an entry of the leader's own term is committed (hazard
        45)."""
        self._begin_input(now)
        return membership.change_configuration(self, self._require_leader(), change)

    def transfer(self, target: int, now: float) -> int:
        """Begin to hand leadership over to `target`, or to the most up-to-date voter if that is 0 (3.10): who it is.
        Raises NotLeader, or TransferRefused with the reason. It has ended when `is_handing_over` says so."""
        self._begin_input(now)
        return transfer.begin_transfer(self, self._require_leader(), target)

    def unreachable(self, peer: int, now: float) -> None:
        """A call to the peer has failed: what was in flight may be lost."""
        self._begin_input(now)
        if isinstance(self.role, Leader) and peer in self.role.progress:
            self.role.progress[peer].interrupted()

    # ---- output ------------------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready()` has something to give even if there is no input before: after `advance`, is there more?"""
        is_durable = self.log.is_durable and self._hard_state == self._durable_hard_state
        is_handed_out = self.handed_out_index == self.committed_index
        return bool(self._outbox or self._lost_reads or self._notes) or not (is_durable and is_handed_out)

    def ready(self) -> Ready | None:
        """What is to be done now (ready.py says in which order), or None. `advance` has to follow before any input."""
        if self._outstanding is not None:
            raise InvariantBroken("ready() before advance()")
        committed, reads = self._entries_to_apply(), list[ReadyRead]()
        if isinstance(self.role, Leader):
            self._replicate(self.role)
            transfer.go_on_with_transfer(self, self.role)
            reads = self._release_reads(self.role, committed[-1].index if committed else self.handed_out_index)
        if not (reads or self.has_ready()):
            return None
        ready = Ready(
            hard_state=self._hard_state if self._hard_state != self._durable_hard_state else None,
            snapshot=self.log.replacement(),
            entries=self.log.pending(),
            commit_index=self.committed_index,
            committed=committed,
            reads=reads,
            lost_reads=self._lost_reads,
            notes=self._notes,
        )
        # The one place that decides what waits for the disk: everything, but a leader's AppendEntries (diss. 10.2.1).
        # Their term is durable since before the election was won, and their entries count for the leader itself only
        # once it has written them. A snapshot that is sent has long been durable.
        for message in self._outbox:
            if not isinstance(message, Urgent):
                ready.messages.append(message)
            elif message.term <= self._durable_hard_state.term:
                ready.urgent.append(message)
            else:
                raise InvariantBroken("a leader's message would leave before its term is durable")
        self._outbox, self._lost_reads, self._notes = [], [], []
        self._outstanding = ready
        return ready

    def advance(self, ready: Ready) -> None:
        """`ready.hard_state`, `ready.snapshot` and `ready.entries` are durable: from here on they count for this member
        too."""
        if ready is not self._outstanding:
            raise InvariantBroken("advance() without its ready()")
        self._outstanding = None
        if ready.snapshot is not None:
            self.log.installed(ready.snapshot)
        self.log.persisted(ready.entries)
        if ready.hard_state is not None:
            self._durable_hard_state = ready.hard_state
        self.handed_out_index = ready.applied_index(self.handed_out_index)
        if isinstance(self.role, Candidate) and self._durable_hard_state == self._hard_state:
            elections.count_vote(self, self.role, self.me)
        if isinstance(self.role, Leader):
            self._commit_by_majority(self.role)
            membership.leave_if_removed(self, self.role)
        check_state(self)
        before, self._observed = self._observed, observe(self)
        check_transition(before, self._observed)

    # ---- terms -------------------------------------------------------------------------------------------------------

    def _settle_term(self, message: Message) -> bool:
        """Settle a difference between the message's term and ours; whether the message is still to be handled (5.1)."""
        if message.term == self.current_term:
            return True
        if isinstance(message, RequestVote | RequestVoteReply) and message.pre_vote:
            # The term of a pre-vote is one that might come to be. Only a refusal speaks of a real one.
            if isinstance(message, RequestVoteReply) and not message.granted and message.term > self.current_term:
                self._become_follower(message.term)
            return True
        if message.term > self.current_term:
            if isinstance(message, RequestVote) and elections.is_disturbance(self, message):
                elections.refuse_vote(self, message)
                return False
            self._become_follower(message.term)
        elif message.term < self.current_term:
            if isinstance(message, AppendEntries):
                # Its round counts in the term of the request, and must not count in ours should the sender lead again.
                self._send(replace(message.rejected(self.current_term), round=0))
            elif isinstance(message, RequestVote):
                elections.refuse_vote(self, message)
            elif isinstance(message, InstallSnapshot):
                self._send(message.refused(self.current_term))
            elif isinstance(message, TimeoutNow):
                transfer.answer_timeout_now(self, message, accepted=False)
            return False  # an answer to what we asked in an earlier term has no meaning any more
        return True

    def _is_from_anothers_disk(self, message: Message) -> bool:
        """Whether it answers from another disk than the one that has the vote. A member and its disk are one server of
        the paper, and votes and acknowledgements are that server's. Requests are judged as those of anybody who may be
        no member as far as this one knows (diss. 4.1): it may be our log that is behind."""
        if not isinstance(message, SignedReply):
            return False
        return not self.configuration.counts_with(message.sender, message.incarnation)

    def _become_follower(self, term: int, why: str = "") -> Follower:
        """Fall back to follower; in a newer term, if `term` is one, without a vote, else the vote stands (hazard 3)."""
        deadline = self._draw_election_deadline()
        if isinstance(self.role, Leader):
            self._leave_leadership(self.role, why or f"term {term} has begun")
        elif isinstance(self.role, Follower):
            deadline = self.role.election_deadline  # a newer term alone is no sign of a leader (5.2)
        if term > self.current_term:
            self._hard_state = replace(self._hard_state, term=term, voted_for=0)
        self.role = follower = Follower(deadline)
        return follower

    def _leave_leadership(self, leader: Leader, why: str) -> None:
        # First of all the lease: nothing that tells of this may leave while a read can still be served under it.
        self.lease = None
        self._lost_reads += [read.token for read in leader.reads]
        self._note(f"steps down as the leader of term {self.current_term}: {why}")

    # ---- replication, as the follower (5.3) --------------------------------------------------------------------------

    def _handle_append_entries(self, request: AppendEntries) -> None:
        self._follow(request)
        self._promise(request)
        if not self.log.holds(request.prev):
            self._send(request.rejected(self.current_term, *self.log.conflict(request.prev.index)))
            return
        self.log.merge(request.entries)
        # This request vouches for the log up to here and no further (hazards 22, 23).
        verified = request.prev.index + len(request.entries)
        self._commit(min(request.leader_commit, verified))
        self._send(request.accepted(self.current_term, verified))

    def _follow(self, request: AppendEntries | InstallSnapshot) -> None:
        """Recognize the sender as the leader of this term."""
        if isinstance(self.role, Leader):
            raise InvariantBroken(f"member {request.sender} leads term {request.term} too")
        follower = self.role if isinstance(self.role, Follower) else self._become_follower(self.current_term)
        if follower.leader_id != request.sender:
            follower.leader_id = request.sender
            self._note(f"follows {request.sender}, the leader of term {self.current_term}")
        if not self.voted_for and not elections.has_vote(self):
            # As above: it must not vote for another in this term, in which its earlier self may have elected this one.
            self._hard_state = replace(self._hard_state, voted_for=request.sender)
        follower.leader_heard_at = self._now
        follower.election_deadline = self._draw_election_deadline()

    def _promise(self, request: AppendEntries) -> None:
        """Promise the leader the lease that it asks for."""
        if request.lease_duration_ms:
            self._promises.promise(request.sender, request.term, request.lease_duration_ms, self._now)
        if request.lease_duration_ms > self.longest_promise_ms:
            self._hard_state = replace(self._hard_state, longest_promise_ms=request.lease_duration_ms)

    def _handle_install_snapshot(self, request: InstallSnapshot) -> None:
        """Section 7. The driver has the snapshot that the message speaks of, all of it, and keeps it until `ready()`
        has said whether it is to be installed."""
        self._follow(request)
        last = request.snapshot.last
        if self.log.holds(last):
            # Figure 13: "If existing log entry has same index and term as snapshot's last included entry, retain log
            # entries following it". All the news is that it was committed, if any: the log has what there is to apply.
            self._commit(last.index)
        else:
            self._restore(request.snapshot)
        # What is committed here is in the log of whoever leads this term (Leader Completeness, 5.4.3).
        self._send(request.accepted(self.current_term, max(last.index, self.committed_index)))

    def _restore(self, snapshot: SnapshotMeta) -> None:
        """Begin anew from a snapshot."""
        before = self.log.last_index
        self.log.replace_by(snapshot)
        self.handed_out_index = snapshot.last.index
        self._note(f"replaces its log, which ended at {before}, by a snapshot up to entry {snapshot.last.index}")

    # ---- replication, as the leader (5.3, 5.4.2) ---------------------------------------------------------------------

    def _tick_leader(self, leader: Leader) -> None:
        if self._has_lost_majority(leader):
            self._become_follower(
                self.current_term, f"no majority has answered for {self.config.election_timeout} s (CheckQuorum)"
            )
            return
        if leader.transfer is not None and self._now >= leader.transfer.give_up_at:
            self._note(f"goes on leading: node {leader.transfer.target} has not taken over")
            leader.transfer = None
        if self._now >= leader.heartbeat_due + self.config.election_timeout - self.config.heartbeat_interval:
            transfer.make_room(self, leader)
        if self._now >= leader.heartbeat_due:
            for progress in leader.progress.values():
                if progress.is_overdue(self._now, self.config.append_timeout):
                    progress.probe(progress.match_index + 1)
            self._begin_round(leader)
        if not self.is_serving:
            self._commit_by_majority(leader)  # the wait for an earlier lease may have ended

    def _has_lost_majority(self, leader: Leader) -> bool:
        voters = self.configuration.voters
        return self._now - leader.rounds.majority_answered_at(voters, self._now) >= self.config.election_timeout

    def _begin_round(self, leader: Leader) -> None:
        """Ask everybody for a sign: entries where some are due, else an empty request at a place known to match."""
        leader.rounds.begin(self._now)
        leader.heartbeat_due = self._now + self.config.heartbeat_interval
        leader.forget_who_left(self._now)
        for peer, progress in leader.progress.items():
            if not self._send_entries(leader, peer, progress):
                prev = progress.match_index if progress.state is State.REPLICATE else progress.next_index - 1
                # What has been compacted has no term to compare any more. The beginning matches in every log.
                known = progress.state is not State.SNAPSHOT and prev >= self.log.previous.index
                self._send_append(leader, peer, prev if known else ORIGIN.index, [])
        if leader.transfer is not None and leader.transfer.is_told:
            self._send(TimeoutNow(self.me, leader.transfer.target, self.current_term))  # the first may have got lost
        self._renew_lease(leader)

    def _replicate(self, leader: Leader) -> None:
        """Send what followers lack, as far as their windows allow; and begin the round that waiting reads need, unless
        one is under way: what arrives meanwhile shares the next one."""
        last_round, voters = leader.rounds.current, self.configuration.voters
        if leader.wanted_round > last_round and leader.rounds.by_majority(voters) >= last_round:
            self._begin_round(leader)
        for peer, progress in leader.progress.items():
            while self._send_entries(leader, peer, progress):
                pass

    def _send_entries(self, leader: Leader, peer: int, progress: Progress) -> bool:
        """Send the next entries to a follower, if there are any and its window has room, or a snapshot if they have
        been compacted. Whether entries were sent."""
        if progress.next_index > self.log.last_index or not progress.may_send(self.config.max_appends_in_flight):
            return False
        if progress.next_index <= self.log.previous.index:
            if peer not in leader.leaving:  # a removal is not worth that much
                self._send_snapshot(leader, peer, progress)
            return False
        entries = self.log.entries(progress.next_index, self.log.last_index, self.config.max_append_bytes)
        self._send_append(leader, peer, progress.next_index - 1, entries)
        progress.sent(entries[-1].index, self._now)
        return True

    def _send_snapshot(self, leader: Leader, peer: int, progress: Progress) -> None:
        snapshot = self.log.snapshot
        if snapshot is None:
            raise InvariantBroken(f"entry {progress.next_index} has been compacted, but there is no snapshot")
        progress.await_snapshot(snapshot.last.index)
        self._send(InstallSnapshot(self.me, peer, self.current_term, snapshot, asked_in=leader.rounds.current))

    def _send_append(self, leader: Leader, peer: int, prev_index: int, entries: Sequence[Entry]) -> None:
        self._send(
            AppendEntries(
                self.me,
                peer,
                self.current_term,
                self.log.position(prev_index),
                tuple(entries),
                self.committed_index,
                self.config.lease_duration_ms,
                leader.rounds.current,
            )
        )

    def _handle_append_reply(self, reply: AppendEntriesReply) -> None:
        leader = self.role
        if not isinstance(leader, Leader) or reply.sender not in leader.progress:
            return
        progress = leader.progress[reply.sender]
        if reply.round < progress.first_round or not self._goes_on_from(leader, reply):
            return
        if leader.rounds.acknowledge(reply.sender, reply.round, self._now):
            self._renew_lease(leader)
        if reply.success:
            self._take_match(leader, reply.sender, reply.match_index)
            membership.promote_if_caught_up(self, leader, reply.sender)
        elif not progress.is_stale_rejection(reply.rejected_index):
            theirs = reply.conflicting_term, reply.conflicting_index
            progress.probe(self.log.next_index_after(reply.rejected_index, *theirs))
            # A follower that rejects what it once acknowledged has lost its log. Asking again at once would get the
            # same answer, as fast as the network goes.
            progress.probe_sent = progress.next_index > reply.rejected_index

    def _handle_install_reply(self, reply: InstallSnapshotReply) -> None:
        leader = self.role
        if not isinstance(leader, Leader) or reply.sender not in leader.progress:
            return
        if not reply.success:
            return  # no request of this term fails: it answers one of an earlier term
        progress = leader.progress[reply.sender]
        if reply.asked_in < progress.first_round:
            progress.interrupted()  # it ends a transfer to the member that had this id before
        elif self._goes_on_from(leader, reply):
            self._take_match(leader, reply.sender, reply.match_index)

    def _goes_on_from(self, leader: Leader, reply: AppendEntriesReply | InstallSnapshotReply) -> bool:
        """Whether it comes from the disk that all answers before came from. A learner that has another one begins anew;
        of a voter which has only one, it is not to be believed."""
        progress = leader.progress[reply.sender]
        if progress.disk and progress.disk != reply.incarnation:
            if reply.sender in self.configuration.learners:
                self._note(f"learner {reply.sender} answers from another disk than before, and begins anew")
                leader.begin_anew(reply.sender, reply.incarnation, self.log.last_index, self._now)
            return False
        progress.disk = reply.incarnation
        return True

    def _take_match(self, leader: Leader, peer: int, match_index: int) -> None:
        """A follower's log is durable, and the leader's, up to this index."""
        if match_index > self.log.last_index:
            raise InvariantBroken(f"{peer} acknowledges entry {match_index}, which was never sent")
        if leader.progress[peer].succeeded(match_index) and match_index > self.committed_index:
            self._commit_by_majority(leader)

    def _commit_by_majority(self, leader: Leader) -> None:
        """Commit what a majority holds durably; only an entry of this term commits by counting (5.4.2, figure 8)."""
        if self._now < leader.serve_from or self.committed_index == self.log.last_index:
            return
        matches = {peer: progress.match_index for peer, progress in leader.progress.items()}
        matches[self.me] = self.log.durable_index
        index = reached_by_majority(self.configuration.voters, matches)
        if index > self.committed_index and self.log.term(index) == self.current_term:
            begins_to_serve = not self.is_serving
            self._commit(index)
            if begins_to_serve:
                self._renew_lease(leader)

    def _commit(self, index: int) -> None:
        if index <= self.committed_index:
            return
        is_news = self.committed_index < self.log.configurations.latest_index <= index
        self.log.committed_index = index
        if is_news and self.me not in self.configuration.members:
            self._note(f"is no member of the cluster any more: removed by entry {self.log.configurations.latest_index}")

    def _adopt_configuration(self, leader: Leader) -> None:
        """Lead by the configuration that has just become the latest one."""
        leader.adopt(self.configuration, self.me, self.log.last_index, self._now)
        # A lease has to rest on a majority of the present voters. Whoever may win an election has this configuration or
        # the one before it, and any majority of either meets each of these; not so with a lease of two changes ago.
        self.lease = None
        self._renew_lease(leader)
        if any(progress.first_round > leader.rounds.current for progress in leader.progress.values()):
            self._begin_round(leader)

    # ---- reads and the lease (diss. 6.4) -----------------------------------------------------------------------------

    def _renew_lease(self, leader: Leader) -> None:
        """To be called whenever something changes on which the lease rests: which rounds there are, who has
        acknowledged which, who the voters are, whether this leader serves. In between it could only come out the
        same."""
        voters = self.configuration.voters
        acknowledged = leader.rounds.by_majority(voters)  # without leases, too, so that it forgets the rounds before
        if leader.has_let_go:
            return
        if self.config.lease_duration and self.is_serving and acknowledged:
            length = self.config.lease_duration_ms / 1000 * (1 - self.config.clock_drift)
            until = leader.rounds.majority_heard_at(voters) + length
            self.lease = Grant(self.current_term, until) if until > -math.inf else None

    def _release_reads(self, leader: Leader, applied_index: int) -> list[ReadyRead]:
        """The reads that are confirmed, in order of arrival, as long as their index will have been applied by then."""
        released: list[ReadyRead] = []
        if leader.reads and self.is_serving:
            confirmed = leader.rounds.by_majority(self.configuration.voters)
            while leader.reads and leader.reads[0].round <= confirmed:
                index = max(leader.reads[0].index, leader.term_start_index)
                if index > applied_index:
                    break
                released.append(ReadyRead(leader.reads.popleft().token, index))
        return released

    # ---- small things ------------------------------------------------------------------------------------------------

    def _begin_input(self, now: float) -> None:
        if self._outstanding is not None:
            raise InvariantBroken("an input between ready() and advance()")
        self._now = max(self._now, now)

    def _require_leader(self) -> Leader:
        if not isinstance(self.role, Leader):
            raise NotLeader(self.leader_id)
        return self.role

    def _draw_election_deadline(self) -> float:
        """Between one and two election timeouts from now, at random, so that votes are seldom split (5.2)."""
        return self._now + self.config.election_timeout * (1 + self._rng.random())

    def _entries_to_apply(self) -> list[Entry]:
        if self.handed_out_index == self.committed_index:
            return []
        return self.log.entries(self.handed_out_index + 1, self.committed_index, self.config.max_apply_bytes)

    def _send(self, message: Message) -> None:
        self._outbox.append(message)

    def _note(self, text: str) -> None:
        self._notes.append(text)


_HANDLERS: dict[type[Message], Callable[[Raft, Any], None]] = {
    AppendEntries: Raft._handle_append_entries,
    AppendEntriesReply: Raft._handle_append_reply,
    RequestVote: elections.handle_request_vote,
    RequestVoteReply: elections.handle_vote_reply,
    InstallSnapshot: Raft._handle_install_snapshot,
    InstallSnapshotReply: Raft._handle_install_reply,
    TimeoutNow: transfer.handle_timeout_now,
    TimeoutNowReply: transfer.handle_timeout_now_reply,
}
