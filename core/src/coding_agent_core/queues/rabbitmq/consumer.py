"""Takes tasks from RabbitMQ."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.messages import QueuedTask
from coding_agent_core.platforms import Platform
from coding_agent_core.queues.rabbitmq.connection import (
    BrokerError,
    Channel,
    Connection,
    IoThread,
    UnackedDelivery,
    closed_error,
    was_silent,
)
from coding_agent_core.queues.rabbitmq.messages import (
    REDELIVERED,
    DeliveryTracker,
    Message,
    Timing,
    dead_message,
    dead_queue,
    decode_task,
    delay_arguments,
    delay_queue,
    delay_seconds,
    lock_queue,
    malformed_message,
    task_message,
    waiting_queue,
)
from coding_agent_core.queues.rabbitmq.publisher import ConfirmingChannel
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.model import RabbitMQ

_logger = logging.getLogger("coding_agent.queue")


class RabbitMQClaim:
    """See `Claim`. The events belong to the program's loop, all else to the connection's thread.

    Attributes:
        is_locked: its item's lock is ours, and is taken again after a reconnection.
        is_refused: another consumer has the item, so this attempt never started.
    """

    def __init__(
        self, task: QueuedTask, delivery: UnackedDelivery, redelivered: bool, connection: ConsumerConnection
    ) -> None:
        self.task = task
        self.delivery = delivery
        self.redelivered = redelivered
        self.cancelled = asyncio.Event()
        self.why_cancelled = ""
        self.lost = asyncio.Event()
        self.settled = asyncio.Event()
        self.is_locked = self.is_refused = self.is_lost = False
        self._connection = connection
        self._io = connection.io

    @asynccontextmanager
    async def item_lock(self) -> AsyncIterator[bool]:
        """Hold the item's lock among all consumers of the broker; see `Claim` and docs/decisions/0005.

        Where another has it, settle with `retry`, never with `done`: that consumer may still die. Such a
        retry does not count as an attempt.
        """
        held = not self._io.stopped and await self._io.run(self._connection.lock_item(self))
        try:
            yield held
        finally:
            if held and not self._io.stopped:
                await self._io.run(self._connection.unlock_item(self))

    def ending(self) -> None:
        """Nothing to do: each application of the label is a message of its own."""

    async def done(self) -> None:
        await self._settle(self._connection.done(self))

    async def retry(self, delay: float) -> None:
        """Publish a copy for later, confirmed, then acknowledge: a crash in between leaves both, never none.

        While the broker is away for longer than `Timing.settle`, the original is delivered again instead.
        """
        await self._settle(self._connection.retry(self, delay))

    async def dead_letter(self, reason: str) -> None:
        """Publish a copy to the dead-letter queue, confirmed, then acknowledge."""
        await self._settle(self._connection.dead_letter(self, reason))

    async def _settle(self, work: Coroutine[Any, Any, None]) -> None:
        if self._io.stopped:  # the source was closed, and the message is back in the queue
            work.close()
        else:
            await self._io.run(work)
        self.settled.set()


class ConsumerConnection:
    """A connection that consumes one task at a time, and reconnects. Its methods run in the `io` thread.

    While a task is claimed nothing else is consumed, also after a reconnection: its own message may then be
    delivered to another consumer, which the item's lock keeps from working on it. `loop` is the program's, in
    which a claim's events are set.
    """

    def __init__(
        self,
        settings: RabbitMQ,
        hosts: Mapping[Platform, str],
        tracker: DeliveryTracker,
        timing: Timing,
        *,
        io: IoThread,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.io = io
        self.claim: RabbitMQClaim | None = None
        self.claimed = asyncio.Event()
        self._settings = settings
        self._secrets = Secrets(settings.password)
        self._hosts = hosts
        self._tracker = tracker
        self._timing = timing
        self._loop = loop
        self._idle, self._up = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._connection: Connection | None = None
        self._publisher: ConfirmingChannel | None = None
        self._rejecting: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._serving = asyncio.create_task(self._serve())

    async def close(self) -> None:
        """Close the connection; a claimed task goes back to the queue. Another caller may be closing it."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        ending = [*self._rejecting, *([self._serving] if self._serving else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self.claim is not None:
            self._lose(self.claim)
            self.claim = None

    # Settling a claim

    async def lock_item(self, claim: RabbitMQClaim) -> bool:
        """Take the item's lock; while the connection is away, wait for it."""
        held = False
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.settle):
                if claim.redelivered:
                    await asyncio.sleep(self._timing.relock_grace)
                while self.claim is claim:
                    await self._up.wait()
                    try:
                        held = await self._open_connection().lock(
                            self._lock_name(claim), self._timing.lock_patience
                        )
                        break
                    except BrokerError:
                        await asyncio.sleep(self._timing.first_pause)
        claim.is_locked, claim.is_refused = held, not held
        return held

    async def unlock_item(self, claim: RabbitMQClaim) -> None:
        """Release the lock; the item's message does not wait any more."""
        if claim.is_locked:
            claim.is_locked = False
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(self._timing.connect):
                    waiting = waiting_queue(self._settings.queue, claim.task.request.item)
                    await self._open_connection().delete(self._lock_name(claim), waiting)

    async def done(self, claim: RabbitMQClaim) -> None:
        if claim.is_lost:
            await self.abandon(claim)
        elif self.claim is claim:
            self._acknowledge(claim)

    async def retry(self, claim: RabbitMQClaim, delay: float) -> None:
        seconds = delay_seconds(delay)
        queue = delay_queue(self._settings.queue, seconds)
        attempt = claim.task.attempt + (0 if claim.is_refused else 1)
        copy = claim.task.model_copy(update={"attempt": attempt})
        # The holder of the lock may be the one that started this very attempt.
        redelivered = claim.is_refused and claim.redelivered
        arguments = delay_arguments(self._settings.queue, seconds)
        await self._replace(claim, task_message(queue, copy, redelivered=redelivered), arguments)

    async def dead_letter(self, claim: RabbitMQClaim, reason: str) -> None:
        await self._replace(claim, dead_message(self._settings.queue, claim.task, reason), None)

    async def abandon(self, claim: RabbitMQClaim) -> None:
        """Settle nothing: if the message is still ours, it goes back to the queue."""
        if self.claim is claim:
            claim.delivery.requeue()
            self._end_claim()

    async def _replace(self, claim: RabbitMQClaim, copy: Message, delay: dict[str, Any] | None) -> None:
        if claim.is_lost:
            await self.abandon(claim)
        if self.claim is not claim:
            return
        try:
            async with asyncio.timeout(self._timing.settle):
                while True:
                    await self._up.wait()
                    try:
                        if delay is not None:
                            await self._open_connection().declare(copy.queue, durable=True, arguments=delay)
                        await self._publish(copy)
                        break
                    except BrokerError as error:
                        _logger.warning("%s; trying again", error)
                        await asyncio.sleep(self._timing.first_pause)
        except TimeoutError:
            _logger.warning("Task %s could not be moved; it will be delivered again", claim.task.name)
            await self.abandon(claim)
        else:
            self._acknowledge(claim)

    async def _publish(self, message: Message) -> None:
        """Raises BrokerError if it is not confirmed within the time of the settings."""
        if self._publisher is None or not self._publisher.is_open:
            self._publisher = await ConfirmingChannel.open(self._open_connection())
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                await self._publisher.publish(message)
        except TimeoutError as error:
            raise BrokerError("RabbitMQ did not confirm a message in time") from error

    def _acknowledge(self, claim: RabbitMQClaim) -> None:
        if not claim.is_refused:  # a refused attempt comes again
            self._tracker.settle(claim.task)
        claim.delivery.acknowledge()
        self._end_claim()

    def _end_claim(self) -> None:
        self.claim = None
        self.claimed.clear()
        self._idle.set()

    def _lose(self, claim: RabbitMQClaim) -> None:
        claim.is_lost, claim.is_locked = True, False
        with suppress(RuntimeError):  # the program's loop has ended
            self._loop.call_soon_threadsafe(claim.lost.set)

    def _lock_name(self, claim: RabbitMQClaim) -> str:
        return lock_queue(self._settings.queue, claim.task.request.item)

    def _open_connection(self) -> Connection:
        if self._connection is None or not self._connection.is_open:
            raise BrokerError("RabbitMQ is not connected")
        return self._connection

    # Consuming

    async def _serve(self) -> None:
        failures = 0
        patience = self._timing.lock_patience
        while True:
            try:
                connection = await Connection.open(self._settings, self._secrets, self._timing.connect)
                self._connection = connection
                try:
                    await connection.declare_durable(self._settings.queue, dead_queue(self._settings.queue))
                    if self.claim is not None and self.claim.is_locked:
                        await self._lock_again(self.claim, connection, patience)
                    failures = 0
                    self._up.set()
                    await self._consume(connection)
                finally:
                    self._up.clear()
                    await connection.close()
                    # A broker that does not know yet that the connection is dead keeps its locks.
                    silence = 2.0 * self._settings.heartbeat if was_silent(connection) else 0.0
                    patience = self._timing.lock_patience + silence
            except BrokerError as error:
                _logger.warning("%s; connecting again", error)
            except Exception:
                # A defect of ours must not end the consumer for good: the process would go on and do nothing.
                _logger.exception("Unexpected error; connecting again")
            await asyncio.sleep(self._timing.pause(failures))
            failures += 1

    async def _lock_again(self, claim: RabbitMQClaim, connection: Connection, patience: float) -> None:
        if not await connection.lock(self._lock_name(claim), patience):
            _logger.warning(
                "Another consumer took task %s over while the connection was gone", claim.task.name
            )
            self._lose(claim)
        elif not claim.is_locked:  # it was unlocked meanwhile, on a connection that did not have the lock yet
            await connection.delete(self._lock_name(claim))

    async def _consume(self, connection: Connection) -> None:
        """Consume while no task is claimed, until the connection ends.

        The broker closes the channel of a consumer that does not acknowledge within its `consumer_timeout`.
        The connection stays, and with it the item's lock.

        Raises:
            BrokerError: the connection ended, or the queue is gone.
        """
        while True:
            idle = asyncio.ensure_future(self._idle.wait())
            ends: list[asyncio.Future[Any]] = [idle, connection.closed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            if connection.closed.done():
                raise closed_error(connection.closed.result())
            channel = await Channel.open(connection)
            await channel.consume(self._settings.queue, self._receive)
            await asyncio.wait([channel.closed])
            error = closed_error(channel.closed.result())
            if not connection.is_open:
                raise error
            _logger.warning("%s", error)
            await asyncio.sleep(self._timing.pause(0))

    def _receive(self, delivery: UnackedDelivery) -> None:
        try:
            task = decode_task(delivery.body, now=datetime.now(UTC), hosts=self._hosts)
        except Exception as error:  # whatever it is, the next reading would end alike
            rejecting = asyncio.ensure_future(self._reject(delivery, str(error)))
            self._rejecting.add(rejecting)
            rejecting.add_done_callback(self._rejecting.discard)
            return
        if self._tracker.is_settled(task):
            delivery.acknowledge()
            return
        redelivered = delivery.redelivered or (delivery.headers or {}).get(REDELIVERED) is True
        self.claim = RabbitMQClaim(task, delivery, redelivered, self)
        self._idle.clear()
        self.claimed.set()

    async def _reject(self, delivery: UnackedDelivery, reason: str) -> None:
        message = malformed_message(self._settings.queue, delivery.body, reason, delivery.tag)
        _logger.warning("A message that is not a task goes to %s: %s", message.queue, reason)
        try:
            await self._publish(message)
            delivery.acknowledge()
        except BrokerError as error:
            # Unacknowledged it stays in the queue; the channel that is opened next gets it again.
            _logger.warning("A message could not be moved to %s: %s", message.queue, error)
            delivery.channel.close()
