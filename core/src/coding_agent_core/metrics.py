"""The metrics of what the model cost, and the server of metrics for programs that have no other."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from coding_agent_core.outcome import OTHER_MODELS, Usage

_MAX_MODELS = 50
"""Names of models that have series of their own."""
_logger = logging.getLogger("coding_agent.metrics")


class UsageMetrics:
    """Counters of what attempts used, by repository and model."""

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
            "Cost of attempts that ended, by currency, where the price of the model is known",
            ["repository", "model", "currency"],
            registry=registry,
        )
        self._models: set[str] = set()

    def count(self, repository: str, usage: Usage | None) -> None:
        """Count what one attempt used; call it once for each."""
        for used in usage.by_model if usage is not None else ():
            labels = (repository.lower(), self._label(used.model))
            self._requests.labels(*labels).inc(used.requests)
            self._tokens.labels(*labels, "input").inc(used.input_tokens)
            self._tokens.labels(*labels, "output").inc(used.output_tokens)
            if used.cost is not None:
                self._cost.labels(*labels, used.cost.currency).inc(float(used.cost.amount))

    def _label(self, model: str) -> str:
        """An agent chooses the names, as far as its provider answers."""
        if model not in self._models and len(self._models) >= _MAX_MODELS:
            return OTHER_MODELS
        self._models.add(model)
        return model


def process_registry() -> CollectorRegistry:
    """A registry with Python's and the process's own metrics."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


@contextmanager
def served(host: str, port: int, registry: CollectorRegistry) -> Iterator[None]:
    """Serve the metrics meanwhile. If the address is not available, that is logged and nothing is served."""
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
