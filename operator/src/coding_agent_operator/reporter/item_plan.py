"""What the reporter does on an item, given the state of its newest run and what the item shows. Pure.

People's labels are the last authority. Where they contradict the task for longer than a grace time, the task
is corrected. Until then nothing is written that would hide the contradiction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from coding_agent_core.admission import LatestTask
from coding_agent_core.forge.protocol import ItemState
from coding_agent_core.reporting import label_changes
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Origin, Phase

from coding_agent_operator.observed import Task

_SAME_APPLICATION = timedelta(seconds=10)
"""The times of one label application, from a webhook and from the item's history, differ by less than
this."""


class LabelContradiction(StrEnum):
    """How an item contradicts its task."""

    ITEM_CLOSED = "item_closed"
    """The item was closed while its task is active."""
    LABEL_REMOVED = "label_removed"
    """The labels that ask for a task and the processing label are all gone while the task is active."""
    LABEL_APPLIED_AGAIN = "label_applied_again"
    """A label that asks for a task was applied again after the task had ended."""


CORRECTION_EVENTS = {
    LabelContradiction.ITEM_CLOSED: ("ItemClosed", "The item was closed, so its task is cancelled."),
    LabelContradiction.LABEL_REMOVED: (
        "LabelRemoved",
        "The item no longer has any of the bot's labels, so its task is cancelled.",
    ),
    LabelContradiction.LABEL_APPLIED_AGAIN: (
        "LabelAppliedAgain",
        "The label was applied to the item again, so a new run starts.",
    ),
}
"""Reason and message of the task's Event."""
CANCELLATION_CAUSES = {
    LabelContradiction.ITEM_CLOSED: "the item was closed",
    LabelContradiction.LABEL_REMOVED: "the item no longer has any of the bot's labels",
}
"""As the item's comment gives them."""


@dataclass(frozen=True)
class PendingCorrection:
    contradiction: LabelContradiction
    since: datetime
    """When it was first seen, by our own clock."""


@dataclass(frozen=True)
class NewestRun:
    """The state of an item's newest run.

    Attributes:
        acknowledged: the item has shown our label swap at least once.
        work_ended: when the work of an ended task was over; a label applied after that asks for a new run.
        applied_for: when the label that made this task was applied, by the forge's clock.
        labeled_at: the newest label application that the task knows of, by the forge's clock.
        end_shown: since when the item shows the end of the task.
    """

    phase: Phase
    origin: Origin
    cancel_requested: bool
    acknowledged: bool
    work_ended: datetime
    applied_for: datetime | None = None
    labeled_at: datetime | None = None
    end_shown: datetime | None = None


def phase_to_show(task: Task) -> Phase:
    """The phase by the conditions, which are authoritative."""
    if (ended := task.status.terminal_phase) is not None:
        return ended
    recorded = task.status.phase
    return recorded if recorded is not None and not recorded.terminal else Phase.QUEUED


def newest_run(task: Task, latest: LatestTask, end_shown: datetime | None) -> NewestRun:
    """The state that `plan_item` needs; `latest` is the same task as admission sees it."""
    condition = task.status.condition("Succeeded")
    ended = condition.last_transition_time if condition else task.created
    completions = [a.completion_time for a in task.status.attempts if a.completion_time is not None]
    return NewestRun(
        phase=phase_to_show(task),
        origin=task.spec.trigger.origin,
        cancel_requested=task.spec.cancel,
        acknowledged=latest.acknowledged,
        work_ended=min(ended, completions[-1]) if completions else ended,
        applied_for=task.spec.trigger.labeled_at,
        labeled_at=latest.labeled_at,
        end_shown=end_shown,
    )


@dataclass(frozen=True)
class ItemPlan:
    """What to do on an item, in this order: add labels, remove labels, acknowledge, correct.

    Attributes:
        acknowledge: the item then shows our label swap.
        pending: the contradiction to remember; requeue for the end of its grace time.
        correct: correct the task now.
        settled: the end is shown, and nothing has contradicted it during the grace time.
    """

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    acknowledge: bool = False
    pending: PendingCorrection | None = None
    correct: LabelContradiction | None = None
    settled: bool = False


def needs_label_time(run: NewestRun, item: ItemState, labels: Labels) -> bool:
    """Whether `plan_item` needs to know if the label was applied before or after the work ended."""
    return run.phase.terminal and item.open and bool(labels.triggers & item.labels)


def plan_item(
    run: NewestRun,
    item: ItemState,
    labels: Labels,
    *,
    applied: datetime | None,
    applied_by_us: bool = False,
    pending: PendingCorrection | None,
    now: datetime,
    grace: timedelta,
) -> ItemPlan:
    """Decide what to do on the item.

    Args:
        applied: when such a label was last applied, by the forge's clock; `None` if that is not known.
        applied_by_us: our own account applied it, which asks for nothing.
        pending: what an earlier reconcile found.
    """
    found = _contradiction(run, item, labels, applied)
    if found is LabelContradiction.LABEL_APPLIED_AGAIN and applied_by_us:
        found = None
    if found is None:
        pending = None
    elif pending is None or pending.contradiction is not found:
        pending = PendingCorrection(found, now)
    overdue = pending is not None and now - pending.since >= grace
    add, remove = _label_changes(run, item, labels, found)
    after = (item.labels | set(add)) - set(remove)
    swapped = not labels.triggers & after and (run.phase.terminal or labels.processing_label in after)
    end_is_old = run.end_shown is not None and now - run.end_shown >= grace
    return ItemPlan(
        add=add,
        remove=remove,
        acknowledge=swapped and not run.acknowledged,
        pending=pending,
        correct=found if overdue else None,
        settled=run.phase.terminal and found is None and end_is_old,
    )


def _contradiction(
    run: NewestRun, item: ItemState, labels: Labels, applied: datetime | None
) -> LabelContradiction | None:
    if run.phase.terminal:
        again = needs_label_time(run, item, labels) and _applied_again(run, applied)
        return LabelContradiction.LABEL_APPLIED_AGAIN if again else None
    if run.cancel_requested:
        return None
    if not item.open:
        return LabelContradiction.ITEM_CLOSED
    # A task that was created by hand has no label until we add the processing label.
    expects_label = run.origin is not Origin.MANUAL or run.acknowledged
    if expects_label and not labels.active & item.labels:
        return LabelContradiction.LABEL_REMOVED
    return None


def _applied_again(run: NewestRun, applied: datetime | None) -> bool:
    """Whether the label on an ended task's item is a new application, not the one that made the task."""
    if applied is None:  # new if the label was off the item at some time
        return run.acknowledged or run.end_shown is not None
    # Both times are the forge's. Against our clock, a forge whose clock is ahead would create run after run.
    if run.applied_for is None:
        if not run.acknowledged:
            return False
    elif applied <= run.applied_for + _SAME_APPLICATION:
        return False
    if run.end_shown is not None or applied > run.work_ended:
        return True
    newer = run.labeled_at is not None and applied > run.labeled_at + _SAME_APPLICATION
    return run.phase is Phase.CANCELLED and newer


def _label_changes(
    run: NewestRun, item: ItemState, labels: Labels, found: LabelContradiction | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if run.end_shown is not None:
        return (), ()  # an end is shown once; afterwards the labels belong to people
    if not run.phase.terminal and (run.cancel_requested or found is LabelContradiction.LABEL_REMOVED):
        return (), ()  # a label that a person removed must not come back
    add, remove = label_changes(run.phase, labels, item.labels)
    if found is LabelContradiction.LABEL_APPLIED_AGAIN:
        remove = [label for label in remove if label not in labels.triggers]
    return tuple(add), tuple(remove)
