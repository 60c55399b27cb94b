"""A submit that returned is in the queue, whatever happens to the broker (S15, S5)."""

import asyncio
import json
import threading
import time
from collections.abc import Callable

import pytest
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.queues.rabbitmq import RabbitMQSink, RabbitMQSource, messages, publisher
from coding_agent_core.runtime.retry import Clock, Deadline
from coding_agent_core.settings.model import RabbitMQ
from coding_agent_core.task.model import Origin
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_testbed.until import until_async

from tests.fixtures.rabbitmq import Broker
from tests.integration.core_queues.steps import DEADLINE, HASTE, Queue, Relay, claims, request

READINESS_S = 4
"""Seconds that a kubelet waits for the answer, by the chart's `timeoutSeconds`."""


def numbers(queue: Queue) -> list[int]:
    return sorted(json.loads(body)["number"] for _, body in queue.get_all())


async def submit_again(sink: RabbitMQSink, number: int) -> None:
    """Submit it until it is taken: the broker is there, and may need longer than the sink has."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await sink.submit(request(number))
            except QueueUnavailableError:
                continue
            return


async def until_connected(sink: RabbitMQSink) -> None:
    """Wait until the sink says so; a busy broker may need longer than one look takes."""
    await until_async("the sink is connected", sink.connected)


async def test_a_full_queue_refuses_instead_of_dropping(sink: RabbitMQSink, queue: Queue) -> None:
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with queue.channel() as channel:
        channel.queue_declare(queue.name, durable=True, arguments=limits)
    await sink.submit(request(1))
    with pytest.raises(QueueUnavailableError, match="full"):
        await sink.submit(request(2))


async def test_a_deleted_queue_is_made_again(sink: RabbitMQSink, queue: Queue) -> None:
    await sink.submit(request(1))
    with queue.channel() as channel:
        channel.queue_delete(queue.name)
    await sink.submit(request(2))
    assert numbers(queue) == [2]


@pytest.mark.long
async def test_a_frozen_broker_is_unavailable_within_the_budget(
    hasty_sink: RabbitMQSink, rabbitmq: Broker, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit_again(hasty_sink, 1)
    budgets: list[float] = []

    class Counted(Deadline):
        @classmethod
        def after(cls, seconds: float, clock: Clock | None = None) -> Deadline:
            budgets.append(seconds)
            return super().after(seconds, clock)

    monkeypatch.setattr(publisher, "Deadline", Counted)
    rabbitmq.freeze()
    probe = asyncio.create_task(hasty_sink.connected())
    with pytest.raises(QueueUnavailableError, match=r"confirm|answer"):
        await hasty_sink.submit(request(2))
    assert budgets == [HASTE], "no second budget was begun"
    assert not await probe
    assert not await hasty_sink.connected()
    assert publisher._PROBE_SECONDS < READINESS_S
    rabbitmq.thaw()
    await submit_again(hasty_sink, 3)
    # What was on its way into the frozen broker may arrive late; nothing that was promised is missing.
    assert {1, 3} <= set(numbers(queue)) <= {1, 2, 3}


async def test_a_broker_restarted_in_mid_stream_loses_nothing_that_was_promised(
    hasty_sink: RabbitMQSink, rabbitmq: Broker, queue: Queue
) -> None:
    promised: list[int] = []
    stop = asyncio.Event()

    async def stream(worker: int) -> None:
        number = worker
        while not stop.is_set():
            number += 10
            try:
                await hasty_sink.submit(request(number))
            except QueueUnavailableError:
                continue
            promised.append(number)

    async with asyncio.TaskGroup() as group:
        for worker in range(1, 5):
            group.create_task(stream(worker))
        await until_async("15 are promised", lambda: len(promised) >= 15)
        await asyncio.to_thread(rabbitmq.kill)
        before = len(promised)
        await asyncio.to_thread(rabbitmq.start)
        await until_async("15 more are promised", lambda: len(promised) >= before + 15)
        stop.set()
    found = numbers(queue)
    assert set(promised) <= set(found)
    assert len(promised) >= 30


async def test_a_wrong_password_is_told_without_it(settings: RabbitMQ) -> None:
    wrong = RabbitMQ.model_validate(settings.model_dump() | {"password": "not-this-one"})
    sink = RabbitMQSink(wrong, publish_timeout=HASTE)
    with pytest.raises(QueueUnavailableError) as error:
        await sink.submit(request())
    assert "ACCESS_REFUSED" in str(error.value)
    assert "not-this-one" not in str(error.value)
    await sink.aclose()


async def test_while_the_password_is_rotated_both_are_tried(settings: RabbitMQ, queue: Queue) -> None:
    both = RabbitMQ.model_validate(settings.model_dump() | {"password": ["the-new-one", "guest"]})
    sink = RabbitMQSink(both, publish_timeout=60)
    await sink.submit(request(1))
    assert numbers(queue) == [1]
    await sink.aclose()


async def test_a_connection_that_died_without_a_sign_costs_time_and_not_the_task(
    settings: RabbitMQ, rabbitmq: Broker, queue: Queue
) -> None:
    async with Relay(rabbitmq) as relay:
        # Half of the time for the dead connection; the other half holds a new one on a busy machine too.
        budget = 3 * HASTE
        sink = RabbitMQSink(settings.model_copy(update={"port": relay.port}), publish_timeout=budget)
        try:
            await sink.submit(request(1))
            relay.silence()
            began = time.monotonic()
            await sink.submit(request(2))
            assert time.monotonic() - began >= budget / 2
            assert relay.connections == 2
            assert numbers(queue) == [1, 2]
            relay.silence()
            await until_connected(sink)  # it looks for itself: nothing is submitted meanwhile
        finally:
            await sink.aclose()


async def test_a_flood_announces_fewer_tasks_than_it_stores(
    sink: RabbitMQSink, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PROBE_SECONDS", DEADLINE)
    monkeypatch.setattr(publisher, "_ANNOUNCEMENTS", 2)
    stored, announce = threading.Event(), RabbitMQSink._announce

    async def announce_later(sink: RabbitMQSink, task: QueuedTask, waiting: str) -> None:
        await asyncio.to_thread(stored.wait, DEADLINE)
        await announce(sink, task, waiting)

    monkeypatch.setattr(RabbitMQSink, "_announce", announce_later)
    await asyncio.gather(*(sink.submit(request(number)) for number in range(1, 41)))
    stored.set()
    await sink.aclose()  # waits for the last announcements
    assert queue.ready(".signs.github.com") == 2
    assert numbers(queue) == list(range(1, 41))


async def test_a_queue_that_was_purged_is_filled_again_by_polls(
    sink: RabbitMQSink, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each poll looks for what waits. That must not keep it for ever."""
    monkeypatch.setattr(publisher, "_PROBE_SECONDS", DEADLINE)
    arguments = {**messages.WAITING_ARGUMENTS, "x-message-ttl": 1000}
    monkeypatch.setattr(publisher, "WAITING_ARGUMENTS", arguments)
    poll = request(1, Origin.POLL)
    assert (await sink.submit(poll)).duplicate is None
    assert numbers(queue) == [1]

    async def is_published() -> bool:
        return (await sink.submit(poll)).duplicate is None

    await until_async("a poll publishes it again", is_published)
    assert numbers(queue) == [1]


@pytest.mark.parametrize("first", [Origin.POLL, Origin.WEBHOOK])
async def test_polls_do_not_publish_what_waits_already(
    sink: RabbitMQSink,
    new_source: Callable[..., RabbitMQSource],
    queue: Queue,
    first: Origin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        publisher, "_PROBE_SECONDS", DEADLINE
    )  # it must show what waits, however long it takes
    poll = request(1, Origin.POLL)
    answers = [(await sink.submit(entry)).duplicate for entry in (request(1, first), poll, poll)]
    assert answers == [None, *["its message is already in the queue"] * 2]
    assert (await sink.submit(request(2, Origin.POLL))).duplicate is None
    assert (await sink.submit(request(2))).duplicate is None, "a webhook asks for itself"
    async with claims(new_source()) as take:
        claim = await take()
        async with claim.item_lock() as held:
            assert held
            assert (await sink.submit(poll)).duplicate is not None
        await claim.done()
    assert (await sink.submit(poll)).duplicate is None, "a label that is there now was applied since"
    await until_async("three messages", lambda: queue.ready() == 3)
