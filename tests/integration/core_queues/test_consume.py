"""A task is done once and never lost, whatever happens to the consumer, its channel, or the broker (S15)."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator

import pytest
from coding_agent_core.queues.rabbitmq import RabbitMQSink, RabbitMQSource
from coding_agent_core.queues.rabbitmq.messages import Timing
from coding_agent_testbed.until import until_async

from tests.fixtures.rabbitmq import Broker
from tests.integration.core_queues.steps import Queue, Relay, claims, request

NewSource = Callable[..., RabbitMQSource]


async def test_a_task_is_acknowledged_when_it_ended_and_not_before(
    sink: RabbitMQSink, new_source: NewSource, queue: Queue
) -> None:
    await sink.submit(request(1))
    first = new_source()
    async with claims(first) as take:
        claim = await take()
        assert (claim.task.request.user, claim.redelivered) == ("alice", False)
        assert queue.ready() == 0
    await until_async("one message", lambda: queue.ready() == 1)  # that consumer ended without settling it
    async with claims(first) as take:
        again = await take()
        assert (again.task.uuid, again.redelivered) == (claim.task.uuid, True)
        await again.done()
    assert queue.ready() == 0


async def test_a_consumer_has_one_task_in_hand_at_a_time(
    sink: RabbitMQSink, new_source: NewSource, queue: Queue
) -> None:
    for number in (1, 2, 3):
        await sink.submit(request(number))
    async with claims(new_source()) as take:
        claim = await take()
        assert queue.ready() == 2
        await claim.done()
        assert (await take()).task.request.item.number == 2


@pytest.fixture
def consumer_timeout(rabbitmq: Broker) -> Iterator[float]:
    """Seconds after which the broker closes the channel of who did not acknowledge."""
    rabbitmq.set_consumer_timeout(1000)
    yield 1.0
    rabbitmq.set_consumer_timeout(1_800_000)


async def test_a_task_longer_than_the_consumer_timeout_runs_once(
    consumer_timeout: float,
    sink: RabbitMQSink,
    new_source: NewSource,
    queue: Queue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await sink.submit(request(1))
    async with claims(new_source()) as take:
        claim = await take()
        async with claim.item_lock() as held:
            assert held
            await until_async("the broker refuses it", lambda: "PRECONDITION_FAILED" in caplog.text)
            assert not claim.lost.is_set()
        await sink.submit(request(2))
        await claim.done()
        following = await take()
        assert following.task.request.item.number == 2, "the first task must not start again"
        await following.done()
        # The broker may have taken this one back too by now; it is not handed out again.
        await until_async("no message", lambda: queue.ready() == 0)


@pytest.mark.long
async def test_heartbeats_go_on_while_a_task_blocks_the_programs_loop(
    sink: RabbitMQSink, new_source: NewSource, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "coding_agent.queue")
    await sink.submit(request(1))
    async with claims(new_source(heartbeat=5)) as take:
        claim = await take()
        ended = time.monotonic() + 11  # a broker drops a connection that is silent for two intervals
        while time.monotonic() < ended:
            sum(range(10_000))
        await claim.done()
        assert caplog.messages == []
    assert queue.ready() == 0


async def test_a_connection_that_ends_in_mid_task_leads_to_one_acknowledgement(
    sink: RabbitMQSink, new_source: NewSource, rabbitmq: Broker, queue: Queue
) -> None:
    await sink.submit(request(1))
    async with Relay(rabbitmq) as relay, claims(new_source(port=relay.port)) as take:
        claim = await take()
        async with claim.item_lock() as held:
            assert held
            relay.cut()
            relay.restore()
            await until_async(
                "a new connection has the lock",
                lambda: relay.connections > 1 and queue.is_locked(claim.task.request.item),
            )
            assert not claim.lost.is_set()
        await claim.done()
        await sink.submit(request(2))
        following = await take()
        assert following.task.request.item.number == 2
        await following.done()
    assert queue.ready() == 0


async def test_messages_that_are_no_tasks_go_to_the_dead_letter_queue_with_the_reason(
    sink: RabbitMQSink, new_source: NewSource, queue: Queue
) -> None:
    bad = [
        b"\xff\xfe",
        b"[1, 2]",
        b'{"type": "github_issue", "owner": "o", "repo": "r", "number": 0}',
        b"[" * 5000,
    ]
    for body in bad:
        queue.put(body)
    await sink.submit(request(1))
    async with claims(new_source()) as take:
        claim = await take()
        assert claim.task.request.item.number == 1
        await claim.done()
    dead = queue.get_all(".dead")
    assert [body for _, body in dead] == bad
    assert all("not a task" in properties.headers["reason"] for properties, _ in dead)
    assert "number" in dead[2][0].headers["reason"]
    assert queue.ready() == 0


async def test_a_retry_comes_as_the_next_attempt_and_not_before_its_delay(
    sink: RabbitMQSink, new_source: NewSource, queue: Queue
) -> None:
    await sink.submit(request(1))
    async with claims(new_source()) as take:
        claim = await take()
        began = time.monotonic()
        await claim.retry(1.0, 2)
        assert queue.ready() == 0
        again = await take()
        assert time.monotonic() - began >= 1.0
        assert (again.task.uuid, again.task.attempt, again.redelivered) == (claim.task.uuid, 2, False)
        await again.done()
    assert queue.ready() == 0
    assert queue.ready(".retry.1") == 0


@pytest.mark.long
async def test_a_confirmed_task_and_a_waiting_retry_survive_a_power_cut(
    sink: RabbitMQSink, new_source: NewSource, rabbitmq: Broker
) -> None:
    await sink.submit(request(1))
    async with claims(new_source()) as take:
        await (await take()).retry(2.0, 2)
        await sink.submit(request(2))
        await asyncio.to_thread(rabbitmq.kill)
        await asyncio.to_thread(rabbitmq.start)
        found = set[tuple[int, int]]()
        while len(found) < 2:
            claim = await take()
            found.add((claim.task.request.item.number, claim.task.attempt))
            await claim.done()
    assert found == {(1, 2), (2, 1)}


async def test_a_task_given_up_lies_in_the_dead_letter_queue(
    sink: RabbitMQSink, new_source: NewSource, queue: Queue
) -> None:
    await sink.submit(request(1))
    async with claims(new_source()) as take:
        claim = await take()
        await claim.dead_letter("The model was not reachable in 3 attempts.")
    ((properties, body),) = queue.get_all(".dead")
    assert properties.delivery_mode == 2
    assert properties.headers == {
        "reason": "The model was not reachable in 3 attempts.",
        "uuid": claim.task.uuid,
        "attempt": 1,
        "name": claim.task.name,
    }
    assert json.loads(body)["uuid"] == claim.task.uuid
    assert queue.ready() == 0


@pytest.mark.long
async def test_a_task_that_cannot_be_moved_is_handed_out_again(
    sink: RabbitMQSink, new_source: NewSource, rabbitmq: Broker
) -> None:
    await sink.submit(request(1))
    async with claims(new_source(timing=Timing(connect=30, longest_pause=0.3, settle=0.5))) as take:
        claim = await take()
        await asyncio.to_thread(rabbitmq.stop)
        await claim.retry(1.0, 2)
        await asyncio.to_thread(rabbitmq.start)
        again = await take()
        assert (again.task.uuid, again.task.attempt, again.redelivered) == (claim.task.uuid, 1, True)
        await again.done()


async def test_closing_the_source_ends_its_consumers_and_gives_tasks_back(
    sink: RabbitMQSink, new_source: NewSource, queue: Queue
) -> None:
    await sink.submit(request(1))
    source = new_source()
    stop = asyncio.Event()
    first, second = source.claims(stop), source.claims(stop)
    claim = await anext(first)
    waiting = asyncio.ensure_future(anext(second))
    async with asyncio.timeout(60):
        await source.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
        await claim.lost.wait()
        await claim.done()  # too late to mean anything
        with pytest.raises(StopAsyncIteration):
            await anext(first)
    await until_async("one message", lambda: queue.ready() == 1)


@pytest.mark.parametrize("turns", [0, 3])
async def test_closing_the_source_ends_a_consumer_that_is_only_starting(
    new_source: NewSource, turns: int
) -> None:
    """Repeated, because the consumer may close its connection at the same moment as the source does."""
    for _ in range(10):
        source = new_source()
        waiting = asyncio.ensure_future(anext(source.claims(asyncio.Event())))
        for _ in range(turns):  # of the event loop: in the first it asks for its connection
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await source.aclose()
            with pytest.raises(StopAsyncIteration):
                await waiting
