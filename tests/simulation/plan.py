"""What a seed decides: theory of operation.

Every seed draws a `Plan` before its run begins: how many members, how each is configured, how fast its clock runs, how
the network and the disks behave, what clients do, and which kinds of faults the storm may choose from. Each kind is in
with some probability only (swarm testing: a run with few kinds of faults gets deeper into what these can do than one in
which everything breaks at once).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from raftkv.operations import TermSettings, encode_settings
from raftkv.raft import core
from raftkv.snapshots import SnapshotPolicy


class Fault(Enum):
    """What may go wrong; the value is its name in the summary."""

    # Of every message of a run that has it
    DROP = "drop messages"
    DUPLICATE = "duplicate messages"
    REORDER = "reorder messages"
    SLOW = "slow links"
    # At moments that the storm chooses
    PARTITION = "partition"
    ONE_WAY = "one-way partition"
    CUT_LINKS = "cut some directions"
    CLOG = "clog a direction"
    REPLAY = "replay old messages"
    CRASH = "crash a process"
    POWER_LOSS = "power loss"
    CRASH_AT_BOUNDARY = "crash at a boundary"
    CRASH_ALL = "crash all"
    CRASH_TWICE = "crash, restart, power loss"
    NEW_LEADER = "trouble for a new leader"
    COUP = "coup"
    TRANSFER = "transfer of leadership"
    PAUSE = "pause a process"
    CLOCK_JUMP = "jump of the wall clock"
    STOP_READER = "stop a thread in a read"
    STALL = "stall of a disk"
    IO_ERROR = "I/O error"
    DISK_FULL = "disk full"
    BIT_FLIP = "bit flip"
    CRASH_IN_SAVE = "crash while a snapshot is saved"
    LEFT_BEHIND = "leave followers behind"
    MEMBERSHIP = "change of the membership"
    LIVES = "lose disks and come back"
    FORMER_DISK = "come back with a former disk"


OF_EVERY_MESSAGE = (Fault.DROP, Fault.DUPLICATE, Fault.REORDER, Fault.SLOW)
OF_THE_STORM = tuple(fault for fault in Fault if fault not in (*OF_EVERY_MESSAGE, Fault.STOP_READER, Fault.NEW_LEADER))
"""The other two happen on their own occasions: a read without the turn, an election."""
OF_SNAPSHOTS = (Fault.CRASH_IN_SAVE, Fault.LEFT_BEHIND)
"""Drawn together with the snapshots, by dice of their own."""
_OF_LIVES = (Fault.MEMBERSHIP, Fault.LIVES, Fault.FORMER_DISK)
_DRAWN = tuple(fault for fault in Fault if fault not in (*OF_SNAPSHOTS, *_OF_LIVES))


EXTRA_TURNS_BELOW: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class ClientPlan:
    name: str
    pace: float
    """Seconds between operations, on average."""
    window: int
    """How many operations may be unanswered."""
    reads: float
    """The fraction of operations that read."""
    bound_to: int
    """The one member that it talks to, whether that leads or not; 0: it follows the leader."""
    has_session: bool
    """If not, it writes in the text form, each write once."""
    patience: float
    """How long it goes on trying to get an operation done, seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    step: float
    """The shortest election timeout, seconds: what all other times are multiples of."""
    configs: dict[int, core.Config]
    """By member."""
    clock_rates: dict[int, float]
    drift_violated: bool
    """Clocks run outside what is assumed of them: reads under a lease may be stale, nothing else may go wrong."""
    faults: frozenset[Fault]
    storm: float
    """How long faults happen, seconds."""
    fault_pace: float
    """Seconds between faults, on average."""
    network_delay: float
    """Up to so many seconds a message takes."""
    sync_time: float
    """Up to so many seconds a sync takes."""
    gather: float
    """How long a member may take to notice an input, seconds: what arrives meanwhile shares its turn."""
    timer_lateness: float
    segment_bytes: int
    fill_bytes: int
    cache_bytes: int
    snapshots: SnapshotPolicy | None
    """None: none are ever saved."""
    save_pace: float
    """Seconds from one piece of a snapshot to the next, on average."""
    chunk_bytes: int
    """Of a snapshot that is sent."""
    settings: TermSettings
    keys: tuple[bytes, ...]
    clients: tuple[ClientPlan, ...]

    extra_turns: bool
    """A member that had work gets another turn, though it does not ask for one, as no real node does. So it was once,
    and seeds below EXTRA_TURNS_BELOW keep the runs that they stand for."""
    founders: int
    """Members 1 to `founders` are there from the start; the others are spares, to be added."""

    @property
    def members(self) -> list[int]:
        """All that may ever belong to the cluster."""
        return sorted(self.configs)

    @property
    def founding_members(self) -> list[int]:
        return list(range(1, self.founders + 1))

    def has(self, fault: Fault) -> bool:
        return fault in self.faults

    def describe(self) -> str:
        """The plan in one line."""
        config = self.configs[1]
        timeouts = "/".join(f"{c.election_timeout:g}" for c in self.configs.values())
        leases = "/".join(f"{c.lease_duration:g}" for c in self.configs.values())
        rates = "/".join(f"{rate:.3f}" for rate in self.clock_rates.values())
        drift = f"{config.clock_drift:g}" + (" VIOLATED" if self.drift_violated else "")
        return (
            f"{self.founders} members{self._describe_spares()}, election timeouts {timeouts} s, heartbeats every "
            f"{config.heartbeat_interval:g} s, leases {leases} s, assumed drift {drift}, clocks {rates}, "
            f"segments of {self.segment_bytes} bytes filled by {self.fill_bytes}, {self._describe_snapshots()}, "
            f"{len(self.clients)} clients, {len(self.keys)} keys; "
            f"faults: {', '.join(fault.value for fault in Fault if fault in self.faults) or 'none'}"
        )

    def _describe_spares(self) -> str:
        spares = len(self.configs) - self.founders
        return f" and {spares} spares" if spares else ""

    def _describe_snapshots(self) -> str:
        policy = self.snapshots
        if policy is None:
            return "no snapshots"
        return f"snapshots every {policy.log_bytes} bytes or {policy.log_entries} entries, {policy.kept_log_bytes} kept"


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    plan = _draw_with_founders(seed)
    plan = _with_lives(_with_spares(plan, random.Random(f"{seed}/membership")), random.Random(f"{seed}/lives"))
    return _with_former_disks(plan, random.Random(f"{seed}/return"))


