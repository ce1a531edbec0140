"""Mutants of "Reads": reads that are old, and leases (hazards 37 to 42, 59 and 60)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_CORE, _LEASE, _REPLICA, _TRANSPORT = "raft/core.py", "raft/lease.py", "replica.py", "transport.py"
_ELECTIONS = "raft/elections.py"
_RULES = ("tests/raft/test_lease_rules.py",)
_ROUNDS = ("tests/raft/test_lease.py", "tests/raft/test_read_rules.py", "tests/raft/test_regressions.py")

READS = [
    Mutant(
        "a new leader reads before it has committed",
        (37,),
        (
            Patch(
                _CORE,
                "Raft._release_reads",
                "if leader.reads and self.is_serving:\n"
                "    confirmed = leader.rounds.by_majority(self.configuration.voters)\n"
                "    while leader.reads and leader.reads[0].round <= confirmed:\n"
                "        index = max(leader.reads[0].index, leader.term_start_index)",
                "if leader.reads:\n"
                "    confirmed = leader.rounds.by_majority(self.configuration.voters)\n"
                "    while leader.reads and leader.reads[0].round <= confirmed:\n"
                "        index = leader.reads[0].index",
            ),
        ),
        ("tests/raft/test_dissertation_6_4.py",),
        (1,),
    ),
    Mutant(
        "a lease needs no commit in the leader's term",
        (37,),
        (Patch(_CORE, "Raft._renew_lease", "and self.is_serving", ""),),
        _RULES,
    ),
    Mutant(
        "ReadIndex takes an earlier round's answers",
        (38,),
        (Patch(_CORE, "Raft.read", "leader.rounds.current + 1", "leader.rounds.current"),),
        ("tests/raft/test_dissertation_6_4.py",),
    ),
    Mutant(
        "reads need no round at all",
        (38,),
        (Patch(_CORE, "Raft.read", "round = 0 if under_lease else leader.rounds.current + 1", "round = 0"),),
        ("tests/raft/test_dissertation_6_4.py",),
    ),
    Mutant(
        "any answer is one to the round of now",
        (38,),
        (
            Patch(
                _LEASE,
                "Rounds.acknowledge",
                "self._acknowledged[voter] = round",
                "self._acknowledged[voter] = self.current",
            ),
        ),
        _ROUNDS,
    ),
    Mutant(
        "an answer of an earlier term counts",
        (38,),
        (Patch(_CORE, "Raft._settle_term", "return False  # an answer", "return True  # an answer"),),
        ("tests/raft/test_paper_5_1.py",),
        (2,),
    ),
    Mutant(
        "the answer to a request of an earlier term is of a round of this one",
        (38,),
        (
            Patch(
                *(_CORE, "Raft._settle_term"),
                "replace(message.rejected(self.current_term), round=0)",
                "message.rejected(self.current_term)",
            ),
        ),
        ("tests/raft/test_regressions.py",),
    ),
    Mutant(
        "a read is served before what it must see is applied",
        (39,),
        (Patch(_CORE, "Raft._release_reads", "if index > applied_index:", "if False:"),),
        ("tests/raft/test_dissertation_6_4.py", "tests/raft/test_read_rules.py"),
    ),
    Mutant(
        "a read under the lease does not wait for what is committed",
        (39,),
        (
            Patch(
                _REPLICA,
                "Replica.read_under_lease",
                "if self.machine.applied_index < self.raft.committed_index:",
                "if False:",
            ),
        ),
        ("tests/raft/test_read_rules.py",),
    ),
    Mutant(
        "the clock stands still during suspend",
        (41,),
        (Patch("clock.py", "", 'getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)', "time.CLOCK_MONOTONIC"),),
        _RULES,
    ),
    Mutant(
        "the lease runs on the wall clock",
        (41,),
        (Patch("clock.py", "now", "time.clock_gettime(_CLOCK)", "time.time()"),),
        _RULES,
    ),
    Mutant(
        "a lease never ends",
        (41,),
        (Patch(_LEASE, "Grant.is_valid", "return now < self.until", "return True"),),
        ("tests/raft/test_lease.py",),
        (1,),
    ),
    Mutant(
        "a lease counts from the answer, not from the request",
        (41,),
        (
            Patch(
                _CORE,
                "Raft._renew_lease",
                "leader.rounds.majority_heard_at(voters) + length",
                "self._now + length",
            ),
        ),
        _RULES,
        (1,),
    ),
    Mutant(
        "the leader adds the drift of clocks to its lease",
        (41,),
        (Patch(_CORE, "Raft._renew_lease", "* (1 - self.config.clock_drift)", "* (1 + self.config.clock_drift)"),),
        _RULES,
        (129,),
    ),
    Mutant(
        "a follower leaves out the drift of clocks",
        (41,),
        (Patch(_LEASE, "Promises.promise", "* (1 + self._clock_drift)", ""),),
        ("tests/raft/test_lease.py",),
    ),
    Mutant(
        "what remains of a promise is rounded down",
        (41,),
        (Patch(_LEASE, "Promises.remaining_ms", "math.ceil", "math.floor"),),
        ("tests/raft/test_lease.py",),
    ),
    Mutant(
        "a new leader does not wait for the old lease",
        (42,),
        (
            Patch(
                _ELECTIONS,
                "_become_leader",
                "serve_from = _end_of_promises(raft, promised_until)",
                "serve_from = raft._now",
            ),
        ),
        ("tests/raft/test_hazards.py",),
        (1,),
    ),
    Mutant(
        "a new leader does not wait for its own promise",
        (42,),
        (
            Patch(
                _ELECTIONS,
                "_become_leader",
                "raft.me: raft._promises.until(candidate.released)",
                "raft.me: raft._now",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "the last voter's promise is enough",
        (42,),
        (
            Patch(
                _ELECTIONS,
                "_end_of_promises",
                "ends[majority(voters) - 1]",
                "ends[0]",
            ),
        ),
        _RULES,
        (35,),
    ),
    Mutant(
        "a follower that rejects the entries promises nothing",
        (42,),
        (
            Patch(
                _CORE,
                "Raft._handle_append_entries",
                "self._promise(request)",
                "if self.log.holds(request.prev):\n    self._promise(request)",
            ),
        ),
        _RULES,
        (10,),
    ),
    Mutant(
        "a leader that waits commits",
        (42,),
        (Patch(_CORE, "Raft._commit_by_majority", "self._now < leader.serve_from or ", ""),),
        _RULES,
        (1,),
    ),
    Mutant(
        "a vote says nothing of promises",
        (42,),
        (
            Patch(
                _ELECTIONS,
                "_vote_reply",
                "remaining_ms = raft._promises.remaining_ms(raft._now, request.released)",
                "remaining_ms = 0",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "what remains of a promise does not travel",
        (42,),
        (Patch(_TRANSPORT, "reply_to_wire", "remaining_lease=reply.remaining_lease_ms,", ""),),
        ("tests/node/test_conversions.py",),
    ),
    Mutant(
        "whatever a vote says is left of a promise is waited for",
        (42,),
        (Patch(_TRANSPORT, "reply_from_wire", "if reply.remaining_lease > MAX_REMAINING_LEASE_MS:", "if False:"),),
        ("tests/node/test_conversions.py",),
    ),
    Mutant(
        "a restart forgets what was promised",
        (42,),
        (Patch(_CORE, "Raft.__init__", "if hard_state.longest_promise_ms:", "if False:"),),
        ("tests/raft/test_hazards.py",),
        (204,),
    ),
    Mutant(
        "the longest promise is not written down",
        (42,),
        (
            Patch(
                _CORE,
                "Raft._promise",
                "self._hard_state = replace(self._hard_state, longest_promise_ms=request.lease_duration_ms)",
                "pass",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "a later promise shortens an earlier one",
        (59,),
        (Patch(_LEASE, "Promises.promise", "max(until, self._until.get(whom, until))", "until"),),
        ("tests/raft/test_lease.py",),
    ),
    Mutant(
        "a promise is forgotten for another leader's",
        (59,),
        (
            Patch(
                _LEASE,
                "Promises.promise",
                "for whom in [whom for whom, until in self._until.items() if until <= now]:",
                "for whom in list(self._until):",
            ),
        ),
        ("tests/raft/test_lease.py",),
    ),
    Mutant(
        "the longest promise is the last one",
        (59,),
        (
            Patch(
                _CORE,
                "Raft._promise",
                "if request.lease_duration_ms > self.longest_promise_ms:",
                "if request.lease_duration_ms != self.longest_promise_ms:",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "who holds no leases promises none",
        (59,),
        (
            Patch(
                _CORE,
                "Raft._promise",
                "if request.lease_duration_ms:",
                "if request.lease_duration_ms and self.config.lease_duration:",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "the lease outlives the leadership",
        (60,),
        (Patch(_CORE, "Raft._leave_leadership", "self.lease = None", "pass"),),
        _RULES,
        (1,),
    ),
    Mutant(
        "a read asks what is applied after it has looked up the key",
        (39,),
        (
            Patch(
                _REPLICA,
                "Replica.read_under_lease",
                "if self.machine.applied_index < self.raft.committed_index:\n"
                "    return None\n"
                "found = self.machine.find_each(keys)",
                "found = self.machine.find_each(keys)\n"
                "if self.machine.applied_index < self.raft.committed_index:\n"
                "    return None",
            ),
        ),
        ("tests/raft/test_read_rules.py",),
    ),
    Mutant(
        "a read does not look at the lease again",
        (60,),
        (
            Patch(
                _REPLICA,
                "Replica.read_under_lease",
                "if still is None or still.term != lease.term or not still.is_valid(clock()):",
                "if False:",
            ),
        ),
        ("tests/raft/test_read_rules.py",),
    ),
    Mutant(
        "a read takes any later lease for the same one",
        (60,),
        (Patch(_REPLICA, "Replica.read_under_lease", "or still.term != lease.term", ""),),
        ("tests/raft/test_read_rules.py",),
    ),
    Mutant(
        "a read looks at the time only once",
        (60,),
        (
            Patch(
                _REPLICA,
                "Replica.read_under_lease",
                "if still is None or still.term != lease.term or not still.is_valid(clock()):",
                "if still is None or still.term != lease.term:",
            ),
        ),
        ("tests/raft/test_read_rules.py",),
    ),
]
