"""Elections (Raft paper, 5.2, 5.4.1; dissertation, 9.6): who stands, who votes, who wins.

Functions of a `Raft`, whose state they change; only the algorithm calls them. What makes votes safe: a term has one
vote of each member, which is durable before anybody hears of it (`HardState`, ready.py); it goes to nobody whose log is
behind; a majority of the candidate's configuration decides; and who has only just joined has none (`has_vote`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from raftkv.raft.lease import Rounds
from raftkv.raft.messages import RequestVote, RequestVoteReply
from raftkv.raft.progress import Progress
from raftkv.raft.quorum import is_majority, majority
from raftkv.raft.roles import Candidate, Follower, Leader, PreCandidate
from raftkv.raft.types import Configuration, Entry, EntryKind, Leadership

if TYPE_CHECKING:
    from raftkv.raft.core import Raft


# ---- standing --------------------------------------------------------------------------------------------------------


def start_pre_vote(raft: Raft) -> None:
    if not _may_stand(raft):
        raft.role = Follower(raft._draw_election_deadline())
        return
    if not isinstance(raft.role, PreCandidate):  # said once, not at every further try
        raft._note(f"hears no leader in term {raft.current_term}, asks for pre-votes")
    raft.role = PreCandidate(raft._draw_election_deadline(), {raft.me})
    _ask_for_votes(raft, raft.current_term + 1, pre_vote=True)
    _start_election_if_welcome(raft, raft.role)


def _start_election_if_welcome(raft: Raft, pre_candidate: PreCandidate) -> None:
    if not is_majority(raft.configuration.voters, pre_candidate.granted_by):
        return
    start_election(raft)


def start_election(raft: Raft, released: Leadership | None = None) -> None:
    raft._hard_state = replace(raft._hard_state, term=raft.current_term + 1, voted_for=raft.me)
    raft.role = Candidate(raft._draw_election_deadline(), released=released)
    raft._note(f"stands for election in term {raft.current_term}")
    _ask_for_votes(raft, raft.current_term, pre_vote=False, released=released)


def _ask_for_votes(raft: Raft, term: int, pre_vote: bool, released: Leadership | None = None) -> None:
    for voter in sorted(raft.configuration.voters - {raft.me}):
        raft._send(RequestVote(raft.me, voter, term, raft.log.last, pre_vote, released=released))


# ---- voting ----------------------------------------------------------------------------------------------------------


def handle_request_vote(raft: Raft, request: RequestVote) -> None:
    up_to_date = request.last >= raft.log.last and has_vote(raft)
    if request.pre_vote:
        granted = request.term > raft.current_term and up_to_date and not _hears_a_leader(raft)
        term = request.term if granted else raft.current_term
        rival = isinstance(raft.role, PreCandidate) and (request.last, request.sender) > (raft.log.last, raft.me)
        if granted and rival:
            # Two that ask at the same time would split the votes, and cost a whole election timeout more.
            raft.role = Follower(raft._draw_election_deadline())
        raft._send(_vote_reply(raft, request, granted=granted, term=term))
    elif raft.voted_for in (0, request.sender) and up_to_date:
        raft._hard_state = replace(raft._hard_state, voted_for=request.sender)
        follower = raft.role if isinstance(raft.role, Follower) else raft._become_follower(raft.current_term)
        follower.election_deadline = raft._draw_election_deadline()
        raft._send(_vote_reply(raft, request, granted=True, term=raft.current_term))
    else:
        refuse_vote(raft, request)


def refuse_vote(raft: Raft, request: RequestVote) -> None:
    raft._send(_vote_reply(raft, request, granted=False, term=raft.current_term))


def _vote_reply(raft: Raft, request: RequestVote, granted: bool, term: int) -> RequestVoteReply:
    remaining_ms = raft._promises.remaining_ms(raft._now, request.released)
    return RequestVoteReply(raft.me, request.sender, term, granted, request.pre_vote, remaining_ms, request.call)


def is_disturbance(raft: Raft, request: RequestVote) -> bool:
    """Leader stickiness (6, end; diss. 4.2.3): a member that was cut off must not depose a working leader."""
    return _hears_a_leader(raft) and not _is_sent_by_leader(raft, request)


def _hears_a_leader(raft: Raft) -> bool:
    """Whether a leader is at work as far as this member knows: one that heard from a majority (a leader that has
    not steps down), or was heard from within the shortest election timeout."""
    if isinstance(raft.role, Leader):
        return not raft._has_lost_majority(raft.role)
    return isinstance(raft.role, Follower) and raft._now - raft.role.leader_heard_at < raft.config.election_timeout


def _is_sent_by_leader(raft: Raft, request: RequestVote) -> bool:
    """Whether the very leader that this member follows, in this very term, has asked for the election (3.10)."""
    return request.released == Leadership(raft.leader_id, raft.current_term)


# ---- winning ---------------------------------------------------------------------------------------------------------


def handle_vote_reply(raft: Raft, reply: RequestVoteReply) -> None:
    role = raft.role
    if not reply.granted:
        return
    if reply.pre_vote:
        if isinstance(role, PreCandidate) and reply.term == raft.current_term + 1:
            role.granted_by.add(reply.sender)
            _start_election_if_welcome(raft, role)
    elif isinstance(role, Candidate | Leader):
        role.promised_until.setdefault(reply.sender, raft._now + reply.remaining_lease_ms / 1000)
        if isinstance(role, Candidate):
            count_vote(raft, role, reply.sender)
        elif raft._now < role.serve_from:
            role.serve_from = min(role.serve_from, _end_of_promises(raft, role.promised_until))
            raft._commit_by_majority(role)


def count_vote(raft: Raft, candidate: Candidate, voter: int) -> None:
    candidate.granted_by.add(voter)
    # Its own vote counts once it is durable, and without its own it can't win: it might vote again after a crash.
    if raft.me in candidate.granted_by and is_majority(raft.configuration.voters, candidate.granted_by):
        _become_leader(raft, candidate)


def _become_leader(raft: Raft, candidate: Candidate) -> None:
    last = raft.log.last_index
    log_time_ms = raft.log.last_time_ms
    promised_until = {**candidate.promised_until, raft.me: raft._promises.until(candidate.released)}
    serve_from = _end_of_promises(raft, promised_until)
    raft.role = leader = Leader(
        progress={peer: Progress(next_index=last + 1) for peer in raft.configuration.members - {raft.me}},
        rounds=Rounds(raft.me, raft._now),
        heartbeat_due=raft._now + raft.config.heartbeat_interval,
        term_start_index=last + 1,
        serve_from=serve_from,
        promised_until=promised_until,
        elected_at=raft._now,
        log_time_ms=log_time_ms,
    )
    raft._adopt_configuration(leader)
    # Section 8: only an entry of its own term tells a leader what is committed.
    raft.log.append([Entry(last + 1, raft.current_term, EntryKind.NO_OP, raft.config.term_settings, log_time_ms)])
    voters = ", ".join(map(str, sorted(candidate.granted_by)))
    raft._note(f"leads term {raft.current_term}, elected by {voters}")
    if serve_from > raft._now:
        wait = serve_from - raft._now
        raft._note(f"waits {wait:.3f} s for an earlier leader's lease to run out before it commits or serves")


def _end_of_promises(raft: Raft, promised_until: Mapping[int, float]) -> float:
    """When all that some majority of the voters has promised to earlier leaders will have run out. A lease rests on
    a majority, and any two share a voter; so no lease is left then."""
    voters = raft.configuration.voters
    ends = sorted(until for voter, until in promised_until.items() if voter in voters)
    return ends[majority(voters) - 1]


# ---- who counts ------------------------------------------------------------------------------------------------------


def _may_stand(raft: Raft) -> bool:
    """Whether it has a vote; or had one until its removal, if that is not committed yet: there may be nobody else
    who can win (diss. 4.2.2). Its own vote does not count then."""
    return any(raft.me in c.voters and is_meant_by(raft, c) for c in _configurations_in_question(raft))


def has_vote(raft: Raft) -> bool:
    """Whether it may vote; by what configuration, only the candidate knows (diss. 4.1).

    Who belongs to nothing yet may have belonged here before, and have lost what it has acknowledged and voted then.
    Nobody needs its vote: by the time that it counts, the log tells that it is a member."""
    return any(is_meant_by(raft, c) for c in _configurations_in_question(raft))


def _configurations_in_question(raft: Raft) -> list[Configuration]:
    """The latest configuration; and the one before, to which it may go back."""
    return [raft.configuration, *([raft.log.configurations.previous] if raft.is_changing else [])]


def is_meant_by(raft: Raft, configuration: Configuration) -> bool:
    """Whether this very member belongs to it. The front of its log may tell of a time at which another had its id,
    whose disk is lost: if several that are added again, and have no more of the log yet, took that for themselves,
    they could elect a leader who lacks what has been committed since. Nor is it meant if the vote belongs to another
    disk."""
    has_disk = configuration.counts_with(raft.me, raft._disk)
    return has_disk and dict(configuration.joined).get(raft.me, 0) >= raft._joined
