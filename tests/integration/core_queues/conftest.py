"""The broker for the tests of this folder, and what they share."""

from collections.abc import AsyncIterator, Callable

import pytest
from coding_agent_core.queues.rabbitmq import RabbitMQSink, RabbitMQSource
from coding_agent_core.queues.rabbitmq.messages import Timing
from coding_agent_core.settings.model import RabbitMQ

from tests.fixtures.rabbitmq import Broker
from tests.integration.core_queues.steps import HASTE, QUICK, Queue


@pytest.fixture
def settings(rabbitmq: Broker, rabbitmq_queue: str) -> RabbitMQ:
    return RabbitMQ(host=rabbitmq.host, port=rabbitmq.port, queue=rabbitmq_queue)


@pytest.fixture
async def sink(settings: RabbitMQ) -> AsyncIterator[RabbitMQSink]:
    sink = RabbitMQSink(settings, publish_timeout=60)
    yield sink
    await sink.aclose()


@pytest.fixture
async def hasty_sink(settings: RabbitMQ) -> AsyncIterator[RabbitMQSink]:
    """A sink that gives up after three seconds."""
    sink = RabbitMQSink(settings, publish_timeout=HASTE)
    yield sink
    await sink.aclose()


@pytest.fixture
async def new_source(settings: RabbitMQ) -> AsyncIterator[Callable[..., RabbitMQSource]]:
    made: list[RabbitMQSource] = []

    def make(*, timing: Timing = QUICK, **changes: int) -> RabbitMQSource:
        made.append(RabbitMQSource(settings.model_copy(update=changes), {}, timing=timing))
        return made[-1]

    yield make
    for source in made:
        await source.aclose()


@pytest.fixture
def queue(rabbitmq: Broker, rabbitmq_queue: str) -> Queue:
    return Queue(rabbitmq, rabbitmq_queue)