def _with_former_disks(plan: Plan, rng: random.Random) -> Plan:
    """In a few runs a machine that was given up comes back; by dice of its own. Mostly nothing else happens."""
    if plan.founders < 3 or plan.has(Fault.LIVES) or rng.random() > 0.08:
        return plan
    faults = plan.faults if rng.random() < 0.2 else frozenset[Fault]()
    return replace(plan, faults=faults | {Fault.FORMER_DISK}, storm=max(plan.storm, 50 * plan.step))


def _with_lives(plan: Plan, rng: random.Random) -> Plan:
    """In a few runs members lose their disks again and again; by dice of its own, as below. The play has many acts, so
    mostly little else happens; and they get the log piece by piece."""
    if plan.founders < 3 or rng.random() > 0.1:
        return plan
    few = frozenset(
        rng.sample(sorted(plan.faults, key=lambda fault: fault.value), min(len(plan.faults), rng.choice([0, 1])))
    )
    return replace(
        plan,
        faults=(plan.faults if rng.random() < 0.2 else few) | {Fault.LIVES},
        configs={member: replace(config, max_append_bytes=1) for member, config in plan.configs.items()},
        storm=max(plan.storm, 50 * plan.step),
    )


def _with_spares(plan: Plan, rng: random.Random) -> Plan:
    """In some runs the membership changes; by dice of its own, so that the others stay as they are."""
    if rng.random() > 0.35:
        return plan
    members = range(plan.founders + 1, plan.founders + rng.choice([1, 2, 2, 3]) + 1)
    drift = plan.configs[1].clock_drift
    return replace(
        plan,
        faults=plan.faults | {Fault.MEMBERSHIP},
        configs=plan.configs | {member: plan.configs[rng.randrange(1, plan.founders + 1)] for member in members},
        clock_rates=plan.clock_rates | {member: rng.choice([1 - drift, 1.0, 1 + drift]) for member in members},
    )


