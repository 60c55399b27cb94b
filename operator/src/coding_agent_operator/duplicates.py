"""Finds a new run 1 that should not have been created, before it has a Job (docs/decisions/0010).

The name of run 1 can be free although the item has another run: a person deleted run 1, or wrote a task of
another name. A fresh webhook does not read before it creates run 1, and a person can be quicker than a poll.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from coding_agent_core.admission import (
    Duplicate,
    admit,
    duplicate_of,
    latest_of,
    note,
    runs_of,
)
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.controller import ObjectCache
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.tasks import Origin, task_name

from coding_agent_operator.observed import Task, read_task

_logger = logging.getLogger("operator.duplicates")

_REMEMBERED = timedelta(minutes=20)
"""How long an item is known to have had a task that ended: far longer than a label is fresh."""
_RACES = 10
"""Decisions on one task at most; each further one means that someone else changed the item's tasks."""


class Duplicates:
    """Of one namespace.

    Args:
        active: the cache of the tasks that have not ended.
    """

    def __init__(self, tasks: AgentTasks, active: ObjectCache[Task], now: Callable[[], datetime]) -> None:
        self._tasks = tasks
        self._active = active
        self._now = now
        self._ended: dict[str, datetime] = {}
        """By item, when a task of it was found to have ended; the oldest first."""

    def ended(self, task: Task) -> None:
        """Remember a task that has ended, which the cache forgets."""
        self._ended.pop(task.item, None)
        self._ended[task.item] = self._now()
        for item, at in list(self._ended.items()):
            if at + _REMEMBERED > self._now():
                break
            del self._ended[item]

    async def cancelled(self, task: Task) -> bool:
        """Cancel the task if another one answers for its label application; whether it had to be.

        Raises:
            ApiError: the API server refused something or did not answer: the task must not start yet.
        """
        if task.status.phase is not None or task.spec.cancel or not self._suspect(task):
            return False
        for _ in range(_RACES):
            runs = runs_of(task.spec.item, await self._tasks.runs(task.item))
            body = next((run for run in runs if run["metadata"]["uid"] == task.uid), None)
            others = [run for run in runs if _is_older(read_task(run), task)]
            latest = latest_of(others)
            decision = admit(task.spec.trigger, latest)
            if body is None or latest is None or not isinstance(decision, Duplicate):
                return False
            # As in the sink: it is recorded on the task that answers for it, or the decision is made again.
            record = note(others[-1], task.spec.trigger, decision.labeled_at, latest)
            if record is not None and await self._tasks.patch(others[-1], record) is None:
                continue
            if await self._tasks.patch(body, duplicate_of(decision)) is not None:
                _logger.info("%s is a duplicate of %s: %s", task.name, decision.task, decision.why)
                return True
        raise ApiError(f"The tasks of {task.spec.item.display} change too quickly to decide on one.", 409)

    def _suspect(self, task: Task) -> bool:
        if task.name != task_name(task.spec.item) or task.spec.trigger.origin is Origin.MANUAL:
            return False
        if task.item in self._ended:
            return True
        active = self._active.of(self._tasks.namespace)
        return any(other.item == task.item and _is_older(other, task) for other in active)


def _is_older(other: Task, task: Task) -> bool:
    """It was there when the task, a run 1, was created. Of the same second (as the API server has it), only
    another run 1 was: a later run comes after run 1.
    """
    if other.uid == task.uid:
        return False
    return other.created < task.created or (other.created == task.created and other.spec.run == 1)
