"""Every module of tests/fixtures is a plugin: its fixtures are there for all tests."""

import gc
from collections.abc import Generator
from pathlib import Path

import pytest

# One of them may import another before pytest loads that one as a plugin.
pytest.register_assert_rewrite("tests.fixtures")
pytest_plugins = [
    f"tests.fixtures.{module.stem}"
    for module in sorted((Path(__file__).parent / "fixtures").glob("*.py"))
    if module.stem != "__init__"
]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collected items stay. The search for garbage among them was a third of the cost of a collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
