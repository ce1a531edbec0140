"""The program around the node: what it says when it must end, and signals during its start.

Faults that no disk makes on demand are put into the program from outside: it runs as `python -c`, with some lines
of the test before main().
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raftkv import node_program
from tests.support.processes import ROOT, free_port, wait_until


def start(directory: Path, fault: str) -> subprocess.Popen[str]:
    """Node 1 of one, with `fault` done to it before it starts."""
    program = f"import sys, raftkv.node_program as node, raftkv.replica, raftkv.turn\n{fault}\nsys.exit(node.main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, "1", f"127.0.0.1:{free_port()}", "--data-dir", str(directory / "data")],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FAILING_DISK = """
def persist(self, *args):
    raise node.StorageError("log-1: input/output error; look after the disk")
node.Storage.persist = persist
"""

BUG_IN_A_TURN = """
def turn(self, *args):
    raise KeyError("oh")
raftkv.replica.Replica.turn = turn
"""

BROKEN_INVARIANT = """
def turn(self, *args):
    raise node.InvariantBroken("two leaders")
raftkv.replica.Replica.turn = turn
"""

BUG_IN_THE_TIMER = """
def sleep(self):
    raise KeyError("oh")
raftkv.turn.Turn._sleep = sleep
"""

BUG_IN_THE_START = """
def recover(*args):
    raise KeyError("oh")
node.recover = recover
"""


@pytest.mark.parametrize(
    ("fault", "last_line"),
    [
        pytest.param(FAILING_DISK, "log-1: input/output error; look after the disk", id="disk"),
        pytest.param(BUG_IN_A_TURN, "a bug, KeyError: 'oh'; report this with the log", id="bug in a turn"),
        pytest.param(BUG_IN_THE_TIMER, "a bug, KeyError: 'oh'; report this with the log", id="bug in the timer"),
        pytest.param(BUG_IN_THE_START, "a bug, KeyError: 'oh'; report this with the log", id="bug in the start"),
        pytest.param(
            BROKEN_INVARIANT,
            "an invariant of the algorithm is broken (two leaders); keep the data directory and report this",
            id="invariant",
        ),
    ],
)
def test_whatever_goes_wrong_ends_the_process_with_one_clear_last_line(
    tmp_path: Path, fault: str, last_line: str
) -> None:
    """Hazards 13 and 51."""
    with start(tmp_path, fault) as process:
        _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert log.splitlines()[-1] == f"node 1 stopped: {last_line}"
    assert log.count("stopped:") == 1
    assert ("Traceback" in log) == (fault is not FAILING_DISK), "a traceback is for bugs only"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_is_told_to_stop_while_it_starts_stops_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with start(
        tmp_path, "node.recover = lambda *args: (open('recovers', 'w').close(), node.time.sleep(60))"
    ) as process:
        wait_until((tmp_path / "recovers").exists, "the long recovery")
        process.send_signal(number)
        output, log = process.communicate(timeout=20)
    assert (process.returncode, output, log) == (0, "", "")


def test_options_may_stand_before_the_addresses() -> None:
    arguments = node_program._parse_arguments(["1", "--log-level", "error", "h:1", "h:2", "--data-dir", "d", "h:3"])
    assert (arguments.id, arguments.addresses) == (1, ["h:1", "h:2", "h:3"])


def test_a_long_replay_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = node_program._Progress("node 1")
    progress(1024, 2_000_000)
    assert not capsys.readouterr().err, "a short one says nothing"
    progress._next_line_at = 0
    progress(1_000_448, 2_000_000)
    assert capsys.readouterr().err == "node 1 replays 2,000,000 entries: 50%\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the following arguments are required: id, address"),
        (["1"], "the following arguments are required: address"),
        (["one", "h:1"], "argument id: 'one' is not a whole number from 1 on"),
        (["2", "h:1"], "node 2 is not one of the members that are given (1)"),
        (["0", "h:1"], "node 0 is not one of the members that are given (1)"),
        (["1", "h:1", "h:1"], "address h:1 is given twice"),
        (["1", "h"], "'h' is not of the form <host>:<port>"),
        (["1", "h:1", "--config", "nowhere.ini"], "nowhere.ini"),
        (["1", "h:1", "--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["1", "h:1", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert node_program.main(words) == 2
    out, err = capsys.readouterr()
    assert not out
    assert says in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["1", "--data-dir", "d", "h:1", "h:2"],
        ["1", "h:1", "--data-dir", "d", "h:2"],
        ["--data-dir", "d", "1", "h:1", "h:2"],
        ["1", "h:1", "h:2", "--data-dir", "d"],
    ],
)
def test_options_may_stand_anywhere(words: list[str]) -> None:
    """scripts/cluster.py puts --data-dir between the id and the addresses."""
    given = node_program._parse_arguments(words)
    assert (given.id, given.addresses, given.data_dir) == (1, ["h:1", "h:2"], Path("d"))


def test_the_members_to_ask_may_stand_before_another_option() -> None:
    given = node_program._parse_arguments(["4", "--join", "h:1", "h:2", "--data-dir", "d"])
    assert (given.addresses, given.join, given.data_dir) == ([], ["h:1", "h:2"], Path("d"))
