"""What is in which queue: names and messages on a broker, and which attempts are settled. Pure."""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from coding_agent_core.commands import IssueCommand
from coding_agent_core.messages import Notice, QueuedTask, item_of_notice
from coding_agent_core.registry import Platform
from coding_agent_core.retry import backoff
from coding_agent_core.tasks import Frozen, Item, Withdrawal, new_uuid, task_name
from coding_agent_core.text import first_problem

MAX_DELAY_SECONDS = 24 * 3600
_DELAY_STEPS = 8
"""Delays are rounded up to three significant bits, so that few queues exist: at most a quarter longer."""
_DELAY_QUEUE_REST = 60
"""Seconds for which a delay queue stays after the last message that can be in it."""
_HOUR = 3_600_000
WAITING_ARGUMENTS: Mapping[str, object] = {"x-message-ttl": _HOUR, "x-max-length": 1, "x-expires": 2 * _HOUR}
"""Arguments of a waiting queue: after an hour a poll publishes the item again, because somebody may have
purged its message.

The message has that limit and not the queue, because polls that look at a queue keep it alive.
"""
SETTLED_LIMIT = 10_000
_REASON_LIMIT = 2000
"""Characters of a reason in a header; a frame of headers must stay far below the broker's 128 KiB."""
REDELIVERED = "x-redelivered"
"""Set on a copy of a message that was delivered before: the broker's own flag does not cross delay queues."""


@dataclass(frozen=True)
class Message:
    queue: str
    body: bytes
    id: str
    """Differs from that of every other message on its way at the same time."""
    headers: Mapping[str, object] | None = None
    arguments: Mapping[str, object] | None = None
    """Of its queue, which is declared first, because it may not exist; `None`: it exists."""
    persistent: bool = True
    """Whether it survives a restart of the broker, which costs a write to disk before it is confirmed."""


def dead_queue(queue: str) -> str:
    """Where tasks are after their last attempt, for a person to inspect."""
    return f"{queue}.dead"


def command_queue(queue: str, host: str) -> str:
    """Where commands and withdrawals for a forge's items wait.

    They are not with the tasks, because a `/cancel` must not wait behind what it cancels. Each forge has its
    own queue, because its people must not wait while another forge is unavailable.
    """
    return f"{queue}.commands.{host.lower()}"


def sign_queue(queue: str, host: str) -> str:
    """Where the other notices wait: tasks to be shown as waiting, which come after commands."""
    return f"{queue}.signs.{host.lower()}"


NOTICE_ARGUMENTS: Mapping[str, object] = {"x-expires": 7 * 24 * 3600 * 1000}
"""Arguments of both queues: they vanish after a week without a consumer, as for a forge that was removed."""


