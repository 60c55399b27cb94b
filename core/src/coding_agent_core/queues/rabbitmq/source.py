"""Takes tasks from RabbitMQ."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from coding_agent_core.messages import QueuedTask
from coding_agent_core.platforms import Platform
from coding_agent_core.queues.protocol import Claim
from coding_agent_core.queues.rabbitmq.desk import Desk
from coding_agent_core.queues.rabbitmq.io_thread import IoThread
from coding_agent_core.queues.rabbitmq.link import Hand, Link
from coding_agent_core.queues.rabbitmq.timing import Timing
from coding_agent_core.queues.waiting import first_of
from coding_agent_core.settings.queues import RabbitMQ

_logger = logging.getLogger("coding_agent.queue")


class RabbitMQClaim:
    """See `Claim`. Its connection lives in another thread; these methods cross over."""

    def __init__(self, hand: Hand, link: Link, io: IoThread) -> None:
        self.cancelled = asyncio.Event()
        self.why_cancelled = ""
        self.lost = asyncio.Event()
        self.settled = asyncio.Event()
        self._hand = hand
        self._link = link
        self._io = io
        loop = asyncio.get_running_loop()
        hand.on_lost.append(lambda: None if loop.is_closed() else _call(loop, self.lost))

    @property
    def task(self) -> QueuedTask:
        """The task."""
        return self._hand.task

    @property
    def redelivered(self) -> bool:
        """This attempt was handed out before; also after `retry` because of a refused claim."""
        return self._hand.redelivered

    @asynccontextmanager
    async def item_lock(self) -> AsyncIterator[bool]:
        """Hold the item's lock among all consumers of the broker; see `Claim` and decision record 0005.

        Where another has it, settle with `retry`, never with `done`: that consumer may still die.
        Such a retry does not count as an attempt.
        """
        held = not self._io.stopped and await self._io.run(self._link.claim(self._hand))
        try:
            yield held
        finally:
            if held and not self._io.stopped:
                await self._io.run(self._link.unclaim(self._hand))

    def ending(self) -> None:
        """Nothing to do: each application of the label is a message of its own."""

    async def done(self) -> None:
        """Acknowledge the message."""
        await self._settle(self._link.done(self._hand))

    async def retry(self, delay: float) -> None:
        """Put a copy into the delay queue, confirmed, then acknowledge the original.

        Where the broker stays away the original is handed out again instead, without the delay.
        """
        await self._settle(self._link.retry(self._hand, delay))

    async def dead_letter(self, reason: str) -> None:
        """Put a copy into the dead letter queue with the reason, confirmed, then acknowledge the original."""
        await self._settle(self._link.dead_letter(self._hand, reason))

    async def _settle(self, work: Coroutine[Any, Any, None]) -> None:
        if self._io.stopped:  # the source was closed, and the message is back in the queue
            work.close()
        else:
            await self._io.run(work)
        self.settled.set()


class RabbitMQSource:
    """See `TaskSource`. Each iterator has a connection of its own, so that claims exclude each other.

    Args:
        hosts: the configured host of each platform, for messages that do not name theirs.
        drain: the iterators end when the queue is empty; tasks that wait for a retry stay in the broker.
    """

    def __init__(
        self,
        settings: RabbitMQ,
        hosts: Mapping[Platform, str],
        *,
        drain: bool = False,
        timing: Timing | None = None,
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._drain = drain
        self._timing = timing or Timing()
        self._desk = Desk()
        self._io = IoThread("rabbitmq-consumer")
        self._links: set[Link] = set()
        self._closing = asyncio.Event()

    async def claims(self, stop: asyncio.Event) -> AsyncIterator[Claim]:
        """One claim at a time; see `TaskSource`."""
        link = await self._io.run(self._open())
        self._links.add(link)
        try:
            while not (stop.is_set() or self._closing.is_set()):
                waits = [stop.wait(), self._closing.wait(), self._io.run(link.take())]
                if self._drain:
                    waits.append(self._io.run(link.drained()))
                await first_of(*waits)
                if stop.is_set() or self._closing.is_set():
                    break
                hand = await self._io.run(link.peek())
                if hand is None:
                    break  # drained
                claim = RabbitMQClaim(hand, link, self._io)
                yield claim
                await first_of(claim.settled.wait(), claim.lost.wait(), stop.wait(), self._closing.wait())
                if claim.lost.is_set() and not self._closing.is_set():
                    await self._io.run(link.abandon(hand))
        finally:
            await self._close(link)

    async def aclose(self) -> None:
        """Close the connections; unsettled tasks go back to the queue."""
        self._closing.set()
        for link in list(self._links):
            await self._close(link)
        await self._io.stop()

    async def _close(self, link: Link) -> None:
        if link in self._links:
            self._links.discard(link)
            await self._io.run(link.close())

    async def _open(self) -> Link:
        return Link(self._settings, self._hosts, self._desk, self._timing)


def _call(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)
