"""The two small files of a data directory, `identity` and `metadata`: theory of operation.

Each is one record that is only ever replaced as a whole (`disk.replace_file`), so that neither a crash nor a full disk
can leave half of it, and no two of its fields can part: the term and the vote are one record (Raft paper, figure 2).
They are text, for people:

    raftkv metadata 2
    {"term": 3, "voted_for": 2, "longest_promise_ms": 1000, "first_segment": 1, "segments": 4, "previous": [0, 0], ...}
    crc32c 5f0a31c2

The number in the first line is the version of the format; the checksum is that of all the bytes before its line. There
is no mending a damaged one: to guess a vote is to vote twice.

`metadata` also says where a restart begins: which snapshot there is, and which segments come after it. So a new
snapshot counts, and what it stands for may go, from the very moment at which this file is replaced.

Version 1 knew no snapshots: its log begins with the first segment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

import google_crc32c

from raftkv.log_storage import RESTORE, Identity, StorageError
from raftkv.raft.types import ORIGIN, HardState, LogPosition, SnapshotMeta

FORMAT_VERSION: Final = 2
"""What is written; older ones are read, too."""


@dataclass(frozen=True, slots=True)
class Metadata:
    hard_state: HardState
    segments: int
    """The number of the last segment, or of the one before it: without this, a last segment that has disappeared would
    not be missed."""
    first_segment: int = 1
    """Those before it do not count any more. One more than `segments`: none has been made yet."""
    previous: LogPosition = ORIGIN
    """Of the last entry before those in these segments that count."""
    snapshot: SnapshotMeta | None = None
    snapshot_bytes: int = 0
    """The size of its file."""
    snapshot_checksum: int = 0
    """The CRC32C of its file."""


def encode_metadata(metadata: Metadata) -> bytes:
    """The content of the file `metadata`."""
    previous, snapshot = metadata.previous, metadata.snapshot
    fields = {
        **asdict(metadata.hard_state),
        "first_segment": metadata.first_segment,
        "segments": metadata.segments,
        "previous": [previous.index, previous.term],
        "snapshot": snapshot
        and {
            "last": [snapshot.last.index, snapshot.last.term],
            "time_ms": snapshot.time_ms,
            "configuration": snapshot.configuration.hex(),
            "bytes": metadata.snapshot_bytes,
            "crc32c": metadata.snapshot_checksum,
        },
    }
    return _encode("metadata", fields)


def decode_metadata(data: bytes, path: str) -> Metadata:
    """What `encode_metadata` was given. Raises StorageError, which names the file, for anything else."""
    fields = _decode("metadata", data, path)
    hard_state = HardState(fields["term"], fields["voted_for"], fields["longest_promise_ms"])
    if "first_segment" not in fields:  # version 1
        return Metadata(hard_state, fields["segments"])
    snapshot = fields["snapshot"]
    return Metadata(
        hard_state,
        fields["segments"],
        fields["first_segment"],
        _position(fields["previous"]),
        snapshot
        and SnapshotMeta(_position(snapshot["last"]), snapshot["time_ms"], bytes.fromhex(snapshot["configuration"])),
        snapshot["bytes"] if snapshot else 0,
        snapshot["crc32c"] if snapshot else 0,
    )


def _position(index_and_term: list[int]) -> LogPosition:
    index, term = index_and_term
    return LogPosition(term, index)


def encode_identity(identity: Identity) -> bytes:
    """The content of the file `identity`."""
    fields = {
        "member_id": identity.member_id,
        "members": {str(member): address for member, address in identity.members.items()},
        "incarnation": identity.incarnation.hex(),
        "cluster_id": identity.cluster_id.hex(),
        "address": identity.address,
        "joined": identity.joined,
        "peers": {str(member): [joined, disk.hex()] for member, (joined, disk) in identity.peers.items()},
    }
    return _encode("identity", fields)


def decode_identity(data: bytes, path: str) -> Identity:
    """What `encode_identity` was given. Raises StorageError, which names the file, for anything else."""
    fields = _decode("identity", data, path)
    return Identity(
        member_id=fields["member_id"],
        members={int(member): address for member, address in fields["members"].items()},
        incarnation=bytes.fromhex(fields["incarnation"]),
        cluster_id=bytes.fromhex(fields["cluster_id"]),
        address=fields.get("address", ""),  # version 1 has none of these
        joined=fields.get("joined", 0),
        peers={
            int(member): (joined, bytes.fromhex(disk)) for member, (joined, disk) in fields.get("peers", {}).items()
        },
    )


def _encode(kind: str, fields: dict[str, Any]) -> bytes:
    content = f"raftkv {kind} {FORMAT_VERSION}\n{json.dumps(fields)}\n".encode()
    return content + _checksum_line(content)


def _checksum_line(content: bytes) -> bytes:
    return b"crc32c %08x\n" % google_crc32c.value(content)


def _decode(kind: str, data: bytes, path: str) -> dict[str, Any]:
    content, last_line = data[: -len(_checksum_line(b""))], data[-len(_checksum_line(b"")) :]
    if last_line != _checksum_line(content):
        raise StorageError(f"{path}: damaged (its checksum does not fit its {len(data)} bytes); {RESTORE}")
    title, _, fields = content.partition(b"\n")
    if title not in [f"raftkv {kind} {version}".encode() for version in range(1, FORMAT_VERSION + 1)]:
        raise StorageError(
            f"{path}: written by another version ({title.decode(errors='replace')!r}, known here are formats "
            f"1 to {FORMAT_VERSION}); run that version"
        )
    decoded: dict[str, Any] = json.loads(fields)
    return decoded
