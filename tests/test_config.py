"""What a node's settings and its member list may be, and what is said when they can't be used."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from raftkv.config import ConfigError, NodeConfig, load_config, parse_members
from raftkv.operations import Batch, Code, Operation, encode_batch

ROOT = Path(__file__).parent.parent
EVERY_KEY = {f.name.upper(): f.default for f in dataclasses.fields(NodeConfig)}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "config.ini"


def refusal(path: Path, text: str) -> str:
    """What is said of a config file with this text below [DEFAULT]; the error must be one line that names the file."""
    path.write_text("[DEFAULT]\n" + text)
    with pytest.raises(ConfigError) as e:
        load_config(path)
    message = str(e.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# ---- The file in the repository --------------------------------------------------------------------------------------


def test_the_files_values_are_the_defaults_key_by_key() -> None:
    lines = (ROOT / "config.ini").read_text().splitlines()
    keys = [line.split(" = ")[0] for line in lines if re.match(r"\w+ = ", line)]
    assert keys == list(EVERY_KEY)
    assert load_config(ROOT / "config.ini") == NodeConfig()


def test_every_key_in_the_file_has_a_comment_right_above_it() -> None:
    paragraphs = (ROOT / "config.ini").read_text().split("\n\n")
    for key in EVERY_KEY:
        (paragraph,) = [p for p in paragraphs if re.search(rf"^{key} = ", p, re.MULTILINE)]
        *comment, setting = paragraph.strip().splitlines()
        assert setting.startswith(f"{key} = ")
        assert comment
        assert all(line.startswith("# ") for line in comment)


@pytest.mark.parametrize("key", [f.name.upper() for f in dataclasses.fields(NodeConfig) if f.metadata["unit"]])
def test_the_comment_in_the_file_gives_the_unit(key: str) -> None:
    unit = next(f.metadata["unit"] for f in dataclasses.fields(NodeConfig) if f.name.upper() == key)
    (paragraph,) = [p for p in (ROOT / "config.ini").read_text().split("\n\n") if f"\n{key} = " in p]
    assert unit in paragraph.lower()


# ---- Reading ---------------------------------------------------------------------------------------------------------


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config() == NodeConfig()


def test_the_file_in_the_current_directory_is_read_when_none_is_named(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.write_text("[DEFAULT]\nMAX_KEY_BYTES = 7\n")
    monkeypatch.chdir(config_file.parent)
    assert load_config().max_key_bytes == 7


def test_keys_left_out_keep_their_defaults(config_file: Path) -> None:
    config_file.write_text("[DEFAULT]\nLEASE_DURATION = 1.5\nLEASES = off\nMAX_SESSIONS=12\n")
    assert load_config(config_file) == NodeConfig(lease_duration=1.5, leases=False, max_sessions=12)


@pytest.mark.parametrize(
    "text", ["", "[DEFAULT]\n", "# nothing\n\n[DEFAULT]\n; nothing\n", "\ufeff[DEFAULT]\nLEASES=on\n"]
)
def test_an_empty_file_means_the_defaults(config_file: Path, text: str) -> None:
    config_file.write_text(text, encoding="utf-8")
    assert load_config(config_file) == NodeConfig()


@pytest.mark.parametrize(("word", "value"), [("on", True), ("Off", False), ("yes", True), ("0", False), ("TRUE", True)])
def test_a_switch_may_be_spelled_in_many_ways(config_file: Path, word: str, value: bool) -> None:
    config_file.write_text(f"[DEFAULT]\nLEASES = {word}\n")
    assert load_config(config_file).leases is value


def test_a_comment_may_follow_a_value(config_file: Path) -> None:
    config_file.write_text("[DEFAULT]\nLEASE_DURATION = 2 ; seconds\nMAX_SESSIONS = 3 # few\n")
    assert load_config(config_file) == NodeConfig(lease_duration=2.0, max_sessions=3)


def test_a_percent_sign_is_not_interpolated(config_file: Path) -> None:
    assert refusal(config_file, "CLOCK_DRIFT = 1%\n") == "CLOCK_DRIFT must be a number, not '1%'"


def test_a_lease_longer_than_the_election_timeout_is_legal() -> None:
    assert NodeConfig(lease_duration=60).lease_duration == 60


# ---- Refusing --------------------------------------------------------------------------------------------------------


def test_a_file_that_was_named_must_exist(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{config_file}: cannot be read: No such file or directory")):
        load_config(config_file)


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_a_file_that_is_not_text_is_refused(config_file: Path) -> None:
    config_file.write_bytes(b"[DEFAULT]\nLEASES = \xff\n")
    with pytest.raises(ConfigError, match="is not a text file in UTF-8"):
        load_config(config_file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LEASE_DURATON = 1\n", "unknown key LEASE_DURATON: do you mean LEASE_DURATION?"),
        ("lease_duration = 1\n", "unknown key lease_duration: do you mean LEASE_DURATION?"),
        ("COLOUR = red\n", "unknown key COLOUR"),
        ("[node]\nLEASES = on\n", "unknown section [node]: every key belongs to [DEFAULT]"),
        ("LEASES = on\nLEASES = off\n", "LEASES is given twice, the second time in line 3"),
        ("LEASES\n", "line 2 is not of the form KEY = value"),
    ],
)
def test_what_is_not_a_known_key_is_refused(config_file: Path, text: str, message: str) -> None:
    assert refusal(config_file, text) == message


def test_a_key_before_any_section_is_refused(config_file: Path) -> None:
    config_file.write_text("LEASES = on\n")
    with pytest.raises(ConfigError, match="line 1 stands before any section"):
        load_config(config_file)


@pytest.mark.parametrize("key", EVERY_KEY)
@pytest.mark.parametrize("text", ["", "x", "1 2", "0x10", "--1"])
def test_a_value_that_does_not_parse_is_refused_by_the_keys_name(config_file: Path, key: str, text: str) -> None:
    expected = {bool: "on or off", int: "a whole number", float: "a number"}[type(EVERY_KEY[key])]
    assert refusal(config_file, f"{key} = {text}\n") == f"{key} must be {expected}, not {text!r}"


@pytest.mark.parametrize("key", [key for key, default in EVERY_KEY.items() if isinstance(default, float)])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "1e99"])
def test_a_duration_that_no_clock_could_measure_is_refused(config_file: Path, key: str, text: str) -> None:
    message = refusal(config_file, f"{key} = {text}\n")
    assert message.startswith(f"{key} must be from ")
    assert message.endswith(f", not {float(text)}")


ZERO_IS_NO_LIMIT = ("MAX_STATE_BYTES",)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (key, text)
        for key, default in EVERY_KEY.items()
        for text in ("0", "-1", str(2**63), "1" + 400 * "0")
        if type(default) is int and (key, text) not in [(k, "0") for k in ZERO_IS_NO_LIMIT]
    ],
)
def test_a_size_or_count_out_of_range_is_refused(config_file: Path, key: str, text: str) -> None:
    assert refusal(config_file, f"{key} = {text}\n").startswith(f"{key} must be from ")


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize(
    "field", [f for f in dataclasses.fields(NodeConfig) if f.metadata["high"]], ids=lambda f: str(f.name)
)
def test_the_first_value_beyond_either_end_of_a_range_is_refused(field: dataclasses.Field[float], end: str) -> None:
    outwards = -math.inf if end == "low" else math.inf
    limit = field.metadata[end]
    beyond = limit + math.copysign(1, outwards) if isinstance(field.default, int) else math.nextafter(limit, outwards)
    with pytest.raises(ConfigError, match=rf"{field.name.upper()} must be from "):
        NodeConfig(**{field.name: beyond})  # type: ignore[arg-type]


def test_a_heartbeat_longer_than_half_the_election_timeout_is_refused(config_file: Path) -> None:
    message = refusal(config_file, "HEARTBEAT_INTERVAL = 0.3\n")
    assert message.startswith("HEARTBEAT_INTERVAL 0.3 is more than half of ELECTION_TIMEOUT 0.5")
    assert refusal(config_file, "ELECTION_TIMEOUT = 0.15\n").startswith("HEARTBEAT_INTERVAL 0.1 ")
    assert NodeConfig(heartbeat_interval=0.25, election_timeout=0.5).heartbeat_interval == 0.25


def test_the_largest_operation_must_fit_into_a_batch(config_file: Path) -> None:
    largest = len(encode_batch(Batch([Operation(Code.COMPARE_AND_SET, b"k" * 10, b"v" * 100, b"e" * 100)])))
    settings = {"max_key_bytes": 10, "max_value_bytes": 100}
    assert NodeConfig(**settings, max_batch_bytes=largest).max_batch_bytes == largest  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"MAX_BATCH_BYTES {largest - 1} is too small .* at least {largest}$"):
        NodeConfig(**settings, max_batch_bytes=largest - 1)  # type: ignore[arg-type]
    assert refusal(config_file, "MAX_VALUE_BYTES = 3000000\n").startswith("MAX_BATCH_BYTES 4194304 is too small ")


def test_the_largest_batch_must_be_allowed_to_wait(config_file: Path) -> None:
    assert refusal(config_file, "MAX_WAITING_BYTES = 4194303\n").startswith("MAX_WAITING_BYTES 4194303 is less than")


# ---- The member list -------------------------------------------------------------------------------------------------


def test_the_kth_address_belongs_to_member_k() -> None:
    assert parse_members(["a:1", "b:2", "c:3"]) == {1: "a:1", 2: "b:2", 3: "c:3"}


def test_an_id_may_be_named() -> None:
    assert parse_members(["7=127.0.0.1:50051", "b:2", "1=[::1]:50051"]) == {
        7: "127.0.0.1:50051",
        2: "b:2",
        1: "[::1]:50051",
    }


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a",
        "a:",
        ":1",
        "a:b",
        "a:-1",
        "a:01",
        "a:1:2",
        "::1:50051",
        "[::1]",
        "a b:1",
        "a:1 ",
        "http://a:1",
        "a,b:1",
        "[]:1",
    ],
)
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{address!r} is not of the form <host>:<port>")):
        parse_members(["ok:1", address])


@pytest.mark.parametrize("port", ["0", "65536", "99999999999", "9" * 5000])
def test_a_port_out_of_range_is_refused(port: str) -> None:
    with pytest.raises(ConfigError, match="a port lies between 1 and 65535"):
        parse_members([f"a:{port}"])


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "ü..b", "ü" * 64, "\udcff"])
def test_a_host_whose_name_no_resolver_takes_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="a part of the host is empty or longer than 63 bytes"):
        parse_members([f"{host}:1"])


@pytest.mark.parametrize("host", ["a.b.", "x" * 63, "münchen.example", "[fe80::1%eth0]", "a_b"])
def test_an_unusual_host_may_exist(host: str) -> None:
    assert parse_members([f"{host}:1"]) == {1: f"{host}:1"}


@pytest.mark.parametrize("member_id", ["0", "-1", "x", "", "1.5", str(2**63), "1" * 30])
def test_an_id_that_is_not_a_positive_number_is_refused(member_id: str) -> None:
    with pytest.raises(ConfigError, match="with an id from 1 on"):
        parse_members([f"{member_id}=a:1"])


@pytest.mark.parametrize("words", [["a:1", "b:1", "a:1"], ["1=a:1", "2=a:1"]])
def test_an_address_given_twice_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="address a:1 is given twice"):
        parse_members(words)


@pytest.mark.parametrize("words", [["1=a:1", "1=b:1"], ["2=a:1", "b:1"]])
def test_an_id_given_twice_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"member \d is given twice: as a:1 and as b:1"):
        parse_members(words)


def test_an_empty_member_list_is_refused() -> None:
    with pytest.raises(ConfigError, match="no member's address is given"):
        parse_members([])
