"""The settings of a node, and the list of its members: theory of operation.

A node is set by a file in INI form, all of it in the section [DEFAULT], with a key for each field of `NodeConfig`: the
field's name in upper case. What the file leaves out has the default given here; `config.ini` in the repository lists
every key with that default (a test compares the two).

Nothing is guessed: an unknown key, a value that does not parse or is out of range, and values that contradict each
other are a `ConfigError`, whose text is one line that names the file and the key. A `NodeConfig` that exists is valid,
however it was made.
"""

from __future__ import annotations

import configparser
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raftkv.operations import Batch, Code, Operation, encode_batch

DEFAULT_FILE: Final = Path("config.ini")
"""Read from the current directory, if it is there, when no file is named."""

_MIB: Final = 1 << 20
_ONE_OPERATION_BYTES: Final = len(encode_batch(Batch([Operation(Code.SET)])))
"""What a batch of one operation takes besides its key and values."""


class ConfigError(ValueError):
    """A setting or a member list that can't be used; the text is one line for the person who wrote it."""


def _setting(default: Any, low: float = 0, high: float = 0, unit: str = "") -> Any:
    """A field of `NodeConfig` with the range that its value must lie in, both ends included."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "unit": unit})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything that can be tuned about a node. config.ini says what each setting does.

    Raises ConfigError if a value is out of range or if two of them contradict each other.
    """

    # Leader leases and elections
    lease_duration: float = _setting(0.4, 0.001, 3600, "seconds")
    leases: bool = _setting(True)
    clock_drift: float = _setting(0.01, 0, 0.5)
    election_timeout: float = _setting(0.5, 0.01, 3600, "seconds")
    heartbeat_interval: float = _setting(0.1, 0.001, 3600, "seconds")

    # Sizes of what clients send
    max_key_bytes: int = _setting(1024, 1, _MIB, "bytes")
    max_value_bytes: int = _setting(_MIB, 1, 256 * _MIB, "bytes")
    max_batch_bytes: int = _setting(4 * _MIB, 64, 1024 * _MIB, "bytes")
    max_batch_operations: int = _setting(10_000, 1, 1_000_000, "operations")

    # Replication
    max_append_bytes: int = _setting(_MIB, 1, 1024 * _MIB, "bytes")
    max_appends_in_flight: int = _setting(2, 1, 1000, "requests")
    peer_timeout: float = _setting(1.0, 0.01, 3600, "seconds")
    peer_backoff: float = _setting(1.0, 0.001, 60, "seconds")

    # Waiting clients
    max_waiting_calls: int = _setting(1000, 1, 1_000_000, "calls")
    max_waiting_bytes: int = _setting(64 * _MIB, 64, 1024 * 1024 * _MIB, "bytes")
    max_unsent_bytes: int = _setting(256 * _MIB, _MIB, 1024 * 1024 * _MIB, "bytes")
    call_timeout: float = _setting(5.0, 0.01, 3600, "seconds")
    max_client_streams: int = _setting(500, 1, 10_000, "streams")
    client_threads: int = _setting(8, 1, 1024, "threads")

    # Client sessions
    session_timeout: float = _setting(3600.0, 1, 366 * 86400, "seconds")
    max_sessions: int = _setting(10_000, 1, 10_000_000, "sessions")
    max_unanswered: int = _setting(1024, 1, 1_000_000, "answers")

    # The size of the state
    max_state_bytes: int = _setting(2048 * _MIB, 0, 1024 * 1024 * _MIB, "bytes")

    # Storage
    segment_bytes: int = _setting(12 * _MIB, 4096, 1024 * _MIB, "bytes")
    snapshot_log_bytes: int = _setting(24 * _MIB, 4096, 1024 * 1024 * _MIB, "bytes")
    snapshot_log_entries: int = _setting(300_000, 1, 1_000_000_000_000, "entries")
    kept_log_bytes: int = _setting(8 * _MIB, 1, 1024 * 1024 * _MIB, "bytes")

    def __post_init__(self) -> None:
        for name, spec in _FIELDS.items():
            _check_range(name, getattr(self, name), spec)
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        if 2 * self.heartbeat_interval > self.election_timeout:
            raise ConfigError(
                f"HEARTBEAT_INTERVAL {self.heartbeat_interval:g} is more than half of "
                f"ELECTION_TIMEOUT {self.election_timeout:g}: one lost heartbeat would start an election"
            )
        # The largest operation is a compare-and-set: it carries two values.
        largest = _ONE_OPERATION_BYTES + self.max_key_bytes + 2 * self.max_value_bytes
        if largest > self.max_batch_bytes:
            raise ConfigError(
                f"MAX_BATCH_BYTES {self.max_batch_bytes} is too small for one compare-and-set with a key of "
                f"MAX_KEY_BYTES and two values of MAX_VALUE_BYTES: at least {largest}"
            )
        if self.max_batch_bytes > self.max_waiting_bytes:
            raise ConfigError(
                f"MAX_WAITING_BYTES {self.max_waiting_bytes} is less than MAX_BATCH_BYTES {self.max_batch_bytes}: "
                f"the largest batch could never wait"
            )


