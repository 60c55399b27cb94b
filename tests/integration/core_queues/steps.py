"""What the tests do with the broker in addition to the code under test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pika
import pika.exceptions
from coding_agent_core.queues.interfaces import Claim
from coding_agent_core.queues.rabbitmq import RabbitMQSource
from coding_agent_core.queues.rabbitmq.connection import RESOURCE_LOCKED
from coding_agent_core.queues.rabbitmq.messages import Timing, lock_queue
from coding_agent_core.task.model import Item, Origin, TaskRequest

from tests.fixtures.deliveries import asked, issue
from tests.fixtures.rabbitmq import Broker

QUICK = Timing(
    connect=30,
    first_pause=0.05,
    longest_pause=0.3,
    lock_patience=1.0,  # meant to expire
    relock_grace=0.5,  # meant to expire
    publish=60,
)
PATIENT = replace(QUICK, lock_patience=60)
"""Where a lock is about to become free: the broker can take its time."""
DEADLINE = 120.0
HASTE = 3.0  # meant to expire
"""Seconds in which a hasty sink publishes, or gives up."""


def request(number: int = 1, origin: Origin = Origin.WEBHOOK) -> TaskRequest:
    return asked(issue(number), origin).model_copy(update={"user": "alice", "title": f"Issue {number}"})


class Queue:
    """A queue seen from outside, through pika's blocking adapter."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.name = name
        self._broker = broker

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        parameters = pika.ConnectionParameters(
            host=self._broker.host, port=self._broker.port, socket_timeout=DEADLINE, stack_timeout=DEADLINE
        )
        connection = pika.BlockingConnection(parameters)
        try:
            yield connection.channel()
        finally:
            connection.close()

    def ready(self, suffix: str = "") -> int:
        with self.channel() as channel:
            frame = channel.queue_declare(self.name + suffix, passive=True)
            return int(frame.method.message_count)

    def exists(self, suffix: str) -> bool:
        """Whether there is such a queue; to look for it is to use it, so that it expires later."""
        try:
            self.ready(suffix)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        return True

    def accepts(self, suffix: str) -> bool:
        """Whether there is such a queue. It gets a message, which is no use of it."""
        with self.channel() as channel:
            channel.confirm_delivery()
            try:
                channel.basic_publish("", self.name + suffix, b"", mandatory=True)
            except pika.exceptions.UnroutableError:
                return False
        return True

    def is_locked(self, item: Item) -> bool:
        """Whether a consumer holds the item's lock."""
        try:
            with self.channel() as channel:
                channel.queue_declare(lock_queue(self.name, item), passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            return bool(error.reply_code == RESOURCE_LOCKED)  # 404: there is none
        raise AssertionError("a lock is exclusive")

    def put(self, body: bytes) -> None:
        with self.channel() as channel:
            channel.queue_declare(self.name, durable=True)
            channel.confirm_delivery()
            channel.basic_publish("", self.name, body, mandatory=True)

    def get_all(self, suffix: str = "") -> list[tuple[Any, bytes]]:
        """Take all messages out; their properties and bodies."""
        found: list[tuple[Any, bytes]] = []
        with self.channel() as channel:
            while True:
                method, properties, body = channel.basic_get(self.name + suffix, auto_ack=True)
                if method is None:
                    return found
                found.append((properties, body))


@asynccontextmanager
async def claims(source: RabbitMQSource) -> AsyncIterator[Callable[[], Any]]:
    """The source's next claim, within the deadline, as often as called."""
    stop = asyncio.Event()
    async with aclosing(source.claims(stop)) as iterator:

        async def take() -> Claim:
            async with asyncio.timeout(DEADLINE):
                return await anext(iterator)

        yield take
        stop.set()


class Relay:
    """A way to the broker whose connections can end, or die without a sign."""

    def __init__(self, broker: Broker) -> None:
        self.port = 0
        self.connections = 0
        self._broker = broker
        self._cut = False
        self._flowing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self.cut()
        self._server.close()

    def cut(self) -> None:
        """End all connections, and make none until `restore`."""
        self._cut = True
        for entry in list(self._open):
            entry.transport.abort()

    def restore(self) -> None:
        """Let connections through again."""
        self._cut = False

    def silence(self) -> None:
        """Present connections stay, and carry nothing any more."""
        self._flowing.clear()
        self._flowing = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        self.connections += 1
        flowing = self._flowing
        flowing.set()
        there, to_broker = await asyncio.open_connection(self._broker.host, self._broker.port)
        ends = {writer, to_broker}
        if self._cut:  # meanwhile
            for entry in ends:
                entry.transport.abort()
            return
        self._open |= ends
        await asyncio.gather(_pump(reader, to_broker, flowing), _pump(there, writer, flowing))
        self._open -= ends


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            if flowing.is_set():
                target.write(data)
    target.close()
