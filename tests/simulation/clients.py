"""Clients as the client library behaves: theory of operation.

A client has a number of operations under way. Writes go out in batches with a session's sequence numbers; what is not
answered in time goes out again, with the same number, at another member, in whatever batch comes next, while the first
try may still arrive. An operation that a client gives up stays *unknown*, unless no try of it can have been carried
out. Some clients have no session and send each write once, as text; some talk to one member only.

Everything goes into a history, which is judged at the end of the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from raftkv.operations import Batch, Code, Operation, Result, Status, encode_batch, format_text
from raftkv.raft.types import EntryKind, Proposal
from raftkv.replica import Applied, NotLeader, Outcome, Served
from tests.linearizability import history
from tests.linearizability.history import Kind, Recorder
from tests.simulation.calls import Answer, Call, Get, GetAll, describe
from tests.simulation.network import Network, Packet
from tests.simulation.plan import ClientPlan, Plan
from tests.simulation.world import Violation, World

_CODES = {
    Kind.SET: Code.SET,
    Kind.DELETE: Code.DELETE,
    Kind.SET_IF_ABSENT: Code.SET_IF_ABSENT,
    Kind.COMPARE_AND_SET: Code.COMPARE_AND_SET,
}


@dataclass(eq=False, slots=True)
class Task:
    """What the client's user asked for, and waits for."""

    kind: Kind
    records: dict[bytes, history.Call]
    """By key; more than one for a read of several keys at once."""
    deadline: float
    value: bytes = b""
    expected: bytes = b""
    session: int = 0
    sequence: int = 0
    """Stays with the write through all its tries."""
    tries: int = 0
    """Calls out that may yet carry it out."""
    in_doubt: bool = False
    """A try that may have been carried out, or may be yet, has not been answered."""
    is_open: bool = True

    @property
    def key(self) -> bytes:
        return next(iter(self.records))


@dataclass(eq=False, slots=True)
class _Try:
    """A call that is out."""

    number: int
    member: str
    tasks: list[Task] = field(default_factory=list)
    """Empty: it opens a session."""
    is_late: bool = False
    """It has been given up, but its answer may still come."""


