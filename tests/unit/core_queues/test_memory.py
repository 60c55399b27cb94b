"""The in-memory queue: one task for each application of the label, one run of an item at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.queues.interfaces import Claim
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.task.admission import Cancel, Keep
from coding_agent_core.task.commands import LIMIT_PER_NAME, CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.task.model import (
    CommandName,
    Item,
    Origin,
    TaskRequest,
    Trigger,
    Withdrawal,
    WithdrawalCause,
)
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.round_report import trigger_of

from tests.fixtures.deliveries import asked, issue
from tests.unit.core_task.test_commands import command
from tests.unit.core_task.test_stored_rounds import CHECKS

START = datetime(2026, 11, 25, 12, tzinfo=UTC)


class Time:
    """A clock that a test moves, and a sleep that ends when it passes."""

    def __init__(self) -> None:
        self.now = START
        self._sleeping: list[tuple[datetime, asyncio.Event]] = []

    def clock(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        over = asyncio.Event()
        self._sleeping.append((self.now + timedelta(seconds=seconds), over))
        await over.wait()

    async def pass_by(self, **units: float) -> None:
        await asyncio.sleep(0)  # who was told to sleep has begun to
        self.now += timedelta(**units)
        for until, over in self._sleeping:
            if until <= self.now:
                over.set()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def queue(time: Time) -> AsyncIterator[MemoryQueue]:
    queue = MemoryQueue(clock=time.clock, sleep=time.sleep)
    yield queue
    await queue.aclose()


def item(number: int = 1) -> Item:
    return issue(number, "o/demo")


def labeled(
    number: int = 1, *, at: int | None = None, delivery: str | None = None, origin: Origin = Origin.WEBHOOK
) -> TaskRequest:
    when = None if at is None else START + timedelta(minutes=at)
    return asked(item(number), origin, when, delivery_id=delivery, received_at=START)


def unlabeled(number: int = 1, *, at: int | None = None) -> Withdrawal:
    when = None if at is None else START + timedelta(minutes=at)
    return Withdrawal(item=item(number), reason="the label was removed", at=when)


def cancelled(task: str, minutes: int) -> Cancel:
    return Cancel(task, START + timedelta(minutes=minutes))


def of_round() -> TaskRequest:
    """A round, as a look submits it."""
    word, found = trigger_of(CHECKS, START)
    trigger = Trigger(origin=Origin.POLL, cause=word, received_at=START, round=found)
    return TaskRequest(item=item(), trigger=trigger)


Take = Callable[[], Awaitable[Claim]]


@asynccontextmanager
async def consumer(queue: MemoryQueue) -> AsyncIterator[Take]:
    asking: set[asyncio.Task[object] | None] = set()
    async with aclosing(queue.claims(asyncio.Event())) as iterator:

        async def take() -> Claim:
            asking.add(asyncio.current_task())
            try:
                async with asyncio.timeout(60):
                    return await anext(iterator)
            finally:
                asking.discard(asyncio.current_task())

        yield take
        for task in filter(None, list(asking)):
            task.cancel()
            await asyncio.wait([task])


async def nothing_comes(waiting: asyncio.Future[Claim]) -> bool:
    """Whether a consumer that asked still waits after everything that could happen has happened."""
    for _ in range(20):
        await asyncio.sleep(0)
    return not waiting.done()


async def test_tasks_come_in_order_and_once(queue: MemoryQueue) -> None:
    submitted = [(await queue.submit(labeled(number))).task for number in (1, 2, 3)]
    taken = []
    async with consumer(queue) as take:
        for _ in submitted:
            claim = await take()
            assert not claim.redelivered
            async with claim.item_lock() as held:
                assert held
            taken.append(claim.task.name)
            await claim.done()
        assert await nothing_comes(asyncio.ensure_future(take()))
    assert taken == submitted


async def test_a_label_applied_after_the_end_is_the_next_run(queue: MemoryQueue, time: Time) -> None:
    first = await queue.submit(labeled(at=0, delivery="d1"))
    async with consumer(queue) as take:
        await (await take()).done()
        await time.pass_by(days=3)
        assert (await queue.submit(labeled(at=0, delivery="d1"))).duplicate, "GitHub redelivers for 3 days"
        second = await queue.submit(labeled(at=4000, delivery="d2"))
        assert second.task == f"{first.task}-r2"
        assert (await take()).task.run == 2


async def test_a_waiting_task_that_is_withdrawn_is_never_handed_out(queue: MemoryQueue) -> None:
    submitted = await queue.submit(labeled(1, at=0))
    await queue.submit(labeled(2, at=0))
    assert await queue.withdraw(unlabeled(1, at=1)) == cancelled(submitted.task, 1)
    async with consumer(queue) as take:
        assert (await take()).task.request.item == item(2)


async def test_a_running_task_that_is_withdrawn_is_told_and_the_next_run_waits_for_its_end(
    queue: MemoryQueue,
) -> None:
    await queue.submit(labeled(at=0))
    async with consumer(queue) as take, consumer(queue) as take_too:
        first = await take()
        assert await queue.withdraw(unlabeled(at=1)) == cancelled(first.task.name, 1)
        assert first.cancelled.is_set()
        assert first.withdrawn_before == START + timedelta(minutes=1)
        assert first.cancel_cause is WithdrawalCause.UNLABELED
        assert isinstance(await queue.withdraw(unlabeled(at=2)), Keep), "it is already being cancelled"
        assert (await queue.submit(labeled(at=1))).duplicate, "it was taken off again at 2"
        second = await queue.submit(labeled(at=3))
        assert second.duplicate is None
        waiting = asyncio.ensure_future(take_too())
        assert await nothing_comes(waiting)
        await first.done()
        assert (await waiting).task.name == second.task


async def test_a_task_whose_label_was_put_on_again_before_it_was_shown_is_not_cancelled(
    queue: MemoryQueue,
) -> None:
    """The attempt has taken that label off, and only this run can answer for it."""
    await queue.submit(labeled(at=0))
    async with consumer(queue) as take:
        first = await take()
        assert await queue.withdraw(unlabeled(at=1)) == cancelled(first.task.name, 1)
        first.labeled(START + timedelta(minutes=1))
        assert not first.cancelled.is_set()
        assert (await queue.submit(labeled(at=1))).duplicate, "the webhook of that label is late"
        assert await queue.withdraw(unlabeled(at=3)) == cancelled(first.task.name, 3)
        first.labeled(START + timedelta(minutes=2))
        assert first.cancelled.is_set(), "that label is older than the removal"


async def test_a_round_waits_for_no_task_and_a_label_during_it_has_its_own_run(
    queue: MemoryQueue,
) -> None:
    await queue.submit(labeled(at=0, delivery="d1"))
    assert (await queue.submit(of_round())).duplicate, "the next look decides again"
    async with consumer(queue) as take, consumer(queue) as take_too:
        first = await take()
        first.labeled(START)
        await first.done()
        assert (await queue.submit(of_round())).duplicate is None
        assert (await queue.submit(of_round())).duplicate, "it waits"
        claim = await take()
        assert claim.task.request.trigger.round is not None
        assert (await queue.submit(labeled(at=0, delivery="d1"))).duplicate, "of the first task"
        assert (await queue.submit(labeled(at=0, origin=Origin.POLL))).duplicate, "of the first task"
        second = await queue.submit(labeled(at=1))
        assert second.duplicate is None
        waiting = asyncio.ensure_future(take_too())
        assert await nothing_comes(waiting)
        await claim.done()
        assert (await waiting).task.name == second.task


async def test_a_removal_before_the_label_that_an_attempt_works_for_cancels_nothing(
    queue: MemoryQueue,
) -> None:
    await queue.submit(labeled(at=0))
    async with consumer(queue) as take:
        first = await take()
        first.labeled(START + timedelta(minutes=2))
        assert isinstance(await queue.withdraw(unlabeled(at=1)), Keep)
        assert not first.cancelled.is_set()


async def test_a_label_and_its_removal_in_one_second_are_left_to_somebody_who_can_read_the_item(
    queue: MemoryQueue,
) -> None:
    await queue.submit(labeled(at=0))
    removal = unlabeled(at=0)
    answer = await queue.withdraw(removal)
    assert isinstance(answer, Keep)
    assert "within the same second" in answer.why
    notices = queue.notices("github.com", asyncio.Event())
    assert await anext(notices) == removal, "the consumer reads the item"
    async with consumer(queue) as take:
        claim = await take()
        assert not claim.cancelled.is_set()
        await queue.withdraw(removal.model_copy(update={"confirmed": True}))
        assert claim.cancelled.is_set()
        await claim.done()
        assert not (await queue.submit(labeled(at=0))).duplicate, "it may have been applied again"


async def test_a_retry_is_the_next_attempt_and_comes_after_its_delay(queue: MemoryQueue, time: Time) -> None:
    await queue.submit(labeled())
    async with consumer(queue) as take:
        claim = await take()
        await claim.retry(30, 2)
        waiting = asyncio.ensure_future(take())
        await time.pass_by(seconds=29)
        assert await nothing_comes(waiting)
        assert (await queue.submit(labeled())).duplicate, "it is still the item's task"
        await time.pass_by(seconds=1)
        again = await waiting
        assert (again.task.uuid, again.task.attempt) == (claim.task.uuid, 2)


async def test_a_retry_waits_until_its_attempt_was_reported(queue: MemoryQueue, time: Time) -> None:
    await queue.submit(labeled())
    async with consumer(queue) as take_too:
        async with consumer(queue) as take:
            claim = await take()
            await claim.retry(0, claim.task.attempt + 1)
            waiting = asyncio.ensure_future(take_too())
            await time.pass_by(seconds=1)
            assert await nothing_comes(waiting), "the comment of the first attempt must not come last"
        assert (await waiting).task.attempt == 2


async def test_a_withdrawn_task_is_not_tried_again(queue: MemoryQueue, time: Time) -> None:
    await queue.submit(labeled(1, at=0))
    await queue.submit(labeled(2, at=0))
    async with consumer(queue) as take:
        running = await take()
        await queue.withdraw(unlabeled(1, at=1))
        await running.retry(1, 2)
        delayed = await take()
        await delayed.retry(1, 2)
        await queue.withdraw(unlabeled(2, at=1))
        waiting = asyncio.ensure_future(take())
        await time.pass_by(seconds=2)
        assert await nothing_comes(waiting)


async def test_an_unsettled_task_is_handed_to_another(queue: MemoryQueue) -> None:
    await queue.submit(labeled())
    async with consumer(queue) as take:
        claim = await take()
    assert claim.lost.is_set()
    async with consumer(queue) as take:
        again = await take()
        assert (again.task.uuid, again.redelivered) == (claim.task.uuid, True)
        await claim.done()  # comes too late to mean anything
        assert (await queue.submit(labeled())).duplicate


async def test_draining_ends_when_nothing_waits_or_is_in_hand(queue: MemoryQueue, time: Time) -> None:
    for number in (1, 2):
        await queue.submit(labeled(number))
    queue.drain()
    seen: list[tuple[int, int]] = []

    async def consume() -> None:
        async for claim in queue.claims(asyncio.Event()):
            seen.append((claim.task.request.item.number, claim.task.attempt))
            if claim.task.attempt == 1:
                await claim.retry(5, 2)
            else:
                await claim.done()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        consumers = [group.create_task(consume()) for _ in range(3)]
        while len(seen) < 2:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(entry.done() for entry in consumers), "retries still wait"
        await time.pass_by(seconds=5)
    assert sorted(seen) == [(1, 1), (1, 2), (2, 1), (2, 2)]


async def test_ended_tasks_are_forgotten_by_age_and_by_number(time: Time) -> None:
    queue = MemoryQueue(clock=time.clock, keep_ended=timedelta(days=7), ended_limit=2)
    queue.drain()

    async def run(number: int) -> None:
        await queue.submit(labeled(number, delivery=f"d{number}"))
        async for claim in queue.claims(asyncio.Event()):
            await claim.done()

    async def known(number: int) -> bool:
        found = (await queue.submit(labeled(number, delivery=f"d{number}"))).duplicate is not None
        async for claim in queue.claims(asyncio.Event()):
            await claim.done()
        return found

    await run(1)
    await time.pass_by(days=7, seconds=-1)
    assert await known(1)
    await time.pass_by(seconds=1)
    assert not await known(1)
    for number in (2, 3):
        await run(number)
    assert [await known(3), await known(1)] == [True, False]


async def test_memory_is_bounded(time: Time) -> None:
    queue = MemoryQueue(clock=time.clock, active_limit=2)
    for number in (1, 2):
        await queue.submit(labeled(number))
    assert not await queue.connected()
    with pytest.raises(QueueUnavailableError, match="full"):
        await queue.submit(labeled(3))
    assert (await queue.submit(labeled(2))).duplicate


async def test_a_closed_queue_takes_nothing_and_ends_its_consumers(queue: MemoryQueue) -> None:
    assert await queue.connected()
    waiting = asyncio.ensure_future(anext(queue.claims(asyncio.Event())))
    await asyncio.sleep(0)
    await queue.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert not await queue.connected()
    with pytest.raises(QueueUnavailableError):
        await queue.submit(labeled())


async def test_a_label_that_counted_for_a_task_which_had_not_seen_it_is_the_next_run(
    queue: MemoryQueue,
) -> None:
    """The consumer read the item, a person applied the label again, and then the task was dropped."""
    await queue.submit(labeled(at=0, delivery="d1"))
    async with consumer(queue) as take:
        claim = await take()
        assert (await queue.submit(labeled(at=2, delivery="d2"))).duplicate
        claim.answered(START + timedelta(minutes=1))
        assert (await queue.submit(labeled(at=2, delivery="d2"))).duplicate, "it has its run"
        await claim.done()
        second = await take()
        assert (second.task.run, second.task.request.trigger.delivery_id) == (2, "d2")
        second.answered(START + timedelta(minutes=2))
        await second.done()
        assert (await queue.submit(labeled(at=2, delivery="d3"))).duplicate
        assert not (await queue.submit(labeled(at=3, delivery="d4"))).duplicate


async def test_a_label_applied_while_the_end_is_shown_is_the_next_run(queue: MemoryQueue) -> None:
    await queue.submit(labeled(at=0))
    async with consumer(queue) as take, consumer(queue) as take_too:
        first = await take()
        assert (await queue.submit(labeled(at=1))).duplicate, "while it runs, the label belongs to it"
        first.ending()
        assert not (await queue.submit(labeled(at=2))).duplicate
        waiting = asyncio.ensure_future(take_too())
        assert await nothing_comes(waiting), "one run of an item at a time"
        await first.done()
        assert (await waiting).task.run == 2


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
