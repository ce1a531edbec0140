"""Leadership that is handed over: by command, and by a node that is asked to stop."""

from __future__ import annotations

import sys
import time

import grpc
import pytest

from raftkv import NotApplied
from tests.processes.conftest import MakeCluster
from tests.support.processes import ROOT, Cluster, Finished, Node, run, unexpected_in, wait_until
from tests.support.rolling import Writers, restart_each

GAP_SECONDS = 0.4
"""Less than any election takes that nobody was asked for. docs/operations.md has the figure for a machine that has
nothing else to do."""


def test_a_rolling_restart_under_load_costs_no_failed_call_and_no_election(make_cluster: MakeCluster) -> None:
    """All five nodes, SIGTERM and start, while four threads write. On a machine that is busy otherwise a process may
    be kept from its work for longer than the gap that is allowed; so it has up to three tries for that."""
    cluster: Cluster = make_cluster(size=5)
    cluster.start()
    cluster.leader()
    ended: list[Finished] = []

    def stopped(_: Node, finished: Finished) -> None:
        ended.append(finished)

    gaps: list[float] = []
    while not gaps or (min(gaps) > GAP_SECONDS and len(gaps) < 3):
        with Writers(cluster.addresses) as noticed:
            began = time.monotonic()
            restart_each(cluster, stopped)
            gaps.append(noticed.longest_gap(began, time.monotonic())[0])
        assert not noticed.failed

    assert min(gaps) <= GAP_SECONDS
    assert {finished.status for finished in ended} == {0}
    assert any("has handed over to node" in finished.stderr for finished in ended)
    assert not any(unexpected_in(finished.stderr) for finished in ended)


def test_a_leader_that_is_stopped_goes_on_telling_its_clients_who_leads(make_cluster: MakeCluster) -> None:
    """The contract: 'a leader hands over first, and for half a second goes on answering with the new leader's id'."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader = cluster.leader()
    caller = cluster.caller(leader.address)
    caller.ask("SET k v")
    answers: list[tuple[float, int]] = []

    leader.terminate()
    while leader.is_running:
        try:
            reply = caller.ask("SET k w", timeout=2.0)
        except grpc.RpcError:
            break
        if not reply.success and reply.leader_id not in (0, leader.id):
            answers.append((time.monotonic(), reply.leader_id))

    assert leader.wait().status == 0
    assert {leader_id for _, leader_id in answers} == {cluster.leader().id}
    assert answers[-1][0] - answers[0][0] > 0.3


def test_a_leader_without_followers_stops_all_the_same(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader = cluster.leader()
    cluster.kill(cluster.followers())

    began = time.monotonic()
    leader.terminate()

    assert leader.wait().status == 0
    assert time.monotonic() - began < 5.0


def test_a_follower_that_is_stopped_takes_no_farewell(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader, term = cluster.leader(), cluster.leader().status()
    [first, _] = cluster.followers()

    finished = first.stop()

    assert finished.status == 0
    assert "handed over" not in finished.stderr
    assert cluster.leader() is leader
    assert term is not None
    assert (now := leader.status()) is not None
    assert now.term == term.term


def client(cluster: Cluster, command: str, *options: str) -> Finished:
    words = [sys.executable, str(ROOT / "client.py"), *cluster.addresses, *options, "-c", command]
    return run(words, cluster.directory)


def test_leadership_goes_round_by_command_and_no_write_fails(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    with Writers(cluster.addresses) as noticed:
        for target in (1, 2, 3, 1):
            wait_until(lambda target=target: _leads(cluster, target), f"node {target} leads")  # type: ignore[misc]

    assert not noticed.failed
    assert not any(unexpected_in(node.whole_log) for node in cluster.nodes)


def _leads(cluster: Cluster, target: int) -> bool:
    """Whether it does, once it has been asked for; a leader that has just been elected refuses."""
    finished = client(cluster, f"TRANSFER {target}")
    assert finished.stdout.startswith((f"node {target} leads\n", "ERROR")), finished.stdout
    return finished.status == 0 and cluster.leader().id == target


def test_what_can_not_be_is_refused_in_one_line(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    leader = cluster.leader()
    one, other = cluster.followers()
    one.kill()

    wait_until(
        lambda: (
            client(cluster, f"TRANSFER {one.id}").stdout
            == f"ERROR FAILED_PRECONDITION: node {one.id} does not answer; nothing has been done\n"
        ),
        "it is known that it does not answer",
    )
    stranger = client(cluster, "TRANSFER 9")

    assert stranger.stdout == "ERROR FAILED_PRECONDITION: node 9 is not a voting member; nothing has been done\n"
    assert stranger.status == 1
    assert cluster.leader() is leader
    assert other.is_running


def test_the_library_says_who_leads_then(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    former = cluster.leader()
    with cluster.client() as client:
        client.set("k", "v")
        successor = client.transfer_leadership()
        assert successor != former.id
        assert cluster.leader().id == successor
        assert client.get("k") == b"v"
        with pytest.raises(NotApplied, match="not a voting member"):
            client.transfer_leadership(9)
