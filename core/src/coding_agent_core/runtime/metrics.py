"""The metrics of all programs: their classes, the registry of a process, and the page for Prometheus.

A module that defines metrics imports their classes from here, so that no program has `_created` series. An
attempt serves no metrics, so it does not import this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

__all__ = [
    "BACKGROUND_ERRORS",
    "REGISTRY",
    "CollectorRegistry",
    "Counter",
    "Gauge",
    "Histogram",
    "exposition",
    "metrics_page",
    "process_registry",
]

# The `_created` metrics double the number of series, and no query uses them.
disable_created_metrics()  # type: ignore[no-untyped-call]

BACKGROUND_ERRORS = Counter(
    "coding_agent_background_errors",
    "Unexpected errors of work in the background, by the work; it goes on.",
    ["work"],
)


def process_registry() -> CollectorRegistry:
    """Return a registry with the metrics of Python and of the process, and of its work in the background."""
    registry = CollectorRegistry()
    registry.register(BACKGROUND_ERRORS)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the Prometheus format that the Accept header asks for, and the content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def metrics_page(
    registry: CollectorRegistry,
) -> Callable[[Mapping[bytes, bytes]], tuple[int, str, bytes]]:
    """Return the page of a server at which Prometheus reads the metrics."""

    def page(headers: Mapping[bytes, bytes]) -> tuple[int, str, bytes]:
        content, content_type = exposition(registry, headers.get(b"accept", b"").decode("latin-1"))
        return 200, content_type, content

    return page
