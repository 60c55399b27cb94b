"""Keeps the runs of an item in order: cancels a duplicate run 1, and deletes runs that ended long ago.

An item's tasks are numbered runs. The first has a name that follows from the item, so that several receivers
cannot create it twice (docs/decisions/0010).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.settings.operator import Budgets
from coding_agent_core.task.admission import (
    Duplicate,
    admit,
    duplicate_of,
    first_run,
    latest_of,
    may_delete_first,
    note,
    runs_of,
)
from coding_agent_core.task.agenttask import ENDED, LABEL_REPORTED, AgentTask
from coding_agent_core.task.model import Origin, task_name

from coding_agent_operator.cluster.controller import ObjectCache
from coding_agent_operator.tasks.budgets import charges, counted_until, day_of

_logger = logging.getLogger("operator.runs")

_PAGE = 200
_UNREPORTED = timedelta(days=1)
_DAY = timedelta(days=1)
_LONGEST = 1000
"""A selector names at most this many days, which take 29 KB."""
_REMEMBERED = timedelta(minutes=20)
"""How long an item with an ended task is remembered: far longer than a label counts as fresh."""
_RACES = 10
"""Maximum number of decisions on one task. A further one is needed if the item's tasks have changed."""


class Duplicates:
    """Finds each new run 1 in a namespace that should not have been created, before it has a Job.

    The name of run 1 can be free although the item has another run: a person deleted run 1, or created a task
    with another name. When a fresh webhook arrives, the receiver creates run 1 without reading first, and a
    person can be faster than a poll.

    Args:
        active: the cache of the tasks that have not ended.
    """

    def __init__(
        self, tasks: AgentTasks, active: ObjectCache[AgentTask], now: Callable[[], datetime]
    ) -> None:
        self._tasks = tasks
        self._active = active
        self._now = now
        self._ended: dict[str, datetime] = {}
        """When a task of an item was found to have ended, by the item's hash; the oldest is first."""

    def ended(self, task: AgentTask) -> None:
        """Remember the item of an ended task, because the cache drops the task."""
        self._ended.pop(task.item_hash, None)
        self._ended[task.item_hash] = self._now()
        for item, at in list(self._ended.items()):
            if at + _REMEMBERED > self._now():
                break
            del self._ended[item]

    async def cancelled(self, task: AgentTask) -> bool:
        """Cancel the task if another task answers its label application; return whether it was cancelled.

        Raises:
            ApiError: the API server refused something or did not answer. The task must not start yet.
        """
        if task.status.phase is not None or task.spec.cancel or not self._suspect(task):
            return False
        for _ in range(_RACES):
            runs = runs_of(task.spec.item, await self._tasks.runs(task.spec.item))
            stored = next((run for run in runs if run.uid == task.uid), None)
            others = [run for run in runs if _is_older(run, task)]
            latest = latest_of(others)
            decision = admit(task.spec.trigger, latest)
            if stored is None or latest is None or not isinstance(decision, Duplicate):
                return False
            # As in the sink, the application is recorded on the task that answers it. If that task has
            # changed, the decision is made again.
            record = note(others[-1], task.spec.trigger, decision, latest)
            if record is not None and await self._tasks.patch(others[-1], record) is None:
                continue
            if await self._tasks.patch(stored, duplicate_of(decision)) is not None:
                _logger.info("%s is a duplicate of %s: %s", task.name, decision.task, decision.why)
                return True
        raise ApiError(f"The tasks of {task.spec.item.display} change too quickly to decide on one.", 409)

    def _suspect(self, task: AgentTask) -> bool:
        if task.name != task_name(task.spec.item) or task.spec.trigger.origin is Origin.MANUAL:
            return False
        if task.item_hash in self._ended:
            return True
        active = self._active.of(self._tasks.namespace)
        return any(other.item_hash == task.item_hash and _is_older(other, task) for other in active)


