"""Mutants of "Replication": logs that must come to agree, and what is committed (hazards 20 to 36)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_CORE, _LOG, _PROGRESS, _QUORUM = "raft/core.py", "raft/log.py", "raft/progress.py", "raft/quorum.py"
_ELECTIONS = "raft/elections.py"
_HAZARDS = ("tests/raft/test_hazards.py",)

REPLICATION = [
    Mutant(
        "an entry of an earlier term commits by counting",
        (20,),
        (Patch(_CORE, "Raft._commit_by_majority", "and self.log.term(index) == self.current_term", ""),),
        ("tests/raft/test_paper_5_4.py",),
    ),
    Mutant(
        "a new leader appends no NO-OP",
        (20, 37),
        (Patch(_ELECTIONS, "_become_leader", "raft.log.append([Entry(", "0 and raft.log.append([Entry("),),
        ("tests/raft/test_paper_5_4.py",),
    ),
    Mutant(
        "a follower truncates without a conflict",
        (21,),
        (Patch(_LOG, "Log.merge", "if not self.holds(entry.position):", "if True:"),),
        _HAZARDS,
        (1,),
    ),
    Mutant(
        "what a follower holds already ends its log",
        (21,),
        (Patch(_LOG, "Log.merge", "if entry.index > self.last_index:", "if entry.index >= self.last_index:"),),
        ("tests/raft/test_log.py",),
    ),
    Mutant(
        "a conflict is only looked for at the first entry",
        (21,),
        (
            Patch(
                _LOG,
                "Log.merge",
                "if not self.holds(entry.position):",
                "if offset == 0 and not self.holds(entry.position):",
            ),
        ),
        ("tests/raft/test_log.py",),
    ),
    Mutant(
        "what is committed may be replaced",
        (21, 29),
        (Patch(_LOG, "Log._replace", "if index <= self.committed_index:", "if False:"),),
        ("tests/raft/test_log.py",),
    ),
    Mutant(
        "an acknowledgement names an index that was not verified",
        (22,),
        (
            Patch(
                _CORE,
                "Raft._handle_append_entries",
                "request.accepted(self.current_term, verified)",
                "request.accepted(self.current_term, self.log.last_index)",
            ),
        ),
        _HAZARDS,
        (1,),
    ),
    Mutant(
        "the consistency check compares no terms",
        (22,),
        (Patch(_LOG, "Log.holds", "and self.term(position.index) == position.term", ""),),
        ("tests/raft/test_paper_5_3.py",),
        (1,),
    ),
    Mutant(
        "a follower commits up to its own last index",
        (23,),
        (
            Patch(
                _CORE,
                "Raft._handle_append_entries",
                "min(request.leader_commit, verified)",
                "min(request.leader_commit, self.log.last_index)",
            ),
        ),
        _HAZARDS,
        (1,),
    ),
    Mutant(
        "a follower believes the leader's commit index",
        (23,),
        (
            Patch(
                _CORE,
                "Raft._handle_append_entries",
                "min(request.leader_commit, verified)",
                "request.leader_commit",
            ),
        ),
        ("tests/raft/test_paper_5_3.py",),
    ),
    Mutant(
        "a leader that has lost its term goes on appending",
        (24,),
        (
            Patch(_CORE, "Raft._leave_leadership", "self.lease = None", "self.lease = None\nself._former = leader"),
            Patch(
                _CORE,
                "Raft._require_leader",
                "raise NotLeader(self.leader_id)",
                "if isinstance(former := getattr(self, '_former', None), Leader):\n"
                "    return former\n"
                "raise NotLeader(self.leader_id)",
            ),
        ),
        _HAZARDS,
    ),
    Mutant(
        "match indexes survive a re-election",
        (25,),
        (
            Patch(_CORE, "Raft._leave_leadership", "self.lease = None", "self.lease = None\nself._former = leader"),
            Patch(
                _ELECTIONS,
                "_become_leader",
                "peer: Progress(next_index=last + 1)",
                "peer: raft._former.progress[peer] if hasattr(raft, '_former') else Progress(next_index=last + 1)",
            ),
        ),
        _HAZARDS,
    ),
    Mutant(
        "a delayed rejection is believed while replicating",
        (26,),
        (Patch(_PROGRESS, "Progress.is_stale_rejection", "return rejected_index <= self.match_index", "return False"),),
        _HAZARDS,
    ),
    Mutant(
        "a delayed rejection is believed while probing",
        (26,),
        (
            Patch(
                _PROGRESS,
                "Progress.is_stale_rejection",
                "return rejected_index != self.next_index - 1",
                "return False",
            ),
        ),
        _HAZARDS,
    ),
    Mutant(
        "a follower that lost its log is asked as fast as it answers",
        (26,),
        (
            Patch(
                _CORE,
                "Raft._handle_append_reply",
                "progress.probe_sent = progress.next_index > reply.rejected_index",
                "progress.probe_sent = False",
            ),
        ),
        ("tests/raft/test_hazards.py", "tests/raft/test_lost_log.py"),
    ),
    Mutant(
        "a request that got lost is never sent again",
        (27,),
        (Patch(_PROGRESS, "Progress.is_overdue", "now - self.in_flight[0][1] > patience", "False"),),
        ("tests/raft/test_progress.py",),
        (6,),
    ),
    Mutant(
        "a failed call leaves the pipeline full",
        (27,),
        (Patch(_PROGRESS, "Progress.probe", "self.in_flight.clear()", "pass"),),
        ("tests/raft/test_progress.py",),
    ),
    Mutant(
        "an answer frees only its own request's place",
        (27,),
        (
            Patch(
                _PROGRESS,
                "Progress.succeeded",
                "self.in_flight[0][0] <= self.match_index",
                "self.in_flight[0][0] == self.match_index",
            ),
        ),
        ("tests/raft/test_progress.py",),
    ),
    Mutant(
        "requests in flight are not limited",
        (27, 50),
        (Patch(_PROGRESS, "Progress.may_send", "return len(self.in_flight) < max_in_flight", "return True"),),
        ("tests/raft/test_progress.py",),
    ),
    Mutant(
        "a failed read of the log is an empty answer",
        (28,),
        (
            Patch(
                _LOG,
                "Log.entries",
                "found = self._store.entries(first, min(last, durable), max_bytes)",
                "try:\n"
                "    found = self._store.entries(first, min(last, durable), max_bytes)\n"
                "except Exception:\n"
                "    found = []",
            ),
        ),
        ("tests/raft/test_log.py", "tests/raft/test_hazards.py"),
    ),
    Mutant(
        "a late answer lowers the match index",
        (29,),
        (Patch(_PROGRESS, "Progress.succeeded", "max(self.match_index, match_index)", "match_index"),),
        ("tests/raft/test_progress.py",),
    ),
    Mutant(
        "the commit index goes back",
        (29,),
        (Patch(_CORE, "Raft._commit", "if index <= self.committed_index", "if index == self.committed_index"),),
        _HAZARDS,
    ),
    Mutant(
        "a majority of even numbers is a half",
        (30,),
        (Patch(_QUORUM, "majority", "len(voters) // 2 + 1", "(len(voters) + 1) // 2"),),
        ("tests/raft/test_quorum.py",),
        (7,),
    ),
    Mutant(
        "one less than a majority is enough to commit",
        (30,),
        (Patch(_QUORUM, "reached_by_majority", "majority(voters) - 1", "max(0, majority(voters) - 2)"),),
        ("tests/raft/test_quorum.py",),
    ),
    Mutant(
        "who is no voter counts too",
        (30,),
        (Patch(_QUORUM, "is_majority", "set(voters) & set(members)", "set(members)"),),
        ("tests/raft/test_quorum.py",),
    ),
    Mutant(
        "anybody gets a vote, whatever its log",
        (30,),
        (Patch(_ELECTIONS, "handle_request_vote", "up_to_date = request.last >= raft.log.last", "up_to_date = True"),),
        ("tests/raft/test_paper_5_4.py",),
        (1,),
    ),
    Mutant(
        "logs are compared by length alone",
        (30,),
        (
            Patch(
                _ELECTIONS,
                "handle_request_vote",
                "request.last >= raft.log.last",
                "request.last.index >= raft.log.last.index",
            ),
        ),
        ("tests/raft/test_paper_5_4.py",),
    ),
    Mutant(
        "an equal log is not good enough",
        (30,),
        (Patch(_ELECTIONS, "handle_request_vote", "request.last >= raft.log.last", "request.last > raft.log.last"),),
        ("tests/raft/test_paper_5_2.py",),
    ),
    Mutant(
        "a new leader takes all of its log for applied",
        (36,),
        (
            Patch(
                _ELECTIONS,
                "_become_leader",
                "last = raft.log.last_index",
                "raft.handed_out_index = last = raft.log.last_index",
            ),
        ),
        ("tests/raft/test_hazards.py", "tests/raft/test_dissertation_6_3.py", "tests/raft/test_random_cluster.py"),
    ),
]
