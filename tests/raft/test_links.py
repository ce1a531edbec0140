"""Hazard 43: a network in which some links fail, some of them in one direction only, and stay so.

Who can talk both ways with a majority (itself included) is called a *hub* here: only a hub can win a pre-vote, an
election, and the acknowledgements that keep a leader. What is promised, as long as all logs are equal when the links
fail (otherwise the only hub may lack an entry that another member has, and nobody can lead):

* with a hub, a leader serves after a while, it is one and stays the one, and terms stop growing;
* a leader that is a hub itself is not even disturbed;
* without a hub nobody serves, and no term grows at all;
* once the network has healed, a leader serves.
"""

from __future__ import annotations

import random
from itertools import combinations, permutations

import pytest

from tests.support.raft_cluster import Cluster, Member

Link = tuple[int, int]
PATIENCE = 20.0
"""Seconds within which an election must have succeeded: some 25 tries."""
SETTLING = 2.5
"""Seconds after which what was going on when the links failed is over."""


def hubs(size: int, cut: set[Link]) -> set[int]:
    members = range(1, size + 1)

    def talks_with(a: int, b: int) -> bool:
        return (a, b) not in cut and (b, a) not in cut

    return {a for a in members if sum(talks_with(a, b) for b in members) > size / 2}


def expect_a_stable_leader(cluster: Cluster, possible: set[int]) -> Member:
    cluster.run(SETTLING)  # until then somebody else may have led, or a later candidate may be on its way
    leader, term = cluster.run_until_serving(within=PATIENCE), cluster.max_term()
    assert leader.id in possible, cluster.tail()
    cluster.run(SETTLING)
    assert cluster.serving() is leader, cluster.tail()
    assert cluster.max_term() == term == leader.raft.current_term, cluster.tail()
    return leader


def expect_nobody(cluster: Cluster) -> None:
    cluster.run(SETTLING)
    assert cluster.serving() is None, cluster.tail()
    term = cluster.max_term()
    cluster.run(SETTLING)
    assert cluster.serving() is None, cluster.tail()
    assert cluster.max_term() == term, cluster.tail()


def check_new_cluster(size: int, cut: set[Link], seed: int) -> None:
    """The links have never worked."""
    cluster = Cluster(size, seed=seed)
    cluster.cut |= cut
    if possible := hubs(size, cut):
        expect_a_stable_leader(cluster, possible)
    else:
        expect_nobody(cluster)
        assert cluster.max_term() == 0
    cluster.heal()
    cluster.run_until_serving(within=PATIENCE)


def check_working_cluster(size: int, cut: set[Link], seed: int) -> None:
    """The links fail while a leader is at work."""
    cluster = Cluster(size, seed=seed)
    first = cluster.run_until_serving()
    cluster.write(first.id, "SET k v")
    cluster.run(1.0)
    cluster.cut |= cut
    term = cluster.max_term()
    possible = hubs(size, cut)
    if first.id in possible:
        cluster.run(2 * SETTLING)
        assert cluster.serving() is first, cluster.tail()
        assert cluster.max_term() == term, cluster.tail()
    elif possible:
        expect_a_stable_leader(cluster, possible)
    else:
        expect_nobody(cluster)
    cluster.heal()
    leader = cluster.run_until_serving(within=PATIENCE)
    cluster.run(0.5)
    assert {m.machine.digest() for m in cluster.members.values()} == {leader.machine.digest()}


ALL_LINKS = {size: list(permutations(range(1, size + 1), 2)) for size in (3, 5)}
GRAPHS_OF_3 = [set(cut) for count in range(7) for cut in combinations(ALL_LINKS[3], count)]


def name(cut: set[Link]) -> str:
    return " ".join(f"{a}-{b}" for a, b in sorted(cut)) or "none"


@pytest.mark.parametrize("cut", GRAPHS_OF_3, ids=name)
def test_hazard_43_every_way_in_which_links_of_three_members_can_fail(cut: set[Link]) -> None:
    check_new_cluster(3, cut, seed=3)
    check_working_cluster(3, cut, seed=3)


@pytest.mark.parametrize("seed", range(24))
def test_hazard_43_some_ways_in_which_links_of_five_members_can_fail(seed: int) -> None:
    rng = random.Random(seed)
    cut = set(rng.sample(ALL_LINKS[5], rng.randint(1, 14)))
    if seed % 2:
        check_new_cluster(5, cut, seed)
    else:
        check_working_cluster(5, cut, seed)


def test_hazard_43_the_outage_of_november_2020() -> None:
    """One follower can't reach the leader, in either direction, while everybody else reaches everybody: it must not
    take the leadership away, again and again (blog.cloudflare.com/a-byzantine-failure-in-the-real-world)."""
    cluster = Cluster(3)
    leader = cluster.run_until_serving()
    cluster.run(1.0)
    apart = next(i for i in cluster.members if i != leader.id)
    term = cluster.max_term()

    cluster.cut_between([leader.id], [apart])
    cluster.run(20.0)

    assert cluster.serving() is leader
    assert cluster.max_term() == term
