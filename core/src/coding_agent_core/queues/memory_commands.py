"""Commands in this process's memory, until the consumer beside it carries them out."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable

from coding_agent_core.commands import IssueCommand
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.queues.protocol import CommandLease, Kept
from coding_agent_core.queues.waiting import first_of

LIMIT = 1000
"""Commands that wait; beyond it they are refused, for memory is finite."""
REMEMBERED = 10_000
"""Comments whose commands are known when they are told again."""
PAUSE = 10.0
"""Seconds until a command that could not be carried out is tried again."""
_PLACE = "memory"


class MemoryCommands:
    """The commands of one in-memory queue. For one event loop.

    Args:
        sleep: waits some seconds.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._waiting: deque[IssueCommand] = deque()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._arrived = asyncio.Event()

    def keep(self, command: IssueCommand) -> Kept:
        """Keep it, once.

        Raises:
            QueueUnavailableError: too many wait.
        """
        key = (command.item.host, command.comment)
        if key in self._known:
            return Kept(_PLACE, duplicate=True)
        if len(self._waiting) >= LIMIT:
            raise QueueUnavailableError(f"{LIMIT} commands wait already.")
        self._known[key] = None
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self._waiting.append(command)
        self._arrived.set()
        return Kept(_PLACE)

    async def leases(self, stop: asyncio.Event) -> AsyncIterator[CommandLease]:
        """One at a time, in order; see `CommandSource`."""
        while not stop.is_set():
            if not self._waiting:
                self._arrived.clear()
                await first_of(self._arrived.wait(), stop.wait())
                continue
            lease = MemoryCommandLease(self._waiting[0])
            yield lease
            if lease.settled:
                self._waiting.popleft()
            else:
                await first_of(_wait(self._sleep), stop.wait())


async def _wait(sleep: Callable[[float], Awaitable[None]]) -> None:
    await sleep(PAUSE)


class MemoryCommandLease:
    """See `CommandLease`. What is not settled is handed out again, before those that came after it."""

    def __init__(self, command: IssueCommand) -> None:
        self.command = command
        self.settled = False

    async def done(self) -> None:
        """Forget it."""
        self.settled = True

    async def later(self) -> None:
        """Keep it."""