def _is_older(other: AgentTask, task: AgentTask) -> bool:
    """Whether the other task existed when the task, a run 1, was created.

    The API server keeps times in whole seconds. If both were created in the same second, the other can only
    be older if it is a run 1 too: a later run comes after run 1.
    """
    if other.uid == task.uid:
        return False
    before, at = other.metadata.created, task.metadata.created
    return before < at or (before == at and other.spec.run == 1)


async def sweep_forever(
    tasks: AgentTasks, keep: timedelta, budgets: Budgets, interval: float, now: Callable[[], datetime]
) -> None:
    """Sweep now, and then once in every interval, which is in seconds."""
    while True:
        try:
            deleted = await sweep(tasks, keep, budgets, now())
            if deleted:
                _logger.info("Deleted %d tasks that ended more than %s ago", deleted, keep)
        except ApiError as error:
            _logger.warning("Ended tasks could not be deleted: %s", error)
        await asyncio.sleep(interval)


async def sweep(tasks: AgentTasks, keep: timedelta, budgets: Budgets, now: datetime) -> int:
    """Delete the tasks that ended long ago, and return their number.

    Raises:
        ApiError: the API server refused something or did not answer.
    """
    deleted = 0
    if budgets.namespace is not None:
        # Tasks that ended this month stay, so they need not be listed.
        listed = max(keep, now - datetime.combine(day_of(now).replace(day=1), time(), UTC))
    else:
        listed = keep
    async for page in tasks.pages(due(now, listed), _PAGE):
        for task in page:
            if task.readable and expired(task, now, keep) and not is_counted(task, budgets, now):
                deleted += await delete(tasks, task, now)
    return deleted


def due(now: datetime, keep: timedelta) -> str:
    """Return a field selector for ended tasks that may have expired; it leaves out recently ended tasks.

    Tasks with their own ttlSecondsAfterFinished have no `keptSince`, so they are selected too.
    """
    # The days from the first on which no task can have expired, until tomorrow because clocks differ.
    days = min(int(keep / _DAY), _LONGEST) + 1
    lately = [day for ago in range(-1, days) if (day := day_of(now - ago * _DAY)) > day_of(now - keep)]
    return ",".join([ENDED, *(f"status.keptSince!={day}" for day in lately)])


async def delete(tasks: AgentTasks, task: AgentTask, now: datetime) -> bool:
    """Delete an ended task, but run 1 only if it is the last run of its item.

    Raises:
        ApiError: the API server refused something or did not answer.
    """
    item = task.spec.item
    # Run 1 is deleted last, so that a free name of run 1 means that the item has no run. The receiver relies
    # on this: for a fresh webhook it creates run 1 without reading.
    if task.name == task_name(item):
        runs = await tasks.runs(item)
        first = first_run(item, runs)
        if first is None or first.uid != task.uid or not may_delete_first(item, runs, now):
            return False
        task = first
    return await tasks.delete(task)


def expired(task: AgentTask, now: datetime, keep: timedelta) -> bool:
    """Whether the task ended long enough ago to be deleted.

    A task whose end is not shown on its item yet stays a day longer, so that the reporter can still show it
    after an outage of the forge.

    Args:
        keep: how long an ended task stays, unless its `ttlSecondsAfterFinished` says so.
    """
    own, ended = task.spec.ttl_seconds_after_finished, task.ended_at
    keep = keep if own is None else timedelta(seconds=own)
    keep = keep if task.metadata.labels.get(LABEL_REPORTED) == "true" else keep + _UNREPORTED
    return task.ended and ended is not None and ended + keep <= now


def is_counted(task: AgentTask, budgets: Budgets, now: datetime) -> bool:
    """Whether a budget's current period counts what an ended task spent, so the task must be kept."""
    ended, source = task.ended_at, task.spec.source
    if ended is None or not charges(task.status.attempts):
        return False
    until = counted_until(ended, (source.host, source.repository), budgets)
    return until is not None and now < until
