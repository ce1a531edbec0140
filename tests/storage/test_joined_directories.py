"""Directories of members that joined a running cluster, and what a directory remembers of its own address."""

from __future__ import annotations

import json
from pathlib import Path

from raftkv.metadata import _encode, decode_identity
from raftkv.storage import read_identity
from tests.storage.helpers import MEMBERS
from tests.storage.test_directory import open_files, refusal

CLUSTER, OTHER = b"c" * 16, b"d" * 16


def join(path: Path, address: str = "here:4", cluster_id: bytes = CLUSTER) -> None:
    open_files(path, member_id=4, members=None, address=address, cluster_id=cluster_id).close()


def test_a_member_that_joins_has_no_founding_members_but_a_cluster_and_an_address(tmp_path: Path) -> None:
    path = tmp_path / "node"
    assert read_identity(path) is None
    join(path)
    identity = read_identity(path)
    assert identity is not None
    assert (identity.member_id, dict(identity.members)) == (4, {})
    assert (identity.cluster_id, identity.address) == (CLUSTER, "here:4")


def test_it_may_join_again_from_another_address(tmp_path: Path) -> None:
    path = tmp_path / "node"
    join(path)
    join(path, "there:4")
    assert open_files(path, member_id=4, members=None).identity.address == "there:4"


def test_it_belongs_to_one_cluster(tmp_path: Path) -> None:
    path = tmp_path / "node"
    join(path)
    error = refusal(path, member_id=4, members=None, address="here:4", cluster_id=OTHER)
    assert error.startswith(": belongs to another cluster; ")


def test_it_is_no_founding_members_directory(tmp_path: Path) -> None:
    path = tmp_path / "node"
    join(path)
    assert refusal(path, member_id=4, members={**MEMBERS, 4: "here:4"}) == (
        ": joined its cluster while that was running; start it with --join"
    )


def test_a_founding_members_directory_may_be_asked_to_join(tmp_path: Path) -> None:
    """Its address has been changed while it was away."""
    path = tmp_path / "node"
    open_files(path).close()
    storage = open_files(path, members=None, address="there:1", cluster_id=CLUSTER)
    assert (storage.identity.address, storage.identity.cluster_id) == ("there:1", CLUSTER)
    assert storage.identity.members == MEMBERS


def test_an_address_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "node"
    storage = open_files(path)
    for _ in range(2):
        storage.remember_address("there:1")
    storage.close()
    assert open_files(path).identity.address == "there:1"


def test_the_disks_of_others_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "node"
    storage = open_files(path)
    storage.remember_peer(2, 0, CLUSTER)
    storage.remember_peer(3, 57, CLUSTER)
    storage.remember_peer(2, 60, OTHER)
    storage.close()
    assert open_files(path).identity.peers == {2: (60, OTHER), 3: (57, CLUSTER)}


def test_what_has_brought_a_member_in_is_kept_from_its_first_start_on(tmp_path: Path) -> None:
    path = tmp_path / "node"
    open_files(path, member_id=4, members=None, address="here:4", joined=57).close()
    storage = open_files(path, member_id=4, members=None, address="here:4", joined=90)
    assert storage.identity.joined == 57, "it is what it was: a disk that has not been lost"
    storage.remember_address("there:4")
    storage.close()
    assert (identity := read_identity(path))
    assert identity.joined == 57


def test_a_directory_that_does_not_say_it_was_brought_in_by_any_entry(tmp_path: Path) -> None:
    path = tmp_path / "node"
    join(path)
    fields = json.loads((path / "identity").read_text().splitlines()[1])
    del fields["joined"]
    assert decode_identity(_encode("identity", fields), "identity").joined == 0


def test_a_directory_that_can_not_be_read_has_no_identity_to_be_had(tmp_path: Path) -> None:
    (tmp_path / "identity").write_text("nonsense")
    assert read_identity(tmp_path) is None
