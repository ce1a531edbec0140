"""The shell scripts, used as a newcomer does: on a fresh clone, in a directory with a space in its name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.copies import ROOT, copy_project
from tests.support.processes import Finished, free_port, run, wait_until

SECONDS = 300.0
"""The first script that is run installs the dependencies."""

pytestmark = pytest.mark.timeout(SECONDS)


class Clone:
    """A copy of the project, and what a person does in it."""

    def __init__(self, directory: Path, base_port: int) -> None:
        self.directory = directory
        self.base_port = base_port
        self.elsewhere = directory.parent
        """The current directory of every command: the scripts must not care."""

    def script(self, name: str, *arguments: str, **environment: str | None) -> Finished:
        changed = {"RAFTKV_BASE_PORT": str(self.base_port), **environment}
        env = {k: v for k, v in {**os.environ, **changed}.items() if v is not None}
        return run([str(self.directory / "scripts" / name), *arguments], self.elsewhere, SECONDS, env=env)

    def client(self, *commands: str) -> list[object]:
        """What the client program answers to each command, when it is given the third node's address."""
        words = [word for command in commands for word in ("-c", command)]
        program = [str(self.directory / ".venv/bin/python"), str(self.directory / "client.py")]
        done = run([*program, f"127.0.0.1:{self.base_port + 2}", "--json", *words], self.elsewhere, 60)
        assert done.status == 0, done.stdout + done.stderr
        return [json.loads(line)["value"] for line in done.stdout.splitlines()]

    def roles(self) -> list[object]:
        """What each node thinks it is."""
        (rows,) = self.client("STATUS")
        assert isinstance(rows, list)
        return [row["role"] for row in rows]

    def node_directory(self, node_id: int) -> Path:
        return self.directory / "data" / "current" / f"node-{node_id}"

    def pid(self, node_id: int) -> int:
        return int(self.node_directory(node_id).with_suffix(".pid").read_text())

    def pids(self, size: int) -> list[int]:
        return [self.pid(i) for i in range(1, size + 1)]