def delay_seconds(delay: float) -> int:
    """Whole seconds of a delay, at least 1, rounded up: one queue exists for each length."""
    seconds = min(max(1, math.ceil(delay)), MAX_DELAY_SECONDS)
    step = max(1, (1 << seconds.bit_length()) // _DELAY_STEPS)
    return min(-(-seconds // step) * step, MAX_DELAY_SECONDS)


def delay_queue(queue: str, seconds: int) -> str:
    """Where tasks wait before they go back to the queue."""
    return f"{queue}.retry.{seconds}"


def delay_arguments(queue: str, seconds: int) -> dict[str, Any]:
    """An expired message goes to the main queue, by the default exchange. The queue is gone soon after it.

    Each declaration starts the queue's time again (RabbitMQ's documentation, *Queue TTL*), and each message
    comes after one.
    """
    return {
        "x-message-ttl": seconds * 1000,
        "x-expires": (seconds + _DELAY_QUEUE_REST) * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
    }


def lock_queue(queue: str, item: Item) -> str:
    """The exclusive queue whose owner works on the item. The name has no run: all runs exclude each other."""
    return f"{queue}.lock.{task_name(item)}"


def waiting_queue(queue: str, item: Item) -> str:
    """A queue whose one message shows that a message of the item waits, so that polls publish no other."""
    return f"{queue}.waiting.{task_name(item)}"


def task_message(queue: str, task: QueuedTask, *, redelivered: bool = False) -> Message:
    """A task to work on; `redelivered`: this very attempt was delivered before, and may have started."""
    headers = {REDELIVERED: True} if redelivered else None
    return Message(queue, _encode(task), f"{task.uuid}.{task.attempt}", headers)


def delayed_message(queue: str, task: QueuedTask, seconds: int, *, redelivered: bool) -> Message:
    """A task that goes back to the queue after this time, one of `delay_seconds`."""
    message = task_message(queue, task, redelivered=redelivered)
    return replace(message, queue=delay_queue(queue, seconds), arguments=delay_arguments(queue, seconds))


def waiting_message(waiting: str) -> Message:
    """Not persistent: without it a poll publishes the item once more, and the consumer drops the message."""
    return Message(waiting, b"", f"waiting.{new_uuid()}", persistent=False)


def dead_message(queue: str, task: QueuedTask, reason: str) -> Message:
    headers = {
        "reason": reason[:_REASON_LIMIT],
        "uuid": task.uuid,
        "attempt": task.attempt,
        "name": task.name,
    }
    return Message(dead_queue(queue), _encode(task), f"{task.uuid}.dead", headers)


def malformed_message(queue: str, body: bytes, reason: str, tag: int) -> Message:
    return Message(dead_queue(queue), body, f"malformed.{tag}", {"reason": reason[:_REASON_LIMIT]})


class _NoticeMessage(Frozen):
    notice: QueuedTask | Withdrawal | IssueCommand


def notice_message(queue: str, notice: Notice) -> Message:
    """A sign is not persistent: if it is lost, the item shows nothing until its task starts."""
    is_sign = isinstance(notice, QueuedTask)
    place = sign_queue if is_sign else command_queue
    return Message(
        place(queue, item_of_notice(notice).host),
        _NoticeMessage(notice=notice).model_dump_json().encode(),
        f"notice.{new_uuid()}",
        arguments=NOTICE_ARGUMENTS,
        persistent=not is_sign,
    )


def decode_notice(body: bytes) -> Notice:
    """Raises ValueError with the reason if the message is not a notice."""
    try:
        return _NoticeMessage.model_validate_json(body).notice
    except ValidationError as error:
        raise ValueError(f"not a notice: {first_problem(error)}") from None


def decode_task(body: bytes, *, now: datetime, hosts: Mapping[Platform, str]) -> QueuedTask:
    """Raises ValueError with the reason if the message is not a task."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise ValueError(f"not a task: the message is not JSON: {error}") from error
    return QueuedTask.from_message(data, now=now, hosts=hosts)


def _encode(task: QueuedTask) -> bytes:
    return json.dumps(task.to_message(), ensure_ascii=False, separators=(",", ":")).encode()


class DeliveryTracker:
    """The attempts that this process has settled, so that one delivered again is not worked on again.

    A message whose acknowledgement was lost with the channel comes again within minutes: a bounded memory is
    enough.
    """

    def __init__(self) -> None:
        self._settled: OrderedDict[tuple[str, int], None] = OrderedDict()

    def settle(self, task: QueuedTask) -> None:
        self._settled[(task.uuid, task.attempt)] = None
        while len(self._settled) > SETTLED_LIMIT:
            self._settled.popitem(last=False)

    def is_settled(self, task: QueuedTask) -> bool:
        return (task.uuid, task.attempt) in self._settled


@dataclass(frozen=True)
class Timing:
    """How long a consumer's connection waits for what, in seconds.

    Attributes:
        first_pause: before the second attempt to connect; doubled for each further one.
        longest_pause: limit of that; low, because a broker that is back should not wait for us.
        lock_patience: how long a lock may stay taken before its item counts as held by another. The broker
            may notice the end of a connection a moment after it delivers that connection's message again.
        relock_grace: how long a task that was delivered before is left to its last holder, which may have
            lost only its connection.
        settle: for the confirmation of a retry or dead letter, reconnecting included.
        random: from 0 to 1, spreads reconnections.
    """

    connect: float = 10.0
    first_pause: float = 0.2
    longest_pause: float = 10.0
    lock_patience: float = 3.0
    relock_grace: float = 3.0
    settle: float = 60.0
    random: Callable[[], float] = random.random

    def pause(self, failures: int) -> float:
        """Seconds before the next attempt to connect, after so many failures: half fixed, half random."""
        return backoff(failures + 1, self.first_pause, self.longest_pause, self.random())
