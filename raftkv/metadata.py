"""The two small files of a data directory, `identity` and `metadata`: theory of operation.

Each is one record that is only ever replaced as a whole (`disk.replace_file`), so that neither a crash nor a full disk
can leave half of it, and no two of its fields can part: the term and the vote are one record (Raft paper, figure 2).
They are text, for people:

    raftkv metadata 1
    {"term": 3, "voted_for": 2, "longest_promise_ms": 1000, "segments": 1}
    crc32c 5f0a31c2

The number in the first line is the version of the format; the checksum is that of all the bytes before its line. There
is no mending a damaged one: to guess a vote is to vote twice.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

import google_crc32c

from raftkv.log_storage import RESTORE, Identity, StorageError
from raftkv.raft.types import HardState

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Metadata:
    hard_state: HardState
    segments: int
    """The log has at least so many. Without it, a last segment that has disappeared would not be missed."""


def encode_metadata(metadata: Metadata) -> bytes:
    """The content of the file `metadata`."""
    return _encode("metadata", {**asdict(metadata.hard_state), "segments": metadata.segments})


def decode_metadata(data: bytes, path: str) -> Metadata:
    """What `encode_metadata` was given. Raises StorageError, which names the file, for anything else."""
    fields = _decode("metadata", data, path)
    segments = fields.pop("segments")
    return Metadata(HardState(**fields), segments)


def encode_identity(identity: Identity) -> bytes:
    """The content of the file `identity`."""
    fields = {
        "member_id": identity.member_id,
        "members": {str(member): address for member, address in identity.members.items()},
        "incarnation": identity.incarnation.hex(),
        "cluster_id": identity.cluster_id.hex(),
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
    if title != f"raftkv {kind} {FORMAT_VERSION}".encode():
        raise StorageError(
            f"{path}: written by another version ({title.decode(errors='replace')!r}, known here is format "
            f"{FORMAT_VERSION}); run that version"
        )
    decoded: dict[str, Any] = json.loads(fields)
    return decoded
