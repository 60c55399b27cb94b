"""One connection's work: at most one task in hand, its item's lock, and how it is settled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from coding_agent_core.messages import QueuedTask
from coding_agent_core.platforms import Platform
from coding_agent_core.queues.rabbitmq.amqp import BrokerError, Channel, Connection
from coding_agent_core.queues.rabbitmq.claims import lock, unlock
from coding_agent_core.queues.rabbitmq.desk import Desk, Route
from coding_agent_core.queues.rabbitmq.messages import dead_queue, decode, encode, lock_queue
from coding_agent_core.queues.rabbitmq.properties import dead_properties
from coding_agent_core.queues.rabbitmq.timing import Timing
from coding_agent_core.queues.rabbitmq.upkeep import Upkeep
from coding_agent_core.settings.queues import RabbitMQ

_logger = logging.getLogger("coding_agent.queue")


@dataclass(eq=False)
class Hand:
    """The task in hand.

    Attributes:
        channel: of its latest delivery; once that is closed, the message is back in the queue.
        tag: of its latest delivery, on that channel.
        locked: its item's lock is ours, and is to be taken again after a reconnection.
        refused: another has the item, so this attempt never began.
        lost: another consumer has the item now.
        on_lost: called in the connection's thread.
    """

    task: QueuedTask
    redelivered: bool
    channel: Channel
    tag: int
    locked: bool = False
    refused: bool = False
    lost: bool = False
    on_lost: list[Callable[[], None]] = field(default_factory=list)

    def lose(self) -> None:
        """Tell the consumer that the task is another's."""
        self.lost = True
        self.locked = False
        for callback in self.on_lost:
            callback()


