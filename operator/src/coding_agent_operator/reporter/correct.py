"""Corrects a task that its item contradicts: the person's labels are the last authority."""

from __future__ import annotations

import logging

from coding_agent_core.admission import LatestTask
from coding_agent_core.agenttask import Event
from coding_agent_core.kubernetes.runs import cancellation
from coding_agent_core.kubernetes.transport import Body
from coding_agent_core.tasks import Origin, TaskRequest, Trigger

from coding_agent_operator.observed import Task
from coding_agent_operator.reporter import metrics, trouble
from coding_agent_operator.reporter.conditions import acknowledged
from coding_agent_operator.reporter.decide import Says
from coding_agent_operator.reporter.errors import ChangedError
from coding_agent_operator.reporter.place import Place

_logger = logging.getLogger("reporter.correct")

_BECAUSE = {
    Says.CLOSED: "the item was closed",
    Says.WITHDRAWN: "the item has none of our labels any more",
}
"""As the item's comment says it at the end."""
_WHY = {
    Says.CLOSED: ("ItemClosed", "The item was closed: its task is cancelled."),
    Says.WITHDRAWN: ("LabelRemoved", "The item has none of our labels any more: its task is cancelled."),
    Says.ASKED: ("LabelAppliedAgain", "The label was put on the item again: that asks for a new run."),
}


async def correct(place: Place, task: Task, body: Body, known: LatestTask, says: Says) -> None:
    """Do what the item says.

    Args:
        body: the task as it was decided on; a task that has changed since is not corrected.

    Raises:
        ChangedError: it has changed.
        ForgeError, ApiError, QueueUnavailableError: not now.
    """
    if says is Says.ASKED:
        await _new_run(place, task, body, known)
    elif not await place.tasks.patch(body, cancellation(_BECAUSE[says])):
        raise ChangedError(f"{task.name} has changed since its item was read")
    metrics.CORRECTIONS.labels(says).inc()
    reason, message = _WHY[says]
    _logger.info("%s: %s", task.spec.item.display, message)
    await trouble.emit(place.tasks, task, Event("Normal", reason, message), place.clock())


async def _new_run(place: Place, task: Task, body: Body, known: LatestTask) -> None:
    now = place.clock()
    applied = await place.forge.applied(task.spec.item, place.labels.bot_label)
    # From here on a bot label on the item is a new application, whoever finds it.
    marked = acknowledged("The label was put on again.")
    if await place.tasks.set_conditions(body, (marked,), now) is None:
        raise ChangedError(f"{task.name} is gone")
    latest = max(filter(None, (known.created_at, known.labeled_at)))
    # A time that the task knows already was answered "duplicate", since it had not ended by then; what is
    # asked for here is a run of its own.
    labeled_at = applied.at if applied is not None and applied.at > latest else None
    request = TaskRequest(
        item=task.spec.item,
        user=applied.user if applied is not None and applied.user else task.spec.user,
        title=task.spec.title,
        url=task.spec.url,
        trigger=Trigger(origin=Origin.POLL, labeled_at=labeled_at, received_at=now),
    )
    submission = await place.sink.submit(request)
    if submission.duplicate is not None:
        _logger.warning("%s: no new run: %s", task.spec.item.display, submission.duplicate)
