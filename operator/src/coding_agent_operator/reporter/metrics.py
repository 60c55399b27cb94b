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
PENDING = Gauge("coding_agent_reporter_pending", "Tasks whose state is not shown yet, by host.", ["host"])
OLDEST = Gauge(
    "coding_agent_reporter_oldest_pending_seconds",
    "How long the task that waits longest to be shown has waited, by host.",
    ["host"],
)
SHOWN = Counter("coding_agent_reporter_shown", "States that were shown on an item, by phase.", ["phase"])
FAILED = Counter(
    "coding_agent_reporter_failures", "Looks at a task that failed and are repeated, by host.", ["host"]
)
CORRECTIONS = Counter(
    "coding_agent_reporter_corrections",
    "Tasks corrected because the item said otherwise, by what it said (closed, withdrawn, asked).",
    ["says"],
)
AWAY = Gauge(
    "coding_agent_reporter_forge_away_seconds", "For how long the forge has not answered, by host.", ["host"]
)
WATCH_BEHIND = Gauge(
    "coding_agent_reporter_watch_behind", "Tasks whose newest version the watch has not shown."
)


def count_request(verb: str, status: str) -> None:
    API_REQUESTS.labels(verb, status).inc()
