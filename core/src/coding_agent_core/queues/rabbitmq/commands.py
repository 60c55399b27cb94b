"""Takes commands from RabbitMQ for a consumer that executes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from coding_agent_core.commands import IssueCommand
from coding_agent_core.queues.rabbitmq.connection import (
    BrokerError,
    Channel,
    Connection,
    IoThread,
    UnackedDelivery,
)
from coding_agent_core.queues.rabbitmq.messages import command_queue, decode_command
from coding_agent_core.retry import first_of
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.model import RabbitMQ

_logger = logging.getLogger("coding_agent.queue")
_CONNECT_SECONDS, _RECONNECT_SECONDS = 10.0, 2.0


class RabbitMQCommands:
    """See `CommandSource`. Consumers that run side by side share the commands among them.

    An unacknowledged command is delivered again.
    """

    def __init__(self, settings: RabbitMQ) -> None:
        self._settings = settings
        self._queue = command_queue(settings.queue)
        self._secrets = Secrets(settings.password)
        self._io = IoThread("rabbitmq-commands")
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._inbox: asyncio.Queue[UnackedDelivery] = asyncio.Queue()

    async def commands(self, stop: asyncio.Event) -> AsyncIterator[IssueCommand]:
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                receiving = asyncio.ensure_future(self._io.run(self._receive()))
                await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    receiving.cancel()
                    break
                try:
                    delivery = receiving.result()
                except (BrokerError, TimeoutError) as error:
                    _logger.warning("Cannot receive commands now: %s", str(error) or "RabbitMQ is slow")
                    await first_of(asyncio.sleep(_RECONNECT_SECONDS), stop.wait())
                    continue
                try:
                    yield decode_command(delivery.body)
                except ValueError as error:
                    _logger.warning("Dropped a message that is not a command: %s", error)
                await self._io.run(_acknowledge(delivery))
        finally:
            stopping.cancel()
            if self._connection is not None:
                await self._io.run(self._connection.close())
            await self._io.stop()

    async def _receive(self) -> UnackedDelivery:
        if self._channel is None or not self._channel.is_open:
            if self._connection is not None:
                self._connection.drop()
            self._connection = await Connection.open(self._settings, self._secrets, _CONNECT_SECONDS)
            self._inbox = asyncio.Queue()
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._connection.declare_durable(self._queue)
                self._channel = await Channel.open(self._connection)
                await self._channel.consume(self._queue, self._inbox.put_nowait)
        return await self._channel.wait(asyncio.ensure_future(self._inbox.get()))


async def _acknowledge(delivery: UnackedDelivery) -> None:
    delivery.acknowledge()
