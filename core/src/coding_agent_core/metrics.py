"""Metrics of all programs: of the process, and of what attempts used.

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

from coding_agent_core.usage import OTHER_MODELS, Usage

__all__ = [
    "REGISTRY",
    "CollectorRegistry",
    "Counter",
    "Gauge",
    "Histogram",
    "UsageMetrics",
    "exposition",
    "metrics_page",
    "process_registry",
]

# The `_created` metrics double the number of series, and no query uses them.
disable_created_metrics()  # type: ignore[no-untyped-call]

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
