"""The program `client.py` with `-c` and with piped input, as scripts and other programs use it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raftkv.repl import Mistake, main, parse
from tests.client.fake_cluster import FakeCluster, answer, hang_undone, lose_request
from tests.support.processes import free_addresses, wait_until

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(ROOT / "client.py")]


@dataclass
class Finished:
    status: int
    out: bytes
    errors: bytes


def run(*arguments: str, stdin: bytes = b"") -> Finished:
    """The program, in this process."""
    streams = [io.TextIOWrapper(io.BytesIO(data), write_through=True) for data in (stdin, b"", b"")]
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        try:
            status = main(arguments)
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    out, errors = (stream.buffer.getvalue() for stream in streams[1:])
    return Finished(status, out, errors)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program in a process of its own, which does not outlive the test."""
    with subprocess.Popen([*PROGRAM, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def commands(cluster: FakeCluster) -> Callable[..., str]:
    """Runs the program with a `-c` for each command; gives back what it printed. All of them must succeed."""

    def run_commands(*commands: str) -> str:
        done = run(*cluster.addresses, *[word for command in commands for word in ("-c", command)])
        assert (done.status, done.errors) == (0, b"")
        return done.out.decode()

    return run_commands


# ---- replies ---------------------------------------------------------------------------------------------------------


def test_each_command_gives_the_reply_of_the_contract(commands: Callable[..., str]) -> None:
    session = {
        "SET k v": "OK",
        "GET k": "v",
        "get missing": "(nil)",
        "DEL k": "1",
        "Del k ": "0",
        "SETNX k first": "1",
        "SETNX k second": "0",
        "CAS k wrong new": "0",
        "CAS k first new": "1",
        "  GET  k": "new",
        "SET a ''": "OK",
        "KEYS": "a\nk",
        "KEYS k": "k",
        "KEYS none": "",
        "GET a": "",
    }
    replies = commands(*session)
    assert replies == "".join(f"{reply}\n" for command, reply in session.items() if command != "KEYS none")


def test_piped_lines_are_answered_in_order_without_prompt_or_banner(cluster: FakeCluster) -> None:
    done = run(cluster.addresses[0], stdin=b"SET k v\n\n   \nGET k\nGET missing")
    assert (done.status, done.out, done.errors) == (0, b"OK\nv\n(nil)\n", b"")


def test_a_reply_comes_before_the_next_line_is_read(cluster: FakeCluster) -> None:
    with started(*cluster.addresses) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for i in range(3):
            process.stdin.write(b"SET k %d\n" % i)
            process.stdin.flush()
            assert process.stdout.readline() == b"OK\n"
        process.stdin.close()
        assert process.wait(20) == 0


def test_status_is_a_table_with_a_whole_line_for_each_member(cluster: FakeCluster) -> None:
    cluster.members[3].kill()
    lines = run(*cluster.addresses, "-c", "STATUS").out.decode().splitlines()
    assert lines[0].split() == ["id", "address", "role", "term", "leader", "commit", "applied", "last", "log", "keys"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["1", cluster.addresses[0], "leader", "1"],
        ["2", cluster.addresses[1], "follower", "1"],
        ["3", cluster.addresses[2], "unreachable", "-"],
    ]


def test_help_names_every_command(commands: Callable[..., str]) -> None:
    text = commands("HELP")
    for usage in ("SET key value", "GET key", "DEL key", "SETNX key value", "CAS key expected new", "KEYS [prefix]"):
        assert usage in text
    for word in ("STATUS", "HELP", "EXIT"):
        assert word in text
    assert commands("help cas").count("\n") == 1


def test_exit_leaves_the_rest_undone(commands: Callable[..., str]) -> None:
    assert commands("SET k 1", "exit", "SET k 2") == "OK\n"
    assert commands("GET k") == "1\n"


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("SET k it's fine", [b"k", b"it's fine"]),
        ("SET k  a  b ", [b"k", b"a  b "]),
        ("SET k a # b \\ \" '", [b"k", b"a # b \\ \" '"]),
        ("SET k 'a  b'", [b"k", b"a  b"]),
        ('set "a key" "a \\"value\\""', [b"a key", b'a "value"']),
        ("SET k ''", [b"k", b""]),
        ("SET '' v", [b"", b"v"]),
        ("SET k 'it'\"'\"'s'", [b"k", b"it's"]),
        ("SETNX k it's fine", [b"k", b"it's fine"]),
        ("CAS k 'a b' c", [b"k", b"a b", b"c"]),
        ("CAS k '' ''", [b"k", b"", b""]),
        ("GET a\\ b", [b"a b"]),
        ("GET #k", [b"#k"]),
        ("GET schlüssel", ["schlüssel".encode()]),
        ("SET k 名前 ✓", [b"k", "名前 ✓".encode()]),
        ("SET k \udcff", [b"k", b"\xff"]),
        ("SET k two\nlines", [b"k", b"two\nlines"]),
        ("\tGET\tk\r", [b"k"]),
    ],
)
def test_words_are_quoted_as_in_a_shell_and_a_bare_value_is_the_rest(line: str, words: list[bytes]) -> None:
    request = parse(line)
    assert request is not None
    assert list(request.words) == words


