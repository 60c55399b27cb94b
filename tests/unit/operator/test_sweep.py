"""What the sweep lists: every task that can have expired, and few others."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from coding_agent_core.agenttask import LABEL_ACTIVE, LABEL_ENDED, LABEL_REPORTED, Status
from coding_agent_operator.observed import Task, read_task
from coding_agent_operator.runs import due, ended_label, expired
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.operator.making import NOW, task_body

WEEK = timedelta(days=7)
_DURATIONS = st.timedeltas(timedelta(0), timedelta(days=30))


def ended(at: datetime, ttl: int | None = None) -> Task:
    body = task_body(7)
    body["metadata"]["labels"] = {LABEL_REPORTED: "true"}
    if ttl is not None:
        body["spec"]["ttlSecondsAfterFinished"] = ttl
    condition = {"type": "Succeeded", "status": "True", "reason": "Completed"}
    conditions = [{**condition, "lastTransitionTime": at.isoformat()}]
    status = Status.model_validate({"conditions": conditions, "completionTime": at.isoformat()})
    return replace(read_task(body), status=status)


def lists(selector: str, task: Task) -> bool:
    """Whether the API server lists the task."""
    kept_back = re.fullmatch(rf"{LABEL_ACTIVE}!=true,{LABEL_ENDED} notin \((.*)\)", selector)
    assert kept_back is not None
    return ended_label(task).get(LABEL_ENDED) not in kept_back[1].split(",")


@given(ago=_DURATIONS, keep=_DURATIONS, hour=st.integers(0, 47))
def test_every_expired_task_is_listed(ago: timedelta, keep: timedelta, hour: int) -> None:
    now = NOW + timedelta(hours=hour)
    task = ended(now - ago)
    assert lists(due(now, keep), task) or not expired(task, now, keep)


@given(ago=st.timedeltas(timedelta(0), timedelta(days=6)))
def test_what_ended_lately_is_kept_back_by_the_server(ago: timedelta) -> None:
    assert not lists(due(NOW, WEEK), ended(NOW - ago))


def test_a_task_with_a_time_of_its_own_is_listed() -> None:
    assert lists(due(NOW, WEEK), ended(NOW, ttl=0))


def test_days_are_those_of_utc() -> None:
    at = datetime.fromisoformat("2026-11-26T00:30:00+02:00")
    assert ended_label(ended(at)) == {LABEL_ENDED: "2026-11-25"}
    assert due(datetime(2026, 11, 26, 12, tzinfo=UTC), timedelta(days=1)).endswith("(2026-11-27,2026-11-26)")
