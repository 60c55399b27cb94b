"""Tests that share something big run in one worker, one after the other."""

from collections.abc import Iterable

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """One worker has the node."""
    for item in items:
        if item.get_closest_marker("needs_node"):
            item.add_marker(pytest.mark.xdist_group("node"))
