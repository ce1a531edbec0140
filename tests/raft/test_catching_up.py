"""Followers that lack what the leader has compacted: they catch up, whatever happens on the way (section 7)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from raftkv.raft.core import Config
from raftkv.raft.messages import InstallSnapshot, InstallSnapshotReply, Message
from raftkv.replica import Applied
from tests.support.raft_cluster import Cluster, Member


def snapshots_sent(cluster: Cluster) -> int:
    return sum("snapshot t" in line and "up to" in line for line in cluster.story)


def lead_and_cut_off(cluster: Cluster, writes: int = 5) -> tuple[Member, int]:
    """A leader serves, some follower is cut off, the others go on, and the leader compacts its log. The leader, and who
    is behind."""
    leader = cluster.run_until_serving()
    cluster.run(0.2)
    behind = next(id for id in cluster.members if id != leader.id)
    cluster.isolate(behind)
    write(cluster, leader, writes)
    cluster.compact(leader.id)
    return leader, behind


def write(cluster: Cluster, leader: Member, count: int) -> None:
    for n in range(count):
        answer = cluster.write(leader.id, f"SET key-{n} {cluster.now}")
        assert cluster.run_until(lambda: answer.outcome is not None)  # noqa: B023 (called at once)
        assert isinstance(answer.outcome, Applied)


def expect_equal(cluster: Cluster, within: float = 5.0) -> None:
    """All members come to the same state, and stay quiet then."""

    def are_equal() -> bool:
        up = [m for m in cluster.members.values() if m.is_up]
        return len({m.machine.digest() for m in up}) == 1 and len(up) == len(cluster.members)

    assert cluster.run_until(are_equal, within), cluster.tail()
    cluster.run(0.5)  # what is under way may still arrive
    sent = snapshots_sent(cluster)
    cluster.run(2.0)
    assert snapshots_sent(cluster) == sent, cluster.tail()
    cluster.check_logs()


def test_a_follower_that_was_away_gets_the_snapshot_and_then_the_rest() -> None:
    cluster = Cluster(3)
    leader, behind = lead_and_cut_off(cluster)
    write(cluster, leader, 3)

    cluster.heal()
    expect_equal(cluster)

    assert snapshots_sent(cluster) == 1
    assert cluster.members[behind].storage.previous().index > 1


def test_a_follower_that_has_lost_everything_gets_it_back() -> None:
    """(That it must not vote before, hazard 46, is another matter.)"""
    cluster = Cluster(3)
    leader, behind = lead_and_cut_off(cluster)
    cluster.crash(behind)
    cluster.members[behind].storage.__init__(behind)  # type: ignore[misc]
    cluster.start(behind)

    cluster.heal()
    expect_equal(cluster)

    assert cluster.members[behind].machine.digest() == leader.machine.digest()


def test_a_follower_that_is_behind_only_what_was_kept_gets_no_snapshot() -> None:
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    cluster.run(0.2)
    behind = next(id for id in cluster.members if id != leader.id)
    cluster.isolate(behind)
    write(cluster, leader, 5)
    cluster.compact(leader.id, keep_from=2)

    cluster.heal()
    expect_equal(cluster)

    assert snapshots_sent(cluster) == 0


def test_hazard_31_a_divergent_follower_takes_one_snapshot_and_asks_for_no_other() -> None:
    """InstallSnapshot keeps a conflicting entry and livelocks (hashicorp/raft#697). Here an old leader, cut off with
    writes of its own, in what the others compact and beyond."""
    cluster = Cluster(3)
    old = cluster.run_until_serving()
    cluster.run(0.2)
    cluster.isolate(old.id)
    for n in range(10):
        cluster.write(old.id, f"SET lost-{n} x")
    assert cluster.run_until(lambda: cluster.serving() not in (None, old))
    new = cluster.serving()
    assert new is not None
    write(cluster, new, 4)
    cluster.compact(new.id)
    assert old.raft.log.last_index > new.raft.log.previous.index

    cluster.heal()
    expect_equal(cluster)

    assert snapshots_sent(cluster) == 1
    assert old.machine.get(b"lost-0") is None


def test_hazard_33_a_leader_whose_log_is_nothing_but_a_snapshot_is_followed() -> None:
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    write(cluster, leader, 3)
    cluster.run(0.5)
    for id in cluster.members:
        cluster.compact(id)
        cluster.crash(id)
    for id in cluster.members:
        cluster.start(id)

    leader = cluster.run_until_serving()
    write(cluster, leader, 2)
    expect_equal(cluster)

    assert snapshots_sent(cluster) == 0


def test_hazard_36_a_new_leader_sends_on_what_the_old_one_had() -> None:
    """State lost at a change of leader. The leader dies when it has sent half of what a follower needs."""
    cluster = Cluster(5)
    leader, behind = lead_and_cut_off(cluster)
    for id in cluster.members:
        if id not in (leader.id, behind):
            cluster.run(0.2)
            cluster.compact(id)
    cluster.network = lambda message: () if isinstance(message, InstallSnapshot) else (0.001,)
    cluster.heal()
    cluster.run(0.3)
    assert snapshots_sent(cluster) > 0

    cluster.crash(leader.id)
    cluster.network = lambda message: (0.001,)
    new = cluster.run_until_serving()
    cluster.start(leader.id)
    write(cluster, new, 3)
    expect_equal(cluster)


@pytest.mark.parametrize("lost", [InstallSnapshot, InstallSnapshotReply])
def test_what_gets_lost_is_sent_again_but_not_in_a_loop(lost: type[Message]) -> None:
    """Once a heartbeat, at most: a snapshot is large."""
    cluster = Cluster(3)
    leader, behind = lead_and_cut_off(cluster)
    cluster.network = lambda message: () if isinstance(message, lost) else (0.001,)
    cluster.heal()
    cluster.run(2.0)
    assert 2 <= snapshots_sent(cluster) <= 2.0 / Config().heartbeat_interval + 1, cluster.tail()
    if lost is InstallSnapshotReply:
        assert cluster.members[behind].machine.digest() == leader.machine.digest()

    cluster.network = lambda message: (0.001,)
    expect_equal(cluster)


def test_a_follower_that_crashes_in_between_begins_where_its_disk_says() -> None:
    cluster = Cluster(3)
    leader, behind = lead_and_cut_off(cluster)
    cluster.heal()
    assert cluster.run_until(lambda: cluster.members[behind].storage.snapshot is not None)
    cluster.restart(behind)
    assert cluster.members[behind].machine.applied_index == cluster.members[behind].raft.log.previous.index
    write(cluster, leader, 2)
    expect_equal(cluster)
    assert snapshots_sent(cluster) == 1


def test_the_configuration_has_a_leader_all_the_time() -> None:
    """A transfer, however long it takes, costs nobody an election."""
    cluster = Cluster(3)
    leader, behind = lead_and_cut_off(cluster)
    cluster.network = lambda message: (3.0,) if isinstance(message, InstallSnapshot) else (0.001,)
    term = cluster.max_term()
    cluster.heal()
    cluster.run(0.5)
    for _ in range(20):
        write(cluster, leader, 1)
        cluster.run(0.1)

    expect_equal(cluster)

    assert cluster.serving() is leader
    assert cluster.max_term() <= term + 1, "at most the one that the follower has brought along"
    assert snapshots_sent(cluster) == 1
    assert behind != leader.id


def some_time(rng: random.Random) -> Sequence[float]:
    copies = rng.choice([0, 1, 1, 1, 1, 2])
    return [rng.uniform(0.001, 0.3) for _ in range(copies)]


@pytest.mark.parametrize("seed", range(30))
def test_hazard_32_snapshots_that_are_late_doubled_and_mixed_with_entries(seed: int) -> None:
    """A snapshot races with apply, or two snapshots race (etcd#18055). Interleave; duplicate."""
    rng = random.Random(seed)
    cluster = Cluster(3, seed=seed)
    cluster.run_until_serving()
    cluster.network = lambda message: some_time(rng)
    for _ in range(40):
        leader = cluster.serving()
        if leader is not None:
            cluster.write(leader.id, f"SET key-{rng.randrange(5)} {cluster.now}")
        id = rng.choice(list(cluster.members))
        member = cluster.members[id]
        snapshot = member.storage.snapshot
        if member.machine.applied_index > (snapshot.last.index if snapshot else 0) and rng.random() < 0.4:
            cluster.compact(id)
        if rng.random() < 0.15:
            cluster.isolate(id)
        if rng.random() < 0.3:
            cluster.heal()
        if rng.random() < 0.1:
            cluster.restart(id)
        cluster.run(rng.uniform(0, 0.4))

    cluster.heal()
    cluster.network = lambda message: (0.001,)
    leader = cluster.run_until_serving()
    write(cluster, leader, 1)
    expect_equal(cluster)
