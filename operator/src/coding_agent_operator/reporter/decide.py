"""What follows from how a task stands and what its item shows: the reporter's whole rule. Pure.

Labels belong to people: where they say otherwise than the task for longer than a grace time, the task is
corrected (design, *Exactly one task*), and meanwhile nothing is written that would hide what they say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from coding_agent_core.phases import Phase
from coding_agent_core.reporting.render import label_changes
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Origin

_CLOCKS = timedelta(seconds=10)
"""Two times of one label application, as a webhook and as the item's history tell it, differ less."""


class Says(StrEnum):
    """What an item says against its task."""

    CLOSED = "closed"
    """The item was closed while its task is active."""
    WITHDRAWN = "withdrawn"
    """None of the flow's labels is left on it while its task is active."""
    ASKED = "asked"
    """The bot label was put on again although its task has ended."""


@dataclass(frozen=True)
class Doubt:
    """The item says otherwise than the task, since a time of our own clock."""

    says: Says
    since: datetime


@dataclass(frozen=True)
class Item:
    """What the item shows."""

    labels: frozenset[str]
    open: bool


@dataclass(frozen=True)
class Standing:
    """What is known of the newest run of an item.

    Attributes:
        acknowledged: our label swap was shown at least once.
        work_ended: when the work of a task that has ended was over: from then on a label asks for a new run.
        asked_at: when the label was put on that the task was made for, by the forge's clock.
        labeled_at: newest label application that the task knows of, by the same clock.
        shown: its end was shown before, the bot label taken off with it, since that time.
    """

    phase: Phase
    origin: Origin
    cancel_requested: bool
    acknowledged: bool
    work_ended: datetime
    asked_at: datetime | None = None
    labeled_at: datetime | None = None
    shown: datetime | None = None


@dataclass(frozen=True)
class Plan:
    """What to do on an item, in this order: labels on, labels off, acknowledge, correct.

    Attributes:
        acknowledge: after that the swap has been shown.
        doubt: what to remember; look again when its grace is over.
        correct: the task is to be corrected now.
        settled: the end is shown and nothing has spoken against it for the grace time.
    """

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    acknowledge: bool = False
    doubt: Doubt | None = None
    correct: Says | None = None
    settled: bool = False


def asks_for_time(standing: Standing, item: Item, labels: Labels) -> bool:
    """Whether it must be known when the bot label was put on: before or after the work had ended."""
    return standing.phase.terminal and item.open and labels.bot_label in item.labels


def says(standing: Standing, item: Item, labels: Labels, applied: datetime | None) -> Says | None:
    """What the item says against the task.

    Args:
        applied: when the bot label was put on, by the forge's clock, if it is on and the forge tells.
    """
    if standing.phase.terminal:
        asked = asks_for_time(standing, item, labels) and _applied_again(standing, applied)
        return Says.ASKED if asked else None
    if standing.cancel_requested:
        return None
    if not item.open:
        return Says.CLOSED
    # A task begun by hand has no label until our own is put on.
    labelled = standing.origin is not Origin.MANUAL or standing.acknowledged
    if labelled and not {labels.bot_label, labels.processing_label} & item.labels:
        return Says.WITHDRAWN
    return None


def _applied_again(standing: Standing, applied: datetime | None) -> bool:
    """The bot label on an ended task is a new application, not a rest of the one it answers for."""
    if applied is None:  # at a tie the label wins, if it was off once
        return standing.acknowledged or standing.shown is not None
    # One clock, the forge's: without this a forge whose clock is ahead would make run after run.
    if not _later(applied, standing.asked_at, unknown=standing.acknowledged):
        return False
    if standing.shown is not None or applied > standing.work_ended:
        return True
    return standing.phase is Phase.CANCELLED and _later(applied, standing.labeled_at, unknown=False)


def _later(applied: datetime, known: datetime | None, *, unknown: bool) -> bool:
    return unknown if known is None else applied > known + _CLOCKS


def decide(
    standing: Standing,
    item: Item,
    labels: Labels,
    *,
    applied: datetime | None,
    doubt: Doubt | None,
    now: datetime,
    grace: timedelta,
) -> Plan:
    """Decide what to write, for the newest run of an item.

    Args:
        doubt: what was remembered from an earlier look.
    """
    against = says(standing, item, labels, applied)
    if against is None:
        doubt = None
    elif doubt is None or doubt.says is not against:
        doubt = Doubt(against, now)
    over = doubt is not None and now - doubt.since >= grace
    add, remove = _labels(standing, item, labels, against)
    left = (item.labels | set(add)) - set(remove)
    swapped = labels.bot_label not in left and (standing.phase.terminal or labels.processing_label in left)
    return Plan(
        add=add,
        remove=remove,
        acknowledge=swapped and not standing.acknowledged,
        doubt=doubt,
        correct=against if over else None,
        settled=standing.phase.terminal
        and against is None
        and standing.shown is not None
        and now - standing.shown >= grace,
    )


def _labels(
    standing: Standing, item: Item, labels: Labels, against: Says | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if standing.shown is not None:
        return (), ()  # an end is shown once; afterwards the labels are people's
    if not standing.phase.terminal and (standing.cancel_requested or against is Says.WITHDRAWN):
        return (), ()  # whoever took a label off must not see it come back
    add, remove = label_changes(standing.phase, labels, item.labels)
    if against is Says.ASKED:
        remove = [label for label in remove if label != labels.bot_label]
    return tuple(add), tuple(remove)
