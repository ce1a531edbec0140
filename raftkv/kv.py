"""The state machine: an in-memory dict of keys, and the sessions of clients: theory of operation.

`apply` is a function of the state and the entry alone, so that all members that have applied the same log are equal,
byte for byte: `digest()` says whether they are. Time is the log's (`Entry.time_ms`), limits are the log's (a leader's
NO-OP carries them), ids come from positions in the log, and nothing depends on a hash's order. It is also *total*: an
entry that nobody can decode gets an error result and changes nothing, for if it raised, every member would fail at it
at every start.

Sessions (dissertation, 6.3) make a retry harmless. The session keeps the answer of every operation, by sequence
number, until the client says (`Batch.lowest_unanswered`) that it has it. So a retry is answered from what was kept,
whatever batch it comes in and whatever came between. A session that is not known any more is refused outright: that
its operations were applied before can no longer be told. Sessions stand in the order of their last use, oldest first;
log time never goes back, so those that have expired are always at the front, and so is the one to evict when there
are too many.

A busy client's batches have hundreds of numbers, nearly always in a row and all new, and nearly all answers are DONE.
So this is looked at once for a batch, not for each operation, and answers in a row that are DONE are kept as a range.
All else goes one by one, with the same outcome.

The state has a limit in bytes (`state_bytes`, TermSettings.max_state_bytes). What would make it grow beyond gets an
answer of its own, NO_SPACE, and changes nothing; what frees space, or needs no more, goes on as ever. In a session that
answer is kept as any other: a write that was refused once stays refused, whatever its repetition might find room for.

Whoever holds the turn applies, and reads all but single keys. `get` and `record` look up an immutable value in at most
two dicts, and so may be called from any thread at any time.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple

from raftkv.operations import (
    Code,
    Fields,
    Malformed,
    Operation,
    Result,
    Status,
    TermSettings,
    decode_fields,
    decode_settings,
    parse_text,
)
from raftkv.raft.types import Entry, EntryKind
from raftkv.records import SLOT_SHIFT, Layers, Records

BEFORE_SETTINGS: Final = TermSettings(cluster_id=b"", max_sessions=0, session_timeout_ms=0, max_unanswered=0)
"""What holds until the log's first settings: a session opened by then is evicted at once. Part of the replicated
state's definition, as the format of the log is: never to be changed."""

_POSITIONS_PER_ENTRY: Final = 1 << 16
"""A session's id is its entry's index times this, plus its position in the batch: unique, and still a u64 at index
2**48."""

_DONE: Final = Result(Status.DONE)
_NOT_DONE: Final = Result(Status.NOT_DONE)
_MALFORMED: Final = Result(Status.MALFORMED)
_SESSION_UNKNOWN: Final = Result(Status.SESSION_UNKNOWN)
_SEQUENCE_STALE: Final = Result(Status.SEQUENCE_STALE)
_TOO_MANY_UNANSWERED: Final = Result(Status.TOO_MANY_UNANSWERED)
_NO_SPACE: Final = Result(Status.NO_SPACE)

KEY_OVERHEAD_BYTES: Final = 160
"""What a key counts in `state_bytes` besides itself and its value: about as much as it takes of a node's memory. Part
of the replicated state's definition: never to be changed."""

# A record is one bytes object, the revisions followed by the value: a quarter less memory than an object with four
# fields (280 MB against 360 for a million keys of 16 bytes with values of 100), and none of the collector's business,
# whose full passes over a million objects would stop the node for 200 ms each.
_REVISIONS: Final = struct.Struct("<QQQ")
_pack_revisions: Final = _REVISIONS.pack
_unpack_revisions: Final = _REVISIONS.unpack_from
# Bare numbers: a comparison with a member of an Enum takes as long as finding a key.
_SET: Final = int(Code.SET)
_DELETE: Final = int(Code.DELETE)
_OPEN_SESSION: Final = int(Code.OPEN_SESSION)
_CLOSE_SESSION: Final = int(Code.CLOSE_SESSION)
_NO_LIMIT: Final = 1 << 64
"""On the bytes of the state: more than settings can say."""


