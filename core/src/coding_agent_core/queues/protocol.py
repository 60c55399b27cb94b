"""What a queue can do. The receiver and the poller hold a `TaskSink`, the consumer a `TaskSource`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from coding_agent_core.commands import CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.messages import QueuedTask
from coding_agent_core.tasks import TaskRequest, Withdrawal


@dataclass(frozen=True)
class Submission:
    """What became of a request.

    Attributes:
        task: name of the task that answers for the label application.
        duplicate: why no new task was made; `None` when one was.
    """

    task: str
    duplicate: str | None = None


class TaskSink(Protocol):
    """Takes label applications and commands. Returning means: as safe as this queue can make it."""

    async def submit(self, request: TaskRequest) -> Submission:
        """Admit and store a task.

        Raises:
            QueueUnavailableError: nothing was stored; the sender is to try again.
        """
        ...

    async def withdraw(self, withdrawal: Withdrawal) -> str | None:
        """Cancel the item's task if admission says so; its name, or `None` when nothing was cancelled.

        Raises:
            QueueUnavailableError: nothing was done.
        """
        ...

    async def command(self, command: IssueCommand) -> CommandStored | CommandIgnored:
        """Store a command, as safely as a task; nobody has checked yet whether its author may give it.

        Raises:
            QueueUnavailableError: it is not stored; the sender is to try again.
        """
        ...

    async def connected(self) -> bool:
        """Whether a task submitted now would be taken; answers within 2 seconds, never raises."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class Claim(Protocol):
    """A task in hand: nobody else gets it until it is settled by `done`, `retry` or `dead_letter`.

    When this process dies unsettled, a durable queue hands the task out again.
    """

    @property
    def task(self) -> QueuedTask:
        """The task."""
        ...

    @property
    def redelivered(self) -> bool:
        """It was handed out before and not settled: someone may have begun it."""
        ...

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the task is to stop because it was withdrawn (where the queue learns of that)."""
        ...

    @property
    def why_cancelled(self) -> str:
        """One plain sentence, once `cancelled` is set."""
        ...

    @property
    def lost(self) -> asyncio.Event:
        """Set when the queue gave the item to another consumer: stop, and report nothing."""
        ...

    def item_lock(self) -> AbstractAsyncContextManager[bool]:
        """Hold the item's lock among all consumers while the context lasts; `False` if another holds it."""
        ...

    def ending(self) -> None:
        """The end is about to be shown on the item: a label applied from now on asks for the next run.

        To be called before the labels of the end are written, or an application that comes between them and
        `done` would be taken for one of the task that is just over.
        """
        ...

    async def done(self) -> None:
        """The task ended, well or badly; forget it."""
        ...

    async def retry(self, delay: float) -> None:
        """Hand the task out again as its next attempt, not before `delay` seconds have passed."""
        ...

    async def dead_letter(self, reason: str) -> None:
        """Give up on the task, and keep it where a person can find it if the queue has such a place."""
        ...


class TaskSource(Protocol):
    """Hands tasks out."""

    def claims(self, stop: asyncio.Event) -> AsyncIterator[Claim]:
        """One claim at a time, as tasks come, until `stop` is set; reconnects by itself.

        Several iterators may run side by side (`consumer.concurrency`). With `drain` the source also ends
        when nothing is queued or in hand any more.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class CommandSource(Protocol):
    """Hands commands out, where there is no reporter."""

    def commands(self, stop: asyncio.Event) -> AsyncIterator[IssueCommand]:
        """One at a time, in order of arrival, until `stop` is set; reconnects by itself.

        Asking for the next one means that the last one was executed.
        """
        ...
