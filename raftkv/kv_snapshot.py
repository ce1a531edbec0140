"""The format of a snapshot, the state machine's state as a file: theory of operation.

    start    magic 8s | version u32 | crc u32
    frame    kind u8 | body length u32 | crc u32 | body
    file     start | HEADER | RECORDS ... | SESSIONS ... | TRAILER

    HEADER   JSON: what entry it ends with, the log's time and settings, the configuration, the store's revision
    RECORDS  count u32 | key length u32 for each | record length u32 for each | keys | records
    SESSIONS for each: id u64 | last active u64 | lowest unanswered u64 | answers u32 |
             (sequence u64 | status u8 | value u64) for each answer
    TRAILER  JSON: how many records and sessions there are

All integers little-endian, all checksums CRC32C; a frame's covers its kind, its place in the file and its body. So
a bit that is wrong, a piece that is missing, doubled or in another's place, and an end that is not one are all found.

`encode` gives the file in pieces of some hundred KiB, each made in about a millisecond, so that the thread that saves a
snapshot never holds up the others for long. `decode` takes it in the same way; neither holds the file in memory.
Records stand in no order, so snapshots of equal states may differ byte for byte; `digest()` of what they hold does not.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Any, Final, Protocol

import google_crc32c

from raftkv.kv import BEFORE_SETTINGS, FrozenState, Session, count_state_bytes
from raftkv.log_storage import StorageError
from raftkv.operations import Result, Status, decode_settings, encode_settings
from raftkv.raft.types import LogPosition, SnapshotMeta
from raftkv.records import Records
from raftkv.segment import damaged

FORMAT_VERSION: Final = 1
_MAGIC: Final = b"RAFTSNAP"
_START: Final = struct.Struct("<8sI")
_CHECKSUM: Final = struct.Struct("<I")
_START_BYTES: Final = _START.size + _CHECKSUM.size

_FRAME: Final = struct.Struct("<BII")
_PLACE: Final = struct.Struct("<BQ")
_HEADER: Final = 1
_RECORDS: Final = 2
_SESSIONS: Final = 3
_TRAILER: Final = 4

_COUNT: Final = struct.Struct("<I")
_SESSION: Final = struct.Struct("<QQQI")
_ANSWER: Final = struct.Struct("<QBQ")

_PIECE_BYTES: Final = 128 << 10
_PIECE_RECORDS: Final = 682
_PIECE_ANSWERS: Final = 4096
"""What a piece may hold: so many records and so many bytes of them, but one in any case; so many answers to sessions,
and what the last of them has beyond."""


class Source(Protocol):
    """Where a snapshot is read from: a `SnapshotReader`, or a `SnapshotWriter` that has finished."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...


def meta_of(state: FrozenState, configuration: bytes) -> SnapshotMeta:
    """What a snapshot of this state stands for."""
    return SnapshotMeta(LogPosition(state.applied_term, state.applied_index), state.time_ms, configuration)


# ---- encoding --------------------------------------------------------------------------------------------------------


def encode(state: FrozenState, configuration: bytes) -> Iterator[bytes]:
    """The pieces of a snapshot's file, in order. `configuration` is the cluster's as of the state's last entry."""
    start = _START.pack(_MAGIC, FORMAT_VERSION)
    yield start + _CHECKSUM.pack(google_crc32c.value(start))
    offset = _START_BYTES
    for kind, body in _frames(state, configuration):
        frame = _FRAME.pack(kind, len(body), _frame_checksum(kind, offset, body)) + body
        offset += len(frame)
        yield frame


def _frame_checksum(kind: int, offset: int, body: bytes) -> int:
    checksum: int = google_crc32c.extend(google_crc32c.value(_PLACE.pack(kind, offset)), body)
    return checksum


def _frames(state: FrozenState, configuration: bytes) -> Iterator[tuple[int, bytes]]:
    yield _HEADER, _encode_header(state, configuration)
    for body in _encode_records(state):
        yield _RECORDS, body
    for body in _encode_sessions(state):
        yield _SESSIONS, body
    yield _TRAILER, _json({"records": len(state.records), "sessions": len(state.sessions)})


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def _encode_header(state: FrozenState, configuration: bytes) -> bytes:
    settings = b"" if state.settings == BEFORE_SETTINGS else encode_settings(state.settings)
    return _json(
        {
            "last": [state.applied_index, state.applied_term],
            "time_ms": state.time_ms,
            "configuration": configuration.hex(),
            "revision": state.revision,
            "cluster_id": state.cluster_id.hex(),
            "settings": settings.hex(),
        }
    )


def _encode_records(state: FrozenState) -> Iterator[bytes]:
    keys, records = iter(state.records), state.records.values()
    while some := list(islice(keys, _PIECE_RECORDS)):
        yield from _encode_pieces(some, list(islice(records, _PIECE_RECORDS)))


def _encode_pieces(keys: list[bytes], records: list[bytes]) -> Iterator[bytes]:
    lengths = [*map(len, keys), *map(len, records)]
    half = len(keys) // 2
    if half and sum(lengths) > _PIECE_BYTES:
        yield from _encode_pieces(keys[:half], records[:half])
        yield from _encode_pieces(keys[half:], records[half:])
    else:
        yield b"".join([_COUNT.pack(len(keys)), struct.pack(f"<{len(lengths)}I", *lengths), *keys, *records])


def _encode_sessions(state: FrozenState) -> Iterator[bytes]:
    parts: list[bytes] = []
    for session_id, session in state.sessions:
        answers = session.all_answers()
        parts.append(_SESSION.pack(session_id, session.last_active_ms, session.lowest_unanswered, len(answers)))
        parts += [_ANSWER.pack(sequence, answer.status, answer.value) for sequence, answer in answers.items()]
        if len(parts) >= _PIECE_ANSWERS:
            yield b"".join(parts)
            parts = []
    if parts:
        yield b"".join(parts)


