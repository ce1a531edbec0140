"""When a member saves its state, and what of its log it then forgets (section 7): theory of operation.

Once the log has grown by enough since the last snapshot, `Snapshots` freezes the state machine and hands a `Save` to
the `Saver`, which writes it elsewhere than in the turn, a piece at a time (`write_snapshot`), and brings back how that
has ended, as an input of the turn. If well, the snapshot is adopted, and the log in front of it forgotten, but for some
that followers may want who are only a little behind. If not, nothing has happened but for a line in the log; it is
tried again later.

At most one save is under way. A snapshot that is installed meanwhile makes it worthless: what it brings back then is
thrown away (hazard 32).

A saved state has been replaced by two things, so two must have grown before the next one is worth its writing: the log
that a restart would have to replay, by a number of bytes or entries; and no less than the size of the last snapshot, so
that a large state is not written over and over again for little.

The logs of all members grow alike, so all would save at the same time, and so often as that clients would wait for all
of them. But what a majority has is committed, and that need not wait for a single one. So a member's first snapshot
comes earlier than the others, after its own part of the growth, and they go on from there one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from raftkv.kv import FrozenState, StateMachine
from raftkv.kv_snapshot import decode, encode, meta_of
from raftkv.log_storage import RESTORE, LogStorage, SnapshotReader, SnapshotWriter, StorageError
from raftkv.raft.configuration import encode_configuration
from raftkv.raft.core import Raft
from raftkv.raft.progress import State
from raftkv.raft.roles import Leader
from raftkv.raft.types import NOBODY, Entry, SnapshotMeta

_MERGED_EACH_ROUND: Final = 50
"""Keys that are merged in any case after a save, in a round that has something to carry out."""
_BYTES_FOR_A_KEY: Final = 128
"""And one more for each write that was applied, or for so many bytes of the log, whichever is more. So a round that has
little to do stays short; and by the time that all is merged, and the state can be saved again, the log has not grown by
much more than the keys themselves take."""
_MERGED_AT_ONCE: Final = 4000
"""When somebody waits for the next snapshot: about a millisecond's work."""
_ENTRY_BYTES: Final = 30
"""What an entry takes in the log besides its payload, roughly."""


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    log_bytes: int = 24 << 20
    """How much the log grows before the state is saved again."""
    log_entries: int = 300_000
    """The same, in entries, whichever comes first: a restart takes some 10 us for each, however small it is."""
    kept_log_bytes: int = 8 << 20
    """Of log that is kept though a snapshot stands for it."""
    retry_after: float = 10.0
    """Seconds from a save that failed to the next one; twice as long after each further failure."""
    longest_retry: float = 600.0


@dataclass(eq=False, slots=True)
class Save:
    """A state that is to be saved."""

    state: FrozenState
    meta: SnapshotMeta
    is_wanted: bool = True
    """False once it is worthless. Written in the turn, read by whoever saves it."""


@dataclass(frozen=True, slots=True)
class SnapshotSaved:
    """The save is durable, and can be adopted."""

    save: Save
    writer: SnapshotWriter


@dataclass(frozen=True, slots=True)
class SnapshotFailed:
    """Nothing has come of the save, and nothing is left of it."""

    save: Save
    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotWanted:
    """Somebody wants a snapshot that is no older than an entry which has been applied."""

    index: int
    answer: Callable[[SnapshotReader | str], None]
    """Takes the snapshot, which is the taker's to close, or why there is none. Called once, in the turn; must not
    block."""


class Saver(Protocol):
    """Works for `Snapshots` elsewhere than in the turn, on one thing after the other."""

    def save(self, save: Save) -> None:
        """Carry out `write_snapshot`, and bring what it returns. Returns at once."""

    def clean(self) -> None:
        """Call `LogStorage.remove_leftovers`. Returns at once."""


