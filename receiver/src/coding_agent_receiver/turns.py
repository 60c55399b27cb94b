"""The order in which events are stored: withdrawals first, and the events of one item one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

STORING_AT_ONCE = 32
"""Maximum number of events at the queue, enough to keep it busy. More would only wait there, and time out
after the work was done."""
IN_LINE = 300
"""Maximum number of events that wait for their turn at the queue. With those at the queue, they leave more
than 100 of the connections of one address (`ClientLimits`), which is all that an Ingress controller has. An
event that finds no connection gets no 503 either."""


class OverloadedError(Exception):
    """The error if more events arrive than the queue can store."""


@dataclass(eq=False)
class Waiter:
    """An event that waits to be stored.

    Attributes:
        item: identifies the event's item.
        is_withdrawal: whether the event may stop work.
        granted: done when it is the event's turn.
    """

    item: str
    is_withdrawal: bool
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def withdrawn_items(line: Sequence[Waiter]) -> frozenset[str]:
    return frozenset(waiter.item for waiter in line if waiter.is_withdrawal)


def next_in_line(line: Sequence[Waiter], busy: Collection[str]) -> Waiter | None:
    """Return the event to store next; `None` if none can be stored now.

    Events of withdrawn items come first. But the events of one item keep their order: a withdrawal that is
    stored before the label of its own item finds no task, and the label then starts one.

    Args:
        line: the events that wait, in the order of their arrival.
        busy: the items that have an event at the queue.
    """
    first: dict[str, Waiter] = {}
    for waiter in line:
        first.setdefault(waiter.item, waiter)
    ready = [waiter for item, waiter in first.items() if item not in busy]
    withdrawn = withdrawn_items(line)
    return next((waiter for waiter in ready if waiter.item in withdrawn), next(iter(ready), None))


class Turns:
    """A limit on the number of events that are stored at the same time, with a line for the others.

    Args:
        longest_wait: the maximum number of seconds in the line.

    Attributes:
        waiting: the events in line, in the order of their arrival.
        busy: the items that have an event at the queue.

    Example:
        async with turns.turn(item.identity, is_withdrawal=False):
            await sink.submit(request)
    """

    def __init__(self, longest_wait: float) -> None:
        self._longest_wait = longest_wait
        self.waiting: list[Waiter] = []
        self.busy: set[str] = set()

    @property
    def overloaded(self) -> bool:
        """Whether there is no room in the line, even for a withdrawal."""
        return self._is_full and {waiter.item for waiter in self.waiting} == withdrawn_items(self.waiting)

    @property
    def _is_full(self) -> bool:
        return len(self.waiting) >= IN_LINE

    @asynccontextmanager
    async def turn(self, item: str, *, is_withdrawal: bool) -> AsyncIterator[None]:
        """Wait for a turn, and hold it while the context is open.

        Raises:
            OverloadedError: the turn did not come in time, or there is no room in the line.
        """
        waiter = Waiter(item, is_withdrawal)
        if self._is_full:
            self._make_room(waiter)
        self.waiting.append(waiter)
        self._grant()
        try:
            async with asyncio.timeout(self._longest_wait):
                await waiter.granted
        except BaseException as error:
            self._leave(waiter)
            if isinstance(error, TimeoutError):
                raise OverloadedError from error
            raise
        try:
            yield
        finally:
            self._end(waiter)

    def _make_room(self, waiter: Waiter) -> None:
        """Refuse the newest event of an item that is not withdrawn, to make room for a withdrawal."""
        kept = withdrawn_items(self.waiting) | {waiter.item}
        leaving = next((one for one in reversed(self.waiting) if one.item not in kept), None)
        if not waiter.is_withdrawal or leaving is None:
            raise OverloadedError
        self.waiting.remove(leaving)
        if not leaving.granted.done():  # see `_grant`
            leaving.granted.set_exception(OverloadedError())

    def _leave(self, waiter: Waiter) -> None:
        if waiter in self.waiting:
            self.waiting.remove(waiter)
            self._grant()  # it may have held back later events of its item
        elif waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
            self._end(waiter)

    def _end(self, waiter: Waiter) -> None:
        self.busy.discard(waiter.item)
        self._grant()

    def _grant(self) -> None:
        while len(self.busy) < STORING_AT_ONCE:
            waiter = next_in_line(self.waiting, self.busy)
            if waiter is None:
                return
            self.waiting.remove(waiter)
            if waiter.granted.done():
                # The wait was cancelled by its time limit or by the sender, but its task has not run since.
                # If the event got a turn now, nobody would end the turn.
                continue
            self.busy.add(waiter.item)
            waiter.granted.set_result(None)
