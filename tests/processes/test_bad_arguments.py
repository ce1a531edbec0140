"""Every mistake on the command line or in config.ini: one line on stderr that names it, status 2, nothing touched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Finished, free_addresses, run

A, B, C = "127.0.0.1:50051", "127.0.0.1:50052", "127.0.0.1:50053"


def node(directory: Path, *words: str) -> Finished:
    return run([sys.executable, str(ROOT / "raft_node.py"), *words], directory)


def assert_one_line(finished: Finished, status: int, *named: str) -> None:
    """One line, all these words in it, and nothing else anywhere."""
    assert finished.status == status, finished
    assert not finished.stdout
    line, end = finished.stderr[:-1], finished.stderr[-1:]
    assert end == "\n", finished
    assert "\n" not in line, finished
    assert "Traceback" not in line
    for word in named:
        assert word.lower() in line.lower(), f"{word!r} is not in {line!r}"


MISTAKES = {
    "no arguments": ([], ""),
    "no addresses": (["1"], "address"),
    "an id that is no number": (["one", A], "one"),
    "an id of 0": (["0", A], "0"),
    "a negative id": (["-1", A], "1"),
    "an id that is not in the list": (["4", A, B, C], "4"),
    "a duplicate address": (["1", A, B, A], A),
    "a duplicate id": (["1", f"1={A}", f"1={B}"], "1"),
    "an address without a port": (["1", "127.0.0.1", B], "127.0.0.1"),
    "an address without a host": (["1", ":50051"], ":50051"),
    "a port that is no number": (["1", "127.0.0.1:http"], "127.0.0.1:http"),
    "a port that is too large": (["1", "127.0.0.1:70000"], "70000"),
    "port 0": (["1", "127.0.0.1:0"], "127.0.0.1:0"),
    "an empty address": (["1", ""], "<host>:<port>"),
    "a host with an empty part": (["1", "a..b:50051"], "a..b:50051"),
    "an unknown option": (["1", A, "--what"], "--what"),
    "an option without its value": (["1", A, "--data-dir"], "--data-dir"),
    "a log level that does not exist": (["1", A, "--log-level", "loud"], "loud"),
    "a config file that does not exist": (["1", A, "--config", "nowhere.ini"], "nowhere.ini"),
}


@pytest.mark.parametrize(("words", "named"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_on_the_command_line_is_one_line_and_status_2(tmp_path: Path, words: list[str], named: str) -> None:
    assert_one_line(node(tmp_path, *words), 2, named)
    assert list(tmp_path.iterdir()) == []


BAD_CONFIGS = {
    "an unknown key": ("ELECTION_TIMEOOT = 1", "ELECTION_TIMEOOT"),
    "a number that is none": ("LEASE_DURATION = soon", "LEASE_DURATION"),
    "a number that is not finite": ("LEASE_DURATION = nan", "LEASE_DURATION"),
    "a negative number": ("ELECTION_TIMEOUT = -1", "ELECTION_TIMEOUT"),
    "a number beyond all bounds": (f"MAX_KEY_BYTES = 1{400 * '0'}", "MAX_KEY_BYTES"),
    "a contradiction": ("HEARTBEAT_INTERVAL = 3\nELECTION_TIMEOUT = 1", "HEARTBEAT_INTERVAL"),
    "no section": (None, "DEFAULT"),
}


@pytest.mark.parametrize(("text", "named"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_a_mistake_in_the_config_is_one_line_with_file_and_key_and_status_2(
    tmp_path: Path, text: str | None, named: str
) -> None:
    (tmp_path / "my.ini").write_text("LEASE_DURATION = 1\n" if text is None else f"[DEFAULT]\n{text}\n")
    assert_one_line(node(tmp_path, "1", A, "--config", "my.ini"), 2, "my.ini", named)
    assert [path.name for path in tmp_path.iterdir()] == ["my.ini"]


def test_the_config_in_the_current_directory_is_read_without_being_named(tmp_path: Path) -> None:
    (tmp_path / "config.ini").write_text("[DEFAULT]\nWRONG = 1\n")
    assert_one_line(node(tmp_path, "1", A), 2, "config.ini", "WRONG")


def test_an_address_that_is_not_of_this_machine_is_one_line_and_status_1(tmp_path: Path) -> None:
    """192.0.2.1 is set aside for documentation; nothing is sent there."""
    assert_one_line(node(tmp_path, "1", "192.0.2.1:50051"), 1, "192.0.2.1:50051")


CLIENT_MISTAKES = {
    "no arguments": ([], ""),
    "a malformed address": (["127.0.0.1"], "127.0.0.1"),
    "an unknown option": ([A, "--what"], "--what"),
    "a timeout that is no number": ([A, "--timeout", "long"], "long"),
    "a timeout of 0": ([A, "--timeout", "0"], "timeout"),
}


@pytest.mark.parametrize(("words", "named"), CLIENT_MISTAKES.values(), ids=CLIENT_MISTAKES.keys())
def test_a_mistake_in_the_clients_arguments_is_one_line_and_status_2(
    tmp_path: Path, words: list[str], named: str
) -> None:
    assert_one_line(run([sys.executable, str(ROOT / "client.py"), *words], tmp_path), 2, named)


def test_a_client_without_a_server_says_so_within_its_timeout(tmp_path: Path) -> None:
    (address,) = free_addresses(1)
    command = [sys.executable, str(ROOT / "client.py"), address, "--timeout", "1", "-c", "SET k v"]
    finished = run(command, tmp_path, seconds=10)
    assert finished.status == 1
    said = (finished.stdout + finished.stderr).splitlines()
    assert len(said) == 1
    assert said[0].startswith("ERROR UNAVAILABLE: ")
