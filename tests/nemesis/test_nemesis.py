"""Short runs of the nemesis, and what it would say if something were wrong."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.operations import Batch, Code, Operation, encode_batch
from raftkv.raft.types import Entry, EntryKind
from raftkv.storage import Storage
from tests.client.fake_cluster import FakeCluster
from tests.linearizability.history import Kind, Outcome, Recorder, load
from tests.linearizability.history import Operation as Recorded
from tests.nemesis import faults, sandbox
from tests.nemesis.aftermath import Aftermath, Replay, lost_writes
from tests.nemesis.faults import Arena, Script
from tests.nemesis.nemesis import Run, Storm
from tests.nemesis.report import Deed, Plot, hardly_answered, too_seldom
from tests.nemesis.workload import GIVEN_UP, ImpatientWorker, acknowledged_ledger
from tests.support.processes import ROOT
from tests.support.ways import Futures, Tasks

FAULTS = ["kill the leader", "pause the leader", "kill all", "part the leader", "reset"]
RUNS = {
    "test_a_history_is_linearizable_while_the_leader_is_killed_and_paused_and_all_are_killed": [
        *("--network", "proxy", "--minutes", "0.25", "--only", *FAULTS),
    ],
    "test_a_short_run_with_all_faults_in_namespaces_ends_well": ["--nodes", "3", "--minutes", "0.25"],
}
"""By the name of the test: what its run is started with."""
needs_namespaces = pytest.mark.skipif(bool(sandbox.why_not()), reason=f"no namespaces: {sandbox.why_not()}")


class NemesisRun:
    """A run in a process of its own."""

    def __init__(self, directory: Path, words: Sequence[str]) -> None:
        self.kept = directory / "out"
        self._said = directory / "said"
        command = [sys.executable, str(ROOT / "scripts" / "nemesis.py"), "--out", str(self.kept), *words]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)

    def said(self) -> str:
        """What it said, once it has found that all is well; AssertionError otherwise."""
        status = self._process.wait(110)
        said = self._said.read_text(errors="replace")
        assert status == 0, f"replay with the words of the first line\n{said}"
        return said

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, NemesisRun]]:
    """Those that the selected tests need, begun at the same time: they mostly wait, for nodes and ends of faults."""
    needed = [item for item in request.session.items if item.name in RUNS]
    if sandbox.why_not():
        needed = [item for item in needed if needs_namespaces.mark not in item.iter_markers("skipif")]
    begun: dict[str, NemesisRun] = {}
    try:
        for item in needed:
            begun[item.name] = NemesisRun(tmp_path_factory.mktemp("nemesis"), RUNS[item.name])
        yield begun
    finally:
        for run in begun.values():
            run.end()


@pytest.fixture
def run_of_its_own(runs: dict[str, NemesisRun], request: pytest.FixtureRequest) -> NemesisRun:
    return runs[request.node.name]


def test_a_history_is_linearizable_while_the_leader_is_killed_and_paused_and_all_are_killed(
    run_of_its_own: NemesisRun,
) -> None:
    """Five nodes in their default configuration, clients of all kinds, a reader bound to each node."""
    assert "ALL IS WELL" in run_of_its_own.said()
    history = load(run_of_its_own.kept / "history.jsonl")
    answered = {operation.client.partition("-")[0] for operation in history if operation.outcome is Outcome.OK}
    assert answered >= {"client", "futures", "tasks", "plain", "reader"}
    given_up = {operation.client.partition("-")[0] for operation in history if operation.note == GIVEN_UP}
    assert given_up == {"futures", "tasks"}
    assert (run_of_its_own.kept / "plot.svg").read_text().startswith("<svg")


@needs_namespaces
def test_a_short_run_with_all_faults_in_namespaces_ends_well(run_of_its_own: NemesisRun) -> None:
    assert "ALL IS WELL" in run_of_its_own.said()


@pytest.mark.parametrize(("way", "outcome"), [(Futures, Outcome.NOT_APPLIED), (Tasks, Outcome.UNKNOWN)])
def test_a_call_that_a_worker_gives_up_has_the_outcome_that_is_certain(
    way: type[Futures], outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody leads, so none is ever sent. Of a future `cancel` says so; of a task it says nothing."""
    monkeypatch.setattr("tests.nemesis.workload._GIVEN_UP_SHARE", 1.0)
    recorder = Recorder()
    with FakeCluster() as cluster, closing(way(cluster.addresses)) as client:
        cluster.elect(0)
        worker = ImpatientWorker("w", random.Random(1), client)
        assert not any(worker.work(recorder, 0.0) for _ in range(20))
    assert {(operation.outcome, operation.note) for operation in recorder.history()} == {(outcome, GIVEN_UP)}


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


def aftermath_of(*nodes: SimpleNamespace) -> Aftermath:
    """Before any check, of a cluster with these nodes."""
    cluster: Any = SimpleNamespace(
        nodes=nodes,
        addresses=[f"127.0.0.1:{node.id}" for node in nodes],
        stop=lambda: [node.stop() for node in nodes if node.is_running],
    )
    return Aftermath(cluster, Recorder(), lambda line: None)


