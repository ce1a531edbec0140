"""Messages to the wire and back, and what is refused on the way in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.config import NodeConfig
from raftkv.raft.lease import Promises
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
    TimeoutNowReply,
)
from raftkv.raft.types import ORIGIN, Entry, EntryKind, Leadership, LogPosition
from raftkv.transport import (
    MAX_LEASE_MS,
    MAX_REMAINING_LEASE_MS,
    Malformed,
    Membership,
    Reply,
    Request,
    Stranger,
    append_entries_from_wire,
    reply_from_wire,
    reply_to_wire,
    request_to_wire,
    request_vote_from_wire,
    timeout_now_from_wire,
)
from raftkv.wire import raft_pb2 as wire

u64 = st.integers(0, 2**64 - 1)
a_count = st.integers(0, 2**62)
"""A term, an index or a round, up to the largest that is believed."""
a_lease = st.integers(0, MAX_LEASE_MS)
what_is_left = st.integers(0, MAX_REMAINING_LEASE_MS)
MEMBERS = Membership(1, {1: "h:1", 2: "h:2", 3: "h:3"})
"""Node 1's own view."""
PEER = Membership(2, {1: "h:1", 2: "h:2", 3: "h:3"})
"""Node 2's, which is the same."""


@st.composite
def append_entries(draw: st.DrawFn) -> AppendEntries:
    terms = sorted(draw(st.lists(st.integers(1, 2**40), min_size=2, max_size=6)))
    prev = draw(st.sampled_from([ORIGIN, LogPosition(terms[0], draw(st.integers(1, 2**50)))]))
    entries = tuple(_entry(draw, prev.index + 1 + i, term) for i, term in enumerate(terms[1:]))
    term = draw(st.integers(terms[-1], 2**41))
    return AppendEntries(2, 1, term, prev, entries, draw(a_count), draw(a_lease), draw(a_count), call=7)


def _entry(draw: st.DrawFn, index: int, term: int) -> Entry:
    kind = draw(st.sampled_from(EntryKind))
    if kind is EntryKind.TEXT:
        words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        payload = ("SET k " + draw(words)).encode()
    else:
        payload = draw(st.binary(max_size=20))
    return Entry(index, term, kind, payload, draw(u64))


@given(append_entries())
def test_append_entries_survives_the_wire(message: AppendEntries) -> None:
    data = request_to_wire(message, wire.Identity()).SerializeToString()
    assert append_entries_from_wire(wire.AppendEntriesRequest.FromString(data), 1, call=7) == message


@given(st.integers(1, 2**62), a_count, st.booleans())
def test_request_vote_survives_the_wire(term: int, index: int, pre_vote: bool) -> None:
    message = RequestVote(3, 1, term, LogPosition(term, index) if index else ORIGIN, pre_vote, call=9)
    data = request_to_wire(message, wire.Identity()).SerializeToString()
    assert request_vote_from_wire(wire.RequestVoteRequest.FromString(data), 1, call=9) == message


@given(st.integers(2, 2**62), st.integers(1, 2**40), st.integers(1, 2**62))
def test_who_has_let_go_survives_the_wire(term: int, leader: int, released_term: int) -> None:
    released = Leadership(leader, min(released_term, term - 1))
    message = RequestVote(3, 1, term, ORIGIN, call=9, released=released)
    data = request_to_wire(message, wire.Identity()).SerializeToString()
    assert request_vote_from_wire(wire.RequestVoteRequest.FromString(data), 1, call=9) == message


@given(st.integers(1, 2**62))
def test_timeout_now_survives_the_wire(term: int) -> None:
    message = TimeoutNow(3, 1, term, call=9)
    data = request_to_wire(message, wire.Identity()).SerializeToString()
    assert timeout_now_from_wire(wire.TimeoutNowRequest.FromString(data), 1, call=9) == message


@given(st.builds(TimeoutNowReply, st.just(2), st.just(1), a_count, st.booleans()))
def test_timeout_now_reply_survives_the_wire(message: TimeoutNowReply) -> None:
    assert _through_the_wire(message) == message


