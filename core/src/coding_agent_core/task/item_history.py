"""What a forge says about an item: events in its own order, and how far they were read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import zip_longest

_TEXT = re.compile(r"\d{1,18}(?:\.\d{1,18})*", re.ASCII)


class ItemAction(StrEnum):
    """What somebody did to an item."""

    LABELED = "labeled"
    UNLABELED = "unlabeled"
    CLOSED = "closed"
    """The item was closed or merged."""
    REOPENED = "reopened"


@dataclass(frozen=True)
class ItemEvent:
    """An event in an item's history.

    Attributes:
        id: the forge's number; 0 for a label that was given when the item was created, if the forge has no
            event for it.
        label: the label that was applied or removed; empty for other events.
        user: the login of the person; empty if it is not known.
        at: the time by the forge's clock, to be shown and never compared.
        series: which of the forge's lists has the event. GitLab numbers labels (0) and states (1) separately.
    """

    id: int
    action: ItemAction
    label: str
    user: str
    at: datetime
    series: int = 0


@dataclass(frozen=True)
class Position:
    """How far a history was read: the largest id in each of its lists."""

    ids: tuple[int, ...] = ()

    @staticmethod
    def parse(text: str | None) -> Position | None:
        """Return the position that `str` has written; `None` if the text is no position."""
        if text is None or _TEXT.fullmatch(text) is None:
            return None
        return Position(tuple(int(part) for part in text.split(".")))

    def __str__(self) -> str:
        return ".".join(map(str, self.ids or (0,)))

    def covers(self, event: ItemEvent) -> bool:
        """Whether the event is at this position or before it."""
        return event.id <= (self.ids[event.series] if event.series < len(self.ids) else 0)

    def after(self, event: ItemEvent) -> Position:
        """Return the position that covers this event too."""
        ids = [*self.ids, *[0] * (event.series + 1 - len(self.ids))]
        ids[event.series] = max(ids[event.series], event.id)
        return Position(tuple(ids))


def furthest(positions: Iterable[Position | None]) -> Position | None:
    """Return the position that covers all these positions; `None` if there is none."""
    known = [position.ids for position in positions if position is not None]
    if not known:
        return None
    return Position(tuple(max(ids) for ids in zip_longest(*known, fillvalue=0)))


@dataclass(frozen=True)
class ItemHistory:
    """What was read of an item.

    Attributes:
        events: the events of active labels and of closing; the oldest is first, in the forge's own order.
        present: the labels on the item.
        open: whether the item is neither closed nor merged.
        triggers: the labels that ask for a task.
        active: the labels of waiting and running tasks, with the triggers.
        own_login: our own account. Its labels ask for nothing, and its removals withdraw nothing.
        complete: whether all events after the last answered one were read.
        current: whether the history certainly has the event for which it was read. A forge's history may be
            behind its webhooks, so an event that it does not show proves nothing before that.
    """

    events: Sequence[ItemEvent]
    present: frozenset[str]
    open: bool
    triggers: frozenset[str]
    active: frozenset[str]
    own_login: str
    complete: bool = True
    current: bool = True

    def position(self, base: Position | None = None) -> Position:
        """Return the position of the newest event, or the base if that is further."""
        position = base or Position()
        for event in self.events:
            position = position.after(event)
        return position
