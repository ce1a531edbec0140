"""Scenes of a cluster's life, told line by line: each is compared with its file in transcripts/.

A change of the algorithm that changes what members say to each other shows up here, to be read and judged. To write the
files anew, from the top of the repository:

    python -m tests.raft.test_transcripts
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raftkv.raft.core import Config
from tests.raft.figures import figure_7, figure_8, figure_8_d, figure_8_e
from tests.support.raft_cluster import Cluster

FILES = Path(__file__).with_name("transcripts")
IN_ORDER = {1: 0.0, 2: 0.4, 3: 0.8}


def first_election() -> Cluster:
    """Three new members elect a leader, and it takes a write."""
    cluster = Cluster(patience=IN_ORDER)
    leader = cluster.run_until_serving()
    cluster.write(leader.id, "SET k v")
    cluster.run(0.1)
    return cluster


def failover_within_a_lease() -> Cluster:
    """The leader dies, and the next one is elected while the lease of the first may still be valid."""
    cluster = Cluster(patience=IN_ORDER, config=Config(lease_duration=1.0))
    cluster.run_until_serving()
    cluster.tell("The leader crashes; to the others it might as well be cut off and go on serving reads.")
    cluster.crash(1)
    cluster.run_until_serving()
    return cluster


def cut_off_and_back() -> Cluster:
    """A leader that is cut off steps down, one of the others takes over, and the first follows when it is back."""
    cluster = Cluster(patience=IN_ORDER)
    cluster.run_until_serving()
    cluster.tell("The leader is cut off, with a write that nobody else will hear of.")
    cluster.isolate(1)
    cluster.write(1, "SET lost 1")
    cluster.run_until(lambda: cluster.members[2].leads and cluster.members[2].raft.is_serving)
    cluster.write(2, "SET kept 2")
    cluster.run_until(lambda: not cluster.members[1].leads)
    cluster.tell("It is back.")
    cluster.heal()
    cluster.run_until(lambda: cluster.members[1].machine.get(b"kept") == b"2")
    return cluster


def followers_of_figure_7() -> Cluster:
    """Raft paper, figure 7."""
    cluster, names = figure_7()
    for id, name in {1: "the leader", **names}.items():
        cluster.tell(f"S{id} is {name}: {' '.join(map(str, cluster.members[id].log_terms))}")
    cluster.run_until(
        lambda: all(m.log_terms[:11] == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8] for m in cluster.members.values())
    )
    return cluster


def figure_8_in_which_the_entry_is_overwritten() -> Cluster:
    """Raft paper, figure 8, (a) to (d)."""
    cluster = figure_8()
    figure_8_d(cluster)
    return cluster


def figure_8_in_which_the_entry_is_committed() -> Cluster:
    """Raft paper, figure 8, (a) to (c), then (e)."""
    cluster = figure_8()
    figure_8_e(cluster)
    return cluster


SCENES: list[Callable[[], Cluster]] = [
    first_election,
    failover_within_a_lease,
    cut_off_and_back,
    followers_of_figure_7,
    figure_8_in_which_the_entry_is_overwritten,
    figure_8_in_which_the_entry_is_committed,
]


def transcript(scene: Callable[[], Cluster]) -> str:
    return "\n".join([scene.__doc__ or "", "", *scene().story, ""])


def file_of(scene: Callable[[], Cluster]) -> Path:
    return FILES / f"{scene.__name__}.txt"


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_the_members_say_what_the_transcript_says(scene: Callable[[], Cluster]) -> None:
    assert transcript(scene).splitlines() == file_of(scene).read_text().splitlines()


def test_there_is_no_transcript_without_its_scene() -> None:
    assert {path.name for path in FILES.iterdir()} == {file_of(scene).name for scene in SCENES}


if __name__ == "__main__":
    FILES.mkdir(exist_ok=True)
    for each in SCENES:
        file_of(each).write_text(transcript(each))