def _draw_with_founders(seed: int) -> Plan:
    rng = random.Random(f"{seed}/plan")
    of_coups = rng.random() < 0.35
    members = rng.choice([3, 3, 3, 5, 5, 5] if of_coups else [1, 2, 3, 3, 3, 3, 3, 5, 5, 5, 7])
    faults, fault_pace = _draw_few(rng) if of_coups else _draw_faults(rng)
    snapshots, save_pace, more_faults = _draw_snapshots(random.Random(f"{seed}/snapshots"))
    settings = TermSettings(
        cluster_id=bytes(rng.randrange(256) for _ in range(16)),
        max_sessions=rng.choice([3, 8, 100, 100]),
        session_timeout_ms=rng.choice([400, 2_000, 60_000, 60_000]),
        max_unanswered=rng.choice([2, 4, 1000]),
        max_state_bytes=0 if of_coups else _draw_quota(seed),
    )
    drift = rng.choice([0.0, 0.01, 0.1, 0.1] if of_coups else [0.0, 0.01, 0.01, 0.1])
    drift_violated = rng.random() < 0.1
    step = rng.choice([0.1, 0.2, 0.5, 1.0])
    keys = tuple(b"k%d" % i for i in range(1, rng.choice([2, 3, 4]) + 1))
    return Plan(
        seed=seed,
        step=step,
        configs=_draw_configs(rng, members, step, drift, settings, of_coups),
        clock_rates=_draw_rates(rng, members, 0.4 if drift_violated else drift, of_coups),
        drift_violated=drift_violated,
        faults=faults | more_faults,
        storm=step * (50.0 if of_coups else min(80.0, max(15.0, fault_pace * rng.choice([10, 20, 40])))),
        fault_pace=step * fault_pace,
        network_delay=step * rng.choice([0.01, 0.05, 0.1]),
        sync_time=step * rng.choice([0.0, 0.002, 0.02]),
        gather=step * rng.choice([0.0, 0.0, 0.01, 0.03]),
        timer_lateness=step * rng.choice([0.0, 0.01, 0.1]),
        segment_bytes=min(
            rng.choice([200, 1_000, 4_000, 1 << 20]), 200 if Fault.LEFT_BEHIND in more_faults else 1 << 30
        ),
        fill_bytes=random.Random(f"{seed}/fill").choice([0, 0, 100, 600, 5_000]),
        cache_bytes=rng.choice([0, 1_000, 1 << 20]),
        snapshots=snapshots and replace(snapshots, retry_after=step, longest_retry=4 * step),
        save_pace=step * save_pace,
        chunk_bytes=random.Random(f"{seed}/chunks").choice([40, 150, 600, 1 << 20]),
        settings=settings,
        keys=keys,
        clients=_draw_clients(rng, members, step),
        extra_turns=seed < EXTRA_TURNS_BELOW,
        founders=members,
    )


def _draw_quota(seed: int) -> int:
    """Mostly none; else there is room for one, two or three keys, with values that are not too long."""
    rng = random.Random(f"{seed}/quota")
    return rng.choice([1, 2, 3]) * rng.randrange(166, 172) if rng.random() < 0.2 else 0


def _draw_few(rng: random.Random) -> tuple[frozenset[Fault], float]:
    """Coups or transfers, which take their time, and little else that could disturb them."""
    plays = rng.choice([[Fault.COUP], [Fault.COUP], [Fault.TRANSFER], [Fault.COUP, Fault.TRANSFER]])
    others = [fault for fault in _DRAWN if fault not in (Fault.COUP, Fault.TRANSFER)]
    return frozenset([*plays, *rng.sample(others, rng.choice([0, 1, 2]))]), 0.5


def _draw_faults(rng: random.Random) -> tuple[frozenset[Fault], float]:
    """The faults, and how many steps there are between two. Either a few kinds at leisure, so that each can have its
    effect, or many at once."""
    if rng.random() < 0.5:
        return frozenset(rng.sample(list(_DRAWN), rng.choice([1, 2, 3, 4]))), rng.choice([1.0, 3.0, 5.0])
    density = rng.choice([0.2, 0.5])
    return frozenset(fault for fault in _DRAWN if rng.random() < density), rng.choice([0.2, 0.5, 1.0, 3.0])