@pytest.mark.parametrize("line", ["", "   ", "\t"])
def test_a_blank_line_asks_for_nothing(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("FOO", "unknown command 'FOO'"),
        ("''", "unknown command ''"),
        ("SET", "expected SET key value"),
        ("SET k", "expected SET key value"),
        ("SET k ", "expected SET key value"),
        ("SET k 'a' b", "expected SET key value, and quotes around a word with blanks in it"),
        ("SET k 'a", "no closing quotation"),
        ("SET 'k", "no closing quotation"),
        ("'SET", "no closing quotation"),
        ("GET k\\", "no escaped character"),
        ("GET", "expected GET key"),
        ("GET a b", "expected GET key"),
        ("CAS k a", "expected CAS key expected new"),
        ("STATUS now", "expected STATUS;"),
        ("BACKUP /my disk/monday", "expected BACKUP path, and quotes around a word with blanks in it"),
    ],
)
def test_a_line_that_is_no_command_says_what_is_wrong(line: str, reason: str) -> None:
    with pytest.raises(Mistake, match=reason):
        parse(line)


def test_bytes_that_are_not_utf8_pass_unchanged(cluster: FakeCluster) -> None:
    done = run(*cluster.addresses, stdin=b"SET \xff\xfe \x80 raw \xc3\nGET \xff\xfe\nKEYS\n")
    assert done.out == b"OK\n\x80 raw \xc3\n\xff\xfe\n"
    by_argument = subprocess.run([*PROGRAM, *cluster.addresses, "-c", b"GET \xff\xfe"], capture_output=True, check=True)
    assert by_argument.stdout == b"\x80 raw \xc3\n"


def test_a_value_with_newlines_is_printed_as_it_is(commands: Callable[..., str]) -> None:
    assert commands("SET k 'one\ntwo'", "GET k") == "OK\none\ntwo\n"


# ---- JSON ------------------------------------------------------------------------------------------------------------


def json_replies(*arguments: str, stdin: bytes = b"") -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments, "--json", stdin=stdin).out.splitlines()]


def test_json_has_one_object_a_reply(cluster: FakeCluster) -> None:
    lines = ["SET k v", "GET k", "GET missing", "DEL k", "DEL k", "SETNX k 1", "CAS k 0 1", "KEYS", "KEYS z"]
    replies = json_replies(cluster.addresses[0], stdin="\n".join(lines).encode())
    assert replies == [{"ok": True, "value": value} for value in ["OK", "v", None, 1, 0, 1, 0, ["k"], []]]
    assert [type(reply["value"]) for reply in replies[3:7]] == [int] * 4


def test_json_writes_bytes_that_are_not_utf8_with_surrogateescape(cluster: FakeCluster) -> None:
    replies = json_replies(*cluster.addresses, stdin=b"SET \xff \x80\nGET \xff\nKEYS\n")
    assert replies[1]["value"].encode("utf-8", "surrogateescape") == b"\x80"
    assert replies[2]["value"] == ["\udcff"]


