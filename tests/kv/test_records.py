"""The dict of all records: it is one, whatever is done to it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raftkv.records import SLOT_SHIFT, Layers, Records
from tests.kv.driving import keys_of_one_part, wrap_parts


@pytest.mark.parametrize("seed", range(10))
def test_it_does_what_a_dict_does(seed: int) -> None:
    """Replay a failure with: pytest tests/kv/test_records.py -k SEED."""
    rng = random.Random(seed)
    records, plain = Records(), dict[bytes, bytes]()
    for n in range(2000):
        key = b"%d" % rng.randrange(300)
        match rng.randrange(5):
            case 0 | 1:
                records[key] = plain[key] = b"%d" % n
            case 2:
                records.slots[hash(key) >> SLOT_SHIFT][key] = plain[key] = b"%d" % n
            case 3:
                assert records.pop(key, None) == plain.pop(key, None)
            case _:
                assert records.get(key) == records.slots[hash(key) >> SLOT_SHIFT].get(key) == plain.get(key)
                assert (key in records) == (key in plain)
        assert len(records) == len(plain)
    assert dict(records.items()) == plain
    assert sorted(records) == sorted(plain)
    assert dict(Records(plain.items()).items()) == plain
    with pytest.raises(KeyError):
        records[b"missing"]


def test_it_grows_in_small_parts() -> None:
    """A dict of all keys would now and then copy all of them in one go."""
    records = Records((b"%d" % n, b"") for n in range(64_000))
    assert max(map(len, records.parts)) < 500


def test_its_parts_do_not_grow_at_the_same_time() -> None:
    """All that have come to a size within a tenth of each other would, and a dict that grows is copied."""
    records = Records((b"%d" % n, b"") for n in range(320_000))
    lengths = sorted(map(len, records.parts))
    assert 1.6 < lengths[-5] / lengths[4] < 2.4
    for length in lengths:
        assert sum(length <= other < 1.1 * length for other in lengths) < len(lengths) / 4


# ---- layers ----------------------------------------------------------------------------------------------------------


def write(layers: Layers, key: bytes, record: bytes) -> None:
    """As the state machine does."""
    slot = hash(key) >> SLOT_SHIFT
    layers.on_top[slot][key] = record
    if layers.on_top[slot] is layers.half_merged:
        layers.below.slots[slot][key] = record


@pytest.mark.parametrize("seed", range(20))
def test_layers_are_one_dict_while_they_are_frozen_and_merged(seed: int) -> None:
    """And a picture stays as it was. Replay a failure with: pytest tests/kv/test_records.py -k SEED."""
    rng = random.Random(seed)
    layers, plain, keys = Layers(Records()), dict[bytes, bytes](), [b"%d" % n for n in range(300)]
    picture: Records | None = None
    as_it_was = dict[bytes, bytes]()
    for n in range(3000):
        key = rng.choice(keys)
        choice = rng.random()
        if choice < 0.5:
            plain[key] = b"%d" % n
            write(layers, key, plain[key])
        elif choice < 0.7 and key in plain:
            del plain[key]
            layers.delete(key)
        elif choice < 0.72 and layers.is_merged:
            picture, as_it_was = layers.freeze(), plain.copy()
        elif choice < 0.75 and picture is not None:
            assert dict(picture.items()) == as_it_was
            layers.thaw()
            picture = None
        elif choice < 0.8:
            layers.merge(rng.randrange(20))
        assert layers.get(key) == plain.get(key)
        if n % 50 == 0:
            assert dict(layers.items()) == plain
            assert sorted(layers.keys()) == sorted(plain)
    layers.thaw()
    layers.merge(1000)
    assert layers.is_merged
    assert dict(layers.below.items()) == dict(layers.items()) == plain


def test_merging_stops_after_so_many_keys() -> None:
    layers = Layers(Records((b"%d" % n, b"old") for n in range(1000)))
    layers.freeze()
    for n in range(2000):
        write(layers, b"%d" % n, b"new")
    layers.merge(2000)
    assert set(layers.below.values()) == {b"old"}, "not before `thaw`"
    layers.thaw()
    for times in range(1, 667):
        layers.merge(3)
        assert sum(record == b"new" for record in layers.below.values()) == 3 * times
    assert not layers.is_merged
    layers.merge(3)
    assert layers.is_merged


def test_what_is_written_to_a_part_that_is_half_merged_is_neither_lost_nor_undone() -> None:
    """Whether the key's turn has come, is still to come, or it is new."""
    for merged in range(21):
        layers = Layers(Records((b"%d" % n, b"old") for n in range(20)))
        layers.freeze()
        for n in range(20):
            write(layers, b"%d" % n, b"new")
        layers.thaw()
        layers.merge(merged)
        for n in range(0, 20, 3):
            write(layers, b"%d" % n, b"newer")
        for n in range(1, 20, 3):
            layers.delete(b"%d" % n)
        for n in range(20, 30):
            write(layers, b"%d" % n, b"newer")
        wanted = {b"%d" % n: b"new" if n % 3 == 2 and n < 20 else b"newer" for n in range(30) if n % 3 != 1 or n >= 20}
        assert dict(layers.items()) == wanted
        layers.merge(30)
        assert layers.is_merged
        assert dict(layers.below.items()) == dict(layers.items()) == wanted


def test_a_reader_without_the_turn_misses_nothing_while_layers_are_merged() -> None:
    """Between any two changes of the dicts a key has the record that it has before and after."""
    changed, deleted, _, new = keys = keys_of_one_part(4)
    layers = Layers(Records((key, b"old") for key in keys[:3]))
    layers.freeze()
    write(layers, changed, b"new")
    write(layers, new, b"new")
    layers.delete(deleted)
    seen = set()

    def look() -> None:
        seen.add(tuple(map(layers.get, keys)))

    class Watched(dict[bytes, bytes]):
        def update(self, *args: Any) -> None:
            look()
            super().update(*args)
            look()

        def __setitem__(self, *args: Any) -> None:
            look()
            super().__setitem__(*args)
            look()

        def __delitem__(self, key: bytes) -> None:
            look()
            super().__delitem__(key)
            look()

    class WatchedList(list[dict[bytes, bytes]]):
        def __setitem__(self, *args: Any) -> None:
            look()
            super().__setitem__(*args)
            look()

    wrap_parts(layers.below, Watched)
    layers.on_top = WatchedList(layers.on_top)
    layers.thaw()
    while not layers.is_merged:
        layers.merge(1)
        write(layers, changed, b"new")
        write(layers, new, b"new")
    assert seen == {(b"new", None, b"old", b"new")}


def test_what_a_reader_has_begun_to_look_at_is_not_taken_away() -> None:
    """It may be stopped between looking into one dict and into the other."""
    layers = Layers(Records([(b"k", b"old")]))
    layers.freeze()
    write(layers, b"k", b"new")
    on_top = layers.on_top[hash(b"k") >> SLOT_SHIFT]
    layers.thaw()
    layers.merge(10)
    assert on_top == {b"k": b"new"}


def test_the_keys_of_a_part_do_not_get_into_each_others_way() -> None:
    """A dict begins to look where the lowest bits of a hash say."""
    records = Records((b"%d" % n, b"") for n in range(320_000))
    assert all(len({hash(key) % 64 for key in part}) > 60 for part in records.parts)
    assert all(records.parts)
