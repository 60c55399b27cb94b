"""A change with the agent's own work is as trusted as the tasks of the issue that it answers."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.task.agenttask import AgentTask, manifest
from coding_agent_core.task.model import Item, TaskRequest, task_name

from tests.fixtures.deliveries import NOW, asked, issue


def item(kind: ItemKind, number: int) -> Item:
    return issue(number, kind=kind)


ISSUE, CHANGE = item(ItemKind.ISSUE, 5), item(ItemKind.CHANGE, 7)


def request(of: Item, **fields: Any) -> TaskRequest:
    return asked(of, at=NOW).model_copy(update=fields)


class Stored:
    """The AgentTasks of a namespace."""

    def __init__(self, *bodies: Mapping[str, Any]) -> None:
        self.bodies = list(bodies)

    async def runs(self, of: Item) -> Sequence[AgentTask]:
        return [task for body in self.bodies if (task := AgentTask.of(body)).spec.item == of]

    async def create(self, body: Mapping[str, Any]) -> AgentTask:
        self.bodies.append(body)
        return AgentTask.of(body)


def task(run: int, *, trusted: bool, of: Item = ISSUE) -> dict[str, Any]:
    body = manifest(request(of, trusted=trusted), run=run)
    return {**body, "metadata": {**body["metadata"], "creationTimestamp": "2026-11-25T11:00:00Z"}}


@pytest.mark.parametrize(
    ("answers", "stored", "trusted"),
    [
        (ISSUE, [task(1, trusted=True)], True),
        (ISSUE, [task(1, trusted=False)], False),
        (ISSUE, [task(1, trusted=True), task(2, trusted=False)], False),
        (ISSUE, [], False),
        (ISSUE, [task(1, trusted=True, of=item(ItemKind.ISSUE, 6))], False),
        (None, [task(1, trusted=True)], False),
    ],
)
async def test_the_trust_of_the_issues_tasks_counts(
    answers: Item | None, stored: list[dict[str, Any]], trusted: bool
) -> None:
    tasks = Stored(*stored)
    sink = KubernetesSink(Access(None), "ns", Consumer())
    await sink._submit(cast(AgentTasks, tasks), request(CHANGE, answers=answers), set())
    assert tasks.bodies[-1]["spec"]["source"]["kind"] == "change"
    assert tasks.bodies[-1]["spec"].get("trusted", False) is trusted


async def test_after_a_lost_answer_the_task_is_looked_for_before_it_is_created_again() -> None:
    """It may have been created, have ended, and have been deleted: another one would do its work twice."""
    tasks = Stored(task(1, trusted=False))
    sink = KubernetesSink(Access(None), "ns", Consumer())
    unanswered = {task_name(ISSUE)}
    submission = await sink._submit(cast(AgentTasks, tasks), request(ISSUE), unanswered)
    assert (submission.task, submission.duplicate) == (task_name(ISSUE), None)
    assert len(tasks.bodies) == 1