_FIELDS: Final[Mapping[str, dataclasses.Field[Any]]] = {f.name: f for f in dataclasses.fields(NodeConfig)}


def load_config(path: Path | None = None) -> NodeConfig:
    """The settings in the file at `path`; without one those in ./config.ini, and the defaults if that does not exist.

    Raises ConfigError with the file's name in front.
    """
    if path is None:
        if not DEFAULT_FILE.exists():
            return NodeConfig()
        path = DEFAULT_FILE
    try:
        return NodeConfig(**{key.lower(): _parse(key, text) for key, text in _read(path).items()})
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from None


def _read(path: Path) -> dict[str, str]:
    """The keys and values of the file's section [DEFAULT], as text."""
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # the default would make keys lower-case
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise ConfigError(f"cannot be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError("is not a text file in UTF-8") from None
    except configparser.DuplicateOptionError as e:
        raise ConfigError(f"{e.option} is given twice, the second time in line {e.lineno}") from None
    except configparser.MissingSectionHeaderError as e:
        raise ConfigError(f"line {e.lineno} stands before any section: begin the file with [DEFAULT]") from None
    except configparser.ParsingError as e:
        raise ConfigError(f"line {e.errors[0][0]} is not of the form KEY = value") from None
    except configparser.Error as e:
        raise ConfigError(" ".join(str(e).split())) from None
    if parser.sections():
        raise ConfigError(f"unknown section [{parser.sections()[0]}]: every key belongs to [DEFAULT]")
    return dict(parser.defaults())


def _parse(key: str, text: str) -> Any:
    """The value of `key` that `text` spells."""
    names = [name.upper() for name in _FIELDS]
    if key not in names:
        near = difflib.get_close_matches(key.upper(), names, n=1)
        raise ConfigError(f"unknown key {key}" + (f": do you mean {near[0]}?" if near else ""))
    kind: type = type(_FIELDS[key.lower()].default)
    try:
        if kind is bool:
            return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]
        return int(text) if kind is int else float(text)
    except (ValueError, KeyError):
        expected = {bool: "on or off", int: "a whole number", float: "a number"}[kind]
        raise ConfigError(f"{key} must be {expected}, not {text!r}") from None


def _check_range(name: str, value: Any, spec: dataclasses.Field[Any]) -> None:
    if isinstance(spec.default, bool):
        return
    low, high, unit = spec.metadata["low"], spec.metadata["high"], spec.metadata["unit"]
    if not low <= value <= high:  # "not a number" lies nowhere
        raise ConfigError(f"{name.upper()} must be from {low} to {high} {unit}".rstrip() + f", not {value}")


def parse_members(words: Sequence[str]) -> dict[int, str]:
    """The initial members that the words of a command line name: a member's address by its id.

    Each word is `host:port`, the k-th being member k, or `id=address`. An IPv6 host stands in brackets. Raises
    ConfigError.
    """
    members: dict[int, str] = {}
    for position, word in enumerate(words, start=1):
        left, separator, right = word.rpartition("=")
        member_id = _parse_member_id(left, word) if separator else position
        if member_id in members:
            raise ConfigError(f"member {member_id} is given twice: as {members[member_id]} and as {right}")
        _check_address(right)
        if right in members.values():
            raise ConfigError(f"address {right} is given twice: each member needs one of its own")
        members[member_id] = right
    if not members:
        raise ConfigError("no member's address is given")
    return members


def _parse_member_id(text: str, word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or not 0 < int(text) < 2**63:
        raise ConfigError(f"{word!r} is not <id>=<address> with an id from 1 on")
    return int(text)


def _check_address(address: str) -> None:
    match = re.fullmatch(r"(\[[\w:.%]+\]|[^\s:\[\]/=,]+):(0|[1-9][0-9]*)", address)
    if match is None:
        raise ConfigError(f"{address!r} is not of the form <host>:<port>, as in 127.0.0.1:50051 or [::1]:50051")
    if len(match[2]) > 5 or not 1 <= int(match[2]) <= 65535:
        raise ConfigError(f"{address!r}: a port lies between 1 and 65535")
    try:
        match[1].encode("idna")  # as `socket` will do, which does not turn this error into its own
    except UnicodeError:
        raise ConfigError(f"{address!r}: a part of the host is empty or longer than 63 bytes") from None
