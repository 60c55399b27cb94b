"""The names of queues and their messages on a broker, and the attempts that a process has finished. Pure."""

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

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.platforms.text import first_problem
from coding_agent_core.queues.interfaces import Notice, item_of_notice
from coding_agent_core.runtime.retry import backoff
from coding_agent_core.task.model import Frozen, Item, new_uuid, task_name
from coding_agent_core.task.queued_task import QueuedTask

MAX_DELAY_SECONDS = 27 * 3600
"""A day, as long as a server may ask to wait, with a tenth more."""
_DELAY_STEPS = 8
"""Delays are rounded up to three significant bits, so that few queues exist; this adds at most a quarter."""
_DELAY_QUEUE_REST = 60
"""Seconds for which a delay queue stays after the last message that can be in it."""
_HOUR = 3_600_000
WAITING_ARGUMENTS: Mapping[str, object] = {"x-message-ttl": _HOUR, "x-max-length": 1, "x-expires": 2 * _HOUR}
"""Arguments of a waiting queue: after an hour a poll publishes the item again, because somebody may have
purged its message.

The message has that limit and not the queue, because polls that inspect a queue keep it alive.
"""
SETTLED_LIMIT = 10_000
_REASON_LIMIT = 2000
"""Maximum number of characters of a reason in a header: a frame of headers must stay far below 128 KiB."""
REDELIVERED = "x-redelivered"
"""Header of a copied message that was delivered before: the broker's own flag is lost in delay queues."""


@dataclass(frozen=True)
class Message:
    queue: str
    body: bytes
    id: str
    """The message's id. No other message that is under way at the same time has this id."""
    headers: Mapping[str, object] | None = None
    arguments: Mapping[str, object] | None = None
    """Arguments of the message's queue, which is declared first; `None` if the queue certainly exists."""
    persistent: bool = True
    """Whether the message survives a restart of the broker. If so, it is written to disk before it is
    confirmed."""


def dead_queue(queue: str) -> str:
    """Return the name of the dead-letter queue, in which a person can inspect failed tasks."""
    return f"{queue}.dead"


def command_queue(queue: str, host: str) -> str:
    """Return the name of the queue for commands and withdrawals of a forge's items.

    They are not in the queue of tasks, because a `/cancel` must not wait behind the task that it cancels.
    Each forge has its own queue, because its users must not wait while another forge is unavailable.
    """
    return f"{queue}.commands.{host.lower()}"


def sign_queue(queue: str, host: str) -> str:
    """Return the name of the queue whose notices say that a task waits. Consumers read commands first."""
    return f"{queue}.signs.{host.lower()}"


NOTICE_ARGUMENTS: Mapping[str, object] = {"x-expires": 7 * 24 * 3600 * 1000}
"""Arguments of both queues: they vanish after a week without a consumer, as for a forge that was removed."""


