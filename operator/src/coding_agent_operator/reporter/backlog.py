"""Which task to look at next: ends first, bursts coalesced. Pure; times are monotonic seconds.

A task is in it at most once, whatever happens to it meanwhile; of the runs of an item one is taken at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum


class Rank(IntEnum):
    """What comes first."""

    END = 0
    """The task has ended: people wait for this."""
    CHANGE = 1
    """Its phase, attempt or result has changed."""
    POSITION = 2
    """Only its place in the queue has."""
    CHECK = 3
    """Nothing has: whether the item's labels still say the same."""


@dataclass(frozen=True)
class Entry:
    """A task that waits.

    Attributes:
        due: not before.
        since: since when it waits.
        item: runs of the same item write on the same comment.
    """

    rank: Rank
    due: float
    since: float
    item: str


class Backlog:
    """Tasks that wait to be looked at, by name."""

    def __init__(self) -> None:
        self._waiting: dict[str, Entry] = {}
        self._busy: dict[str, Entry] = {}

    def add(self, name: str, rank: Rank, now: float, *, item: str, delay: float = 0.0) -> None:
        """Look at a task after a time; the soonest time asked for counts, then the best rank."""
        due = now + max(0.0, delay)
        known = self._waiting.get(name)
        if known is None:
            self._waiting[name] = Entry(rank, due, due, item)
        elif due < known.due:
            # What was due later is seen by the sooner look as well.
            best = rank if known.due > now else min(rank, known.rank)
            self._waiting[name] = Entry(best, due, min(due, known.since), item)
        elif due <= now or due == known.due:
            self._waiting[name] = replace(known, rank=min(rank, known.rank))

    def take(self, now: float) -> tuple[str, Rank] | None:
        """The task to look at now, if there is one; call `done` with it."""
        taken = {entry.item for entry in self._busy.values()}
        due = [
            (entry.rank, entry.since, name)
            for name, entry in self._waiting.items()
            if entry.due <= now and entry.item not in taken
        ]
        if not due:
            return None
        rank, _, name = min(due)
        self._busy[name] = self._waiting.pop(name)
        return name, rank

    def again(self, name: str, now: float, *, delay: float) -> None:
        """The look has failed: repeat it after a time, unless something else happens sooner."""
        known = self._busy[name]
        self.add(name, known.rank, now, item=known.item, delay=delay)
        self._waiting[name] = replace(self._waiting[name], since=known.since)

    def done(self, name: str) -> None:
        """The look is over; another may begin."""
        self._busy.pop(name, None)

    def forget(self, name: str) -> None:
        """No look is wanted any more."""
        self._waiting.pop(name, None)

    def next_due(self, now: float) -> float | None:
        """Seconds until there is something to take, `None` if nothing is known to come."""
        taken = {entry.item for entry in self._busy.values()}
        soonest = min(
            (entry.due for entry in self._waiting.values() if entry.item not in taken), default=None
        )
        return None if soonest is None else max(0.0, soonest - now)

    def pending(self, now: float) -> list[tuple[str, float]]:
        """What has changed and is not shown, with the seconds since that it has waited."""
        return [
            (name, max(0.0, now - entry.since))
            for name, entry in (self._busy | self._waiting).items()
            if entry.rank in (Rank.END, Rank.CHANGE)
        ]
