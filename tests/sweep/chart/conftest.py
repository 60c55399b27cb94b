"""The tools are those of the chart's integration tests."""

from tests.integration.chart.conftest import kind_schemas, tool

__all__ = ["kind_schemas", "tool"]
