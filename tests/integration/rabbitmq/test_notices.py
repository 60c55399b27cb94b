"""Notices over a broker: each forge has its own, commands come first, and what is not handled comes again."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from coding_agent_core.issue_commands import CommandName, IssueCommand
from coding_agent_core.queue_messages import Notice, QueuedTask
from coding_agent_core.queues.rabbitmq import RabbitMQNotices, RabbitMQSink
from coding_agent_core.settings.model import RabbitMQ
from coding_agent_core.tasks import Withdrawal

from tests.integration.rabbitmq.steps import DEADLINE, Queue, request, until
from tests.unit.core_commands.test_commands import command

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


async def test_commands_and_withdrawals_come_before_signs(
    sink: RabbitMQSink, settings: RabbitMQ, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coding_agent_core.queues.rabbitmq.publisher._PROBE_SECONDS", DEADLINE)
    for number in (1, 2):
        await sink.submit(request(number))
    await until(lambda: queue.exists(f".signs.{HERE}") and queue.ready(f".signs.{HERE}") == 2)
    await sink.withdraw(Withdrawal(item=request(1).item, reason="the issue lost its label"))
    await sink.command(cancel(HERE))
    source, stop = RabbitMQNotices(settings), asyncio.Event()
    notices = source.notices(HERE, stop)
    try:
        # Which of the first two is delivered first is the broker's choice; from then on all are known.
        kinds = [type(await take(notices)) for _ in range(4)]
        assert sorted(kinds[:2], key=str) != [QueuedTask, QueuedTask]
        assert kinds.count(QueuedTask) == 2
        assert kinds[-1] is QueuedTask
    finally:
        await notices.aclose()
