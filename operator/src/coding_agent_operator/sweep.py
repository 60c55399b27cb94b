"""Deletes tasks that ended long ago, and an item's run 1 last (docs/decisions/0010)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from coding_agent_core.admission import first_run, may_delete_first
from coding_agent_core.agenttask import LABEL_ACTIVE, LABEL_ENDED, LABEL_REPORTED
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.tasks import task_name

from coding_agent_operator.observed import Task, UnreadableTaskError, read_task

_logger = logging.getLogger("operator.sweep")

INACTIVE = f"{LABEL_ACTIVE}!=true"
_PAGE = 200
_UNREPORTED = timedelta(days=1)
_DAY = timedelta(days=1)
_LONGEST = 1000
"""Days that a selector names: 11 KB."""


async def sweep_forever(
    tasks: AgentTasks, keep: timedelta, interval: float, now: Callable[[], datetime]
) -> None:
    """Sweep now and at every interval (seconds)."""
    while True:
        try:
            deleted = await sweep(tasks, keep, now())
            if deleted:
                _logger.info("Deleted %d tasks that ended more than %s ago", deleted, keep)
        except ApiError as error:
            _logger.warning("Ended tasks could not be swept: %s", error)
        await asyncio.sleep(interval)


async def sweep(tasks: AgentTasks, keep: timedelta, now: datetime) -> int:
    """List what may have ended long ago, and delete what has; how many that were.

    Raises:
        ApiError: the API server refused something or did not answer.
    """
    deleted = 0
    async for page in tasks.pages(due(now, keep), _PAGE):
        for body in page:
            try:
                task = read_task(body)
            except UnreadableTaskError:
                continue
            if expired(task, now, keep):
                deleted += await delete(tasks, task, now)
    return deleted


def ended_label(task: Task) -> dict[str, str]:
    """The label of a task that is kept as long as usual, which says when it ended."""
    ended = ended_at(task)
    if ended is None or task.spec.ttl_seconds_after_finished is not None:
        return {}
    return {LABEL_ENDED: _day(ended)}


def due(now: datetime, keep: timedelta) -> str:
    """Selects the inactive tasks that can have expired: the server keeps back those that ended lately.

    Tasks without the label, which live for a time of their own or were written by hand, are selected too.
    """
    # From the day after the last one that can be over, to tomorrow: clocks differ.
    days = min(int(keep / _DAY), _LONGEST) + 1
    lately = [day for days_ago in range(-1, days) if (day := _day(now - days_ago * _DAY)) > _day(now - keep)]
    return f"{INACTIVE},{LABEL_ENDED} notin ({','.join(lately)})"


def _day(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d")


async def delete(tasks: AgentTasks, task: Task, now: datetime) -> bool:
    """Delete an ended task; run 1 only as the last run of its item.

    Raises:
        ApiError: the API server refused something or did not answer.
    """
    item, version = task.spec.item, task.version
    if task.name == task_name(item):
        runs = await tasks.runs(task.item)
        first = first_run(item, runs)
        if first is None or not may_delete_first(item, runs, now):
            return False
        version = first["metadata"]["resourceVersion"]
    return await tasks.delete(task.name, task.uid, version)


def expired(task: Task, now: datetime, keep: timedelta) -> bool:
    """The task ended long enough ago.

    One whose end is not shown on its item yet stays a day longer: the forge may not answer.
    """
    own, ended = task.spec.ttl_seconds_after_finished, ended_at(task)
    keep = keep if own is None else timedelta(seconds=own)
    keep = keep if task.labels.get(LABEL_REPORTED) == "true" else keep + _UNREPORTED
    return task.ended and ended is not None and ended + keep <= now


def ended_at(task: Task) -> datetime | None:
    """When a task ended; `None` if its status does not say it."""
    succeeded = task.status.condition("Succeeded")
    return task.status.completion_time or (succeeded.last_transition_time if succeeded else None)