class Record(NamedTuple):
    """What is known of a key. The revisions are etcd's."""

    value: bytes
    create_revision: int
    """The store's revision just after the key came into being."""
    mod_revision: int
    """The store's revision just after the key was last written."""
    version: int
    """Counts the writes since the key came into being, that one included."""


@dataclass(slots=True)
class Session:
    """What must be remembered of a client so that its retries are not applied again."""

    last_active_ms: int
    """Log time of its last batch."""
    lowest_unanswered: int = 1
    """Answers below are forgotten. Only grows."""
    answers: dict[int, Result] = field(default_factory=dict)
    """By sequence number, but for those in `done`."""
    done: range = range(0)
    """Numbers in a row whose answer is DONE: the last such row."""

    def copy(self) -> Session:
        return Session(self.last_active_ms, self.lowest_unanswered, self.answers.copy(), self.done)

    def answer(self, sequence: int) -> Result | None:
        """To an operation that has been applied; None if there is none with this number, or it is forgotten."""
        return _DONE if sequence in self.done else self.answers.get(sequence)

    def all_answers(self) -> dict[int, Result]:
        """By sequence number: all there is to know of the answers, however they are kept."""
        return {**dict.fromkeys(self.done, _DONE), **self.answers}

    def has_none_of(self, numbers: range) -> bool:
        """Whether the numbers are behind the last row, and none has an answer."""
        return numbers.start >= self.done.stop and (not self.answers or self.answers.keys().isdisjoint(numbers))

    def keep(self, numbers: range, results: list[Result]) -> None:
        """Keep the answers to operations with these numbers, of which there has been none."""
        if results.count(_DONE) != len(results):
            self.answers.update(zip(numbers, results, strict=True))
        elif numbers.start == self.done.stop:
            self.done = range(self.done.start, numbers.stop)
        else:
            self.answers.update(dict.fromkeys(self.done, _DONE))
            self.done = numbers

    def forget_below(self, lowest_unanswered: int) -> None:
        """Drop the answers that the client has. Costs no more than there are answers, however far the mark jumps."""
        grown_by = lowest_unanswered - self.lowest_unanswered
        if grown_by <= 0:
            return
        if self.done.start < lowest_unanswered:
            self.done = range(lowest_unanswered, self.done.stop)
        if grown_by <= len(self.answers):
            for sequence in range(self.lowest_unanswered, lowest_unanswered):
                self.answers.pop(sequence, None)
        elif self.answers:
            self.answers = {s: answer for s, answer in self.answers.items() if s >= lowest_unanswered}
        self.lowest_unanswered = lowest_unanswered


@dataclass(frozen=True, slots=True)
class FrozenState:
    """The whole replicated state at one moment: what a snapshot holds. Nothing in it changes any more."""

    applied_index: int
    applied_term: int
    time_ms: int
    revision: int
    cluster_id: bytes
    settings: TermSettings
    state_bytes: int
    records: Records
    sessions: Sequence[tuple[int, Session]]
    """(id, session) in the order of their last use."""


def count_state_bytes(count: int, size: int) -> int:
    """What so many records count in `StateMachine.state_bytes`; they and their keys have `size` bytes together."""
    return size + count * (KEY_OVERHEAD_BYTES - _REVISIONS.size)


MAX_READ_BYTES: Final = 8 << 20
"""Of the values that one read of many keys gives."""


class Found(NamedTuple):
    """What there was of some keys, as the state machine has it: a value takes no memory until it is copied, and may be
    too large for that just now."""

    records: list[bytes | None]
    """A key's revisions and value; None where there is no such key."""
    size: int
    """Bytes of the values."""

    def values(self) -> list[bytes | None]:
        """Copies of the values; None for a key that does not exist."""
        begin = _REVISIONS.size
        return [None if record is None else record[begin:] for record in self.records]


def keys_with_prefix(keys: Iterable[bytes], prefix: bytes) -> list[bytes]:
    """Those of the keys that begin with `prefix`, sorted."""
    return sorted(key for key in keys if key.startswith(prefix))


