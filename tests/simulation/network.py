"""The network between members and clients: theory of operation.

There is a link for each *direction* of each pair; members and clients alike are endpoints with a name. What is sent
over a link arrives after a while, or not: it can be dropped, delayed, duplicated, overtaken; the link can be cut, or
clogged (all that is sent piles up, and arrives when the clog is gone). Old messages between members are remembered, so
that they can be replayed long after.

A link's sender may be told that a message has been lost, as a failed call would tell it; or not, as when only the
answer gets lost. Clients' calls are lost or late, but never doubled or replayed: the transport sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.calls import describe
from tests.simulation.plan import Fault, Plan
from tests.simulation.world import World

Packet = Any
"""What is sent: a message between members, a client's call or its answer. The network never looks inside."""

_REPLAYED = 24
"""How long the piece of a link's past is out of which messages are replayed."""


@dataclass(slots=True)
class Link:
    source: str
    target: str
    between_members: bool
    is_cut: bool = False
    is_clogged: bool = False
    drop: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0
    """Up to so many seconds more."""
    in_order: bool = True
    last_arrival: float = 0.0
    held: list[Packet] = field(default_factory=list)
    past: list[Packet] = field(default_factory=list)
    """All that was ever sent, if it is a link between members."""


class Network:
    def __init__(self, world: World, plan: Plan, members: Collection[str], clients: Collection[str]) -> None:
        self._world = world
        self._plan = plan
        self._rng = world.random("network")
        self.members = list(members)
        self.endpoints = [*members, *clients]
        self.receive: dict[str, Callable[[str, Packet], bool]] = {}
        """By endpoint: takes (source, packet); False if nobody is there."""
        self.lost: dict[str, Callable[[str, Packet], None]] = {}
        """By endpoint: is told that what it sent to somebody has failed."""
        self.links = {
            (source, target): Link(source, target, source in members and target in members)
            for source in self.endpoints
            for target in self.endpoints
            if source != target and (source in members or target in members)
        }
        for link in self.links.values():
            self._draw_quality(link)

    def _draw_quality(self, link: Link) -> None:
        """How bad this link is during the storm: each is bad in its own way."""
        rng, plan = self._rng, self._plan
        if plan.has(Fault.DROP):
            link.drop = rng.choice([0.0, 0.02, 0.1, 0.4])
        if plan.has(Fault.DUPLICATE) and link.between_members:
            link.duplicate = rng.choice([0.0, 0.1, 0.5])
        # A server takes up the calls of a client in any order, whatever the connection does.
        link.in_order = link.between_members and not plan.has(Fault.REORDER)
        if plan.has(Fault.SLOW):
            link.slow = plan.step * rng.choice([0.0, 0.1, 1.0, 3.0])

    # ---- sending -----------------------------------------------------------------------------------------------------

    def send(self, source: str, target: str, packet: Packet, delay: float = 0.0) -> None:
        """Send a packet; it leaves `delay` seconds from now."""
        link, rng = self.links[source, target], self._rng
        if link.between_members:
            link.past.append(packet)
        if link.is_cut:
            self._lose(link, packet, "cut")
        elif link.is_clogged:
            link.held.append(packet)
        elif link.drop and rng.random() < link.drop:
            self._world.count("faults", Fault.DROP.value)
            self._lose(link, packet, "dropped")
        else:
            self._deliver(link, packet, delay)
            if link.duplicate and rng.random() < link.duplicate:
                self._world.count("faults", Fault.DUPLICATE.value)
                self._deliver(link, packet, delay)

    def _deliver(self, link: Link, packet: Packet, delay: float) -> None:
        dice = self._rng.random
        arrival = self._world.now + delay + self._plan.network_delay * dice()
        if link.slow and dice() < 0.3:
            self._world.count("faults", Fault.SLOW.value)
            arrival += link.slow * dice() * dice()
        if link.in_order:
            arrival = max(arrival, link.last_arrival)
        elif link.between_members and arrival < link.last_arrival:
            self._world.count("faults", Fault.REORDER.value)
        link.last_arrival = max(arrival, link.last_arrival)
        self._world.at(arrival, self._arrive, link, packet)

    def _arrive(self, link: Link, packet: Packet) -> None:
        if not self.receive[link.target](link.source, packet):
            self._lose(link, packet, "nobody is there")

    def _lose(self, link: Link, packet: Packet, why: str) -> None:
        world = self._world
        if world.is_traced:
            world.tell(f"{link.source}>{link.target}", f"({why}) {describe(packet)}")
        if self._rng.random() < 0.5:
            world.after(self._plan.step * self._rng.random(), self.lost[link.source], link.target, packet)

    # ---- faults ------------------------------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Let nothing through in this direction."""
        if (source, target) in self.links:
            self.links[source, target].is_cut = True

    def mend(self, source: str, target: str) -> None:
        """Undo a cut."""
        if (source, target) in self.links:
            self.links[source, target].is_cut = False

    def clog(self, link: Link) -> None:
        """Let everything pile up in this direction."""
        link.is_clogged = True

    def unclog(self, link: Link) -> None:
        """Let what has piled up arrive."""
        link.is_clogged = False
        held, link.held = link.held, []
        for packet in held:
            self._deliver(link, packet, 0.0)

    def heal(self) -> None:
        """Mend all cuts."""
        for link in self.links.values():
            link.is_cut = False

    def replay(self, link: Link) -> int:
        """Let some of what was once sent over the link arrive again, of late or at any time; how much that is."""
        rng, end = self._rng, len(link.past)
        if end > _REPLAYED and rng.random() < 0.5:
            end = rng.randrange(_REPLAYED, end)
        piece = link.past[max(0, end - _REPLAYED) : end]
        return self.replay_all(link, [packet for packet in piece if rng.random() < 0.3])

    def replay_all(self, link: Link, packets: Sequence[Packet]) -> int:
        """Let these, which were once sent over the link, arrive again; how many they are."""
        for packet in packets:
            self._deliver(link, packet, 0.0)
        return len(packets)

    def calm(self) -> None:
        """End all faults for good."""
        self.heal()
        for link in self.links.values():
            link.drop = link.duplicate = link.slow = 0.0
            link.in_order = link.between_members
            self.unclog(link)