class Link:
    """See the module. All methods run in the connection's thread."""

    def __init__(self, settings: RabbitMQ, hosts: Mapping[Platform, str], desk: Desk, timing: Timing) -> None:
        self._queue = settings.queue
        self._dead = dead_queue(settings.queue)
        self._hosts = hosts
        self._desk = desk
        self._timing = timing
        self._hand: Hand | None = None
        self._offered = asyncio.Event()
        self._upkeep = Upkeep(settings, timing, self._relock, self._receive)

    # -- for the iterator

    async def take(self) -> None:
        """Wait until a task is in hand."""
        await self._offered.wait()

    async def peek(self) -> Hand | None:
        """The task in hand."""
        return self._hand

    async def drained(self) -> None:
        """Wait until the queue is empty and nothing is in hand."""
        while True:
            await self._upkeep.up.wait()
            await asyncio.sleep(0.3)  # a delivery that is on its way is neither in the queue nor here
            with suppress(BrokerError):
                channel = await self._upkeep.connection.channel()
                frame = await channel.call(channel.raw.queue_declare, queue=self._queue, passive=True)
                channel.close()
                if frame.method.message_count == 0 and self._hand is None and self._upkeep.idle:
                    return

    async def close(self) -> None:
        """End the connection; what is in hand goes back to the queue."""
        await self._upkeep.close()
        if self._hand is not None:
            hand, self._hand = self._hand, None
            self._desk.give_back(hand.task)
            hand.lose()

    # -- for the claim

    async def claim(self, hand: Hand) -> bool:
        """Take the item's lock; a connection that breaks meanwhile is waited for."""
        held = False
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.settle):
                if hand.redelivered:
                    await asyncio.sleep(self._timing.reclaim_grace)
                while self._hand is hand:
                    await self._upkeep.up.wait()
                    try:
                        connection = self._upkeep.connection
                        held = await lock(connection, self._lock(hand), self._timing.claim_patience)
                        break
                    except BrokerError:
                        await asyncio.sleep(self._timing.first_pause)
        hand.locked = held
        hand.refused = not held
        return held

    async def unclaim(self, hand: Hand) -> None:
        """Let go of the lock."""
        if not hand.locked:
            return
        hand.locked = False
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(self._timing.connect):
                await unlock(self._upkeep.connection, self._lock(hand))

    async def done(self, hand: Hand) -> None:
        """The attempt ended: acknowledge its message, now or when it is delivered again."""
        if hand.lost:
            await self.abandon(hand)
        elif self._hand is hand:
            self._desk.settle(hand.task)
            _acknowledge(hand.channel, hand.tag)
            await self._let_go()

    async def retry(self, hand: Hand, delay: float) -> None:
        """A copy for later, then the acknowledgement: a crash in between leaves both, never none."""
        attempt = hand.task.attempt + (0 if hand.refused else 1)
        copy = hand.task.model_copy(update={"attempt": attempt})
        again = hand.refused and hand.redelivered  # its holder may be the one who has begun this very attempt
        await self._replace(hand, lambda: self._upkeep.publish_later(copy, delay, redelivered=again))

    async def dead_letter(self, hand: Hand, reason: str) -> None:
        """A copy for the dead letter queue, then the acknowledgement."""
        properties = dead_properties(reason, hand.task, f"{hand.task.uuid}.dead")
        await self._replace(hand, lambda: self._upkeep.publish(self._dead, encode(hand.task), properties))

    async def abandon(self, hand: Hand) -> None:
        """Settle nothing: if the message is still ours, it goes back to the queue."""
        if self._hand is hand:
            self._desk.give_back(hand.task)
            _requeue(hand.channel, hand.tag)
            await self._let_go()

    async def _replace(self, hand: Hand, publish: Callable[[], Awaitable[None]]) -> None:
        if hand.lost:
            await self.abandon(hand)
        if self._hand is not hand:
            return
        try:
            async with asyncio.timeout(self._timing.settle):
                await self._published(publish)
        except TimeoutError:
            _logger.warning("Task %s could not be moved; it will be handed out again", hand.task.name)
            await self.abandon(hand)
        else:
            if hand.refused:
                self._desk.give_back(hand.task)  # the same attempt is to come again
            else:
                self._desk.settle(hand.task)
            _acknowledge(hand.channel, hand.tag)
            await self._let_go()

    async def _published(self, publish: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._upkeep.up.wait()
            try:
                return await publish()
            except BrokerError as error:
                _logger.warning("%s; trying again", error)
                await asyncio.sleep(self._timing.first_pause)

    async def _let_go(self) -> None:
        self._hand = None
        self._offered.clear()
        with suppress(BrokerError):
            await self._upkeep.resume()

    def _lock(self, hand: Hand) -> str:
        return lock_queue(self._queue, hand.task.request.item)

    # -- for the upkeep

    async def _relock(self, connection: Connection, patience: float) -> None:
        hand = self._hand
        if hand is None or not hand.locked or await lock(connection, self._lock(hand), patience):
            return
        _logger.warning("Another consumer took task %s over while we were away", hand.task.name)
        hand.lose()

    async def _receive(self, channel: Channel, tag: int, redelivered: bool, body: bytes) -> None:
        try:
            task = decode(body, now=datetime.now(UTC), hosts=self._hosts)
        except Exception as error:  # whatever it is, the next reading would end alike
            _logger.warning("A message that is no task goes to %s: %s", self._dead, error)
            properties = dead_properties(str(error), None, f"malformed.{tag}")
            work: Awaitable[None] = self._upkeep.publish(self._dead, body, properties)
        else:
            match self._desk.route(task, self):
                case Route.TAKE:
                    self._desk.begin(task, self)
                    self._hand = Hand(task=task, redelivered=redelivered, channel=channel, tag=tag)
                    self._offered.set()
                    return
                case Route.ATTACH:
                    assert self._hand is not None  # noqa: S101 - the desk knows it from `begin`
                    self._hand.channel, self._hand.tag = channel, tag
                    return
                case Route.DROP:
                    work = asyncio.sleep(0)
                case Route.LATER:
                    work = self._upkeep.publish_later(task, self._timing.elsewhere, redelivered=True)
                case Route.RETURN:
                    with suppress(BrokerError):
                        await self._upkeep.pause()
                    _requeue(channel, tag)
                    return
        try:
            await work
            _acknowledge(channel, tag)
        except BrokerError as error:
            # Unacknowledged it stays in the queue; the channel that is opened next gets it again.
            _logger.warning("A delivery could not be handled: %s", error)
            channel.close()


def _acknowledge(channel: Channel, tag: int) -> None:
    if channel.is_open:
        channel.raw.basic_ack(tag)


def _requeue(channel: Channel, tag: int) -> None:
    if channel.is_open:
        channel.raw.basic_nack(tag, requeue=True)
