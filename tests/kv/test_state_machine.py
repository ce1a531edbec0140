"""What each entry does to the keys, the sessions and the digest."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from raftkv.kv import Record, StateMachine, keys_with_prefix
from raftkv.operations import Batch, Code, Operation, Result, Status, encode_batch, encode_settings
from raftkv.raft.types import Entry, EntryKind
from raftkv.records import Layers, Records
from tests.kv.driving import (
    CLOSE,
    DONE,
    MALFORMED,
    NOT_DONE,
    OPEN,
    SEQUENCE_STALE,
    SESSION_UNKNOWN,
    SETTINGS,
    TOO_MANY_UNANSWERED,
    Driver,
    compare_and_set,
    delete,
    set_,
    set_if_absent,
)


@pytest.fixture
def driver() -> Driver:
    return Driver()


class TestKeys:
    def test_set_writes_and_overwrites(self, driver: Driver) -> None:
        assert driver.batch(set_(b"k", b"1"), set_(b"k", b"2"), set_(b"empty", b"")) == [DONE, DONE, DONE]
        assert driver.machine.get(b"k") == b"2"
        assert driver.machine.get(b"empty") == b""
        assert driver.machine.get(b"missing") is None

    def test_delete_says_whether_there_was_something_to_delete(self, driver: Driver) -> None:
        assert driver.batch(set_(b"k", b"1"), delete(b"k"), delete(b"k")) == [DONE, DONE, NOT_DONE]
        assert driver.machine.get(b"k") is None

    def test_set_if_absent_writes_only_where_nothing_is(self, driver: Driver) -> None:
        assert driver.batch(set_if_absent(b"k", b"1"), set_if_absent(b"k", b"2")) == [DONE, NOT_DONE]
        assert driver.machine.get(b"k") == b"1"

    def test_compare_and_set_writes_only_over_the_expected_value(self, driver: Driver) -> None:
        assert driver.batch(compare_and_set(b"k", b"", b"1")) == [NOT_DONE], (
            "a missing key has no value, not an empty one"
        )
        assert driver.batch(set_(b"k", b"1"), compare_and_set(b"k", b"0", b"2")) == [DONE, NOT_DONE]
        assert driver.machine.get(b"k") == b"1"
        assert driver.batch(compare_and_set(b"k", b"1", b"2")) == [DONE]
        assert driver.machine.get(b"k") == b"2"

    def test_the_text_form_does_the_same(self, driver: Driver) -> None:
        assert driver.text("SET k it's fine") == [DONE]
        assert driver.machine.get(b"k") == b"it's fine"
        assert driver.text("CAS k other x") == [NOT_DONE]
        assert driver.text("SETNX k x") == [NOT_DONE]
        assert driver.text("DEL k") == [DONE]
        assert driver.machine.get(b"k") is None

    def test_keys_are_sorted_and_can_be_asked_for_by_prefix(self, driver: Driver) -> None:
        driver.batch(*(set_(key, b"") for key in (b"b", b"ab", b"\xff", b"a", b"")))
        assert keys_with_prefix(driver.machine.all_keys(), b"") == [b"", b"a", b"ab", b"b", b"\xff"]
        assert keys_with_prefix(driver.machine.all_keys(), b"a") == [b"a", b"ab"]
        assert len(driver.machine) == 5

    def test_every_change_and_nothing_else_counts_the_revision_up(self, driver: Driver) -> None:
        machine = driver.machine
        driver.batch(set_(b"a", b"1"), set_(b"b", b"1"), set_(b"a", b"1"))
        assert machine.revision == 3
        assert machine.record(b"a") == Record(b"1", create_revision=1, mod_revision=3, version=2)
        assert machine.record(b"b") == Record(b"1", create_revision=2, mod_revision=2, version=1)
        driver.batch(delete(b"x"), set_if_absent(b"a", b"2"), compare_and_set(b"a", b"2", b"3"), OPEN)
        driver.text("GARBAGE")
        driver.change_leader()
        assert machine.revision == 3
        driver.batch(delete(b"a"), set_if_absent(b"a", b"2"), compare_and_set(b"a", b"2", b"3"))
        assert machine.revision == 6
        assert machine.record(b"a") == Record(b"3", create_revision=5, mod_revision=6, version=2)
        assert machine.record(b"x") is None

    def test_without_a_session_an_operation_is_applied_each_time_it_is_met(self, driver: Driver) -> None:
        for _ in range(2):
            driver.batch(set_(b"k", b"1", sequence=1))
        assert driver.machine.revision == 2

    def test_another_thread_reads_whole_values_while_entries_are_applied(self, driver: Driver) -> None:
        values = [bytes([i]) * 1000 for i in range(8)]
        driver.batch(set_(b"k", values[0]))
        seen: list[bytes | None] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                seen.append(driver.machine.get(b"k"))

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(300):
            driver.batch(*(set_(b"k", value) for value in values), *(set_(b"%d" % i, b"") for i in range(20)))
        stop.set()
        reader.join()
        assert seen
        assert set(seen) <= set(values)


class TestLog:
    def test_entries_are_applied_in_order_and_once(self, driver: Driver) -> None:
        entry = driver.log[-1]
        for index in (entry.index, entry.index + 2):
            with pytest.raises(AssertionError):
                driver.machine.apply(replace(entry, index=index))
        with pytest.raises(AssertionError):
            driver.machine.apply(replace(entry, index=entry.index + 1, term=0))

    def test_the_applied_position_is_that_of_the_last_entry(self, driver: Driver) -> None:
        driver.change_leader()
        driver.text("GARBAGE")
        assert (driver.machine.applied_index, driver.machine.applied_term) == (3, 2)

    def test_the_first_cluster_id_wins_for_good(self) -> None:
        driver = Driver(settings=None)
        assert driver.machine.cluster_id == b""
        driver.apply(EntryKind.NO_OP, b"")
        assert driver.machine.cluster_id == b""
        driver.no_op(replace(SETTINGS, cluster_id=b"1" * 16))
        driver.no_op(replace(SETTINGS, cluster_id=b"2" * 16))
        assert driver.machine.cluster_id == b"1" * 16

    @pytest.mark.parametrize("payload", [b"", b"garbage", b"\x02" + encode_settings(SETTINGS)[1:]])
    def test_a_no_op_without_readable_settings_changes_none(self, driver: Driver, payload: bytes) -> None:
        session = driver.open_session()
        assert driver.apply(EntryKind.NO_OP, payload) == []
        assert driver.batch(set_(b"k", b"1", sequence=1), session=session) == [DONE]

    def test_log_time_never_goes_back(self, driver: Driver) -> None:
        driver.time_ms = 5000
        session = driver.open_session()
        driver.time_ms = 0
        driver.text("SET k v")
        driver.time_ms = 5000 + SETTINGS.session_timeout_ms
        assert driver.batch(session=session) == []
        driver.time_ms = 0
        assert driver.batch(set_(b"k", b"1", sequence=1), session=session) == [DONE]


class TestSessions:
    """Dissertation, 6.3: "the state machine tracks the latest serial number processed for the session ... along with
    the associated response ... if it receives a command whose serial number has already been executed, it responds
    immediately without re-executing the request." Here: every number that is still unanswered, not only the latest."""

    def test_ids_are_unique_and_never_zero(self) -> None:
        driver = Driver(replace(SETTINGS, max_sessions=100))
        results = driver.batch(OPEN, OPEN, OPEN) + driver.batch(OPEN, OPEN)
        assert {result.status for result in results} == {Status.DONE}
        assert len({result.value for result in results} - {0}) == 5

    def test_more_sessions_than_ids_in_one_batch_are_refused(self) -> None:
        driver = Driver(replace(SETTINGS, max_sessions=1))
        results = driver.batch(*[OPEN] * 65_537)
        assert results[-1] == MALFORMED
        assert len({result.value for result in results[:-1]}) == 65_536
        assert results[-2].value < driver.open_session()

    def test_a_session_of_the_largest_index_has_an_id_that_the_wire_can_carry(self) -> None:
        machine = StateMachine()
        machine.applied_index = 2**48 - 2
        [result] = machine.apply(Entry(2**48 - 1, 1, EntryKind.BATCH, encode_batch(Batch([OPEN]))))
        assert result.value < 2**64

    def test_a_duplicate_gets_the_answer_of_the_first_try_and_changes_nothing(self, driver: Driver) -> None:
        session = driver.open_session()
        operations = set_if_absent(b"k", b"1", sequence=1), set_if_absent(b"k", b"2", sequence=2)
        assert driver.batch(*operations, session=session) == [DONE, NOT_DONE]
        assert driver.batch(*operations, session=session) == [DONE, NOT_DONE]
        assert driver.machine.revision == 1

    def test_a_duplicate_within_one_batch_is_one_too(self, driver: Driver) -> None:
        session = driver.open_session()
        assert driver.batch(delete(b"k", 1), set_(b"k", b"1", 2), delete(b"k", 1), session=session) == [
            NOT_DONE,
            DONE,
            NOT_DONE,
        ]
        assert driver.machine.get(b"k") == b"1"

    def test_sessions_do_not_share_sequence_numbers(self, driver: Driver) -> None:
        for value in (b"1", b"2"):
            assert driver.batch(set_(b"k", value, sequence=1), session=driver.open_session()) == [DONE]
        assert driver.machine.get(b"k") == b"2"

    def test_a_number_below_the_lowest_unanswered_is_stale(self, driver: Driver) -> None:
        session = driver.open_session()
        driver.batch(set_(b"k", b"1", sequence=1), session=session)
        assert driver.batch(set_(b"k", b"2", 1), set_(b"l", b"2", 2), session=session, lowest_unanswered=2) == [
            SEQUENCE_STALE,
            DONE,
        ]
        assert driver.machine.get(b"k") == b"1"

    def test_the_lowest_unanswered_never_goes_back(self, driver: Driver) -> None:
        session = driver.open_session()
        driver.batch(session=session, lowest_unanswered=5)
        assert driver.batch(set_(b"k", b"1", 4), session=session, lowest_unanswered=1) == [SEQUENCE_STALE]
        assert driver.batch(set_(b"k", b"1", 5), session=session, lowest_unanswered=1) == [DONE]

    def test_the_number_zero_belongs_to_no_session(self, driver: Driver) -> None:
        assert driver.batch(set_(b"k", b"1", sequence=0), session=driver.open_session()) == [SEQUENCE_STALE]
        assert len(driver.machine) == 0

    def test_a_jump_of_the_lowest_unanswered_to_the_end_of_the_numbers_takes_no_time(self, driver: Driver) -> None:
        session = driver.open_session()
        driver.batch(set_(b"k", b"1", sequence=1), session=session)
        driver.batch(session=session, lowest_unanswered=2**64 - 1)
        assert driver.batch(set_(b"k", b"2", 2**64 - 1), session=session) == [DONE]

    def test_a_session_that_keeps_too_many_answers_takes_no_more_but_still_answers_duplicates(
        self, driver: Driver
    ) -> None:
        session = driver.open_session()
        operations = [set_(b"%d" % i, b"", sequence=i) for i in range(1, 6)]
        assert driver.batch(*operations, session=session) == [DONE] * 4 + [TOO_MANY_UNANSWERED]
        assert driver.machine.get(b"5") is None
        assert driver.batch(*operations, session=session) == [DONE] * 4 + [TOO_MANY_UNANSWERED]
        assert driver.batch(operations[4], session=session, lowest_unanswered=2) == [DONE], "there is room again"

    def test_an_unknown_session_applies_nothing(self, driver: Driver) -> None:
        assert driver.batch(set_(b"k", b"1", 1), OPEN, CLOSE, session=12345) == [SESSION_UNKNOWN] * 3
        assert len(driver.machine) == 0

    def test_a_closed_session_is_unknown_from_then_on(self, driver: Driver) -> None:
        session = driver.open_session()
        results = driver.batch(set_(b"k", b"1", 1), CLOSE, set_(b"k", b"2", 2), CLOSE, session=session)
        assert results == [DONE, DONE, SESSION_UNKNOWN, SESSION_UNKNOWN]
        assert driver.batch(set_(b"k", b"1", 1), session=session) == [SESSION_UNKNOWN]
        assert driver.machine.get(b"k") == b"1"

    def test_opening_is_for_outside_of_sessions_and_closing_for_within(self, driver: Driver) -> None:
        opening = Operation(Code.OPEN_SESSION, sequence=1)
        assert driver.batch(opening, set_(b"k", b"1", 2), session=driver.open_session()) == [MALFORMED, DONE]
        assert driver.batch(CLOSE, set_(b"k", b"2")) == [MALFORMED, DONE]

    def test_a_session_expires_after_its_timeout_of_log_time_without_a_batch(self, driver: Driver) -> None:
        session = driver.open_session()
        for _ in range(3):
            driver.time_ms += SETTINGS.session_timeout_ms
            assert driver.batch(session=session) == [], "an empty batch is enough to keep it"
        assert driver.batch(set_(b"k", b"1", 1), session=session) == [DONE]
        driver.time_ms += SETTINGS.session_timeout_ms + 1
        assert driver.batch(set_(b"k", b"2", 2), session=session) == [SESSION_UNKNOWN]
        assert driver.machine.get(b"k") == b"1"

    def test_one_too_many_evicts_the_one_used_least_recently(self, driver: Driver) -> None:
        first, second, third = (driver.open_session() for _ in range(3))
        driver.batch(session=first)
        fourth = driver.open_session()
        alive = [s for s in (first, second, third, fourth) if driver.batch(set_(b"k", b"", 1), session=s) == [DONE]]
        assert alive == [first, third, fourth]

    def test_a_new_leader_with_lower_limits_ends_sessions_at_once(self, driver: Driver) -> None:
        first, second = driver.open_session(), driver.open_session()
        driver.change_leader(max_sessions=1)
        assert driver.batch(set_(b"k", b"", 1), session=first) == [SESSION_UNKNOWN]
        driver.time_ms += 10
        driver.change_leader(session_timeout_ms=9)
        assert driver.batch(set_(b"k", b"", 1), session=second) == [SESSION_UNKNOWN]

    def test_before_the_first_settings_no_session_lasts(self) -> None:
        driver = Driver(settings=None)
        assert driver.batch(set_(b"k", b"", 1), session=driver.open_session()) == [SESSION_UNKNOWN]


