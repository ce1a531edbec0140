"""What can be done to a cluster: theory of operation.

A fault is a little script, a generator: it does its harm, yields the seconds to wait, and mends what it did. The
nemesis runs one fault of each *lane* at a time, so a partition and a dead leader may coincide, while no two faults
fight over one process. All faults of a run get their turns evenly: a lane goes through a shuffled list of them, again
and again.

Every fault ends with its own harm mended, and with the nodes that it stopped started again; whether they are well again
is not its business, so that the next fault may come while they still catch up.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import socket
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raftkv import Client, Error
from tests.nemesis import sandbox
from tests.nemesis.network import CUT, WHOLE, Link, Network, Pair, all_pairs, between
from tests.support import strace
from tests.support.processes import Cluster, Node

Script = Generator[float, None, Any]
"""Yields the seconds until it wants to go on. Gives back False if it came to nothing: then it does not count."""

DISK_BYTES: Final = 1 << 30
"""The size of a node's disk in a sandbox. Memory is used for what is written only."""


@dataclass
class Arena:
    """What faults work on."""

    cluster: Cluster
    network: Network
    rng: random.Random
    own_disks: bool
    """Whether each node's data directory is a file system of its own."""
    scratch: Path
    """A directory for what strace writes."""

    @property
    def nodes(self) -> list[Node]:
        return self.cluster.nodes

    def target(self) -> Node:
        """The leader if there is one, else anybody who runs."""
        running = [node for node in self.nodes if node.is_running]
        return self.cluster.find_leader() or self.rng.choice(running or self.nodes)

    def some(self, count: int) -> list[Node]:
        return self.rng.sample(self.nodes, count)

    def groups(self, node: Node) -> tuple[list[int], list[int]]:
        """A minority with this node in it, and the rest."""
        others = [other.id for other in self.nodes if other is not node]
        self.rng.shuffle(others)
        friends = self.rng.randrange((len(self.nodes) + 1) // 2)
        return [node.id, *others[:friends]], others[friends:]

    def hold(self, least: float = 1.5, most: float = 5.0) -> float:
        """Seconds that a fault lasts."""
        return self.rng.uniform(least, most)

    def start(self, nodes: Iterable[Node]) -> None:
        """Start what does not run."""
        for node in nodes:
            if not node.is_running:
                node.start(wait=False)


# ---- processes -------------------------------------------------------------------------------------------------------


def _kill(arena: Arena, victims: list[Node]) -> Script:
    arena.cluster.kill(victims)
    yield arena.hold(0.5, 4.0)
    arena.start(victims)
    yield 0.5


def kill_the_leader(arena: Arena) -> Script:
    return _kill(arena, [arena.target()])


def kill_a_minority(arena: Arena) -> Script:
    return _kill(arena, arena.some((len(arena.nodes) - 1) // 2))


def kill_a_majority(arena: Arena) -> Script:
    return _kill(arena, arena.some(len(arena.nodes) // 2 + 1))


def kill_all(arena: Arena) -> Script:
    return _kill(arena, arena.nodes)


def _pause(arena: Arena, victims: list[Node]) -> Script:
    """For longer than a lease lasts, so that somebody else may lead and serve meanwhile."""
    stopped = [node for node in victims if node.is_running]
    for node in stopped:
        node.pause()
    yield arena.hold(1.5, 4.0)
    for node in stopped:
        node.resume()
    yield 0.5
    return bool(stopped)


def pause_the_leader(arena: Arena) -> Script:
    return _pause(arena, [arena.target()])


def pause_a_majority(arena: Arena) -> Script:
    return _pause(arena, arena.some(len(arena.nodes) // 2 + 1))


def restart_one_after_the_other(arena: Arena) -> Script:
    """As for an upgrade: SIGTERM, and the next one only when this one is ready again."""
    for node in arena.some(len(arena.nodes)):
        if node.is_running:
            node.terminate()
        yield from _until_stopped(node)
        arena.start([node])
        yield from _until_ready(node)


def hand_leadership_over(arena: Arena) -> Script:
    """To anybody, or to somebody in particular, who may be down or cut off; some times in a row."""
    for _ in range(arena.rng.randint(1, 4)):
        target = arena.rng.choice([0, *(node.id for node in arena.nodes)])
        call = arena.cluster.caller(arena.target().address).begin_transfer(target, timeout=3.0)
        while not call.done():
            yield 0.02
        yield arena.hold(0.0, 1.0)


def change_the_membership(arena: Arena) -> Script:
    """A member, the leader perhaps, is removed, loses its disk, and is added again under its old id."""
    node = arena.rng.choice([arena.target(), *arena.nodes])
    with arena.cluster.client(timeout=2.0) as client:
        try:
            client.remove_member(node.id)
        except Error:
            is_removed = False  # perhaps it will be: so it keeps its disk
        else:
            is_removed = True
            yield arena.hold(0.0, 1.0)
            node.kill()
            _empty(node)
            node.joins = True
        while not _is_added(client, node):
            yield 0.2
        arena.start([node])
        yield from _until_ready(node)
        while not node.is_running:  # it has found no leader
            arena.start([node])
            yield from _until_ready(node)
        yield arena.hold(0.5, 2.0)
    return is_removed


def _empty(node: Node) -> None:
    """The directory itself may be where its disk is mounted."""
    for name in os.listdir(node.data_dir):
        (node.data_dir / name).unlink()


def _is_added(client: Client, node: Node) -> bool:
    """Add it; again, if it is not known what came of the last try: who is there already stays as it is."""
    try:
        client.add_member(node.id, node.address)
    except Error:
        return False
    return True


# ---- disks -----------------------------------------------------------------------------------------------------------


def mount_disk(node: Node) -> None:
    """Give the node's data directory a file system of its own, in memory. Only in a sandbox."""
    node.data_dir.mkdir(parents=True)
    sandbox.run("mount", "-t", "tmpfs", "-o", f"mode=700,size={DISK_BYTES}", f"disk-{node.id}", str(node.data_dir))


def _resize_disk(node: Node, size: int) -> None:
    sandbox.run("mount", "-o", f"remount,size={size}", str(node.data_dir))


def _leave_no_room(node: Node) -> None:
    """Make the disk as small as what is on it, or nearly: the node may be writing more."""
    for spare in (0, 1 << 16, 1 << 18, 1 << 20, 1 << 22):
        with contextlib.suppress(RuntimeError):
            _resize_disk(node, shutil.disk_usage(node.data_dir).used + spare)
            return
    raise RuntimeError(f"the disk of {node} can't be made smaller")


def fill_a_disk(arena: Arena) -> Script:
    """No room is left: the node must stop. A start in vain, while the disk is still full, must do no harm either."""
    node = arena.target()
    if not arena.own_disks:
        return (yield from _fail(arena, node, strace.error("ENOSPC", strace.WRITES), strace.WRITES))
    _leave_no_room(node)
    yield from _until_stopped(node)
    has_stopped = not node.is_running
    arena.start([node])
    yield arena.hold(0.5, 2.0)
    _resize_disk(node, DISK_BYTES)
    yield from _stop_if_it_runs(node)
    arena.start([node])
    yield 0.5
    return has_stopped


def fail_a_sync(arena: Arena) -> Script:
    """EIO from fdatasync: what was written may be lost or not; the node must stop, and not try again."""
    return (yield from _fail(arena, arena.target(), strace.error("EIO", strace.SYNCS), strace.SYNCS))


def _fail(arena: Arena, node: Node, injection: str, calls: tuple[str, ...]) -> Script:
    if not node.is_running:
        return False
    with strace.Strace(node.pid, arena.scratch / "trace", injection, trace=calls, options=_on_files_of(node)):
        yield from _until_stopped(node)
    has_stopped = not node.is_running
    yield from _stop_if_it_runs(node)
    arena.start([node])
    yield 0.5
    return has_stopped


def _on_files_of(node: Node) -> list[str]:
    """For strace: only calls on the node's data, not on gRPC's sockets and pipes."""
    return [word for path in sorted(node.data_dir.iterdir()) for word in ("--trace-path", str(path))]


def _until_stopped(node: Node, seconds: float = 6.0) -> Script:
    while node.is_running and seconds > 0:
        yield 0.05
        seconds -= 0.05


def _until_ready(node: Node) -> Script:
    while node.is_running and "ready on" not in node.output:
        yield 0.05
    yield 0.2


def _stop_if_it_runs(node: Node) -> Script:
    """A node that had nothing to write has not met the failure."""
    if node.is_running:
        node.kill()
    yield 0.1


def stall_the_disk_of_the_leader(arena: Arena) -> Script:
    """A sync that does not come back for seconds. Another node should take over."""
    node = arena.target()
    if not node.is_running:
        return False
    with strace.Strace(node.pid, arena.scratch / "trace", strace.delay(3.0)):
        yield arena.hold(2.0, 5.0)
    yield 0.5
    return True


def slow_down_disks(arena: Arena) -> Script:
    """All syncs take some tenths of a second on a majority."""
    with contextlib.ExitStack() as stack:
        for node in arena.some(len(arena.nodes) // 2 + 1):
            if node.is_running:
                injection = strace.delay(arena.rng.uniform(0.05, 0.3))
                stack.enter_context(strace.Strace(node.pid, arena.scratch / f"trace-{node.id}", injection))
        yield arena.hold()


# ---- file descriptors ------------------------------------------------------------------------------------------------


def exhaust_descriptors(arena: Arena) -> Script:
    """The node may open a few more files, and connections take them all, while it has to connect anew itself."""
    node = arena.target()
    if not node.is_running:
        return False
    limits = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    in_use = len(os.listdir(f"/proc/{node.pid}/fd"))
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (in_use + arena.rng.randrange(4), limits[1]))
    host, _, port = node.address.rpartition(":")
    with contextlib.ExitStack() as connections:
        for _ in range(30):
            connection = connections.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex((host, int(port)))
        others = [other.id for other in arena.nodes if other is not node]
        arena.network.reset(between([node.id], others))
        yield arena.hold()
    if node.is_running:
        resource.prlimit(node.pid, resource.RLIMIT_NOFILE, limits)
    arena.start([node])
    yield 0.5
    return True


# ---- the network -----------------------------------------------------------------------------------------------------


def _change(arena: Arena, pairs: list[Pair], link: Link) -> Script:
    arena.network.change(pairs, link)
    yield arena.hold()
    arena.network.change(all_pairs(node.id for node in arena.nodes), WHOLE)
    yield 0.5


def part_the_leader_from_the_majority(arena: Arena) -> Script:
    some, others = arena.groups(arena.target())
    return _change(arena, between(some, others) + between(others, some), CUT)


def silence_the_leader(arena: Arena) -> Script:
    """It hears everybody, and nobody hears it."""
    some, others = arena.groups(arena.target())
    return _change(arena, between(some, others), CUT)


def deafen_the_leader(arena: Arena) -> Script:
    """Everybody hears it, and it hears nobody."""
    some, others = arena.groups(arena.target())
    return _change(arena, between(others, some), CUT)


def cut_at_random(arena: Arena) -> Script:
    """A third of the links, each direction by itself: hazard 43, partial partitions of any shape."""
    pairs = [pair for pair in all_pairs(node.id for node in arena.nodes) if arena.rng.random() < 1 / 3]
    return _change(arena, pairs, CUT)


def ring(arena: Arena) -> Script:
    """Each node reaches its neighbours only."""
    ids = [node.id for node in arena.some(len(arena.nodes))]
    near = {frozenset((a, b)) for a, b in zip(ids, [*ids[1:], ids[0]], strict=True)}
    return _change(arena, [pair for pair in all_pairs(ids) if frozenset(pair) not in near], CUT)


def delay(arena: Arena) -> Script:
    slow = arena.rng.uniform(0.01, 0.15)
    link = Link(delay=slow, jitter=slow)
    return _change(arena, all_pairs(node.id for node in arena.nodes), link)


def lose_packets(arena: Arena) -> Script:
    link = Link(loss=arena.rng.uniform(0.02, 0.2))
    return _change(arena, all_pairs(node.id for node in arena.nodes), link)


def reset_connections(arena: Arena) -> Script:
    for _ in range(arena.rng.randint(1, 5)):
        arena.network.reset(all_pairs(node.id for node in arena.nodes))
        yield arena.hold(0.2, 1.0)


# ---- which there are -------------------------------------------------------------------------------------------------

Fault = Callable[[Arena], Script]

_PROCESS_FAULTS: Final[list[Fault]] = [
    kill_the_leader,
    kill_a_minority,
    kill_a_majority,
    kill_all,
    pause_the_leader,
    pause_a_majority,
    restart_one_after_the_other,
    hand_leadership_over,
    change_the_membership,
    exhaust_descriptors,
]
_STRACE_FAULTS: Final[list[Fault]] = [fail_a_sync, stall_the_disk_of_the_leader, slow_down_disks]
_NETWORK_FAULTS: Final[list[Fault]] = [
    part_the_leader_from_the_majority,
    silence_the_leader,
    deafen_the_leader,
    cut_at_random,
    ring,
    delay,
    reset_connections,
]


def lanes(own_disks: bool, loses_packets: bool) -> tuple[dict[str, list[Fault]], list[str]]:
    """The faults that can be done here, by lane; and one line for each that can't, with the reason."""
    processes, network = list(_PROCESS_FAULTS), list(_NETWORK_FAULTS)
    missing = []
    if reason := strace.why_not():
        missing.append(f"no failing or stalling syncs: {reason}")
    else:
        processes += _STRACE_FAULTS
    if own_disks or not strace.why_not():
        processes.append(fill_a_disk)
    else:
        missing.append("no full disk: it takes a sandbox, or strace")
    if loses_packets:
        network.append(lose_packets)
    else:
        missing.append("no lost packets: a proxy can't lose any")
    return {"processes and disks": processes, "network": network}, missing


def name_of(fault: Fault) -> str:
    return fault.__name__.replace("_", " ")
