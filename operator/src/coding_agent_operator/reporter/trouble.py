"""Tells people on the task itself why its item does not show it: a condition and an Event, once each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.agenttask import Event
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError

from coding_agent_operator.observed import Task
from coding_agent_operator.reporter.conditions import unreported
from coding_agent_operator.reporter.memory import Memory

_logger = logging.getLogger("reporter.trouble")


@dataclass(frozen=True)
class Trouble:
    """Why: one CamelCase word, and a sentence."""

    reason: str
    message: str


def is_told(task: Task) -> bool:
    """Whether the task says that its item does not show it."""
    condition = task.status.condition("Reported")
    return condition is not None and condition.status == "False"


async def tell(tasks: AgentTasks, task: Task, memory: Memory, trouble: Trouble, now: datetime) -> None:
    """Tell of a trouble; the same one is told once.

    Raises:
        ApiError: the API server did not take it.
    """
    if memory.told == trouble.reason:
        return
    _logger.warning("%s is not shown: %s: %s", task.spec.item.display, trouble.reason, trouble.message)
    body = await tasks.get(task.name)
    if body is not None and body["metadata"]["uid"] == task.uid:
        await tasks.set_conditions(body, (unreported(trouble.reason, trouble.message),), now)
        await emit(tasks, task, Event("Warning", trouble.reason, trouble.message), now)
    memory.told = trouble.reason


async def emit(tasks: AgentTasks, task: Task, event: Event, now: datetime) -> None:
    """Write an Event; one that cannot be written is logged and never repeated."""
    try:
        await tasks.emit(event, name=task.name, uid=task.uid, now=now)
    except ApiError as error:
        _logger.warning("Event %s of %s could not be written: %s", event.reason, task.name, error)
