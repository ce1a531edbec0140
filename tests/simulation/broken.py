"""Bugs put into the real code, to see that the simulator finds them: theory of operation.

A `Bug` replaces a piece of the source of one function by another, for as long as it is in force. If the piece is no longer
there, the code has changed and the bug has to be looked at again: that raises. Each is one that a real Raft system has
shipped, or a step that somebody left out of this one.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raftkv import disk, kv, replica, segmented_log, storage
from raftkv.raft import core, lease, log, progress


@dataclass(frozen=True, slots=True)
class Bug:
    name: str
    owner: Any
    """The class or module that has the function."""
    function: str
    old: str
    new: str

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The function has the bug inside the block."""
        original = inspect.getattr_static(self.owner, self.function)
        broken = self._build(original.fget if isinstance(original, property) else original)
        self._put(property(broken) if isinstance(original, property) else broken)
        try:
            yield
        finally:
            self._put(original)

    def _build(self, function: Any) -> Any:
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise LookupError(f"{self.name}: {self.function} has {source.count(self.old)} times {self.old!r}")
        if source.startswith("@property"):
            source = source.removeprefix("@property")
        module = sys.modules[function.__module__]
        names: dict[str, Any] = {}
        exec(compile(source.replace(self.old, self.new), f"<{self.name}>", "exec"), module.__dict__, names)
        return names[self.function]

    def _put(self, function: Any) -> None:
        """Put it wherever the present one is: a function can be in a table, or imported by others."""
        present = inspect.getattr_static(self.owner, self.function)
        for handled, handler in core._HANDLERS.items():
            if handler is present:
                core._HANDLERS[handled] = function
        for name, module in list(sys.modules.items()):
            if name.startswith("raftkv.") and getattr(module, self.function, None) is present:
                setattr(module, self.function, function)
        setattr(self.owner, self.function, function)