@pytest.mark.parametrize(("term", "released_term"), [(5, 0), (5, 5), (5, 6)])
def test_nobody_stands_for_a_leader_of_no_earlier_term(term: int, released_term: int) -> None:
    request = wire.RequestVoteRequest(term=term, candidate_id=2, released_leader=3, released_term=released_term)
    with pytest.raises(Malformed, match="nobody stands in term 5"):
        request_vote_from_wire(request, 1, call=9)


def test_a_pre_vote_releases_nobody() -> None:
    request = wire.RequestVoteRequest(term=5, candidate_id=2, released_leader=3, released_term=4, pre_vote=True)
    with pytest.raises(Malformed):
        request_vote_from_wire(request, 1, call=9)


@pytest.mark.parametrize("term", [0, 2**63])
def test_timeout_now_in_an_impossible_term_is_refused(term: int) -> None:
    with pytest.raises(Malformed):
        timeout_now_from_wire(wire.TimeoutNowRequest(term=term, leader_id=2), 1, call=9)


@given(st.builds(AppendEntriesReply, st.just(2), st.just(1), a_count, st.booleans(), u64, u64, u64, u64, u64))
def test_append_entries_reply_survives_the_wire(message: AppendEntriesReply) -> None:
    assert _through_the_wire(message) == message


@given(st.builds(RequestVoteReply, st.just(2), st.just(1), a_count, st.booleans(), st.booleans(), what_is_left))
def test_request_vote_reply_survives_the_wire(message: RequestVoteReply) -> None:
    assert _through_the_wire(message) == message


def _through_the_wire(message: Reply) -> Reply:
    reply = reply_to_wire(message)
    return reply_from_wire(type(reply).FromString(reply.SerializeToString()), sender=2, me=1)


def test_an_entry_has_the_form_that_the_contract_gives_it() -> None:
    """LogEntry: 1 term, 2 operation: "SET key value", or "NO-OP"."""
    entries = (Entry(1, 3, EntryKind.NO_OP, b"settings"), Entry(2, 3, EntryKind.TEXT, "SET k wört".encode()))
    request = request_to_wire(AppendEntries(2, 1, 3, ORIGIN, entries, 0, 0, 1), wire.Identity())
    assert isinstance(request, wire.AppendEntriesRequest)
    assert [(entry.term, entry.operation) for entry in request.entries] == [(3, "NO-OP"), (3, "SET k wört")]


# ---- what no correct member sends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prev", "terms", "term"),
    [
        pytest.param((0, 0), [], 0, id="term 0"),
        pytest.param((0, 0), [0], 1, id="an entry of term 0"),
        pytest.param((0, 0), [2], 1, id="an entry of a later term than the leader's"),
        pytest.param((0, 0), [2, 1], 2, id="terms that go back"),
        pytest.param((2, 5), [1], 2, id="an entry of an earlier term than the one before"),
        pytest.param((3, 5), [], 2, id="a position of a later term than the leader's"),
        pytest.param((0, 5), [], 2, id="an index without a term"),
        pytest.param((1, 0), [], 2, id="a term without an index"),
    ],
)
def test_malformed_append_entries_is_refused(prev: tuple[int, int], terms: list[int], term: int) -> None:
    entries = [wire.LogEntry(term=t, operation="SET k v") for t in terms]
    request = wire.AppendEntriesRequest(
        term=term, leader_id=2, prev_log_term=prev[0], prev_log_index=prev[1], entries=entries
    )
    with pytest.raises(Malformed):
        append_entries_from_wire(request, 1, 1)


@pytest.mark.parametrize(("term", "last"), [(0, (0, 0)), (2, (3, 1)), (2, (0, 1)), (2, (1, 0))])
def test_a_malformed_request_for_a_vote_is_refused(term: int, last: tuple[int, int]) -> None:
    request = wire.RequestVoteRequest(term=term, candidate_id=2, last_log_term=last[0], last_log_index=last[1])
    with pytest.raises(Malformed):
        request_vote_from_wire(request, 1, 1)