class Client:
    def __init__(self, world: World, network: Network, plan: Plan, own: ClientPlan, recorder: Recorder) -> None:
        self.plan = own
        self._world = world
        self._network = network
        self._run = plan
        self._rng = world.random(own.name)
        self._recorder = recorder
        self._session = 0
        self._opening = False
        self._next_sequence = 1
        self._next_call = 1
        self._waiting: list[Task] = []
        """To be sent."""
        self._open: list[Task] = []
        """Not answered: waiting, or in a call."""
        self._tries: dict[int, _Try] = {}
        self._quiet_until = 0.0
        self._values = 0
        self._seen: dict[bytes, bytes | None] = {}
        """What was last read of a key, or written to it."""
        self._finale: list[tuple[Kind, bytes]] | None = None
        """What is left to do at the end; None: it has not come."""
        self._member = self._any_member()
        self._step = plan.step
        network.receive[own.name] = self._receive
        network.lost[own.name] = self._lost
        world.after(own.pace * self._rng.random(), self._go_on)

    @property
    def is_done(self) -> bool:
        """After `finish`: whether everything has been answered."""
        return self.left == 0

    @property
    def left(self) -> int:
        """After `finish`: how many operations are to be begun, or have not been answered."""
        return len(self._finale or []) + len(self._open)

    def finish(self) -> None:
        """Start nothing new, but write and read every key once more."""
        self._finale = [(Kind.SET, key) for key in self._run.keys] + [(Kind.GET, key) for key in self._run.keys]
        self._member = self._any_member()

    def be_quiet(self, seconds: float) -> None:
        """Begin no write for a while."""
        self._quiet_until = self._world.now + seconds

    def turn_to(self, member: str) -> None:
        """Talk to this member from now on, unless it is bound to one."""
        if not self.plan.bound_to:
            self._member = member

    # ---- operations --------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Think of something to do."""
        if self._finale is None:
            if len(self._open) < self.plan.window:
                self._start(*self._invent())
            self._world.after(self.plan.pace * 2 * self._rng.random(), self._go_on)
        else:
            if self._finale and len(self._open) < self.plan.window:
                self._start(*self._finale.pop(0))
            if self._finale or self._open:
                self._world.after(self._step * 0.05, self._go_on)

    def _invent(self) -> tuple[Kind, bytes]:
        rng = self._rng
        key = rng.choice(self._run.keys)
        if rng.random() < self.plan.reads or self._world.now < self._quiet_until:
            return Kind.GET, key
        return rng.choice([Kind.SET, Kind.SET, Kind.DELETE, Kind.SET_IF_ABSENT, Kind.COMPARE_AND_SET]), key

    def _start(self, kind: Kind, key: bytes) -> None:
        keys = self._run.keys if kind is Kind.GET and self._finale is None and self._rng.random() < 0.1 else (key,)
        value = expected = b""
        if kind not in (Kind.GET, Kind.DELETE):
            self._values += 1
            value = b"%s.%d" % (self.plan.name.encode(), self._values)
        if kind is Kind.COMPARE_AND_SET:
            expected = self._seen.get(key) or b"nothing"
        records = {key: self._recorder.invoke(self.plan.name, kind, key, value, expected) for key in keys}
        patience = self._step * 1000 if self._finale is not None else self.plan.patience
        task = Task(kind, records, self._world.now + patience, value, expected)
        self._open.append(task)
        self._waiting.append(task)
        self._world.at(task.deadline, self._give_up, task)
        self._send_waiting()

    def _give_up(self, task: Task) -> None:
        if not task.is_open:
            self._world.nothing_happened()
            return
        self._close(task)
        for record in task.records.values():
            if task.in_doubt or task.tries:
                record.unknown("gave up")
            else:
                record.not_applied("gave up")
        self._world.count("client outcomes", "unknown" if task.in_doubt or task.tries else "not applied")

    def _close(self, task: Task) -> None:
        task.is_open = False
        self._open.remove(task)
        if task in self._waiting:
            self._waiting.remove(task)

    def _settle(self, task: Task, result: bytes | bool | None) -> None:
        """It has been carried out, with this result."""
        if task.is_open:
            self._close(task)
            task.records[task.key].returned(result)
            self._seen[task.key] = task.value
            self._world.count("client outcomes", "answered")

    # ---- sending -----------------------------------------------------------------------------------------------------

    def _send_waiting(self) -> None:
        """Send what waits, as far as it can be sent: reads one by one, writes in batches."""
        for task in [task for task in self._waiting if task.kind is Kind.GET]:
            self._call(Get(task.key) if len(task.records) == 1 else GetAll(tuple(task.records)), [task])
        if not self.plan.has_session:
            for task in list(self._waiting):
                text = format_text(Operation(_CODES[task.kind], task.key, task.value, task.expected))
                self._call(Proposal(EntryKind.TEXT, text.encode()), [task])
        elif self._waiting and not self._number_waiting():
            self._open_session()
        while self._waiting and self._waiting[0].session:
            self._send_batch()

    def _number_waiting(self) -> bool:
        """Give writes their sequence numbers; whether there is a session for that."""
        for task in self._waiting:
            if not task.session and self._session:
                task.session, task.sequence = self._session, self._next_sequence
                self._next_sequence += 1
        return all(task.session for task in self._waiting)

    def _send_batch(self) -> None:
        """Some of what waits, in any order: they are all concurrent."""
        session = self._waiting[0].session
        tasks = [task for task in self._waiting if task.session == session][: self._rng.randrange(1, 5)]
        self._rng.shuffle(tasks)
        operations = [Operation(_CODES[t.kind], t.key, t.value, t.expected, t.sequence) for t in tasks]
        unanswered = [task.sequence for task in self._open if task.session == session]
        batch = Batch(operations, session, min(unanswered))
        self._call(Proposal(EntryKind.BATCH, encode_batch(batch)), tasks)

    def _open_session(self) -> None:
        if not self._opening:
            self._opening = True
            self._call(Proposal(EntryKind.BATCH, encode_batch(Batch([Operation(Code.OPEN_SESSION)]))), [])

    def _close_session(self) -> None:
        """Close the session, and never ask whether it worked."""
        closing = Operation(Code.CLOSE_SESSION, sequence=self._next_sequence)
        batch = Batch([closing], self._session, self._next_sequence)
        self._session, self._next_sequence = 0, 1
        self._call(Proposal(EntryKind.BATCH, encode_batch(batch)), [], forget=True)

    def _call(self, request: Proposal | Get | GetAll, tasks: list[Task], forget: bool = False) -> None:
        number = self._next_call
        self._next_call += 1
        if not forget:
            self._tries[number] = _Try(number, self._member, tasks)
            # Who asks for a value may well wait long for it: so it gets to see an answer that was long on its way.
            steps = self._rng.choice([1, 8] if isinstance(request, Get) else [0.5, 1, 3])
            patience = self._step * steps * (0.5 + self._rng.random())
            self._world.after(patience, self._time_out, number)
        for task in tasks:
            task.tries += 1
            self._waiting.remove(task)
        self._network.send(self.plan.name, self._member, Call(number, request))

    # ---- answers -----------------------------------------------------------------------------------------------------

    def _receive(self, source: str, packet: Packet) -> bool:
        assert isinstance(packet, Answer)
        if self._world.is_traced:
            self._world.tell(f"{source}>{self.plan.name}", describe(packet))
        attempt = self._tries.pop(packet.number, None)
        if attempt is not None:
            self._take(attempt, packet.outcome, packet.path)
        return True

    def _lost(self, target: str, packet: Packet) -> None:
        """The connection broke: the call may have arrived."""
        assert isinstance(packet, Call)
        self._time_out(packet.number)

    def _time_out(self, number: int) -> None:
        attempt = self._tries.get(number)
        if attempt is None or attempt.is_late:
            self._world.nothing_happened()
            return
        attempt.is_late = True  # its answer is welcome all the same
        self._try_elsewhere(attempt.member)
        self._doubt(attempt)

    def _doubt(self, attempt: _Try) -> None:
        """Nobody knows what became of this try."""
        if not attempt.tasks:
            self._opening = False
        for task in attempt.tasks:
            task.in_doubt = task.in_doubt or task.kind is not Kind.GET
            if not task.is_open:
                continue
            if task.kind is Kind.GET or self.plan.has_session:
                self._again(task)
            else:
                self._give_up_text(task)
        self._retry_soon()

    def _give_up_text(self, task: Task) -> None:
        """Without a session a second try might be carried out twice."""
        self._close(task)
        task.records[task.key].unknown("no answer")
        self._world.count("client outcomes", "unknown")

    def _again(self, task: Task) -> None:
        if task.is_open and task not in self._waiting:
            self._waiting.append(task)
            self._world.count("clients", "retries")

    def _take(self, attempt: _Try, outcome: Outcome, path: str) -> None:
        for task in attempt.tasks:
            task.tries -= 1
        pause = 0.1
        match outcome:
            case Applied():
                if attempt.tasks:
                    for task, result in zip(attempt.tasks, outcome.results, strict=True):
                        self._take_result(task, result)
                else:
                    self._opening = False
                    self._session, self._next_sequence = outcome.results[0].value, 1
            case Served():
                self._take_value(attempt.tasks[0], outcome.value, path)
            case NotLeader():
                if not attempt.is_late:
                    self._opening = self._opening and bool(attempt.tasks)
                    self._try_elsewhere(attempt.member, outcome.leader_id)
                    pause = 0.05 if outcome.leader_id else 0.5
                    for task in attempt.tasks:
                        self._again(task)
            case _:
                if not attempt.is_late:
                    self._try_elsewhere(attempt.member)
                    self._doubt(attempt)
                return
        if not self._open and self._session and self._finale is None and self._rng.random() < 0.03:
            self._close_session()
        self._retry_soon(pause)

    def _take_result(self, task: Task, result: Result) -> None:
        match result.status:
            case Status.DONE | Status.NOT_DONE:
                done = result.status is Status.DONE
                self._settle(task, None if task.kind is Kind.SET else done)
            case Status.SESSION_UNKNOWN:
                if self._session == task.session:
                    self._session = 0
                self._refused(task, "the session is unknown")
            case Status.NO_SPACE:  # definite: had another try been carried out, its answer would have been kept
                self._settle_not_applied(task, "no space")
            case Status.TOO_MANY_UNANSWERED:
                self._refused(task, "too many unanswered")
            case Status.SEQUENCE_STALE if not task.is_open:
                pass  # given up, so the mark has passed it
            case _:
                raise Violation(f"{self.plan.name} was told {result.status.name} of {task.value!r}")

    def _refused(self, task: Task, why: str) -> None:
        """This try was not carried out; another may have been."""
        if task.is_open:
            self._close(task)
            (record,) = task.records.values()
            if task.in_doubt or task.tries:
                record.unknown(why)
            else:
                record.not_applied(why)
            self._world.count("client outcomes", why)

    def _settle_not_applied(self, task: Task, why: str) -> None:
        if task.is_open:
            self._close(task)
            (record,) = task.records.values()
            record.not_applied(why)
            self._world.count("client outcomes", why)

    def _take_value(self, task: Task, value: bytes | dict[bytes, bytes | None] | None, path: str) -> None:
        self._world.count("reads", path)
        if not task.is_open:
            return
        self._close(task)
        self._world.count("client outcomes", "answered")
        values = value if isinstance(value, dict) else {task.key: value}
        self._seen.update(values)
        for key, record in task.records.items():
            if self._run.drift_violated and "lease" in path:
                record.unknown("clocks that break the assumption: may be stale")
            else:
                record.returned(values[key])

    # ---- members -----------------------------------------------------------------------------------------------------

    def _try_elsewhere(self, tried: str, leader_id: int = 0) -> None:
        """Talk to the leader that was named, else to anybody."""
        if self._member == tried and (not self.plan.bound_to or self._finale is not None):
            self._member = f"n{leader_id}" if leader_id else self._rng.choice(self._network.members)

    def _any_member(self) -> str:
        if self.plan.bound_to and self._finale is None:
            return f"n{self.plan.bound_to}"
        return self._rng.choice(self._network.members)

    def _retry_soon(self, pause: float = 0.1) -> None:
        if self._waiting:
            self._world.after(self._step * pause * self._rng.random(), self._send_waiting)


def all_done(clients: Iterable[Client]) -> bool:
    """Whether all of them have done the last thing they had to do."""
    return all(client.is_done for client in clients)
