"""Deletes runs that ended long ago. The item's comment remembers what they answered."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

from coding_agent_core.settings.operator import Budgets
from coding_agent_core.task.agenttask import ENDED, LABEL_REPORTED, AgentTask

from coding_agent_operator.tasks.budgets import charges, counted_until, day_of

if TYPE_CHECKING:
    from coding_agent_core.task.task_store import TaskStore

_logger = logging.getLogger("operator.runs")

_PAGE = 200
_UNREPORTED = timedelta(days=1)
_DAY = timedelta(days=1)
_LONGEST = 1000
"""A selector names at most this many days, which take 29 KB."""


async def sweep(tasks: TaskStore, keep: timedelta, budgets: Budgets, now: datetime) -> int:
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
                deleted += await tasks.delete(task)
    if deleted:
        _logger.info("Deleted %d tasks that ended more than %s ago", deleted, keep)
    return deleted


def due(now: datetime, keep: timedelta) -> str:
    """Return a field selector for ended tasks that may have expired; it leaves out recently ended tasks.

    Tasks with their own ttlSecondsAfterFinished have no `keptSince`, so they are selected too.
    """
    # The days from the first on which no task can have expired, until tomorrow because clocks differ.
    days = min(int(keep / _DAY), _LONGEST) + 1
    lately = [day for ago in range(-1, days) if (day := day_of(now - ago * _DAY)) > day_of(now - keep)]
    return ",".join([ENDED, *(f"status.keptSince!={day}" for day in lately)])


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
