"""Coups: how to get a new leader while the old one still believes to be it: theory of operation.

That is what leases, promises and rounds are there for, and what blind chance hardly ever brings about: a leader that
loses its majority steps down, a follower that hears a leader votes for nobody, and one that has missed an entry gets
no votes. So these are plays in several acts, with nothing else going on meanwhile; who does what, and how long it
takes, is still up to chance.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.raft.messages import AppendEntries
from tests.simulation.member import Member
from tests.simulation.network import Link
from tests.simulation.plan import Fault
from tests.simulation.stage import Stage

_AT_ONCE = 0.01
"""Steps between two looks for what does not last."""

_SETTLED = 1.5
"""Steps after which what was written before is everywhere, unless something is wrong."""

_ASKED_AGAIN = 60
"""How many old requests of a link may come back at once."""


def stage_a_coup(stage: Stage) -> None:
    """Begin one of them."""
    leader = stage.leader()
    if leader is None or len(stage.members) == 1:
        return
    stage.quiet_until = stage.world.now + 7 * stage.step
    coup = stage.rng.choice(_COUPS)
    if _has_promises_of_other_lengths(stage, leader) and stage.rng.random() < 0.4:
        coup = _a_short_reign
    elif _outlasts_an_election(leader) and stage.rng.random() < 0.4:
        coup = stage.rng.choice([_one_remembers, _a_rejection_is_a_promise])
    coup(stage, leader)


def _has_promises_of_other_lengths(stage: Stage, leader: Member) -> bool:
    """Whether a successor may be promised much less than the leader is, and the two are not needed for a majority."""
    length = leader.config.lease_duration
    return len(stage.members) > 3 and any(m.config.lease_duration < length / 2 for m in stage.members.values())


def _outlasts_an_election(leader: Member) -> bool:
    """Whether its lease may still hold when another has been elected, who has waited for all promises but the last."""
    return leader.config.lease_duration >= 3 * leader.config.election_timeout


def _it_stands_still(stage: Stage, leader: Member) -> None:
    """The leader's process is stopped: it can't step down, but its clock goes on. Others may have forgotten by then
    what they have promised it."""
    stage.say(Fault.COUP, f"a coup: {leader.name} stands still")
    _stop(stage, leader, 1.5 + 4.5 * stage.rng.random())
    _restart_others(stage, leader)


def _it_oversleeps(stage: Stage, leader: Member) -> None:
    """The leader stands still with answers to its last requests before it, and nobody can tell it what has happened
    since. When it wakes up, there are reads to answer."""
    stage.say(Fault.COUP, f"a coup: {leader.name} oversleeps, and nobody tells it")
    sleep = 2 + 3 * stage.rng.random()
    _stop(stage, leader, sleep)
    for other in stage.network.members:
        stage.in_steps(0.1 + 0.3 * stage.rng.random(), stage.network.cut, other, leader.name)
    stage.in_steps(sleep - 0.4, _clients_come_back, stage, leader)
    stage.in_steps(sleep + 1 + stage.rng.random(), stage.heal)


def _clients_come_back(stage: Stage, leader: Member) -> None:
    for client in stage.clients:
        if stage.rng.random() < 0.5:
            client.turn_to(leader.name)


def _a_short_reign(stage: Stage, leader: Member) -> None:
    """The leader stands still, and its successor does not last long either: whoever comes then was promised nothing
    by the first, and the voters have to remember both."""
    stage.say(Fault.COUP, f"a coup: {leader.name} stands still, and its successor will not last")
    _stop(stage, leader, 4 + 4 * stage.rng.random())
    reign = 0.1 + 0.7 * stage.rng.random()
    stage.as_soon_as(
        lambda: _successor(stage, leader) is not None, stage.in_steps, reign, _end_reign, stage, leader, within=5.0
    )
    stage.in_steps(8, stage.heal)
    stage.quiet_until = stage.world.now + 8 * stage.step


def _end_reign(stage: Stage, former: Member) -> None:
    leader = _successor(stage, former)
    if leader is None:
        return
    stage.world.tell("storm", f"ends the reign of {leader.name}, which has taken {former.name}'s place")
    if stage.rng.random() < 0.5:
        leader.crash(power_lost=False)
    else:
        _separate(stage, leader)


def _a_rival_is_ready(stage: Stage, leader: Member) -> None:
    """A rival hears nothing of the leader, and nobody writes, so that its log stays as good as any. Then the leader
    is cut off, and those who hear it start anew: they know of no leader, and vote for the rival the next time that it
    asks."""
    rival = _somebody_else(stage, leader)
    stage.say(Fault.COUP, f"a coup: {rival.name} makes itself ready to take {leader.name}'s place")
    ready_in = 2.5 + 1.5 * stage.rng.random()
    for client in stage.clients:
        client.be_quiet(ready_in * stage.step)
    stage.in_steps(0.7, stage.network.cut, leader.name, rival.name)
    stage.in_steps(ready_in, _the_rival_strikes, stage, leader, rival)


def _the_rival_strikes(stage: Stage, leader: Member, rival: Member) -> None:
    stage.world.tell("storm", f"{leader.name} is cut off, {rival.name} is ready")
    stage.cut_off(leader, 0.9)
    _restart_others(stage, leader, rival)
    stage.in_steps(1 + 3 * stage.rng.random(), stage.heal)


def _some_are_deaf(stage: Stage, leader: Member) -> None:
    """A minority has not heard the leader for so long that it has promised nothing to it. Then the leader stands
    still, and so do those who heard it, but for one: of those who vote, it alone knows of the old leader's lease."""
    deaf, one, rest = _deaf_and_others(stage, leader)
    stage.say(Fault.COUP, f"a coup: {_names(deaf)} hear nothing of {leader.name}, {one.name} does")
    for member in deaf:
        stage.network.cut(leader.name, member.name)
    begins = stage.rng.choice([1.0, 3.0]) + 2 * stage.rng.random()
    for member in (leader, *rest):
        stage.in_steps(begins, _stop, stage, member, 2 + 3 * stage.rng.random())
    stage.in_steps(begins + 4, stage.heal)
    stage.quiet_until = stage.world.now + (begins + 5) * stage.step


