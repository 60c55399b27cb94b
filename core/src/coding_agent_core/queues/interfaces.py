"""The messages that programs send each other through a queue, and what every queue can do. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol, runtime_checkable

from coding_agent_core.task.admission import Cancel, Keep
from coding_agent_core.task.commands import CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.task.model import Frozen, Item, Submission, TaskRequest, Withdrawal, WithdrawalCause
from coding_agent_core.task.queued_task import QueuedTask


class LookRequest(Frozen):
    """Something happened to a change that may be ours, so somebody has to look (docs/decisions/0029).

    Attributes:
        item: the change, or the issue that its branch answers.
        author: the login of who wrote the comment or review; empty if something else happened.
    """

    item: Item
    author: str = ""


Notice = QueuedTask | Withdrawal | IssueCommand | LookRequest
"""Tells a consumer that a task was queued or withdrawn, that somebody wrote a command, or that something
happened to a change."""


def item_of_notice(notice: Notice) -> Item:
    return notice.request.item if isinstance(notice, QueuedTask) else notice.item


class TaskSink(Protocol):
    """Takes label applications and commands.

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
        """Whether a task submitted now would be accepted. Answers within 2 seconds and never raises."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class LookSink(Protocol):
    """Remembers that a change has to be looked at."""

    async def look(self, items: Sequence[Item], author: str = "") -> str | None:
        """Ask for a look at a change, or at the open changes of our account.

        Args:
            items: the change if it is known, and the issue that its branch answers. An AgentTask of one of
                them keeps the request.
            author: as in `LookRequest`.

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
    def cancelled(self) -> asyncio.Event:
        """Set when the task must stop because it was withdrawn (if the queue learns of this)."""
        ...

    @property
    def why_cancelled(self) -> str:
        """The reason as one plain sentence, once `cancelled` is set."""
        ...

    @property
    def cancel_cause(self) -> WithdrawalCause | None:
        """What a person did, once `cancelled` is set."""
        ...

    @property
    def withdrawn_before(self) -> datetime | None:
        """The same as in `LatestTask`, once `cancelled` is set."""
        ...

    @property
    def lost(self) -> asyncio.Event:
        """Set when another consumer holds the item. Then the attempt must stop and report nothing."""
        ...

    @property
    def exclusive(self) -> bool:
        """Whether nobody else can get the task while the claim lasts.

        A broker gives the task of a consumer that it cannot reach to another one, and the first consumer
        learns of this late.
        """
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

    def ending(self) -> None:
        """Note that the end is about to be reported: a label applied from now on starts the next run.

        Call this before you write the final labels. Otherwise a label applied between these and `done` would
        count as a duplicate of this task.
        """
        ...

    def labeled(self, at: datetime) -> None:
        """Note when the label that the attempt works for was applied, by the forge's clock.

        An earlier removal of the label does not cancel the attempt, whenever the removal becomes known.
        """
        ...

    def answered(self, until: datetime | None) -> None:
        """Note that the task answers only applications of the label up to this time, by the forge's clock.

        Call this before `done`, `retry` or `dead_letter`.
        """
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
        """Yield one claim at a time, as tasks arrive, until `stop` is set; reconnect when necessary.

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
    """Delivers notices in installations without a reporter, and says what its queue knows of the tasks.

    A broker knows messages and not tasks, so there the item's labels and our comment show the tasks.
    """

    @property
    def tasks(self) -> TaskSink | None:
        """Carries out what commands ask for; `None` if a command changes the item's labels instead."""
        ...

    def waits(self, task: QueuedTask) -> bool:
        """Return `False` if the queue knows that the task has ended, was cancelled, or is not the newest."""
        ...

    def is_wanted(self, item: Item) -> bool | None:
        """Whether the item has a task that is not cancelled; `None` if only its labels show this."""
        ...

    def latest_task(self, item: Item) -> QueuedTask | None:
        """Return the item's newest task, even if it has ended; `None` if the queue knows none."""
        ...

    def is_cancelled(self, item: Item) -> bool:
        """Whether the queue knows that the item's newest task was cancelled."""
        ...

    async def looks(self, host: str) -> bool:
        """Whether this process looks at our open changes on a forge regularly.

        One of the processes that share a queue does. Another one follows when that process has ended.
        """
        ...

    def notices(self, host: str, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        """Yield the notices about one forge's items, one at a time, until `stop` is set; reconnect if needed.

        Signs that a task waits (`QueuedTask`) come after all other notices; otherwise the order is that of
        arrival. A caller that asks for the next notice has handled the last one; a caller that closes the
        iterator has not. Each forge has one iterator, and all of them run at the same time.
        """
        ...

    def item_lock(self, item: Item) -> AbstractAsyncContextManager[bool]:
        """Hold the item's lock during the context; the value is `False` if a claim of the item holds it.

        Raises:
            QueueUnavailableError: the queue cannot be asked for the lock now.
        """
        ...
