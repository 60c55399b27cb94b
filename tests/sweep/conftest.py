"""Tests that share something big run in one worker, one after the other."""

from collections.abc import Iterable

import pytest

NODES = {"cluster", "own_cluster"}
"""Fixtures that start a cluster with a node."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """One worker has the node: each kubelet takes many of the machine's 128 inotify instances."""
    for item in items:
        if item.get_closest_marker("needs_node") or NODES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("node"))
