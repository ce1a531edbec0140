"""Raft dissertation, section 6.3: linearizable semantics by client sessions, through a whole cluster of replicas.

Each test quotes its rule, and has three parts: init, test, check. The state machine's own tests are in tests/kv.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from raftkv.operations import Code, Operation, Result, Status, TermSettings, encode_settings
from raftkv.raft.core import Config
from raftkv.replica import Applied, Unknown
from tests.support.raft_cluster import Answer, Cluster

SETTINGS = TermSettings(cluster_id=b"c" * 16, max_sessions=2, session_timeout_ms=5_000, max_unanswered=8)
DONE = Result(Status.DONE)
OPEN = Operation(Code.OPEN_SESSION)


def set_(key: bytes, value: bytes, sequence: int) -> Operation:
    return Operation(Code.SET, key, value, sequence=sequence)


def append_to_lock(sequence: int) -> Operation:
    """An operation that does not have the same effect twice: only the first can create the key."""
    return Operation(Code.SET_IF_ABSENT, b"lock", b"mine", sequence=sequence)


@dataclass
class Client:
    """A client of the cluster that asks whoever leads."""

    cluster: Cluster
    session: int = 0

    def register(self) -> None:
        [result] = self.results_of(self.send(OPEN))
        self.session = result.value

    def send(self, *operations: Operation, lowest_unanswered: int = 0) -> Answer:
        leader = self.cluster.run_until_serving()
        return self.cluster.batch(leader.id, *operations, session=self.session, lowest_unanswered=lowest_unanswered)

    def results_of(self, answer: Answer) -> list[Result]:
        assert self.cluster.run_until(lambda: answer.outcome is not None)
        assert isinstance(answer.outcome, Applied), answer.outcome
        return answer.outcome.results

    def do(self, *operations: Operation, lowest_unanswered: int = 0) -> list[Result]:
        return self.results_of(self.send(*operations, lowest_unanswered=lowest_unanswered))


def cluster_with_client(size: int = 3) -> tuple[Cluster, Client]:
    cluster = Cluster(size, config=Config(term_settings=encode_settings(SETTINGS)))
    client = Client(cluster)
    client.register()
    return cluster, client


def test_a_command_that_was_executed_before_is_answered_without_executing_it_again() -> None:
    """'If a server receives a command whose serial number has already been executed, it responds immediately without
    re-executing the request.'"""
    cluster, client = cluster_with_client()
    first = client.do(append_to_lock(1))

    again = client.do(append_to_lock(1))

    assert first == again == [DONE], "executed a second time it would say NOT_DONE"
    assert cluster.run_until_serving().machine.revision == 1


def test_hazard_47_a_retry_through_the_next_leader_is_not_applied_again() -> None:
    """'[...] if the leader crashes after committing the log entry but before responding to the client, the client will
    retry the command with a new leader, causing it to be executed a second time.'"""
    cluster, client = cluster_with_client()
    leader = cluster.run_until_serving()
    answer = client.send(append_to_lock(1))
    cluster.run_until(lambda: leader.machine.revision == 1)
    cluster.crash(leader.id)

    retried = client.do(append_to_lock(1))

    assert isinstance(answer.outcome, Applied), "the answer existed, and was lost with the leader"
    assert retried == [DONE]
    cluster.start(leader.id)
    cluster.run(2.0)
    assert {m.machine.revision for m in cluster.members.values()} == {1}


@pytest.mark.parametrize("is_replicated", [False, True])
def test_a_write_whose_outcome_is_unknown_can_be_retried_whether_it_was_applied_or_not(is_replicated: bool) -> None:
    """'Clients assign unique serial numbers to every command. Then, the state machine tracks the latest serial number
    processed for each client, along with the associated response.'"""
    cluster, client = cluster_with_client()
    leader = cluster.run_until_serving()
    if is_replicated:  # only the acknowledgements are lost
        cluster.cut |= {(peer, leader.id) for peer in cluster.members if peer != leader.id}
    else:
        cluster.isolate(leader.id)
    answer = client.send(append_to_lock(1))
    assert cluster.run_until(lambda: answer.outcome is not None)
    assert cluster.run_until(lambda: cluster.serving() not in (None, leader))
    cluster.heal()
    assert (cluster.run_until_serving().machine.get(b"lock") is not None) is is_replicated

    retried = client.do(append_to_lock(1))

    assert isinstance(answer.outcome, Unknown)
    assert retried == [DONE]
    cluster.run(2.0)
    assert {m.machine.revision for m in cluster.members.values()} == {1}


