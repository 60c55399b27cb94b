"""What a queue can do. The receiver and the poller hold a `TaskSink`, the consumer a `TaskSource` and a
`NoticeSource`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from coding_agent_core.commands import CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.messages import QueuedTask
from coding_agent_core.tasks import Item, Submission, TaskRequest, Withdrawal

Notice = QueuedTask | Withdrawal | IssueCommand
"""What a consumer handles in addition to tasks: one was queued or withdrawn, or a command was given."""


class TaskSink(Protocol):
    """Takes label applications and commands. Returning means: as safe as this queue can make it."""

    async def submit(self, request: TaskRequest) -> Submission:
        """Admit and store a task.

        Raises:
            QueueUnavailableError: nothing was stored; the sender should retry.
        """
        ...

    async def withdraw(self, withdrawal: Withdrawal) -> str | None:
        """Cancel the item's task if admission says so; its name, or `None` when nothing is cancelled.

        With RabbitMQ the consumer cancels it, and the name is that of the item's first run.

        Raises:
            QueueUnavailableError: nothing was done.
        """
        ...

    async def command(self, command: IssueCommand) -> CommandStored | CommandIgnored:
        """Store a command, as safely as a task; nobody has checked yet whether its author may give it.

        Raises:
            QueueUnavailableError: it is not stored; the sender should retry.
        """
        ...

    async def connected(self) -> bool:
        """Whether a task submitted now would be taken; answers within 2 seconds, never raises."""
        ...

    async def aclose(self) -> None: ...


class Claim(Protocol):
    """A consumer's claim of a task: no other consumer gets it until it is settled by `done`, `retry` or
    `dead_letter`. When this process dies before that, a durable queue delivers the task again.
    """

    @property
    def task(self) -> QueuedTask: ...

    @property
    def redelivered(self) -> bool:
        """It was claimed before and not settled: it may have started."""
        ...

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the task must stop because it was withdrawn (where the queue learns of that)."""
        ...

    @property
    def why_cancelled(self) -> str:
        """One plain sentence, once `cancelled` is set."""
        ...

    @property
    def lost(self) -> asyncio.Event:
        """Set when another consumer holds the item now: stop, and report nothing."""
        ...

    def item_lock(self) -> AbstractAsyncContextManager[bool]:
        """Hold the item's lock while the context lasts; `False` if another consumer holds it."""
        ...

    def ending(self) -> None:
        """The end is about to be reported on the item: a label applied from now on starts the next run.

        Call it before the final labels are written. Otherwise a label applied between them and `done` would
        count as a duplicate of this task.
        """
        ...

    async def done(self) -> None: ...

    async def retry(self, delay: float) -> None:
        """Deliver the task again as its next attempt, not before `delay` seconds have passed."""
        ...

    async def dead_letter(self, reason: str) -> None:
        """Give up on the task; move it to the dead-letter queue if there is one."""
        ...


class TaskSource(Protocol):
    def claims(self, stop: asyncio.Event) -> AsyncGenerator[Claim, None]:
        """One claim at a time, as tasks come, until `stop` is set; reconnects by itself.

        Several iterators can run side by side (`consumer.concurrency`).
        """
        ...

    async def aclose(self) -> None: ...


class NoticeSource(Protocol):
    """Delivers notices where there is no reporter."""

    def notices(self, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        """One at a time, in order of arrival, until `stop` is set; reconnects by itself.

        Asking for the next one means that the last one was handled; closing the iterator does not.
        """
        ...

    def item_lock(self, item: Item) -> AbstractAsyncContextManager[bool]:
        """Hold the item's lock while the context lasts; `False` if a claim of the item holds it.

        Raises:
            QueueUnavailableError: the lock cannot be asked for now.
        """
        ...
