"""Operations on the store, and the two forms in which they are written down: theory of operation.

A client's writes travel as a *batch*: bytes that the client library makes, the leader checks and appends as one log
entry, and every member decodes once, when it applies them. The format is the project's own, since it is part of the
replicated state: what decodes on one member must decode on all, whatever libraries they run.

    batch      version u8 | session u64 | lowest unanswered u64 | operations u32 | header ... | data ...
    header     code u8 | sequence u64 | key length u32 | value length u32 | expected length u32
    data       key value expected

One header and one piece of data for each operation; the headers stand together, so that the leader can check a batch
without touching the data. All integers little-endian. A simple client's operation travels as *text* instead (`SET key
value`), without a session.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

FORMAT_VERSION: Final = 1
_BATCH: Final = struct.Struct("<BQQI")
_HEADER: Final = struct.Struct("<BQIII")


class Malformed(ValueError):
    """Bytes or text that are not a batch or an operation."""


class Code(IntEnum):
    """What an operation does."""

    SET = 1
    DELETE = 2
    SET_IF_ABSENT = 3
    COMPARE_AND_SET = 4
    OPEN_SESSION = 5
    CLOSE_SESSION = 6


class Status(IntEnum):
    """How an operation ended. All but the first two mean: not applied, and nothing has changed."""

    DONE = 0
    """Applied. `Result.value` is a new session's id after OPEN_SESSION, else 0."""
    NOT_DONE = 1
    """Applied, and its condition did not hold: DELETE of a missing key, a comparison that failed."""
    MALFORMED = 2
    """Could not be decoded, or has no meaning where it stands (CLOSE_SESSION outside of a session)."""
    SESSION_UNKNOWN = 3
    """The session was never opened, was closed, or has expired."""
    SEQUENCE_STALE = 4
    """The client itself has said that this operation was answered long ago."""
    TOO_MANY_UNANSWERED = 5
    """The number is too far above the lowest unanswered one: the session would have to keep too many answers."""
    NO_SPACE = 6
    """The state would grow beyond its limit, TermSettings.max_state_bytes."""


NO_SPACE_TEXT: Final = "the state is as large as it may be (MAX_STATE_BYTES): delete something, or raise the limit"
"""What NO_SPACE means, for people."""

REFUSED: Final = 255
"""In a leader's answer, in the place of a Status: it has not proposed the operation, which breaks a limit."""


class Operation(NamedTuple):
    """What a client asks for. A tuple, since every member makes one for each write: a frozen dataclass takes three
    times as long."""

    code: Code
    key: bytes = b""
    value: bytes = b""
    expected: bytes = b""
    """COMPARE_AND_SET only: the value that the key must have."""
    sequence: int = 0
    """Counts the operations of a session from 1; 0 outside sessions."""


@dataclass(frozen=True, slots=True)
class Batch:
    operations: Sequence[Operation]
    session: int = 0
    """0: none; the operations are applied each time they are met in the log."""
    lowest_unanswered: int = 0
    """The client has the answers to all sequence numbers below; the state machine may forget them."""


@dataclass(frozen=True, slots=True)
class Result:
    status: Status
    value: int = 0


@dataclass(frozen=True, slots=True)
class TermSettings:
    """What a leader's NO-OP tells every state machine, so that limits come from the log, not from a config file."""

    cluster_id: bytes
    """16 random bytes. The first one in a log is the cluster's id for good; later ones are ignored."""
    max_sessions: int
    session_timeout_ms: int
    """Of log time without an operation of the session."""
    max_unanswered: int
    """Answers kept for each session."""
    max_state_bytes: int = 0
    """Of keys, values and KEY_OVERHEAD_BYTES for each key: what would grow beyond is refused. 0: without limit, as in
    the first form of these settings, which had no such field."""


class OperationLike(Protocol):
    """What can be encoded: an `Operation`, or anything with the same fields."""

    @property
    def code(self) -> Code: ...
    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes: ...
    @property
    def expected(self) -> bytes: ...
    @property
    def sequence(self) -> int: ...


