"""What the sweep lists: every task that can have expired, and few others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.agenttask import LABEL_REPORTED, AgentTask, Status
from coding_agent_core.tasks import Phase
from coding_agent_operator.runs import due, expired
from coding_agent_operator.task_plan import SchedulingDecision, status_of
from coding_agent_operator.task_state import task_state
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.making import NOW, POLICY, task_body

WEEK = timedelta(days=7)
_DURATIONS = st.timedeltas(timedelta(0), timedelta(days=30))


def ended(at: datetime, ttl: int | None = None) -> AgentTask:
    body = task_body(7)
    body["metadata"]["labels"] = {LABEL_REPORTED: "true"}
    if ttl is not None:
        body["spec"]["ttlSecondsAfterFinished"] = ttl
    condition = {"type": "Succeeded", "status": "True", "reason": "Completed"}
    conditions = [{**condition, "lastTransitionTime": at.isoformat()}]
    status = Status.model_validate({"conditions": conditions, "completionTime": at.isoformat()})
    return AgentTask.of(body | {"status": status.to_wire()})


def lists(selector: str, task: AgentTask) -> bool:
    """Whether the API server lists the task."""
    stored = {"status.phase": Phase.SUCCEEDED.value, "status.keptSince": kept_since(task) or ""}
    excluded = (term.split("!=") for term in terms(selector))
    return all(stored[field] != value for field, value in excluded)


def terms(selector: str) -> list[str]:
    return selector.split(",")


def kept_since(task: AgentTask) -> str | None:
    """As the operator writes it."""
    return status_of(task, task_state(task, [], NOW, POLICY), SchedulingDecision(), NOW).kept_since


@settings(max_examples=40)
@given(ago=_DURATIONS, keep=_DURATIONS, hour=st.integers(0, 47))
def test_every_expired_task_is_listed(ago: timedelta, keep: timedelta, hour: int) -> None:
    now = NOW + timedelta(hours=hour)
    task = ended(now - ago)
    assert lists(due(now, keep), task) or not expired(task, now, keep)


@pytest.mark.parametrize("days", [0, 3, 6])
def test_what_ended_lately_is_kept_back_by_the_server(days: int) -> None:
    assert not lists(due(NOW, WEEK), ended(NOW - timedelta(days=days)))


def test_a_task_with_a_time_of_its_own_is_listed() -> None:
    assert lists(due(NOW, WEEK), ended(NOW, ttl=0))


def test_what_has_not_ended_is_not_listed() -> None:
    excluded = {term.partition("!=")[2] for term in terms(due(NOW, WEEK)) if term.startswith("status.phase")}
    assert excluded == {"", *(phase.value for phase in Phase if not phase.terminal)}


def test_days_are_those_of_utc() -> None:
    at = datetime.fromisoformat("2026-11-26T00:30:00+02:00")
    assert kept_since(ended(at)) == "2026-11-25"
    lately = terms(due(datetime(2026, 11, 26, 12, tzinfo=UTC), timedelta(days=1)))[-2:]
    assert lately == ["status.keptSince!=2026-11-27", "status.keptSince!=2026-11-26"]
