"""Mutants of "Durability": what is on the disk, and when (hazards 1 to 19)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_CORE, _KV, _REPLICA, _TURN = "raft/core.py", "kv.py", "replica.py", "turn.py"
_ELECTIONS = "raft/elections.py"
_DISK, _SEGMENT, _LOG, _STORAGE = "disk.py", "segment.py", "segmented_log.py", "storage.py"
_BEFORE_DISK = ("tests/raft/test_hazards.py", "tests/raft/test_lease_rules.py", "tests/raft/test_core.py")
_CRASHES = ("tests/storage/test_crashes.py", "tests/storage/test_hazards.py")
_RECOVERY = ("tests/storage/test_hazards.py", "tests/storage/test_recovery.py")

DURABILITY = [
    Mutant(
        "a segment whose making failed is counted before it is made anew",
        (53,),
        (
            Patch(
                _STORAGE,
                "Storage._recover",
                "self._log.last_segment - self._log.is_last_empty",
                "self._log.last_segment",
            ),
        ),
        ("tests/storage/test_crashes.py",),
    ),
    Mutant(
        "a segment that was empty at the start is never counted",
        (),
        (Patch(_STORAGE, "Storage._recover", "if counted < self._log.last_segment:", "if False:"),),
        ("tests/storage/test_crashes.py",),
    ),
    # 1 to 5: term and vote
    Mutant(
        "the vote is not written",
        (1,),
        (
            Patch(
                _STORAGE,
                "Storage._write_metadata",
                "Metadata(hard_state,",
                "Metadata(HardState(hard_state.term, 0, hard_state.longest_promise_ms),",
            ),
        ),
        ("tests/storage/test_contract.py",),
        (1,),
    ),
    Mutant(
        "a vote leaves before it is durable",
        (1,),
        (
            Patch(
                _CORE,
                "Raft.ready",
                "if not isinstance(message, Urgent):",
                "if isinstance(message, RequestVoteReply):\n"
                "    ready.urgent.append(message)\n"
                "elif not isinstance(message, Urgent):",
            ),
        ),
        _BEFORE_DISK,
        (1,),
    ),
    Mutant(
        "a hard state is written only together with entries",
        (1,),
        (Patch(_REPLICA, "Replica._persist", "if hard_state is not None or ready.entries", "if ready.entries"),),
        ("tests/replica", "tests/raft/test_hazards.py", "tests/node/test_node.py"),
        (1,),
    ),
    Mutant(
        "term and vote are written as two records",
        (2,),
        (
            Patch(
                _STORAGE,
                "Storage.persist",
                "self._write_metadata(hard_state)",
                "self._write_metadata(dataclasses.replace(hard_state, term=self.hard_state.term))\n"
                "self._write_metadata(hard_state)",
            ),
        ),
        _CRASHES,
    ),
    Mutant(
        "the vote is cleared on every return to follower",
        (3,),
        (Patch(_CORE, "Raft._become_follower", "if term > self.current_term:", "if True:"),),
        ("tests/raft/test_hazards.py",),
        (1,),
    ),
    Mutant(
        "votes are counted, not collected",
        (4,),
        (
            Patch(
                _ELECTIONS,
                "count_vote",
                "candidate.granted_by.add(voter)",
                "votes = [voter, *sorted(raft.configuration.voters)]\n"
                "candidate.granted_by.add(next((v for v in votes if v not in candidate.granted_by), voter))",
            ),
        ),
        ("tests/raft/test_hazards.py",),
        (1,),
    ),
    Mutant(
        "a small file is emptied and written anew in its place",
        (5,),
        (
            Patch(_DISK, "replace_file", "disk.create(path + TEMPORARY_SUFFIX)", "disk.create(path)"),
            Patch(_DISK, "replace_file", "disk.replace(path + TEMPORARY_SUFFIX, path)", "pass"),
        ),
        _CRASHES,
    ),
    Mutant(
        "a new file is renamed before it is synced",
        (5,),
        (Patch(_DISK, "replace_file", "file.sync()", "pass"),),
        _CRASHES,
    ),
    # 6 and 7: entries
    Mutant(
        "replies leave before their entries are durable",
        (6,),
        (
            Patch(
                _REPLICA,
                "Replica._carry_out",
                "self._persist(ready)",
                "for message in ready.messages:\n    self._send(message)\nready.messages.clear()\nself._persist(ready)",
            ),
        ),
        ("tests/replica",),
        (1,),
    ),
    Mutant(
        "an acknowledgement is no reason to wait for the disk",
        (6,),
        (
            Patch(
                _CORE,
                "Raft.ready",
                "if not isinstance(message, Urgent):",
                "if isinstance(message, AppendEntriesReply):\n"
                "    ready.urgent.append(message)\n"
                "elif not isinstance(message, Urgent):",
            ),
        ),
        _BEFORE_DISK,
    ),
    Mutant(
        "a batch is not synced",
        (6,),
        (Patch(_LOG, "SegmentedLog.append", "self._writer.sync()", "pass"),),
        _CRASHES,
        (1,),
    ),
    Mutant(
        "a sync of the system is none",
        (6,),
        (Patch(_DISK, "_OsFile.sync", "_datasync(self._descriptor)", "pass"),),
        ("tests/storage/test_os_disk.py", "tests/processes/test_durability.py"),
    ),
    Mutant(
        "the leader counts itself before its disk",
        (7,),
        (
            Patch(
                _CORE,
                "Raft._commit_by_majority",
                "matches[self.me] = self.log.durable_index",
                "matches[self.me] = self.log.last_index",
            ),
        ),
        ("tests/raft/test_hazards.py", "tests/raft/test_paper_5_3.py"),
        (3,),
    ),
    Mutant(
        "a cluster of one commits what it is asked for",
        (7,),
        (
            Patch(
                _CORE,
                "Raft.propose",
                "self.log.append(entries)",
                "self.log.append(entries)\n"
                "if majority(self.configuration.voters) == 1:\n"
                "    self._commit(self.log.last_index)",
            ),
        ),
        ("tests/raft/test_hazards.py",),
    ),
    # 8: names
    Mutant(
        "a new name is not synced",
        (8,),
        (Patch(_DISK, "replace_file", "disk.sync_directory(os.path.dirname(path))", "pass"),),
        _CRASHES,
        (1,),
    ),
    Mutant(
        "the directory itself may get lost",
        (8,),
        (Patch(_STORAGE, "_make_directories", "disk.sync_directory(parent)", "pass"),),
        _CRASHES,
    ),
    Mutant(
        "a recovered log's name is not synced",
        (8, 53),
        (Patch(_LOG, "SegmentedLog.mend", "self._disk.sync_directory(self._directory)", "pass"),),
        _CRASHES,
    ),
    # 9 to 11: torn and damaged
    Mutant(
        "a torn tail makes the node unbootable",
        (9,),
        (Patch(_LOG, "SegmentedLog._refuse_damage", "if not is_last:", "if True:"),),
        _RECOVERY,
    ),
    Mutant(
        "the first start can be cut off only once",
        (9, 18),
        (Patch(_STORAGE, "Storage._refuse_strangers", "name.removesuffix(TEMPORARY_SUFFIX)", "name"),),
        ("tests/storage/test_directory.py", "tests/storage/test_crashes.py", "tests/storage/test_hazards.py"),
    ),
    Mutant(
        "new batches are appended after a torn tail",
        (10,),
        (Patch(_LOG, "SegmentedLog.mend", "self._writer.truncate(self._end)", "self._end = self._writer.size()"),),
        _RECOVERY,
    ),
    Mutant(
        "a torn tail is left where it is",
        (10,),
        (Patch(_LOG, "SegmentedLog.mend", "self._writer.truncate(self._end)", "pass"),),
        _RECOVERY,
    ),
    Mutant(
        "damage in the middle is taken for a torn tail",
        (11,),
        (Patch(_LOG, "SegmentedLog._refuse_damage", "if later is not None:", "if False:"),),
        _RECOVERY,
        (2,),
    ),
    Mutant(
        "an earlier segment may be torn",
        (11,),
        (Patch(_LOG, "SegmentedLog._refuse_damage", "if not is_last:", "if False:"),),
        _RECOVERY,
    ),
    Mutant(
        "a body's checksum is not looked at",
        (11,),
        (Patch(_SEGMENT, "decode_frame", "checksum_of(body) != body_checksum", "False"),),
        _RECOVERY,
    ),
    Mutant(
        "a header's checksum is not looked at",
        (11,),
        (
            Patch(
                _SEGMENT,
                "decode_frame_header",
                "start != _FRAME_START.pack(_FRAME_MAGIC, checksum)",
                "start[:4] != _FRAME_MAGIC",
            ),
        ),
        _RECOVERY,
    ),
    Mutant(
        "a frame is valid wherever it lies",
        (11,),
        (Patch(_SEGMENT, "_place_checksum", "segment.incarnation, offset", "segment.incarnation, 0"),),
        _RECOVERY,
    ),
    Mutant(
        "a frame of another member is valid",
        (11,),
        (Patch(_SEGMENT, "_place_checksum", "segment.incarnation, offset", "bytes(16), offset"),),
        _RECOVERY,
    ),
    Mutant(
        "a segment that has disappeared is not missed",
        (11,),
        (Patch(_LOG, "SegmentedLog.recover", "max([at_least, *numbers])", "max([0, *numbers])"),),
        _RECOVERY,
    ),
    Mutant(
        "a damaged vote is read as it is",
        (11,),
        (Patch("metadata.py", "_decode", "last_line != _checksum_line(content)", "False"),),
        _RECOVERY,
    ),
    # 12 to 19
    Mutant(
        "the commit index on the disk is ahead of the log",
        (12,),
        (Patch(_STORAGE, "Storage.persist", "min(commit_index, entries[-1].index)", "commit_index"),),
        ("tests/storage/test_hazards.py", "tests/storage/test_contract.py"),
    ),
    Mutant(
        "a sync that failed is tried again",
        (13,),
        (
            Patch(
                _LOG,
                "SegmentedLog.append",
                "self._writer.sync()",
                "try:\n    self._writer.sync()\nexcept OSError:\n    self._writer.sync()",
            ),
        ),
        ("tests/storage/test_hazards.py", "tests/storage/test_crashes.py"),
    ),
    Mutant(
        "a storage that has failed can be used again",
        (13,),
        (Patch(_STORAGE, "Storage._writing", 'self._unusable = "an earlier write failed"', "pass"),),
        ("tests/storage/test_hazards.py", "tests/storage/test_crashes.py"),
    ),
    Mutant(
        "a node goes on after a failed write",
        (13, 17, 51),
        (Patch(_TURN, "Turn._work_and_release", "self._failed = True", "pass"),),
        ("tests/node/test_turn.py", "tests/node/test_node.py"),
    ),
    Mutant(
        "a leader whose disk fails stays silent and stays",
        (17, 51),
        (Patch(_TURN, "Turn._work_and_release", "self._fail(error)", "pass"),),
        ("tests/node/test_turn.py",),
    ),
    Mutant(
        "the applied index runs ahead of its effects",
        (14,),
        (
            Patch(
                _KV,
                "StateMachine.apply",
                "results = self._apply_operations(entry)",
                "self.applied_index = entry.index\nresults = self._apply_operations(entry)",
            ),
        ),
        ("tests/kv",),
    ),
    Mutant(
        "a restart applies once more what it has applied",
        (14,),
        (Patch(_CORE, "Raft.__init__", "self.handed_out_index = committed_index", "self.handed_out_index = 0"),),
        ("tests/raft/test_core.py", "tests/replica"),
    ),
    Mutant(
        "the length of a large entry does not fit",
        (15,),
        (
            Patch(
                _SEGMENT,
                "encode_frame",
                "len(entry.payload), entry.kind",
                "len(entry.payload) & 0xFFFF, entry.kind",
            ),
        ),
        ("tests/storage/test_hazards.py",),
    ),
    Mutant(
        "files are not closed",
        (19,),
        (Patch(_STORAGE, "Storage._replace", ".close()", ""),),
        ("tests/storage", "tests/processes/test_resources.py"),
    ),
]
