"""Mutants of leadership transfer (hazards 17 and 40; rule 7 of the design, and 3.10 of the dissertation)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_CORE, _LEASE, _TRANSFER = "raft/core.py", "raft/lease.py", "raft/transfer.py"
_ELECTIONS, _MEMBERSHIP = "raft/elections.py", "raft/membership.py"
_RULES, _3_10 = ("tests/raft/test_transfer_rules.py",), ("tests/raft/test_dissertation_3_10.py",)

_REVOKE = "raft.lease = None\nleader.has_let_go = transfer.is_told = True"

_WAITING_TRANSFERS = Patch(_TRANSFER, "begin_transfer", "if not raft.is_serving:", "if False:")
_RELEASED_IS_ALL = Patch(
    *(_LEASE, "Promises.until", "if whom != released)", "if released is None)"),
)

TRANSFERS = [
    Mutant(
        "the lease survives the transfer",
        (40,),
        (
            Patch(_TRANSFER, "go_on_with_transfer", _REVOKE, "transfer.is_told = True"),
            Patch("raft/invariants.py", "_check_lease", "if role.has_let_go:", "if False:"),
        ),
        ("tests/raft/test_hazards.py",),
        (3,),
    ),
    Mutant(
        "the lease is renewed after the transfer",
        (40,),
        (
            Patch(_CORE, "Raft._renew_lease", "if leader.has_let_go:", "if False:"),
            Patch("raft/invariants.py", "_check_lease", "if role.has_let_go:", "if False:"),
        ),
        _RULES,
    ),
    Mutant(
        "the lease comes back when the transfer is given up",
        (40,),
        (
            Patch(
                *(
                    _CORE,
                    "Raft._tick_leader",
                    "leader.transfer = None",
                    "leader.transfer, leader.has_let_go = None, False",
                )
            ),
        ),
        _RULES,
    ),
    Mutant(
        "the lease is revoked after TimeoutNow has left",
        (40,),
        (
            Patch(_TRANSFER, "go_on_with_transfer", _REVOKE, "transfer.is_told = True"),
            Patch(
                *(_TRANSFER, "handle_timeout_now_reply"),
                '"""Nothing to do: if the target stands, its term has ended ours; if not, it is asked again."""',
                "if isinstance(raft.role, Leader):\n    raft.role.has_let_go, raft.lease = True, None",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "the target forgets who has let go",
        (40,),
        (Patch(_ELECTIONS, "_ask_for_votes", "pre_vote, released=released", "pre_vote"),),
        _RULES,
    ),
    Mutant(
        "who has let go does not travel",
        (40,),
        (
            Patch(
                "transport.py",
                "request_to_wire",
                "released_term=request.released.term if request.released else 0,",
                "released_term=request.term - 1 if request.released else 0,",
            ),
        ),
        ("tests/node/test_conversions.py",),
    ),
    Mutant(
        "a voter counts the promise that is released",
        (40,),
        (Patch(_ELECTIONS, "_vote_reply", "raft._now, request.released", "raft._now"),),
        _RULES,
    ),
    Mutant(
        "the target counts its own promise that is released",
        (40,),
        (Patch(_ELECTIONS, "_become_leader", "until(candidate.released)", "until()"),),
        _RULES,
    ),
    Mutant("a release releases all promises", (40,), (_RELEASED_IS_ALL,), _RULES),
    Mutant(
        "a release is of the leader in any term",
        (40,),
        (
            Patch(
                *(_LEASE, "Promises.until", "if whom != released)"),
                "if released is None or whom.leader != released.leader)",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "a released promise is forgotten for good",
        (40,),
        (
            Patch(
                *(_LEASE, "Promises.remaining_ms", "until = self.until(released)"),
                "self._until.pop(released, None)  # type: ignore[arg-type]\nuntil = self.until(released)",
            ),
        ),
        _RULES,
    ),
    Mutant("a waiting leader transfers", (40,), (_WAITING_TRANSFERS,), _RULES),
    Mutant(
        "a waiting leader transfers, and its release is of all promises",
        (40, 42),
        (
            _WAITING_TRANSFERS,
            _RELEASED_IS_ALL,
            Patch(
                _TRANSFER,
                "go_on_with_transfer",
                "== raft.log.last_index == raft.committed_index",
                "== raft.log.last_index",
            ),
        ),
        _RULES,
        (65,),
    ),
    Mutant(
        "a release by anybody makes a voter let go of its leader",
        (40,),
        (
            Patch(
                *(_ELECTIONS, "_is_sent_by_leader"),
                "request.released == Leadership(raft.leader_id, raft.current_term)",
                "request.released is not None",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "nobody holds on to a leader",
        (),
        (Patch(_ELECTIONS, "is_disturbance", "and not _is_sent_by_leader(raft, request)", "and False"),),
        _RULES,
    ),
    Mutant(
        "voters hold on to a leader that has let go",
        (),
        (Patch(_ELECTIONS, "is_disturbance", "and not _is_sent_by_leader(raft, request)", ""),),
        _RULES,
    ),
    Mutant(
        "any member can tell another to stand",
        (),
        (Patch(_TRANSFER, "handle_timeout_now", "and raft.role.leader_id == request.sender", ""),),
        _3_10,
    ),
    Mutant(
        "a learner stands when it is told to",
        (),
        (Patch(_TRANSFER, "handle_timeout_now", "follows and raft.me in raft.configuration.voters", "follows"),),
        _3_10,
    ),
    Mutant(
        "a leader that hands over takes writes",
        (),
        (Patch(_CORE, "Raft.propose", "if leader.transfer is not None:", "if False:"),),
        _3_10,
    ),
    Mutant(
        "the target is told before it has caught up",
        (),
        (
            Patch(
                *(_TRANSFER, "go_on_with_transfer"),
                ".match_index == raft.log.last_index == raft.committed_index",
                ".match_index >= 0",
            ),
        ),
        _3_10,
    ),
    Mutant(
        "the target is told before everything is committed",
        (),
        (
            Patch(
                _TRANSFER,
                "go_on_with_transfer",
                "== raft.log.last_index == raft.committed_index",
                "== raft.log.last_index",
            ),
        ),
        _3_10,
    ),
    Mutant(
        "a transfer is never given up",
        (),
        (Patch(_CORE, "Raft._tick_leader", "self._now >= leader.transfer.give_up_at", "False"),),
        _3_10,
    ),
    Mutant(
        "a TimeoutNow that got lost is not sent again",
        (),
        (
            Patch(
                _CORE, "Raft._begin_round", "if leader.transfer is not None and leader.transfer.is_told:", "if False:"
            ),
        ),
        _3_10,
    ),
    Mutant(
        "leadership is handed over to somebody who does not answer",
        (),
        (Patch(_TRANSFER, "choose_target", "if rounds.has_answered_since(voter, since)", "if True"),),
        _3_10,
    ),
    Mutant(
        "leadership is handed over to anybody",
        (),
        (
            Patch(
                _TRANSFER,
                "choose_target",
                "max(answering, key=lambda voter: progress[voter].match_index)",
                "answering[0]",
            ),
        ),
        _3_10,
    ),
    Mutant(
        "a vote that comes late is not looked at",
        (),
        (
            Patch(
                _ELECTIONS, "handle_vote_reply", "isinstance(role, Candidate | Leader)", "isinstance(role, Candidate)"
            ),
        ),
        _RULES,
    ),
    Mutant(
        "a minority without promises is enough",
        (42,),
        (Patch(_ELECTIONS, "_end_of_promises", "majority(voters) - 1", "majority(voters) - 2"),),
        _RULES,
        (10,),
    ),
    Mutant(
        "a removed leader leaves an election behind it",
        (),
        (Patch(_MEMBERSHIP, "leave_if_removed", "transfer.name_successor(raft, leader)", "pass"),),
        ("tests/raft/test_dissertation_4_2.py",),
    ),
    Mutant(
        "a removed leader names somebody who lacks entries",
        (),
        (Patch(*(_TRANSFER, "name_successor", "leader.progress[target].match_index == raft.log.last_index", "True")),),
        ("tests/raft/test_dissertation_4_2.py",),
    ),
    Mutant(
        "rivals split the votes",
        (),
        (Patch(_ELECTIONS, "handle_request_vote", "if granted and rival:", "if False:"),),
        ("tests/raft/test_dissertation_9_6.py",),
    ),
    Mutant(
        "of two rivals both make room",
        (),
        (
            Patch(
                _ELECTIONS, "handle_request_vote", "and (request.last, request.sender) > (raft.log.last, raft.me)", ""
            ),
        ),
        ("tests/raft/test_dissertation_9_6.py",),
    ),
    Mutant(
        "a leader with a slow disk goes on leading",
        (17,),
        (Patch(_TRANSFER, "make_room", "begin_transfer(raft, leader, 0)", "pass"),),
        _3_10,
    ),
    Mutant(
        "a refusal after a lost answer is taken for the answer",
        (),
        (
            Patch(
                *("leadership.py", "transfer_leadership"),
                "(_in_doubt() if in_doubt else NotApplied(details, code.name))",
                "NotApplied(details, code.name)",
            ),
        ),
        ("tests/client/test_transfer.py",),
    ),
    Mutant(
        "a snapshot is taken for the one before it",
        (32,),
        (Patch("node.py", "RaftNode.open_snapshot", "self._storage.snapshot == meta", "True"),),
        ("tests/node/test_node.py",),
    ),
]