def _two_sessions(driver: Driver, *used: int) -> None:
    """Open two sessions and use them in this order, so that only their order can tell the states apart."""
    sessions = [result.value for result in driver.batch(OPEN, OPEN)]
    for i in used:
        driver.batch(session=sessions[i])


def _a_millisecond_later(driver: Driver) -> None:
    driver.time_ms += 1
    driver.batch()


DIFFERENT: dict[str, tuple[Callable[[Driver], object], Callable[[Driver], object]]] = {
    "a value": (lambda d: d.batch(set_(b"k", b"1")), lambda d: d.batch(set_(b"k", b"2"))),
    "a key": (lambda d: d.batch(set_(b"k", b"1")), lambda d: d.batch(set_(b"l", b"1"))),
    "where key ends and value begins": (lambda d: d.batch(set_(b"kv", b"")), lambda d: d.batch(set_(b"k", b"v"))),
    "a missing key and an empty value": (lambda d: d.batch(), lambda d: d.batch(set_(b"k", b""))),
    "a version": (
        lambda d: d.batch(set_(b"k", b"1"), set_(b"k", b"1")),
        lambda d: d.batch(set_(b"k", b"1"), delete(b"k"), set_(b"k", b"1")),
    ),
    "the revision": (lambda d: d.batch(), lambda d: d.batch(set_(b"k", b"1"), delete(b"k"))),
    "the index": (lambda d: None, lambda d: d.batch()),
    "the term": (lambda d: d.batch(), lambda d: d.change_leader()),
    "the log time": (lambda d: d.batch(), _a_millisecond_later),
    "a session": (lambda d: d.batch(), lambda d: d.open_session()),
    "an id": (lambda d: d.batch(OPEN, delete(b"k")), lambda d: d.batch(delete(b"k"), OPEN)),
    "the sessions' order": (lambda d: _two_sessions(d, 0, 1), lambda d: _two_sessions(d, 1, 0)),
    "an answer kept": (
        lambda d: d.batch(delete(b"k", 1), session=d.open_session()),
        lambda d: d.batch(delete(b"k", 2), session=d.open_session()),
    ),
    "what was answered": (
        lambda d: d.batch(delete(b"k", 1), session=d.open_session()),
        lambda d: d.batch(CLOSE._replace(code=Code.OPEN_SESSION, sequence=1), session=d.open_session()),
    ),
    "the lowest unanswered": (
        lambda d: d.batch(session=d.open_session()),
        lambda d: d.batch(session=d.open_session(), lowest_unanswered=2),
    ),
    **{
        limit: (lambda d: d.change_leader(), lambda d, limit=limit: d.change_leader(**{limit: 99}))  # type: ignore[misc]
        for limit in ("max_sessions", "session_timeout_ms", "max_unanswered")
    },
}


