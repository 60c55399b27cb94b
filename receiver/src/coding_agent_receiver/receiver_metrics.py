"""The metrics of the receiver and of the poller."""

from __future__ import annotations

from typing import Any, TypeVar

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.metrics import CollectorRegistry, Counter, Histogram

_EVENTS = frozenset(
    {"issues", "pull_request", "ping", "issue_comment"}
    | {"Issue Hook", "Confidential Issue Hook", "Merge Request Hook", "System Hook"}
    | {"Note Hook", "Confidential Note Hook"}
)
"""The events that have a time series. A header from outside must not create others."""
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds. GitHub gives up after 10."""

_Metric = TypeVar("_Metric", Counter, Histogram)


class ReceiverMetrics:
    """The counters and the histogram of one receiver."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._known: dict[tuple[object, ...], Any] = {}
        self._received = Counter(
            "coding_agent_webhooks_received",
            "Webhook requests by result",
            ["platform", "event", "result"],
            registry=registry,
        )
        self._processed = Counter(
            "coding_agent_webhooks_processed",
            "Webhook requests answered 2xx",
            ["platform"],
            registry=registry,
        )
        self._failed = Counter(
            "coding_agent_webhooks_failed",
            "Webhook requests answered 4xx or 5xx",
            ["platform"],
            registry=registry,
        )
        self._signature_failures = Counter(
            "coding_agent_webhook_signature_failures",
            "Webhook requests without a valid signature or token",
            ["platform"],
            registry=registry,
        )
        self._tasks_queued = Counter(
            "coding_agent_tasks_queued", "Tasks created by webhooks", ["platform"], registry=registry
        )
        self._queue_errors = Counter(
            "coding_agent_queue_errors",
            "Tasks that the queue could not take",
            ["platform"],
            registry=registry,
        )
        self._seconds = Histogram(
            "coding_agent_webhook_response_seconds",
            "Time from a webhook's headers to the answer",
            ["platform"],
            registry=registry,
            buckets=_BUCKETS,
        )
        _show_from_zero(
            self._processed,
            self._failed,
            self._signature_failures,
            self._tasks_queued,
            self._queue_errors,
            self._seconds,
        )

    def answered(self, platform: str, event: str, *, result: str, status: int, seconds: float) -> None:
        self._series(self._received, platform, event if event in _EVENTS else "other", result).inc()
        self._series(self._processed if status < 400 else self._failed, platform).inc()
        self._series(self._seconds, platform).observe(seconds)
        if result == "success":
            self._series(self._tasks_queued, platform).inc()

    def signature_failed(self, platform: str) -> None:
        self._series(self._signature_failures, platform).inc()

    def queue_failed(self, platform: str) -> None:
        """Count a task that the queue did not accept."""
        self._series(self._queue_errors, platform).inc()

    def _series(self, metric: _Metric, *labels: str) -> _Metric:
        # The library takes several times as long to find a series as to count.
        key = (metric, *labels)
        found: _Metric | None = self._known.get(key)
        if found is None:
            found = self._known[key] = metric.labels(*labels)
        return found

    def summary(self) -> dict[str, Any]:
        """Return the totals as JSON for people."""
        totals: dict[str, float] = {}
        by_event: dict[str, int] = {}
        for sample in (sample for metric in self.registry.collect() for sample in metric.samples):
            totals[sample.name] = totals.get(sample.name, 0) + sample.value
            if sample.name == "coding_agent_webhooks_received_total":
                event = f"{sample.labels['platform']}:{sample.labels['event']}"
                by_event[event] = by_event.get(event, 0) + int(sample.value)
        counters = {
            "webhooks_received": "webhooks_received",
            "webhooks_processed": "webhooks_processed",
            "webhooks_failed": "webhooks_failed",
            "tasks_queued": "tasks_queued",
            "signature_failures": "webhook_signature_failures",
            "queue_errors": "queue_errors",
        }
        seconds = "coding_agent_webhook_response_seconds"
        return {
            **{key: int(totals.get(f"coding_agent_{name}_total", 0)) for key, name in counters.items()},
            "webhooks_by_event": by_event,
            "response_seconds": {
                "count": int(totals[f"{seconds}_count"]),
                "sum": round(totals[f"{seconds}_sum"], 6),
            },
        }


class PollMetrics:
    """The counters of the poller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.recovered = Counter(
            "coding_agent_tasks_recovered_by_poll",
            "Tasks created by the poll, which no webhook had created before",
            ["platform"],
            registry=registry,
        )
        self.redelivered = Counter(
            "coding_agent_poll_redeliveries",
            "Missed deliveries that the poll asked the forge to send again",
            ["platform"],
            registry=registry,
        )
        self.failed = Counter(
            "coding_agent_poll_failures",
            "Polls that a forge or queue error ended early",
            ["platform"],
            registry=registry,
        )
        self.failed_items = Counter(
            "coding_agent_poll_item_failures",
            "Labeled items that a poll could not read or submit; the next poll tries them again",
            ["platform"],
            registry=registry,
        )
        self.partial = Counter(
            "coding_agent_poll_partial",
            "Polls that read only a part of the labeled items, because there are too many for one poll",
            ["platform"],
            registry=registry,
        )
        _show_from_zero(self.recovered, self.redelivered, self.failed, self.failed_items, self.partial)


def _show_from_zero(*metrics: Counter | Histogram) -> None:
    """Create each platform's series with 0, because `increase()` does not see a series that begins at 1."""
    for metric in metrics:
        for platform in Platform:
            metric.labels(platform.value)


def wants_text(accept: str) -> bool:
    """Whether the client asks for a Prometheus format, as every scraper does."""
    types = {part.split(";")[0].strip().lower() for part in accept.split(",")}
    return bool(types & {"text/plain", "application/openmetrics-text"})
