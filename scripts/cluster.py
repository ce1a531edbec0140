"""A cluster on this machine, behind start_cluster.sh, stop_cluster.sh and node.sh: theory of operation.

The cluster of five nodes lives in data/cluster-5 (of seven, in data/cluster-7; on another port than the default, in
data/cluster-5-52100): for each node its data directory `node-1`, its log `node-1.log` and its pid file `node-1.pid`.
`data/current` is a symbolic link to the cluster that was started last. Clusters of different sizes or ports have
different data, and only one of them runs at a time.

A pid alone proves nothing, since the kernel gives it to another process some day. A node runs if the process
of that pid has the node's own data directory on its command line; nothing else ever gets a signal.

The commands wait for each other (a lock on data/lock), and each may be repeated: what is so already is left as it is.
"""

from __future__ import annotations

import quietly  # before the rest

# isort: split
import argparse
import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DATA: Final = ROOT / "data"
CURRENT: Final = DATA / "current"
DEFAULT_BASE_PORT: Final = 50051
STOP_SECONDS: Final = 10.0
"""How long a node may take to stop by itself."""
PROC: Final = Path("/proc/self/cmdline")
"""Linux tells about processes in files; elsewhere ps has to be asked."""


class Failure(Exception):
    """What went wrong and how to mend it, in one line; the exit status is 1."""


# ---- What there is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    id: int
    address: str
    cluster: Cluster

    @property
    def data(self) -> Path:
        return self.cluster.directory / f"node-{self.id}"

    @property
    def log(self) -> Path:
        return self.data.with_suffix(".log")

    @property
    def pid_file(self) -> Path:
        return self.data.with_suffix(".pid")

    def pid(self) -> int | None:
        """The process that this node is; None if it does not run."""
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if f" {self.id} --data-dir {self.data} " in command_line(pid) else None

    def start(self) -> None:
        """Starts the process and returns at once. It outlives this one, and a Ctrl-C meant for this one."""
        program = [sys.executable, str(ROOT / "raft_node.py"), str(self.id), "--data-dir", str(self.data)]
        if has_joined(self.data):
            command = [*program, "--join", *(node.address for node in self.cluster.nodes if node != self)]
        else:
            command = [*program, *addresses(self.cluster)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pid_file.write_text(f"{process.pid}\n")
        # The kernel shows a new process's command line a moment after it runs.
        wait_for(lambda: self.pid() is not None or process.poll() is not None, STOP_SECONDS)

    def signal(self, number: int) -> None:
        """Sends a signal, unless the node is gone."""
        if (pid := self.pid()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def paused(self) -> bool:
        pid = self.pid()
        return pid is not None and process_state(pid) == "T"


@dataclass(frozen=True)
class Cluster:
    size: int
    base_port: int

    @property
    def directory(self) -> Path:
        suffix = "" if self.base_port == DEFAULT_BASE_PORT else f"-{self.base_port}"
        return DATA / f"cluster-{self.size}{suffix}"

    @staticmethod
    def in_directory(directory: Path) -> Cluster | None:
        """The inverse of `directory`; None for any other."""
        match = re.fullmatch(r"cluster-([0-9]+)(?:-([0-9]+))?", directory.name)
        return Cluster(int(match[1]), int(match[2] or DEFAULT_BASE_PORT)) if match else None

    @property
    def nodes(self) -> list[Node]:
        return [Node(i + 1, f"127.0.0.1:{self.base_port + i}", self) for i in range(self.size)]

    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.pid() is not None]


def clusters() -> list[Cluster]:
    """Every cluster that was ever started here."""
    found = (Cluster.in_directory(path) for path in sorted(DATA.glob("cluster-*")))
    return [cluster for cluster in found if cluster is not None]


def last_cluster() -> Cluster | None:
    """The one that was started last, if its data are still there."""
    return Cluster.in_directory(CURRENT.resolve()) if CURRENT.exists() else None


def current_cluster() -> Cluster:
    """The one that node.sh is about."""
    running = [cluster for cluster in clusters() if cluster.running()]
    cluster = running[0] if running else last_cluster()
    if cluster is None:
        raise Failure("there is no cluster yet: scripts/start_cluster.sh starts one")
    return cluster


# ---- Processes -------------------------------------------------------------------------------------------------------


def command_line(pid: int) -> str:
    """The command of a process with a space after each word; "" if there is no such process any more."""
    if PROC.exists():
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).replace("\0", " ")
        except OSError:
            return ""
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() + " "


def process_state(pid: int) -> str:
    """One letter, as ps shows it: T is stopped; "" if there is no such process."""
    if PROC.exists():
        try:
            # The name before it, in parentheses, may hold anything.
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return ""
    shown = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()[:1]


