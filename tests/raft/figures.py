"""Scenes of a cluster's life that are told as transcripts (test_transcripts.py) and looked at by other tests."""

from __future__ import annotations

from collections.abc import Callable

from raftkv.raft.core import Config
from raftkv.raft.messages import AppendEntries
from tests.support.raft_cluster import Cluster, Network, on_time

FIGURE_7_LOGS = {
    "leader": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


def figure_7() -> tuple[Cluster, dict[int, str]]:
    """Raft paper, figure 7: S1 is about to become the leader of term 8; the names of the others' logs."""
    cluster = Cluster(
        7,
        logs=dict(enumerate(FIGURE_7_LOGS.values(), 1)),
        term=7,
        patience={1: 0.0} | dict.fromkeys(range(2, 8), 1.0),
    )
    return cluster, dict(enumerate("abcdef", 2))


def figure_8() -> Cluster:
    """Raft paper, figure 8, up to (c): an entry of term 2 is on a majority, and S1, which leads term 4, must not commit
    it by counting. What a leader appends here is its NO-OP."""
    cluster = Cluster(
        5,
        config=Config(term_settings=b"one entry a message", max_append_bytes=1),
        logs={id: [1] for id in range(1, 6)},
        patience={1: 0.0, 2: 3.0, 3: 3.0, 4: 3.0, 5: 0.2},
    )
    s1, s5 = cluster.members[1], cluster.members[5]

    cluster.tell("(a) S1 is leader and partially replicates the log entry at index 2.")
    cluster.network = appends_pass(lambda m: m.recipient == 2)
    cluster.run_until(lambda: cluster.members[2].log_terms == [1, 2])
    cluster.crash(1)

    cluster.tell("(b) S5 is elected leader for term 3 with votes from S3, S4, and itself: another entry at index 2.")
    cluster.network = appends_pass(lambda m: False)
    cluster.run_until(lambda: s5.leads and s5.raft.log.durable_index == 2)
    cluster.crash(5)

    cluster.tell("(c) S1 restarts, is elected leader, and continues replication: term 2 is on a majority now.")
    cluster.network = appends_pass(lambda m: m.recipient != 4 and not (m.entries and m.entries[-1].index > 2))
    cluster.start(1)
    cluster.run_until(lambda: s1.leads and s1.leader.progress[3].match_index == 2)
    cluster.run_until(lambda: s1.leader.progress[2].match_index == 2)
    return cluster


def figure_8_d(cluster: Cluster) -> None:
    cluster.tell("(d) S1 crashes; S5 is elected leader (S2, S3 and S4 vote for it) and overwrites the entry.")
    cluster.crash(1)
    cluster.start(5)
    cluster.network = on_time
    cluster.run_until(lambda: all(m.log_terms == [1, 3, 5] for m in list(cluster.members.values())[1:]))
    cluster.start(1)
    cluster.run_until(lambda: cluster.members[1].log_terms == [1, 3, 5])


def figure_8_e(cluster: Cluster) -> None:
    cluster.tell("(e) S1 replicates an entry from its current term on a majority before it crashes: it is committed.")
    cluster.network = appends_pass(lambda m: m.recipient != 4)
    cluster.run_until(lambda: cluster.members[1].raft.is_serving)
    cluster.crash(1)
    cluster.start(5)
    cluster.network = on_time
    cluster.tell("S5 cannot win an election any more.")
    cluster.run_until_serving()


def appends_pass(which: Callable[[AppendEntries], bool]) -> Network:
    """A network on time that loses all other AppendEntries."""
    return lambda message: () if isinstance(message, AppendEntries) and not which(message) else on_time(message)
