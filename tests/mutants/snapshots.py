"""Mutants of snapshots: what is saved, when it counts, and what goes then (hazards 14, 16, 18, 31 to 35)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_SNAPSHOTS, _STORAGE, _FILE, _LOG, _INDEX = (
    *("snapshots.py", "storage.py", "snapshot_file.py"),
    *("segmented_log.py", "log_index.py"),
)
_KV, _RECORDS, _FORMAT, _LEFTOVERS = "kv.py", "records.py", "kv_snapshot.py", "leftovers.py"
_CRASHES = ("tests/storage/test_snapshot_crashes.py",)
_CONTRACT = ("tests/storage/test_snapshots.py",)
_STATE = ("tests/kv/test_snapshots.py", "tests/kv/test_records.py")
_MEMBER = ("tests/replica/test_snapshots.py",)


def _mutant(name: str, hazard: int, patch: tuple[str, str, str, str], tests: tuple[str, ...], *seeds: int) -> Mutant:
    return Mutant(name, (hazard,), (Patch(*patch),), tests, seeds)


SNAPSHOTS = [
    _mutant(
        "a restart applies again what is in the snapshot",
        14,
        (_STORAGE, "Storage.replay", "self.snapshot.last.index + 1 if self.snapshot else 1", "self.first_index()"),
        _CONTRACT,
    ),
    _mutant(
        "what is written while the state is saved gets into the snapshot",
        14,
        (_RECORDS, "Layers.freeze", "[{} for _ in range(_PARTS)]", "self.below.parts"),
        _STATE,
        1,
    ),
    _mutant(
        "sessions are not copied when the state is frozen",
        14,
        (_KV, "StateMachine.freeze", "session.copy()", "session"),
        _STATE,
    ),
    _mutant(
        "what was deleted since the freeze is there again",
        14,
        (_RECORDS, "Layers._bring_down", "del below[key]", "pass"),
        _STATE,
    ),
    _mutant(
        "a key leaves the layer on top before it is in the records",
        14,
        (
            *(_RECORDS, "Layers.merge", "self._bring_down(some, on_top, below)"),
            "self.on_top[start:end] = [below] * (end - start)\nself._bring_down(some, on_top, below)",
        ),
        _STATE,
    ),
    _mutant(
        "a layer is emptied though somebody may be about to look into it",
        14,
        (_RECORDS, "Layers.merge", "self._merged += 1", "on_top.clear()\nself._merged += 1"),
        _STATE,
    ),
    _mutant(
        "what is written to a part that is half merged is forgotten with the layer",
        14,
        (_KV, "StateMachine._execute", "part is half_merged", "False"),
        _STATE,
    ),
    _mutant(
        "what is deleted from a part that is half merged is there again",
        14,
        (_RECORDS, "Layers.delete", "on_top is self.half_merged", "False"),
        _STATE,
    ),
    _mutant(
        "what is frozen is merged with what is written since",
        14,
        (_RECORDS, "Layers.merge", "not self._is_frozen and", ""),
        _STATE,
    ),
    _mutant(
        "a deletion is forgotten when it is looked for",
        14,
        (_KV, "StateMachine._execute", "old or None", "old"),
        _STATE,
    ),
    _mutant(
        "the length of a large record does not fit",
        15,
        (_FORMAT, "_encode_pieces", "*map(len, records)", "*(len(record) & 0xFFFF for record in records)"),
        _STATE,
    ),
    _mutant(
        "the log is cut though the save has failed",
        16,
        (_SNAPSHOTS, "write_snapshot", "except StorageError as error:", "except ZeroDivisionError as error:"),
        _MEMBER,
    ),
    _mutant(
        "a save counts before it is synced",
        16,
        (_FILE, "SnapshotFile.finish", "self._file.sync()", "pass"),
        _CRASHES,
    ),
    _mutant(
        "old segments go before the snapshot counts",
        16,
        (
            _STORAGE,
            "Storage._count_snapshot",
            "self._write_metadata(self.hard_state)",
            "for number in old_segments:\n"
            "    self._disk.remove(self._log.path(number))\n"
            "self._write_metadata(self.hard_state)",
        ),
        _CRASHES,
    ),
    _mutant(
        "a save that fails is tried again at once",
        16,
        (_SNAPSHOTS, "Snapshots.failed", "self._not_before = now + self._retry_after", "pass"),
        _MEMBER,
    ),
    _mutant(
        "a save that fails leaves its file behind",
        18,
        (_SNAPSHOTS, "write_snapshot", "writer.discard()", "pass"),
        _MEMBER,
    ),
    _mutant(
        "large writes grow the log without an end while what came before is merged",
        18,
        (_SNAPSHOTS, "Snapshots._go_on", "max(written, size // _BYTES_FOR_A_KEY)", "written"),
        _MEMBER,
    ),
    _mutant(
        "half a save fills the disk for ever",
        18,
        (_STORAGE, "Storage._clean", "name.endswith(TEMPORARY_SUFFIX)", "name == 'metadata.tmp'"),
        _CRASHES,
    ),
    _mutant(
        "an installed snapshot keeps a conflicting log",
        31,
        (
            _STORAGE,
            "Storage.install_snapshot",
            "self._log.begin_anew(meta.last)",
            "self._log.forget(meta.last.index + 1)",
        ),
        _CONTRACT,
    ),
    _mutant(
        "an installed snapshot keeps what the disk holds",
        31,
        (
            *(_STORAGE, "Storage.install_snapshot", "self._log.begin_anew(meta.last)"),
            "self._log.forget(meta.last.index + 1) if holds(self, meta.last) else self._log.begin_anew(meta.last)",
        ),
        _CONTRACT,
    ),
    _mutant(
        "a save that was overtaken is adopted",
        32,
        (_SNAPSHOTS, "Snapshots.saved", "result.save is not self._save", "False"),
        _MEMBER,
    ),
    _mutant(
        "two saves are under way at once",
        32,
        (_KV, "StateMachine.can_freeze", "self._records.is_merged", "True"),
        (*_MEMBER, *_STATE),
        1,
    ),
    _mutant(
        "what is still read of a snapshot is cut off",
        32,
        (_LEFTOVERS, "Leftovers.remove", "not self._is_read(path) and", ""),
        (*_CONTRACT, "tests/storage/test_leftovers.py"),
    ),
    _mutant(
        "files are removed from a directory that is somebody else's by now",
        32,
        (_STORAGE, "Storage.remove_leftovers", "self._unusable", "False"),
        _CRASHES,
    ),
    _mutant(
        "saves in the making share a file",
        32,
        (_STORAGE, "Storage.begin_snapshot", "next(self._snapshot_numbers)", "1"),
        _CONTRACT,
    ),
    _mutant(
        "the term of a log that is nothing but a snapshot is 0",
        33,
        (_INDEX, "LogIndex.last_term", "else self.previous.term", "else 0"),
        (*_CONTRACT, *_CRASHES),
    ),
    _mutant(
        "the last entry that was forgotten has no term",
        33,
        (_INDEX, "LogIndex.term", "return self.previous.term", "return 0"),
        _CONTRACT,
    ),
    _mutant(
        "the log is forgotten beyond the snapshot",
        34,
        (_SNAPSHOTS, "Snapshots._keep_from", "meta.last.index + 1", "self._storage.last_index() + 1"),
        _MEMBER,
        1,
    ),
    _mutant(
        "a snapshot counts before its name is durable",
        34,
        (_FILE, "SnapshotFile.move_to", "self._disk.sync_directory(os.path.dirname(path))", "pass"),
        _CRASHES,
    ),
    _mutant(
        "a gap between snapshot and log is not noticed",
        34,
        (_STORAGE, "Storage._recover", "not holds(self, self.snapshot.last)", "False"),
        _CRASHES,
    ),
    _mutant(
        "a snapshot's damage is not noticed",
        34,
        (_FILE, "check_snapshot", "found != checksum", "False"),
        _CRASHES,
    ),
    _mutant(
        "a segment is begun before the metadata know of the installed snapshot",
        34,
        (
            _STORAGE,
            "Storage.install_snapshot",
            "self._count_snapshot(meta, writer, old_segments)\nself._start_segment()",
            "self._start_segment()\nself._count_snapshot(meta, writer, old_segments)",
        ),
        _CRASHES,
    ),
    _mutant(
        "entries that had been replaced come back with their segment",
        34,
        (_INDEX, "LogIndex.forget", "first = self._first[row]", "first = self._first[row] + 1"),
        (*_CONTRACT, *_CRASHES),
    ),
    _mutant(
        "the log is cut in the middle of a segment",
        34,
        (_INDEX, "LogIndex.forget", "bisect_left(self._segment, self._segment[row], hi=row) if row > 0 else 0", "row"),
        (*_CONTRACT, *_CRASHES),
    ),
    _mutant(
        "a snapshot without sessions",
        35,
        (_FORMAT, "_encode_sessions", "in state.sessions:", "in ():"),
        _STATE,
        1,
    ),
    _mutant(
        "sessions come back without their answers",
        35,
        (
            _FORMAT,
            "_decode_sessions",
            "yield session_id, Session(last_active_ms, lowest_unanswered, answers)",
            "yield session_id, Session(last_active_ms, lowest_unanswered)",
        ),
        _STATE,
    ),
    _mutant(
        "the settings of the term are not in the snapshot",
        35,
        (_FORMAT, "_decode_header", "decode_settings(settings) if settings else BEFORE_SETTINGS", "BEFORE_SETTINGS"),
        _STATE,
    ),
    _mutant(
        "a snapshot names the members by what is not committed",
        35,
        (
            _SNAPSHOTS,
            "Snapshots",
            "self._raft.log.configurations.at(self._machine.applied_index)",
            "self._raft.log.configurations.latest",
        ),
        _MEMBER,
    ),
    _mutant(
        "a snapshot without the configuration",
        35,
        (_FORMAT, "_encode_header", "configuration.hex()", '""'),
        _STATE,
    ),
]
