"""What the client's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raftkv.client import Client
from tests.client.fake_cluster import FakeCluster
from tests.support.ways import WAYS


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster() as cluster:
        yield cluster


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> type[Client]:
    """Which of the three ways into the library the test's clients take."""
    taken: type[Client] = request.param
    return taken


@pytest.fixture
def client(cluster: FakeCluster, way: type[Client]) -> Iterator[Client]:
    with way(cluster.addresses) as client:
        yield client
