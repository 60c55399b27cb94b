"""One consumer works on an item at a time, among all consumers of the broker (decision record 0005)."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from coding_agent_core.queues.interfaces import LookRequest, Notice
from coding_agent_core.queues.rabbitmq import RabbitMQNotices, RabbitMQSink, RabbitMQSource
from coding_agent_core.queues.rabbitmq.connection import Channel, Connection, UnackedDelivery
from coding_agent_core.settings.model import RabbitMQ
from coding_agent_core.task.commands import IssueCommand
from coding_agent_core.task.model import CommandName, Withdrawal
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_testbed.until import until_async

from tests.fixtures.rabbitmq import Broker
from tests.integration.core_queues.steps import DEADLINE, PATIENT, Queue, Relay, claims, request
from tests.unit.core_task.test_commands import command

NewSource = Callable[..., RabbitMQSource]


def noticed_the_loss(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether a consumer knows that its connection is gone. Until then it takes its lock for held."""
    return "connecting again" in caplog.text


async def test_two_tasks_of_one_item_exclude_each_other_and_the_second_loses_no_attempt(
    sink: RabbitMQSink, new_source: NewSource
) -> None:
    for _ in range(2):  # on RabbitMQ, a delivery that comes twice is two messages
        await sink.submit(request(1))
    async with claims(new_source()) as take_too:
        async with claims(new_source()) as take:
            first, second = await asyncio.gather(take(), take_too())
            assert first.task.uuid != second.task.uuid
            async with first.item_lock() as held, second.item_lock() as held_too:
                assert (held, held_too) == (True, False)
                await second.retry(2, second.task.attempt)
            await first.done()
        again = await take_too()
        assert (again.task.uuid, again.task.attempt) == (second.task.uuid, 1)
        async with again.item_lock() as held:
            assert held
        await again.done()


