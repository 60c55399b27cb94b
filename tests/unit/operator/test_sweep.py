"""The sweep lists every task that can have expired and few others, and loses no label for it."""

import itertools
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.task.agenttask import LABEL_REPORTED, AgentTask, Status, manifest
from coding_agent_core.task.model import Origin, Phase, TaskRequest, Trigger
from coding_agent_core.task.runs import stored_rescan
from coding_agent_operator.tasks.plan import SchedulingDecision, status_of
from coding_agent_operator.tasks.runs import due, expired
from coding_agent_operator.tasks.state import task_state
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.making import NOW, POLICY, task_body
from tests.unit.operator.task_server import ITEM, Server

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
    stored = {"status.phase": Phase.SUCCEEDED.value, "status.keptSince": kept_since(task) or ""}
    excluded = (term.split("!=") for term in terms(selector))
    return all(stored[field] != value for field, value in excluded)


def terms(selector: str) -> list[str]:
    return selector.split(",")


def kept_since(task: AgentTask) -> str | None:
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


@pytest.mark.parametrize("origin", [Origin.WEBHOOK, Origin.POLL])
def test_the_sweep_and_a_further_label_in_every_order(origin: Origin) -> None:
    """The deleted task's name is free for a new run, or the task keeps the request to read the item."""
    for order in itertools.product((0, 1), repeat=8):
        server = Server()
        first = server.add(manifest(TaskRequest(item=ITEM, trigger=_applied(server, "d0")), run=1))
        body = server.stored[first.name]
        over = {"type": "Succeeded", "status": "True", "reason": "Completed"}
        conditions = [over | {"lastTransitionTime": server.now.isoformat()}]
        reported = body["metadata"] | {"labels": body["metadata"]["labels"] | {LABEL_REPORTED: "true"}}
        task = AgentTask.of(
            server.write({**body, "metadata": reported, "status": {"conditions": conditions}})
        )
        server.now += timedelta(days=2)
        sink = KubernetesSink(Access(None), "ns", Consumer(), now=lambda: server.now)  # noqa: B023
        trigger = _applied(server, "d1").model_copy(update={"origin": origin})
        submission = sink._submit(server, TaskRequest(item=ITEM, trigger=trigger), set())  # type: ignore[arg-type]
        acting: list[Coroutine[Any, Any, Any]] = [submission, server.delete(task)]
        done: set[int] = set()
        for which in (*order, *[0] * 30, *[1] * 30):
            if which not in done:
                try:
                    acting[which].send(None)
                except StopIteration:
                    done.add(which)
        [left] = [AgentTask.of(stored) for stored in server.of_item()]
        assert left.uid != task.uid or stored_rescan(left) is not None, order


def _applied(server: Server, delivery: str) -> Trigger:
    return Trigger(origin=Origin.WEBHOOK, delivery_id=delivery, labeled_at=server.now, received_at=server.now)