def encode_batch(batch: Batch) -> bytes:
    """The bytes of a batch."""
    return encode_operations(batch.operations, batch.session, batch.lowest_unanswered)


def encode_operations(operations: Sequence[OperationLike], session: int, lowest_unanswered: int) -> bytes:
    """The bytes of a batch of these operations."""
    pack = _HEADER.pack
    parts = [_BATCH.pack(FORMAT_VERSION, session, lowest_unanswered, len(operations))]
    parts += [pack(op.code, op.sequence, len(op.key), len(op.value), len(op.expected)) for op in operations]
    for op in operations:
        parts += (op.key, op.value, op.expected)
    return b"".join(parts)


def decode_batch(data: bytes) -> Batch:
    """The batch that `data` holds, the whole of it. Raises Malformed for anything else."""
    session, lowest_unanswered, _, operations = decode_fields(data)
    named = (Operation(Code(code), key, value, expected, number) for code, key, value, expected, number in operations)
    return Batch(tuple(named), session, lowest_unanswered)


Fields = tuple[int, bytes, bytes, bytes, int]
"""An `Operation` as a bare tuple, its code a bare number."""


def decode_fields(data: bytes) -> tuple[int, int, bytes, list[Fields]]:
    """`decode_batch` for those who are in a hurry, as every member is with every write: session, lowest unanswered
    number, the codes of all operations, and the operations as bare tuples. Raises Malformed."""
    session, lowest_unanswered, codes, headers, end = _decode_headers(data)
    operations = [
        (
            code,
            data[end : (end := end + key_length)],
            data[end : (end := end + value_length)],
            data[end : (end := end + expected_length)] if expected_length else b"",
            sequence,
        )
        for code, sequence, key_length, value_length, expected_length in headers
    ]
    _require_end(data, end)
    return session, lowest_unanswered, codes, operations


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """In bytes."""

    max_key_bytes: int
    max_value_bytes: int


def find_refused(data: bytes, limits: SizeLimits) -> tuple[int, dict[int, str]]:
    """Check the framing of a batch, and of its operations only what the headers say: how many there are, and by
    position those that may not be proposed, with the reason. Raises Malformed."""
    _, _, _, headers, end = _decode_headers(data)
    refused: dict[int, str] = {}
    count = 0
    max_key, max_value = limits.max_key_bytes, limits.max_value_bytes
    for code, _, key_length, value_length, expected_length in headers:
        if not 0 < key_length <= max_key or value_length > max_value or expected_length > max_value:
            reason = _complaint(code, key_length, max(value_length, expected_length), limits)
            if reason:
                refused[count] = reason
        end += key_length + value_length + expected_length
        count += 1
    _require_end(data, end)
    return count, refused


def _complaint(code: int, key_length: int, value_length: int, limits: SizeLimits) -> str:
    if value_length > limits.max_value_bytes:
        return f"the value has {value_length} bytes; at most {limits.max_value_bytes} are allowed"
    if code in (Code.OPEN_SESSION, Code.CLOSE_SESSION):
        return ""
    if not key_length:
        return "a key must not be empty"
    return f"the key has {key_length} bytes; at most {limits.max_key_bytes} are allowed"


_CODES: Final = bytes(Code)


def _decode_headers(data: bytes) -> tuple[int, int, bytes, Iterator[tuple[int, int, int, int, int]], int]:
    """Session, lowest unanswered number, the codes of all operations, headers, and where the data begins."""
    try:
        version, session, lowest_unanswered, count = _BATCH.unpack_from(data)
    except struct.error:
        raise Malformed(f"a batch of {len(data)} bytes is too short") from None
    if version != FORMAT_VERSION:
        raise Malformed(f"batch format {version} is not known here, only {FORMAT_VERSION}")
    end = _BATCH.size + count * _HEADER.size
    if end > len(data):
        raise Malformed(f"a batch of {len(data)} bytes is too short for {count} operations")
    headers = data[_BATCH.size : end]
    codes = headers[:: _HEADER.size]
    unknown = codes.translate(None, _CODES)
    if unknown:
        raise Malformed(f"the code of operation {codes.index(unknown[0])} of the batch is unknown")
    return session, lowest_unanswered, codes, _HEADER.iter_unpack(headers), end


