"""What a client sees of the limit on the size of the state: a clear answer, at once and definite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from raftkv.async_client import AsyncClient
from raftkv.client import Client, Error, NotApplied
from raftkv.kv import KEY_OVERHEAD_BYTES
from tests.client.fake_cluster import FakeCluster, lose_reply, lose_request
from tests.kv.driving import SETTINGS, Driver


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """There is room for two keys of three bytes with values of one byte."""
    settings = replace(SETTINGS, max_unanswered=1000, max_state_bytes=2 * (KEY_OVERHEAD_BYTES + 4))
    with FakeCluster(driver=Driver(settings)) as cluster:
        yield cluster


def refusal(client: Client, key: str = "new") -> Error:
    with pytest.raises(NotApplied) as caught:
        client.set(key, "1")
    return caught.value


def test_a_write_without_room_fails_at_once_and_says_why_and_the_client_goes_on(
    cluster: FakeCluster, client: Client
) -> None:
    client.set("one", "1")
    client.set("two", "2")
    arrived = len(cluster.arrived)
    error = refusal(client)
    assert error.code == "RESOURCE_EXHAUSTED"
    assert "MAX_STATE_BYTES" in str(error)
    assert str(error).endswith("the write was not applied")
    assert len(cluster.arrived) == arrived + 1, "nothing is tried again"
    assert client.get("one") == b"1"
    client.set("one", "3")
    assert client.delete("two")
    client.set("new", "1")
    assert sorted(client.keys()) == [b"new", b"one"]


@pytest.mark.parametrize("step", [lose_reply, lose_request])
def test_the_refusal_is_definite_even_after_a_lost_attempt(cluster: FakeCluster, client: Client, step: object) -> None:
    client.set("one", "1")
    client.set("two", "2")
    cluster.next_calls(step)  # type: ignore[arg-type]
    assert refusal(client).code == "RESOURCE_EXHAUSTED"


def test_of_many_writes_at_once_only_those_without_room_fail(cluster: FakeCluster, client: Client) -> None:
    futures = [client.set_async(key, "1") for key in ("one", "two", "new", "one")]
    outcomes = [type(future.exception(10)) for future in futures]
    assert outcomes == [type(None), type(None), NotApplied, type(None)]


def test_asyncio_gets_the_same_error(cluster: FakeCluster) -> None:
    async def run() -> None:
        async with AsyncClient(cluster.addresses) as client:
            await client.set("one", "1" * 5)
            with pytest.raises(NotApplied, match="MAX_STATE_BYTES"):
                await client.set("two", "2")

    asyncio.run(run())