def _one_remembers(stage: Stage, leader: Member) -> None:
    """A minority has not heard the leader for so long that its promises are over, but nobody has written meanwhile, so
    that its logs are as good as any. Then the leader and others stand still: of those who vote, one alone has promised
    something, and its vote comes before the others'."""
    deaf, one, rest = _deaf_and_others(stage, leader)
    stage.say(Fault.COUP, f"a coup: {one.name} alone will remember {leader.name}, and {_names(deaf)} will not")
    begins = _SETTLED + _until_forgotten(stage, leader)
    for client in stage.clients:
        client.be_quiet(begins * stage.step)
    for member in deaf:
        stage.in_steps(_SETTLED, stage.network.cut, leader.name, member.name)
    lasts = 4 + 2 * stage.rng.random()
    for member in (leader, *rest):
        stage.in_steps(begins, _stop, stage, member, lasts)
    links = [stage.network.links[a.name, b.name] for a in deaf for b in deaf if a is not b]
    stage.in_steps(begins, _delay_votes, stage, links, lasts)
    stage.in_steps(begins + lasts, stage.heal)
    stage.quiet_until = stage.world.now + (begins + lasts + 1) * stage.step


def _delay_votes(stage: Stage, links: list[Link], within: float) -> None:
    """Once somebody has asked for votes that count, let what passes over these links take its time."""

    def delay() -> None:
        for link in links:
            stage.network.clog(link)
            stage.in_steps(0.3, stage.network.unclog, link)

    names = {link.source for link in links}
    running = [member for member in stage.members.values() if member.name in names and member.replica is not None]
    stage.as_soon_as(
        lambda: any(member.replica and member.replica.status().role == "candidate" for member in running),
        delay,
        within=within,
        every=_AT_ONCE,
    )


def _a_rejection_is_a_promise(stage: Stage, leader: Member) -> None:
    """One voter has not heard the leader for so long that its promises are over. Then a minority does not hear it any
    more either, and the one gets a single request, which it has to reject, for those before it are lost. But it has
    heard the leader, whose lease rests on that answer; and then the leader and others stand still."""
    deaf, one, rest = _deaf_and_others(stage, leader)
    stage.say(Fault.COUP, f"a coup: {one.name} will hear but one request of {leader.name}, and reject it")
    link = stage.network.links[leader.name, one.name]
    begins = _SETTLED + _until_forgotten(stage, leader)
    for client in stage.clients:
        client.turn_to(leader.name)
        client.be_quiet(begins * stage.step)  # what is sent in vain now, ahead of any answer, would be sent again
    stage.in_steps(_SETTLED, stage.network.clog, link)
    for member in deaf:
        stage.in_steps(begins, stage.network.cut, leader.name, member.name)
    # As late as the leader can wait for an answer before it steps down.
    stage.in_steps(begins + 0.4, _let_the_last_one_through, stage, leader, link, one, rest)
    stage.in_steps(begins + 7, stage.network.unclog, link)
    stage.in_steps(begins + 7, stage.heal)
    stage.quiet_until = stage.world.now + (begins + 8) * stage.step


