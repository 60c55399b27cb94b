"""The interfaces that every queue implements, and the notices that programs send through it. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from coding_agent_core.task.admission import Cancel, Keep
from coding_agent_core.task.commands import CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.task.model import Frozen, Item, Submission, TaskRequest, Withdrawal
from coding_agent_core.task.queued_task import QueuedTask


class LookRequest(Frozen):
    """A request to scan a change, because something happened to it. The change may not be ours.

    Attributes:
        item: the change, or the issue that its branch answers.
        author: the login of the author of a comment or review; empty for any other event.
    """

    item: Item
    author: str = ""


Notice = QueuedTask | Withdrawal | IssueCommand | LookRequest
"""Tells a consumer that a task was queued or withdrawn, that somebody wrote a command, or that something
happened to a change."""


def item_of_notice(notice: Notice) -> Item:
    return notice.request.item if isinstance(notice, QueuedTask) else notice.item


class TaskSink(Protocol):
    """The interface that stores label applications, withdrawals and commands.

    When a method returns, the task or command is stored as safely as possible.
    """

    async def submit(self, request: TaskRequest) -> Submission:
        """Admit and store a task.

        Raises:
            QueueUnavailableError: nothing was stored; the sender should retry.
        """
        ...

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep:
        """Cancel the item's task if admission says so.

        With RabbitMQ, the consumer cancels the task, and the result names the item's first run.

        Raises:
            QueueUnavailableError: nothing was done.
        """
        ...

    async def command(self, command: IssueCommand) -> CommandStored | CommandIgnored:
        """Store a command as safely as a task. Whether its author may use it is checked later.

        Raises:
            QueueUnavailableError: the command was not stored; the sender should retry.
        """
        ...

    async def connected(self) -> bool:
        """Whether a task submitted now would be accepted. It takes at most 2 seconds and never raises."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class RescanSink(Protocol):
    """The interface that stores requests to scan a change."""

    async def look(self, items: Sequence[Item], author: str = "") -> str | None:
        """Request a scan of a change, or of all open changes of our account.

        Args:
            items: the change if it is known, and the issue that its branch answers. An AgentTask of one of
                them keeps the request.
            author: the login of the author of a comment or review; empty for any other event.

        Returns:
            The name of a task of the items; `None` if nothing can keep the request.

        Raises:
            QueueUnavailableError: nothing was stored; the sender should retry.
        """
        ...


class Claim(Protocol):
    """A queue message that a consumer holds: no other consumer gets the task until `done`, `retry` or
    `dead_letter` ends the claim. If this process dies before that, a durable queue delivers the task again.
    """

    @property
    def task(self) -> QueuedTask: ...

    @property
    def redelivered(self) -> bool:
        """Whether an earlier claim of the task was lost before it ended. Then the task may have started."""
        ...

    @property
    def lost(self) -> asyncio.Event:
        """Set when another consumer holds the item. Then the attempt must stop and report nothing."""
        ...

    async def holds_item(self) -> bool:
        """Wait, for a limited time, until the queue knows whether this consumer still has the item's lock.

        Returns:
            `False` if another consumer has the lock, or if the queue did not answer in time.
        """
        ...

    def item_lock(self) -> AbstractAsyncContextManager[bool]:
        """Hold the item's lock during the context; the value is `False` if another consumer holds it."""
        ...

    async def done(self) -> None: ...

    async def retry(self, delay: float, attempt: int) -> float | None:
        """Deliver the task again, not before `delay` seconds have passed.

        Args:
            attempt: the number of the attempt that the new message starts. It does not follow from the
                claimed message, because after a crash a message starts a later attempt than its own.

        Returns:
            The seconds after which the task is delivered, rounded up as the queue needs it. `None` if the
            queue could not take the new message and delivers the claimed one again.
        """
        ...

    async def dead_letter(self, reason: str) -> None:
        """Give up on the task; move it to the dead-letter queue if there is one."""
        ...


class TaskSource(Protocol):
    def claims(self, stop: asyncio.Event) -> AsyncGenerator[Claim, None]:
        """Yield claims one by one, as tasks arrive, until `stop` is set. A lost connection is opened again.

        Several iterators can run at the same time (`consumer.concurrency`).

        Example:
            async for claim in source.claims(stop):
                async with claim.item_lock() as held:
                    if held:
                        await work_on(claim.task)
                    await (claim.done() if held else claim.retry(60, claim.task.attempt))
        """
        ...

    async def aclose(self) -> None: ...


class NoticeSource(Protocol):
    """The interface that delivers notices, where there is no reporter.

    A broker knows messages and not tasks, so the item's labels and our comment show the tasks.
    """

    async def looks(self, host: str) -> bool:
        """Whether this process regularly scans our open changes on a forge.

        Of the processes that share a queue, only one scans. When it has ended, another process takes over.
        """
        ...

    def notices(self, host: str, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        """Yield the notices about one forge's items one by one, until `stop` is set.

        Notices that a task waits (`QueuedTask`) come after all others, because they only make it visible;
        otherwise the order is that of arrival. A notice counts as handled when the caller asks for the next
        one; if the caller closes the iterator, it does not. Each forge has one iterator, so that a forge that
        is unavailable does not delay the notices of others.
        """
        ...

    def item_lock(self, item: Item) -> AbstractAsyncContextManager[bool]:
        """Hold the item's lock during the context; the value is `False` if a claim of the item holds it.

        Raises:
            QueueUnavailableError: the queue cannot be asked for the lock now.
        """
        ...