@contextlib.contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """A Ctrl-C comes at the end of the block: a process whose pid nobody has written down could not be stopped again.

    Blocking the signal would do, but the new process would inherit that.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition has become true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def names(nodes: Sequence[Node]) -> str:
    """`node 1`, `nodes 1, 2 and 3`."""
    ids = [str(node.id) for node in nodes]
    return f"node {ids[0]}" if len(ids) == 1 else f"nodes {', '.join(ids[:-1])} and {ids[-1]}"


# ---- Starting --------------------------------------------------------------------------------------------------------


def up(size: int) -> None:
    """start_cluster.sh: starts what does not run yet, and waits until a leader serves."""
    seconds = start_seconds()
    last = last_cluster()
    cluster = Cluster(size, base_port(last, size))
    for other in clusters():
        if other != cluster and (running := other.running()):
            raise Failure(
                f"a cluster of {other.size} on port {other.base_port} is running ({names(running)}): "
                "stop it first with scripts/stop_cluster.sh"
            )
    if last and last != cluster:
        new, old = (c.directory.relative_to(ROOT) for c in (cluster, last))
        what = "going on with the cluster" if cluster.directory.exists() else "starting a new, empty cluster"
        say(f"{what} in {new} (the last one was {old})")
    cluster.directory.mkdir(parents=True, exist_ok=True)
    CURRENT.unlink(missing_ok=True)
    CURRENT.symlink_to(cluster.directory.name)
    missing = [node for node in cluster.nodes if node.pid() is None]
    if missing:
        start(missing, seconds)
    else:
        say(f"all {size} nodes are running already")
    members = wait_for_leader(cluster, seconds)
    # Whom the cluster has removed it knows only when it runs.
    leave_out([node for node in cluster.nodes if node.id not in members], missing)
    table = [sys.executable, str(ROOT / "client.py"), *addresses(cluster), "-c", "STATUS"]
    if subprocess.run(table, check=False).returncode != 0:
        raise Failure("a leader serves, but the table of the nodes could not be had")
    say(f"talk to them: .venv/bin/python client.py {cluster.nodes[0].address}")


def start(nodes: Sequence[Node], seconds: float) -> None:
    """Starts these nodes and waits until each one answers. Says the last words of one that does not; raises Failure."""
    say(f"starting {names(nodes)}")
    log_ends = {node: node.log.stat().st_size if node.log.exists() else 0 for node in nodes}
    with ctrl_c_waits():
        for node in nodes:
            node.start()

    def ready(node: Node) -> bool:
        return f"node {node.id} ready on " in log_since(node, log_ends[node])

    wait_for(lambda: all(ready(node) or node.pid() is None for node in nodes), seconds)
    missing = [node for node in nodes if not ready(node)]
    late = [node for node in missing if node.pid() is not None]
    stopped = [node for node in missing if node not in late]
    for node in missing:
        lines = log_since(node, log_ends[node]).strip().splitlines() or ["it has said nothing"]
        what = f"is not ready after {seconds:g} s" if node in late else "has stopped"
        say(f"node {node.id} {what}: {lines[-1]}")
    if stopped:
        raise Failure(f"{names(stopped)} did not start; the whole log: {stopped[0].log}")
    if late:
        verbs = "is not ready yet, and goes on" if len(late) == 1 else "are not ready yet, and go on"
        raise Failure(f"{names(late)} {verbs}; see RAFTKV_START_SECONDS in scripts/start_cluster.sh --help")


def leave_out(removed: Sequence[Node], started: Sequence[Node]) -> None:
    """Stops those of the removed nodes that have just been started, and says of each what may be done about it."""
    stop([node for node in removed if node in started])
    for node in removed:
        what = "stopped again, its data stay" if node in started else f"scripts/node.sh kill {node.id} stops it"
        say(f"node {node.id} is no member of the cluster any more: {what} (ADD {node.id}={node.address} takes it back)")


def has_joined(data: Path) -> bool:
    """Whether the directory is that of a node which was added to the running cluster, and so needs --join."""
    from raftkv.storage import read_identity  # not at the top: stopping a cluster needs nothing installed

    identity = read_identity(data)
    return identity is not None and not identity.members


def log_since(node: Node, offset: int) -> str:
    with node.log.open("rb") as log:
        log.seek(offset)
        return log.read().decode(errors="replace")


def wait_for_leader(cluster: Cluster, seconds: float) -> set[int]:
    """Returns once a linearizable read has gone through, which only a leader that has committed can answer: the ids of
    the members, as it knows them."""
    from raftkv import Client, Error  # not at the top: stopping a cluster needs nothing installed

    say("waiting until a leader serves")
    try:
        with Client(addresses(cluster), timeout=seconds) as client:
            client.get("a key that need not exist")
            return {member.id for member in client.members()}
    except Error as e:
        paused = [node for node in cluster.nodes if node.paused()]
        hint = f"{names(paused)} paused (scripts/node.sh resume <id>)" if paused else f"the logs: {cluster.directory}"
        raise Failure(f"no leader serves after {seconds:g} s: {e}; {hint}") from None


def addresses(cluster: Cluster) -> list[str]:
    return [node.address for node in cluster.nodes]


def base_port(last: Cluster | None, size: int) -> int:
    """The first node's port: what RAFTKV_BASE_PORT says, else that of the last cluster if its size is the same."""
    otherwise = last.base_port if last and last.size == size else DEFAULT_BASE_PORT
    text = os.environ.get("RAFTKV_BASE_PORT", str(otherwise))
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65536 - size:
        raise Failure(f"RAFTKV_BASE_PORT must be a port with {size - 1} more after it, not {text!r}")
    return int(text)