class TestDigest:
    @pytest.mark.parametrize("difference", DIFFERENT)
    def test_states_that_differ_have_different_digests(self, difference: str) -> None:
        digests = set()
        for change in DIFFERENT[difference]:
            driver = Driver()
            change(driver)
            digests.add(driver.machine.digest())
        assert len(digests) == 2

    def test_the_cluster_id_is_part_of_it(self) -> None:
        assert Driver().machine.digest() != Driver(replace(SETTINGS, cluster_id=b"d" * 16)).machine.digest()

    def test_it_does_not_depend_on_the_order_in_which_keys_and_answers_are_kept(self, driver: Driver) -> None:
        """Which a machine that was restored from a copy may have otherwise."""
        session = driver.open_session()
        driver.batch(*(set_(b"%d" % i, b"", i) for i in (3, 1, 2)), session=session)
        before = driver.machine.digest()
        driver.machine._records = Layers(Records(reversed([*driver.machine._records.items()])))
        answers = driver.machine._sessions[session].answers
        driver.machine._sessions[session].answers = dict(reversed(answers.items()))
        assert driver.machine.digest() == before

    def test_reading_changes_nothing(self, driver: Driver) -> None:
        driver.batch(set_(b"k", b"1"))
        before = driver.machine.digest()
        driver.machine.get(b"x")
        driver.machine.record(b"k")
        driver.machine.all_keys()
        assert driver.machine.digest() == before


@pytest.mark.parametrize("kind", EntryKind)
@pytest.mark.parametrize("seed", range(3))
def test_apply_is_total(kind: EntryKind, seed: int) -> None:
    """Whatever a payload is, an entry has results and the machine goes on."""
    rng = random.Random(seed)
    driver = Driver()
    sample = encode_batch(Batch([set_(b"key", b"value", 1), OPEN, CLOSE], session=driver.open_session()))
    for _ in range(500):
        payload = bytearray(rng.choice([sample, b"SET key value", encode_settings(SETTINGS), rng.randbytes(60)]))
        for _ in range(rng.randrange(8)):
            payload[rng.randrange(len(payload))] = rng.randrange(256)
        results = driver.apply(kind, bytes(payload[: rng.randrange(1, 2 * len(payload))]))
        assert all(isinstance(result, Result) for result in results)
        assert driver.machine.applied_index == len(driver.log)
