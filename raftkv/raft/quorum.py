"""Majorities: pure functions over sets of members, which know nothing of roles, logs or time.

A value that a majority has reached can never be missed by another majority, since any two share a member (5.2, 5.4.3).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


def majority(voters: Collection[int]) -> int:
    """How many of the voters make a majority."""
    return len(voters) // 2 + 1


def is_majority(voters: Collection[int], members: Collection[int]) -> bool:
    """Whether those of `members` that are voters make a majority. A member counts once, however often it is named."""
    return len(set(voters) & set(members)) >= majority(voters)


def reached_by_majority(voters: Collection[int], values: Mapping[int, int]) -> int:
    """The greatest number that a majority of the voters has reached; who has no value has reached 0.

    With match indexes this is the index that could be committed (5.3); with rounds, the last round that a majority
    has acknowledged.
    """
    reached = sorted([values.get(voter, 0) for voter in voters], reverse=True)
    return reached[majority(voters) - 1]
