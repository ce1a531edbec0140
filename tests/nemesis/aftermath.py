"""What must hold when the storm is over: theory of operation.

The network is whole again, every node runs, and no client is at work. Then, in this order:

1. the cluster makes progress: within a bounded time all nodes have applied the same log, and a write goes through;
2. all that clients ever touched is read, into the history;
3. all nodes are killed with -9 and started again, and all of it is read once more;
4. nothing that was acknowledged is missing from the ledger; the history, these reads included, is linearizable;
5. the nodes are stopped, and their directories opened one after the other: at equal index all have the same state,
   sessions and all, and no write has taken effect twice;
6. no node has ended, in all the run, for a reason that no fault explains.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from raftkv import Error
from raftkv.kv import StateMachine
from raftkv.operations import Batch, Code, Malformed, decode_batch, parse_text
from raftkv.raft.types import Entry, EntryKind
from raftkv.snapshots import load_snapshot
from raftkv.storage import Storage, StorageError
from tests.linearizability.checker import check
from tests.linearizability.history import Kind, Operation, Recorder
from tests.linearizability.search import Undecided
from tests.linearizability.verdict import Verdict
from tests.nemesis.workload import acknowledged_ledger, keys_of, read_everything
from tests.support.processes import Cluster, Node, unexpected_in

_CATCH_UP_SECONDS: Final = 60.0
_PROGRESS_SECONDS: Final = 10.0
_EXPLAINED: Final = ("No space left on device", "Input/output error", "Too many open files")
"""What a node may say of its end after a fault of its disk or of its descriptors."""
_LAST_WORDS: Final = re.compile(r"^(?:node \d+ stopped|raft_node\.py): (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    what: str
    is_well: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"{'ok  ' if self.is_well else 'FAIL'}  {self.what}" + (f": {self.detail}" if self.detail else "")


class Aftermath:
    """Carries out the checks, and keeps what they found."""

    def __init__(self, cluster: Cluster, recorder: Recorder, tell: Callable[[str], None]) -> None:
        self.findings: list[Finding] = []
        self.verdict: Verdict | None = None
        self._cluster = cluster
        self._recorder = recorder
        self._tell = tell

    def examine(self) -> None:
        """All of it. What can't be checked any more after a failure is left out."""
        try:
            self._progress()
            keys = keys_of(self._recorder.history())
            self._tell(f"reading {len(keys)} keys")
            read_everything(self._cluster.addresses, keys, self._recorder, "after the storm")
            self._tell("killing all nodes, starting them, reading everything again")
            self._cluster.kill()
            self._cluster.start()
            read_everything(self._cluster.addresses, keys, self._recorder, "after kill -9 of all")
            self._cluster.wait_caught_up(_CATCH_UP_SECONDS)
        except (AssertionError, Error) as error:
            self._find("the cluster makes progress after the storm", False, str(error))
        self._judge()
        self._compare_states()
        self._look_into_logs()

    @property
    def all_is_well(self) -> bool:
        return all(finding.is_well for finding in self.findings)

    def _find(self, what: str, is_well: bool, detail: str = "") -> None:
        self.findings.append(Finding(what, is_well, detail))
        self._tell(str(self.findings[-1]))

    # ---- the checks --------------------------------------------------------------------------------------------------

    def _progress(self) -> None:
        for node in self._cluster.nodes:
            node.wait_ready()
        began = time.monotonic()
        with self._cluster.client(timeout=_PROGRESS_SECONDS) as client:
            call = self._recorder.invoke("after the storm", Kind.SET, b"progress", b"made")
            client.set("progress", "made")
            call.returned()
        written = time.monotonic() - began
        self._cluster.wait_caught_up(_CATCH_UP_SECONDS)
        caught_up = time.monotonic() - began
        self._find(
            "the cluster makes progress after the storm",
            True,
            f"a write was acknowledged after {written:.1f} s, all nodes had the same log after {caught_up:.1f} s",
        )
        replies = [node.status() for node in self._cluster.nodes]
        states = {(reply.applied_index, reply.revision, reply.keys) for reply in replies if reply}
        self._find("all nodes say that they are in the same state", len(states) == 1, str(sorted(states)))

    def _judge(self) -> None:
        history = self._recorder.history()
        self._tell(f"checking a history of {len(history)} operations")
        ledger = acknowledged_ledger(history)
        lost = lost_writes(history, ledger)
        self._find(
            "every acknowledged write of the ledger is there, also after kill -9 of all",
            not lost,
            f"lost: {lost[:5]}, {len(lost)} of {len(ledger)}" if lost else f"{len(ledger)} writes",
        )
        try:
            self.verdict = check(history)
        except Undecided as error:
            self._find("the history is linearizable", False, f"not decided: {error}")
            return
        detail = f"{self.verdict.operations} operations on {self.verdict.keys} keys"
        if self.verdict.violations:
            detail += "\n" + "\n".join(map(str, self.verdict.violations))
        self._find("the history is linearizable", self.verdict.linearizable, detail)

    def _compare_states(self) -> None:
        nodes = self._cluster.nodes
        statuses = [finished.status for finished in self._cluster.stop()]
        self._find("every node stops when it is asked to, with status 0", set(statuses) <= {0}, str(statuses))
        try:
            self._compare_directories(nodes)
        except StorageError as error:
            self._find("the nodes' directories can be read", False, str(error))

    def _compare_directories(self, nodes: Sequence[Node]) -> None:
        # Some may have joined, and know of no founding members.
        storages = [Storage(node.data_dir, member_id=node.id, members=None) for node in nodes]
        common = min(storage.commit_index for storage in storages)
        replays = [Replay.of(storage, common) for storage in storages if begins_before(storage, common)]
        for storage in storages:
            storage.close()
        digests = {replay.digest for replay in replays}
        self._find(
            "the members' logs lead to the same state",
            len(digests) == 1,
            f"up to entry {common}: " + ", ".join(digest.hex()[:8] for digest in sorted(digests)),
        )
        twice = sorted(set().union(*(replay.applied_twice for replay in replays)))
        self._find("no write has taken effect twice", not twice, ", ".join(map(repr, twice[:5])))

    def _look_into_logs(self) -> None:
        logs = "".join(node.whole_log for node in self._cluster.nodes)
        saved, sent = logs.count("has saved its state"), logs.count("by a snapshot up to entry")
        self._tell(f"nodes have saved their state {saved} times, and got another's {sent} times")
        for node in self._cluster.nodes:
            said = [words for words in _LAST_WORDS.findall(node.whole_log) if not any(e in words for e in _EXPLAINED)]
            sign = unexpected_in(node.whole_log)
            if said or sign:
                self._find(f"{node} ended only for reasons that a fault explains", False, "; ".join([*said, sign]))