def write_snapshot(save: Save, storage: LogStorage) -> Generator[None, None, SnapshotSaved | SnapshotFailed]:
    """Write a snapshot, a piece from one `yield` to the next, each in about a millisecond and what the disk takes."""
    writer: SnapshotWriter | None = None
    try:
        writer = storage.begin_snapshot()
        yield
        for piece in encode(save.state, save.meta.configuration):
            if not save.is_wanted:
                break
            writer.write(piece)
            yield
        else:
            writer.finish()
            return SnapshotSaved(save, writer)
    except StorageError as error:
        reason = _reason(error)
    else:
        reason = "it is not wanted any more"
    if writer is not None:
        writer.discard()
    return SnapshotFailed(save, reason)


def _reason(error: StorageError) -> str:
    """What has happened, without the mend, which is to start the node again: a snapshot that fails costs nothing."""
    return str(error).partition("; ")[0]


def load_snapshot(storage: LogStorage, machine: StateMachine) -> None:
    """Bring a new machine to the state of the storage's snapshot, if there is one. Raises StorageError for damage."""
    if storage.snapshot is None:
        return
    reader = storage.open_snapshot()
    try:
        meta, state = decode(reader)
    finally:
        reader.close()
    if meta != storage.snapshot:
        raise StorageError(f"{reader.name}: holds {meta.last}, where {storage.snapshot.last} belongs; {RESTORE}")
    machine.restore(state)


