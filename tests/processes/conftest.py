"""Clusters for the tests of this directory; the nodes' last words are shown with a test that failed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support.processes import Cluster

MakeCluster = Callable[..., Cluster]

_clusters: pytest.StashKey[list[Cluster]] = pytest.StashKey()


@pytest.fixture
def make_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeCluster]:
    """Makes clusters in directories of their own: `make_cluster(size=3, settings={...})`. Nothing runs yet."""
    made: list[Cluster] = []
    request.node.stash[_clusters] = made
    with contextlib.ExitStack() as stack:

        def make(**options: object) -> Cluster:
            cluster = Cluster(tmp_path / f"cluster-{len(made)}", **options)  # type: ignore[arg-type]
            made.append(stack.enter_context(cluster))
            return cluster

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for cluster in item.stash.get(_clusters, []):
            report.sections.append((f"Logs of {cluster.directory}", cluster.last_words()))
    return report
