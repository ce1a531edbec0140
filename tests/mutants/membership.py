"""Mutants of changes of the membership (hazard 45, and chapter 4 of the dissertation)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_CORE, _LOG, _ROLES, _LEASE = "raft/core.py", "raft/log.py", "raft/roles.py", "raft/lease.py"
_ELECTIONS, _MEMBERSHIP = "raft/elections.py", "raft/membership.py"
_WIPED = ("tests/node/test_wiped.py",)
_DISKS = ("tests/raft/test_disks.py",)
_RULES = ("tests/raft/test_dissertation_4_1.py", "tests/raft/test_dissertation_4_2.py")

MEMBERSHIP = [
    Mutant(
        "a change before the leader has committed in its term",
        (45,),
        (Patch(_MEMBERSHIP, "change_configuration", "if not raft.is_serving:", "if False:"),),
        _RULES,
    ),
    Mutant(
        "the answers of a member that has lost its disk count",
        (46,),
        (
            Patch(
                "peers.py",
                "Peers.has_kept_disk",
                "if membership.has_lost_disk(peer, incarnation, item.joined):",
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
                "if header.incarnation and self.has_lost_disk(claimed, header.incarnation, header.joined):",
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
                "peers.py",
                "Peers.has_kept_disk",
                "self._storage.remember_peer(peer, 0, incarnation)",
                "self._storage.identity.peers[peer] = 0, incarnation",
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
                "filter(peers.has_kept_disk, inputs)",
                "list(filter(peers.has_kept_disk, inputs))",
            ),
        ),
        _WIPED,
    ),
    Mutant(
        "a member that was added again is still known by its former disk",
        (46,),
        (Patch("transport.py", "Membership.is_founder", "not joined and not self.joined.get(peer)", "True"),),
        _WIPED,
    ),
    Mutant(
        "a member that was added again is taken for the founding one by whose log is behind",
        (46,),
        (Patch("transport.py", "Membership.is_founder", "not joined and not", "not"),),
        _WIPED,
    ),
    Mutant(
        "the disk that is first heard of a member that was added again is taken for its own",
        (46,),
        (Patch("transport.py", "Membership.is_founder", "not joined and not self.joined.get(peer)", "not joined"),),
        _WIPED,
    ),
    Mutant(
        "a member that was added again is called wiped for ever",
        (),
        (
            Patch(
                *("peers.py", "Peers.follow_configuration"),
                "frozenset(p for p in self.membership.wiped if joined.get(p) == self.membership.joined.get(p))",
                "self.membership.wiped",
            ),
        ),
        _WIPED,
    ),
    Mutant(
        "a member that has its disk again is called wiped",
        (),
        (Patch("peers.py", "Peers.has_kept_disk", "wiped=membership.wiped - {peer}", "wiped=membership.wiped"),),
        _WIPED,
    ),
    Mutant(
        "who is added again is sent to where its predecessor was",
        (),
        (Patch("peers.py", "Peers._follow_addresses", "self._forget(peer)", "pass"),),
        ("tests/node/test_peers.py",),
    ),
    Mutant(
        "who is added again is taken for one that moves",
        (),
        (
            Patch(
                *("peers.py", "Peers._follow_addresses"),
                " or self.membership.joined.get(peer) != former.joined.get(peer)",
                "",
            ),
        ),
        ("tests/node/test_peers.py",),
    ),
    Mutant(
        "who moves is not sent to where it was",
        (),
        (Patch("peers.py", "Peers.sender", "return sender if former.is_silent else former", "return sender"),),
        ("tests/node/test_peers.py",),
    ),
    Mutant(
        "who moves is sent to where it was for ever",
        (),
        (Patch("peers.py", "Peers.sender", "if not sender.has_answered:", "if True:"),),
        ("tests/node/test_peers.py",),
    ),
    Mutant(
        "who moves on is only sent to where it has never been",
        (),
        (Patch("peers.py", "Peers._move", "if before_that is not None and not sender.has_answered:", "if False:"),),
        ("tests/node/test_peers.py",),
    ),
    Mutant(
        "votes and acknowledgements count from any disk",
        (46,),
        (Patch(_CORE, "Raft.step", "if self._is_from_anothers_disk(message):", "if False:"),),
        _DISKS,
        seeds=(38, 64, 111),
    ),
    Mutant(
        "a later disk is not listened to where the log does not tell of it yet",
        (),
        (
            Patch(
                *(_CORE, "Raft._is_from_anothers_disk"),
                "isinstance(message, SignedReply)",
                "isinstance(message, SignedReply | AppendEntries | RequestVote)",
            ),
        ),
        _DISKS,
    ),
    Mutant(
        "a learner's vote is given to no disk",
        (46,),
        (
            Patch(
                *(_MEMBERSHIP, "promote_if_caught_up"),
                "Promote(learner, leader.progress[learner].disk)",
                "Promote(learner)",
            ),
        ),
        _DISKS,
    ),
    Mutant(
        "what a learner's former disk held counts for the present one",
        (46,),
        (Patch(_CORE, "Raft._goes_on_from", "if progress.disk and progress.disk != reply.incarnation:", "if False:"),),
        _DISKS,
    ),
    Mutant(
        "a learner that begins anew may answer what its former disk was asked",
        (46,),
        (Patch(_ROLES, "Leader.begin_anew", "self.rounds.current + 1", "1"),),
        _DISKS,
    ),
    Mutant(
        "a member stands for election with another disk than its vote belongs to",
        (46,),
        (Patch(_ELECTIONS, "is_meant_by", "return has_disk and", "return"),),
        _DISKS,
    ),
    Mutant(
        "a former directory is taken for the one with which the member has its vote",
        (46,),
        (Patch("joining.py", "find_place", 'place.disk not in (b"", known.incarnation)', "False"),),
        ("tests/node/test_joining.py",),
    ),
    Mutant(
        "two changes at once",
        (),
        (Patch(_MEMBERSHIP, "change_configuration", "if raft.is_changing:", "if False:"),),
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
        (Patch(_MEMBERSHIP, "leave_if_removed", "if raft.me not in raft.configuration.voters:", "if False:"),),
        _RULES,
    ),
    Mutant(
        "a removed leader steps down before its callers know",
        (),
        (
            Patch(
                *(_MEMBERSHIP, "leave_if_removed"),
                "if raft.handed_out_index < removed_at:",
                "if raft.committed_index < removed_at:",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "a snapshot for somebody without an address never ends",
        (),
        (Patch("node.py", "RaftNode._send", "self.unreachable(message.recipient)", "pass"),),
        ("tests/node/test_node.py",),
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
    ),
    Mutant(
        "a newcomer may vote in the term of its first leader",
        (),
        (Patch(_CORE, "Raft._follow", "if not self.voted_for and not elections.has_vote(self):", "if False:"),),
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
        (Patch(_MEMBERSHIP, "change_configuration", ">= raft.config.election_timeout", ">= 1e9"),),
        _RULES,
    ),
]