class Snapshots:
    """The part of a replica that this module is about; every method is called in the turn."""

    def __init__(
        self,
        policy: SnapshotPolicy,
        storage: LogStorage,
        machine: StateMachine,
        raft: Raft,
        saver: Saver | None,
        note: Callable[[str], None],
    ) -> None:
        """Without a `saver` nothing is ever saved."""
        self._policy = policy
        self._storage = storage
        self._machine = machine
        self._raft = raft
        self._saver = saver
        self._note = note
        self._save: Save | None = None
        """Under way."""
        self._bytes = storage.log_bytes(max(storage.first_index(), self._saved_index + 1))
        """How much the log has grown since the last snapshot."""
        self._bytes_saved = 0
        """How much of that the save under way stands for."""
        self._part, self._part_by = 1.0, NOBODY
        """What `_own_part` has found, by that configuration."""
        self._not_before = 0.0
        """When the next save may begin; on the clock of the turn."""
        self._retry_after = policy.retry_after
        self._revision = 0
        """The store's, in the last round of a save or of the merging after it."""
        self._wanted: list[SnapshotWanted] = []
        """Wait for the next snapshot."""

    @property
    def _saved_index(self) -> int:
        return self._storage.snapshot.last.index if self._storage.snapshot else 0

    def after_turn(self, applied: Sequence[Entry], now: float) -> None:
        """These entries have been applied since the last call; begin to save the state if it is time."""
        size = sum(len(entry.payload) for entry in applied) + _ENTRY_BYTES * len(applied)
        self._bytes += size
        self._go_on(size, now)

    def _go_on(self, size: int, now: float) -> None:
        """The log has grown by so many bytes since the last call."""
        if not self._machine.can_freeze:  # a save is under way, or has ended not long ago
            written, self._revision = self._machine.revision - self._revision, self._machine.revision
            at_the_pace = _MERGED_EACH_ROUND + max(written, size // _BYTES_FOR_A_KEY)
            self._machine.merge(_MERGED_AT_ONCE if self._wanted else at_the_pace)
        elif self._saver is not None and (self._wanted or (now >= self._not_before and self._is_due())):
            state = self._machine.freeze()
            configuration = self._raft.log.configurations.at(self._machine.applied_index)
            self._save = Save(state, meta_of(state, encode_configuration(configuration)))
            self._bytes_saved = self._bytes
            self._saver.save(self._save)

    def hurry(self, now: float) -> bool:
        """When there is nothing else to be done: go on for those who wait for a snapshot. Whether that was not all."""
        if not self._wanted or self._save is not None:
            return False
        self._go_on(0, now)
        return self._save is None

    def want(self, wanted: SnapshotWanted) -> None:
        """See to it that there is such a snapshot."""
        if self._saver is None:
            wanted.answer("this member saves no snapshots")
            return
        self._wanted.append(wanted)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give the snapshot to those who have wanted it, or a later one has come about for."""
        ready = [wanted for wanted in self._wanted if wanted.index <= self._saved_index]
        self._wanted = [wanted for wanted in self._wanted if wanted.index > self._saved_index]
        for wanted in ready:
            try:
                answer: SnapshotReader | str = self._storage.open_snapshot()
            except StorageError as error:
                answer = _reason(error)
            wanted.answer(answer)

    def give_up(self, reason: str) -> None:
        """Answer all who wait for a snapshot: there will be none."""
        given_up, self._wanted = self._wanted, []
        for wanted in given_up:
            wanted.answer(reason)

    def _is_due(self) -> bool:
        part = self._own_part() if self._is_in_step() else 1.0
        entries = self._machine.applied_index - self._saved_index
        bytes_wanted = part * max(self._policy.log_bytes, self._storage.snapshot_bytes)
        return entries > 0 and (self._bytes >= bytes_wanted or entries >= part * self._policy.log_entries)

    def _is_in_step(self) -> bool:
        """Whether the log has begun to grow when those of other members have: it is new, or the snapshot theirs. One of
        this member's own has some of the log in front of it."""
        return self._storage.snapshot is None or self._storage.previous() == self._storage.snapshot.last

    def _own_part(self) -> float:
        """1/6, 3/6 and 5/6 for the members of a cluster of three, and so on; 1 for one that is alone. Not thirds: a
        member that is sent a snapshot begins anew where the sender has saved, and would come into step with others."""
        configuration = self._raft.configuration
        if configuration is not self._part_by:
            members = sorted(configuration.members | {self._raft.me})
            self._part = (members.index(self._raft.me) + 0.5) / len(members) if len(members) > 1 else 1.0
            self._part_by = configuration
        return self._part

    def saved(self, result: SnapshotSaved) -> None:
        """A save has ended well."""
        if result.save is not self._save:
            result.writer.discard()
            return
        assert self._saver is not None
        meta = result.save.meta
        self._storage.adopt_snapshot(meta, result.writer, self._keep_from(meta, result.writer.size))
        self._raft.log.configurations.compact(meta.last.index)
        self._end_save()
        self._bytes -= self._bytes_saved
        self._retry_after = self._policy.retry_after
        self._saver.clean()
        saved = f"its state after entry {meta.last.index}, in {self._storage.snapshot_bytes} bytes"
        self._note(f"has saved {saved}; its log begins with entry {self._storage.first_index()}")
        self._hand_out()

    def failed(self, result: SnapshotFailed, now: float) -> None:
        """A save has ended badly."""
        if result.save is not self._save:
            return
        self._end_save()
        self._not_before = now + self._retry_after
        self._note(f"could not save its state ({result.reason}); tries again in {self._retry_after:g} s")
        self._retry_after = min(2 * self._retry_after, self._policy.longest_retry)
        self.give_up(f"the state could not be saved: {result.reason}")

    def installed(self) -> None:
        """A snapshot has been installed, and the machine restored from it: begin anew after it."""
        if self._save is not None:
            self._save.is_wanted = False
            self._save = None
        self._bytes = 0
        if self._saver is not None:
            self._saver.clean()
        self._hand_out()

    def _end_save(self) -> None:
        self._save = None
        self._machine.thaw()

    def _keep_from(self, meta: SnapshotMeta, snapshot_bytes: int) -> int:
        """The first entry of the log that is to be kept beside a snapshot of this size.

        If what followers need while a snapshot is on its way to them were forgotten by then, they would need the next
        snapshot, and so on. But once that is longer than twice the snapshot, to send this once more is cheaper.
        """
        kept_bytes = self._policy.kept_log_bytes
        most_kept = self._storage.tail(max(kept_bytes, 2 * snapshot_bytes))
        return min(self._storage.tail(kept_bytes), max(self._needed_from(), most_kept), meta.last.index + 1)

    def _needed_from(self) -> int:
        """The first entry that followers need who are just being sent entries or a snapshot, as far as this member
        leads and knows. Others, who may be gone for good, hold up nothing."""
        role, next_index = self._raft.role, self._raft.log.last_index + 1
        if not isinstance(role, Leader):
            return next_index
        return min((p.needs_from for p in role.progress.values() if p.state is not State.PROBE), default=next_index)