def _let_the_last_one_through(stage: Stage, leader: Member, link: Link, one: Member, rest: list[Member]) -> None:
    def with_a_gap() -> list[AppendEntries]:
        last = one.replica.status().last_log_index if one.replica is not None else 0
        return [p for p in link.held if isinstance(p, AppendEntries) and p.prev.index > last]

    def strike() -> None:
        link.held = with_a_gap()[-1:]
        stage.network.unclog(link)
        stage.network.clog(link)
        for member in (leader, *rest):
            stage.in_steps(0.3, _stop, stage, member, 6.0)

    stage.as_soon_as(lambda: bool(with_a_gap()), strike, within=0.3, every=_AT_ONCE)


def _deaf_and_others(stage: Stage, leader: Member) -> tuple[list[Member], Member, list[Member]]:
    """A minority, one member, and the rest without the leader: minority and one are a majority."""
    others = [member for member in stage.members.values() if member is not leader]
    stage.rng.shuffle(others)
    minority = len(others) // 2
    return others[:minority], others[minority], others[minority + 1 :]


def _until_forgotten(stage: Stage, leader: Member) -> float:
    """So many steps after its last request a promise to the leader is over, on any clock."""
    return 1.3 * leader.config.lease_duration / stage.step + 0.3 + stage.rng.random()


def _names(members: list[Member]) -> str:
    return ", ".join(member.name for member in members)


def _answers_come_late(stage: Stage, leader: Member) -> None:
    """The leader reaches nobody any more, and the answers to what it has asked so far come late; or others are asked
    once more what it asked when it led an earlier term. It learns from them that somebody was there *then*, not
    now."""
    stage.say(Fault.COUP, f"a coup: {leader.name} is not heard, and hears old answers")
    term = _term(leader)
    links = [stage.network.links[other.name, leader.name] for other in stage.members.values() if other is not leader]
    for link in links:
        stage.network.cut(link.target, link.source)
        stage.network.clog(link)
    _clients_look_elsewhere(stage, leader)
    late = 0.4 + 0.55 * stage.rng.random()
    stage.in_steps(late, _ask_again, stage, leader, term)
    for link in links:
        stage.in_steps(late, stage.network.unclog, link)
        stage.in_steps(late + 0.1 + 0.2 * stage.rng.random(), stage.network.cut, link.source, link.target)
    stage.in_steps(late + 2 + 2 * stage.rng.random(), stage.heal)


def _ask_again(stage: Stage, leader: Member, term: int) -> None:
    """Let requests of the leader's earlier terms arrive once more."""
    for link in stage.network.links.values():
        if link.source == leader.name and link.between_members:
            requests = [p for p in link.past if isinstance(p, AppendEntries) and p.term < term]
            again = stage.network.replay_all(link, requests[-_ASKED_AGAIN:])
            if again:
                stage.say(Fault.REPLAY, f"replays {again} requests of earlier terms of {link.source}>{link.target}")


def _it_is_elected_again(stage: Stage, leader: Member) -> None:
    """The leader loses its office and wins it again. Its rounds are counted from the start, as those were that are
    still under way from its earlier term."""
    stage.say(Fault.COUP, f"a coup: {leader.name} is to lead again")
    term, names = _term(leader), stage.network.members
    for source in names:
        for target in names:
            stage.network.cut(source, target)
    stage.in_steps(1.2, _only_one_can_win, stage, leader)
    stage.as_soon_as(lambda: _leads_since(leader, term), _it_leads_again, stage, leader, within=6.0)
    stage.in_steps(7, stage.heal)
    stage.quiet_until = stage.world.now + 8 * stage.step


def _only_one_can_win(stage: Stage, leader: Member) -> None:
    """Let the former leader alone talk to the others."""
    for name in stage.network.members:
        if name != leader.name:
            stage.network.mend(name, leader.name)
            stage.network.mend(leader.name, name)


def _it_leads_again(stage: Stage, leader: Member) -> None:
    stage.world.tell("storm", f"{leader.name} leads again")
    stage.heal()
    stage.in_steps(1.5 * stage.rng.random(), _answers_come_late, stage, leader)


def _a_longer_log(stage: Stage, leader: Member) -> None:
    """The leader is cut off with its clients and goes on writing. Others elect another, which commits less than that,
    and is gone: the first one's log is the longest, and must not win."""
    stage.say(Fault.COUP, f"a coup: {leader.name} goes on writing by itself")
    for client in stage.clients:
        client.turn_to(leader.name)
    _separate(stage, leader)
    reign = 0.1 + 0.5 * stage.rng.random()
    stage.as_soon_as(
        lambda: _successor(stage, leader) is not None, stage.in_steps, reign, _back_with_it, stage, leader, within=5.0
    )
    stage.in_steps(6, stage.heal)


