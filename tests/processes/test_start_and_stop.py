"""A node's life from outside: what it prints, how it ends, what it leaves behind."""

from __future__ import annotations

import signal
import stat
import sys
from pathlib import Path

import grpc
import pytest

from tests.processes.conftest import MakeCluster
from tests.support.processes import ROOT, Cluster, free_addresses, run, unexpected_in, wait_until


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_a_cluster_of_any_size_serves_and_all_its_members_come_to_the_same_state(
    make_cluster: MakeCluster, size: int
) -> None:
    cluster: Cluster = make_cluster(size=size)
    cluster.start()
    with cluster.client() as client:
        client.set("a", "1")
        client.set("a", "2")
        assert client.get("a") == b"2"
        assert client.keys() == [b"a"]
    cluster.wait_caught_up()
    assert {(node.status() or pytest.fail(f"{node} is silent")).revision for node in cluster.nodes} == {2}
    assert {finished.status for finished in cluster.stop()} == {0}


def test_stdout_is_the_ready_line_and_nothing_else(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1)
    cluster.start()
    cluster.leader()
    finished = cluster[1].stop()
    assert finished.stdout == f"node 1 ready on {cluster[1].address}\n"
    assert finished.stderr, "the log goes to stderr"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_node_asked_to_stop_ends_with_status_0_and_can_be_started_again(
    make_cluster: MakeCluster, number: signal.Signals
) -> None:
    cluster: Cluster = make_cluster(size=1)
    cluster.start()
    with cluster.client() as client:
        client.set("k", "kept")
    cluster[1].terminate(number)
    finished = cluster[1].wait()
    assert finished.status == 0
    assert not unexpected_in(finished.stderr)
    cluster.start()
    with cluster.client() as client:
        assert client.get("k") == b"kept"


def test_a_leader_asked_to_stop_answers_the_calls_that_it_holds(make_cluster: MakeCluster) -> None:
    """A write that no follower can acknowledge: the honest answer is UNAVAILABLE, which means unknown."""
    cluster: Cluster = make_cluster(size=3, settings={"ELECTION_TIMEOUT": 1})
    cluster.start()
    leader = cluster.leader()
    for follower in cluster.followers():
        follower.pause()
    before = leader.status()
    assert before is not None
    calls = [cluster.caller(leader.address).begin(f"SET k{i} v", timeout=20) for i in range(8)]
    wait_until(
        lambda: (s := leader.status()) and s.last_log_index == before.last_log_index + len(calls), "they are proposed"
    )
    leader.terminate()
    for call in calls:
        error = call.exception(timeout=10)
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "Socket closed" not in str(error), "the node hung up instead of answering"
    assert leader.wait().status == 0


def test_the_default_data_directory_is_data_node_id_below_the_current_one_and_private(
    make_cluster: MakeCluster,
) -> None:
    cluster: Cluster = make_cluster(size=1)
    cluster[1].data_dir = Path("data") / "node-1"
    cluster.start()
    assert (cluster.directory / "data" / "node-1").is_dir()
    # And the same without the option that names it.
    assert cluster[1].stop().status == 0
    words = cluster[1].command()
    at = words.index("--data-dir")
    without = [*words[:at], *words[at + 2 :]]
    cluster[1].command = lambda *_: without  # type: ignore[method-assign]
    cluster.start()
    mode = stat.S_IMODE((cluster.directory / "data" / "node-1").stat().st_mode)
    assert mode == 0o700


def test_members_may_be_named_with_their_ids_in_any_order(make_cluster: MakeCluster) -> None:
    addresses = free_addresses(3)
    cluster: Cluster = make_cluster(addresses=addresses)
    named = [f"{node_id}={address}" for node_id, address in reversed(list(enumerate(addresses, start=1)))]
    for node in cluster.nodes:
        words = [sys.executable, str(ROOT / "raft_node.py"), str(node.id), *named, "--data-dir", str(node.data_dir)]
        node.command = lambda *_, words=words: words  # type: ignore[method-assign]
    cluster.start()
    with cluster.client() as client:
        client.set("k", "v")
        assert client.get("k") == b"v"


@pytest.mark.parametrize("program", ["raft_node.py", "client.py", "storage.py"])
def test_every_program_explains_itself(tmp_path: Path, program: str) -> None:
    finished = run([sys.executable, str(ROOT / program), "--help"], tmp_path)
    assert finished.status == 0
    assert "usage" in finished.stdout.lower()
    assert not finished.stderr
