"""What each call of the library gives back, and what it refuses."""

from __future__ import annotations

import pickle
from concurrent.futures import Future
from typing import Any

import grpc
import pytest

import raftkv
from raftkv.client import Client, Error, NotApplied, OutcomeUnknown
from raftkv.errors import WrongType, WrongValue
from tests.client.fake_cluster import FakeCluster, refuse
from tests.support.ways import UNLIKE


def test_a_value_that_was_set_can_be_read(client: Client) -> None:
    assert client.set("key", "value") is None  # type: ignore[func-returns-value]
    assert client.get("key") == b"value"


def test_a_missing_key_is_none_and_an_empty_value_is_not(client: Client) -> None:
    client.set("empty", b"")
    assert client.get("empty") == b""
    assert client.get("missing") is None


def test_text_is_utf8_and_bytes_are_taken_as_they_are(client: Client) -> None:
    client.set("schlüssel", "größe")
    assert client.get("schlüssel".encode()) == "größe".encode()
    client.set(b"\xff\x00 \n", b"\x80\n\x00")
    assert client.get(b"\xff\x00 \n") == b"\x80\n\x00"


def test_delete_tells_whether_the_key_existed(client: Client) -> None:
    client.set("key", "value")
    assert client.delete("key") is True
    assert client.delete("key") is False
    assert client.get("key") is None


def test_set_if_absent_sets_only_once(client: Client) -> None:
    assert client.set_if_absent("key", "first") is True
    assert client.set_if_absent("key", "second") is False
    assert client.get("key") == b"first"


def test_compare_and_set_needs_the_expected_value(client: Client) -> None:
    assert client.compare_and_set("key", "", "new") is False
    client.set("key", "old")
    assert client.compare_and_set("key", "other", "new") is False
    assert client.compare_and_set("key", "old", "new") is True
    assert client.get("key") == b"new"


def test_keys_are_sorted_and_begin_with_the_prefix(client: Client) -> None:
    for key in ("b", "a2", "a1", "c"):
        client.set(key, "")
    assert client.keys() == [b"a1", b"a2", b"b", b"c"]
    assert client.keys("a") == [b"a1", b"a2"]
    assert client.keys(b"z") == []


def test_a_large_value_passes(client: Client) -> None:
    value = bytes(5 << 20)  # above gRPC's default limit for a message
    client.set("large", value)
    assert client.get("large") == value


def test_a_value_too_large_for_the_server_is_refused_at_once(cluster: FakeCluster, client: Client) -> None:
    with pytest.raises(WrongValue, match=r"larger than max .*; the write was not applied"):
        client.set("key", bytes(9 << 20))
    assert client.keys() == []


@pytest.mark.parametrize("way", UNLIKE)
def test_what_grpc_itself_finds_too_large_is_a_wrong_argument_of_that_call_and_of_no_other(client: Client) -> None:
    """It ends the stream, on which others are under way, with RESOURCE_EXHAUSTED. (A client that knows nothing but the
    wire sees that status, which means too that nothing has been done.)"""
    before = [client.set_async(f"key {i}", "value") for i in range(3)]
    value = bytes(9 << 20)
    too_large: list[Future[Any]] = [client.set_async("key", value), client.get_async(value), client.keys_async(value)]
    after = [client.set_async(f"later key {i}", "value") for i in range(3)]
    for future in too_large:
        with pytest.raises(WrongValue, match="larger than max") as caught:
            future.result(10)
        assert caught.value.code == "INVALID_ARGUMENT"
    for future in [*before, *after]:
        future.result(10)
    assert len(client.keys()) == 6


# ---- status ----------------------------------------------------------------------------------------------------------


def test_status_has_a_row_for_every_member_in_order(cluster: FakeCluster, way: type[Client]) -> None:
    cluster.elect(2)
    with way(cluster.addresses[2:]) as client:
        client.set("key", "value")
        rows = client.status()
    assert [(row.id, row.address, row.role) for row in rows] == [
        (1, cluster.addresses[0], "follower"),
        (2, cluster.addresses[1], "leader"),
        (3, cluster.addresses[2], "follower"),
    ]
    assert rows[1].leader_id == 2
    assert rows[1].serving
    assert rows[1].keys == 1
    assert rows[1].commit_index == rows[1].applied_index == rows[1].last_log_index > 0


