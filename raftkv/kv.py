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

Whoever holds the turn applies, and reads all but single keys. `get` and `record` are one dict lookup of an immutable
value each, and so may be called from any thread at any time.
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
    Result,
    Status,
    TermSettings,
    decode_fields,
    decode_settings,
    parse_text,
)
from raftkv.raft.types import Entry, EntryKind

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

# A record is one bytes object, the revisions followed by the value: a quarter less memory than an object with four
# fields (280 MB against 360 for a million keys of 16 bytes with values of 100), and none of the collector's business,
# whose full passes over a million objects would stop the node for 200 ms each.
_REVISIONS: Final = struct.Struct("<QQQ")
_pack_revisions: Final = _REVISIONS.pack
_unpack_revisions: Final = _REVISIONS.unpack_from
_SET: Final = Code.SET
"""These three by a short way: every write takes it on every member."""


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
    """By sequence number."""

    def forget_below(self, lowest_unanswered: int) -> None:
        """Drop the answers that the client has. Costs no more than there are answers, however far the mark jumps."""
        grown_by = lowest_unanswered - self.lowest_unanswered
        if grown_by <= 0:
            return
        if grown_by <= len(self.answers):
            for sequence in range(self.lowest_unanswered, lowest_unanswered):
                self.answers.pop(sequence, None)
        else:
            self.answers = {s: answer for s, answer in self.answers.items() if s >= lowest_unanswered}
        self.lowest_unanswered = lowest_unanswered


MAX_READ_BYTES: Final = 8 << 20
"""Of the values that one read of many keys gives."""


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
        self._time_ms = 0
        self._settings = BEFORE_SETTINGS
        self._records: dict[bytes, bytes] = {}
        self._all_keys: tuple[bytes, ...] = ()
        self._all_keys_at = 0
        """The revision of the copy that `all_keys` made last. No part of the replicated state."""
        self._sessions: OrderedDict[int, Session] = OrderedDict()

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._records)

    def get(self, key: bytes) -> bytes | None:
        """The key's value, None if there is no such key. Safe from any thread."""
        record = self._records.get(key)
        return None if record is None else record[_REVISIONS.size :]

    def get_each(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The values of the keys, each as `get` gives it; of the first ones only, but at least one that exists, if they
        have more than MAX_READ_BYTES together. Safe from any thread, and then no picture of one moment."""
        values: list[bytes | None] = []
        size = 0
        get = self.get
        for key in keys:
            value = get(key)
            if value is not None:
                size += len(value)
                if size > MAX_READ_BYTES and size > len(value):
                    break
            values.append(value)
        return values

    def record(self, key: bytes) -> Record | None:
        """The key's value and revisions, None if there is no such key. Safe from any thread."""
        record = self._records.get(key)
        return None if record is None else Record(record[_REVISIONS.size :], *_REVISIONS.unpack_from(record))

    def all_keys(self) -> tuple[bytes, ...]:
        """All keys, in no order to rely on. Takes the turn, but not for long: readers between two changes share one
        copy, and search it elsewhere (`keys_with_prefix`)."""
        if self._all_keys_at != self.revision:
            self._all_keys_at, self._all_keys = self.revision, tuple(self._records)
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
        yield len(self._records), len(self._sessions)
        yield from sorted(self._records.items())
        for session_id, session in self._sessions.items():
            answers = [(sequence, int(a.status), a.value) for sequence, a in sorted(session.answers.items())]
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
                    session, lowest_unanswered, operations = decode_fields(entry.payload)
                case EntryKind.TEXT:
                    session, lowest_unanswered, operations = 0, 0, [parse_text(entry.payload.decode())]
                case EntryKind.NO_OP:
                    return []
        except (Malformed, UnicodeDecodeError):
            return [_MALFORMED]
        if session:
            return self._apply_in_session(session, lowest_unanswered, operations)
        return [
            self._execute(code, key, value, expected)
            if code is not Code.OPEN_SESSION
            else self._open_session(entry.index, position)
            for position, (code, key, value, expected, _) in enumerate(operations)
        ]

    def _open_session(self, index: int, position: int) -> Result:
        if position >= _POSITIONS_PER_ENTRY:
            return _MALFORMED
        session_id = index * _POSITIONS_PER_ENTRY + position
        self._sessions[session_id] = Session(last_active_ms=self._time_ms)
        self._drop_sessions()
        return Result(Status.DONE, session_id)

    def _apply_in_session(self, session_id: int, lowest_unanswered: int, operations: Sequence[Fields]) -> list[Result]:
        """Apply each operation that has not been applied before; answer the others as they were then."""
        session = self._sessions.get(session_id)
        if session is None:
            return [_SESSION_UNKNOWN] * len(operations)
        self._sessions.move_to_end(session_id)
        session.last_active_ms = self._time_ms
        session.forget_below(lowest_unanswered)
        answers, lowest_unanswered = session.answers, session.lowest_unanswered
        # A window, not a count: the lowest one must always get in, or the mark could never move again.
        end = lowest_unanswered + self._settings.max_unanswered
        results: list[Result] = []
        for code, key, value, expected, sequence in operations:
            answer = answers.get(sequence)
            if answer is None:
                if code is Code.CLOSE_SESSION:
                    del self._sessions[session_id]
                    return [*results, _DONE] + [_SESSION_UNKNOWN] * (len(operations) - len(results) - 1)
                if sequence < lowest_unanswered:
                    answer = _SEQUENCE_STALE
                elif sequence >= end:
                    answer = _TOO_MANY_UNANSWERED
                else:
                    answer = answers[sequence] = self._execute(code, key, value, expected)
            results.append(answer)
        return results

    def _execute(self, code: Code, key: bytes, value: bytes, expected: bytes) -> Result:
        """Carry out one operation on the keys."""
        old = self._records.get(key)
        if code is not _SET:
            if code is Code.DELETE:
                return self._delete(key)
            if code is Code.SET_IF_ABSENT:
                holds = old is None
            elif code is Code.COMPARE_AND_SET:
                holds = old is not None and old[_REVISIONS.size :] == expected
            else:
                return _MALFORMED  # a session is opened outside of sessions, and closed from within
            if not holds:
                return _NOT_DONE
        revision = self.revision = self.revision + 1
        created, _, version = (revision, 0, 0) if old is None else _unpack_revisions(old)
        self._records[key] = _pack_revisions(created, revision, version + 1) + value
        return _DONE

    def _delete(self, key: bytes) -> Result:
        if self._records.pop(key, None) is None:
            return _NOT_DONE
        self.revision += 1
        return _DONE
