"""Commands in memory: in order, one of each name for each author and item."""

from __future__ import annotations

import asyncio

from coding_agent_core.commands import (
    LIMIT_PER_NAME,
    CommandIgnored,
    CommandName,
    CommandStored,
    IssueCommand,
)
from coding_agent_core.queues.memory import MemoryQueue

from tests.unit.core_commands.test_commands import command


def by(user: str, name: CommandName = CommandName.RUN, comment: int = 1) -> IssueCommand:
    return command(name).model_copy(update={"user": user, "comment": str(comment)})


async def test_they_come_in_order_and_wake_who_waits() -> None:
    queue, stop, seen = MemoryQueue(), asyncio.Event(), list[str]()

    async def take() -> None:
        async for entry in queue.commands(stop):
            seen.append(entry.user)
            if len(seen) == 2:
                stop.set()

    taking = asyncio.create_task(take())
    await asyncio.sleep(0)
    assert [await queue.command(by(user)) for user in ("alice", "bob")] == [CommandStored("memory")] * 2
    async with asyncio.timeout(5):
        await taking
    assert seen == ["alice", "bob"]


async def test_many_by_one_author_are_one_and_many_authors_are_bounded() -> None:
    queue, stop = MemoryQueue(), asyncio.Event()
    for number in range(90):
        assert await queue.command(by("stranger", comment=number)) == CommandStored("memory")
    for number in range(90):
        answer = await queue.command(by(f"stranger-{number}"))
    assert isinstance(answer, CommandIgnored)
    assert await queue.command(by("alice", CommandName.CANCEL)) == CommandStored("memory")
    count = 0
    async for entry in queue.commands(stop):
        count += 1
        if entry.user == "alice":
            break
    assert count == LIMIT_PER_NAME + 1