def _require_end(data: bytes, end: int) -> None:
    if end != len(data):
        raise Malformed(f"a batch of {len(data)} bytes whose operations end at byte {end}")


_SETTINGS: Final = {1: struct.Struct("<B16sQQQ"), 2: struct.Struct("<B16sQQQQ")}
"""By version of the form, of which the last is written, and all are read."""
_SETTINGS_VERSION: Final = 2


def encode_settings(settings: TermSettings) -> bytes:
    """The payload of a leader's NO-OP."""
    return _SETTINGS[_SETTINGS_VERSION].pack(
        _SETTINGS_VERSION,
        settings.cluster_id,
        settings.max_sessions,
        settings.session_timeout_ms,
        settings.max_unanswered,
        settings.max_state_bytes,
    )


def decode_settings(data: bytes) -> TermSettings:
    """The settings in a NO-OP's payload. Raises Malformed for anything else."""
    form = _SETTINGS.get(data[0]) if data else None
    if form is None or len(data) != form.size:
        raise Malformed(f"{len(data)} bytes are not the settings of a term in a form that is known here")
    _, *fields = form.unpack(data)
    return TermSettings(*fields)


_TEXT_FORMS: Final = {"SET": Code.SET, "DEL": Code.DELETE, "SETNX": Code.SET_IF_ABSENT, "CAS": Code.COMPARE_AND_SET}
_TEXT_USAGE: Final = {
    Code.SET: "SET key value",
    Code.DELETE: "DEL key",
    Code.SET_IF_ABSENT: "SETNX key value",
    Code.COMPARE_AND_SET: "CAS key expected new",
}


def is_text_write(request: str) -> bool:
    """Whether the text's first word is that of an operation that changes the store."""
    return request.split(" ", 1)[0].upper() in _TEXT_FORMS


def parse_text(request: str) -> Operation:
    """The operation that a text names (`SET key value`, `DEL key`, `SETNX key value`, `CAS key expected new`).

    Words are parted by one space each; the value of SET is the rest of the text as it stands, spaces and all. Raises
    Malformed with the right form in the message.
    """
    word, _, rest = request.partition(" ")
    code = _TEXT_FORMS.get(word.upper())
    if code is None:
        raise Malformed(f"unknown command {word[:20]!r}")
    words = rest.split(" ", 1) if code is Code.SET else rest.split(" ")
    arity = {Code.SET: 2, Code.DELETE: 1, Code.SET_IF_ABSENT: 2, Code.COMPARE_AND_SET: 3}[code]
    if len(words) != arity or not is_word(words[0]):
        raise Malformed(f"expected {_TEXT_USAGE[code]}")
    try:
        key, *values = (w.encode() for w in words)
    except UnicodeEncodeError:
        raise Malformed("a text that cannot be written as UTF-8") from None
    if code is Code.COMPARE_AND_SET:
        return Operation(code, key, value=values[1], expected=values[0])
    return Operation(code, key, value=b"".join(values))  # DEL has no value, the others have one


_WHITE_SPACE: Final = frozenset(
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Spelt out, since `str.isspace` changes with Python's Unicode tables, and all members must judge alike."""


def is_word(text: str) -> bool:
    """Whether a key can be written in a text request: not empty, no white space in it."""
    return bool(text) and _WHITE_SPACE.isdisjoint(text)


def format_text(operation: Operation) -> str:
    """An operation in the form that `parse_text` reads; bytes that are not UTF-8 appear escaped (for people)."""

    def show(data: bytes) -> str:
        return data.decode(errors="backslashreplace")

    if operation.code in (Code.OPEN_SESSION, Code.CLOSE_SESSION):
        return operation.code.name.replace("_", "-")
    words = {
        Code.SET: [operation.key, operation.value],
        Code.DELETE: [operation.key],
        Code.SET_IF_ABSENT: [operation.key, operation.value],
        Code.COMPARE_AND_SET: [operation.key, operation.expected, operation.value],
    }[operation.code]
    return " ".join([_TEXT_USAGE[operation.code].split()[0], *map(show, words)])
