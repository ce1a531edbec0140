"""Changes of the membership, with real processes."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from raftkv import Client, Error, NotApplied
from tests.linearizability.checker import check
from tests.linearizability.history import Outcome, Recorder
from tests.nemesis.workload import LibraryWorker, keys_of, read_everything
from tests.processes.conftest import MakeCluster
from tests.support.processes import ROOT, Cluster, Node, free_addresses, run, unexpected_in, wait_until

QUICK = {"ELECTION_TIMEOUT": 0.3, "HEARTBEAT_INTERVAL": 0.05, "LEASE_DURATION": 0.2}


@contextmanager
def load(client: Client) -> Iterator[list[str]]:
    """Writes all the time, by one client; what has been acknowledged. A call that fails fails the test."""
    acknowledged: list[str] = []
    errors: list[Error] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            key = f"k{len(acknowledged)}"
            try:
                client.set(key, key)
            except Error as error:
                errors.append(error)
                return
            acknowledged.append(key)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    wait_until(lambda: acknowledged, "a write is acknowledged")
    yield acknowledged
    stop.set()
    thread.join()
    assert not errors, errors


def ids(client: Client) -> list[int]:
    return [member.id for member in client.members()]


def check_logs(cluster: Cluster) -> None:
    for node in cluster.nodes:
        assert not unexpected_in(node.whole_log), node.whole_log


@contextmanager
def recorded_load(addresses: Sequence[str]) -> Iterator[Recorder]:
    """Four clients, of which two share one connection, at work on the same few keys until the block ends."""
    recorder, stop, began = Recorder(), threading.Event(), time.monotonic()
    errors: list[BaseException] = []

    def work(worker: LibraryWorker) -> None:
        try:
            while not stop.is_set():
                worker.work(recorder, time.monotonic() - began)
        except BaseException as error:
            errors.append(error)

    with ExitStack() as opened:
        clients = [opened.enter_context(Client(addresses)) for _ in range(3)]
        workers = [LibraryWorker(f"c{i}", random.Random(i), client) for i, client in enumerate([*clients, clients[0]])]
        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        yield recorder
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors


@pytest.mark.timeout(120)
def test_three_members_become_five_and_three_others_without_a_failed_call(make_cluster: MakeCluster) -> None:
    """Each founding member is replaced in turn, the leader too, while clients work; and nobody reads a stale value."""
    cluster: Cluster = make_cluster(size=3)
    cluster.start()
    with cluster.client() as client, recorded_load(cluster.addresses) as recorder:
        cluster.join(client)
        cluster.join(client)
        assert ids(client) == [1, 2, 3, 4, 5]
        for old in (1, 2, 3):
            client.remove_member(old)
            cluster[old].stop()
            if old == 1:
                cluster.join(client)  # so that never fewer than four are there
        cluster.leader()
        assert ids(client) == [4, 5, 6]
        before = len(recorder.history())
        wait_until(lambda: len(recorder.history()) > before + 400, "some hundred more operations")
    failed = [operation for operation in recorder.history() if operation.outcome is not Outcome.OK]
    assert not failed, f"{len(failed)} calls failed, the first: {failed[0]} ({failed[0].note})"
    read_everything(cluster.addresses[3:], keys_of(recorder.history()), recorder, "after")
    verdict = check(recorder.history())
    assert verdict.linearizable, str(verdict)
    check_logs(cluster)


@pytest.mark.timeout(120)
def test_members_start_again_with_their_old_command_lines(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1, settings=QUICK)
    cluster.start()
    with cluster.client() as client:
        cluster.join(client)
        cluster.join(client)
        client.set("k", "v")
        cluster.kill()
    cluster.start()  # those that have joined ask around, find nobody, and go on with what they know
    with cluster.client() as client:
        assert client.get("k") == b"v"
        assert ids(client) == [1, 2, 3]
    check_logs(cluster)


@pytest.mark.timeout(120)
def test_a_member_moves_to_another_address(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3, settings=QUICK)
    cluster.start()
    with cluster.client() as client:
        moving = cluster.followers()[0]
        (address,) = free_addresses(1)
        client.add_member(moving.id, address)
        wait_until(lambda: f"is to be reached at {address} from now on" in moving.log, "it is told to move")
        moving.stop()
        moving.address = address

        moving.start()  # with the founding members' addresses, its old one among them

        assert f"ready on {address}\n" in moving.output
        cluster.wait_caught_up()
        moving.stop()
        (address,) = free_addresses(1)
        client.add_member(moving.id, address)  # while it is away
        moving.address, moving.joins = address, True
        moving.start()
        client.set("k", "v")
        cluster.wait_caught_up()
        assert {m.id: m.address for m in client.members()}[moving.id] == address
        assert "is to be reached at" not in moving.log, "it listens there already"
    check_logs(cluster)


@pytest.mark.timeout(120)
def test_who_was_away_while_it_was_moved_is_told_so_where_it_was(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3, settings=QUICK)
    cluster.start()
    with cluster.client() as client:
        moving = cluster.followers()[0]
        moving.kill()
        for address in free_addresses(2):  # and nobody has ever been at the first of them
            client.add_member(moving.id, address)
        moving.start(wait=False)
        wait_until(lambda: f"is to be reached at {address} from now on" in moving.log, "it is told to move")
        client.set("k", "v")
        cluster.wait_caught_up()
        moving.stop()
        moving.address = address
        moving.start()
        client.set("k", "w")
        cluster.wait_caught_up()
    check_logs(cluster)


@pytest.mark.timeout(120)
def test_who_was_away_while_it_was_moved_and_lacks_what_is_forgotten_is_told_so_with_a_snapshot(
    make_cluster: MakeCluster,
) -> None:
    forgetful = {"SNAPSHOT_LOG_ENTRIES": 20, "SNAPSHOT_LOG_BYTES": 1_000_000, "KEPT_LOG_BYTES": 1}
    cluster: Cluster = make_cluster(size=3, settings={**QUICK, **forgetful, "SEGMENT_BYTES": 65536})
    cluster.start()
    with cluster.client() as client:
        moving = cluster.followers()[0]
        moving.kill()
        (address,) = free_addresses(1)
        client.add_member(moving.id, address)
        for n in range(100):
            client.set(f"k{n}", "v" * 4000)
        wait_until(lambda: "has saved its state" in cluster.leader().log, "the leader has forgotten the first entries")
        moving.start(wait=False)
        wait_until(lambda: f"is to be reached at {address} from now on" in moving.log, "it is told to move")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("is_alive", [False, True])
def test_a_member_is_replaced_under_its_id_at_another_address(make_cluster: MakeCluster, is_alive: bool) -> None:
    cluster: Cluster = make_cluster(size=3, settings=QUICK)
    cluster.start()
    with cluster.client() as client:
        client.set("k", "v")
        old = cluster.followers()[0]
        if not is_alive:
            old.kill()
        client.remove_member(old.id)
        new = Node(cluster, old.id, *free_addresses(1))
        new.joins, new.data_dir = True, new.data_dir.parent / "the second"
        cluster.nodes.append(new)
        client.add_member(new.id, new.address)
        new.start()
        wait_until(lambda: (status := new.status()) is not None and status.membership == "voter", "it gets the vote")


def program(cluster: Cluster, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    return run([sys.executable, str(ROOT / "client.py"), *cluster.addresses, *words], cluster.directory).stdout


@pytest.mark.timeout(120)
def test_the_commands_of_the_program(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1, settings=QUICK)
    cluster.start()
    node = Node(cluster, 2, *free_addresses(1))
    node.joins = True
    cluster.nodes.append(node)

    assert program(cluster, f"ADD 2={node.address}") == "OK\n"
    node.start()
    wait_until(lambda: "2  " + node.address + "  voter" in program(cluster, "MEMBERS"), "it is a voter")
    assert program(cluster, "REMOVE 7").startswith("ERROR FAILED_PRECONDITION: there is no member 7; nothing has been")
    assert program(cluster, "REMOVE 1", "MEMBERS").splitlines()[0] == "OK"
    assert [line.split()[0] for line in program(cluster, "MEMBERS").splitlines()[1:]] == ["2"]


def refused(node: Node, *words: str) -> str:
    """What a node says that is started so and can't run."""
    done = subprocess.run(node.command(*words), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert not node.data_dir.exists()
    return done.stderr


@pytest.mark.timeout(120)
def test_a_node_that_was_not_added_can_not_join(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1, settings=QUICK)
    cluster.start()
    cluster.leader()
    node = Node(cluster, 2, *free_addresses(1))
    node.joins = True
    line = refused(node)
    assert line == (
        f"raft_node.py: cannot join the cluster: node 2 is not one of its members (1={cluster[1].address}); add it "
        "first, with the client's command ADD 2=<address>\n"
    )


@pytest.mark.timeout(120)
def test_a_directory_that_has_joined_is_not_a_founding_members(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=1, settings=QUICK)
    cluster.start()
    with cluster.client() as client:
        node = cluster.join(client)
    node.stop()
    node.joins = False
    cluster.founders.append(node.address)
    node.start(wait=False)
    done = node.wait()
    assert done.status == 1
    assert done.stderr.endswith(": joined its cluster while that was running; start it with --join\n")


@pytest.mark.timeout(120)
def test_a_removed_member_knows_it_and_disturbs_nobody(make_cluster: MakeCluster) -> None:
    cluster: Cluster = make_cluster(size=3, settings=QUICK)
    cluster.start()
    leader, gone = cluster.leader(), cluster.followers()[0]
    with cluster.client() as client:
        client.remove_member(gone.id)
        wait_until(lambda: "is no member of the cluster any more" in gone.log, "it knows")
        term = leader.status()
        gone.stop()
        gone.start()
        status = gone.status()
        assert status is not None
        assert status.membership == "none"
        with load(client) as acknowledged:
            wait_until(lambda: len(acknowledged) > 300, "300 writes")
        now = leader.status()
        assert term is not None
        assert now is not None
        assert (now.term, now.role) == (term.term, "leader")
        with Client([gone.address], timeout=1.0) as lost, pytest.raises(NotApplied):
            lost.remove_member(99)
    check_logs(cluster)


@pytest.mark.timeout(120)
def test_hazard_46_a_member_that_has_lost_its_disk_counts_for_nothing_until_it_is_added_again(
    make_cluster: MakeCluster,
) -> None:
    cluster: Cluster = make_cluster(size=3, settings=QUICK)
    cluster.start()
    leader, (wiped, other) = cluster.leader(), cluster.followers()
    with cluster.client() as client:
        client.set("k", "v")
        cluster.wait_caught_up()
        wiped.kill()
        shutil.rmtree(wiped.data_dir)
        wiped.start()  # as if nothing had happened

        wait_until(lambda: f"node {wiped.id} has come back without its disk" in leader.log, "the leader notices")
        wait_until(lambda: any(m.is_wiped for m in client.members()), "MEMBERS tells")
        assert f"{wiped.id}  {wiped.address}  wiped" in program(cluster, "MEMBERS")
        other.kill()
        with Client(cluster.addresses, timeout=1.5) as impatient, pytest.raises(Error):
            impatient.set("k", "by one member alone")
        wait_until(lambda: "with another disk, on which its promises were" in wiped.log, "it is told")
        assert not any(node.status() and node.status().serving for node in (leader, wiped))  # type: ignore[union-attr]

        other.start()
        client.remove_member(wiped.id)
        wiped.kill()
        shutil.rmtree(wiped.data_dir)
        client.add_member(wiped.id, wiped.address)
        wiped.joins = True
        wiped.start()
        cluster.wait_voter(client, wiped)
        assert not any(m.is_wiped for m in client.members())
        assert client.get("k") in (b"v", b"by one member alone")
    check_logs(cluster)