BUGS = [
    # Durability
    Bug(
        "the vote is not written",
        storage.Storage,
        "_write_metadata",
        "Metadata(hard_state,",
        "Metadata(HardState(hard_state.term, 0, hard_state.longest_promise_ms),",
    ),
    Bug(
        "replies leave before their entries are durable",
        replica.Replica,
        "_carry_out",
        "if ready.hard_state is not None or",
        "for message in ready.messages:\n        self._send(message)\n    ready.messages.clear()\n    if ready.hard_state is not None or",
    ),
    Bug("a batch is not synced", segmented_log.SegmentedLog, "append", "self._writer.sync()", "pass"),
    Bug("a new name is not synced", disk, "replace_file", "disk.sync_directory(os.path.dirname(path))", "pass"),
    Bug("what a restart has read is not synced", segmented_log.SegmentedLog, "mend", "self._writer.sync()", "pass"),
    Bug(
        "damage in the middle is taken for a torn tail",
        segmented_log.SegmentedLog,
        "_refuse_damage",
        "if later is not None:",
        "if False:",
    ),
    Bug(
        "a longest promise is forgotten by a restart",
        core.Raft,
        "__init__",
        "if hard_state.longest_promise_ms:",
        "if False:",
    ),
    # Elections
    Bug(
        "votes are counted, not collected",
        core.Raft,
        "_count_vote",
        "candidate.granted_by.add(voter)",
        "votes = [voter, *sorted(self.configuration.voters)]\n    candidate.granted_by.add(next(v for v in votes if v not in candidate.granted_by))",
    ),
    Bug(
        "the vote is cleared on the return to follower",
        core.Raft,
        "_become_follower",
        "if term > self.current_term:",
        "if True:",
    ),
    Bug(
        "anybody gets a vote, whatever its log",
        core.Raft,
        "_handle_request_vote",
        "up_to_date = request.last >= self.log.last",
        "up_to_date = True",
    ),
    Bug(
        "logs are compared by length alone",
        core.Raft,
        "_handle_request_vote",
        "request.last >= self.log.last",
        "request.last.index >= self.log.last.index",
    ),
    Bug(
        "an answer of an earlier term counts",
        core.Raft,
        "_settle_term",
        "return False  # an answer",
        "return True  # an answer",
    ),
    # Replication
    Bug(
        "an entry of an earlier term commits by counting",
        core.Raft,
        "_commit_by_majority",
        "and self.log.term(index) == self.current_term",
        "",
    ),
    Bug(
        "a follower truncates without a conflict",
        log.Log,
        "merge",
        "if self.term(entry.index) != entry.term:",
        "if True:",
    ),
    Bug(
        "an acknowledgement names an index that was not verified",
        core.Raft,
        "_handle_append_entries",
        "match_index=verified)",
        "match_index=self.log.last_index)",
    ),
    Bug(
        "a follower commits up to its own last index",
        core.Raft,
        "_handle_append_entries",
        "self._commit(min(request.leader_commit, verified))",
        "self._commit(min(request.leader_commit, self.log.last_index))",
    ),
    Bug(
        "the leader counts itself before its disk",
        core.Raft,
        "_commit_by_majority",
        "matches[self.me] = self.log.durable_index",
        "matches[self.me] = self.log.last_index",
    ),
    Bug(
        "a request that got lost is never sent again",
        progress.Progress,
        "is_overdue",
        "now - self.in_flight[0][1] > patience",
        "False",
    ),
    # Leases and reads
    Bug(
        "a lease counts from the answer, not from the request",
        core.Raft,
        "_renew_lease",
        "leader.rounds.majority_heard_at(voters) + length",
        "self._now + length",
    ),
    Bug(
        "a new leader does not wait for the old lease",
        core.Raft,
        "_become_leader",
        "serve_from = max(candidate.serve_from, self._promises.until())",
        "serve_from = self._now",
    ),
    Bug(
        "a new leader does not wait for its own promise",
        core.Raft,
        "_become_leader",
        "max(candidate.serve_from, self._promises.until())",
        "candidate.serve_from",
    ),
    Bug(
        "a promise is forgotten for another leader's",
        lease.Promises,
        "promise",
        "self._until = {whom: until for whom, until in self._until.items() if until > now}",
        "self._until = {}",
    ),
    Bug(
        "the clock's drift is ignored",
        core.Raft,
        "_renew_lease",
        "* (1 - self.config.clock_drift)",
        "* (1 + self.config.clock_drift)",
    ),
    Bug("the lease outlives the leadership", core.Raft, "_leave_leadership", "self.lease = None", "pass"),
    Bug(
        "a new leader reads before it has committed",
        core.Raft,
        "_release_reads",
        """if self.is_serving:
        confirmed = leader.rounds.by_majority(self.configuration.voters)
        while leader.reads and leader.reads[0].round <= confirmed:
            index = max(leader.reads[0].index, leader.term_start_index)""",
        """if True:
        confirmed = leader.rounds.by_majority(self.configuration.voters)
        while leader.reads and leader.reads[0].round <= confirmed:
            index = leader.reads[0].index""",
    ),
    Bug(
        "ReadIndex takes an earlier round's answers",
        core.Raft,
        "read",
        "leader.rounds.current + 1",
        "leader.rounds.current",
    ),
    Bug(
        "reads need no round at all",
        core.Raft,
        "read",
        "round = 0 if under_lease else leader.rounds.current + 1",
        "round = 0",
    ),
    Bug(
        "a read does not look at the lease again",
        replica.Replica,
        "read_under_lease",
        "if still is None or still.term != lease.term or not still.is_valid(clock()):",
        "if False:",
    ),
    # The state machine and its clients
    Bug(
        "the answers of a session are not kept",
        kv.StateMachine,
        "_apply_in_session",
        "answer = answers[operation.sequence] = self._execute(operation)",
        "answer = self._execute(operation)",
    ),
    Bug(
        "an unknown session's writes are applied",
        kv.StateMachine,
        "_apply_in_session",
        "return [_SESSION_UNKNOWN] * len(batch.operations)",
        "return [self._execute(op) for op in batch.operations]",
    ),
    Bug(
        "the mark of answered operations is ignored",
        kv.StateMachine,
        "_apply_in_session",
        "if operation.sequence < lowest_unanswered:",
        "if False:",
    ),
    Bug(
        "a lost leadership is reported as not applied",
        replica.Replica,
        "_abandon_writers",
        "caller.answer(Unknown(reason))",
        "caller.answer(NotLeader(0))",
    ),
]
