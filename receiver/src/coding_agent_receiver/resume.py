"""Finds the tasks of a killed process that had its queue in memory.

The item of such a task has the processing label, so the poll does not find it by the label that asks for a
task. Our comment on the item names task, attempt and process.
"""

from __future__ import annotations

import logging

from coding_agent_core.forge.values import MARKER
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.reporting.comment import State, read_state
from coding_agent_core.task.model import Cause, Phase, TaskRequest
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.round_report import cause_of
from coding_agent_forges.rest.forge import Forge

_logger = logging.getLogger("webhook.poller")


async def resume_task(forge: Forge, queue: MemoryQueue, request: TaskRequest) -> None:
    """Take over the task of an item with the processing label, if the task's process has ended.

    Args:
        request: the request that a poll makes for the item.

    Raises:
        ForgeError: the item's comments cannot be read.
    """
    found = await forge.find_comment(request.item, MARKER)
    state = read_state(found.body) if found else None
    # A comment that names no process belongs to a task in RabbitMQ or on Kubernetes.
    if state is None or state.process is None or queue.process is None:
        return
    if queue.process.is_alive(state.process):
        return
    try:
        task = resumed(request, state)
    except ValueError as error:
        _logger.warning("A task on %s cannot be resumed: %s", request.item.display, error)
        return
    if not queue.knows(request.item, task.uuid) and queue.resume(task):
        _logger.info("Task resumed, its process has ended: %s, %s", task.name, state.phase)


def resumed(request: TaskRequest, state: State) -> QueuedTask:
    """Return the task of an ended process in the form that a durable queue would store. Pure.

    Args:
        request: the request that a poll makes for the item. It may name another person.
        state: the state in our comment.

    Raises:
        ValueError: the state is that of a round without a cause, e.g. because somebody edited the comment.
    """
    trigger = request.trigger
    if state.round is not None:
        kind = Cause(cause_of(state.round).kind.value)
        trigger = trigger.model_copy(update={"cause": kind, "round": state.round, "labeled_at": None})
    return QueuedTask(
        request=request.model_copy(
            update={
                "user": state.user or request.user,
                "runner": state.runner or request.runner,
                "trigger": trigger,
            }
        ),
        uuid=state.uuid,
        run=state.run,
        attempt=max(1, state.attempt + (1 if state.phase is Phase.BACKOFF else 0)),
    )
