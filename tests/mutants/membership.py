"""Mutants of changes of the membership (hazard 45, and chapter 4 of the dissertation)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_CORE, _LOG, _ROLES, _LEASE = "raft/core.py", "raft/log.py", "raft/roles.py", "raft/lease.py"
_ELECTIONS = "raft/elections.py"
_WIPED = ("tests/node/test_wiped.py",)
_RULES = ("tests/raft/test_dissertation_4_1.py", "tests/raft/test_dissertation_4_2.py")

MEMBERSHIP = [
    Mutant(
        "a change before the leader has committed in its term",
        (45,),
        (Patch(_CORE, "Raft.change_configuration", "if not self.is_serving:", "if False:"),),
        _RULES,
    ),
    Mutant(
        "the answers of a member that has lost its disk count",
        (46,),
        (
            Patch(
                "node.py",
                "RaftNode._has_kept_disk",
                "if self.membership.has_lost_disk(peer, incarnation):",
                "if False:",
            ),
        ),
        _WIPED,
    ),
    Mutant(
        "a member that has lost its disk is answered",
        (46,),
        (
            Patch(
                "transport.py",
                "Membership.admit",
                "if header.incarnation and self.has_lost_disk(claimed, header.incarnation):",
                "if False:",
            ),
        ),
        _WIPED,
    ),
    Mutant(
        "a restart forgets with which disks the others were met",
        (46,),
        (
            Patch(
                "node.py",
                "RaftNode._has_kept_disk",
                "self._storage.remember_peer(peer, joined, incarnation)",
                "self._storage.identity.peers[peer] = joined, incarnation",
            ),
        ),
        _WIPED,
    ),
    Mutant(
        "who is added again is judged by the configuration before the turn",
        (46,),
        (
            Patch(
                *("node.py", "RaftNode.turn"),
                "(item for item in inputs if self._has_kept_disk(item))",
                "[item for item in inputs if self._has_kept_disk(item)]",
            ),
        ),
        _WIPED,
    ),
    Mutant(
        "a member that was added again is still known by its former disk",
        (46,),
        (Patch("transport.py", "Membership.has_lost_disk", "joined == self.joined.get(peer, 0)", "joined >= 0"),),
        _WIPED,
    ),
    Mutant(
        "two changes at once",
        (),
        (Patch(_CORE, "Raft.change_configuration", "if self.is_changing:", "if False:"),),
        _RULES,
    ),
    Mutant(
        "a configuration counts only once it is committed",
        (),
        (
            Patch(
                _CORE,
                "Raft.configuration",
                "self.log.configurations.latest",
                "self.log.configurations.at(self.log.committed_index)",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "the configuration is not rolled back",
        (),
        (Patch(_LOG, "Log._replace", "self.configurations.truncate(index)", "pass"),),
        _RULES,
    ),
    Mutant(
        "a restart forgets the configurations in the log",
        (),
        (Patch(_LOG, "configurations_of", "configurations.take_in(", "list("),),
        _RULES,
    ),
    Mutant(
        "a learner's copy counts",
        (),
        (
            Patch(
                _CORE,
                "Raft._commit_by_majority",
                "reached_by_majority(self.configuration.voters",
                "reached_by_majority(self.configuration.members",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "a learner's vote counts",
        (),
        (
            Patch(
                _ELECTIONS,
                "count_vote",
                "is_majority(raft.configuration.voters",
                "is_majority(raft.configuration.members",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "a removed leader counts itself",
        (),
        (
            Patch(
                _CORE,
                "Raft._commit_by_majority",
                "reached_by_majority(self.configuration.voters",
                "reached_by_majority(self.configuration.voters | {self.me}",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "a removed leader leads on",
        (),
        (Patch(_CORE, "Raft._leave_if_removed", "if self.me not in self.configuration.voters:", "if False:"),),
        _RULES,
    ),
    Mutant(
        "a member that is being removed does not stand for election",
        (),
        (Patch(_ELECTIONS, "_configurations_in_question", "if raft.is_changing else", "if False else"),),
        _RULES,
    ),
    Mutant(
        "a removed member goes on standing for election",
        (),
        (Patch(_ELECTIONS, "_configurations_in_question", "if raft.is_changing else", "if True else"),),
        _RULES,
    ),
    Mutant(
        "a removed member is never told",
        (),
        (Patch(_ROLES, "Leader.adopt", "self.leaving.setdefault(peer, math.inf)", "self.leaving[peer] = -math.inf"),),
        _RULES,
    ),
    Mutant(
        "a removed member is called for ever",
        (),
        (Patch(_ROLES, "Leader.removal_is_committed", "min(known, until)", "known"),),
        _RULES,
    ),
    Mutant(
        "an answer of a removed member counts when it comes back",
        (46,),
        (Patch(_CORE, "Raft._handle_append_reply", "reply.round < progress.first_round", "reply.round == 0"),),
        _RULES,
        seeds=(4, 20, 32),
    ),
    Mutant(
        "a snapshot that a removed member has taken counts when it comes back",
        (46,),
        (Patch(_CORE, "Raft._handle_install_reply", "reply.asked_in < progress.first_round", "False"),),
        _RULES,
        seeds=(77,),
    ),
    Mutant(
        "the match index of a removed member holds when it comes back",
        (),
        (
            Patch(
                _ROLES,
                "Leader.adopt",
                "if self.leaving.pop(peer, None) is not None or peer not in self.progress:",
                "if self.leaving.pop(peer, None) is None and peer not in self.progress:",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "the lease is kept across a change",
        (),
        (Patch(_CORE, "Raft._adopt_configuration", "self.lease = None\nself._renew_lease(leader)", "pass"),),
        _RULES,
    ),
    Mutant(
        "the present voters' lease counts from the former ones' round",
        (),
        (Patch(_LEASE, "Rounds.majority_heard_at", "began if round <= max(reached, 1) else -math.inf", "began"),),
        _RULES,
    ),
    Mutant(
        "a member that belongs to nothing yet votes",
        (),
        (Patch(_ELECTIONS, "handle_request_vote", " and has_vote(raft)", ""),),
        _RULES,
    ),
    Mutant(
        "a newcomer takes a founding member with its id for itself",
        (46,),
        (
            Patch(
                _ELECTIONS,
                "is_meant_by",
                "dict(configuration.joined).get(raft.me, 0) >= raft._joined",
                "bool(configuration.members)",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "a newcomer takes an earlier one with its id for itself",
        (46,),
        (
            Patch(
                _ELECTIONS,
                "is_meant_by",
                "dict(configuration.joined).get(raft.me, 0) >= raft._joined",
                "not raft._joined or raft.me in dict(configuration.joined)",
            ),
        ),
        _RULES,
        seeds=(4, 22, 32),
    ),
    Mutant(
        "a newcomer may vote in the term of its first leader",
        (),
        (Patch(_CORE, "Raft._follow", "if not elections.has_vote(self) and not self.voted_for:", "if False:"),),
        _RULES,
    ),
    Mutant(
        "a learner is promoted before it has caught up",
        (),
        (Patch("raft/catching_up.py", "CatchingUp.is_done", "return False", "return True"),),
        _RULES,
    ),
    Mutant(
        "a change is made though too few would be left",
        (),
        (Patch(_CORE, "Raft.change_configuration", ">= self.config.election_timeout", ">= 1e9"),),
        _RULES,
    ),
]
