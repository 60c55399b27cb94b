"""When an item's history shows an event: at once, or later than the item and the webhook."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from coding_agent_testbed.forge.delivery_settings import Share
from coding_agent_testbed.forge.model import ItemEvent

_READ_TWICE_S = 10.0
"""Seconds after which every read shows an event that is due: each replica of a database catches up."""


class HistorySettings(BaseModel):
    """How far the lists of an item's events are behind; by default, they show each event at once.

    The delay of an event depends on the seed and on the event, and not on the readers.

    Attributes:
        late_seconds: a list shows each event so many seconds after it happened, evenly between the two.
        second_read: the share of the events that the first read of the list lacks, even if they are due, for
            at most ten seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    late_seconds: tuple[float, float] = (0.0, 0.0)
    second_read: Share = Field(default=0.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        least, most = self.late_seconds
        if not 0 <= least <= most <= 3600:
            raise ValueError("late_seconds: give the least and the most seconds, 0 to 3600")
        return self

    def delay(self, event: ItemEvent) -> tuple[float, bool]:
        """Return the seconds before a list shows an event, and whether the first read then lacks it."""
        random = Random(f"{self.seed} {event.event} {event.id}")
        return random.uniform(*self.late_seconds), random.random() < self.second_read


class History:
    """What the lists of events show: as in a database's replica, no event without all earlier ones.

    Attributes:
        settings: may be changed at any time.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.settings = HistorySettings()
        self._now = now
        self._missed: set[tuple[str, int]] = set()

    def shown(self, events: Sequence[ItemEvent], *, first_page: bool) -> list[ItemEvent]:
        """Return the events that a list shows now.

        Args:
            events: all events of the list, the oldest first.
            first_page: whether somebody begins to read the list. Other pages belong to the same read.
        """
        if self.settings == HistorySettings():
            return list(events)
        now, shown, behind = self._now(), list[ItemEvent](), False
        for event in events:
            late, second_read = self.settings.delay(event)
            key = event.event, event.id
            if now < event.recorded_at + late:
                break
            if second_read and key not in self._missed and now < event.recorded_at + late + _READ_TWICE_S:
                behind = True
                if first_page:
                    self._missed.add(key)
            if not behind:
                shown.append(event)
        return shown
