"""The AMQP properties of our messages."""

from __future__ import annotations

import pika

from coding_agent_core.commands import IssueCommand
from coding_agent_core.messages import QueuedTask
from coding_agent_core.queues.rabbitmq.messages import PERSISTENT

_HEADER_LIMIT = 2000
"""Characters of a reason in a header; a frame of headers must stay far below the broker's 128 KiB."""


_REDELIVERED = "x-redelivered"
"""Set on a copy of a message that was delivered before: the broker's own flag does not cross delay queues."""


def task_properties(task: QueuedTask, *, redelivered: bool = False) -> pika.BasicProperties:
    """Of a task that is to be worked on."""
    return pika.BasicProperties(
        delivery_mode=PERSISTENT,
        content_type="application/json",
        message_id=f"{task.uuid}.{task.attempt}",
        headers={_REDELIVERED: True} if redelivered else None,
    )


def command_properties(command: IssueCommand) -> pika.BasicProperties:
    """Of a command."""
    return pika.BasicProperties(
        delivery_mode=PERSISTENT, content_type="application/json", message_id=command.trigger_id
    )


def marked_redelivered(properties: pika.BasicProperties) -> bool:
    """Whether the message is such a copy."""
    headers: dict[str, object] = properties.headers or {}
    return headers.get(_REDELIVERED) is True


def dead_properties(reason: str, task: QueuedTask | None, message_id: str) -> pika.BasicProperties:
    """Of a task that was given up, or of a message that is none."""
    headers: dict[str, object] = {"reason": reason[:_HEADER_LIMIT]}
    if task is not None:
        headers |= {"uuid": task.uuid, "attempt": task.attempt, "name": task.name}
    return pika.BasicProperties(
        delivery_mode=PERSISTENT, content_type="application/json", message_id=message_id, headers=headers
    )
