"""What the faults have at hand: who there is, how long things take, and how what was broken is mended.

A `Stage` is shared by the storm (storm.py) and the coups (coups.py). Once it is over, nothing that was to happen later
happens any more, and whoever crashes starts again at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tests.simulation.clients import Client
from tests.simulation.member import Member
from tests.simulation.network import Network
from tests.simulation.plan import Fault, Plan
from tests.simulation.world import World


class Stage:
    def __init__(
        self, world: World, network: Network, members: Mapping[int, Member], clients: Sequence[Client], plan: Plan
    ) -> None:
        self.world = world
        self.network = network
        self.members = members
        self.clients = clients
        self.plan = plan
        self.step = plan.step
        self.rng = world.random("storm")
        self.is_over = False
        self.quiet_until = 0.0
        """No strike before: something takes its time."""
        self.restart_soon = False
        """Whoever crashes now starts again almost at once."""
        for member in members.values():
            member.ended = self._restart_later

    def say(self, fault: Fault, text: str) -> None:
        """Count a fault, and tell of it."""
        self.world.count("faults", fault.value)
        self.world.tell("storm", text)

    # ---- who ---------------------------------------------------------------------------------------------------------

    def leader(self) -> Member | None:
        """The latest leader, if any member leads."""
        leaders = [m for m in self.members.values() if m.replica is not None and m.replica.status().role == "leader"]
        return max(leaders, key=lambda m: m.replica.raft.current_term if m.replica else 0, default=None)

    def victim(self) -> Member:
        """Half the time the leader, else anybody."""
        leader = self.leader()
        if leader is not None and self.rng.random() < 0.5:
            return leader
        return self.rng.choice(list(self.members.values()))

    # ---- when --------------------------------------------------------------------------------------------------------

    def a_while(self) -> float:
        """Some time, seconds."""
        return self.step * self.rng.choice([0.3, 1.0, 2.0, 5.0]) * (0.5 + self.rng.random())

    def later(self, action: Callable[..., object], *arguments: object) -> None:
        """Do something after a while."""
        self._after(self.a_while(), action, arguments)

    def keep_quiet(self, steps: float) -> None:
        """Let no strike be set for the next so many steps. One that has its time already comes all the same."""
        self.quiet_until = max(self.quiet_until, self.world.now + steps * self.step)

    def in_steps(self, steps: float, action: Callable[..., object], *arguments: object) -> None:
        """Do something after so many steps."""
        self._after(self.step * steps, action, arguments)

    def as_soon_as(
        self,
        condition: Callable[[], bool],
        action: Callable[..., object],
        *arguments: object,
        within: float,
        every: float = 0.1,
    ) -> None:
        """Do something once the condition holds, if that comes within so many steps; it is looked at every so many."""
        if condition():
            action(*arguments)
        elif within > 0:
            self.world.nothing_happened()
            again = partial(self.as_soon_as, within=within - every, every=every)
            self.in_steps(every, again, condition, action, *arguments)

    def _after(self, delay: float, action: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self.world.after(delay, self._unless_over, action, arguments)

    def _unless_over(self, action: Callable[..., object], arguments: tuple[object, ...]) -> None:
        if not self.is_over:
            action(*arguments)

    # ---- what --------------------------------------------------------------------------------------------------------

    def cut_off(self, member: Member, share: float) -> None:
        """Let nothing pass from the member to a share of the others, and often nothing from them to it either."""
        for other in self.network.members:
            if other != member.name and self.rng.random() < share:
                self.network.cut(member.name, other)
                if self.rng.random() < 0.7:
                    self.network.cut(other, member.name)

    def heal(self) -> None:
        """Mend all cuts; what was sent long ago may then arrive once more."""
        self.world.tell("storm", "all cuts heal")
        self.network.heal()
        if self.plan.has(Fault.REPLAY):
            self.replay()

    def replay(self) -> None:
        """Let old messages of some link arrive again."""
        links = [link for link in self.network.links.values() if link.between_members]
        if links:
            link = self.rng.choice(links)
            self.say(Fault.REPLAY, f"replays {self.network.replay(link)} messages of {link.source}>{link.target}")

    def _restart_later(self, member: Member) -> None:
        """A process has ended."""
        if self.is_over:
            self.world.after(0.0, member.start)
        else:
            delay = self.a_while() * (0.01 if self.restart_soon else self.rng.choice([0.01, 0.1, 1.0]))
            self._after(delay, self._restart, (member, member.has_refused))

    def _restart(self, member: Member, from_copy: bool) -> None:
        if from_copy and not member.is_up:
            member.disk.restore()
            self.world.tell("storm", f"{member.name} gets its intact data back")
        member.start()
