"""Notices in memory: in order; commands, one of each name for each author and item."""

import asyncio

from coding_agent_core.admission import Cancel
from coding_agent_core.issue_commands import (
    LIMIT_PER_NAME,
    CommandIgnored,
    CommandName,
    CommandStored,
    IssueCommand,
)
from coding_agent_core.queue_messages import QueuedTask
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.tasks import TaskRequest, Withdrawal

from tests.fixtures.deliveries import asked, issue
from tests.unit.core_commands.test_commands import command


def request(number: int = 7) -> TaskRequest:
    return asked(issue(number))


def by(user: str, name: CommandName = CommandName.RUN, comment: int = 1) -> IssueCommand:
    return command(name).model_copy(update={"user": user, "comment": str(comment)})


async def test_a_task_that_is_cancelled_while_its_retry_is_reported_is_withdrawn_after_it() -> None:
    """The worker shows on the item that the task will be tried again, and nobody else would correct it."""
    queue, stop = MemoryQueue(), asyncio.Event()
    notices, claims = queue.notices("github.com", stop), queue.claims(stop)
    await queue.submit(request())
    assert isinstance(await anext(notices), QueuedTask)
    claim = await anext(claims)
    await claim.retry(0, 2)
    withdrawal = Withdrawal(
        item=request().item, reason="the issue lost its label", message="It went.", confirmed=True
    )
    assert await queue.withdraw(withdrawal) == Cancel(claim.task.name)
    async with queue.item_lock(request().item) as is_free:
        assert not is_free, "the worker still reports"
    await claims.aclose()
    notice = await asyncio.wait_for(anext(notices), 60)
    assert isinstance(notice, Withdrawal)
    assert notice.message == "It went."
    async with queue.item_lock(request().item) as is_free:
        assert is_free
    latest = queue.latest(request().item)
    assert latest is not None
    assert latest.terminal


async def test_many_by_one_author_are_one_and_many_authors_are_bounded() -> None:
    queue, stop = MemoryQueue(), asyncio.Event()
    for number in range(90):
        assert await queue.command(by("stranger", comment=number)) == CommandStored("memory")
    for number in range(90):
        answer = await queue.command(by(f"stranger-{number}"))
    assert isinstance(answer, CommandIgnored)
    assert await queue.command(by("alice", CommandName.CANCEL)) == CommandStored("memory")
    count = 0
    async for entry in queue.notices("github.com", stop):
        count += 1
        if isinstance(entry, IssueCommand) and entry.user == "alice":
            break
    assert count == LIMIT_PER_NAME + 1


async def test_tasks_and_their_withdrawal_are_notices_and_the_items_lock_keeps_workers_away() -> None:
    queue, stop = MemoryQueue(), asyncio.Event()
    notices, claims = queue.notices("github.com", stop), queue.claims(stop)
    asked = request()
    task = await queue.submit(asked)
    shown = await anext(notices)
    assert isinstance(shown, QueuedTask)
    assert shown.name == task.task

    claiming = asyncio.ensure_future(anext(claims))
    async with queue.item_lock(asked.item) as is_free:
        assert is_free
        async with queue.item_lock(asked.item) as second:
            assert not second
        assert not claiming.done()
    claim = await asyncio.wait_for(claiming, 60)
    async with queue.item_lock(asked.item) as is_free:
        assert not is_free, "a worker has it"
    await claim.done()

    await queue.submit(request(number=8))
    assert isinstance(await anext(notices), QueuedTask)
    withdrawal = Withdrawal(item=request(number=8).item, reason="the issue lost its label", confirmed=True)
    assert isinstance(await queue.withdraw(withdrawal), Cancel)
    assert await anext(notices) == withdrawal
    stop.set()
