"""What this process has in hand and has settled, and the rule for each delivery. Pure."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, auto

from coding_agent_core.messages import QueuedTask

SETTLED_LIMIT = 10_000
"""Attempts that are remembered; a redelivery of a settled one comes within minutes, on reconnection."""


class Route(Enum):
    """What to do with a delivery."""

    TAKE = auto()
    """Hand it to the consumer."""
    ATTACH = auto()
    """It is the task that this very connection works on, delivered again: acknowledge it when that ends."""
    DROP = auto()
    """It was settled here, and only its acknowledgement was lost: acknowledge it now."""
    LATER = auto()
    """Another connection of this process works on it: let it come again later."""
    RETURN = auto()
    """This connection has another task in hand: back to the queue, and take nothing until that ends."""


class Desk:
    """Tasks in hand by connection, and settled attempts."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[object, int]] = {}
        self._settled: OrderedDict[tuple[str, int], None] = OrderedDict()

    def route(self, task: QueuedTask, link: object) -> Route:
        """Decide about a delivery on a connection."""
        if (task.uuid, task.attempt) in self._settled:
            return Route.DROP
        running = self._running.get(task.uuid)
        if running == (link, task.attempt):
            return Route.ATTACH
        if running is not None and running[0] is not link:
            return Route.LATER
        if any(holder is link for holder, _ in self._running.values()):
            return Route.RETURN
        return Route.TAKE

    def begin(self, task: QueuedTask, link: object) -> None:
        """The connection has the task in hand."""
        self._running[task.uuid] = (link, task.attempt)

    def give_back(self, task: QueuedTask) -> None:
        """It has it no more, and the attempt is to come again."""
        self._running.pop(task.uuid, None)

    def settle(self, task: QueuedTask) -> None:
        """The attempt ended: whatever comes of it again is to be dropped."""
        self._running.pop(task.uuid, None)
        self._settled[(task.uuid, task.attempt)] = None
        while len(self._settled) > SETTLED_LIMIT:
            self._settled.popitem(last=False)
