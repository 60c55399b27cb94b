"""Metrics of all programs: of the process, and of what attempts used.

A module that defines metrics imports their classes from here, so that no program has `_created` series. An
attempt serves no metrics, so it does not import this.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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
    start_http_server,
)

from coding_agent_core.usage import OTHER_MODELS, Usage

__all__ = [
    "REGISTRY",
    "CollectorRegistry",
    "Counter",
    "Gauge",
    "Histogram",
    "UsageMetrics",
    "process_registry",
    "served",
]

# The `_created` metrics double the number of series, and no query uses them.
disable_created_metrics()  # type: ignore[no-untyped-call]

_logger = logging.getLogger("coding_agent.metrics")
_MAX_MODELS = 50
"""Maximum number of models that have their own series."""


class UsageMetrics:
    """Counts the usage of attempts by repository and model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "coding_agent_model_requests",
            "Requests to the model by attempts that ended",
            ["repository", "model"],
            registry=registry,
        )
        self._tokens = Counter(
            "coding_agent_model_tokens",
            "Tokens of attempts that ended, by direction (input, output)",
            ["repository", "model", "direction"],
            registry=registry,
        )
        self._cost = Counter(
            "coding_agent_model_cost",
            "Cost of attempts that ended, by currency, if the price of the model is known",
            ["repository", "model", "currency"],
            registry=registry,
        )
        self._models: set[str] = set()

    def count(self, repository: str, usage: Usage | None) -> None:
        """Count the usage of one attempt. Call this once for each attempt."""
        for used in usage.by_model if usage is not None else ():
            labels = (repository.lower(), self._label(used.model))
            self._requests.labels(*labels).inc(used.requests)
            self._tokens.labels(*labels, "input").inc(used.input_tokens)
            self._tokens.labels(*labels, "output").inc(used.output_tokens)
            if used.cost is not None:
                self._cost.labels(*labels, used.cost.currency).inc(float(used.cost.amount))

    def _label(self, model: str) -> str:
        """Limit the number of series: an agent chooses the names, as far as its provider answers."""
        if model not in self._models and len(self._models) >= _MAX_MODELS:
            return OTHER_MODELS
        self._models.add(model)
        return model


def process_registry() -> CollectorRegistry:
    """Return a registry with the metrics of Python and of the process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


@contextmanager
def served(host: str, port: int, registry: CollectorRegistry) -> Iterator[None]:
    """Serve the metrics during the `with` block; if the address is not available, only log this."""
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        _logger.warning("Metrics are not served at %s, port %d: %s", host, port, error.strerror or error)
        yield
        return
    _logger.info("Metrics are at %s, port %d", host, server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