def test_several_commands_of_a_client_may_be_under_way_and_retried_in_any_grouping() -> None:
    """'This approach also generalizes to allow multiple concurrent requests from a single client. Instead of the
    client's session tracking just the client's most recent sequence number and response, it includes a set of sequence
    number and response pairs.'"""
    cluster, client = cluster_with_client()
    client.do(set_(b"a", b"1", 1), append_to_lock(2))

    retried = client.do(append_to_lock(2), set_(b"b", b"3", 3), set_(b"a", b"changed?", 1))

    leader = cluster.run_until_serving()
    assert retried == [DONE, DONE, DONE]
    assert (leader.machine.get(b"a"), leader.machine.get(b"b")) == (b"1", b"3")


def test_answers_that_the_client_has_are_discarded() -> None:
    """'With each request, the client includes the lowest sequence number for which it has not yet received a response,
    and the state machine then discards all responses for lower sequence numbers.'"""
    _, client = cluster_with_client()
    client.do(append_to_lock(1))

    results = client.do(set_(b"k", b"v", 2), append_to_lock(1), lowest_unanswered=2)

    assert results == [DONE, Result(Status.SEQUENCE_STALE)]


def test_a_command_without_a_record_of_its_session_is_refused_and_not_processed() -> None:
    """'If a state machine encounters a command with no record of the session, it does not process the command and
    instead returns an error to the client.'"""
    cluster, client = cluster_with_client()
    client.session += 1

    results = client.do(append_to_lock(1))

    assert results == [Result(Status.SESSION_UNKNOWN)]
    assert cluster.run_until_serving().machine.get(b"lock") is None


def test_all_servers_agree_on_which_session_expires() -> None:
    """'Servers must agree on when to expire a client's session; otherwise, servers' state machines could diverge from
    each other. [...] one option is to set an upper bound on the number of sessions and remove entries using an LRU
    policy.'"""
    cluster, first = cluster_with_client()
    others = [Client(cluster), Client(cluster)]

    for other in others:
        other.register()

    assert first.do(append_to_lock(1)) == [Result(Status.SESSION_UNKNOWN)]
    assert others[0].do(append_to_lock(1)) == [DONE]
    cluster.run(1.0)
    assert len({m.machine.digest() for m in cluster.members.values()}) == 1


def test_all_servers_agree_on_when_a_session_expires() -> None:
    """'Another option is to expire sessions based on an agreed upon time source. [...] The leader [...] augments each
    command that it appends to the Raft log with its current time. Servers reach agreement on this time as part of
    committing the log entry.'"""
    cluster, client = cluster_with_client()

    cluster.run(4.0)
    before = client.do(set_(b"k", b"1", 1))
    cluster.run(5.5)
    after = client.do(set_(b"k", b"2", 2))

    assert (before, after) == ([DONE], [Result(Status.SESSION_UNKNOWN)])
    cluster.run(1.0)
    assert len({m.machine.digest() for m in cluster.members.values()}) == 1


def test_a_session_outlives_its_leader_and_a_restart_of_all() -> None:
    """'The session is part of the replicated state': 'state machines [...] must use the same session data'."""
    cluster, client = cluster_with_client()
    client.do(append_to_lock(1))
    cluster.run(0.5)

    for id in cluster.members:
        cluster.crash(id)
    for id in cluster.members:
        cluster.start(id)

    assert client.do(append_to_lock(1)) == [DONE]
    assert client.do(append_to_lock(2)) == [Result(Status.NOT_DONE)]


def test_log_time_stands_still_while_there_is_no_leader_and_never_goes_back() -> None:
    """Rule 9: 'Limits, expiry and time come from the log.' A cluster that was down for a week has not expired
    anybody."""
    cluster, client = cluster_with_client()
    client.do(set_(b"k", b"1", 1))
    leader = cluster.run_until_serving()
    cluster.run(0.5)

    for id in cluster.members:
        cluster.crash(id)
    cluster.run(7 * 86400.0)
    for id in cluster.members:
        cluster.start(id)
    results = client.do(set_(b"k", b"2", 2))

    assert results == [DONE]
    times = [entry.time_ms for entry in cluster.committed]
    assert times == sorted(times)
    assert times[-1] < 10_000
    assert leader.id in cluster.leaders.values()