async def test_the_lock_is_taken_again_after_a_reconnection(
    sink: RabbitMQSink,
    new_source: NewSource,
    rabbitmq: Broker,
    queue: Queue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        await sink.submit(request(1))
    async with Relay(rabbitmq) as relay, claims(new_source(port=relay.port)) as take:
        first = await take()
        async with first.item_lock() as held:
            assert held
            relay.cut()
            await until_async(
                "the loss is noticed, and the lock gone",
                lambda: noticed_the_loss(caplog) and not queue.is_locked(first.task.request.item),
            )
            asked = asyncio.create_task(first.holds_item())
            relay.restore()
            assert await asked
            assert queue.is_locked(first.task.request.item)
            async with claims(new_source()) as take_too:
                second = await take_too()
                async with second.item_lock() as held_too:
                    assert not held_too
            assert not first.lost.is_set()


async def test_an_item_that_is_unlocked_during_a_reconnection_stays_unlocked(
    sink: RabbitMQSink, new_source: NewSource, rabbitmq: Broker, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sink.submit(request(1))
    relocking, unlocked, locked_again = (threading.Event() for _ in range(3))
    lock = Connection.lock

    async def lock_later(connection: Connection, name: str, patience: float) -> bool:
        relocking.set()
        await asyncio.to_thread(unlocked.wait, 60)
        held = await lock(connection, name, patience)
        locked_again.set()
        return held

    async with Relay(rabbitmq) as relay, claims(new_source(port=relay.port)) as take:
        claim = await take()
        async with claim.item_lock() as held:
            assert held
            monkeypatch.setattr(Connection, "lock", lock_later)
            relay.cut()
            relay.restore()
            assert await asyncio.to_thread(relocking.wait, 60)
        unlocked.set()
        assert await asyncio.to_thread(locked_again.wait, 60)
        await until_async("the lock is gone", lambda: not queue.is_locked(claim.task.request.item))
        await claim.done()


async def test_who_finds_the_item_taken_after_a_reconnection_has_lost_it(
    sink: RabbitMQSink,
    new_source: NewSource,
    rabbitmq: Broker,
    queue: Queue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await sink.submit(request(1))
    async with Relay(rabbitmq) as relay, claims(new_source(port=relay.port)) as take:
        first = await take()
        async with first.item_lock() as held:
            assert held
            relay.cut()
            async with claims(new_source(timing=PATIENT)) as take_too:
                second = await take_too()
                assert (second.task.uuid, second.redelivered) == (first.task.uuid, True)
                async with second.item_lock() as held_too:
                    assert held_too
                    await until_async("the loss is noticed", lambda: noticed_the_loss(caplog))
                    asked = asyncio.create_task(first.holds_item())
                    relay.restore()
                    async with asyncio.timeout(60):
                        await first.lost.wait()
                    assert not await asked
                    await first.retry(1, 2)  # settles nothing: the task is the other's
                    await second.done()
    assert queue.ready() == 0
    assert not queue.exists(".retry.1")


async def test_a_redelivered_task_that_must_wait_for_its_item_is_still_known_as_redelivered(
    sink: RabbitMQSink, new_source: NewSource
) -> None:
    await sink.submit(request(1))
    waiting, holding = new_source(), new_source()
    async with claims(waiting) as take:
        begun = await take()
    await sink.submit(request(1))
    async with claims(waiting) as take, claims(holding) as take_too:
        first, second = await asyncio.gather(take(), take_too())
        redelivered, other = (first, second) if first.redelivered else (second, first)
        assert redelivered.task.uuid == begun.task.uuid
        async with other.item_lock() as held:
            assert held
            async with redelivered.item_lock() as held_too:
                assert not held_too
                await redelivered.retry(1, redelivered.task.attempt)
            again = await (take() if redelivered is first else take_too())
            assert (again.task.uuid, again.task.attempt, again.redelivered) == (begun.task.uuid, 1, True)


HERE, THERE = "github.com", "github.example.com"


def cancel(host: str, number: int = 1) -> IssueCommand:
    item = request(number).item.model_copy(update={"host": host})
    return command(CommandName.CANCEL).model_copy(update={"item": item})


async def take(notices: AsyncIterator[Notice]) -> Notice:
    async with asyncio.timeout(DEADLINE):
        return await anext(notices)


async def test_the_notices_of_a_forge_do_not_wait_for_those_of_another(
    sink: RabbitMQSink, settings: RabbitMQ
) -> None:
    source, stop = RabbitMQNotices(settings), asyncio.Event()
    here, there = source.notices(HERE, stop), source.notices(THERE, stop)
    try:
        for number in (1, 2, 3):
            await sink.command(cancel(HERE, number))
        await sink.command(cancel(THERE))
        assert await take(here) == cancel(HERE, 1), "it stays in hand: its forge is down"
        assert await take(there) == cancel(THERE)
        async with source.item_lock(cancel(THERE).item) as held:
            assert held
        assert await take(here) == cancel(HERE, 2)
    finally:
        await here.aclose()
        await there.aclose()


async def test_one_consumer_looks_at_the_changes_of_a_forge_and_another_follows(
    sink: RabbitMQSink, settings: RabbitMQ
) -> None:
    first, second, stop = RabbitMQNotices(settings), RabbitMQNotices(settings), asyncio.Event()
    its, others = first.notices(HERE, stop), second.notices(HERE, stop)
    item = request(1).item
    try:
        for notices in (its, others):
            await sink.look([item])
            assert await take(notices) == LookRequest(item=item)
        assert [await one.looks(HERE) for one in (first, second, first)] == [True, False, True]
        async with first.item_lock(item) as held, first.item_lock(item) as held_too:
            assert (held, held_too) == (True, False), "the broker alone would give it twice"
        await its.aclose()
        assert not await first.looks(HERE)
        await until_async("the other one looks", lambda: second.looks(HERE))
    finally:
        await its.aclose()
        await others.aclose()


async def test_commands_and_withdrawals_come_before_signs(
    sink: RabbitMQSink, settings: RabbitMQ, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coding_agent_core.queues.rabbitmq.publisher._PROBE_SECONDS", DEADLINE)
    for number in (1, 2):
        await sink.submit(request(number))
    await until_async(
        "two signs", lambda: queue.exists(f".signs.{HERE}") and queue.ready(f".signs.{HERE}") == 2
    )
    await sink.withdraw(Withdrawal(item=request(1).item, reason="the issue lost its label"))
    await sink.command(cancel(HERE))
    consume = Channel.consume

    async def consume_one(
        channel: Channel, name: str, on_delivery: Callable[[UnackedDelivery], None]
    ) -> None:
        """Wait for a notice: the broker decides how soon it comes, and one is chosen when both are there."""
        delivered = asyncio.Event()

        def deliver(delivery: UnackedDelivery) -> None:
            on_delivery(delivery)
            delivered.set()

        await consume(channel, name, deliver)
        await delivered.wait()

    monkeypatch.setattr(Channel, "consume", consume_one)
    source, stop = RabbitMQNotices(settings), asyncio.Event()
    notices = source.notices(HERE, stop)
    try:
        kinds = [type(await take(notices)) for _ in range(4)]
        assert kinds[0] is Withdrawal
        assert Counter(kinds) == {Withdrawal: 1, IssueCommand: 1, QueuedTask: 2}
    finally:
        await notices.aclose()
