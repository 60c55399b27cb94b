"""Which task to look at next: ends first, bursts coalesced. Pure; times are monotonic seconds.

A task is in it at most once, whatever happens to it meanwhile, and is never taken twice at a time.
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
    """

    rank: Rank
    due: float
    since: float


class Backlog:
    """Tasks that wait to be looked at, by name."""

    def __init__(self) -> None:
        self._waiting: dict[str, Entry] = {}
        self._busy: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._waiting

    def add(self, name: str, rank: Rank, now: float, *, delay: float = 0.0) -> None:
        """Look at a task after a time; the soonest time asked for counts, then the best rank."""
        due = now + max(0.0, delay)
        known = self._waiting.get(name)
        if known is None:
            self._waiting[name] = Entry(rank, due, due)
        elif due < known.due:
            # What was due later is seen by the sooner look as well.
            best = rank if known.due > now else min(rank, known.rank)
            self._waiting[name] = Entry(best, due, min(due, known.since))
        elif due <= now or due == known.due:
            self._waiting[name] = replace(known, rank=min(rank, known.rank))

    def take(self, now: float) -> tuple[str, Rank] | None:
        """The task to look at now, if there is one; call `done` with it."""
        due = [
            (entry.rank, entry.since, name)
            for name, entry in self._waiting.items()
            if entry.due <= now and name not in self._busy
        ]
        if not due:
            return None
        rank, _, name = min(due)
        del self._waiting[name]
        self._busy.add(name)
        return name, rank

    def done(self, name: str) -> None:
        """The look is over; another may begin."""
        self._busy.discard(name)

    def forget(self, name: str) -> None:
        """No look is wanted any more."""
        self._waiting.pop(name, None)

    def next_due(self, now: float) -> float | None:
        """Seconds until there is something to take, `None` if nothing is known to come."""
        soonest = min(
            (entry.due for name, entry in self._waiting.items() if name not in self._busy), default=None
        )
        return None if soonest is None else max(0.0, soonest - now)

    def pending(self, now: float) -> list[tuple[str, float]]:
        """What is due and not yet shown, with the seconds that it has waited; checks do not count."""
        return [
            (name, now - entry.since)
            for name, entry in self._waiting.items()
            if entry.due <= now and entry.rank is not Rank.CHECK
        ]
