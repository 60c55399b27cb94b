"""What the reporter does on an item, given the state of its newest run and what the item shows. Pure.

People's labels are the last authority. Where they contradict the task for longer than a grace time, the task
is corrected. Until then nothing is written that would hide the contradiction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from coding_agent_core.admission import labeled_at, withdrawn_before
from coding_agent_core.agenttask import AgentTask
from coding_agent_core.forge.values import ItemState, LabelEvent
from coding_agent_core.reporting import label_changes, last_act
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Cause, Origin, Phase

_SECOND = timedelta(seconds=1)


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


def phase_to_show(task: AgentTask) -> Phase:
    """The phase by the conditions, which are authoritative."""
    if (ended := task.status.terminal_phase) is not None:
        return ended
    recorded = task.status.phase
    return recorded if recorded is not None and not recorded.terminal else Phase.QUEUED


def _work_was_over(task: AgentTask) -> datetime | None:
    """When the work of an ended task was over, by the forge's clock: a later label asks for a new run."""
    attempts = task.status.attempts
    return attempts[-1].answered_until if attempts else None


@dataclass(frozen=True)
class ItemPlan:
    """What to do on an item, in this order: record, add labels, remove labels, acknowledge, correct.

    Attributes:
        answered_until: to be recorded before labels that ask for a task are removed: their applications, up
            to this time of the forge's clock, are the task's.
        acknowledge: the item then shows our label swap.
        pending: the contradiction to remember; requeue for the end of its grace time.
        correct: correct the task now.
        settled: the end is shown, and nothing has contradicted it during the grace time.
    """

    answered_until: datetime | None = None
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    acknowledge: bool = False
    pending: PendingCorrection | None = None
    correct: LabelContradiction | None = None
    settled: bool = False


def needs_history(task: AgentTask, item: ItemState, labels: Labels, *, removal_reported: bool) -> bool:
    """Whether `plan_item` needs to know when the labels on the item were applied, or who removed them."""
    if task.ended:
        return _has_trigger(item, labels) or (item.open and _may_have_taken_it(task))
    return removal_reported or _contradiction(task, item, labels, again=False) is not None


def plan_item(
    task: AgentTask,
    item: ItemState,
    labels: Labels,
    *,
    history: Sequence[LabelEvent],
    own_login: str = "",
    removal_reported: bool = False,
    pending: PendingCorrection | None,
    end_shown: datetime | None,
    now: datetime,
    grace: timedelta,
) -> ItemPlan:
    """Decide what to do on the item of a task, which is its newest run.

    Args:
        history: from `Forge.label_history`, read after the item; empty if it does not show the label, or is
            not needed.
        own_login: of our own account, whose labels ask for nothing and whose removals cancel nothing.
        removal_reported: an event has said that the label is gone, so nothing is to be waited for.
        pending: what an earlier reconcile found.
        end_shown: since when the item shows the end of the task, by our clock.
    """
    applied = _application(history, labels.triggers & item.labels)
    # Somebody changes the labels just now, or the forge's answers are of different moments.
    unclear = bool(history) and applied is None and task.ended and _has_trigger(item, labels)
    if _has_trigger(item, labels):
        again = not unclear and _applied_again(task, labels, history, applied, shown=end_shown is not None)
    else:
        again = item.open and _taken_after_work(task, labels, history, own_login)
    found = _contradiction(task, item, labels, again=again)
    if found is not None and _done_by_us(task, found, history, applied, own_login):
        found = None
    works = not task.ended and not task.spec.cancel
    if removal_reported and found is None and works:
        act = last_act(labels.active & item.labels, labels, history, own_login)
        found = LabelContradiction.LABEL_REMOVED if act is not None and not act.added else None
    if found is None:
        pending = None
    elif pending is None or pending.contradiction is not found:
        pending = PendingCorrection(found, now)
    confirmed = removal_reported and found is not LabelContradiction.LABEL_APPLIED_AGAIN
    overdue = pending is not None and (confirmed or now - pending.since >= grace)
    stays = unclear or found is LabelContradiction.LABEL_APPLIED_AGAIN
    # An end is shown once; afterwards the labels belong to people.
    add, remove = ((), ()) if end_shown else _label_changes(task, item, labels, found, stays=stays)
    after = (item.labels | set(add)) - set(remove)
    swapped = not labels.triggers & after and (task.ended or labels.processing_label in after)
    end_is_old = end_shown is not None and now - end_shown >= grace
    return ItemPlan(
        answered_until=item.updated_at if labels.triggers & set(remove) else None,
        add=add,
        remove=remove,
        acknowledge=swapped and not task.acknowledged,
        pending=pending,
        correct=found if overdue else None,
        settled=task.ended and found is None and not unclear and end_is_old,
    )


def _has_trigger(item: ItemState, labels: Labels) -> bool:
    return item.open and bool(labels.triggers & item.labels)