def free_ports_in_a_row(count: int) -> int:
    """The first of so many ports that nobody listens on."""

    def first() -> int | None:
        base = free_port()
        try:
            for port in range(base + 1, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            return None
        return base

    return wait_until(first, f"{count} free ports in a row")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone in which nothing has been run; tests only call what fails before it changes anything."""
    return copy_project(tmp_path_factory.mktemp("untouched") / "a clone")


@pytest.fixture(scope="module")
def clone_with_first_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Clone, Finished]]:
    """A clone in which start_cluster.sh has been run once, and what it said."""
    directory = copy_project(tmp_path_factory.mktemp("scripts") / "a fresh clone")
    clone = Clone(directory, free_ports_in_a_row(3))
    try:
        yield clone, clone.script("start_cluster.sh", "3")
    finally:
        clone.script("stop_cluster.sh")


@pytest.fixture
def cluster(clone_with_first_run: tuple[Clone, Finished]) -> Clone:
    """A clone with a cluster of three, all running."""
    clone, _ = clone_with_first_run
    done = clone.script("start_cluster.sh", "3")
    assert done.status == 0, done.stderr
    return clone


@pytest.fixture
def stopped(clone_with_first_run: tuple[Clone, Finished]) -> Clone:
    """The same clone while none of the three runs."""
    clone, _ = clone_with_first_run
    assert clone.script("stop_cluster.sh").status == 0
    return clone


def is_alive(pid: int) -> bool:
    return process_state(pid) not in ("", "Z")


def process_state(pid: int) -> str:
    shown = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()[:1]


def assert_one_line(done: Finished, status: int, text: str) -> None:
    assert done.status == status, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert text in done.stderr


# ---- start_cluster.sh and stop_cluster.sh ----------------------------------------------------------------------------


def test_the_first_run_sets_up_everything_and_prints_a_table_of_a_serving_cluster(
    clone_with_first_run: tuple[Clone, Finished],
) -> None:
    clone, first = clone_with_first_run
    assert first.status == 0, first.stderr
    assert "making .venv" in first.stderr
    for i in range(3):
        assert f"127.0.0.1:{clone.base_port + i}" in first.stdout
    assert first.stdout.count("leader") >= 1
    assert "Traceback" not in first.stdout + first.stderr


def test_a_cluster_that_was_started_takes_writes_and_reads(cluster: Clone) -> None:
    assert cluster.client("SET started yes", "GET started") == ["OK", "yes"]


def test_starting_again_leaves_the_running_nodes_alone(cluster: Clone) -> None:
    before = cluster.pids(3)
    done = cluster.script("start_cluster.sh", "3")
    assert done.status == 0
    assert "making .venv" not in done.stderr
    assert cluster.pids(3) == before


def test_starting_again_starts_what_is_missing(cluster: Clone) -> None:
    before = cluster.pids(3)
    cluster.script("node.sh", "kill", "2")
    done = cluster.script("start_cluster.sh", "3")
    assert done.status == 0
    assert "starting node 2\n" in done.stderr
    after = cluster.pids(3)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    assert is_alive(after[1])


def test_a_node_that_has_been_removed_is_stopped_again_and_one_that_has_been_added_again_is_not(cluster: Clone) -> None:
    """The one that was added again has an empty directory, and joins."""
    add = f"ADD 1=127.0.0.1:{cluster.base_port}"
    assert cluster.client("REMOVE 1") == ["OK"]
    running = cluster.script("start_cluster.sh", "3")
    assert "node 1 is no member of the cluster any more: scripts/node.sh kill 1 stops it" in running.stderr
    assert is_alive(cluster.pid(1)), "nodes that run are left alone"
    cluster.script("node.sh", "kill", "1")
    stopped_again = cluster.script("start_cluster.sh", "3")
    assert stopped_again.status == 0, stopped_again.stderr
    assert (
        f"node 1 is no member of the cluster any more: stopped again, its data stay ({add} takes"
        in stopped_again.stderr
    )
    assert not cluster.node_directory(1).with_suffix(".pid").exists()

    shutil.rmtree(cluster.node_directory(1))
    assert cluster.client(add) == ["OK"]
    join = [str(cluster.directory / ".venv/bin/python"), str(cluster.directory / "raft_node.py"), "1"]
    join += ["--data-dir", str(cluster.node_directory(1)), "--join", f"127.0.0.1:{cluster.base_port + 1}"]
    with subprocess.Popen(join, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as node:
        assert node.stdout is not None
        assert "ready" in node.stdout.readline()
        wait_until(lambda: cluster.client("MEMBERS")[0][0]["is_learner"] is False, "it has its vote")  # type: ignore[index]
        node.terminate()
    started = cluster.script("start_cluster.sh", "3")
    assert started.status == 0, started.stderr
    assert "any more" not in started.stderr
    assert sorted(map(str, cluster.roles())) == ["follower", "follower", "leader"]


def test_two_starts_at_once_make_one_cluster(stopped: Clone) -> None:
    results: list[Finished] = []
    threads = [
        threading.Thread(target=lambda: results.append(stopped.script("start_cluster.sh", "3"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.status for done in results] == [0, 0]
    assert sorted("starting nodes" in done.stderr for done in results) == [False, True]


def test_another_size_is_refused_while_a_cluster_runs(cluster: Clone) -> None:
    before = cluster.pids(3)
    done = cluster.script("start_cluster.sh", "5")
    assert_one_line(done, 1, "is running (nodes 1, 2 and 3): stop it first with scripts/stop_cluster.sh")
    assert cluster.pids(3) == before


def test_what_was_written_is_there_after_stop_and_start(cluster: Clone) -> None:
    cluster.client("SET kept 'through a stop'")
    assert cluster.script("stop_cluster.sh").status == 0
    assert cluster.script("start_cluster.sh", "3").status == 0
    assert cluster.client("GET kept") == ["through a stop"]


def test_without_a_base_port_a_stopped_cluster_goes_on_where_it_was(cluster: Clone) -> None:
    cluster.client("SET kept 'on its port'")
    cluster.script("stop_cluster.sh")
    done = cluster.script("start_cluster.sh", "3", RAFTKV_BASE_PORT=None)
    assert done.status == 0
    assert "new, empty" not in done.stderr
    assert cluster.client("GET kept") == ["on its port"]


def test_beginning_another_cluster_is_said(stopped: Clone) -> None:
    port = stopped.base_port
    try:
        first, again = (stopped.script("start_cluster.sh", "1") for _ in range(2))
    finally:
        stopped.script("stop_cluster.sh")
        back = stopped.script("start_cluster.sh", "3")
    line = f"starting a new, empty cluster in data/cluster-1-{port} (the last one was data/cluster-3-{port})\n"
    assert line in first.stderr
    assert "the last one was" not in again.stderr
    line = f"going on with the cluster in data/cluster-3-{port} (the last one was data/cluster-1-{port})\n"
    assert line in back.stderr


def test_stopping_ends_every_node_even_a_paused_one_and_says_so(cluster: Clone) -> None:
    pids = cluster.pids(3)
    cluster.script("node.sh", "pause", "2")
    assert_one_line(cluster.script("stop_cluster.sh"), 0, "stopped nodes 1, 2 and 3")
    assert not any(map(is_alive, pids))


def test_stopping_twice_is_no_error(stopped: Clone) -> None:
    assert_one_line(stopped.script("stop_cluster.sh"), 0, "no node is running")


def test_a_pid_that_belongs_to_another_process_by_now_gets_no_signal(stopped: Clone) -> None:
    """Not even when that process is a node of another directory."""
    stranger = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\nwhile True: time.sleep(60)",
            "raft_node.py",
            "1",
            "--data-dir",
            "elsewhere",
        ]
    )
    try:
        stopped.node_directory(1).with_suffix(".pid").write_text(f"{stranger.pid}\n")
        assert_one_line(stopped.script("stop_cluster.sh"), 0, "no node is running")
        assert_one_line(stopped.script("node.sh", "kill", "1"), 0, "node 1 was dead already")
        assert_one_line(stopped.script("node.sh", "pause", "1"), 1, "node 1 is not running")
        assert stranger.poll() is None
        assert process_state(stranger.pid) != "T"
    finally:
        stranger.kill()
        stranger.wait()


def test_a_pid_file_with_nonsense_in_it_means_that_the_node_does_not_run(stopped: Clone) -> None:
    for content in ("", "x", "-1", "0", "99999999"):
        stopped.node_directory(1).with_suffix(".pid").write_text(content)
        assert_one_line(stopped.script("stop_cluster.sh"), 0, "no node is running")


def test_a_node_that_cannot_start_is_named_with_its_last_words(stopped: Clone) -> None:
    port = stopped.base_port + 1
    with socket.socket() as occupant:
        occupant.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        occupant.bind(("127.0.0.1", port))
        occupant.listen()
        done = stopped.script("start_cluster.sh", "3")
    assert done.status == 1
    (words,) = [line for line in done.stderr.splitlines() if line.startswith("node 2 has stopped: ")]
    assert f"127.0.0.1:{port}" in words
    assert "node 2 did not start" in done.stderr
    assert "Traceback" not in done.stderr


def test_after_ctrl_c_every_node_that_was_started_can_be_stopped(stopped: Clone) -> None:
    """Most of all the one that was being started just then."""
    program = [str(stopped.directory / ".venv/bin/python"), str(stopped.directory / "scripts/cluster.py"), "up", "3"]
    env = {**os.environ, "RAFTKV_BASE_PORT": str(stopped.base_port)}

    def running() -> int:
        processes = subprocess.run(["ps", "-ww", "-A", "-o", "command="], capture_output=True, text=True, check=True)
        return processes.stdout.count(f"--data-dir {stopped.directory}/data/")

    def has_started(count: int) -> bool:
        return running() >= count

    for started in (0, 1, 2, 3, 1, 2, 1, 2):
        with subprocess.Popen(program, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as start:
            assert start.stderr is not None
            assert start.stderr.readline() == "starting nodes 1, 2 and 3\n"
            wait_until(partial(has_started, started), f"{started} nodes have been started")
            start.send_signal(signal.SIGINT)
            said = start.stderr.read()
        assert start.returncode == (130 if "interrupted" in said else 0), "it may have been quicker than the signal"
        assert stopped.script("stop_cluster.sh").status == 0
        assert running() == 0


def test_nodes_that_take_their_time_are_not_said_to_have_failed(stopped: Clone) -> None:
    done = stopped.script("start_cluster.sh", "3", RAFTKV_START_SECONDS="0.001")
    assert done.status == 1
    assert "nodes 1, 2 and 3 are not ready yet, and go on; see RAFTKV_START_SECONDS" in done.stderr
    assert all(map(is_alive, stopped.pids(3)))


def test_without_a_leader_the_start_fails_and_names_the_paused_nodes(cluster: Clone) -> None:
    cluster.script("node.sh", "pause", "1")
    cluster.script("node.sh", "pause", "2")
    wait_until(lambda: "leader" not in cluster.roles(), "the third steps down")
    done = cluster.script("start_cluster.sh", "3", RAFTKV_START_SECONDS="2")
    assert done.status == 1
    assert "no leader serves after 2 s" in done.stderr
    assert "nodes 1 and 2 paused" in done.stderr
    cluster.script("node.sh", "resume", "1")
    cluster.script("node.sh", "resume", "2")


# ---- node.sh ---------------------------------------------------------------------------------------------------------


def test_a_killed_node_is_dead_and_the_others_serve(cluster: Clone) -> None:
    pid = cluster.pid(1)
    assert_one_line(cluster.script("node.sh", "kill", "1"), 0, "node 1 is dead")
    assert not is_alive(pid)
    assert_one_line(cluster.script("node.sh", "kill", "1"), 0, "node 1 was dead already")
    assert cluster.client("SET a b", "GET a") == ["OK", "b"]


def test_a_killed_node_can_be_started_again(cluster: Clone) -> None:
    cluster.script("node.sh", "kill", "3")
    done = cluster.script("node.sh", "start", "3")
    assert done.status == 0
    assert is_alive(cluster.pid(3))
    again = cluster.script("node.sh", "start", "3")
    assert_one_line(again, 0, f"node 3 is running on 127.0.0.1:{cluster.base_port + 2}")


def test_a_paused_node_stands_still_until_it_is_resumed(cluster: Clone) -> None:
    for _ in range(2):
        assert_one_line(cluster.script("node.sh", "pause", "2"), 0, "node 2 is paused")
        assert process_state(cluster.pid(2)) == "T"
    for _ in range(2):
        assert_one_line(cluster.script("node.sh", "resume", "2"), 0, "node 2 goes on")
        assert process_state(cluster.pid(2)) != "T"


def test_a_node_that_does_not_run_cannot_be_paused_or_resumed(stopped: Clone) -> None:
    for command in ("pause", "resume"):
        assert_one_line(stopped.script("node.sh", command, "1"), 1, "scripts/node.sh start 1 starts it")


def test_a_node_that_the_cluster_does_not_have_is_refused(stopped: Clone) -> None:
    assert_one_line(stopped.script("node.sh", "start", "4"), 1, "there is no node 4: the cluster has nodes 1, 2 and 3")


# ---- Wrong usage, and what a machine may lack ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        *(["start_cluster.sh", n] for n in ("", "0", "-1", "x", "1.5", "100", "3 3")),
        ["start_cluster.sh", "3", "3"],
        *(
            ["node.sh"],
            ["node.sh", "kill"],
            ["node.sh", "stop", "1"],
            ["node.sh", "kill", "x"],
            ["node.sh", "kill", "1", "2"],
        ),
        ["stop_cluster.sh", "1"],
        ["generate.sh", "--chekc"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_get_one_line_and_status_2_and_nothing_is_done(untouched: Path, words: list[str]) -> None:
    script, *arguments = words
    done = run([str(untouched / "scripts" / script), *arguments], untouched)
    assert_one_line(done, 2, f"({script} --help says more)")
    assert not (untouched / ".venv").exists()


@pytest.mark.parametrize("name", ["start_cluster.sh", "stop_cluster.sh", "node.sh", "test.sh", "generate.sh"])
def test_help_needs_nothing_installed(untouched: Path, name: str) -> None:
    done = run([str(untouched / "scripts" / name), "--help"], untouched)
    assert done.status == 0
    assert f"scripts/{name}" in done.stdout
    assert not (untouched / ".venv").exists()


@pytest.mark.parametrize("port", ["0", "65534", "x", ""])
def test_a_base_port_that_cannot_be_is_refused(stopped: Clone, port: str) -> None:
    done = stopped.script("start_cluster.sh", "3", RAFTKV_BASE_PORT=port)
    assert_one_line(done, 1, "RAFTKV_BASE_PORT must be a port with 2 more after it")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "x", ""])
def test_a_time_to_wait_that_cannot_be_is_refused(stopped: Clone, seconds: str) -> None:
    done = stopped.script("start_cluster.sh", "3", RAFTKV_START_SECONDS=seconds)
    assert_one_line(done, 1, "RAFTKV_START_SECONDS must be a number of seconds")


@pytest.fixture
def path_without_python(tmp_path: Path) -> Path:
    """A directory for $PATH with what every Unix has, and no Python."""
    for name in ("bash", "env", "dirname", "basename", "cat", "cksum", "sed"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    return tmp_path


@pytest.mark.parametrize("name", ["start_cluster.sh", "stop_cluster.sh", "test.sh"])
def test_a_machine_without_python_is_told_what_is_missing(
    untouched: Path, path_without_python: Path, name: str
) -> None:
    env = {"PATH": str(path_without_python)}
    done = run([str(untouched / "scripts" / name)], untouched, env=env)
    assert_one_line(done, 1, "needs Python 3.10 or newer")


def test_a_python_that_is_too_old_does_not_count(untouched: Path, path_without_python: Path) -> None:
    old = path_without_python / "python3"
    old.write_text("#!/usr/bin/env bash\nexit 1\n")
    old.chmod(0o755)
    done = run([str(untouched / "scripts/test.sh")], untouched, env={"PATH": str(path_without_python)})
    assert_one_line(done, 1, "needs Python 3.10 or newer")


def test_a_python_without_its_venv_module_is_told_what_to_install(untouched: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ensurepip'] = None\n")
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    done = run([str(untouched / "scripts/test.sh")], untouched, env=env)
    assert_one_line(done, 1, "apt install python3-venv")


def first_run_without_dependencies(clone: Path) -> Finished:
    """What start_cluster.sh says where pip works, but gets nothing."""
    env = {
        **os.environ,
        "PYTHON": sys.executable,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
    }
    return run([str(clone / "scripts/start_cluster.sh")], clone.parent, 120, env=env)


@pytest.fixture(scope="module")
def left_half_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose first run was killed while it made the environment: there is a pip, but not all of it."""
    clone = copy_project(tmp_path_factory.mktemp("half made") / "a clone")
    start = subprocess.Popen(
        [str(clone / "scripts/start_cluster.sh")],
        env={**os.environ, "PYTHON": sys.executable},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pip = "lib/python*/site-packages/pip/_internal/__init__.py"
    wait_until(lambda: list((clone / ".venv").glob(pip)), "a part of pip")
    os.killpg(start.pid, signal.SIGKILL)
    start.wait()
    assert (clone / ".venv/bin/python").exists()
    return clone


@pytest.fixture(scope="module")
def run_without_dependencies(left_half_made: Path) -> Finished:
    """What the next run in that clone says, which gets no dependencies."""
    return first_run_without_dependencies(left_half_made)


def test_dependencies_that_cannot_be_had_are_one_line(run_without_dependencies: Finished) -> None:
    done = run_without_dependencies
    assert done.status == 1
    assert done.stderr.splitlines()[-1].startswith("environment: pip cannot install the dependencies: ")
    assert "Traceback" not in done.stderr


def test_an_environment_that_was_left_half_made_is_made_anew(
    left_half_made: Path, run_without_dependencies: Finished
) -> None:
    """As after Ctrl-C."""
    assert "making .venv" in run_without_dependencies.stderr
    assert "ModuleNotFoundError" not in run_without_dependencies.stderr
    assert "making .venv" not in first_run_without_dependencies(left_half_made).stderr


@pytest.mark.parametrize("name", ["raft_node.py", "storage.py", "client.py"])
def test_a_front_door_whose_python_lacks_the_dependencies_says_so_in_one_line(untouched: Path, name: str) -> None:
    done = run([sys.executable, "-S", name], untouched)
    assert_one_line(done, 1, f"is not installed for {sys.executable}: run .venv/bin/python {name}")
    assert done.stderr.startswith(f"{name}: the package g")


def ctrl_c_at_the_import_of(module: str, directory: Path) -> dict[str, str]:
    """The environment of a program to which that happens."""
    (directory / f"{module}.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    return {**os.environ, "PYTHONPATH": str(directory)}


@pytest.mark.parametrize(("name", "status"), [("client.py", 130), ("storage.py", 130), ("raft_node.py", 0)])
def test_ctrl_c_while_a_front_door_is_still_being_imported_ends_it_without_a_word(
    name: str, status: int, tmp_path: Path
) -> None:
    """To a node it is what it always is: a reason to stop."""
    env = ctrl_c_at_the_import_of("google_crc32c", tmp_path)
    done = run([sys.executable, str(ROOT / name)], tmp_path, 30, env=env)
    assert (done.status, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("function", ["client", "node"])
def test_so_it_does_with_an_installed_command(function: str, tmp_path: Path) -> None:
    env = ctrl_c_at_the_import_of("google_crc32c", tmp_path)
    command = f"import sys; from raftkv.front_door import {function}; sys.exit({function}())"
    done = run([sys.executable, "-c", command], ROOT, 30, env=env)
    assert (done.status, done.stdout, done.stderr) == (130 if function == "client" else 0, "", "")


@pytest.mark.parametrize("name", ["start_cluster.sh", "stop_cluster.sh"])
def test_ctrl_c_while_a_script_is_still_being_loaded_ends_it_without_a_word(
    stopped: Clone, name: str, tmp_path: Path
) -> None:
    done = stopped.script(name, **ctrl_c_at_the_import_of("argparse", tmp_path))
    assert (done.status, done.stdout, done.stderr) == (130, "", "")


def test_a_program_whose_ctrl_c_is_ignored_goes_on_ignoring_it(tmp_path: Path) -> None:
    """As a shell wants it of what it starts in the background."""
    (tmp_path / "google_crc32c.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n"
    )
    program = 'trap "" INT; exec "$@"'
    words = ["sh", "-c", program, "sh", sys.executable, str(ROOT / "client.py")]
    assert run(words, tmp_path, 30, env={**os.environ, "PYTHONPATH": str(tmp_path)}).status == 7


def test_a_program_that_imports_a_front_door_gets_the_error_itself(untouched: Path) -> None:
    done = run([sys.executable, "-S", "-c", "import client"], untouched)
    assert done.status == 1
    assert "ModuleNotFoundError: No module named 'grpc'" in done.stderr


# ---- test.sh and generate.sh -----------------------------------------------------------------------------------------


def test_the_exit_status_of_the_tests_is_pytests(tmp_path: Path) -> None:
    done = run([str(ROOT / "scripts/test.sh"), "tests/test_config.py", "-k", "no_such_test"], tmp_path, SECONDS)
    assert done.status == 5  # no tests ran


@pytest.mark.parametrize("name", ["raft.proto", "raftkv/wire/raft_pb2.py", "raftkv/wire/raft_pb2_grpc.pyi"])
def test_code_that_does_not_belong_to_the_proto_file_is_noticed(tmp_path: Path, name: str) -> None:
    clone = copy_project(tmp_path / "a clone")
    with (clone / name).open("a") as file:
        file.write("\n")
    done = run([str(clone / "scripts/generate.sh"), "--check"], tmp_path)
    assert_one_line(done, 1, "run scripts/generate.sh")