def test_a_directory_that_can_not_be_read_is_a_finding_and_not_the_end_of_the_report(tmp_path: Path) -> None:
    members = {1: "127.0.0.1:1", 2: "127.0.0.1:2"}
    nodes = []
    for member in members:
        Storage(tmp_path / str(member), member_id=member, members=members).close()
        stopped = SimpleNamespace(status=0)
        nodes.append(
            SimpleNamespace(
                id=member, is_running=True, data_dir=tmp_path / str(member), stop=lambda stopped=stopped: stopped
            )
        )
    (tmp_path / "2" / "metadata").write_bytes(b"damaged")
    aftermath = aftermath_of(*nodes)

    aftermath._compare_states()

    assert not aftermath.all_is_well
    assert "metadata: damaged" in aftermath.findings[-1].detail


def test_a_node_that_does_not_start_again_is_a_finding_and_the_history_is_judged_all_the_same(tmp_path: Path) -> None:
    def never() -> None:
        raise AssertionError("node 1 has ended with status 1")

    Storage(tmp_path / "1", member_id=1, members={1: "127.0.0.1:1"}).close()
    aftermath = aftermath_of(
        SimpleNamespace(id=1, wait_ready=never, is_running=False, data_dir=tmp_path / "1", whole_log="")
    )

    aftermath.examine()

    assert aftermath.findings[0].detail == "node 1 has ended with status 1"
    assert aftermath.verdict is not None
    assert not aftermath.all_is_well


def deeds_of(*faults: str) -> list[Deed]:
    return [Deed("a lane", fault, float(second), second + 0.5) for second, fault in enumerate(faults)]


def test_clients_of_one_kind_that_are_hardly_ever_answered_are_named() -> None:
    def calls(client: str, outcome: Outcome, count: int) -> list[Recorded]:
        return [Recorded(client, Kind.GET, b"k", 0.0, 1.0, outcome) for _ in range(count)]

    history = [
        *calls("tasks-1", Outcome.NOT_APPLIED, 299),
        *calls("tasks-2", Outcome.OK, 1),
        *calls("reader-1", Outcome.NOT_APPLIED, 299),
        *calls("reader-2", Outcome.OK, 9),
        *calls("late", Outcome.UNKNOWN, 99),
    ]
    assert hardly_answered(history) == ["hardly answered: tasks, 1 of 300 calls"]


def test_a_fault_that_happened_too_seldom_in_a_long_run_is_named() -> None:
    deeds = deeds_of(*["ring"] * 5, *["kill all"] * 4)
    kinds = ["ring", "kill all", "delay"]
    assert too_seldom(deeds, kinds, 20 * 60) == [
        "too seldom: delay, 0 of 5 times",
        "too seldom: kill all, 4 of 5 times",
    ]
    assert too_seldom(deeds, kinds, 5 * 60) == ["too seldom: delay, 0 of 1 times"]
    assert too_seldom(deeds, kinds, 3 * 60) == [], "a short run can't get round to all of them"


@pytest.mark.parametrize(("kinds", "ends_well"), [(["ring"], True), (["ring", "delay"], False)])
def test_a_run_in_which_a_fault_did_not_happen_ends_as_one_that_failed(
    tmp_path: Path, kinds: list[str], ends_well: bool
) -> None:
    run = Run(seed=1, seconds=300.0, size=3, directory=tmp_path)
    assert run._report(aftermath_of(), deeds_of("ring"), kinds, [], 0.0, 300.0) == ends_well
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert lines[-1] == ("ALL IS WELL" if ends_well else "TOO LITTLE HAS BEEN TRIED")
    assert ("too seldom: delay, 0 of 1 times" in lines) != ends_well


def test_a_fault_that_came_to_nothing_does_not_count(tmp_path: Path) -> None:
    def in_vain(arena: Arena) -> Script:
        yield 0.0
        return False

    def done(arena: Arena) -> Script:
        yield 0.0

    arena: Any = SimpleNamespace(rng=random.Random(1))
    storm = Storm(arena, {"one": [in_vain], "other": [done]}, seconds=5.0)
    storm._ends_at = time.monotonic() + 1.0
    calm: Any = SimpleNamespace(trouble=[])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.nemesis.nemesis._CALM_SECONDS", (0.0, 0.1))
        storm.rage(calm)
    assert {deed.fault for deed in storm.deeds} == {"done"}


def test_a_disk_that_can_not_be_stalled_since_the_node_is_down_is_a_fault_that_came_to_nothing(tmp_path: Path) -> None:
    arena: Any = SimpleNamespace(target=lambda: SimpleNamespace(is_running=False))
    for fault in (faults.stall_the_disk_of_the_leader, faults.fail_a_sync, faults.exhaust_descriptors):
        script = fault(arena)
        with pytest.raises(StopIteration) as ended:
            next(script)
        assert ended.value.value is False


def test_the_plot_of_an_empty_run_is_a_picture_too() -> None:
    assert "</svg>" in Plot([], [Deed("network", "ring", 1.0, 2.0)], 0.0, 3.0).svg("nothing")
