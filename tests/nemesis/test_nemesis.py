"""Short runs of the nemesis, and what it would say if something were wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raftkv.operations import Batch, Code, Operation, encode_batch
from raftkv.raft.types import Entry, EntryKind
from tests.linearizability.history import Kind, Recorder
from tests.nemesis import sandbox
from tests.nemesis.aftermath import Replay, lost_writes
from tests.nemesis.report import Deed, Plot
from tests.nemesis.workload import acknowledged_ledger
from tests.support.processes import ROOT


def run_nemesis(directory: Path, *words: str) -> str:
    """What a run said, if it found that all is well; AssertionError otherwise."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "nemesis.py"), "--out", str(directory / "out"), *words],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"replay with the words of the first line\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_history_is_linearizable_while_the_leader_is_killed_and_paused_and_all_are_killed(tmp_path: Path) -> None:
    """Five nodes in their default configuration, clients of all kinds, a reader bound to each node."""
    faults = ["kill the leader", "pause the leader", "kill all", "part the leader", "reset"]
    said = run_nemesis(tmp_path, "--network", "proxy", "--minutes", "0.25", "--only", *faults)
    assert "ALL IS WELL" in said
    assert (tmp_path / "out" / "plot.svg").read_text().startswith("<svg")


@pytest.mark.skipif(bool(sandbox.why_not()), reason=f"no namespaces: {sandbox.why_not()}")
def test_a_short_run_with_all_faults_in_namespaces_ends_well(tmp_path: Path) -> None:
    said = run_nemesis(tmp_path, "--nodes", "3", "--minutes", "0.25")
    assert "ALL IS WELL" in said


def test_an_acknowledged_write_that_is_missing_in_the_end_is_noticed() -> None:
    recorder = Recorder()
    for key in (b"ledger/kept", b"ledger/lost"):
        recorder.invoke("c", Kind.SET, key, key).returned()
    recorder.invoke("c", Kind.SET, b"ledger/doubtful", b"?").unknown()
    for key, found in ((b"ledger/kept", b"ledger/kept"), (b"ledger/lost", None), (b"ledger/doubtful", None)):
        recorder.invoke("reader", Kind.GET, key).returned(found)
    history = recorder.history()
    assert lost_writes(history, acknowledged_ledger(history)) == [b"ledger/lost"]


def test_a_write_that_took_effect_twice_is_noticed() -> None:
    """The same two writes, in batches without a session, as a client without sessions would repeat them."""

    def entry(index: int, *values: bytes) -> Entry:
        batch = Batch([Operation(Code.SET, b"k", value) for value in values])
        return Entry(index, 1, EntryKind.BATCH, encode_batch(batch))

    replay = Replay([entry(1, b"once"), entry(2, b"twice"), entry(3, b"other"), entry(4, b"twice")], until=4)
    assert replay.applied_twice == {b"twice"}
    assert Replay([entry(1, b"once"), entry(2, b"twice")], until=2).applied_twice == set()


def test_the_plot_of_an_empty_run_is_a_picture_too() -> None:
    assert "</svg>" in Plot([], [Deed("network", "ring", 1.0, 2.0)], 0.0, 3.0).svg("nothing")
