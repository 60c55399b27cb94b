"""Exactly one task for each application of the label: the pure decisions (design, *Exactly one task*).

Every origin (webhook, poll, redelivery, a person) asks the same `admit`; whoever stores tasks arbitrates
races by refusing a second task of the same name and asking again with the latest one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.tasks import Origin, Trigger


@dataclass(frozen=True)
class LatestTask:
    """What admission must know of an item's newest task.

    Attributes:
        run: number of the run, from 1.
        terminal: it ended, one way or another.
        cancel_requested: someone asked to stop it.
        acknowledged: the forge showed our own label swap at least once since the task began.
        created_at: aware, by the store's clock.
        labeled_at: newest time at which the label is known to have been applied, by the forge's clock.
        delivery_ids: ids of the deliveries that this task already answers for.
    """

    name: str
    run: int
    terminal: bool
    cancel_requested: bool
    acknowledged: bool
    created_at: datetime
    labeled_at: datetime | None = None
    delivery_ids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Create:
    """Create the item's run of this number.

    Attributes:
        after: name of the run that must end before this one may start, if one is still active.
    """

    run: int
    after: str | None = None


@dataclass(frozen=True)
class Duplicate:
    """This application already has its task.

    Attributes:
        task: name of that task.
        why: a sentence for logs.
        labeled_at: newer than what the task knows: to be recorded on it, so that an older unlabel that
            arrives late does not cancel the task.
    """

    task: str
    why: str
    labeled_at: datetime | None = None


Decision = Create | Duplicate


def admit(event: Trigger, latest: LatestTask | None) -> Decision:
    """Decide whether a label application becomes a task."""
    if latest is None:
        return Create(run=1)
    newer = _newer(event.labeled_at, latest.labeled_at)
    if event.delivery_id is not None and event.delivery_id in latest.delivery_ids:
        return Duplicate(latest.name, "this delivery was seen before", newer)
    if not latest.terminal:
        if not latest.cancel_requested:
            return Duplicate(latest.name, "the item's task has not ended", newer)
        # A webhook that was sent before the cancel can arrive after it; only one that is known to be older
        # than the label application of the cancelled task is stale.
        if _not_after(event.labeled_at, latest.labeled_at):
            return Duplicate(latest.name, "this label was applied before the task that is being cancelled")
        return Create(run=latest.run + 1, after=latest.name)
    if event.origin is Origin.POLL and not latest.acknowledged:
        return Duplicate(latest.name, "the label is left from the run that ended; it was never swapped")
    known = max(filter(None, (latest.created_at, latest.labeled_at)))
    if event.labeled_at is not None and event.labeled_at <= known:
        return Duplicate(latest.name, "this label was applied before the run that ended")
    return Create(run=latest.run + 1)


@dataclass(frozen=True)
class Cancel:
    """Cancel this task."""

    task: str


@dataclass(frozen=True)
class Keep:
    """Leave everything as it is, for the reason given."""

    why: str


def withdraw(at: datetime | None, latest: LatestTask | None) -> Cancel | Keep:
    """Decide whether a removed label (or a closed item) cancels the item's task.

    Args:
        at: when, by the forge's clock. Deliveries come late and out of order: one that is not newer than the
            last application of the label is ignored, for unwanted work costs less than lost work.
        latest: the item's newest task.
    """
    if latest is None:
        return Keep("the item has no task")
    if latest.terminal:
        return Keep("the item's task has ended")
    if latest.cancel_requested:
        return Keep("the task is being cancelled already")
    if _not_after(at, latest.labeled_at):
        return Keep("the label was applied again since")
    return Cancel(latest.name)


def _newer(candidate: datetime | None, known: datetime | None) -> datetime | None:
    return candidate if candidate is not None and (known is None or candidate > known) else None


def _not_after(moment: datetime | None, known: datetime | None) -> bool:
    return moment is not None and known is not None and moment <= known
