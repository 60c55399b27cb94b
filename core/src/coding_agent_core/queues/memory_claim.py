"""A task in hand, from the in-memory queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from coding_agent_core.messages import QueuedTask

if TYPE_CHECKING:
    from coding_agent_core.queues.memory import Entry, MemoryQueue

_logger = logging.getLogger("coding_agent.queue")


class MemoryClaim:
    """See `Claim`. Settling twice, or after the task was handed to another, does nothing."""

    def __init__(self, task: QueuedTask, redelivered: bool, queue: MemoryQueue, entry: Entry) -> None:
        self.task = task
        self.redelivered = redelivered
        self.cancelled = asyncio.Event()
        self.why_cancelled = ""
        self.lost = asyncio.Event()
        self.settled = asyncio.Event()
        self._queue = queue
        self._entry = entry

    @asynccontextmanager
    async def item_lock(self) -> AsyncIterator[bool]:
        """The queue hands out one task of an item at a time, so whoever holds the claim holds the item."""
        yield not self.lost.is_set()

    def cancel(self, why: str) -> None:
        """For the queue: the task is to stop."""
        self.why_cancelled = why
        self.cancelled.set()

    def ending(self) -> None:
        """From now on a label asks for the next run, which waits until this one is settled."""
        self._entry.ending = True

    async def done(self) -> None:
        """The task ended."""
        if self._open():
            self._queue.settle(self._entry)

    async def retry(self, delay: float) -> None:
        """Hand it out again as its next attempt; a task that was cancelled meanwhile ends instead."""
        if self._open():
            self._queue.again(self._entry, delay)

    async def dead_letter(self, reason: str) -> None:
        """Give up; memory has no place for such tasks but the log."""
        if self._open():
            _logger.error("Gave up on task %s, attempt %d: %s", self.task.name, self.task.attempt, reason)
            self._queue.settle(self._entry)

    def _open(self) -> bool:
        if self.settled.is_set() or self.lost.is_set():
            return False
        self.settled.set()
        return True
