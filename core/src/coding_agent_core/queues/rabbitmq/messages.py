"""What lies in which queue: names and messages of this project on a broker. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from coding_agent_core.commands import IssueCommand
from coding_agent_core.messages import QueuedTask
from coding_agent_core.platforms import Platform
from coding_agent_core.tasks import Item, task_name

PERSISTENT = 2
"""AMQP's delivery mode of messages that survive a restart of the broker."""
MAX_DELAY_SECONDS = 24 * 3600


def dead_queue(queue: str) -> str:
    """Where tasks lie that were given up, for a person to look at."""
    return f"{queue}.dead"


def command_queue(queue: str) -> str:
    """Where commands wait: beside the tasks, for a `/cancel` must not wait behind what it cancels."""
    return f"{queue}.commands"


def delay_seconds(delay: float) -> int:
    """Whole seconds of a delay, at least 1: one queue exists per length, and a handful are enough."""
    return min(max(1, math.ceil(delay)), MAX_DELAY_SECONDS)


def delay_queue(queue: str, seconds: int) -> str:
    """Where tasks wait before they go back to the queue."""
    return f"{queue}.retry.{seconds}"


def delay_arguments(queue: str, seconds: int) -> dict[str, Any]:
    """A message that stayed its time goes to the main queue, by the default exchange."""
    return {
        "x-message-ttl": seconds * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
    }


def lock_queue(queue: str, item: Item) -> str:
    """The exclusive queue whose owner works on the item; its name has no run: all runs exclude each other."""
    return f"{queue}.lock.{task_name(item)}"


def encode(task: QueuedTask) -> bytes:
    """The message's body."""
    return json.dumps(task.to_message(), ensure_ascii=False, separators=(",", ":")).encode()


def decode_command(body: bytes) -> IssueCommand:
    """Read a message of the command queue.

    Raises:
        ValueError: it is no command, with the reason.
    """
    try:
        return IssueCommand.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"not a command: {where}: {first['msg']}") from None


def decode(body: bytes, *, now: datetime, hosts: Mapping[Platform, str]) -> QueuedTask:
    """Read a message's body.

    Raises:
        ValueError: it is no task, with the reason.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise ValueError(f"not a task: the message is not JSON: {error}") from error
    return QueuedTask.from_message(data, now=now, hosts=hosts)
