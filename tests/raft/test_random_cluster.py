"""Clusters of all sizes in foul weather: messages lost, doubled and out of order, members crashing, stopping and cut
off.

After every turn the cluster checks election safety, leader completeness, state machine safety, and the leases; at the
end logs must match, and once the weather has cleared, everybody must agree. A failure prints the seed, and

python -m tests.raft.test_random_cluster SIZE SEED

tells the whole story of that run. (The simulator in tests/simulation goes much further: disks, clients, histories.)"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest

from raftkv.raft.core import Config
from raftkv.raft.messages import Message
from raftkv.replica import Applied, NotLeader, Served, Unknown
from tests.support.raft_cluster import Answer, Cluster

STORM, CALM = 10.0, 8.0
"""Seconds."""
DRIFT = 0.02


@dataclass
class Storm:
    """One run: everything follows from the size and the seed."""

    size: int
    seed: int
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    """(how many entries were committed when it was asked, the answer)"""
    reads_without_turn: int = 0

    def __post_init__(self) -> None:
        self.rng = rng = random.Random(f"{self.size} {self.seed}")
        self.loss = rng.choice([0.0, 0.02, 0.2])
        self.duplication = rng.choice([0.0, 0.1])
        self.delay = rng.choice([0.001, 0.005, 0.05])
        self.stuck = rng.choice([0.0, 0.02])
        """How many of the copies turn up much later, perhaps in another term."""
        config = Config(
            lease_duration=rng.choice([0.0, 0.2, 0.4, 1.5]),
            clock_drift=DRIFT,
            max_append_bytes=rng.choice([1, 50, 1 << 20]),
            max_apply_bytes=rng.choice([1, 1 << 20]),
            max_appends_in_flight=rng.choice([1, 2, 5]),
        )
        rates = {i: rng.uniform(1 - DRIFT, 1 + DRIFT) for i in range(1, self.size + 1)}
        self.cluster = Cluster(self.size, config=config, rates=rates, network=self.deliver, seed=self.seed)
        self.cluster.report_lost = rng.random() < 0.7

    def deliver(self, message: Message) -> Sequence[float]:
        rng = self.rng
        if rng.random() < self.loss:
            return ()
        delays = [rng.expovariate(1 / self.delay) for _ in range(2 if rng.random() < self.duplication else 1)]
        return [delay + (rng.uniform(0.0, 4.0) if rng.random() < self.stuck else 0.0) for delay in delays]

    def run(self) -> None:
        end = self.cluster.now + STORM
        while self.cluster.now < end:
            self.cluster.run(self.rng.expovariate(1 / 0.04))
            self.do_something()
        self.clear_up()

    def do_something(self) -> None:
        rng, cluster = self.rng, self.cluster
        member = cluster.members[rng.randint(1, self.size)]
        dice = rng.random()
        if dice < 0.03:
            if member.is_up:
                cluster.crash(member.id)
            else:
                cluster.start(member.id)
        elif dice < 0.06 and member.is_up:
            if member.paused:
                cluster.resume(member.id)
            else:
                cluster.pause(member.id)
        elif dice < 0.07:
            cluster.isolate(*rng.sample(sorted(cluster.members), rng.randint(1, self.size)))
        elif dice < 0.08:
            cluster.cut.add((rng.randint(1, self.size), member.id))
        elif dice < 0.12:
            cluster.heal()
        elif dice < 0.2:
            for other in cluster.members.values():  # so that it does not take ages until most are up again
                if not other.is_up:
                    cluster.start(other.id)
                elif other.paused:
                    cluster.resume(other.id)
        else:
            self.ask()

    def ask(self) -> None:
        rng, cluster = self.rng, self.cluster
        for member in cluster.members.values():
            if not member.is_up:
                continue
            served = member.replica.read_under_lease([b"k"], lambda m=member: m.clock(cluster.now))  # type: ignore[misc]
            if served is not None:
                self.reads_without_turn += 1
                behind = member.machine.applied_index < len(cluster.committed)
                assert not behind, f"S{member.id} serves a stale read under its lease"
            if not member.paused and (member.leads or rng.random() < 0.1):
                asked = len(cluster.committed)
                writes = [f"SET k{rng.randint(0, 9)} {rng.random()}" for _ in range(rng.randint(1, 3))]
                self.answers.append((asked, cluster.write(member.id, *writes)))
                self.answers.append((asked, cluster.query(member.id, lambda machine: machine.applied_index)))

    def clear_up(self) -> None:
        """Everything heals: soon there is a leader, and all are alike."""
        cluster = self.cluster
        cluster.heal()
        self.loss = self.duplication = self.stuck = 0.0
        self.delay = min(self.delay, 0.005)
        for member in cluster.members.values():
            if not member.is_up:
                cluster.start(member.id)
            elif member.paused:
                cluster.resume(member.id)
        cluster.run(4.0)  # what is still under way arrives, and a leader without a majority notices
        leader = cluster.run_until_serving(within=CALM)
        cluster.run(1.0)
        last = cluster.write(leader.id, "SET the end")
        cluster.run(1.0)
        assert isinstance(last.outcome, Applied)
        cluster.check_logs()
        assert {m.machine.digest() for m in cluster.members.values()} == {leader.machine.digest()}
        assert {len(m.log_terms) for m in cluster.members.values()} == {len(cluster.committed)}
        for asked, answer in self.answers:
            if isinstance(answer.outcome, Served):
                assert answer.outcome.value >= asked

    def outcomes(self) -> list[str]:
        return [type(answer.outcome).__name__ for _, answer in self.answers]


@cache
def weathered(size: int, seed: int) -> Storm:
    storm = Storm(size, seed)
    try:
        storm.run()
    except Exception as error:
        raise AssertionError(f"replay: python -m tests.raft.test_random_cluster {size} {seed}\n{error}") from error
    return storm


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_is_committed_is_lost_or_doubled_in_any_weather(size: int, seed: int) -> None:
    weathered(size, seed)


def test_the_storms_are_worth_their_name() -> None:
    """What some of the runs above went through, so that their passing means something."""
    storms = [weathered(size, seed) for size in (3, 5) for seed in range(4)]

    outcomes = [outcome for storm in storms for outcome in storm.outcomes()]
    assert {Applied.__name__, Served.__name__, NotLeader.__name__, Unknown.__name__} <= set(outcomes)
    assert sum(len(storm.cluster.leaders) for storm in storms) >= 20, "changes of leader"
    assert sum(m.starts - 1 for storm in storms for m in storm.cluster.members.values()) >= 20, "crashes"
    assert sum(storm.reads_without_turn for storm in storms) >= 100


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = weathered(3, 1), Storm(3, 1)
    second.run()

    assert first.cluster.story == second.cluster.story


if __name__ == "__main__":
    replayed = Storm(int(sys.argv[1]), int(sys.argv[2]))
    try:
        replayed.run()
    finally:
        print("\n".join(replayed.cluster.story))
        print(replayed.outcomes())
