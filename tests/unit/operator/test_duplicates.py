"""A new run 1 for which another task answers is cancelled before it has a Job."""

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.task.agenttask import (
    ANNOTATION_DUPLICATE_OF,
    ANNOTATION_LABELED_AT,
    AgentTask,
    manifest,
)
from coding_agent_core.task.model import Origin, TaskRequest, Trigger
from coding_agent_operator.tasks.runs import Duplicates

from tests.unit.operator.task_server import ITEM, Server


class Cache:
    """The operator's, which shows what it is told."""

    def __init__(self) -> None:
        self.tasks: list[AgentTask] = []

    def of(self, _: str) -> list[AgentTask]:
        return self.tasks


class Operator:
    def __init__(self) -> None:
        self.server = Server()
        self.cache = Cache()
        self.duplicates = Duplicates(self.server, self.cache, lambda: self.server.now)  # type: ignore[arg-type]

    def add(self, run: int, delivery: str, *, origin: Origin = Origin.WEBHOOK) -> AgentTask:
        """A task of the item, whose label was put on now; a second later."""
        now = self.server.now
        trigger = Trigger(origin=origin, delivery_id=delivery, labeled_at=now, received_at=now)
        added = self.server.add(manifest(TaskRequest(item=ITEM, trigger=trigger), run=run))
        self.server.now += timedelta(seconds=1)
        self.cache.tasks.append(added)
        return added

    def end(self, task: AgentTask) -> None:
        condition = {"type": "Succeeded", "status": "True", "reason": "Completed"}
        conditions = [{**condition, "lastTransitionTime": self.server.now.isoformat()}]
        self.server.write({**self.server.stored[task.name], "status": {"conditions": conditions}})
        self.cache.tasks.remove(task)
        self.duplicates.ended(task)

    def cancels(self, task: AgentTask) -> bool:
        return _result(self.duplicates.cancelled(task))

    def notes(self, task: AgentTask) -> dict[str, str]:
        notes: dict[str, str] = self.server.stored[task.name]["metadata"]["annotations"]
        return notes


def _result(acting: Coroutine[Any, Any, bool]) -> bool:
    while True:
        try:
            acting.send(None)
        except StopIteration as end:
            return bool(end.value)


@pytest.fixture
def operator() -> Operator:
    return Operator()


def test_beside_an_older_run_that_works_it_is_cancelled_and_its_label_is_recorded(operator: Operator) -> None:
    working = operator.add(3, "a")
    again = operator.add(1, "b")
    assert operator.cancels(again)
    assert operator.notes(again)[ANNOTATION_DUPLICATE_OF] == working.name
    assert operator.server.stored[again.name]["spec"]["cancel"] is True
    labeled_at = again.spec.trigger.labeled_at
    assert labeled_at is not None
    assert operator.notes(working)[ANNOTATION_LABELED_AT] == labeled_at.isoformat()


def test_the_delivery_of_a_run_that_has_just_ended_is_a_duplicate(operator: Operator) -> None:
    operator.end(operator.add(3, "a"))
    assert operator.cancels(operator.add(1, "a"))


def test_a_new_label_after_the_end_is_none(operator: Operator) -> None:
    operator.end(operator.add(3, "a"))
    assert not operator.cancels(operator.add(1, "b"))


def test_beside_a_later_run_it_is_none(operator: Operator) -> None:
    first = operator.add(1, "a")
    operator.add(2, "b")
    assert not operator.cancels(first)


def test_beside_a_persons_run_1_of_the_same_second_it_is_cancelled(operator: Operator) -> None:
    trigger = Trigger(origin=Origin.MANUAL, received_at=operator.server.now)
    body = manifest(TaskRequest(item=ITEM, trigger=trigger), run=1)
    body["metadata"]["name"] = "by-hand"
    operator.cache.tasks.append(operator.server.add(body))
    assert operator.cancels(operator.add(1, "b"))


def test_what_a_person_asks_for_is_none(operator: Operator) -> None:
    operator.add(3, "a")
    assert not operator.cancels(operator.add(1, "b", origin=Origin.MANUAL))


def test_a_lone_task_costs_no_request(operator: Operator) -> None:
    acting = operator.duplicates.cancelled(operator.add(1, "a"))
    with pytest.raises(StopIteration):
        acting.send(None)