def _draw_snapshots(rng: random.Random) -> tuple[SnapshotPolicy | None, float, frozenset[Fault]]:
    """When the state is saved, if ever; how many steps a piece takes; the faults that have to do with it. Logs are
    short here, so what is much must be little, too."""
    leaves_behind = rng.random() < 0.25
    if not leaves_behind and rng.random() < 0.4:
        return None, 0.0, frozenset()
    policy = SnapshotPolicy(
        log_bytes=rng.choice([1, 300, 1_000, 5_000]),
        log_entries=rng.choice([1, 5, 20, 1_000_000]),
        kept_log_bytes=rng.choice([0, 0, 300, 2_000]),
    )
    faults = {Fault.CRASH_IN_SAVE} if rng.random() < 0.4 else set()
    pace = rng.choice([0.001, 0.05, 0.3])
    if leaves_behind:
        faults.add(Fault.LEFT_BEHIND)
        policy = SnapshotPolicy(log_bytes=rng.choice([1, 300]), log_entries=rng.choice([1, 5]), kept_log_bytes=0)
        pace = rng.choice([0.001, 0.01, 0.05])
    return policy, pace, frozenset(faults)


def _draw_configs(
    rng: random.Random, members: int, step: float, drift: float, settings: TermSettings, of_coups: bool
) -> dict[int, core.Config]:
    """`of_coups`: leases are mostly on, and long or short, since it is these that coups are about."""
    lease = rng.choice([0.5, 0.8, 2.0, 3.0, 5.0] if of_coups else [0.0, 0.5, 0.8, 1.5, 2.0, 3.0])
    leases_differ = rng.random() < (0.6 if of_coups else 0.4)
    timeouts_differ = rng.random() < (0.1 if of_coups else 0.3)
    max_append_bytes = rng.choice([1, 1, 100, 1 << 20])
    max_in_flight = rng.choice([1, 2, 2, 8])
    max_apply_bytes = rng.choice([1, 200, 1 << 20])
    configs = {}
    for member in range(1, members + 1):
        own_lease = rng.choice([0.3, 5.0] if of_coups else [0.0, 0.3, 0.8, 2.0, 5.0]) if leases_differ else lease
        configs[member] = core.Config(
            election_timeout=step * (rng.choice([1, 1, 2, 3]) if timeouts_differ else 1),
            heartbeat_interval=step / rng.choice([3, 5]),
            lease_duration=step * own_lease,
            clock_drift=drift,
            max_append_bytes=max_append_bytes,
            max_appends_in_flight=max_in_flight,
            max_apply_bytes=max_apply_bytes,
            term_settings=encode_settings(settings),
        )
    return configs


def _draw_rates(rng: random.Random, members: int, drift: float, of_coups: bool) -> dict[int, float]:
    """`of_coups`: often one clock is as slow as can be and all others as fast, which is the worst for a lease."""
    slow = rng.randrange(1, members + 1) if of_coups and rng.random() < 0.5 else 0
    if slow:
        return {m: 1 - drift if m == slow else 1 + drift for m in range(1, members + 1)}
    return {
        m: rng.choice([1 - drift, 1 + drift, 1.0, 1 - drift + 2 * drift * rng.random()]) for m in range(1, members + 1)
    }


def _draw_clients(rng: random.Random, members: int, step: float) -> tuple[ClientPlan, ...]:
    pace = step * rng.choice([0.05, 0.2, 0.5])
    return tuple(
        ClientPlan(
            name=f"c{number}",
            pace=pace,
            window=rng.choice([1, 1, 3, 6]),
            reads=rng.choice([0.2, 0.5, 1.0]) if number > 1 else 0.3,
            bound_to=rng.randrange(1, members + 1) if number > 1 and rng.random() < 0.3 else 0,
            has_session=number == 1 or rng.random() < 0.7,
            patience=step * rng.choice([2, 6, 20]),
        )
        for number in range(1, rng.choice([2, 3, 4, 5]) + 1)
    )
