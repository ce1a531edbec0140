"""The dict of all records: it is one, whatever is done to it."""

from __future__ import annotations

import random

import pytest

from raftkv.records import PART_MASK, Records


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
                records.parts[hash(key) & PART_MASK][key] = plain[key] = b"%d" % n
            case 3:
                assert records.pop(key, None) == plain.pop(key, None)
            case _:
                assert records.get(key) == records.parts[hash(key) & PART_MASK].get(key) == plain.get(key)
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
    assert max(map(len, records.parts)) < 2000
