"""Decides what the reporter does on an item, from its runs, its history and what it shows now. Pure.

`labels.decide` says what people's labels ask for. Here, this becomes labels to show and Events to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from coding_agent_core.forge.values import ItemState
from coding_agent_core.reporting.comment import label_changes
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.item_history import ItemHistory
from coding_agent_core.task.labels import Decision, Run
from coding_agent_core.task.model import Phase, WithdrawalCause
from coding_agent_core.task.runs import answered_by, stored_rescan, works

WAITS = (2.0, 12.0, 72.0)
"""Seconds after the first read at which a history is read again that may be behind its webhooks: forges show
an event within seconds. After the last, an event that it does not show has not happened."""


class Correction(StrEnum):
    """What the history of an item demands of its runs."""

    ITEM_CLOSED = "item_closed"
    LABEL_REMOVED = "label_removed"
    LABEL_APPLIED = "label_applied"
    DUPLICATE = "duplicate"


CORRECTION_EVENTS = {
    Correction.ITEM_CLOSED: ("ItemClosed", "The item was closed, so its task is cancelled."),
    Correction.LABEL_REMOVED: ("LabelRemoved", "The label was removed, so its task is cancelled."),
    Correction.LABEL_APPLIED: ("LabelAppliedAgain", "The label was applied again, so a new run starts."),
    Correction.DUPLICATE: ("Duplicate", "Another run of the item is active, so this one is cancelled."),
}
"""Reason and message of the Event that the task gets."""
CANCELLATIONS = {
    Correction.ITEM_CLOSED: ("the item was closed", WithdrawalCause.CLOSED),
    Correction.LABEL_REMOVED: ("the item no longer has any of the bot's labels", WithdrawalCause.UNLABELED),
}
"""Causes of a cancellation as the item's comment states them."""


def phase_to_show(task: AgentTask) -> Phase:
    """Return the phase; whether the task has ended is taken from the conditions, which are authoritative."""
    if (ended := task.status.terminal_phase) is not None:
        return ended
    recorded = task.status.phase
    return recorded if recorded is not None and not recorded.terminal else Phase.QUEUED


def must_read_history(runs: Sequence[AgentTask], item: ItemState, labels: Labels, *, unsure: bool) -> bool:
    """Whether the item's history has to be read.

    Args:
        runs: the item's runs; the newest is last.
        unsure: whether the last read may have lacked an event.
    """
    newest = runs[-1]
    if unsure or newest.over or not item.open:
        return True
    if any(works(run) and answered_by(run) is None for run in runs):
        return True
    if any(rescan.labels for run in runs if (rescan := stored_rescan(run)) is not None):
        return True
    return newest.spec.trigger.by_label and not labels.active & item.labels


def is_behind(history: ItemHistory, runs: Sequence[AgentTask]) -> bool:
    """Whether the history does not show an event as new as the one that a webhook has reported."""
    newest = max((event.at for event in history.events), default=None)
    reported = [rescan.event_at for run in runs if (rescan := stored_rescan(run)) and rescan.labels]
    known = [at for at in reported if at is not None]
    return bool(known) and (newest is None or newest < max(known))


def carried_over(history: ItemHistory, task: AgentTask, facts: Run) -> Run:
    """Return a run with the position of its end, if a release that recorded no positions has finished it.

    Only here, a time of the forge is compared with ours, once for each such run.
    """
    ended = task.ended_at
    if facts.answered is not None or not task.reported or ended is None:
        return facts
    before = (event for event in history.events if event.at <= ended)
    return replace(facts, answered=replace(history, events=tuple(before)).position())


@dataclass(frozen=True)
class ItemPlan:
    """What to show on an item, in this order: add labels, remove labels.

    Attributes:
        labels_shown: whether to record that the item shows our label swap.
        finished: whether the item has shown the end for long enough that the history shows what came before.
    """

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    labels_shown: bool = False
    finished: bool = False


def plan_item(
    task: AgentTask,
    item: ItemState,
    labels: Labels,
    *,
    unsure: bool,
    end_shown: datetime | None,
    now: datetime,
    grace: timedelta,
) -> ItemPlan:
    """Decide what to show on the item of a task, which is its newest run and which nothing contradicts.

    Args:
        unsure: whether the history may lack an event.
        end_shown: since when the item shows the end of the task, by our clock.
        grace: how long a history may be behind.
    """
    # The end is shown once; afterwards only people change the labels.
    add, remove = ((), ()) if end_shown else _label_changes(task, item, labels, unsure=unsure)
    after = (item.labels | set(add)) - set(remove)
    swapped = not labels.triggers & after and (task.ended or labels.processing_label in after)
    end_is_old = end_shown is not None and now - end_shown >= grace
    return ItemPlan(
        add=add,
        remove=remove,
        labels_shown=swapped and not task.labels_shown,
        finished=task.ended and not unsure and end_is_old,
    )


def _label_changes(
    task: AgentTask, item: ItemState, labels: Labels, *, unsure: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    may_be_removed = unsure and task.spec.trigger.by_label and not labels.active & item.labels
    if not task.ended and (task.spec.cancel or may_be_removed):
        return (), ()  # a label that a person removed must not come back
    add, remove = label_changes(phase_to_show(task), labels, item.labels)
    # A round does not answer a label, so a label that asks for a task stays for the task's own run. And a
    # label that the history does not explain yet may ask for the next run.
    if task.spec.trigger.round is not None or (unsure and task.ended):
        remove = [label for label in remove if label not in labels.triggers]
    return tuple(add), tuple(remove)


def correction_of(decision: Decision, item: ItemState) -> Correction | None:
    """Return what a decision demands, for people; `None` if it changes no run."""
    if decision.duplicate is not None:
        return Correction.DUPLICATE
    if decision.withdraw:
        return Correction.LABEL_REMOVED if item.open else Correction.ITEM_CLOSED
    return Correction.LABEL_APPLIED if decision.create is not None else None
