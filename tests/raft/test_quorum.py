"""Majorities, by table and by brute force against slow and obvious versions (hazard 30)."""

from __future__ import annotations

from itertools import chain, combinations, product

import pytest

from raftkv.raft.quorum import is_majority, majority, reached_by_majority


def subsets(members: range) -> chain[tuple[int, ...]]:
    return chain.from_iterable(combinations(members, size) for size in range(len(members) + 1))


@pytest.mark.parametrize(("size", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_majority_is_more_than_half(size: int, needed: int) -> None:
    voters = range(1, size + 1)
    assert majority(voters) == needed
    assert majority(voters) > size / 2 >= majority(voters) - 1


@pytest.mark.parametrize("size", range(1, 8))
def test_hazard_30_a_set_is_a_majority_exactly_if_it_meets_every_other_majority(size: int) -> None:
    voters = range(1, size + 1)
    majorities = [set(some) for some in subsets(voters) if is_majority(voters, some)]
    assert majorities == [set(some) for some in subsets(voters) if len(some) > size / 2]
    assert all(a & b for a in majorities for b in majorities)


@pytest.mark.parametrize("size", range(1, 8))
def test_hazard_30_what_a_majority_has_reached_is_what_counting_says(size: int) -> None:
    voters = range(1, size + 1)
    for reached in product(range(4), repeat=size):
        values = dict(zip(voters, reached, strict=True))
        obvious = max(v for v in range(4) if sum(r >= v for r in reached) > size / 2)
        assert reached_by_majority(voters, values) == obvious


@pytest.mark.parametrize(
    ("values", "reached"),
    [
        ({1: 5, 2: 3, 3: 1}, 3),
        ({1: 5, 2: 5, 3: 1}, 5),
        ({1: 5}, 0),
        ({1: 5, 2: 4}, 4),
        ({}, 0),
    ],
)
def test_a_voter_without_a_value_has_reached_nothing(values: dict[int, int], reached: int) -> None:
    assert reached_by_majority({1, 2, 3}, values) == reached


def test_who_is_no_voter_counts_for_nothing() -> None:
    assert not is_majority({1, 2, 3}, [1, 4, 5, 6])
    assert reached_by_majority({1, 2, 3}, {1: 9, 4: 9, 5: 9}) == 0


def test_a_voter_counts_once_however_often_it_is_named() -> None:
    assert not is_majority({1, 2, 3}, [2, 2, 2])