def delay_seconds(delay: float) -> int:
    """Round a delay up to one of a few lengths in seconds, at least 1, because each length needs a queue."""
    seconds = min(max(1, math.ceil(delay)), MAX_DELAY_SECONDS)
    step = max(1, (1 << seconds.bit_length()) // _DELAY_STEPS)
    return min(-(-seconds // step) * step, MAX_DELAY_SECONDS)


def delay_queue(queue: str, seconds: int) -> str:
    """Return the name of the queue in which tasks wait before they go back to the main queue."""
    return f"{queue}.retry.{seconds}"


def delay_arguments(queue: str, seconds: int) -> dict[str, Any]:
    """Return the arguments of a delay queue.

    An expired message goes to the main queue by the default exchange, and soon afterwards the delay queue is
    deleted. Each message comes after a declaration, which starts the queue's time again (RabbitMQ's
    documentation, *Queue TTL*).
    """
    return {
        "x-message-ttl": seconds * 1000,
        "x-expires": (seconds + _DELAY_QUEUE_REST) * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
    }


def lock_queue(queue: str, item: Item) -> str:
    """Return the name of the exclusive queue that locks the item. All runs of the item share it."""
    return f"{queue}.lock.{task_name(item)}"


def rescans_queue(queue: str, host: str) -> str:
    """Return the name of the exclusive queue of the consumer that scans our open changes on a forge."""
    return f"{queue}.rescans.{host.lower()}"


def waiting_queue(queue: str, item: Item) -> str:
    """Return the name of the queue whose message tells polls that a task of the item already waits."""
    return f"{queue}.waiting.{task_name(item)}"


def task_message(queue: str, task: QueuedTask, *, redelivered: bool = False) -> Message:
    """Return the message of a task; `redelivered` says that this attempt may have started before."""
    headers = {REDELIVERED: True} if redelivered else None
    return Message(queue, _encode(task), f"{task.uuid}.{task.attempt}", headers)


def delayed_message(queue: str, task: QueuedTask, seconds: int, *, redelivered: bool) -> Message:
    """Return the message of a task that waits before it goes back to the queue.

    Args:
        seconds: the wait, which `delay_seconds` has rounded.
    """
    message = task_message(queue, task, redelivered=redelivered)
    return replace(message, queue=delay_queue(queue, seconds), arguments=delay_arguments(queue, seconds))


def waiting_message(waiting: str) -> Message:
    """Return the message of a waiting queue. It is not persistent: if it is lost, a poll publishes the item
    once more, and the consumer drops that message.
    """
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
    notice: Notice


def notice_message(queue: str, notice: Notice) -> Message:
    """Return a notice's message. A notice that a task waits is not persistent, because it may be lost."""
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
    """Read a notice; raise ValueError with the reason if the message is not a notice."""
    try:
        return _NoticeMessage.model_validate_json(body).notice
    except ValidationError as error:
        raise ValueError(f"not a notice: {first_problem(error)}") from None


def decode_task(body: bytes, *, now: datetime, hosts: Mapping[Platform, str]) -> QueuedTask:
    """Read a task; raise ValueError with the reason if the message is not a task."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise ValueError(f"not a task: the message is not JSON: {error}") from error
    return QueuedTask.from_message(data, now=now, hosts=hosts)


def _encode(task: QueuedTask) -> bytes:
    return json.dumps(task.to_message(), ensure_ascii=False, separators=(",", ":")).encode()


class DeliveryTracker:
    """Remembers the attempts that this process has finished, so that it does not repeat them.

    If an acknowledgement is lost with its channel, the broker delivers the message again within minutes. So
    a limited number of attempts is enough.
    """

    def __init__(self) -> None:
        self._settled: OrderedDict[tuple[str, int], None] = OrderedDict()

    def settle(self, task: QueuedTask) -> None:
        self._settled[(task.uuid, task.attempt)] = None
        while len(self._settled) > SETTLED_LIMIT:
            self._settled.popitem(last=False)

    def is_settled(self, task: QueuedTask) -> bool:
        return (task.uuid, task.attempt) in self._settled


PUBLISH_S = 5.0
"""Seconds within which the broker must confirm a message. GitHub waits 10 s for the answer to a webhook."""


@dataclass(frozen=True)
class Timing:
    """The time limits of a consumer's connection, in seconds.

    Attributes:
        connect: the limit of one try to connect.
        first_pause: the pause before the second try to connect; it doubles for each further try.
        longest_pause: the limit of that pause. It is low, because a broker that is back should not wait.
        lock_patience: how long a lock may stay taken before the item counts as held by another consumer. The
            broker may deliver a lost connection's message again before it releases that connection's locks.
        relock_grace: how long a redelivered task is left to its last holder, which may have lost only its
            connection.
        publish: the limit of the confirmation of one message.
        settle: the limit of the confirmation of a retry or dead letter, including reconnections.
        random: returns a number from 0 to 1 that spreads reconnections.
    """

    connect: float = 10.0
    first_pause: float = 0.2
    longest_pause: float = 10.0
    lock_patience: float = 3.0
    relock_grace: float = 3.0
    publish: float = PUBLISH_S
    settle: float = 60.0
    random: Callable[[], float] = random.random

    def pause(self, failures: int) -> float:
        """Return the seconds before the next try to connect: half of them fixed, half random."""
        return backoff(failures + 1, self.first_pause, self.longest_pause, self.random())