@pytest.mark.parametrize("field", ["term", "prev_log_index", "leader_commit", "round", "lease_duration"])
def test_a_number_that_no_cluster_can_have_reached_is_refused(field: str) -> None:
    """It would leave no room to count on from, or a promise that never ends."""
    request = wire.AppendEntriesRequest(term=1, leader_id=2, prev_log_term=1, prev_log_index=1)
    append_entries_from_wire(request, 1, 1)
    setattr(request, field, 2**63)
    with pytest.raises(Malformed):
        append_entries_from_wire(request, 1, 1)


def test_an_answer_with_an_impossible_term_is_refused() -> None:
    with pytest.raises(Malformed):
        reply_from_wire(wire.RequestVoteReply(term=2**63), sender=2, me=1)


@pytest.mark.parametrize("remaining_ms", [MAX_REMAINING_LEASE_MS + 1, 2**64 - 1])
def test_a_vote_after_which_a_leader_would_wait_for_ever_is_refused(remaining_ms: int) -> None:
    reply = wire.RequestVoteReply(term=2, vote_granted=True, remaining_lease=remaining_ms)
    with pytest.raises(Malformed, match=f"{remaining_ms} ms left"):
        reply_from_wire(reply, sender=2, me=1)


@given(st.floats(0, 1e9))
def test_whatever_a_voter_may_be_asked_to_promise_its_vote_is_taken(now: float) -> None:
    """The longest lease and the worst clock that config.ini allows."""
    highest = {
        name: NodeConfig.__dataclass_fields__[name].metadata["high"] for name in ("lease_duration", "clock_drift")
    }
    assert highest["lease_duration"] * 1000 == MAX_LEASE_MS
    promises = Promises(highest["clock_drift"])
    promises.promise(1, 1, MAX_LEASE_MS, now)
    assert MAX_REMAINING_LEASE_MS - 1 <= promises.remaining_ms(now) <= MAX_REMAINING_LEASE_MS


# ---- who may talk to whom (rule 11, hazard 52) -----------------------------------------------------------------------


def request_from(sender: Membership, to: int = 1) -> wire.RequestVoteRequest:
    vote: Request = RequestVote(sender.me, to, 1, ORIGIN)
    request = request_to_wire(vote, sender.identity_for(to))
    assert isinstance(request, wire.RequestVoteRequest)
    return request


def with_cluster(membership: Membership, cluster_id: bytes) -> Membership:
    return Membership(membership.me, membership.addresses, cluster_id)


ONE, OTHER = b"1" * 16, b"2" * 16


@pytest.mark.parametrize("mine", [b"", ONE])
@pytest.mark.parametrize("theirs", [b"", ONE])
def test_a_member_of_the_same_cluster_is_admitted_whether_or_not_the_id_is_known_yet(
    mine: bytes, theirs: bytes
) -> None:
    with_cluster(MEMBERS, mine).admit(request_from(with_cluster(PEER, theirs)))


def test_a_member_of_another_cluster_is_refused() -> None:
    with pytest.raises(Stranger, match="another cluster"):
        with_cluster(MEMBERS, ONE).admit(request_from(with_cluster(PEER, OTHER)))


@pytest.mark.parametrize("mine", [b"", ONE])
@pytest.mark.parametrize("theirs", [b"", ONE])
def test_another_list_of_members_is_refused_unless_both_know_that_they_are_of_one_cluster(
    mine: bytes, theirs: bytes
) -> None:
    """Addresses may change along with the membership; until the cluster has an id they are all there is to go by."""
    moved = Membership(2, {1: "h:1", 2: "elsewhere:2", 3: "h:3"}, theirs)
    if mine and theirs:
        with_cluster(MEMBERS, mine).admit(request_from(moved))
    else:
        with pytest.raises(Stranger, match="another list of members: 1=h:1, 2=h:2, 3=h:3"):
            with_cluster(MEMBERS, mine).admit(request_from(moved))


