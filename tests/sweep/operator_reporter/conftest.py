"""The reporter's world is that of its integration tests."""

from tests.integration.operator_reporter.conftest import flavour, plane, start, world

__all__ = ["flavour", "plane", "start", "world"]
