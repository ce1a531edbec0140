"""The program `client.py` on a terminal."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.client import ClusterMember, NodeStatus
from raftkv.prompt import MAX_KEYS, Known
from raftkv.repl import COMMANDS, Value, parse
from tests.client.fake_cluster import FakeCluster, answer, hang_undone
from tests.client.terminal import CTRL_C, CTRL_D, ENTER, TAB, UP, Terminal
from tests.support.processes import free_addresses, wait_until

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "raftkv>"


def start(directory: Path, *arguments: str) -> Terminal:
    environment = {"XDG_STATE_HOME": str(directory / "state"), "HOME": str(directory)}
    return Terminal([sys.executable, str(ROOT / "client.py"), *arguments], environment, str(directory))


@pytest.fixture
def terminal(cluster: FakeCluster, tmp_path: Path) -> Iterator[Terminal]:
    with start(tmp_path, *cluster.addresses) as terminal:
        terminal.expect(PROMPT)
        yield terminal


def say(terminal: Terminal, line: str) -> str:
    """Type a line; what is shown between it and the next prompt."""
    terminal.type(line + ENTER)
    terminal.expect("\r\n")
    return terminal.expect(PROMPT).replace("\r", "").rstrip("\n")


def test_the_greeting_says_who_leads_and_how_to_get_help(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.elect(2)
    with start(tmp_path, *cluster.addresses) as terminal:
        greeting = terminal.expect(PROMPT)
    assert f"3 of 3 members answer, member 2 ({cluster.addresses[1]}) leads" in greeting
    assert "HELP" in greeting


def test_without_a_server_the_greeting_says_so_and_the_prompt_comes_all_the_same(tmp_path: Path) -> None:
    [address] = free_addresses(1)
    with start(tmp_path, address, "--timeout", "0.3") as terminal:
        assert f"no member answers at {address}" in terminal.expect(PROMPT)
        assert "ERROR UNAVAILABLE: " in say(terminal, "GET k")


def test_commands_are_answered_and_ctrl_d_leaves(terminal: Terminal) -> None:
    assert say(terminal, "SET k it's fine") == "OK"
    assert say(terminal, "GET k") == "it's fine"
    assert say(terminal, "") == ""
    assert "SETNX key value" in say(terminal, "help")
    assert "follower" in say(terminal, "STATUS")
    terminal.type(CTRL_D)
    assert terminal.wait() == 0


def test_exit_leaves_and_the_status_tells_of_a_failure(terminal: Terminal) -> None:
    assert "ERROR INVALID_ARGUMENT" in say(terminal, "NONSENSE")
    terminal.type("exit" + ENTER)
    assert terminal.wait() == 1


def test_ctrl_c_clears_the_line(terminal: Terminal, cluster: FakeCluster) -> None:
    terminal.type("SET k wro")
    terminal.expect("wro")
    terminal.type(CTRL_C)
    terminal.type("SET k right" + ENTER)
    terminal.expect("OK")
    assert cluster.machine.get(b"k") == b"right"


def test_ctrl_c_gives_up_the_command_under_way_and_the_prompt_comes_back(
    terminal: Terminal, cluster: FakeCluster
) -> None:
    cluster.next_calls(answer, hang_undone)
    terminal.type("SET k 1" + ENTER)
    wait_until(lambda: cluster.leader.calls >= 2, "the write has arrived")
    terminal.type(CTRL_C)
    terminal.expect("ERROR CANCELLED: given up by Ctrl-C; the write may have been applied")
    terminal.expect(PROMPT)
    assert say(terminal, "SET k 2") == "OK"


def test_after_ctrl_c_the_members_that_were_learnt_are_still_known(cluster: FakeCluster, tmp_path: Path) -> None:
    """The only member whose address was given may be the one that has died."""
    cluster.elect(1)
    with start(tmp_path, cluster.addresses[0]) as terminal:
        terminal.expect(PROMPT)
        assert say(terminal, "SET k 1") == "OK"
        cluster.members[1].kill()
        cluster.next_calls(hang_undone)
        cluster.elect(2)
        terminal.type("SET k 2" + ENTER)
        wait_until(lambda: cluster.leader.calls >= 1, "the write has arrived")
        terminal.type(CTRL_C)
        terminal.expect("ERROR CANCELLED")
        terminal.expect(PROMPT)
        assert say(terminal, "SET k 3") == "OK"
        assert cluster.addresses[2] in say(terminal, "STATUS")


def test_what_was_typed_before_comes_back_with_the_arrow_even_in_another_run(
    terminal: Terminal, cluster: FakeCluster, tmp_path: Path
) -> None:
    say(terminal, "SET k remembered")
    terminal.type(UP)
    terminal.expect("SET k remembered")
    terminal.type(CTRL_C + CTRL_D)
    terminal.wait()
    history = tmp_path / "state" / "raftkv" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    with start(tmp_path, *cluster.addresses) as second:
        second.expect(PROMPT)
        second.type(UP + UP)
        second.expect("SET k remembered")


@pytest.mark.parametrize("obstacle", ["file", "directory"])
def test_a_history_that_can_not_be_kept_is_done_without(cluster: FakeCluster, tmp_path: Path, obstacle: str) -> None:
    if obstacle == "file":
        (tmp_path / "state").write_text("not a directory")
    else:
        (tmp_path / "state" / "raftkv" / "history").mkdir(parents=True)
    with start(tmp_path, *cluster.addresses) as terminal:
        terminal.expect(PROMPT)
        assert say(terminal, "SET k v") == "OK"
        terminal.type(CTRL_D)
        assert terminal.wait() == 0


def test_tab_completes_commands_and_keys_named_before(terminal: Terminal) -> None:
    terminal.type("STAT" + TAB)
    terminal.expect("STATUS")
    terminal.type(ENTER)
    terminal.expect("follower")
    terminal.expect(PROMPT)
    say(terminal, "SET a-rather-long-key 1")
    terminal.type("get a-ra" + TAB)
    terminal.expect("a-rather-long-key")
    terminal.type(ENTER)
    terminal.expect("1\r\n")


def test_tab_completes_keys_that_were_listed_and_members(terminal: Terminal, cluster: FakeCluster) -> None:
    cluster.driver.text("SET written-by-another 1")
    assert "written-by-another" in say(terminal, "KEYS")
    terminal.type("get wri" + TAB)
    terminal.expect("written-by-another")
    terminal.type(ENTER)
    terminal.expect("1\r\n")
    terminal.expect(PROMPT)
    terminal.type("ADD 3" + TAB)
    terminal.expect(f"ADD 3={cluster.addresses[2]}")


@pytest.fixture
def known() -> Known:
    """After a greeting."""
    known = Known()
    known.see([NodeStatus(id, f"h:{id}", "follower") for id in (1, 2, 13)])
    return known


def learn(known: Known, line: str, value: Value) -> None:
    request = parse(line)
    assert request is not None
    known.learn(request, value)


def offered(known: Known, text: str) -> list[str]:
    typed, words = known.completions(text)
    assert text.endswith(typed)
    return words


def test_commands_are_offered_first_and_to_help(known: Known) -> None:
    assert offered(known, "se") == ["SET", "SETNX"]
    assert offered(known, "help re") == ["REMOVE"]
    assert len(offered(known, "")) == len(COMMANDS)
    assert offered(known, "nonsense ") == []


def test_keys_are_offered_where_a_key_stands_and_only_there(known: Known) -> None:
    learn(known, "SET one 1", "OK")
    learn(known, "GET other", None)
    learn(known, "KEYS o", [b"of another", b"ones", "öl".encode(), b"\xffo", b"o\n", b'o"'])
    for command in ("get", "SET", "del", "CAS", "keys"):
        assert offered(known, f"{command} o") == ["one", "ones", "other"]
    assert offered(known, "get ö") == ["öl"]
    for text in ("set one o", "status o", "transfer o", "backup o"):
        assert offered(known, text) == []


def test_no_more_keys_are_remembered_than_anybody_looks_at(known: Known) -> None:
    learn(known, "GET first", b"")
    learn(known, "GET last", b"")
    learn(known, "KEYS", [b"%d" % i for i in range(MAX_KEYS - 1)])
    assert offered(known, "get first") == []
    assert offered(known, "get last") == ["last"]
    learn(known, "KEYS", [b"%d" % i for i in range(2 * MAX_KEYS)])
    assert len(offered(known, "get ")) == MAX_KEYS


def test_members_are_offered_by_id_and_to_add_by_address(known: Known) -> None:
    assert offered(known, "remove ") == ["1", "2", "13"]
    assert offered(known, "TRANSFER 1") == ["1", "13"]
    learn(known, "REMOVE 13", "OK")
    learn(known, "REMOVE 2", None)  # it failed
    learn(known, "ADD 4=h:4", "OK")
    assert offered(known, "remove ") == ["1", "2", "4"]
    assert offered(known, "add 1") == ["1=h:1", "13=h:13"], "who has been removed may be wanted back"
    learn(known, "MEMBERS", [ClusterMember(7, "h:7", is_learner=False, is_leader=True)])
    assert offered(known, "remove ") == ["7"]
    learn(known, "STATUS", [NodeStatus(0, "h:7", "unreachable")])
    assert offered(known, "remove ") == ["7"], "nobody has answered"
    assert offered(known, "add 7") == ["7=h:7"]


def test_several_pasted_lines_are_several_commands(terminal: Terminal, cluster: FakeCluster) -> None:
    terminal.type("\x1b[200~SET a 1\nSET b 2\nSET c\x1b[201~ 3" + ENTER)
    wait_until(lambda: len(cluster.machine) == 3, "all three have been carried out")
    assert cluster.machine.get(b"c") == b"3"


def test_text_that_is_not_ascii_can_be_typed(terminal: Terminal) -> None:
    assert say(terminal, "SET straße größe") == "OK"
    assert say(terminal, "GET straße") == "größe"


def test_bytes_that_are_not_utf8_can_be_typed(terminal: Terminal, cluster: FakeCluster) -> None:
    os.write(terminal._fd, b"SET k \xff\r")
    terminal.expect("OK")
    assert cluster.machine.get(b"k") == b"\xff"
