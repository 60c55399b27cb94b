"""What is done with a verified webhook: what it means, and whether the queue has stored it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from coding_agent_core.commands import CommandIgnored, IssueCommand
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.platforms import FACTS
from coding_agent_core.queues.protocol import TaskSink
from coding_agent_core.settings import Settings
from coding_agent_core.tasks import Item, TaskRequest, Withdrawal
from coding_agent_core.telemetry import safe

from coding_agent_receiver import events
from coding_agent_receiver.events import Accepted, Answer, Commanded, Delivery, Ignored, Meaning, Webhooks
from coding_agent_receiver.metrics import ReceiverMetrics
from coding_agent_receiver.request import FieldError

_logger = logging.getLogger("webhook.server")

STORE_TIMEOUT = 8.0
"""Seconds for the queue; GitHub treats an answer after 10 seconds as a failure."""
STORING_AT_ONCE = 32
"""Events at the queue: enough to keep it busy. More would only wait there, and time out after the work."""
IN_LINE = 512
"""Events that wait for their turn at the queue."""
LONGEST_WAIT = 0.8
"""Seconds of such a wait; one that has waited so long is answered 503 within a second."""


class OverloadedError(Exception):
    """More events arrive than the queue can store."""


class ConcurrencyLimit:
    """Lets a number of events be stored at once; the others wait in line, in their order."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(STORING_AT_ONCE)
        self._line: dict[object, float] = {}

    @property
    def overloaded(self) -> bool:
        """Whether an event that arrives now would wait too long, as far as the first in line shows."""
        since = next(iter(self._line.values()), None)
        if since is None:
            return False
        return len(self._line) >= IN_LINE or time.monotonic() - since > LONGEST_WAIT / 2

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the context is open.

        Raises:
            OverloadedError: it does not come in time.
        """
        if self._turns.locked():
            place = object()
            self._line[place] = time.monotonic()
            try:
                async with asyncio.timeout(LONGEST_WAIT):
                    await self._turns.acquire()
            except TimeoutError as error:
                raise OverloadedError from error
            finally:
                del self._line[place]
        else:
            await self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()


@dataclass
class Intake:
    """Turns verified webhooks into tasks, cancellations and commands.

    Nothing is answered 200 before the queue has stored it.
    """

    settings: Settings
    sink: TaskSink
    metrics: ReceiverMetrics
    clock: Callable[[], datetime]
    limit: ConcurrencyLimit = field(default_factory=ConcurrencyLimit)

    async def answer(self, webhooks: Webhooks, delivery: Delivery, payload: dict[str, Any]) -> Answer:
        """Act on one authentic webhook."""
        if not delivery.event:
            _logger.error("The request has no %s header", webhooks.module.EVENT_HEADER)
            return events.refused(400, f"the header {webhooks.module.EVENT_HEADER} is missing", "unreadable")
        try:
            meaning = webhooks.module.interpret(delivery, payload, self.settings, self.clock())
        except FieldError as error:
            _logger.error("Cannot use the payload: %s", error)  # noqa: TRY400
            return events.refused(422, str(error), "unreadable")
        if _logger.isEnabledFor(logging.DEBUG):
            action = safe(webhooks.module.action_of(payload), 60)
            event = safe(delivery.event, 60)
            _logger.debug("Received %s webhook: event=%s, action=%s", webhooks.title, event, action)
            _logger.debug("%s validation successful", webhooks.module.PROOF.capitalize())
        return await self._act(webhooks, meaning)

    async def _act(self, webhooks: Webhooks, meaning: Meaning) -> Answer:
        if isinstance(meaning, Ignored):
            _logger.warning("Ignored: %s", meaning.reason)
            return events.ignored(meaning.reason)
        try:
            async with self.limit.turn(), asyncio.timeout(STORE_TIMEOUT):
                if isinstance(meaning, Accepted):
                    return await self._submit(webhooks, meaning.request)
                if isinstance(meaning, Commanded):
                    return await self._command(meaning.command)
                return await self._withdraw(meaning.withdrawal)
        except OverloadedError:
            _logger.warning("Not stored: more events arrive than the queue can take")
            return events.overloaded()
        except (QueueUnavailableError, TimeoutError) as error:
            self.metrics.queue_failed(webhooks.platform)
            problem = str(error) or "the queue did not answer in time"
            what = "Command not stored" if isinstance(meaning, Commanded) else "Task not queued"
            _logger.error("%s: %s", what, problem)  # noqa: TRY400 - the sentence says it all
            return events.unavailable("the task queue is not reachable; send the event again later")

    async def _submit(self, webhooks: Webhooks, request: TaskRequest) -> Answer:
        _logger.debug("Label matched: %s", self.settings.labels(webhooks.platform).bot_label)
        submission = await self.sink.submit(request)
        if submission.duplicate is not None:
            _logger.info("Duplicate of task %s: %s", submission.task, submission.duplicate)
            return events.duplicate(submission.task)
        _logger.info("Task queued successfully: %s: %s", submission.task, task_text(request.item))
        return events.success(submission.task)

    async def _withdraw(self, withdrawal: Withdrawal) -> Answer:
        task = await self.sink.withdraw(withdrawal)
        if task is None:
            _logger.warning("Ignored: %s; it has no task to cancel", withdrawal.reason)
            return events.ignored(f"{withdrawal.reason}; it has no task to cancel")
        _logger.info("Cancelling task %s: %s", task, withdrawal.reason)
        return events.cancelled(task)

    async def _command(self, command: IssueCommand) -> Answer:
        what = f"/{command.name} by {command.user} on {command.item.display}"
        stored = await self.sink.command(command)
        if isinstance(stored, CommandIgnored):
            _logger.warning("Ignored: %s: %s", what, stored.why)
            return events.ignored(stored.why)
        _logger.info("Command stored: %s, on %s", what, stored.place)
        return events.command_stored(command.name, stored.place)


def task_text(item: Item) -> str:
    """`TaskGitHubIssue(owner=notfolder, repo=coding_agent, issue=123)`: log analysis depends on the form."""
    fields = item.key
    key_type = str(fields.pop("type"))
    if "number" in fields:
        fields[key_type.partition("_")[2]] = fields.pop("number")
    inside = ", ".join(f"{name}={value}" for name, value in fields.items())
    return f"{FACTS[item.platform].keys[item.kind].task_class}({inside})"