def lost_writes(history: Sequence[Operation], ledger: dict[bytes, bytes]) -> list[bytes]:
    """Keys of the ledger that a later read found missing, or holding something else."""
    reads = [op for op in history if op.kind is Kind.GET and op.key in ledger and op.returned_at is not None]
    return sorted({op.key for op in reads if op.result != ledger[op.key]})


def begins_before(storage: Storage, index: int) -> bool:
    """Whether the member can tell its state after entry `index`: its snapshot must not be of a later one."""
    return storage.snapshot is None or storage.snapshot.last.index <= index


class Replay:
    """A member's log, applied anew up to an index; to the state of its snapshot, if it has one."""

    @classmethod
    def of(cls, storage: Storage, until: int) -> Replay:
        """From a data directory."""
        machine = StateMachine()
        load_snapshot(storage, machine)
        return cls(storage.replay(), until, machine)

    def __init__(self, entries: Iterable[Entry], until: int, machine: StateMachine | None = None) -> None:
        self.applied_twice: set[bytes] = set()
        """Values, each of which was to be written once, and was written at two revisions."""
        self._written_at: dict[bytes, int] = {}
        self._machine = machine or StateMachine()
        for entry in entries:
            if entry.index > until:
                break
            self._machine.apply(entry)
            self._note_effects(entry)
        self.digest = self._machine.digest()

    def _note_effects(self, entry: Entry) -> None:
        for operation in _batch_of(entry).operations:
            if operation.code in (Code.SET, Code.SET_IF_ABSENT, Code.COMPARE_AND_SET):
                record = self._machine.record(operation.key)
                if record is not None and record.value == operation.value:
                    first = self._written_at.setdefault(operation.value, record.mod_revision)
                    if first != record.mod_revision:
                        self.applied_twice.add(operation.value)


def _batch_of(entry: Entry) -> Batch:
    try:
        if entry.kind is EntryKind.BATCH:
            return decode_batch(entry.payload)
        if entry.kind is EntryKind.TEXT:
            return Batch([parse_text(entry.payload.decode())])
    except Malformed:
        pass
    return Batch([])