def test_json_status_is_a_list_with_a_row_for_each_member(cluster: FakeCluster) -> None:
    cluster.members[3].kill()
    [reply] = json_replies(*cluster.addresses, "-c", "STATUS")
    rows = reply["value"]
    assert [(row["id"], row["role"]) for row in rows] == [(1, "leader"), (2, "follower"), (3, "unreachable")]
    assert rows[0]["address"] == cluster.addresses[0]
    for name in ("term", "leader_id", "commit_index", "applied_index", "last_log_index"):
        assert isinstance(rows[0][name], int)


def test_json_tells_a_definite_failure_from_an_unknown_outcome(cluster: FakeCluster) -> None:
    assert json_replies(*cluster.addresses, "-c", "SET k v") == [{"ok": True, "value": "OK"}]
    cluster.next_calls(answer, *[lose_request] * 100)
    unknown = json_replies(*cluster.addresses, "--timeout", "2", "-c", "SET k v")[0]
    assert (unknown["ok"], unknown["code"], unknown["outcome"]) == (False, "UNAVAILABLE", "unknown")
    assert "may have been applied" in unknown["error"]
    definite = json_replies(free_addresses(1)[0], "--timeout", "0.3", "-c", "SET k v", "-c", "GET k", "-c", "BAD")
    assert [(reply["ok"], reply["code"], reply["outcome"]) for reply in definite] == [
        (False, "UNAVAILABLE", "not_applied"),
        (False, "UNAVAILABLE", "not_applied"),
        (False, "INVALID_ARGUMENT", "not_applied"),
    ]


# ---- failures and exit statuses --------------------------------------------------------------------------------------


def test_several_commands_may_follow_one_c_or_each_its_own(cluster: FakeCluster) -> None:
    together = run(*cluster.addresses, "-c", "SET k 1", "GET k", "--json")
    apart = run(*cluster.addresses, "-c", "SET k 1", "-c", "GET k", "--json")
    assert together == apart
    assert together.out.decode().count('"ok": true') == 2


def test_the_addresses_may_come_last(cluster: FakeCluster) -> None:
    first = run(*cluster.addresses, "-c", "SET k host:1", "GET k", "--json")
    assert run("--json", "-c", "SET k host:1", "GET k", *cluster.addresses) == first
    assert run("--json", "-c", "SET k host:1", "-c", "GET k", *cluster.addresses) == first
    assert run("-c", "SET k host:1", "GET k", "--json", *cluster.addresses) == first
    assert first.out.decode().count('"ok": true') == 2


def test_a_failed_command_is_one_line_and_the_others_are_carried_out(cluster: FakeCluster) -> None:
    done = run(*cluster.addresses, "-c", "SET k 1", "-c", "NONSENSE", "-c", "GET k")
    assert done.status == 1
    assert done.out.decode().splitlines() == [
        "OK",
        "ERROR INVALID_ARGUMENT: unknown command 'NONSENSE': HELP lists the commands; nothing was done",
        "1",
    ]


@pytest.mark.parametrize("end", ["", "EXIT\n", "GET k\n"])
def test_a_failed_command_is_told_by_the_status_whatever_comes_after_it(cluster: FakeCluster, end: str) -> None:
    lines = f"NONSENSE\n{end}"
    assert run(*cluster.addresses, stdin=lines.encode()).status == 1
    assert run(*cluster.addresses, "-c", *lines.splitlines()).status == 1