def _application(history: Sequence[LabelEvent], present: frozenset[str]) -> LabelEvent | None:
    """The last application of a label that is still on the item; `None` if the history shows none."""
    removed: set[str] = set()
    for event in history:
        if event.added and event.label in present - removed:
            return event
        if not event.added:
            removed.add(event.label)
    return None


def _contradiction(
    task: AgentTask, item: ItemState, labels: Labels, *, again: bool
) -> LabelContradiction | None:
    if task.ended:
        return LabelContradiction.LABEL_APPLIED_AGAIN if again else None
    if task.spec.cancel:
        return None
    if not item.open:
        return LabelContradiction.ITEM_CLOSED
    # A task that was created by hand has no label until we add the processing label.
    expects_label = task.spec.trigger.origin is not Origin.MANUAL or task.acknowledged
    if expects_label and not labels.active & item.labels:
        return LabelContradiction.LABEL_REMOVED
    return None


def _done_by_us(
    task: AgentTask,
    found: LabelContradiction,
    history: Sequence[LabelEvent],
    applied: LabelEvent | None,
    own_login: str,
) -> bool:
    """Whether our own account made the change that looks like a person's."""
    match found:
        case LabelContradiction.LABEL_APPLIED_AGAIN:
            event = applied
        case LabelContradiction.LABEL_REMOVED:
            # We removed the label at the end of an earlier run, while a person applied it again.
            last = history[0] if history else None
            applied_for = task.spec.trigger.labeled_at
            is_ours = last is not None and (applied_for is None or last.at >= applied_for)
            event = last if is_ours else None
        case LabelContradiction.ITEM_CLOSED:
            event = None
    return event is not None and bool(own_login) and event.user.casefold() == own_login.casefold()


def _applied_again(
    task: AgentTask,
    labels: Labels,
    history: Sequence[LabelEvent],
    applied: LabelEvent | None,
    *,
    shown: bool,
) -> bool:
    """Whether the label on an ended task's item asks for a new run.

    Args:
        shown: the item shows the end of the task.
    """
    if applied is None:  # new if the label was off the item at some time
        return task.acknowledged or shown
    cancelled, withdrawn = task.status.terminal_phase is Phase.CANCELLED, withdrawn_before(task)
    if cancelled and withdrawn is not None:
        return applied.at >= withdrawn
    if not _is_further(task, labels, history, applied):
        return False
    if cancelled:  # with kubectl
        known = labeled_at(task)
        return known is None or applied.at > known
    over = _work_was_over(task)
    return shown or over is None or applied.at > over


def _may_have_taken_it(task: AgentTask) -> bool:
    """Whether we may have taken a label off that was applied after the work was over."""
    known, over = labeled_at(task), _work_was_over(task)
    if task.status.terminal_phase is Phase.CANCELLED or known is None or over is None:
        return False
    return known > over


def _taken_after_work(task: AgentTask, labels: Labels, history: Sequence[LabelEvent], own_login: str) -> bool:
    """Whether we took a label off that asks for a new run.

    1. The attempt's work is over.
    2. A person applies the label. For its webhook and for the reporter, the task still runs.
    3. The reporter takes the label off.
    4. The operator records the end.
    """
    over = _work_was_over(task)
    if not _may_have_taken_it(task) or over is None:
        return False
    ours = [event for event in history if event.label in labels.triggers]
    if len(ours) < 2 or ours[0].added or ours[0].user.casefold() != own_login.casefold():
        return False
    # A removal in the second after that came before the attempt read the item for the last time.
    was_later = ours[0].at > over + _SECOND
    return was_later and ours[1].added and ours[1].at > over


def _is_further(task: AgentTask, labels: Labels, history: Sequence[LabelEvent], applied: LabelEvent) -> bool:
    """Whether this is not the application that made the task.

    A webhook and the item's history may give times for the same application that differ by a second. So the
    time alone does not show it: the label must have been removed in between.
    """
    trigger, acknowledged = task.spec.trigger, task.acknowledged
    applied_for = trigger.labeled_at
    if applied_for is None:
        return acknowledged
    if trigger.cause is not Cause.LABEL:
        return applied.at >= applied_for
    is_another = acknowledged or applied.label != labels.trigger(task.spec.runner)
    if is_another and applied.at > applied_for:
        return True
    before = history[history.index(applied) + 1 :]
    removed = next((event.at for event in before if event.label == applied.label and not event.added), None)
    if removed is None:
        return False
    return removed > applied_for or (acknowledged and removed == applied_for)


def _label_changes(
    task: AgentTask, item: ItemState, labels: Labels, found: LabelContradiction | None, *, stays: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labels to add and to remove.

    Args:
        stays: a label that asks for a task is not removed.
    """
    if not task.ended and (task.spec.cancel or found is LabelContradiction.LABEL_REMOVED):
        return (), ()  # a label that a person removed must not come back
    add, remove = label_changes(phase_to_show(task), labels, item.labels)
    if stays:
        remove = [label for label in remove if label not in labels.triggers]
    return tuple(add), tuple(remove)