# ---- decoding --------------------------------------------------------------------------------------------------------


def decode(source: Source) -> tuple[SnapshotMeta, FrozenState]:
    """What was encoded. Raises StorageError, which names the file and the place, for anything that is not exactly what
    `encode` gave, and for a later version's."""
    header: dict[str, Any] = {}
    records = Records()
    state_bytes = 0
    sessions: list[tuple[int, Session]] = []
    for kind, offset, body in _read_frames(source):
        try:
            if kind == _HEADER:
                header = _decode_header(body)
            elif kind == _RECORDS:
                state_bytes += _decode_piece(body, records)
            elif kind == _SESSIONS:
                sessions += _decode_sessions(body)
            elif json.loads(body) != {"records": len(records), "sessions": len(sessions)}:
                raise ValueError
        except (struct.error, KeyError, ValueError):
            raise damaged(source.name, offset, f"a frame of kind {kind} that means nothing") from None
    state = FrozenState(records=records, state_bytes=state_bytes, sessions=sessions, **header["state"])
    return meta_of(state, header["configuration"]), state


def _read_frames(source: Source) -> Iterator[tuple[int, int, bytes]]:
    """(kind, offset, body) of each frame, which are all there, and in order."""
    _check_start(source)
    offset = _START_BYTES
    last_kind = 0
    while offset < source.size:
        if last_kind == _TRAILER:
            raise damaged(source.name, offset, f"the snapshot ends here, and {source.size - offset} bytes follow")
        head = source.read(offset, _FRAME.size)
        if len(head) < _FRAME.size:
            raise damaged(source.name, offset, "the snapshot is cut off")
        kind, length, checksum = _FRAME.unpack(head)
        body = source.read(offset + _FRAME.size, length) if offset + length <= source.size else b""
        if len(body) != length or checksum != _frame_checksum(kind, offset, body):
            raise damaged(source.name, offset, "this part of the snapshot can't be read")
        if kind < last_kind or (last_kind == 0) != (kind == _HEADER):
            raise damaged(source.name, offset, f"a frame of kind {kind} after one of kind {last_kind}")
        last_kind = kind
        yield kind, offset, body
        offset += _FRAME.size + length
    if last_kind != _TRAILER:
        raise damaged(source.name, source.size, "the snapshot has no end")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a snapshot's file holds, without the state itself."""

    meta: SnapshotMeta
    cluster_id: bytes
    keys: int
    size: int
    """Of the file, in bytes."""


def check(source: Source) -> Contents:
    """Look at all of a snapshot without making anything of it, in little memory. Raises StorageError, as `decode`."""
    header: dict[str, Any] = {}
    keys = 0
    for kind, offset, body in _read_frames(source):
        try:
            if kind == _HEADER:
                header = _decode_header(body)
            elif kind == _RECORDS:
                keys += _COUNT.unpack_from(body)[0]
            elif kind == _TRAILER and json.loads(body)["records"] != keys:
                raise ValueError
        except (struct.error, KeyError, ValueError):
            raise damaged(source.name, offset, f"a frame of kind {kind} that means nothing") from None
    state = header["state"]
    last = LogPosition(state["applied_term"], state["applied_index"])
    meta = SnapshotMeta(last, state["time_ms"], header["configuration"])
    return Contents(meta, state["cluster_id"], keys, source.size)


def _check_start(source: Source) -> None:
    data = source.read(0, _START_BYTES)
    start, checksum = data[: _START.size], data[_START.size :]
    if checksum != _CHECKSUM.pack(google_crc32c.value(start)) or not start.startswith(_MAGIC):
        raise damaged(source.name, 0, "this is not a snapshot")
    _, version = _START.unpack(start)
    if version != FORMAT_VERSION:
        raise StorageError(
            f"{source.name}: written by another version (format {version}, known here is {FORMAT_VERSION}); run that "
            "version"
        )


def _decode_header(body: bytes) -> dict[str, Any]:
    fields = json.loads(body)
    settings = bytes.fromhex(fields["settings"])
    state = {
        "applied_index": fields["last"][0],
        "applied_term": fields["last"][1],
        "time_ms": fields["time_ms"],
        "revision": fields["revision"],
        "cluster_id": bytes.fromhex(fields["cluster_id"]),
        "settings": decode_settings(settings) if settings else BEFORE_SETTINGS,
    }
    return {"configuration": bytes.fromhex(fields["configuration"]), "state": state}


def _decode_piece(body: bytes, records: Records) -> int:
    """Put a piece's records with the others: what they count in `StateMachine.state_bytes`."""
    (count,) = _COUNT.unpack_from(body)
    lengths = struct.unpack_from(f"<{2 * count}I", body, _COUNT.size)
    ends = list(accumulate(lengths, initial=_COUNT.size + 8 * count))
    if ends[-1] != len(body):
        raise ValueError
    parts = [body[start:end] for start, end in pairwise(ends)]
    records.update(zip(parts[:count], parts[count:], strict=True))
    return count_state_bytes(count, sum(lengths))


def _decode_sessions(body: bytes) -> Iterator[tuple[int, Session]]:
    offset = 0
    while offset < len(body):
        session_id, last_active_ms, lowest_unanswered, count = _SESSION.unpack_from(body, offset)
        offset += _SESSION.size
        end = offset + count * _ANSWER.size
        answers = {
            sequence: Result(Status(status), value) for sequence, status, value in _ANSWER.iter_unpack(body[offset:end])
        }
        if len(answers) != count:
            raise ValueError
        yield session_id, Session(last_active_ms, lowest_unanswered, answers)
        offset = end
