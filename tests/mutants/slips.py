"""Slips of the pen near the heart: one too many, one too few, `>` for `>=`, a statement left out.

No system is known to have shipped these; any of them loses data or stands still.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_CORE, _LEASE, _LOG, _PROGRESS = "raft/core.py", "raft/lease.py", "raft/log.py", "raft/progress.py"
_ELECTIONS = "raft/elections.py"
_INDEX, _SEGMENT, _SEGMENTED, _STORAGE = "log_index.py", "segment.py", "segmented_log.py", "storage.py"
_KV, _SERVICE, _TURN = "kv.py", "service.py", "turn.py"
_SESSION, _BATCHES = "StateMachine._apply_in_session", "tests/kv/test_batches.py"


def _slip(name: str, module: str, place: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, (), (Patch(module, place, old, new),), tests)


SLIPS = [
    # the core
    _slip(
        "one entry more is verified than was sent",
        *(_CORE, "Raft._handle_append_entries", "verified = request.prev.index", "verified = 1 + request.prev.index"),
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "the commit index is taken one too low",
        *(_CORE, "Raft._commit_by_majority", "if index > self.committed_index", "if index > self.committed_index + 1"),
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "what has just been committed waits for the next input",
        *(_CORE, "Raft.has_ready", "self.handed_out_index == self.committed_index", "True"),
        "tests/replica/test_replica.py",
    ),
    _slip(
        "the NO-OP of a leader that nobody had to elect waits for the next input",
        *(_CORE, "Raft.has_ready", "self.log.is_durable and", ""),
        "tests/raft/test_dissertation_4_2.py",
    ),
    _slip(
        "what is said on stepping down waits for the next input",
        *(_CORE, "Raft.has_ready", "bool(self._outbox or self._lost_reads or self._notes)", "False"),
        "tests/raft/test_catching_up.py",
    ),
    _slip(
        "the last entry is not worth counting for",
        *(_CORE, "Raft._commit_by_majority", "self.committed_index == self.log.last_index"),
        "self.committed_index >= self.log.last_index - 1",
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "what the leader's own disk does not hold is not committed",
        *(_CORE, "Raft._commit_by_majority", "self.committed_index == self.log.last_index"),
        "self.committed_index >= self.log.durable_index",
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "a leader commits as soon as its wait is nearly over",
        *(_CORE, "Raft._commit_by_majority", "self._now < leader.serve_from", "self._now < leader.serve_from - 0.001"),
        "tests/raft/test_lease_rules.py",
    ),
    _slip(
        "an answer that could commit one more entry is not counted",
        *(_CORE, "Raft._take_match", "match_index > self.committed_index"),
        "match_index > self.committed_index + 1",
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "a leader whose wait is over commits only with the next answer",
        *(_CORE, "Raft._tick_leader", "if not self.is_serving:", "if self.is_serving:"),
        "tests/raft/test_lease_rules.py",
    ),
    _slip(
        "a member saves its state by who belonged to the cluster before",
        *(
            "snapshots.py",
            "Snapshots._own_part",
            "if configuration is not self._part_by:",
            "if self._part_by is NOBODY:",
        ),
        "tests/replica/test_snapshots.py",
    ),
    _slip(
        "a member votes for itself again in the same term",
        *(_ELECTIONS, "start_election", "term=raft.current_term + 1, voted_for", "voted_for"),
        "tests/raft/test_paper_5_2.py",
    ),
    _slip(
        "a second vote is given in a term",
        *(_ELECTIONS, "handle_request_vote", "raft.voted_for in (0, request.sender) and up_to_date", "up_to_date"),
        "tests/raft/test_paper_5_2.py",
    ),
    _slip(
        "who votes for a candidate does not note it",
        *(_ELECTIONS, "handle_request_vote"),
        "raft._hard_state = replace(raft._hard_state, voted_for=request.sender)",
        "pass",
        "tests/raft/test_paper_5_2.py",
    ),
    _slip(
        "a candidate needs only the others' votes",
        *(_ELECTIONS, "count_vote", "raft.me in candidate.granted_by and", ""),
        "tests/raft/test_core.py",
    ),
    _slip(
        "a vote that was refused counts",
        *(_ELECTIONS, "handle_vote_reply", "if not reply.granted:", "if False:"),
        "tests/raft/test_paper_5_2.py",
    ),
    _slip(
        "a pre-vote of any term is welcome",
        *(_ELECTIONS, "handle_vote_reply", "and reply.term == raft.current_term + 1", ""),
        "tests/raft/test_dissertation_9_6.py",
    ),
    _slip(
        "a new leader starts one entry too late",
        *(_ELECTIONS, "_become_leader", "Progress(next_index=last + 1)", "Progress(next_index=last + 2)"),
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "a leader's NO-OP does not count as its first entry",
        *(_ELECTIONS, "_become_leader", "term_start_index=last + 1", "term_start_index=last"),
        "tests/raft/test_dissertation_6_4.py",
    ),
    _slip(
        "prev is the entry to be sent itself",
        *(_CORE, "Raft._send_entries", "progress.next_index - 1, entries", "progress.next_index, entries"),
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "an empty request names the end of the leader's log",
        *(_CORE, "Raft._begin_round"),
        "progress.match_index if progress.state is State.REPLICATE else progress.next_index - 1",
        "self.log.last_index",
        "tests/raft",
    ),
    _slip(
        "the heartbeat does not tell what is committed",
        *(_CORE, "Raft._send_append", "self.committed_index,", "0,"),
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "who rejects is asked again at the same place",
        *(_LOG, "Log.next_index_after"),
        "return max(1, min(conflicting_index, at_most))",
        "return max(1, at_most + 1)",
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "a granted vote does not hold back the voter's own election",
        *(_ELECTIONS, "handle_request_vote"),
        "follower.election_deadline = raft._draw_election_deadline()",
        "pass",
        "tests/raft/test_paper_5_2.py",
    ),
    _slip(
        "a heartbeat does not hold back an election",
        *(_CORE, "Raft._follow", "follower.election_deadline = self._draw_election_deadline()", "pass"),
        "tests/raft/test_paper_5_2.py",
    ),
    _slip(
        "entries are handed out to be applied twice",
        *(_CORE, "Raft._entries_to_apply", "self.handed_out_index + 1, self", "max(1, self.handed_out_index), self"),
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "the drift of clocks is left out at the leader",
        *(_CORE, "Raft._renew_lease", "* (1 - self.config.clock_drift)", ""),
        "tests/raft/test_lease_rules.py",
    ),
    _slip(
        "a lease is valid at its very end",
        *(_LEASE, "Grant.is_valid", "now < self.until", "now <= self.until"),
        "tests/raft/test_lease.py",
    ),
    _slip(
        "a round that never began is acknowledged",
        *(_LEASE, "Rounds.acknowledge", "< round <= self.current", "< round"),
        "tests/raft/test_lease.py",
    ),
    _slip(
        "the lease counts from the latest round",
        *(_LEASE, "Rounds.majority_heard_at", "= self._began[0]", "= self._began[0][0], self._began[-1][1]"),
        "tests/raft/test_lease.py",
    ),
    _slip(
        "only an answer to the latest round is news",
        *(_LEASE, "Rounds.acknowledge", "return True", "return round == self.current"),
        *("tests/raft/test_lease.py", "tests/raft/test_lease_rules.py"),
    ),
    _slip(
        "the first commit of a term gives no lease",
        *(_CORE, "Raft._commit_by_majority", "if begins_to_serve:", "if False:"),
        "tests/raft/test_lease_rules.py",
    ),
    _slip(
        "who grants no leases remembers all rounds",
        *(_CORE, "Raft._renew_lease", "voters = self.configuration.voters"),
        "if not self.config.lease_duration:\n    return\nvoters = self.configuration.voters",
        "tests/raft/test_lease_rules.py",
    ),
    _slip(
        "who has let go remembers all rounds",
        *(_CORE, "Raft._renew_lease", "voters = self.configuration.voters"),
        "if leader.has_let_go:\n    return\nvoters = self.configuration.voters",
        "tests/raft/test_lease_rules.py",
    ),
    _slip(
        "a leader alone does not renew its lease",
        *(_CORE, "Raft._begin_round", "self._renew_lease(leader)", "pass"),
        "tests/raft/test_lease_rules.py",
    ),
    _slip(
        "a failed call does not reach the core",
        *("replica.py", "Replica._take", "self.raft.unreachable(item.peer, now)", "pass"),
        "tests/replica",
    ),
    # the log
    _slip(
        "what is not written yet counts as durable",
        *(_LOG, "Log.durable_index", "self._tail[0].index - 1", "self._tail[0].index"),
        "tests/raft/test_log.py",
    ),
    _slip(
        "a conflict keeps the entry that conflicts",
        *(_LOG, "Log._replace", "entry.index < index", "entry.index <= index"),
        "tests/raft/test_log.py",
    ),
    _slip(
        "what was written is forgotten one too many",
        *(_LOG, "Log.persisted", "self._tail[len(entries) :]", "self._tail[len(entries) + 1 :]"),
        "tests/raft/test_log.py",
    ),
    _slip(
        "a missing entry is named one too far",
        *(_LOG, "Log.conflict", "self.last_index + 1", "self.last_index + 2"),
        "tests/raft/test_paper_5_3.py",
    ),
    _slip(
        "probing goes below what is known to match",
        *(_PROGRESS, "Progress.probe", "max(next_index, self.match_index + 1)", "next_index"),
        "tests/raft/test_progress.py",
    ),
    # the storage
    _slip(
        "batches are counted from the wrong one",
        *(_SEGMENTED, "SegmentedLog.append", "self._last_batch + 1", "self._last_batch"),
        "tests/storage",
    ),
    _slip(
        "a batch missing in the middle is not missed",
        *(_SEGMENTED, "SegmentedLog._recover_frame", "header.batch != self._last_batch + 1", "False"),
        "tests/storage/test_recovery.py",
    ),
    _slip(
        "a batch is written over the end of the one before",
        *(_INDEX, "Place.end", "self.offset + self.frame_bytes", "self.offset + self.frame_bytes - 1"),
        "tests/storage",
    ),
    _slip(
        "a replaced entry keeps its old place",
        *(_INDEX, "LogIndex._cut", "bisect_left(self._first, first)", "bisect_right(self._first, first)"),
        "tests/storage",
    ),
    _slip(
        "a replaced entry keeps its old term",
        *(_INDEX, "LogIndex._cut", "del self._run_first[runs:], self._run_term[runs:]", "pass"),
        "tests/storage",
    ),
    _slip(
        "the last entry is not replaced in the index",
        *(_INDEX, "LogIndex.append", "if place.first <= self.last_index:", "if place.first < self.last_index:"),
        "tests/storage",
    ),
    _slip(
        "the cache keeps the last entry beside the one in its place",
        *(
            _INDEX,
            "RecentEntries.append",
            "entries[0].index <= self._entries[-1].index",
            "entries[0].index < self._entries[-1].index",
        ),
        "tests/storage",
    ),
    _slip(
        "the cache keeps what was replaced",
        *(_INDEX, "RecentEntries.append", "del self._entries[kept:]", "pass"),
        "tests/storage",
    ),
    _slip(
        "the entries are written before the hard state",
        *(_STORAGE, "Storage.persist"),
        "if hard_state is not None:\n"
        "    self._write_metadata(hard_state)\n"
        "if entries:\n"
        "    self._append(entries, min(commit_index, entries[-1].index))",
        "if entries:\n"
        "    self._append(entries, min(commit_index, entries[-1].index))\n"
        "if hard_state is not None:\n"
        "    self._write_metadata(hard_state)",
        "tests/storage",
    ),
    _slip(
        "a new segment is not counted in the metadata",
        *(_STORAGE, "Storage._start_segment", "self._write_metadata(self.hard_state)", "pass"),
        "tests/storage",
    ),
    _slip(
        "a header behind the damage is overlooked",
        *(_SEGMENT, "find_later_batch", "header.batch > batch", "header.batch > batch + 1"),
        "tests/storage",
    ),
    # the state machine
    _slip(
        "a comparison that fails writes all the same",
        *(_KV, "_judge", "holds = old is not None and old[_REVISIONS.size :] == expected", "holds = old is not None"),
        "tests/kv",
    ),
    _slip(
        "a write that changes nothing counts a revision",
        *(_KV, "StateMachine._execute", "if answer is not _DONE:"),
        "revision += answer is _NOT_DONE\nif answer is not _DONE:",
        "tests/kv",
    ),
    _slip(
        "one answer too many fits into a session",
        *(_KV, "StateMachine._apply_in_session"),
        "elif sequence >= end",
        "elif sequence > end",
        "tests/kv",
    ),
    _slip(
        "one session too many fits",
        *(_KV, "StateMachine._drop_sessions", "<= limits.max_sessions", "<= limits.max_sessions + 1"),
        "tests/kv",
    ),
    _slip(
        "a session expires a moment too early",
        *(_KV, "StateMachine._drop_sessions", "idle_ms <= limits", "idle_ms < limits"),
        "tests/kv",
    ),
    _slip(
        "a later leader gives the cluster another id",
        *(_KV, "StateMachine._adopt_settings", "self.cluster_id or self._settings", "self._settings"),
        "tests/kv",
    ),
    _slip(
        "the sessions are no part of the digest",
        *(_KV, "StateMachine._canonical_form", "yield session_id, session.last_active_ms,", "_ = session_id,"),
        "tests/kv",
    ),
    _slip(
        "the limit on the state is one byte too high",
        *(_KV, "StateMachine._execute", "if grown > limit:", "if grown > limit + 1:"),
        "tests/kv/test_quota.py",
    ),
    _slip(
        "the limit on the state is one byte too high for a key that is there",
        *(_KV, "StateMachine._execute", "state_bytes < grown > limit", "state_bytes < grown > limit + 1"),
        "tests/kv/test_quota.py",
    ),
    _slip(
        "who asks for room is told of one byte too many",
        *(_KV, "StateMachine.has_room_for", "<= self._limit", "<= self._limit + 1"),
        "tests/kv/test_quota.py",
    ),
    _slip(
        "at the limit everything is refused",
        *(_KV, "StateMachine._execute", "state_bytes < grown > limit", "grown > limit"),
        "tests/kv/test_quota.py",
    ),
    _slip(
        "only the last write of a batch counts as growth",
        *(_KV, "StateMachine._execute", "state_bytes = grown", "pass"),
        "tests/kv/test_quota.py",
    ),
    _slip(
        "a deleted key still counts",
        *(_KV, "StateMachine._execute", "state_bytes -= _growth(key, old[_REVISIONS.size :], None)", "pass"),
        "tests/kv/test_quota.py",
    ),
    _slip(
        "a snapshot does not bring back the size of the state",
        *(_KV, "StateMachine.restore", "len(state.records), state.state_bytes", "len(state.records), 0"),
        "tests/kv/test_quota.py",
    ),
    _slip(
        "a member takes the limit on the state from nowhere",
        *(_KV, "StateMachine._limit", "self._settings.max_state_bytes or _NO_LIMIT", "2 << 30"),
        "tests/kv/test_quota.py",
    ),
    Mutant(
        "a write that was refused for want of space is not remembered",
        (),
        (
            Patch(
                _KV,
                _SESSION,
                "session.keep(row, results)",
                "if _NO_SPACE not in results:\n    session.keep(row, results)",
            ),
            Patch(
                _KV,
                _SESSION,
                "session.answers[sequence] = answer",
                "if answer is not _NO_SPACE:\n    session.answers[sequence] = answer",
            ),
        ),
        ("tests/kv/test_quota.py",),
    ),
    # a batch of new numbers, at once
    _slip(
        "the answers to a batch of new numbers are not kept",
        *(_KV, _SESSION, "session.keep(row, results)", "pass"),
        _BATCHES,
    ),
    _slip(
        "the answers to what is applied one by one are not kept",
        *(_KV, _SESSION, "session.answers[sequence] = answer", "pass"),
        _BATCHES,
    ),
    _slip(
        "a batch may end one number beyond the window",
        *(_KV, _SESSION, "row.stop <= end", "row.stop <= end + 1"),
        _BATCHES,
    ),
    _slip(
        "a batch may begin one number below the mark",
        *(_KV, _SESSION, "lowest_unanswered <= row.start", "lowest_unanswered <= row.start + 1"),
        _BATCHES,
    ),
    _slip(
        "a session that is closed within a batch goes on",
        *(_KV, _SESSION, "are_new and _CLOSE_SESSION not in codes", "are_new"),
        _BATCHES,
    ),
    _slip(
        "numbers in a row are new though they were applied in a row",
        *(_KV, "Session.has_none_of", "numbers.start >= self.done.stop and", ""),
        _BATCHES,
    ),
    _slip(
        "numbers in a row are new though some were applied out of it",
        *(_KV, "Session.has_none_of", "self.answers.keys().isdisjoint(numbers)", "True"),
        _BATCHES,
    ),
    _slip(
        "numbers are in a row if the first and the last are",
        *(_KV, "_numbers_in_a_row", "numbers == [*row]", "numbers[-1:] == [*row][-1:]"),
        _BATCHES,
    ),
    _slip(
        "a batch is done if one of its operations is",
        *(_KV, "Session.keep", "results.count(_DONE) != len(results)", "_DONE not in results"),
        _BATCHES,
    ),
    _slip(
        "numbers that were left out have an answer",
        *(_KV, "Session.keep", "numbers.start == self.done.stop", "self.done"),
        _BATCHES,
    ),
    _slip(
        "the answers before a gap are lost",
        *(_KV, "Session.keep", "self.answers.update(dict.fromkeys(self.done, _DONE))", "pass"),
        _BATCHES,
    ),
    _slip(
        "answers in a row are kept for ever",
        *(_KV, "Session.forget_below", "if self.done.start < lowest_unanswered:", "if False:"),
        _BATCHES,
    ),
    _slip(
        "answers in a row are not in the snapshot",
        *("kv_snapshot.py", "_encode_sessions", "session.all_answers()", "session.answers"),
        _BATCHES,
    ),
    _slip(
        "a session is opened by no batch but one of its own",
        *(_KV, "StateMachine._apply_operations", "if _OPEN_SESSION not in codes:", "if codes[0] != _OPEN_SESSION:"),
        "tests/kv/test_state_machine.py",
    ),
    _slip(
        "a code that nobody knows passes for a write",
        *("operations.py", "_decode_headers", "if unknown:", "if len(unknown) > 1:"),
        "tests/kv/test_operations.py",
    ),
    # around it
    _slip(
        "a text's write without room is reported as done",
        *(_SERVICE, "Service._serve_text_write", "if results[0].status is Status.NO_SPACE:", "if False:"),
        "tests/node/test_service.py",
    ),
    _slip(
        "a refusal for want of space leaves a doubt",
        *("pipeline.py", "Pipeline._settle_writes"),
        'NotApplied(f"{NO_SPACE_TEXT}; the write was not applied", "RESOURCE_EXHAUSTED")',
        'call.error("RESOURCE_EXHAUSTED", NO_SPACE_TEXT)',
        "tests/client/test_quota.py",
    ),
    _slip(
        "a member that does not lead refuses for want of space",
        *("replica.py", "Replica.lacks_room_for", "not raft.is_serving or ", ""),
        "tests/replica",
    ),
    _slip(
        "a greatest key is one too long",
        *(_SERVICE, "ServiceLimits.check_key", "> self.max_key_bytes", ">= self.max_key_bytes"),
        "tests/node/test_service.py",
    ),
    _slip(
        "an expected value may have any size",
        *(_SERVICE, "ServiceLimits.check_operation", "(operation.value, operation.expected)", "(operation.value,)"),
        "tests/node/test_service.py",
    ),
    _slip(
        "an input that comes as the turn is given back is stranded",
        *(_TURN, "Turn._run", "while self._inbox", "if self._inbox"),
        "tests/node/test_turn.py",
    ),
    _slip(
        "the time of a round is taken before its inputs",
        *(_TURN, "Turn._round"),
        "inputs = [self._inbox.popleft() for _ in range(len(self._inbox))]\n"
        "return self._worker.turn(inputs, self._clock())",
        "now = self._clock()\n"
        "inputs = [self._inbox.popleft() for _ in range(len(self._inbox))]\n"
        "return self._worker.turn(inputs, now)",
        "tests/node/test_turn.py",
    ),
    _slip(
        "an earlier deadline does not wake the timer",
        *(_TURN, "Turn._work_and_release", "handed_over or deadline < self._sleeps_until", "handed_over"),
        "tests/node/test_turn.py",
    ),
    _slip(
        "time passes before the inputs are taken in",
        *("replica.py", "Replica.turn"),
        "for item in inputs:\n    self._take(item, now)\nself.raft.tick(now)",
        "self.raft.tick(now)\nfor item in inputs:\n    self._take(item, now)",
        "tests/replica",
    ),
    # snapshots
    _slip(
        "all members save their states at the same time",
        *("snapshots.py", "Snapshots._own_part", "members.index(self._raft.me) + 0.5", "len(members)"),
        "tests/replica/test_snapshots.py",
    ),
    _slip(
        "members that were restored save their states at the same time",
        *("snapshots.py", "Snapshots._is_in_step", "self._storage.previous() == self._storage.snapshot.last", "False"),
        "tests/replica/test_snapshots.py",
    ),
    _slip(
        "a learner saves its state when a voter does",
        *("snapshots.py", "Snapshots._own_part", "configuration.members", "configuration.voters"),
        "tests/replica/test_snapshots.py",
    ),
    _slip(
        "a large file is removed in one go",
        *("leftovers.py", "Leftovers.remove", "self._disk.shorten(path, self._piece_bytes)", "False"),
        "tests/storage/test_leftovers.py",
    ),
]