def test_without_a_server_the_error_says_that_nothing_was_applied() -> None:
    [address] = free_addresses(1)
    done = run(address, "--timeout", "0.3", "-c", "SET k 1")
    assert done.status == 1
    assert done.out.startswith(b"ERROR UNAVAILABLE: no member answers at ")
    assert done.out.endswith(b"; the write was not applied\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: address"),
        (["-c", "GET k"], "the following arguments are required: address"),
        (["-c", "127.0.0.1:1"], "the following arguments are required: address"),
        (["nonsense"], "'nonsense' is not of the form <host>:<port>"),
        (["127.0.0.1:99999"], "a port lies between 1 and 65535"),
        (["127.0.0.1:1", "--timeout", "soon"], "invalid float value: 'soon'"),
        (["127.0.0.1:1", "--timeout", "0"], "timeout must be a number of seconds above 0"),
        (["127.0.0.1:1", "--timeout", "nan"], "timeout must be a number of seconds above 0"),
        (["127.0.0.1:1", "--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert (done.status, done.out) == (2, b"")
    assert message in done.errors.decode()
    assert done.errors.count(b"\n") == 1


def test_a_reader_that_has_seen_enough_is_no_news(cluster: FakeCluster) -> None:
    with subprocess.Popen(
        [*PROGRAM, *cluster.addresses, *["-c", "HELP"] * 2000], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_replies_that_can_not_be_written_are_one_line_and_status_1(cluster: FakeCluster) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, *cluster.addresses, "-c", "HELP"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"client.py: cannot write the replies: No space left on device\n")


def test_without_standard_input_there_is_nothing_to_do(cluster: FakeCluster) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *PROGRAM, *cluster.addresses], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_without_standard_output_the_commands_are_carried_out_all_the_same(cluster: FakeCluster) -> None:
    command = [*PROGRAM, *cluster.addresses, "-c", "SET unheard 1", "-c", "STATUS"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert run(*cluster.addresses, "-c", "GET unheard").out == b"1\n"


def test_ctrl_c_gives_up_a_write_and_says_that_its_outcome_is_unknown(cluster: FakeCluster) -> None:
    cluster.next_calls(answer, hang_undone)
    with started(*cluster.addresses, "--json", "-c", "SET k 1", "-c", "SET k 2") as process:
        wait_until(lambda: cluster.leader.calls >= 2, "the write has arrived", 20)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    reply = json.loads(out)  # which is the only one
    assert (reply["error"], reply["outcome"]) == ("given up by Ctrl-C; the write may have been applied", "unknown")
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("command", "nothing"),
    [
        ("SET k 1", "the write was not applied"),
        ("ADD 4=127.0.0.1:1", "nothing has been done"),
        ("TRANSFER", "nothing has been done"),
        ("BACKUP {tmp_path}/monday", "no backup was made"),
    ],
)
def test_ctrl_c_of_what_was_sent_to_nobody_says_that_nothing_has_happened(
    cluster: FakeCluster, tmp_path: Path, command: str, nothing: str
) -> None:
    cluster.elect(0)
    with started(*cluster.addresses, "--json", "-c", command.format(tmp_path=tmp_path)) as process:
        wait_until(lambda: cluster.members[1].status_calls > 2, "the client looks for the leader", 20)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    reply = json.loads(out)
    assert (reply["error"], reply["outcome"]) == (f"given up by Ctrl-C; {nothing}", "not_applied")
    assert process.returncode == 130


def test_ctrl_c_gives_up_a_read(cluster: FakeCluster) -> None:
    cluster.elect(0)
    with started(*cluster.addresses, "-c", "GET k") as process:
        wait_until(lambda: cluster.members[1].status_calls > 2, "the client looks for the leader", 20)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert out == b"ERROR CANCELLED: given up by Ctrl-C; nothing was read\n"
    assert process.returncode == 130


@pytest.mark.parametrize("replies", [1, 2, 5, 20])
def test_ctrl_c_ends_a_script_wherever_it_strikes(cluster: FakeCluster, replies: int) -> None:
    """In the middle of gRPC an interruption could be lost, or leave a channel that can't be closed any more."""
    with started(*cluster.addresses) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"SET k v\n" * 8000)
        process.stdin.flush()
        for _ in range(replies):
            assert process.stdout.readline() == b"OK\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out.count(b"OK\n") < 8000 - replies


def test_a_script_waits_for_no_prompt_and_no_table_to_be_imported(cluster: FakeCluster) -> None:
    look = "from raftkv.repl import main; main(); import sys; print({'rich', 'prompt_toolkit'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", look, *cluster.addresses, "-c", "SET k v", "-c", "GET k"],
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout == b"OK\nv\nset()\n"