def _figure_8(stage: Stage, leader: Member) -> None:
    """The paper's figure 8: a leader's entries are on its own disk only, a second leader's on its own, the first one
    leads again and spreads its entries; then the second, whose last entry is of a later term, comes back."""
    stage.say(Fault.COUP, f"a coup: figure 8, begun by {leader.name}")
    for client in stage.clients:
        client.turn_to(leader.name)
    _separate(stage, leader)
    stage.as_soon_as(
        lambda: _candidate(stage, leader) is not None, _the_second, stage, leader, within=4.0, every=_AT_ONCE
    )
    stage.in_steps(9, stage.heal)
    stage.quiet_until = stage.world.now + 9 * stage.step


def _the_second(stage: Stage, first: Member) -> None:
    """A candidate has asked for votes: it gets them, but is not heard again."""
    second = _candidate(stage, first)
    if second is None:
        return
    for other in stage.network.members:
        stage.network.cut(second.name, other)
    stage.in_steps(0.3, _the_first_again, stage, first, second)


def _the_first_again(stage: Stage, first: Member, second: Member) -> None:
    term = max(map(_term, stage.members.values()))
    stage.world.tell("storm", f"lets {first.name} in again, and keeps {second.name} out")
    stage.heal()
    _separate(stage, second)
    stage.as_soon_as(
        lambda: _leads_since(first, term), _the_second_again, stage, first, second, within=4.0, every=_AT_ONCE
    )


def _the_second_again(stage: Stage, first: Member, second: Member) -> None:
    delay = stage.rng.choice([0.05, 0.2, 0.5]) * stage.rng.random()
    stage.in_steps(delay, _separate, stage, first)
    for other in stage.network.members:
        stage.in_steps(delay, stage.network.mend, other, second.name)
        stage.in_steps(delay, stage.network.mend, second.name, other)
    for other in (first.name, second.name):
        stage.in_steps(delay, stage.network.cut, other, (second if other == first.name else first).name)


def _back_with_it(stage: Stage, former: Member) -> None:
    """Let the former leader in again, and keep the present one out."""
    leader = _successor(stage, former)
    stage.heal()
    if leader is not None:
        stage.world.tell("storm", f"lets {former.name} in again, and keeps {leader.name} out")
        _separate(stage, leader)


_COUPS: list[Callable[[Stage, Member], None]] = [
    _it_stands_still,
    _it_stands_still,
    _a_short_reign,
    _a_rival_is_ready,
    _some_are_deaf,
    _some_are_deaf,
    _one_remembers,
    _a_rejection_is_a_promise,
    _answers_come_late,
    _it_is_elected_again,
    _a_longer_log,
    _it_oversleeps,
    _figure_8,
]
"""Two of them twice: what they look for takes the right one of several voters to win."""


def _somebody_else(stage: Stage, leader: Member) -> Member:
    return stage.rng.choice([member for member in stage.members.values() if member is not leader])


def _term(member: Member) -> int:
    return member.replica.raft.current_term if member.replica is not None else 0


def _candidate(stage: Stage, former: Member) -> Member | None:
    """Who has just asked for votes, other than the former leader."""
    for member in stage.members.values():
        if member is not former and member.replica is not None and member.replica.status().role == "candidate":
            return member
    return None


def _leads_since(member: Member, term: int) -> bool:
    """Whether it leads a term later than this one."""
    return member.replica is not None and member.replica.status().role == "leader" and _term(member) > term


def _successor(stage: Stage, former: Member) -> Member | None:
    """Who leads instead of the former leader, and has been heard of already."""
    leader = stage.leader()
    return leader if leader is not former else None


def _separate(stage: Stage, member: Member) -> None:
    """Let nothing pass between the member and the others."""
    for other in stage.network.members:
        stage.network.cut(member.name, other)
        stage.network.cut(other, member.name)


def _stop(stage: Stage, member: Member, steps: float) -> None:
    member.pause()
    stage.in_steps(steps, member.resume)
    _clients_look_elsewhere(stage, member)


def _restart_others(stage: Stage, leader: Member, rival: Member | None = None) -> None:
    share = stage.rng.choice([0.0, 0.5, 1.0, 1.0])
    stage.restart_soon = True
    for member in stage.members.values():
        if member not in (leader, rival) and stage.rng.random() < share:
            member.crash(power_lost=stage.rng.random() < 0.3)
    stage.restart_soon = False
    _clients_look_elsewhere(stage, leader)


def _clients_look_elsewhere(stage: Stage, leader: Member) -> None:
    """Some of the clients try other members from now on; the rest stays with the leader that they know."""
    for client in stage.clients:
        if stage.rng.random() < 0.5:
            client.turn_to(_somebody_else(stage, leader).name)
