"""What Prometheus scrapes from the reporter."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

FORGE_REQUESTS = Counter(
    "coding_agent_reporter_forge_requests",
    "Requests to forges, by host, kind (read, write) and status.",
    ["host", "kind", "status"],
)
API_REQUESTS = Counter(
    "coding_agent_reporter_api_requests",
    "Requests to the API server, by verb and status.",
    ["verb", "status"],
)
PENDING = Gauge(
    "coding_agent_reporter_pending", "Tasks whose item does not show their state yet, by host.", ["host"]
)
OLDEST = Gauge(
    "coding_agent_reporter_oldest_pending_seconds",
    "Age of the oldest change that its item does not show yet, by host.",
    ["host"],
)
SHOWN = Counter(
    "coding_agent_reporter_shown", "Label changes that showed a new phase on an item, by phase.", ["phase"]
)
FAILED = Counter(
    "coding_agent_reporter_failures", "Failed reconciles of a task, which are retried, by host.", ["host"]
)
CORRECTIONS = Counter(
    "coding_agent_reporter_corrections",
    "Tasks corrected because their item contradicted them, by contradiction "
    "(item_closed, label_removed, label_applied_again).",
    ["contradiction"],
)
UNAVAILABLE = Gauge(
    "coding_agent_reporter_forge_unavailable_seconds",
    "How long the forge has not answered, by host.",
    ["host"],
)
WATCH_BEHIND = Gauge(
    "coding_agent_reporter_watch_behind", "Tasks whose newest version the watch has not delivered."
)


def count_request(verb: str, status: str) -> None:
    API_REQUESTS.labels(verb, status).inc()
