"""What closes while something is under way ends in good order: nobody who asked is cancelled for it."""

import asyncio
import threading

import pytest
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.queues.rabbitmq import RabbitMQNotices, RabbitMQSink, RabbitMQSource
from coding_agent_core.queues.rabbitmq.connection import Connection
from coding_agent_core.settings.model import RabbitMQ

from tests.fixtures.deliveries import asked

ABSENCE_SECONDS = 0.3
"""How long a test watches that something does not happen."""


class Broker:
    """A broker that never answers, and whose clients end only once `release` is set."""

    def __init__(self) -> None:
        self.asked, self.left, self.release = (threading.Event() for _ in range(3))

    async def open(self, *_: object) -> Connection:
        self.asked.set()
        try:
            await asyncio.Event().wait()
            raise AssertionError
        finally:
            self.left.set()
            await asyncio.to_thread(self.release.wait, 60)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(Connection, "open", broker.open)
    return broker


async def happens(event: threading.Event) -> bool:
    return await asyncio.to_thread(event.wait, 60)


async def test_a_source_waits_for_an_iterator_that_is_closing_its_connection(broker: Broker) -> None:
    source, stop = RabbitMQSource(RabbitMQ(), {}), asyncio.Event()
    waiting = asyncio.ensure_future(anext(source.claims(stop)))
    assert await happens(broker.asked)
    stop.set()
    assert await happens(broker.left)
    closing = asyncio.create_task(source.aclose())
    done, _ = await asyncio.wait({waiting, closing}, timeout=ABSENCE_SECONDS)
    assert not done
    broker.release.set()
    async with asyncio.timeout(60):
        await closing
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_submit_under_way_when_its_sink_closes_is_unavailable(broker: Broker) -> None:
    broker.release.set()
    sink = RabbitMQSink(RabbitMQ(), publish_timeout=60)
    submitting = asyncio.create_task(sink.submit(asked()))
    assert await happens(broker.asked)
    async with asyncio.timeout(60):
        await sink.aclose()
        with pytest.raises(QueueUnavailableError, match="is ending"):
            await submitting


async def test_notices_end_while_their_connection_is_opened(broker: Broker) -> None:
    broker.release.set()
    notices, stop = RabbitMQNotices(RabbitMQ()), asyncio.Event()
    waiting = asyncio.ensure_future(anext(notices.notices("github.com", stop)))
    assert await happens(broker.asked)
    stop.set()
    async with asyncio.timeout(60):
        with pytest.raises(StopAsyncIteration):
            await waiting
