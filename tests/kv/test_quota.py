"""The limit on the size of the state: what grows is refused, in `apply` and so on every member alike."""

from __future__ import annotations

import struct

import pytest

from raftkv.kv import KEY_OVERHEAD_BYTES, StateMachine
from raftkv.kv_snapshot import decode, encode
from raftkv.operations import Operation, TermSettings, decode_settings, encode_settings
from tests.kv.driving import (
    DONE,
    NO_SPACE,
    NOT_DONE,
    SETTINGS,
    Driver,
    compare_and_set,
    delete,
    replayed,
    set_,
    set_if_absent,
)
from tests.kv.test_snapshots import Data

ROOM_FOR_TWO = 2 * (KEY_OVERHEAD_BYTES + 2)
"""Keys of one byte with values of one byte."""


@pytest.fixture
def full() -> Driver:
    """There is no room for another byte."""
    driver = Driver()
    driver.change_leader(max_state_bytes=ROOM_FOR_TWO)
    assert driver.batch(set_(b"a", b"1"), set_(b"b", b"1")) == [DONE, DONE]
    assert driver.machine.state_bytes == ROOM_FOR_TWO
    return driver


@pytest.mark.parametrize(
    "operation",
    [set_(b"c", b""), set_if_absent(b"c", b""), set_(b"a", b"22"), compare_and_set(b"a", b"1", b"22")],
)
def test_what_would_grow_the_state_beyond_its_limit_is_refused_and_changes_nothing(
    full: Driver, operation: Operation
) -> None:
    before = full.machine.record(b"a"), full.machine.revision, full.machine.state_bytes
    assert full.batch(operation) == [NO_SPACE]
    assert (full.machine.record(b"a"), full.machine.revision, full.machine.state_bytes) == before
    assert full.machine.get(b"c") is None


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        (set_(b"a", b"2"), DONE),
        (set_(b"a", b""), DONE),
        (set_if_absent(b"a", b"222"), NOT_DONE),
        (compare_and_set(b"a", b"1", b"2"), DONE),
        (compare_and_set(b"a", b"0", b"222"), NOT_DONE),
        (compare_and_set(b"c", b"0", b"222"), NOT_DONE),
        (delete(b"a"), DONE),
        (delete(b"c"), NOT_DONE),
    ],
)
def test_what_needs_no_more_space_goes_on_at_the_limit(full: Driver, operation: Operation, result: object) -> None:
    assert full.batch(operation) == [result]


def test_there_is_room_again_as_soon_as_something_has_been_deleted(full: Driver) -> None:
    assert full.batch(set_(b"c", b"1"), delete(b"a"), set_(b"c", b"1"), set_(b"d", b"")) == [
        NO_SPACE,
        DONE,
        DONE,
        NO_SPACE,
    ]
    assert sorted(full.machine.all_keys()) == [b"b", b"c"]


def test_a_new_key_may_fill_the_state_to_its_last_byte(full: Driver) -> None:
    full.change_leader(max_state_bytes=ROOM_FOR_TWO + KEY_OVERHEAD_BYTES + 1)
    assert full.batch(set_(b"c", b"1"), set_(b"c", b"")) == [NO_SPACE, DONE]


def test_below_a_limit_that_was_lowered_only_what_grows_is_refused(full: Driver) -> None:
    full.change_leader(max_state_bytes=10)
    assert full.batch(set_(b"a", b"2"), set_(b"a", b"22"), set_(b"a", b""), set_(b"a", b"2")) == [
        DONE,
        NO_SPACE,
        DONE,
        NO_SPACE,
    ]
    full.change_leader(max_state_bytes=0)
    assert full.batch(set_(b"c", b"3" * 100)) == [DONE], "0 is no limit"


def test_a_write_that_was_refused_stays_refused_when_it_is_repeated(full: Driver) -> None:
    """The client was told that it was not applied, and that is for good."""
    session = full.open_session()
    write = set_(b"c", b"1", sequence=1)
    assert full.batch(write, session=session) == [NO_SPACE]
    full.batch(delete(b"a"))
    assert full.batch(write, set_(b"c", b"2", sequence=2), session=session) == [NO_SPACE, DONE]
    assert full.machine.get(b"c") == b"2"


def test_the_text_form_knows_the_limit_too(full: Driver) -> None:
    assert full.text("SET c 1") == [NO_SPACE]
    assert full.text("DEL a") == [DONE]


def test_the_size_is_counted_on_while_the_state_is_frozen_and_comes_back_from_a_snapshot(full: Driver) -> None:
    frozen = full.machine.freeze()
    assert full.batch(delete(b"a"), set_(b"b", b""), set_(b"cc", b"")) == [DONE, DONE, DONE]
    assert full.machine.state_bytes == 2 * KEY_OVERHEAD_BYTES + 3
    restored = StateMachine()
    restored.restore(decode(Data(b"".join(encode(frozen, b""))))[1])
    assert restored.state_bytes == restored.max_state_bytes == ROOM_FOR_TWO
    full.machine.thaw()
    full.machine.merge(10)
    assert full.machine.state_bytes == 2 * KEY_OVERHEAD_BYTES + 3
    assert full.machine.digest() == replayed(full.log).digest()


def test_room_can_be_asked_for_without_writing(full: Driver) -> None:
    machine = full.machine
    assert not machine.has_room_for(set_(b"c", b""))
    assert not machine.has_room_for(set_(b"a", b"22"))
    assert not machine.has_room_for(set_if_absent(b"c", b""))
    assert machine.has_room_for(set_(b"a", b"2"))
    assert machine.has_room_for(set_if_absent(b"a", b"222"))
    assert machine.has_room_for(delete(b"a"))
    assert machine.has_room_for(compare_and_set(b"a", b"1", b"222")), "only the comparison tells"


def test_settings_of_the_first_form_set_no_limit() -> None:
    first_form = struct.pack("<B16sQQQ", 1, b"c" * 16, 3, 1000, 4)
    assert decode_settings(first_form) == SETTINGS
    assert SETTINGS.max_state_bytes == 0
    limited = TermSettings(b"c" * 16, 3, 1000, 4, max_state_bytes=5)
    assert decode_settings(encode_settings(limited)) == limited
