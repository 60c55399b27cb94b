"""The operator's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from coding_agent_core.runtime.metrics import REGISTRY, Counter, Gauge, Histogram
from coding_agent_core.runtime.usage_metrics import UsageMetrics
from coding_agent_core.task.agenttask import AgentTask, Status
from coding_agent_core.task.model import Origin, Phase
from coding_agent_core.task.reasons import REASONS, ReasonClass
from coding_agent_core.task.usage import Allowance

from coding_agent_operator.tasks.outcome_of import OUTCOME_TYPES, POD_PROBLEMS

_WAIT = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
_ATTEMPT = (5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)

# The label is `served_namespace` because Prometheus uses `namespace` for the scraped pod's own.
TASKS = Gauge(
    "coding_agent_tasks", "AgentTasks that have not ended, by phase.", ["phase", "served_namespace"]
)
NOT_STARTING = Gauge(
    "coding_agent_tasks_not_starting",
    "AgentTasks whose attempt has a pod that cannot start, by reason.",
    ["reason", "served_namespace"],
)
ACCEPTED = Counter(
    "coding_agent_tasks_accepted",
    "AgentTasks seen for the first time, by origin; `poll`: no webhook had created them.",
    ["origin"],
)
ENDED = Counter(
    "coding_agent_tasks_ended", "AgentTasks that ended, by phase and reason.", ["phase", "reason"]
)
QUEUE_WAIT = Histogram(
    "coding_agent_queue_wait_seconds", "Time from a task's creation to its first attempt.", buckets=_WAIT
)
ATTEMPT = Histogram(
    "coding_agent_attempt_duration_seconds",
    "Duration of attempts, by outcome.",
    ["outcome"],
    buckets=_ATTEMPT,
)
OUTCOMES = Counter(
    "coding_agent_attempts", "Attempts that ended, by outcome and reason.", ["outcome", "reason"]
)
USAGE = UsageMetrics(REGISTRY)
RETRIES = Counter("coding_agent_retries", "Attempts after the first of their task.")
RECONCILES = Histogram(
    "coding_agent_reconcile_duration_seconds",
    "Duration of one reconciliation of one task.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 10),
)
RECONCILE_ERRORS = Counter("coding_agent_reconcile_errors", "Reconciliations that failed and are retried.")
API_REQUESTS = Counter(
    "coding_agent_api_requests", "Requests to the API server, by verb and status.", ["verb", "status"]
)
LEADER = Gauge(
    "coding_agent_operator_leader",
    "1: this replica acts in the namespace; 0: it waits for the Lease.",
    ["served_namespace"],
)
WATCH_BEHIND = Gauge(
    "coding_agent_watch_behind",
    "Objects whose newest version the watches have not shown.",
    ["served_namespace"],
)
_BUDGET = ["budget", "repository", "unit", "served_namespace"]
BUDGET = Gauge(
    "coding_agent_budget_limit",
    "Budget of a repository and day, or of a namespace and month, in a currency or in tokens.",
    _BUDGET,
)
BUDGET_SPENT = Gauge(
    "coding_agent_budget_spent", "What the attempts that ended in the budget's period spent.", _BUDGET
)
BUDGET_RESERVED = Gauge("coding_agent_budget_reserved", "What running attempts may still spend.", _BUDGET)
FAILING = Gauge(
    "coding_agent_operator_namespace_failing",
    "1: this namespace cannot be served; the log says why, and the operator retries.",
    ["served_namespace"],
)

_PHASES = {ReasonClass.SUCCEEDED: Phase.SUCCEEDED, ReasonClass.CANCELLED: Phase.CANCELLED}
# The series exist from the start, because `increase()` does not see a series that begins at 1.
for _origin in Origin:
    ACCEPTED.labels(_origin.value)
for _reason, _facts in REASONS.items():
    ENDED.labels(_PHASES.get(_facts.outcome_class, Phase.FAILED).value, _reason)
    OUTCOMES.labels(OUTCOME_TYPES[_facts.outcome_class].value, _reason)


def count_change(task: AgentTask, new: Status) -> None:
    """Update the counters after a change of a task's status. Call this once, after the change is stored."""
    if task.status.phase is None and task.intact:
        ACCEPTED.labels(task.spec.trigger.origin).inc()
    before = {attempt.number for attempt in task.status.attempts}
    for attempt in new.attempts:
        if not before and attempt is new.attempts[0]:
            QUEUE_WAIT.observe(max(0.0, (attempt.start_time - task.metadata.created).total_seconds()))
        elif attempt.number not in before:
            RETRIES.inc()
    for attempt in task.newly_ended(new):
        outcome = str(attempt.outcome)
        OUTCOMES.labels(outcome, attempt.reason or "").inc()
        USAGE.count(task.spec.source.repository, attempt.usage)
        if attempt.completion_time is not None:
            seconds = (attempt.completion_time - attempt.start_time).total_seconds()
            ATTEMPT.labels(outcome).observe(max(0.0, seconds))
    if new.phase is not None and new.phase.terminal and not task.ended:
        ENDED.labels(new.phase.value, new.reason or "").inc()


def show_phases(namespace: str, counts: Mapping[Phase, int]) -> None:
    for phase in Phase:
        if not phase.terminal:
            TASKS.labels(phase.value, namespace).set(counts.get(phase, 0))


def show_reasons(namespace: str, counts: Mapping[str, int]) -> None:
    """Show how many tasks have an attempt whose pod cannot start.

    Args:
        counts: the number of tasks by reason; reasons for which no pod is to blame are ignored.
    """
    for reason in sorted(POD_PROBLEMS):
        NOT_STARTING.labels(reason, namespace).set(counts.get(reason, 0))


def show_budget(
    namespace: str, repository: str, limit: Allowance, *, spent: Decimal, reserved: Decimal
) -> None:
    """Show a repository's budget, or the namespace's if `repository` is empty."""
    labels = ("repository" if repository else "namespace", repository, limit.unit, namespace)
    BUDGET.labels(*labels).set(float(limit.value))
    BUDGET_SPENT.labels(*labels).set(float(spent))
    BUDGET_RESERVED.labels(*labels).set(float(reserved))


def forget(namespace: str) -> None:
    """Drop the series of a namespace that is no longer served."""
    for gauge in (TASKS, NOT_STARTING, LEADER, WATCH_BEHIND, FAILING, BUDGET, BUDGET_SPENT, BUDGET_RESERVED):
        gauge.remove_by_labels({"served_namespace": namespace})
