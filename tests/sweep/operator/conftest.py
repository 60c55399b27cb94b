"""The operator's world is that of its integration tests."""

from tests.integration.operator.conftest import count, operator, plane, pods, world

__all__ = ["count", "operator", "plane", "pods", "world"]
