"""The simulated network: what arrives, what does not, and what comes back."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.simulation.network import Link, Network
from tests.simulation.plan import Fault, Plan, draw
from tests.simulation.world import World

PLAN = replace(draw(1), step=1.0, network_delay=0.01, faults=frozenset())


class Wires:
    """A network of two members and a client, and what has arrived at whom."""

    def __init__(self, *faults: Fault) -> None:
        self.world = World(seed=1)
        plan: Plan = replace(PLAN, faults=frozenset(faults))
        self.network = Network(self.world, plan, ["n1", "n2"], ["c1"])
        self.arrived: list[tuple[str, str, Any]] = []
        self.lost: list[Any] = []
        for name in self.network.endpoints:
            self.network.receive[name] = partial(self._receive, name)
            self.network.lost[name] = lambda target, packet: self.lost.append(packet)

    def _receive(self, target: str, source: str, packet: Any) -> bool:
        self.arrived.append((source, target, packet))
        return True

    def link(self, source: str, target: str) -> Link:
        return self.network.links[source, target]

    def send(self, source: str, target: str, *packets: Any) -> None:
        for packet in packets:
            self.network.send(source, target, packet)

    def received(self, source: str, target: str) -> list[Any]:
        """What has arrived once everything has that will."""
        self.world.run(self.world.now + 100.0)
        packets = [packet for s, t, packet in self.arrived if (s, t) == (source, target)]
        self.arrived.clear()
        return packets


def test_what_is_sent_between_members_arrives_in_order() -> None:
    wires = Wires()
    wires.send("n1", "n2", *range(50))
    assert wires.received("n1", "n2") == list(range(50))


def test_messages_can_overtake_each_other() -> None:
    wires = Wires(Fault.REORDER)
    wires.send("n1", "n2", *range(50))
    received = wires.received("n1", "n2")
    assert received != list(range(50))
    assert sorted(received) == list(range(50))


def test_one_direction_can_be_cut_and_mended() -> None:
    wires = Wires()
    wires.network.cut("n1", "n2")
    wires.send("n1", "n2", "there")
    wires.send("n2", "n1", "back")
    assert wires.received("n1", "n2") == []
    wires.send("n2", "n1", "back again")
    assert wires.received("n2", "n1") == ["back again"]
    wires.network.mend("n1", "n2")
    wires.send("n1", "n2", "at last")
    assert wires.received("n1", "n2") == ["at last"]


def test_a_sender_may_be_told_that_its_message_was_lost_or_not() -> None:
    wires = Wires()
    wires.network.cut("n1", "n2")
    wires.send("n1", "n2", *range(50))
    assert wires.received("n1", "n2") == []
    assert 0 < len(wires.lost) < 50


def test_what_a_clog_has_held_up_arrives_when_it_is_gone() -> None:
    wires = Wires()
    wires.network.clog(wires.link("n1", "n2"))
    wires.send("n1", "n2", 1, 2, 3)
    assert wires.received("n1", "n2") == []
    wires.network.unclog(wires.link("n1", "n2"))
    assert wires.received("n1", "n2") == [1, 2, 3]


def test_messages_are_dropped_and_doubled() -> None:
    wires = Wires()
    link = wires.link("n1", "n2")
    link.drop = link.duplicate = 0.5
    wires.send("n1", "n2", *range(50))
    received = wires.received("n1", "n2")
    assert len(set(received)) < 50
    assert len(received) > len(set(received))


def test_replay_brings_back_some_of_what_was_sent_of_late_or_long_ago() -> None:
    wires = Wires()
    wires.send("n1", "n2", *range(200))
    assert len(wires.received("n1", "n2")) == 200
    link = wires.link("n1", "n2")
    sizes, again = [], set()
    for _ in range(100):
        sizes.append(wires.network.replay(link))
        again |= set(wires.received("n1", "n2"))
    assert max(sizes) <= 24
    assert min(again) < 50
    assert max(again) > 190


def test_a_replay_gets_through_a_cut_since_it_was_sent_before() -> None:
    wires = Wires()
    wires.send("n1", "n2", "old")
    wires.received("n1", "n2")
    wires.network.cut("n1", "n2")
    assert wires.network.replay_all(wires.link("n1", "n2"), ["old"]) == 1
    assert wires.received("n1", "n2") == ["old"]


@pytest.mark.parametrize(("source", "target"), [("c1", "n1"), ("n1", "c1")])
def test_clients_calls_are_never_doubled_nor_remembered(source: str, target: str) -> None:
    wires = Wires(Fault.DUPLICATE)
    wires.send(source, target, *range(50))
    assert sorted(wires.received(source, target)) == list(range(50))
    assert wires.link(source, target).past == []


def test_when_the_storm_is_over_everything_arrives() -> None:
    wires = Wires(Fault.DROP, Fault.DUPLICATE, Fault.REORDER, Fault.SLOW)
    wires.network.cut("n1", "n2")
    wires.network.clog(wires.link("n2", "n1"))
    wires.network.calm()
    for link in (("n1", "n2"), ("n2", "n1")):
        wires.send(*link, *range(50))
        assert sorted(wires.received(*link)) == list(range(50))
