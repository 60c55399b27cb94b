"""Commands in memory: in order, once, and again where they have to wait."""

from __future__ import annotations

import asyncio

import pytest
from coding_agent_core.commands import IssueCommand
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.queues import memory_commands
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.queues.protocol import Kept

from tests.unit.core_commands.test_commands import command


def numbered(number: int) -> IssueCommand:
    return command().model_copy(update={"comment": str(number)})


async def test_they_come_in_order_and_once_and_wait_for_the_one_before() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    queue, stop, seen = MemoryQueue(sleep=sleep), asyncio.Event(), list[str]()
    told = [await queue.command(numbered(number)) for number in (1, 2, 1)]
    assert told == [Kept("memory"), Kept("memory"), Kept("memory", duplicate=True)]
    async with asyncio.timeout(5):
        async for lease in queue.commands(stop):
            seen.append(lease.command.comment)
            if len(seen) == 1:
                await lease.later()
            else:
                await lease.done()
            if len(seen) == 3:
                stop.set()
    assert seen == ["1", "1", "2"]
    assert len(pauses) == 1


async def test_one_that_comes_later_wakes_who_waits() -> None:
    queue, stop = MemoryQueue(), asyncio.Event()

    async def take() -> str:
        async for lease in queue.commands(stop):
            await lease.done()
            return lease.command.comment
        return ""

    taking = asyncio.create_task(take())
    await asyncio.sleep(0)
    await queue.command(numbered(7))
    async with asyncio.timeout(5):
        assert await taking == "7"


async def test_memory_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_commands, "LIMIT", 2)
    queue = MemoryQueue()
    await queue.command(numbered(1))
    await queue.command(numbered(2))
    with pytest.raises(QueueUnavailableError):
        await queue.command(numbered(3))
