"""Mutants of snapshots that a leader sends: InstallSnapshot, in the algorithm and on its way (hazards 31 to 35, 58)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_CORE, _LOG, _PROGRESS, _REPLICA = "raft/core.py", "raft/log.py", "raft/progress.py", "replica.py"
_TRANSFER, _SENDER, _RECEIVER = "snapshot_transfer.py", "snapshot_sender.py", "snapshot_receiver.py"
_PAPER = ("tests/raft/test_paper_7.py",)
_WAY = ("tests/node/test_snapshot_transfer.py",)
_STREAMS = ("tests/node/test_snapshot_streams.py",)

INSTALLING = [
    Mutant(
        "a log that conflicts with the snapshot is kept",
        (31, 32),
        (
            Patch(
                _CORE,
                "Raft._handle_install_snapshot",
                "if self.log.holds(last):",
                "if last.index <= self.log.last_index:",
            ),
        ),
        _PAPER,
    ),
    Mutant(
        "what is not written yet is kept behind a snapshot",
        (31,),
        (Patch(_LOG, "Log.replace_by", "self._tail = []", "pass"),),
        _PAPER,
    ),
    Mutant(
        "a log that holds the snapshot's last entry is replaced all the same",
        (31,),
        (Patch(_CORE, "Raft._handle_install_snapshot", "if self.log.holds(last):", "if False:"),),
        _PAPER,
    ),
    Mutant(
        "a follower that is ahead of the snapshot does not say so",
        (31,),
        (
            Patch(
                _CORE,
                "Raft._handle_install_snapshot",
                "max(last.index, self.committed_index)",
                "last.index",
            ),
        ),
        _PAPER,
    ),
    Mutant(
        "a snapshot that is older than the log's beginning is installed",
        (32,),
        (Patch(_LOG, "Log.holds", "return True", "return False"),),
        _PAPER,
    ),
    Mutant(
        "what the snapshot holds is applied again",
        (32,),
        (Patch(_CORE, "Raft._restore", "self.handed_out_index = snapshot.last.index", "pass"),),
        _PAPER,
    ),
    Mutant(
        "a log that is nothing but a snapshot has the last term 0",
        (33,),
        (
            Patch(
                _LOG,
                "Log.last",
                "return self.position(self.last_index)",
                "return LogPosition(self.term(self.last_index) if self.last_index > self.previous.index else 0, "
                "self.last_index)",
            ),
        ),
        _PAPER,
    ),
    Mutant(
        "log time begins anew behind a snapshot",
        (33,),
        (Patch(_LOG, "Log.last_time_ms", "return self.snapshot.time_ms if self.snapshot else 0", "return 0"),),
        _PAPER,
    ),
    Mutant(
        "the snapshot is installed before the term is durable",
        (34,),
        (Patch(_REPLICA, "Replica._persist", "if hard_state is not None:", "if False:"),),
        ("tests/replica/test_install.py",),
    ),
    Mutant(
        "the state machine stays what it was when a snapshot is installed",
        (35, 36),
        (Patch(_REPLICA, "Replica._install", "self.machine.restore(chosen.state)", "pass"),),
        ("tests/replica/test_install.py",),
    ),
    Mutant(
        "a save that an installed snapshot has overtaken is adopted",
        (32,),
        (Patch(_REPLICA, "Replica._install", "self._snapshots.installed()", "pass"),),
        ("tests/replica/test_install.py",),
    ),
    Mutant(
        "what a follower is being sent is forgotten meanwhile",
        (),
        (Patch("snapshots.py", "Snapshots._keep_from", "max(self._needed_from(), most_kept)", "meta.last.index + 1"),),
        ("tests/replica/test_snapshots.py",),
    ),
    Mutant(
        "a follower that is gone holds up all compaction",
        (50,),
        (Patch("snapshots.py", "Snapshots._needed_from", "if p.state is not State.PROBE", ""),),
        ("tests/replica/test_snapshots.py",),
    ),
    Mutant(
        "the answer to a heartbeat ends the wait for a snapshot",
        (),
        (Patch(_PROGRESS, "Progress.succeeded", "and self.match_index >= self.next_index", ""),),
        _PAPER,
    ),
    Mutant(
        "a failed transfer is never begun again",
        (27,),
        (Patch(_PROGRESS, "Progress.interrupted", "if self.state is not State.PROBE:", "if False:"),),
        _PAPER,
    ),
    Mutant(
        "a heartbeat asks for the term of what has been compacted",
        (),
        (Patch(_CORE, "Raft._begin_round", "prev >= self.log.previous.index", "True"),),
        _PAPER,
    ),
    Mutant(
        "a snapshot of an earlier term is taken",
        (),
        (
            Patch(
                _CORE,
                "Raft._settle_term",
                "return False  # an answer",
                "return isinstance(message, InstallSnapshot)  # an answer",
            ),
        ),
        _PAPER,
    ),
    Mutant(
        "the members stay what they were when a snapshot is installed",
        (35,),
        (
            Patch(
                _LOG,
                "Log.replace_by",
                "self.configurations = Configurations(configuration_of(snapshot, committed), snapshot.last.index)",
                "self.configurations = Configurations(committed, snapshot.last.index)",
            ),
        ),
        _PAPER,
    ),
    Mutant(
        "the whole of a snapshot is not checked",
        (34,),
        (Patch(_TRANSFER, "Staging.finish", "if self._checksum != offer.checksum:", "if False:"),),
        _WAY,
    ),
    Mutant(
        "a chunk is taken wherever it belongs",
        (34,),
        (Patch(_TRANSFER, "Staging.take", "if request.offset != writer.size:", "if False:"),),
        _WAY,
    ),
    Mutant(
        "a chunk is not checked",
        (34,),
        (Patch(_TRANSFER, "Staging.take", "or google_crc32c.value(data) != request.data_checksum", ""),),
        _WAY,
    ),
    Mutant(
        "two streams write to one file",
        (32,),
        (Patch(_TRANSFER, "Staging._require", "stream != self._stream or ", ""),),
        _WAY,
    ),
    Mutant(
        "half of one snapshot is gone on with by another",
        (32, 34),
        (
            Patch(
                _TRANSFER,
                "Staging.open",
                "or self._offer.snapshot_id != offer.snapshot_id",
                "or self._offer.message.snapshot != offer.message.snapshot",
            ),
        ),
        _WAY,
    ),
    Mutant(
        "the file is handed over before it is durable",
        (34,),
        (Patch(_TRANSFER, "Staging.finish", "writer.finish()", "pass"),),
        _WAY,
    ),
    Mutant(
        "half of a snapshot lies about though the member has all of it",
        (50,),
        (Patch(_RECEIVER, "SnapshotReceiver.committed", "if 0 < self._staging.last_index <= index:", "if False:"),),
        _STREAMS,
    ),
    Mutant(
        "a snapshot that is coming in is thrown away before its time",
        (),
        (Patch(_TRANSFER, "Staging.forget_up_to", "snapshot.last.index <= index", "snapshot.last.index"),),
        _WAY,
    ),
    Mutant(
        "all of a snapshot is sent without waiting for answers",
        (50, 58),
        (Patch(_TRANSFER, "Outgoing.answered", "self.acknowledged + self._window * self._chunk_bytes", "1 << 62"),),
        _WAY,
    ),
    Mutant(
        "a transfer that broke off begins at the beginning",
        (),
        (Patch(_TRANSFER, "Outgoing.answered", "self._sent = reply.next_offset", "self._sent = 0"),),
        _WAY,
    ),
    Mutant(
        "a leader goes on sending its snapshot when its term is over",
        (),
        (Patch(_SENDER, "_Transfer._next_answer", "if not self._host.leads(self._message.term):", "if False:"),),
        _STREAMS,
    ),
    Mutant(
        "a follower that has refused a snapshot is sent it again and again",
        (),
        (Patch(_SENDER, "SnapshotSenders._run", "and transfer.is_refused", "and False"),),
        _STREAMS,
    ),
    Mutant(
        "a snapshot is taken for what the message says it is",
        (35,),
        (
            Patch(
                _RECEIVER,
                "SnapshotReceiver._finish",
                "if meta != message.snapshot:",
                "if False:",
            ),
        ),
        _STREAMS,
    ),
]
