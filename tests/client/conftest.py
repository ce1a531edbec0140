"""What the client's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raftkv.client import Client
from tests.client.fake_cluster import FakeCluster


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster() as cluster:
        yield cluster


@pytest.fixture
def client(cluster: FakeCluster) -> Iterator[Client]:
    with Client(cluster.addresses) as client:
        yield client
