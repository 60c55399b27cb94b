"""Keeps one consuming connection up: made again when it breaks, its channel too."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from pika import exceptions

from coding_agent_core.messages import QueuedTask
from coding_agent_core.queues.rabbitmq.amqp import (
    BrokerError,
    Channel,
    ConfirmingChannel,
    Connection,
    closed_error,
)
from coding_agent_core.queues.rabbitmq.messages import delay_seconds, encode
from coding_agent_core.queues.rabbitmq.properties import marked_redelivered, task_properties
from coding_agent_core.queues.rabbitmq.timing import Timing
from coding_agent_core.queues.rabbitmq.topology import declare_delay, declare_queues
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.queues import RabbitMQ

_logger = logging.getLogger("coding_agent.queue")

Receive = Callable[[Channel, int, bool, bytes], Awaitable[None]]
"""Takes a delivery: its channel, its tag there, whether it was delivered before, the body."""
Prepare = Callable[[Connection, float], Awaitable[None]]
"""Takes a new connection before anything is consumed on it, with the patience for its locks in seconds."""


class Upkeep:
    """See the module. All methods run in the connection's thread.

    Attributes:
        up: set while tasks can be taken and published.
    """

    def __init__(self, settings: RabbitMQ, timing: Timing, prepare: Prepare, receive: Receive) -> None:
        self.up = asyncio.Event()
        self._settings = settings
        self._secrets = Secrets(settings.password)
        self._timing = timing
        self._prepare = prepare
        self._receive = receive
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._publisher: ConfirmingChannel | None = None
        self._consumer_tag: str | None = None
        self._queue_gone = asyncio.Event()
        self._receiving: set[asyncio.Task[None]] = set()
        self._service = asyncio.create_task(self._serve())

    @property
    def connection(self) -> Connection:
        """The open connection.

        Raises:
            BrokerError: there is none.
        """
        if self._connection is None or not self._connection.is_open:
            raise BrokerError("RabbitMQ is not connected")
        return self._connection

    @property
    def idle(self) -> bool:
        """Whether no delivery is being looked at."""
        return not self._receiving

    async def publish(self, queue: str, body: bytes, properties: Any) -> None:
        """Publish, confirmed within the time of the settings.

        Raises:
            BrokerError: not confirmed.
        """
        publisher = self._publisher
        if publisher is None or not publisher.is_open:
            raise BrokerError("RabbitMQ is not connected")
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                await publisher.publish(queue, body, properties)
        except TimeoutError as error:
            raise BrokerError("RabbitMQ did not confirm a message in time") from error

    async def publish_later(self, task: QueuedTask, delay: float, *, redelivered: bool = False) -> None:
        """Publish a task that comes to the queue after `delay` seconds.

        Args:
            task: the attempt that is to begin then.
            delay: seconds, rounded up to whole ones.
            redelivered: this very attempt was handed out before, and may have begun.

        Raises:
            BrokerError: not confirmed.
        """
        queue = await declare_delay(self.connection, self._settings.queue, delay_seconds(delay))
        await self.publish(queue, encode(task), task_properties(task, redelivered=redelivered))

    async def pause(self) -> None:
        """Take no more deliveries until `resume`."""
        channel = self._channel
        if self._consumer_tag is not None and channel is not None:
            tag, self._consumer_tag = self._consumer_tag, None
            await channel.call(channel.raw.basic_cancel, consumer_tag=tag)

    async def resume(self) -> None:
        """Take deliveries again after `pause`; otherwise nothing."""
        if self.up.is_set() and self._consumer_tag is None and self._channel is not None:
            await self._start_consuming(self._channel)

    async def close(self) -> None:
        """End the connection; what is unacknowledged goes back to the queue."""
        ending = [self._service, *self._receiving]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _serve(self) -> None:
        failures = 0
        patience = self._timing.claim_patience
        while True:
            try:
                connection = await Connection.open(self._settings, self._secrets, self._timing.connect)
                self._connection = connection
                try:
                    await declare_queues(connection, self._settings.queue)
                    await self._prepare(connection, patience)
                    failures = 0
                    await self._consume(connection)
                finally:
                    self.up.clear()
                    await connection.close()
                    patience = self._timing.claim_patience + self._unnoticed(connection)
            except BrokerError as error:
                _logger.warning("%s; connecting again", error)
            except Exception:
                # A fault of ours must not end the consumer for good: the process would go on and do nothing.
                _logger.exception("Unexpected; connecting again")
            await asyncio.sleep(self._timing.pause(failures))
            failures += 1

    def _unnoticed(self, connection: Connection) -> float:
        """Seconds for which the broker may go on to hold a dead connection, and its locks, for alive."""
        silent = connection.closed.done() and isinstance(
            connection.closed.result(), exceptions.AMQPHeartbeatTimeout
        )
        return 2.0 * self._settings.heartbeat if silent else 0.0

    async def _consume(self, connection: Connection) -> None:
        """Take deliveries until the connection ends; a channel that the broker closes is opened anew.

        It closes the channel of a consumer that did not acknowledge within its `consumer_timeout`; the
        connection, and with it the lock of the item, stays.
        """
        while connection.is_open:
            channel = self._channel = await connection.channel()
            publisher = self._publisher = await connection.confirming_channel()
            await channel.call(channel.raw.basic_qos, prefetch_count=1)
            self._queue_gone.clear()
            channel.raw.add_on_cancel_callback(lambda _frame: self._queue_gone.set())
            await self._start_consuming(channel)
            self.up.set()
            gone = asyncio.ensure_future(self._queue_gone.wait())
            ends: list[asyncio.Future[Any]] = [connection.closed, channel.closed, publisher.closed]
            try:
                await asyncio.wait([*ends, gone], return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                self.up.clear()
                self._consumer_tag = None
            if self._queue_gone.is_set():
                raise BrokerError(f"The queue {self._settings.queue} was deleted")
            _logger.warning("%s", next(closed_error(end.result()) for end in ends if end.done()))
            channel.close()
            publisher.close()
            await asyncio.sleep(self._timing.pause(0))
        raise BrokerError("The connection to RabbitMQ ended")

    async def _start_consuming(self, channel: Channel) -> None:
        def deliver(_raw: object, method: Any, properties: Any, body: bytes) -> None:
            redelivered = method.redelivered or marked_redelivered(properties)
            receiving = asyncio.ensure_future(self._receive(channel, method.delivery_tag, redelivered, body))
            self._receiving.add(receiving)
            receiving.add_done_callback(self._receiving.discard)

        self._consumer_tag = f"coding-agent-{random.getrandbits(64):x}"
        await channel.call(
            channel.raw.basic_consume,
            queue=self._settings.queue,
            on_message_callback=deliver,
            consumer_tag=self._consumer_tag,
        )
