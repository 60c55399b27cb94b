"""Takes commands from RabbitMQ."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from coding_agent_core.commands import IssueCommand
from coding_agent_core.queues.rabbitmq.amqp import BrokerError, Channel, Connection
from coding_agent_core.queues.rabbitmq.io_thread import IoThread
from coding_agent_core.queues.rabbitmq.messages import command_queue, decode_command
from coding_agent_core.queues.rabbitmq.topology import declare_durable
from coding_agent_core.queues.waiting import first_of
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.queues import RabbitMQ

_logger = logging.getLogger("coding_agent.commands")

CONNECT_SECONDS = 10.0
RECONNECT_PAUSE = 2.0


@dataclass(frozen=True)
class _Delivery:
    channel: Channel
    tag: int
    body: bytes


class RabbitMQCommands:
    """See `CommandSource`. Consumers that run side by side share the commands among them."""

    def __init__(self, settings: RabbitMQ) -> None:
        self._settings = settings
        self._queue = command_queue(settings.queue)
        self._secrets = Secrets(settings.password)
        self._io = IoThread("rabbitmq-commands")
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._inbox: asyncio.Queue[_Delivery] | None = None

    async def commands(self, stop: asyncio.Event) -> AsyncIterator[IssueCommand]:
        """One at a time; see `CommandSource`."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                taking = asyncio.ensure_future(self._io.run(self._take()))
                await asyncio.wait({taking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    taking.cancel()
                    break
                try:
                    delivery = taking.result()
                    command = decode_command(delivery.body)
                except (BrokerError, TimeoutError) as error:
                    _logger.warning("Commands cannot be taken now: %s", str(error) or "RabbitMQ is slow")
                    await first_of(asyncio.sleep(RECONNECT_PAUSE), stop.wait())
                    continue
                except ValueError as error:
                    _logger.warning("A message that is no command is dropped: %s", error)
                    await self._io.run(_acknowledge(delivery))
                    continue
                yield command
                await self._io.run(_acknowledge(delivery))
        finally:
            stopping.cancel()
            if self._connection is not None:
                await self._io.run(self._connection.close())
            await self._io.stop()

    # -- in the connection's thread

    async def _take(self) -> _Delivery:
        channel, inbox = await self._open()
        getting = asyncio.ensure_future(inbox.get())
        try:
            return await channel.answered(getting)  # type: ignore[no-any-return]
        finally:
            getting.cancel()

    async def _open(self) -> tuple[Channel, asyncio.Queue[_Delivery]]:
        if self._channel is not None and self._inbox is not None and self._channel.is_open:
            return self._channel, self._inbox
        if self._connection is not None:
            self._connection.drop()
        self._connection = await Connection.open(self._settings, self._secrets, CONNECT_SECONDS)
        async with asyncio.timeout(CONNECT_SECONDS):
            await declare_durable(self._connection, self._queue)
            channel = await self._connection.channel()
            await channel.call(channel.raw.basic_qos, prefetch_count=1)
            inbox: asyncio.Queue[_Delivery] = asyncio.Queue()

            def on_message(_raw: object, method: Any, _properties: object, body: bytes) -> None:
                inbox.put_nowait(_Delivery(channel, method.delivery_tag, body))

            await channel.call(channel.raw.basic_consume, queue=self._queue, on_message_callback=on_message)
        self._channel, self._inbox = channel, inbox
        return channel, inbox


async def _acknowledge(delivery: _Delivery) -> None:
    if delivery.channel.is_open:
        delivery.channel.raw.basic_ack(delivery.tag)
