"""Takes tasks and notices from RabbitMQ, as `TaskSource` and `NoticeSource`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from coding_agent_core.messages import Claim, Notice
from coding_agent_core.platforms import Platform
from coding_agent_core.queues.rabbitmq.connection import (
    BrokerError,
    Channel,
    Connection,
    IoThread,
    UnackedDelivery,
)
from coding_agent_core.queues.rabbitmq.consumer import ConsumerConnection
from coding_agent_core.queues.rabbitmq.messages import (
    DeliveryTracker,
    Timing,
    decode_notice,
    lock_queue,
    notice_queue,
)
from coding_agent_core.retry import StoppedError, first_of, run_until
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.model import RabbitMQ
from coding_agent_core.tasks import Item

_logger = logging.getLogger("coding_agent.queue")
_CONNECT_SECONDS, _RECONNECT_SECONDS = 10.0, 2.0


class RabbitMQSource:
    """See `TaskSource`. Each iterator has a connection of its own, so that item locks exclude each other.

    `hosts` is for messages that do not name theirs.
    """

    def __init__(
        self, settings: RabbitMQ, hosts: Mapping[Platform, str], *, timing: Timing | None = None
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._timing = timing or Timing()
        self._tracker = DeliveryTracker()
        self._io = IoThread("rabbitmq-consumer")
        self._connections: set[ConsumerConnection] = set()
        self._closing = asyncio.Event()

    async def claims(self, stop: asyncio.Event) -> AsyncGenerator[Claim, None]:
        if self._closing.is_set():
            return
        loop = asyncio.get_running_loop()
        connection = ConsumerConnection(
            self._settings, self._hosts, self._tracker, self._timing, io=self._io, loop=loop
        )
        self._connections.add(connection)  # before it starts: `aclose` must find it
        try:
            await self._io.run(connection.start())
            while not (stop.is_set() or self._closing.is_set()):
                waiting = self._io.run(connection.claimed.wait())
                await first_of(stop.wait(), self._closing.wait(), waiting)
                claim = connection.claim
                if stop.is_set() or self._closing.is_set() or claim is None:
                    break
                yield claim
                await first_of(claim.settled.wait(), claim.lost.wait(), stop.wait(), self._closing.wait())
                if claim.lost.is_set() and not self._closing.is_set():
                    await self._io.run(connection.abandon(claim))
        finally:
            await self._close(connection)

    async def aclose(self) -> None:
        """Close the connections; unsettled tasks go back to the queue."""
        self._closing.set()
        await asyncio.gather(*(self._close(connection) for connection in self._connections))
        await self._io.stop()

    async def _close(self, connection: ConsumerConnection) -> None:
        if connection in self._connections:  # until it is closed, for `aclose` must wait for that
            await self._io.run(connection.close())
            self._connections.discard(connection)


class RabbitMQNotices:
    """See `NoticeSource`. Consumers that run side by side share the notices among them.

    An unacknowledged notice is delivered again.
    """

    def __init__(self, settings: RabbitMQ) -> None:
        self._settings = settings
        self._queue = notice_queue(settings.queue)
        self._secrets = Secrets(settings.password)
        self._io = IoThread("rabbitmq-notices")
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._inbox: asyncio.Queue[UnackedDelivery] = asyncio.Queue()

    async def notices(self, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        try:
            while not stop.is_set():
                try:
                    delivery = await run_until(lambda: self._io.run(self._receive()), stop)
                except StoppedError:
                    break
                except (BrokerError, TimeoutError) as error:
                    _logger.warning("Cannot receive notices now: %s", str(error) or "RabbitMQ is slow")
                    await first_of(asyncio.sleep(_RECONNECT_SECONDS), stop.wait())
                    continue
                try:
                    yield decode_notice(delivery.body)
                except ValueError as error:
                    _logger.warning("Dropped a message that is not a notice: %s", error)
                await self._io.run(_acknowledge(delivery))
        finally:
            await self._io.run(self._close())
            await self._io.stop()

    @asynccontextmanager
    async def item_lock(self, item: Item) -> AsyncIterator[bool]:
        lock = lock_queue(self._settings.queue, item)
        held = await self._io.run(self._lock(lock))
        try:
            yield held
        finally:
            if held:
                await self._io.run(self._unlock(lock))

    async def _lock(self, lock: str) -> bool:
        connection = self._connection
        if connection is None:
            raise BrokerError("The connection to RabbitMQ is gone")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await connection.lock(lock, patience=0)
        except TimeoutError as error:
            # The broker may still give it to this connection, which would keep it from all workers.
            connection.drop()
            raise BrokerError(f"RabbitMQ did not answer within {_CONNECT_SECONDS:g} s") from error

    async def _unlock(self, lock: str) -> None:
        """Where the connection is gone, its locks are gone too."""
        if self._connection is not None:
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await self._connection.delete(lock)

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

    async def _close(self) -> None:
        """A connection that was being opened counts: this runs after the cancellation of `_receive`."""
        if self._connection is not None:
            await self._connection.close()


async def _acknowledge(delivery: UnackedDelivery) -> None:
    delivery.acknowledge()
