"""Receives tasks from RabbitMQ: the source, its connections, and the claim of a task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.queues.interfaces import Claim
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
    delay_seconds,
    delayed_message,
    lock_queue,
    malformed_message,
    waiting_queue,
)
from coding_agent_core.queues.rabbitmq.publisher import ConfirmingChannel
from coding_agent_core.runtime.retry import first_of
from coding_agent_core.settings.model import RabbitMQ
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.queued_task import QueuedTask

_logger = logging.getLogger("coding_agent.queue")


class RabbitMQSource:
    """The source of tasks. Each iterator has its own connection, so that item locks exclude each other.

    Args:
        hosts: the host of each platform, for messages that do not name their host.
    """

    def __init__(
        self,
        settings: RabbitMQ,
        hosts: Mapping[Platform, str],
        *,
        timing: Timing = Timing(),  # noqa: B008 - immutable
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._timing = timing
        self._tracker = DeliveryTracker()
        self._io = IoThread("rabbitmq-consumer")
        # The lock of each connection lets one caller close it while others wait until it is closed.
        self._connections: dict[ConsumerConnection, asyncio.Lock] = {}
        self._closing = asyncio.Event()

    async def claims(self, stop: asyncio.Event) -> AsyncGenerator[Claim, None]:
        if self._closing.is_set():
            return
        loop = asyncio.get_running_loop()
        connection = ConsumerConnection(
            self._settings, self._hosts, self._tracker, self._timing, self._io, loop
        )
        self._connections[connection] = asyncio.Lock()  # before it starts: `aclose` must find it
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
        except BrokerError:
            if not self._closing.is_set():  # otherwise `aclose` stopped the thread during the call
                raise
        finally:
            await self._close(connection)

    async def aclose(self) -> None:
        """Close the connections; tasks that are still claimed go back to the queue."""
        self._closing.set()
        await asyncio.gather(*(self._close(connection) for connection in list(self._connections)))
        await self._io.stop()

    async def _close(self, connection: ConsumerConnection) -> None:
        lock = self._connections.get(connection)
        if lock is None:
            return
        async with lock:
            if connection in self._connections:  # it stays there until it is closed, so that `aclose` waits
                await self._io.run(connection.close())
                del self._connections[connection]


@dataclass(eq=False)
class RabbitMQClaim:
    """The claim of a message. Its events belong to the program's loop, all else to the connection's thread.

    Attributes:
        is_locked: whether we hold the item's lock, which is then taken again after a reconnection.
        is_refused: whether another consumer has the item, so that this attempt never started.
    """

    task: QueuedTask
    delivery: UnackedDelivery
    redelivered: bool
    connection: ConsumerConnection

    def __post_init__(self) -> None:
        self.lost, self.settled = asyncio.Event(), asyncio.Event()
        self.is_locked = self.is_refused = self.is_lost = False
        self._io = self.connection.io
        self._queue = self.connection.settings.queue
        self.lock = lock_queue(self._queue, self.task.request.item)

    @asynccontextmanager
    async def item_lock(self) -> AsyncIterator[bool]:
        """Hold the item's lock among all consumers of the broker; `False` if another consumer has it.

        In that case the caller ends the claim with `retry`, because the other consumer may still crash; with
        `done` only if the item shows that nobody asks for this message's work any more.
        """
        held = not self._io.stopped and await self._io.run(self.connection.lock_item(self))
        try:
            yield held
        finally:
            if held and not self._io.stopped:
                await self._io.run(self.connection.unlock_item(self))

    async def holds_item(self) -> bool:
        return not self._io.stopped and await self._io.run(self.connection.holds_item(self))

    async def done(self) -> None:
        await self._settle(None)

    async def retry(self, delay: float, attempt: int) -> float | None:
        """Publish a copy for later, wait for its confirmation, and then acknowledge the original.

        A crash in between leaves both messages, so that the task is never lost. If the broker is unavailable
        for longer than `Timing.settle`, it delivers the original again.
        """
        seconds = delay_seconds(delay)
        copy = self.task.model_copy(update={"attempt": attempt})
        comes_again = attempt == self.task.attempt
        # A message for the same attempt keeps this mark: another consumer may have started the attempt.
        redelivered = comes_again and self.redelivered
        message = delayed_message(self._queue, copy, seconds, redelivered=redelivered)
        return seconds if await self._settle(message, comes_again=comes_again) else None

    async def dead_letter(self, reason: str) -> None:
        """Publish a copy to the dead-letter queue, wait for its confirmation, and then acknowledge.

        After a crash in between, the task can be in the dead-letter queue twice, but it is never lost.
        """
        await self._settle(dead_message(self._queue, self.task, reason))

    async def _settle(self, copy: Message | None, *, comes_again: bool = False) -> bool:
        """End the claim. Return `False` if this failed and the message is back in the queue."""
        done = False
        if not self._io.stopped:  # otherwise the source was closed
            done = await self._io.run(self.connection.settle(self, copy, comes_again=comes_again))
        self.settled.set()
        return done


@dataclass(eq=False)
class ConsumerConnection:
    """A connection that consumes one task at a time, and reconnects. Its methods run in the `io` thread.

    While a task is claimed, nothing else is consumed. After a reconnection, the broker may deliver the task's
    message to another consumer, which cannot work on it without the item's lock.

    Attributes:
        loop: the program's event loop, in which a claim's events are set.
    """

    settings: RabbitMQ
    hosts: Mapping[Platform, str]
    tracker: DeliveryTracker
    timing: Timing
    io: IoThread
    loop: asyncio.AbstractEventLoop

    def __post_init__(self) -> None:
        self.claim: RabbitMQClaim | None = None
        self.claimed, self._idle, self._up = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._secrets = Secrets(self.settings.password)
        self._connection: Connection | None = None
        self._publisher: ConfirmingChannel | None = None
        self._rejecting: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> None:
        self._serving = asyncio.create_task(self._serve())

    async def close(self) -> None:
        """Close the connection. A claimed task goes back to the queue. A cancelled call can be repeated."""
        ending = [*self._rejecting, *([self._serving] if self._serving else [])]
        if not self._closing:
            self._closing = True
            for task in ending:
                task.cancel()
        if ending:
            await asyncio.wait(ending)
        if self.claim is not None:
            self._lose(self.claim)
            self.claim = None

    # How a claim ends

    async def lock_item(self, claim: RabbitMQClaim) -> bool:
        """Take the item's lock. If the connection is lost, wait for the next one."""
        # The last holder may have lost only its connection, so it gets time to take the lock again.
        if claim.redelivered:
            await asyncio.sleep(self.timing.relock_grace)
        patience = self.timing.lock_patience
        held = await self._while_claimed(claim, lambda connection: connection.lock(claim.lock, patience))
        claim.is_locked, claim.is_refused = held, not held
        return held

    async def holds_item(self, claim: RabbitMQClaim) -> bool:
        """Whether we hold the lock. If the connection is lost, wait until the lock has been taken again."""

        async def is_locked(connection: Connection) -> bool:
            return claim.is_locked and not claim.is_lost

        return await self._while_claimed(claim, is_locked)

    async def unlock_item(self, claim: RabbitMQClaim) -> None:
        """Release the lock, and delete the item's waiting queue, because its message no longer waits."""
        if claim.is_locked:
            claim.is_locked = False
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(self.timing.connect):
                    waiting = waiting_queue(self.settings.queue, claim.task.request.item)
                    # If this fails, the broker deletes the lock with the connection, and the mark is only
                    # shown to polls.
                    await self._open_connection().delete(claim.lock, waiting)

    async def settle(self, claim: RabbitMQClaim, copy: Message | None, *, comes_again: bool) -> bool:
        """Publish the copy, if any, and then acknowledge the message. Return whether this succeeded.

        Args:
            comes_again: whether the copy is for the same attempt, which must not count as finished.
        """
        if claim.is_lost:
            await self.abandon(claim)
        if self.claim is not claim:
            return False
        if copy is not None and not await self._while_claimed(
            claim, lambda connection: self._moved(connection, copy)
        ):
            _logger.warning("Task %s could not be moved; it will be delivered again", claim.task.name)
            await self.abandon(claim)
            return False
        if not (comes_again or claim.is_refused):
            self.tracker.settle(claim.task)
        # The copy is confirmed by now. If we are killed in between, the message is delivered again, and the
        # comment shows that its attempt is over.
        claim.delivery.acknowledge()
        self._end_claim()
        return True

    async def abandon(self, claim: RabbitMQClaim) -> None:
        """End the claim without an acknowledgement, so that the message goes back to the queue."""
        if self.claim is claim:
            claim.delivery.requeue()
            self._end_claim()

    async def _while_claimed(
        self, claim: RabbitMQClaim, action: Callable[[Connection], Awaitable[bool]]
    ) -> bool:
        """Run an action as soon as there is a connection, again if the connection is lost.

        Returns:
            The action's result, or `False` after `Timing.settle` or if the claim has ended.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timing.settle):
                while self.claim is claim:
                    await self._up.wait()
                    try:
                        return await action(self._open_connection())
                    except BrokerError as error:
                        _logger.warning("%s; trying again", error)
                        await asyncio.sleep(self.timing.first_pause)
        return False

    async def _moved(self, connection: Connection, copy: Message) -> bool:
        if copy.arguments is not None:
            await connection.declare_durable(copy.queue, arguments=copy.arguments)
        await self._publish(copy)
        return True

    async def _publish(self, message: Message) -> None:
        """Publish a message; raise BrokerError if the broker does not confirm it within `Timing.publish`."""
        if self._publisher is None or not self._publisher.is_open:
            self._publisher = await ConfirmingChannel.open(self._open_connection())
        try:
            async with asyncio.timeout(self.timing.publish):
                await self._publisher.publish(message)
        except TimeoutError as error:
            raise BrokerError("RabbitMQ did not confirm a message in time") from error

    def _end_claim(self) -> None:
        self.claim = None
        self.claimed.clear()
        self._idle.set()

    def _lose(self, claim: RabbitMQClaim) -> None:
        claim.is_lost, claim.is_locked = True, False
        with suppress(RuntimeError):  # the program's loop has ended
            self.loop.call_soon_threadsafe(claim.lost.set)

    def _open_connection(self) -> Connection:
        if self._connection is None or not self._connection.is_open:
            raise BrokerError("RabbitMQ is not connected")
        return self._connection

    # Consuming

    async def _serve(self) -> None:
        failures = 0
        patience = self.timing.lock_patience
        while True:
            try:
                connection = await Connection.open(self.settings, self._secrets, self.timing.connect)
                self._connection = connection
                try:
                    await connection.declare_durable(self.settings.queue, dead_queue(self.settings.queue))
                    if self.claim is not None and self.claim.is_locked:
                        await self._lock_again(self.claim, connection, patience)
                    failures = 0
                    self._up.set()
                    await self._consume(connection)
                finally:
                    self._up.clear()
                    await connection.close()
                    # A broker keeps the locks of a dead connection until it notices its end.
                    silence = 2.0 * self.settings.heartbeat if was_silent(connection) else 0.0
                    patience = self.timing.lock_patience + silence
            except BrokerError as error:
                _logger.warning("%s; connecting again", error)
            except Exception:
                # A defect of ours must not stop consuming, because the process would continue and do nothing.
                _logger.exception("Unexpected error; connecting again")
            await asyncio.sleep(self.timing.pause(failures))
            failures += 1

    async def _lock_again(self, claim: RabbitMQClaim, connection: Connection, patience: float) -> None:
        if not await connection.lock(claim.lock, patience):
            name = claim.task.name
            _logger.warning("Another consumer took over task %s while the connection was lost", name)
            self._lose(claim)
            return
        if not claim.is_locked:  # `unlock_item` was called before this connection had the lock
            await connection.delete(claim.lock)

    async def _consume(self, connection: Connection) -> None:
        """Consume while no task is claimed, until the connection ends.

        If a consumer does not acknowledge within the broker's `consumer_timeout`, the broker closes the
        channel. The connection stays open, and with it the item's lock.

        Raises:
            BrokerError: the connection ended, or the queue is gone.
        """
        while True:
            await first_of(self._idle.wait(), asyncio.wait([connection.closed]))
            if connection.closed.done():
                raise closed_error(connection.closed.result())
            channel = await Channel.open(connection)
            await channel.consume(self.settings.queue, self._receive)
            await asyncio.wait([channel.closed])
            error = closed_error(channel.closed.result())
            if not connection.is_open:
                raise error
            _logger.warning("%s", error)
            await asyncio.sleep(self.timing.pause(0))

    def _receive(self, delivery: UnackedDelivery) -> None:
        try:
            task = decode_task(delivery.body, now=datetime.now(UTC), hosts=self.hosts)
        except Exception as error:  # any error would happen again
            rejecting = asyncio.ensure_future(self._reject(delivery, str(error)))
            self._rejecting.add(rejecting)
            rejecting.add_done_callback(self._rejecting.discard)
            return
        if self.tracker.is_settled(task):
            delivery.acknowledge()
            return
        redelivered = delivery.redelivered or (delivery.headers or {}).get(REDELIVERED) is True
        self.claim = RabbitMQClaim(task, delivery, redelivered, self)
        self._idle.clear()
        self.claimed.set()

    async def _reject(self, delivery: UnackedDelivery, reason: str) -> None:
        message = malformed_message(self.settings.queue, delivery.body, reason, delivery.tag)
        _logger.warning("A message that is not a task goes to %s: %s", message.queue, reason)
        try:
            await self._publish(message)
            delivery.acknowledge()
        except BrokerError as error:
            # The message is not acknowledged, so the next channel gets it again.
            _logger.warning("A message could not be moved to %s: %s", message.queue, error)
            delivery.channel.close()
