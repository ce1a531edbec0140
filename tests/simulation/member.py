"""A member as a process on a machine: theory of operation.

The machine is a disk, a clock and a place in the network; it outlives the process. Each life of the process is a real
`Storage`, a real `StateMachine` and a real `Replica`, driven as `RaftNode` drives them: inputs wait in an inbox until
the next turn, the timer wakes it at the deadline, calls to a stopped process wait for it to go on.

Storage, state machine and replica are watched by subclasses, which tell the checks what happens and pass *boundaries*:
every change of the disk, every message, answer and applied entry. At each of them the process can be made to crash.

A turn happens at one moment; if it has kept the disk busy, what it sends leaves later, and the next turn waits. A
thread that reads without the turn may be anywhere meanwhile: so such reads are also tried in the middle of turns, at
a boundary, and some are stopped between their two looks at the lease while the world goes on.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

from raftkv.log_storage import StorageError
from raftkv.raft.configuration import Change
from raftkv.raft.log import InvariantBroken
from raftkv.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    Request,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
    TimeoutNowReply,
)
from raftkv.raft.roles import NAMES
from raftkv.raft.types import Configuration, Proposal
from raftkv.replica import (
    ConfigurationChange,
    Input,
    NotLeader,
    NotTransferred,
    Outcome,
    Query,
    Served,
    Status,
    TransferOutcome,
    Transferred,
    TransferRequest,
    Unknown,
    Unreachable,
    Write,
)
from raftkv.snapshots import SnapshotPolicy, load_snapshot
from tests.simulation.calls import WITHOUT_TURN, Answer, Call, Get, describe
from tests.simulation.checks import Checks
from tests.simulation.disk import Boundary, Crashed, SimulatedDisk
from tests.simulation.network import Network, Packet
from tests.simulation.plan import Fault, Plan
from tests.simulation.saver import SimulatedSaver
from tests.simulation.snapshot_streams import SnapshotPacket, SnapshotStreams
from tests.simulation.watched import WatchedCaller, WatchedMachine, WatchedReplica, WatchedStorage
from tests.simulation.world import Clock, Violation, World
from tests.support.memory_disk import _Directory


class State(Enum):
    DOWN = "down"
    RUNNING = "running"
    PAUSED = "paused"


@dataclass(slots=True)
class Trap:
    """Where the process is going to crash."""

    boundary: Boundary
    countdown: int
    """How many of these boundaries it passes before."""
    power_lost: bool
    in_the_middle: bool = False
    """Of a write."""
    file: str = ""
    """What the name of the file contains."""
    then: Trap | None = None
    """For the next life."""


@dataclass(eq=False, slots=True)
class _OperatorsRequest:
    """A change of the membership that is asked for."""

    waiting: list[_OperatorsRequest]
    answered: Callable[[Outcome], None]

    def is_wanted(self) -> bool:
        return True

    def answer(self, outcome: Outcome) -> None:
        if self not in self.waiting:
            raise Violation("an operator is answered twice")
        self.waiting.remove(self)
        self.answered(outcome)


class _ReaderDied(BaseException):
    """The process ended while one of its threads stood still in a read."""


class Member:
    def __init__(self, world: World, network: Network, checks: Checks, plan: Plan, member_id: int) -> None:
        self.id = member_id
        self.name = f"n{member_id}"
        self.config = plan.configs[member_id]
        self.state = State.DOWN
        self.trap: Trap | None = None
        self._streams = 0
        """How many it has begun in all its lives."""
        self.trap_in_adoption: Trap | None = None
        """The trap that takes effect when a snapshot is adopted."""
        self.stops_readers = plan.has(Fault.STOP_READER)
        self.joins = member_id not in plan.founding_members
        """It is to find out from its log who the members are."""
        self.is_wanted = not self.joins
        """If not, it is off."""
        self.disk_number = 0
        """Which of its disks it has."""
        self._shelf: dict[int, tuple[_Directory, bool]] = {}
        """Of its other disks: what is on them, and whether who has it joins."""
        self._looks_again = False
        """It has not found its place in the cluster, and will look for it once more."""
        self.has_refused = False
        """The last start did not end well, since the data is damaged."""
        self.ended: Callable[[Member], None] = lambda member: None
        """Is called when the process has ended, however that came."""
        self._world = world
        self._network = network
        self.checks = checks
        self._plan = plan
        self._rng = world.random(self.name)
        self._saver_rng = world.random(f"{self.name}/saver")
        self.disk = SimulatedDisk(world.random(f"{self.name}/disk"), self.cross, self._spend)
        self.disk.sync_time = plan.sync_time
        self.clock = Clock(world, plan.clock_rates[member_id], start=1000.0 * self._rng.random())
        checks.watch(member_id, self.clock)
        self._life = 0
        self._left_unsynced = False
        """The last crash was of the process alone, and left data in the page cache for the next one to find."""
        network.receive[self.name] = self._receive
        network.lost[self.name] = self._lost
        self._begin_life()

    def _begin_life(self) -> None:
        self._life += 1
        self.replica: WatchedReplica | None = None
        self._storage: WatchedStorage | None = None
        self._snapshots: SnapshotStreams | None = None
        self._crash: Crashed | None = None
        self._inbox: list[Input] = []
        self._stopped: list[tuple[str, Packet]] = []
        """What arrived while the process stood still."""
        self._readers: list[WatchedCaller] = []
        """Reads without the turn whose threads have not got to it yet."""
        self._wake_at = 0.0
        self._busy_until = 0.0
        self._latency = 0.0
        """For how long the turn under way has kept the disk busy."""
        self._next_call = 1
        self._unanswered: dict[int, Message] = {}
        """Requests of peers, by call."""
        self._changes: list[_OperatorsRequest] = []
        """Of the membership, that are not answered yet."""
        self._callers: dict[WatchedCaller, None] = {}
        """Clients that wait; in order of arrival."""
        self._transfers = 0
        """Unanswered wishes for another leader."""
        self._in_turn = False
        self._may_stop_reader = False

    @property
    def is_up(self) -> bool:
        return self.state is not State.DOWN

    @property
    def is_receiving(self) -> bool:
        """Some of a snapshot is coming in."""
        return self._snapshots is not None and self._snapshots.is_receiving

    @property
    def has_callers(self) -> bool:
        """Some client's call, or a wish for another leader, has not been answered."""
        return bool(self._callers) or self._transfers > 0

    # ---- lives -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process, if it does not run."""
        if self.is_up or not self.is_wanted:
            return
        if not self._finds_its_place():
            self._look_again()
            return
        self._begin_life()
        self.disk.has_failed = self.has_refused = False
        self.state = State.RUNNING
        with self._survived("does not start"):
            self._recover()
            self._schedule(self._world.now)

    def switch_on(self) -> None:
        """Switch the machine on: from now on the process is started whenever it has ended."""
        self.is_wanted = True
        self.start()

    def switch_off(self, power_lost: bool) -> None:
        """Switch the machine off: nobody starts the process until it is switched on."""
        self.is_wanted = False
        self.crash(power_lost)

    def _finds_its_place(self) -> bool:
        """Whether it has one, in its directory or by what has been committed (raftkv/joining.py)."""
        has_directory = self.has_data and "identity" in self.disk.files(self.disk.directory)
        return not self.joins or has_directory or self.id in self.checks.configuration.members

    def _look_again(self) -> None:
        if not self._looks_again:
            self._looks_again = True
            self._world.after(self._plan.step, self._start_again)

    def _start_again(self) -> None:
        self._looks_again = False
        self.start()

    def _recover(self) -> None:
        world, plan = self._world, self._plan
        founders = None if self.joins else {member: f"n{member}" for member in plan.founding_members}
        sizes = plan.segment_bytes, plan.fill_bytes, plan.cache_bytes
        joined = dict(self.checks.configuration.joined).get(self.id, 0)
        storage = self._storage = WatchedStorage(self, founders, joined, *sizes)
        if self.disk.is_damaged:
            raise Violation(f"{self.name} has started on damaged data")
        for note in storage.notes:
            world.count("storage", "torn tails cut")
            self._note(note)
        self.checks.recovered(self.id, storage)
        self._snapshots = SnapshotStreams(self, storage, plan.step, plan.save_pace, plan.chunk_bytes)
        machine = WatchedMachine(self)
        if storage.snapshot is not None:
            load_snapshot(storage, machine)
            world.count("storage", "restarts from a snapshot")
        for entry in storage.replay():
            machine.apply(entry)
        if world.is_traced:
            hard_state = storage.hard_state
            self._note(
                f"starts, life {self._life}: term {hard_state.term}, voted for {hard_state.voted_for}, log to "
                f"{storage.last_index()}, applied to {machine.applied_index}"
            )
        self.replica = WatchedReplica(
            Configuration(frozenset(storage.identity.members)),
            self.id,
            self.config,
            storage,
            machine,
            world.random(f"{self.name}/life {self._life}"),
            self.clock.read(),
            self._send,
            self._note,
            plan.snapshots or SnapshotPolicy(),
            SimulatedSaver(self, storage, plan.save_pace) if plan.snapshots else None,
        )
        self.checks.started(self.id, self.replica)

    def later(self, pace: float, action: Callable[[], None]) -> None:
        """Have a thread of this life do something, `pace` seconds from now on average, unless the process stands
        still."""
        self._world.after(2 * pace * self._saver_rng.random(), self._do_later, self._life, action)

    def _do_later(self, life: int, action: Callable[[], None]) -> None:
        if life == self._life and self.state is State.PAUSED:
            self._world.after(self._plan.step, self._do_later, life, action)
        elif life == self._life and self.is_up:
            action()

    def status(self) -> Status:
        assert self.replica is not None
        return self.replica.status()

    def leads(self, term: int) -> bool:
        """Whether it leads that term, now."""
        assert self.replica is not None
        raft = self.replica.raft
        return raft.current_term == term and raft.leader_id == self.id

    def count(self, table: str, row: str) -> None:
        """Note for the summary, and the story, that something has been done."""
        self._world.count(table, row)
        self._world.tell(self.name, f"{table}: {row}")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let something happen outside of the turn, in which no failure of the disk is a reason to give up."""
        excuse, latency = self.disk.has_failed, self._latency
        with self._survived("dies while it saves"):
            yield
        if self.is_up:
            self.disk.has_failed, self._latency = excuse, latency

    @contextmanager
    def _survived(self, what: str) -> Iterator[None]:
        """Let the process end of what it dies of, and nothing else."""
        try:
            yield
        except Crashed as crash:
            self._world.count("crashes at", str(crash))
            self._end(f"crashes at: {crash}", crash.power_lost)
        except StorageError as error:
            if not self.disk.has_failed and not self.disk.is_damaged:
                raise Violation(f"{self.name} gives up without a reason: {error}") from None
            self.has_refused = self.disk.is_damaged
            self._world.count("storage", "refused to start" if self.has_refused else "stopped by an error of the disk")
            self._end(f"{what}: {error}", power_lost=False)
        except InvariantBroken as error:
            raise Violation(f"{self.name} finds its own invariant broken: {error}") from error
        except Violation:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rsplit('/', 1)[-1]}, {where.name}"
            raise Violation(f"{self.name} dies of {type(error).__name__} in {place}: {error}") from error

    @property
    def has_data(self) -> bool:
        """It has been started before, with the disk that it has."""
        return not self.disk.is_empty

    def wipe(self) -> None:
        """Give it an empty disk. It is off, and is another member from now on."""
        assert not self.is_up
        self._shelf[self.disk_number] = self.disk.exchange(), self.joins
        self.joins = True
        self.disk_number = self.checks.wiped(self.id)
        self._world.count("membership", "wiped disks")
        self._forget_the_other_disk()

    def put_in_disk(self, number: int) -> None:
        """Give it another of its disks. It is off."""
        assert not self.is_up
        content, joins = self._shelf.pop(number)
        self._shelf[self.disk_number] = self.disk.exchange(content), self.joins
        self.joins, self.disk_number = joins, number
        self.checks.exchanged(self.id, number)
        self._forget_the_other_disk()
        self._lose_power()  # it was taken out some time

    def put_in_its_disk(self) -> None:
        """Give it the one with which it belongs to the cluster."""
        number = self.checks.disk_of(self.id)
        if number != self.disk_number:
            self.crash(power_lost=False)
            self.put_in_disk(number)

    def _forget_the_other_disk(self) -> None:
        self.trap = self.trap_in_adoption = None
        self._left_unsynced = self.has_refused = False

    def change_configuration(self, change: Change, answered: Callable[[Outcome], None]) -> None:
        """Ask for a change of the membership. `answered` is called once, also if the process ends first."""
        if self.state is not State.RUNNING:
            answered(NotLeader(0))
            return
        request = _OperatorsRequest(self._changes, answered)
        self._changes.append(request)
        self.bring(ConfigurationChange(change, request))

    def crash(self, power_lost: bool) -> None:
        """End the process, or the machine, between two turns."""
        self.trap = None
        if self.is_up:
            self._end("crashes", power_lost)
        elif power_lost:
            self._lose_power()

    def _end(self, how: str, power_lost: bool) -> None:
        self._note(how + (", power lost" if power_lost else ""))
        self._world.count("crashes", "power lost" if power_lost else "process")
        self.state = State.DOWN
        callers, changes = list(self._callers), list(self._changes)
        self.checks.ended(self.id)
        self._begin_life()
        for change in changes:
            change.answer(Unknown("the process has ended"))
        self.disk.crash_process()
        if not power_lost:
            self._left_unsynced = bool(self.disk.unsynced())
        for caller in callers:
            if self._rng.random() < 0.5:  # the client notices that the connection is gone
                self._world.after(self._plan.network_delay, self._network.lost[caller.client], self.name, caller.call)
        if power_lost:
            self._lose_power()
        self.ended(self)

    def _lose_power(self) -> None:
        if self.disk.unsynced():
            self._world.count("crashes", "power lost with unsynced data")
        if self._left_unsynced:
            self._world.count("crashes", "power lost after a process that left data unsynced")
        self._left_unsynced = False
        self.disk.lose_power(self._rng)
        self.clock.reboot()

    def pause(self) -> None:
        """Stop the process where it is, as SIGSTOP does."""
        if self.state is State.RUNNING:
            self.state = State.PAUSED
            self._note("stands still")

    def resume(self) -> None:
        """Let it go on. Its clock has gone on all the time."""
        if self.state is State.PAUSED:
            self.state = State.RUNNING
            self._note("goes on")
            arrived, self._stopped = self._stopped, []
            for source, packet in arrived:
                self._receive(source, packet)
            if self.is_up:
                self._schedule(self._world.now)

    # ---- the turn ----------------------------------------------------------------------------------------------------

    def _schedule(self, time: float) -> None:
        """See to it that there is a turn at `time`, or as soon as the disk is free."""
        self._wake_at = max(time, self._busy_until)
        self._world.at(self._wake_at, self._wake, self._life, self._wake_at)

    def _wake(self, life: int, wake_at: float) -> None:
        if self.state is State.RUNNING and life == self._life and wake_at == self._wake_at:
            with self._survived("stops"):
                self._turn()
        else:
            self._world.nothing_happened()

    def _turn(self) -> None:
        assert self.replica is not None
        world = self._world
        inputs, self._inbox = self._inbox, []
        self._latency = 0.0
        self._in_turn = True
        more = self.replica.turn(inputs, self.clock.read())
        self.checks.after_turn(self.id)
        assert self._snapshots is not None
        self._snapshots.committed(self.replica.raft.committed_index)
        self._remember_cluster()
        self._let_readers_go()
        self._in_turn = False
        self._busy_until = world.now + self._latency
        if more or (self._plan.extra_turns and self.replica.had_work) or self._inbox:
            self._schedule(world.now)
            return
        if self._unanswered:
            raise Violation(f"{self.name} does not reply to {describe(next(iter(self._unanswered.values())))}")
        lateness = self._plan.timer_lateness * self._rng.random()
        self._schedule(self.clock.true_time(self.replica.deadline()) + lateness)

    def _remember_cluster(self) -> None:
        assert self.replica is not None
        assert self._storage is not None
        cluster_id = self.replica.machine.cluster_id
        if cluster_id and not self._storage.identity.cluster_id:
            self._storage.remember_cluster(cluster_id)

    def _spend(self, seconds: float) -> None:
        self._latency += seconds

    def cross(self, boundary: Boundary, file: str = "") -> None:
        """Pass a boundary, and crash if this is where the process is to crash. Threads in a read run on meanwhile."""
        if self._crash is not None:
            raise self._crash  # a dead process does nothing any more
        if self._readers and self._in_turn and self._rng.random() < 0.5:
            self._let_readers_go()
        trap = self.trap
        if trap is None or trap.boundary is not boundary or trap.file not in file:
            return
        trap.countdown -= 1
        if trap.countdown < 0:
            self.trap = trap.then
            self._crash = Crashed(boundary.value, trap.power_lost, trap.in_the_middle)
            raise self._crash

    # ---- what arrives ------------------------------------------------------------------------------------------------

    def _receive(self, source: str, packet: Packet) -> bool:
        if self.state is State.DOWN:
            return False
        if self.state is State.PAUSED:
            self._stopped.append((source, packet))
            return True
        if self._world.is_traced:
            self._world.tell(f"{source}>{self.name}", describe(packet))
        if isinstance(packet, Call):
            with self._survived("stops"):
                self._take_call(WatchedCaller(self, source, packet))
        elif isinstance(packet, SnapshotPacket):
            assert self._snapshots is not None
            self._snapshots.receive(source, packet)
        elif isinstance(packet, Request):
            self.bring_request(packet)
        else:
            self.bring(packet)
        return True

    def bring_request(self, request: Request, pack: Callable[[Any], Input] = lambda request: request) -> int:
        """Hand in a peer's request, to which there must be a reply; `pack` makes the input of it. The number of the
        call."""
        call, self._next_call = self._next_call, self._next_call + 1
        self._unanswered[call] = request
        self.bring(pack(replace(request, call=call)))
        return call

    def _lost(self, target: str, packet: Packet) -> None:
        """A packet of ours did not arrive. A failed call is noticed, a lost answer is not."""
        if isinstance(packet, SnapshotPacket) and self._snapshots is not None and self.state is State.RUNNING:
            self._snapshots.lost(packet)
        elif self.state is State.RUNNING and isinstance(packet, Request):
            self.bring(Unreachable(packet.recipient))

    def bring(self, item: Input) -> None:
        self._inbox.append(item)
        soon = self._world.now + self._plan.gather * self._rng.random()
        if max(soon, self._busy_until) < self._wake_at:
            self._schedule(soon)

    def _take_call(self, caller: WatchedCaller) -> None:
        self._callers[caller] = None
        request = caller.call.request
        if isinstance(request, Proposal):
            self.bring(Write(request, caller))
        elif not isinstance(request, Get):
            self.bring(Query(request, caller))
        elif self._rng.random() < 0.3:
            self._readers.append(caller)  # its thread gets to it in the middle of a turn
            self._bring_nothing()
        else:
            self._read(caller)

    def _bring_nothing(self) -> None:
        """Make sure that there is a turn before long."""
        soon = self._world.now + self._plan.step * 0.1
        if soon < self._wake_at:
            self._schedule(soon)

    # ---- reads without the turn --------------------------------------------------------------------------------------

    def _let_readers_go(self) -> None:
        readers, self._readers = self._readers, []
        for caller in readers:
            self._read(caller)

    def _read(self, caller: WatchedCaller) -> None:
        """What the service does with a read of one key, in a thread of its own."""
        assert self.replica is not None
        request = caller.call.request
        assert isinstance(request, Get)
        stoppable = self.stops_readers and not self._in_turn and not self._world.is_nested
        self._may_stop_reader = stoppable
        try:
            found = self.replica.read_under_lease([request.key], self.clock.read)
        except _ReaderDied:
            return
        finally:
            self._may_stop_reader = False
        if found is not None:
            caller.path = WITHOUT_TURN
            caller.answer(Served(found.values()[0]))
        else:
            self.bring(Query(lambda machine: machine.get(request.key), caller))

    def look(self) -> None:
        """A thread looks something up in the state machine: it may stand still here for any length of time."""
        if not self._may_stop_reader or self._rng.random() > 0.15:
            return
        self._may_stop_reader = False
        self._world.count("faults", Fault.STOP_READER.value)
        self._note("a thread stands still in a read")
        life = self._life
        if self._rng.random() < 0.8:
            self.pause()  # with all the others
        self._world.run_nested(self._world.now + self._plan.step * (1 + 4 * self._rng.random()))
        if life == self._life:
            self.resume()
        if life != self._life:
            raise _ReaderDied
        self._note("the thread goes on")

    def hand_over(self, target: int) -> None:
        """Ask the process to have `target` lead instead of it, 0: anybody. It hears of that when it goes on."""
        if self.is_up:
            self._world.count("transfers", "asked for")
            self._transfers += 1
            self.bring(TransferRequest(target, partial(self._transfer_ended, self._life, target)))

    def _transfer_ended(self, life: int, target: int, outcome: TransferOutcome) -> None:
        assert life == self._life
        self._transfers -= 1
        if self._transfers < 0:
            raise Violation(f"{self.name} answers twice that it was to hand over")
        match outcome:
            case Transferred():
                row = "done" if target in (0, outcome.leader_id) else "somebody else leads"
            case NotTransferred(was_refused=False):
                row = "given up"
            case NotTransferred():
                row = "refused: " + re.sub(r"\d+", "N", outcome.reason)
            case _:
                row = "refused: it does not lead"
        self._world.count("transfers", row)
        self._note(f"asked to hand over: {row}")

    # ---- what leaves -------------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        self.cross(Boundary.MESSAGE)
        message = self._named(message)
        self.checks.sending(self.id, message)
        if not isinstance(message, Request) and self._unanswered.pop(message.call, None) is None:
            raise Violation(f"{self.name} replies to a call that is not waiting: {describe(message)}")
        assert self.replica is not None
        self._world.count("messages", f"{_kind(message)} by a {NAMES[type(self.replica.raft.role)]}")
        assert self._snapshots is not None
        if isinstance(message, InstallSnapshot):
            self._snapshots.send(message)
        elif isinstance(message, InstallSnapshotReply):
            self._network.send(self.name, *self._snapshots.answer(message), self._latency)
        else:
            self._network.send(self.name, f"n{message.recipient}", message, self._latency)

    def _named(self, message: Message) -> Message:
        """What it says, with the name of the disk on which that rests."""
        assert self._storage is not None
        if isinstance(message, AppendEntriesReply | RequestVoteReply | InstallSnapshotReply):
            return replace(message, incarnation=self._storage.identity.incarnation)
        return message

    def post(self, target: str, packet: SnapshotPacket) -> None:
        """Send a packet of a stream."""
        self._network.send(self.name, target, packet, self._latency if self._in_turn else 0.0)

    def new_stream(self) -> int:
        """A number that no other stream has, of whatever member or life."""
        self._streams += 1
        return self.id + 10 * self._streams

    def answer(self, caller: WatchedCaller, outcome: Outcome) -> None:
        """A caller has been answered."""
        self.cross(Boundary.ANSWER)
        if caller not in self._callers:
            raise Violation(f"{self.name} answers twice: {describe(caller.call)}")
        del self._callers[caller]
        path = caller.path if isinstance(outcome, Served) else ""
        self._network.send(self.name, caller.client, Answer(caller.call.number, outcome, path), self._latency)

    def _note(self, text: str) -> None:
        self._world.tell(self.name, text)


def _kind(message: Message) -> str:
    match message:
        case AppendEntries():
            return "AppendEntries with entries" if message.entries else "AppendEntries, empty"
        case AppendEntriesReply():
            return "AppendEntriesReply, success" if message.success else "AppendEntriesReply, rejection"
        case RequestVote():
            return "RequestVote, pre-vote" if message.pre_vote else "RequestVote"
        case InstallSnapshot():
            return "InstallSnapshot"
        case InstallSnapshotReply():
            return "InstallSnapshotReply"
        case TimeoutNow():
            return "TimeoutNow"
        case TimeoutNowReply():
            return f"TimeoutNowReply, {'accepted' if message.accepted else 'refused'}"
        case _:
            kind = "pre-vote " if message.pre_vote else ""
            return f"RequestVoteReply, {kind}{'granted' if message.granted else 'refused'}"
