"""Configurations as values: their text form, changes to them, and the history that a log keeps of them."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from raftkv.memory_storage import MemoryStorage
from raftkv.raft.configuration import (
    Add,
    Change,
    ChangeRefused,
    Configurations,
    MalformedConfiguration,
    Promote,
    Remove,
    changed,
    decode_configuration,
    describe_configuration,
    encode_configuration,
)
from raftkv.raft.log import configurations_of
from raftkv.raft.quorum import is_majority
from raftkv.raft.types import NOBODY, Configuration, Entry, EntryKind, HardState, LogPosition, SnapshotMeta
from tests.raft.lone import members_entry

FOUNDERS = Configuration(frozenset({1, 2, 3}), addresses=((1, "a:1"), (2, "b:1"), (3, "c:1")))
WITH_LEARNER = changed(FOUNDERS, Add(4, "[::1]:5"), 57)
DISK = bytes(range(16))
WITH_DISK = changed(WITH_LEARNER, Promote(4, DISK), 60)


@pytest.mark.parametrize(
    "configuration",
    [FOUNDERS, WITH_LEARNER, WITH_DISK, NOBODY, Configuration(frozenset({1, 2})), Configuration(frozenset({2**40}))],
)
def test_what_was_encoded_is_decoded(configuration: Configuration) -> None:
    assert decode_configuration(encode_configuration(configuration)) == configuration


def test_the_text_form_can_be_read() -> None:
    assert encode_configuration(WITH_LEARNER).decode() == (
        "raftkv configuration 1\n1 voter 0 a:1\n2 voter 0 b:1\n3 voter 0 c:1\n4 learner 57 [::1]:5"
    )
    assert encode_configuration(WITH_DISK).decode().endswith("\n4 voter 57/000102030405060708090a0b0c0d0e0f [::1]:5")
    assert describe_configuration(WITH_LEARNER) == "1=a:1 2=b:1 3=c:1 4=[::1]:5 (learner)"
    assert describe_configuration(NOBODY) == "nobody"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xff\xfe", b"raftkv configuration 2\n1 voter 0 a:1", b"raftkv configuration 1\n"),
        *(b"raftkv configuration 1\n1 voter", b"raftkv configuration 1\n1 emperor 0 a:1"),
        *(b"raftkv configuration 1\n0 voter 0 a:1", b"raftkv configuration 1\n-1 voter 0 a:1"),
        *(b"raftkv configuration 1\n2 voter 0 a:1\n1 voter 0 a:1", b"raftkv configuration 1\n1 voter x a:1"),
        *(b"raftkv configuration 1\n1 voter 0/x a", b"raftkv configuration 1\n1 voter 0/AA a"),
        *(b"raftkv configuration 1\n1 voter 0 a\n1 learner 0 a", b"raftkv configuration 1\n" + b"9" * 5000 + b" voter"),
    ],
)
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedConfiguration):
        decode_configuration(data)


# ---- changes ---------------------------------------------------------------------------------------------------------


def test_a_new_member_is_a_learner_and_knows_since_when() -> None:
    assert WITH_LEARNER.voters == {1, 2, 3}
    assert WITH_LEARNER.learners == {4}
    assert WITH_LEARNER.joined == ((4, 57),)


def test_a_learner_is_promoted() -> None:
    promoted = changed(WITH_LEARNER, Promote(4), 60)
    assert promoted.voters == {1, 2, 3, 4}
    assert not promoted.learners
    assert (promoted.joined, promoted.disks) == (((4, 57),), ())


def test_with_the_disk_on_which_it_has_caught_up() -> None:
    assert WITH_DISK.voters == {1, 2, 3, 4}
    assert WITH_DISK.disk_of(4) == DISK
    assert WITH_DISK.disk_of(3) == b""
    assert changed(WITH_DISK, Add(4, "d:9"), 61).disk_of(4) == DISK
    assert changed(WITH_DISK, Add(5, "e:1"), 61).disk_of(4) == DISK
    assert changed(WITH_DISK, Remove(3), 61).disk_of(4) == DISK
    assert changed(changed(WITH_DISK, Remove(4), 61), Add(4, "d:9"), 62).disks == ()


def test_a_member_that_is_removed_leaves_no_trace_and_comes_back_as_another() -> None:
    assert changed(WITH_LEARNER, Remove(4), 60) == FOUNDERS
    back = changed(changed(FOUNDERS, Remove(3), 60), Add(3, "c:1"), 61)
    assert back.joined == ((3, 61),)
    assert back.learners == {3}


def test_an_address_is_changed() -> None:
    moved = changed(FOUNDERS, Add(2, "b:2"), 60)
    assert dict(moved.addresses) == {1: "a:1", 2: "b:2", 3: "c:1"}
    assert (moved.voters, moved.joined) == (FOUNDERS.voters, ())
    assert changed(moved, Add(2, "b:2"), 61) == moved


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (Add(5, "c:1"), "address c:1 is member 3's"),
        (Add(2, "c:1"), "address c:1 is member 3's"),
        (Promote(2), "member 2 is no learner"),
        (Promote(9), "member 9 is no learner"),
        (Remove(9), "there is no member 9"),
    ],
)
def test_what_makes_no_sense_is_refused(change: Change, why: str) -> None:
    with pytest.raises(ChangeRefused, match=why):
        changed(FOUNDERS, change, 60)


def test_the_last_voter_stays() -> None:
    with pytest.raises(ChangeRefused, match="the last one with a vote"):
        changed(changed(Configuration(frozenset({1})), Add(2, "b"), 5), Remove(1), 6)


@pytest.mark.parametrize("size", range(1, 7))
def test_any_majority_before_a_change_meets_any_majority_after_it(size: int) -> None:
    """Dissertation, figure 4.3."""
    old, new = range(1, size + 1), range(1, size + 2)
    some = list(chain.from_iterable(combinations(new, count) for count in range(size + 2)))
    majorities = [[set(members) for members in some if is_majority(voters, members)] for voters in (old, new)]
    assert all(a & set(old) & b for a in majorities[0] for b in majorities[1])


# ---- the history -----------------------------------------------------------------------------------------------------


def configuration_entry(index: int, *voters: int) -> Entry:
    return members_entry(index, *voters, term=1)


def voters_of(configurations: Configurations) -> set[int]:
    return set(configurations.latest.voters)


def test_the_latest_one_counts_and_an_earlier_one_again_once_it_is_gone() -> None:
    history = Configurations(FOUNDERS)
    history.take_in([Entry(1, 1, EntryKind.NO_OP), configuration_entry(2, 1, 2), configuration_entry(4, 1)])
    assert (voters_of(history), history.latest_index) == ({1}, 4)
    assert history.previous.voters == {1, 2}

    history.truncate(5)
    assert voters_of(history) == {1}
    history.truncate(4)
    assert (voters_of(history), history.latest_index) == ({1, 2}, 2)
    history.truncate(1)
    assert (history.latest, history.latest_index) == (FOUNDERS, 0)
    assert history.previous == FOUNDERS


def test_it_knows_the_configuration_as_of_each_entry() -> None:
    history = Configurations(FOUNDERS, base_index=10)
    history.take_in([configuration_entry(12, 1, 2), configuration_entry(14, 1)])
    assert [len(history.at(index).voters) for index in range(10, 16)] == [3, 3, 2, 2, 1, 1]
    assert [history.count_after(index) for index in range(10, 16)] == [2, 2, 1, 1, 0, 0]

    history.compact(13)
    assert [len(history.at(index).voters) for index in range(13, 16)] == [2, 1, 1]
    history.truncate(14)
    assert voters_of(history) == {1, 2}


def test_an_entry_that_means_nothing_changes_nothing() -> None:
    history = Configurations(FOUNDERS)
    history.take_in([Entry(1, 1, EntryKind.CONFIGURATION, b"\xff nonsense")])
    assert (history.latest, history.latest_index) == (FOUNDERS, 0)


def test_a_log_begins_with_the_configuration_of_its_snapshot() -> None:
    """And takes from its entries only those that come later."""
    storage = MemoryStorage(1)
    log = [configuration_entry(1, 1, 2), configuration_entry(2, 1, 2, 3), configuration_entry(3, 1, 3)]
    storage.persist(HardState(1), log, 3)
    writer = storage.begin_snapshot()
    writer.finish()
    as_of_2 = encode_configuration(Configuration(frozenset({1, 2, 3})))
    storage.adopt_snapshot(SnapshotMeta(LogPosition(1, 2), configuration=as_of_2), writer, keep_from=2)

    history = configurations_of(storage, FOUNDERS)

    assert (voters_of(history), history.latest_index) == ({1, 3}, 3)
    assert history.previous.voters == {1, 2, 3}
    assert history.at(2) == history.previous