def test_the_list_that_is_named_is_the_one_that_counts_and_not_the_members_of_now() -> None:
    grown = Membership(1, {1: "h:1", 2: "h:2", 4: "h:4"}, ONE, founders={1: "h:1", 2: "h:2"})
    with pytest.raises(Stranger, match=r"another list of members: 1=h:1, 2=h:2 \(.*--join\)"):
        grown.admit(request_from(Membership(4, {1: "h:1", 2: "h:2", 4: "h:4"})))


def test_whoever_is_of_another_cluster_is_not_taken_for_a_member_without_its_disk() -> None:
    """The mend of that would be to remove the member whose id it has."""
    mine = Membership(1, MEMBERS.addresses, ONE, peers={2: (0, b"a" * 16)})
    theirs = {1: "h:1", 2: "elsewhere:2", 3: "h:3"}
    with pytest.raises(Stranger, match="another list of members"):
        mine.admit(request_from(Membership(2, theirs, b"", b"b" * 16)))
    with pytest.raises(Stranger, match="another cluster"):
        mine.admit(request_from(Membership(2, theirs, OTHER, b"b" * 16)))
    with pytest.raises(Stranger, match="another disk"):
        mine.admit(request_from(Membership(2, MEMBERS.addresses, b"", b"b" * 16)))


def test_who_is_no_member_yet_is_admitted_if_it_is_of_the_same_cluster() -> None:
    """Dissertation, 4.1: the log of one of the two may be behind. Only a cluster's id says so."""
    joiner = Membership(4, {4: "h:4"}, ONE, founders={})
    with_cluster(MEMBERS, ONE).admit(request_from(joiner))
    joiner.admit(request_from(with_cluster(PEER, ONE), to=4))
    for mine, theirs in ((b"", ONE), (ONE, b""), (b"", b""), (ONE, OTHER)):
        with pytest.raises(Stranger, match="no peer with id 4"):
            with_cluster(MEMBERS, mine).admit(request_from(Membership(4, {4: "h:4"}, theirs, founders={})))


def test_nobody_is_no_member_of_any_cluster() -> None:
    request = wire.RequestVoteRequest(term=1, candidate_id=0, identity=wire.Identity(cluster_id=ONE))
    with pytest.raises(Stranger, match="no peer with id 0"):
        with_cluster(MEMBERS, ONE).admit(request)


def test_the_founders_tell_two_clusters_apart_whoever_belongs_to_them_now() -> None:
    founders = {1: "h:1", 2: "h:2", 3: "h:3"}
    now = Membership(2, {2: "h:2", 3: "elsewhere:3", 9: "h:9"}, founders=founders)
    MEMBERS.admit(request_from(now))
    assert Membership(4, {4: "h:4"}, founders={}).digest == b""


def test_a_request_for_another_member_is_refused() -> None:
    with pytest.raises(Stranger, match="this is node 1 at h:1, not node 3"):
        MEMBERS.admit(request_from(PEER, to=3))


@pytest.mark.parametrize("claimed", [0, 1, 4])
def test_who_is_not_a_peer_is_refused(claimed: int) -> None:
    with pytest.raises(Stranger, match=f"no peer with id {claimed}"):
        MEMBERS.admit(wire.RequestVoteRequest(term=1, candidate_id=claimed))


def test_a_leader_that_says_it_is_somebody_else_is_refused() -> None:
    request = wire.AppendEntriesRequest(term=1, leader_id=3, identity=PEER.identity_for(1))
    with pytest.raises(Malformed, match="node 3 can't come from node 2"):
        MEMBERS.admit(request)


def test_a_peer_that_knows_only_the_contracts_first_fields_is_admitted() -> None:
    MEMBERS.admit(wire.RequestVoteRequest(term=1, candidate_id=2))
    MEMBERS.admit(wire.AppendEntriesRequest(term=1, leader_id=3))