@pytest.mark.parametrize("way", UNLIKE)
def test_a_member_that_is_down_or_hangs_is_unreachable_in_status(cluster: FakeCluster, client: Client) -> None:
    cluster.members[2].kill()
    cluster.members[3].pause()
    rows = client.status()
    assert [row.role for row in rows] == ["leader", "unreachable", "unreachable"]
    assert [row.error for row in rows] == ["", "connection refused", "DEADLINE_EXCEEDED"]


def test_status_of_a_cluster_that_is_down_lists_the_addresses_given(cluster: FakeCluster, way: type[Client]) -> None:
    for member in cluster.members.values():
        member.kill()
    with way(cluster.addresses) as client:
        rows = client.status()
    assert [(row.id, row.address, row.role) for row in rows] == [(0, a, "unreachable") for a in cluster.addresses]


# ---- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", [None, 5, 1.5, ["k"], bytearray(b"k"), True])
def test_a_key_or_value_of_another_type_is_a_type_error_and_not_applied(client: Client, argument: object) -> None:
    with pytest.raises(TypeError, match="key must be str or bytes") as caught:
        client.get(argument)  # type: ignore[arg-type]
    assert isinstance(caught.value, NotApplied)
    with pytest.raises(WrongType, match="value must be str or bytes"):
        client.set("key", argument)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["", b""])
def test_an_empty_key_is_a_value_error_and_nothing_is_read(client: Client, key: str | bytes) -> None:
    with pytest.raises(WrongValue, match="a key must not be empty; nothing was read"):
        client.get(key)


def test_text_that_is_not_utf8_is_a_value_error_and_not_applied(client: Client) -> None:
    with pytest.raises(ValueError, match="UTF-8") as caught:
        client.set("\udcff", "value")
    assert isinstance(caught.value, NotApplied)


def test_what_the_server_finds_invalid_is_a_value_error_and_not_applied(cluster: FakeCluster, client: Client) -> None:
    client.set("before", "")
    cluster.next_calls(refuse(grpc.StatusCode.INVALID_ARGUMENT, "a key of 2000 bytes is longer than 1024"))
    with pytest.raises(
        ValueError, match="a key of 2000 bytes is longer than 1024; the write was not applied"
    ) as caught:
        client.set("k" * 2000, "value")
    assert isinstance(caught.value, NotApplied)
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_timeout_that_is_no_time_is_a_value_error(timeout: float, way: type[Client]) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0") as caught:
        way(["127.0.0.1:1"], timeout)
    assert isinstance(caught.value, Error)


@pytest.mark.parametrize(
    "addresses", [[], ["127.0.0.1"], ["127.0.0.1:0"], ["127.0.0.1:65536"], ["a b:1"], [""], ["::1:50051"]]
)
def test_an_address_that_is_none_is_a_value_error(addresses: list[str], way: type[Client]) -> None:
    with pytest.raises(WrongValue):
        way(addresses)


@pytest.mark.parametrize("addresses", ["127.0.0.1:50051", 5, [50051], None])
def test_addresses_of_another_type_are_a_type_error(addresses: object, way: type[Client]) -> None:
    with pytest.raises(WrongType):
        way(addresses)  # type: ignore[arg-type]


def test_a_timeout_of_another_type_is_a_type_error(way: type[Client]) -> None:
    with pytest.raises(WrongType):
        way(["127.0.0.1:1"], "5")  # type: ignore[arg-type]


# ---- errors and the package ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Error, NotApplied, OutcomeUnknown, WrongType, WrongValue])
def test_an_error_survives_pickling(kind: type[Error]) -> None:
    error = pickle.loads(pickle.dumps(kind("what happened", "UNAVAILABLE")))
    assert (type(error), str(error), error.code) == (kind, "what happened", "UNAVAILABLE")


def test_the_package_gives_the_names_of_the_contract() -> None:
    assert raftkv.Client is Client
    assert issubclass(raftkv.NotApplied, raftkv.Error)
    assert issubclass(raftkv.OutcomeUnknown, raftkv.Error)


# ---- closing ---------------------------------------------------------------------------------------------------------


def test_a_closed_client_refuses_every_call(cluster: FakeCluster, way: type[Client]) -> None:
    client = way(cluster.addresses)
    client.set("key", "value")
    client.close()
    client.close()
    for call in (lambda: client.get("key"), lambda: client.set("key", "new"), client.status, client.keys):
        with pytest.raises(NotApplied, match="closed") as caught:
            call()
        assert caught.value.code == "CANCELLED"