def start_seconds() -> float:
    """How long the nodes may take to be ready, and then a leader to serve: 30, or what RAFTKV_START_SECONDS says."""
    text = os.environ.get("RAFTKV_START_SECONDS", "30")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or float(text) == 0:
        raise Failure(f"RAFTKV_START_SECONDS must be a number of seconds such as 30 or 0.5, not {text!r}")
    return float(text)


# ---- Stopping, and one node ------------------------------------------------------------------------------------------


def down() -> None:
    """stop_cluster.sh: stops every node that was started here, a paused one too."""
    running = [node for cluster in clusters() for node in cluster.running()]
    if not running:
        say("no node is running")
        return
    stop(running)
    say(f"stopped {names(running)}")


def stop(running: Sequence[Node]) -> None:
    """Stops these nodes, by kill -9 in the end."""
    for node in running:
        node.signal(signal.SIGCONT)
        node.signal(signal.SIGTERM)
    if not wait_for(lambda: all(node.pid() is None for node in running), STOP_SECONDS):
        late = [node for node in running if node.pid() is not None]
        say(f"{names(late)} did not stop within {STOP_SECONDS:g} s: killed")
        for node in late:
            kill(node)
    for node in running:
        node.pid_file.unlink(missing_ok=True)


def one_node(command: str, node_id: int) -> None:
    """node.sh: does `command` to the node, or says that it is done already."""
    cluster = current_cluster()
    if not 1 <= node_id <= cluster.size:
        raise Failure(f"there is no node {node_id}: the cluster has {names(cluster.nodes)}")
    node = cluster.nodes[node_id - 1]
    if node.pid() is None and command in ("pause", "resume"):
        raise Failure(f"node {node_id} is not running: scripts/node.sh start {node_id} starts it")
    if command == "start":
        if node.pid() is None:
            start([node], start_seconds())
        say(f"node {node_id} is running on {node.address}" + (", and paused" if node.paused() else ""))
    elif command == "kill":
        was_dead = node.pid() is None
        kill(node)
        say(f"node {node_id} was dead already" if was_dead else f"node {node_id} is dead")
    elif command == "pause":
        node.signal(signal.SIGSTOP)
        wait_for(node.paused, STOP_SECONDS)
        say(f"node {node_id} is paused")
    else:
        node.signal(signal.SIGCONT)
        wait_for(lambda: not node.paused(), STOP_SECONDS)
        say(f"node {node_id} goes on")


def kill(node: Node) -> None:
    """kill -9; returns when the process is gone."""
    node.signal(signal.SIGKILL)
    if not wait_for(lambda: node.pid() is None, STOP_SECONDS):
        raise Failure(f"node {node.id} (process {node.pid()}) survives kill -9: its disk may hang")


# ---- The commands ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """While another of these commands is at work, waits."""
    DATA.mkdir(exist_ok=True)
    with (DATA / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another of these commands is at work: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description="What start_cluster.sh, stop_cluster.sh and node.sh call.")
    parser.add_argument("command", choices=["up", "down", "kill", "pause", "resume", "start"])
    parser.add_argument("number", nargs="?", type=int, help="of the nodes for up, the node's id for the others")
    arguments = parser.parse_args()
    program = {"up": "start_cluster.sh", "down": "stop_cluster.sh"}.get(arguments.command, "node.sh")
    try:
        quietly.from_now_on_raise()
        with alone():
            if arguments.command == "up":
                up(arguments.number)
            elif arguments.command == "down":
                down()
            else:
                one_node(arguments.command, arguments.number)
    except Failure as e:
        say(f"{program}: {e}")
        return 1
    except OSError as e:
        say(f"{program}: {e.filename or DATA}: {e.strerror}")
        return 1
    except KeyboardInterrupt:
        say(f"{program}: interrupted; nodes that were started go on (scripts/stop_cluster.sh stops them)")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
