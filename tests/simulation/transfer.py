"""Snapshots on their way from one member to another: theory of operation.

Real drivers send a snapshot as a stream of chunks (raftkv/snapshot_transfer.py, which has tests of its own). Here all
of it is one packet, which the network treats like any other: it can be lost, doubled, late, and replayed long after.
What a follower does with it takes its time: a file is written beside everything else, piece by piece, with turns in
between; the process can crash at each step, and the disk may be full or failing. Then the algorithm gets the message.

Every transfer ends in one input for the algorithm that has asked for it: the follower's answer, or that it is
unreachable.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raftkv.kv_snapshot import decode
from raftkv.log_storage import StorageError
from raftkv.raft.messages import InstallSnapshot, InstallSnapshotReply
from raftkv.replica import SnapshotReceived, Unreachable
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from raftkv.storage import Storage
    from tests.simulation.member import Member

_PIECE_BYTES = 300
_PATIENCE = 8
"""Steps, on average, that a leader waits for the answer to a snapshot."""


@dataclass(frozen=True, slots=True)
class PackedSnapshot:
    """The message and the file."""

    message: InstallSnapshot
    data: bytes


class Transfers:
    """Both ends, of one life of a member."""

    def __init__(self, member: Member, storage: Storage, step: float, pace: float) -> None:
        """A piece is written every `pace` seconds, on average."""
        self._member = member
        self._storage = storage
        self._step = step
        self._pace = pace
        self._begun = 0
        self._under_way: dict[int, int] = {}
        """By peer: the number of the transfer to it."""

    # ---- the leader's end --------------------------------------------------------------------------------------------

    def pack(self, message: InstallSnapshot) -> PackedSnapshot:
        """What is to be sent in the place of the message."""
        reader = self._storage.open_snapshot()
        data = reader.read(0, reader.size)
        reader.close()
        self._begun += 1
        self._under_way[message.recipient] = self._begun
        self._member.later(_PATIENCE * self._step, lambda: self._run_out(message.recipient, self._begun))
        return PackedSnapshot(message, data)

    def answered(self, reply: InstallSnapshotReply) -> None:
        """An answer has come."""
        self._under_way.pop(reply.sender, None)

    def lost(self, peer: int) -> None:
        """A transfer, or its answer, is known to be lost."""
        if self._under_way.pop(peer, None) is not None:
            self._member.bring(Unreachable(peer))

    def _run_out(self, peer: int, number: int) -> None:
        if self._under_way.get(peer) == number:
            self.lost(peer)

    # ---- the follower's end ------------------------------------------------------------------------------------------

    def receive(self, packed: PackedSnapshot) -> None:
        """A snapshot has come in."""
        status = self._member.status()
        message = packed.message
        if message.term < status.term or message.snapshot.last.index <= status.commit_index:
            self._member.bring_request(message)  # the algorithm will not want it, and only has to say so
        else:
            self._go_on(self._take_in(packed))

    def _go_on(self, job: Generator[None, None, None]) -> None:
        with self._member.aside():
            try:
                next(job)
                self._member.later(self._pace, lambda: self._go_on(job))
            except StopIteration:
                pass

    def _take_in(self, packed: PackedSnapshot) -> Generator[None, None, None]:
        try:
            writer = self._storage.begin_snapshot()
        except StorageError:
            self._member.count_failed_save("snapshots that could not be taken in")
            return
        try:
            yield
            for offset in range(0, len(packed.data), _PIECE_BYTES):
                writer.write(packed.data[offset : offset + _PIECE_BYTES])
                yield
            writer.finish()
            yield
            meta, state = decode(writer)
        except StorageError:
            writer.discard()
            self._member.count_failed_save("snapshots that could not be taken in")
            return
        if meta != packed.message.snapshot:
            raise Violation(f"{self._member.name} is sent {meta}, which is not {packed.message.snapshot}")
        self._member.bring_request(packed.message, lambda message: SnapshotReceived(message, writer, state))