class StateMachine:
    """Keys and sessions, as the log up to `applied_index` leaves them."""

    def __init__(self) -> None:
        self.applied_index = 0
        self.applied_term = 0
        self.revision = 0
        """Counts the operations that have changed the store."""
        self.cluster_id = b""
        """From the first settings in the log; b"" until then."""
        self.state_bytes = 0
        """Of keys and values, and KEY_OVERHEAD_BYTES for each key."""
        self._time_ms = 0
        self._settings = BEFORE_SETTINGS
        self._records = Layers(Records())
        self._key_count = 0
        self._all_keys: tuple[bytes, ...] = ()
        self._all_keys_at = 0
        """The revision of the copy that `all_keys` made last. No part of the replicated state."""
        self._sessions: OrderedDict[int, Session] = OrderedDict()

    def __len__(self) -> int:
        """How many keys there are."""
        return self._key_count

    @property
    def max_state_bytes(self) -> int:
        """What `state_bytes` may not grow beyond; 0: without limit."""
        return self._settings.max_state_bytes

    def has_room_for(self, operation: Operation) -> bool:
        """Whether an operation would not be answered with NO_SPACE just now, as far as that can be said without
        carrying it out. From any thread."""
        if operation.code not in (Code.SET, Code.SET_IF_ABSENT):
            return True
        old = self._records.get(operation.key)
        if old is not None and operation.code is Code.SET_IF_ABSENT:
            return True
        growth = _growth(operation.key, operation.value, old)
        return growth <= 0 or self.state_bytes + growth <= self._limit

    @property
    def _limit(self) -> int:
        return self._settings.max_state_bytes or _NO_LIMIT

    def get(self, key: bytes) -> bytes | None:
        """The key's value, None if there is no such key. Safe from any thread."""
        record = self.find(key)
        return None if record is None else record[_REVISIONS.size :]

    def find(self, key: bytes) -> bytes | None:
        """The key's revisions and value as they are kept, not copied; None if there is no such key. From any thread."""
        return self._records.get(key)

    def find_each(self, keys: Iterable[bytes]) -> Found:
        """What the keys have; of the first ones only, but at least one that exists, if the values have more than
        MAX_READ_BYTES together. Copies none. Safe from any thread, and then no picture of one moment."""
        records: list[bytes | None] = []
        size = 0
        find, overhead = self.find, _REVISIONS.size
        for key in keys:
            record = find(key)
            if record is not None:
                length = len(record) - overhead
                if size and size + length > MAX_READ_BYTES:
                    break
                size += length
            records.append(record)
        return Found(records, size)

    def record(self, key: bytes) -> Record | None:
        """The key's value and revisions, None if there is no such key. Safe from any thread."""
        record = self._records.get(key)
        return None if record is None else Record(record[_REVISIONS.size :], *_REVISIONS.unpack_from(record))

    def all_keys(self) -> tuple[bytes, ...]:
        """All keys, in no order to rely on. Takes the turn, but not for long: readers between two changes share one
        copy, and search it elsewhere (`keys_with_prefix`)."""
        if self._all_keys_at != self.revision:
            self._all_keys_at, self._all_keys = self.revision, self._records.keys()
        return self._all_keys

    def apply(self, entry: Entry) -> list[Result]:
        """Apply the log's next entry: the results of its operations, in order. A NO-OP has none.

        Raises nothing, whatever the payload; entries out of order are the caller's bug (AssertionError).
        """
        assert entry.index == self.applied_index + 1, f"entry {entry.index} after {self.applied_index}"
        assert entry.term >= self.applied_term, f"term {entry.term} after {self.applied_term}"
        self._time_ms = max(self._time_ms, entry.time_ms)
        if entry.kind is EntryKind.NO_OP:
            self._adopt_settings(entry.payload)
        self._drop_sessions()
        results = self._apply_operations(entry)
        # Last: whoever reads without the turn and finds this index must find all of its effects too.
        self.applied_term = entry.term
        self.applied_index = entry.index
        return results

    # ---- snapshots ---------------------------------------------------------------------------------------------------

    @property
    def can_freeze(self) -> bool:
        """Whether all that came of the last time has been merged."""
        return self._records.is_merged

    def freeze(self) -> FrozenState:
        """The state as it is now, which can be read elsewhere until `thaw`. Takes no longer for many keys; sessions are
        copied, and bounded in number."""
        sessions = [(key, session.copy()) for key, session in self._sessions.items()]
        return FrozenState(
            self.applied_index,
            self.applied_term,
            self._time_ms,
            self.revision,
            self.cluster_id,
            self._settings,
            self.state_bytes,
            self._records.freeze(),
            sessions,
        )

    def thaw(self) -> None:
        """Nobody reads the frozen state any more."""
        self._records.thaw()

    def merge(self, count: int) -> None:
        """After `thaw`: go on towards the next `freeze`, by so many of the keys that were written since the last."""
        self._records.merge(count)

    def restore(self, state: FrozenState) -> None:
        """Become what was frozen, elsewhere or long ago. `state` belongs to this machine from now on."""
        self._records = Layers(state.records)
        self._key_count, self.state_bytes = len(state.records), state.state_bytes
        self._sessions = OrderedDict(state.sessions)
        self._time_ms, self._settings, self.cluster_id = state.time_ms, state.settings, state.cluster_id
        self.revision = state.revision
        self._all_keys, self._all_keys_at = (), -1
        self.applied_term = state.applied_term
        self.applied_index = state.applied_index

    def digest(self) -> bytes:
        """16 bytes that are equal exactly if the whole replicated state is. Reads all of it; takes the turn."""
        hasher = blake2b(digest_size=16)
        for part in self._canonical_form():
            hasher.update(repr(part).encode())
        return hasher.digest()

    def _canonical_form(self) -> Iterator[tuple[object, ...]]:
        limits = self._settings
        yield self.applied_index, self.applied_term, self.revision, self.cluster_id, self._time_ms
        yield limits.max_sessions, limits.session_timeout_ms, limits.max_unanswered
        if limits.max_state_bytes:  # where there is none, the digest is that of earlier versions
            yield limits.max_state_bytes, self.state_bytes
        yield self._key_count, len(self._sessions)
        yield from sorted(self._records.items())
        for session_id, session in self._sessions.items():
            answers = [(sequence, int(a.status), a.value) for sequence, a in sorted(session.all_answers().items())]
            yield session_id, session.last_active_ms, session.lowest_unanswered, answers

    def _adopt_settings(self, payload: bytes) -> None:
        try:
            self._settings = decode_settings(payload)
        except Malformed:
            return  # a plain NO-OP has no payload
        self.cluster_id = self.cluster_id or self._settings.cluster_id

    def _drop_sessions(self) -> None:
        """End what has expired, and what is too many. The oldest are at the front."""
        sessions, limits = self._sessions, self._settings
        while sessions:
            idle_ms = self._time_ms - next(iter(sessions.values())).last_active_ms
            if idle_ms <= limits.session_timeout_ms and len(sessions) <= limits.max_sessions:
                return
            sessions.popitem(last=False)

    def _apply_operations(self, entry: Entry) -> list[Result]:
        try:
            match entry.kind:
                case EntryKind.BATCH:
                    session, lowest_unanswered, codes, operations = decode_fields(entry.payload)
                case EntryKind.TEXT:
                    return self._execute([parse_text(entry.payload.decode())])
                case EntryKind.NO_OP | EntryKind.CONFIGURATION:
                    return []
        except (Malformed, UnicodeDecodeError):
            return [_MALFORMED]
        if session:
            return self._apply_in_session(session, lowest_unanswered, codes, operations)
        if _OPEN_SESSION not in codes:
            return self._execute(operations)
        return [
            self._open_session(entry.index, position)
            if operation[0] == _OPEN_SESSION
            else self._execute([operation])[0]
            for position, operation in enumerate(operations)
        ]

    def _open_session(self, index: int, position: int) -> Result:
        if position >= _POSITIONS_PER_ENTRY:
            return _MALFORMED
        session_id = index * _POSITIONS_PER_ENTRY + position
        self._sessions[session_id] = Session(last_active_ms=self._time_ms)
        self._drop_sessions()
        return Result(Status.DONE, session_id)

    def _apply_in_session(
        self, session_id: int, lowest_unanswered: int, codes: bytes, operations: list[Fields]
    ) -> list[Result]:
        """Apply each operation that has not been applied before; answer the others as they were then."""
        session = self._sessions.get(session_id)
        if session is None:
            return [_SESSION_UNKNOWN] * len(operations)
        self._sessions.move_to_end(session_id)
        session.last_active_ms = self._time_ms
        session.forget_below(lowest_unanswered)
        lowest_unanswered = session.lowest_unanswered
        # A window, not a count: the lowest one must always get in, or the mark could never move again.
        end = lowest_unanswered + self._settings.max_unanswered
        row = _numbers_in_a_row(operations)
        are_new = lowest_unanswered <= row.start and row.stop <= end and session.has_none_of(row)
        if are_new and _CLOSE_SESSION not in codes:
            # As nearly always: what is done below for each of them is done at once for all.
            results = self._execute(operations)
            session.keep(row, results)
            return results
        results = []
        for operation in operations:
            code, sequence = operation[0], operation[4]
            answer = session.answer(sequence)
            if answer is None:
                if code == _CLOSE_SESSION:
                    del self._sessions[session_id]
                    return [*results, _DONE] + [_SESSION_UNKNOWN] * (len(operations) - len(results) - 1)
                if sequence < lowest_unanswered:
                    answer = _SEQUENCE_STALE
                elif sequence >= end:
                    answer = _TOO_MANY_UNANSWERED
                else:
                    [answer] = self._execute([operation])
                    session.answers[sequence] = answer
            results.append(answer)
        return results

    def _execute(self, operations: Iterable[Fields]) -> list[Result]:
        """Carry out operations on the keys, one after the other.

        Every write passes here on every member. So the sums are in local variables until the end; and `Layers.get` and
        `_growth` are spelt out, but for what is rare."""
        records, limit = self._records, self._limit
        on_top, below, is_merged, shift = records.on_top, records.below.slots, records.is_merged, SLOT_SHIFT
        half_merged = records.half_merged
        revision, state_bytes, key_count = self.revision, self.state_bytes, self._key_count
        results: list[Result] = []
        append = results.append
        for code, key, value, expected, _ in operations:
            slot = hash(key) >> shift
            part = on_top[slot]
            old = part.get(key)
            if not is_merged:
                old = below[slot].get(key) if old is None else old or None
            if code != _SET:
                answer = _judge(code, old, expected)
                if answer is not _DONE:
                    append(answer)
                    continue
                if code == _DELETE:
                    assert old is not None, "or there is nothing to delete"
                    state_bytes -= _growth(key, old[_REVISIONS.size :], None)
                    revision += 1
                    key_count -= 1
                    records.delete(key)
                    append(_DONE)
                    continue
            if old is None:
                grown = state_bytes + len(key) + len(value) + KEY_OVERHEAD_BYTES
                if grown > limit:
                    append(_NO_SPACE)
                    continue
                revision += 1
                key_count += 1
                record = _pack_revisions(revision, revision, 1) + value
            else:
                grown = state_bytes + len(value) + _REVISIONS.size - len(old)
                if state_bytes < grown > limit:
                    append(_NO_SPACE)
                    continue
                revision += 1
                created, _, version = _unpack_revisions(old)
                record = _pack_revisions(created, revision, version + 1) + value
            state_bytes = grown
            part[key] = record
            if part is half_merged:
                below[slot][key] = record
            append(_DONE)
        self.revision, self.state_bytes, self._key_count = revision, state_bytes, key_count
        return results


def _growth(key: bytes, value: bytes, old: bytes | None) -> int:
    """By how much `state_bytes` grows if the key, whose record is `old`, gets this value."""
    if old is None:
        return len(key) + len(value) + KEY_OVERHEAD_BYTES
    return len(value) + _REVISIONS.size - len(old)


def _judge(code: int, old: bytes | None, expected: bytes) -> Result:
    """DONE if an operation other than SET is to be carried out on a key with this record, else its answer."""
    if code == Code.DELETE:
        holds = old is not None
    elif code == Code.SET_IF_ABSENT:
        holds = old is None
    elif code == Code.COMPARE_AND_SET:
        holds = old is not None and old[_REVISIONS.size :] == expected
    else:
        return _MALFORMED  # a session is opened outside of sessions, and closed from within
    return _DONE if holds else _NOT_DONE


def _numbers_in_a_row(operations: list[Fields]) -> range:
    """The sequence numbers of operations that follow one another; empty if they don't."""
    numbers = [operation[4] for operation in operations]
    row = range(numbers[0], numbers[0] + len(numbers)) if numbers else range(0)
    return row if numbers == [*row] else range(0)
