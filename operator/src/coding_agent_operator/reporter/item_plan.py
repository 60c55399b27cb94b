"""Decides what the reporter does on an item, from the state of its newest run and what the item shows. Pure.

People's labels have the last word. If they contradict the task for longer than a grace time, the reporter
corrects the task. Until then it writes nothing that would hide the contradiction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from coding_agent_core.forge.values import (
    TIME_TOLERANCE,
    ItemState,
    LabelEvent,
    clock_was_set_back,
    clock_was_set_back_since,
)
from coding_agent_core.reporting.comment import label_changes, last_act
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.admission import labeled_at, withdrawn_before
from coding_agent_core.task.agenttask import AGAIN, LABEL_REPORTED, AgentTask
from coding_agent_core.task.model import Cause, Origin, Phase

_SECOND = timedelta(seconds=1)


class LabelContradiction(StrEnum):
    """The way in which an item's labels contradict its task."""

    ITEM_CLOSED = "item_closed"
    """The item was closed while its task is active."""
    LABEL_REMOVED = "label_removed"
    """All labels that ask for a task, and the processing label, are gone while the task is active."""
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
"""Reason and message of the Event that the task gets, by contradiction."""
CANCELLATION_CAUSES = {
    LabelContradiction.ITEM_CLOSED: "the item was closed",
    LabelContradiction.LABEL_REMOVED: "the item no longer has any of the bot's labels",
}
"""Causes of a cancellation as the item's comment states them."""


@dataclass(frozen=True)
class PendingCorrection:
    contradiction: LabelContradiction
    since: datetime
    """When the reporter first saw the contradiction, by our own clock."""


def phase_to_show(task: AgentTask) -> Phase:
    """Return the phase; whether the task has ended is taken from the conditions, which are authoritative."""
    if (ended := task.status.terminal_phase) is not None:
        return ended
    recorded = task.status.phase
    return recorded if recorded is not None and not recorded.terminal else Phase.QUEUED


def _work_was_over(task: AgentTask) -> datetime | None:
    """Return when an ended task's work was over, by the forge's clock. A later label asks for a new run."""
    attempts = task.status.attempts
    return attempts[-1].answered_until if attempts else None


@dataclass(frozen=True)
class ItemPlan:
    """The actions on an item, in this order: record, add labels, remove labels, record that they are
    shown, correct.

    Attributes:
        answered_until: the time to record before labels that ask for a task are removed. The task answers all
            their applications up to this time, by the forge's clock.
        add: the labels to add.
        remove: the labels to remove.
        labels_shown: whether to record that the item shows our label swap.
        pending: the contradiction to remember. The task is queued again for the end of the grace time.
        correct: the contradiction for which to correct the task now.
        correct_first: whether to correct the task before anything is written on the item.
        finished: whether the item shows the end and nothing contradicted it during the grace time.
    """

    answered_until: datetime | None = None
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    labels_shown: bool = False
    pending: PendingCorrection | None = None
    correct: LabelContradiction | None = None
    correct_first: bool = False
    finished: bool = False


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
    """Decide the actions on the item of a task, which is the item's newest run.

    Args:
        history: the result of `Forge.label_history`, read after the item; empty if it does not show the label
            or is not needed.
        own_login: the login of our own account. Labels from it ask for nothing; its removals cancel nothing.
        removal_reported: whether an event has said that the label is gone. Then there is no grace time.
        pending: the contradiction that an earlier reconcile found.
        end_shown: since when the item shows the end of the task, by our clock.
    """
    applied = _application(history, labels.triggers & item.labels)
    # The item has shown the end before. The reporter may have been restarted since then.
    reread = task.ended and task.metadata.labels.get(LABEL_REPORTED) == AGAIN
    # Somebody is changing the labels right now, or the forge's answers are from different moments.
    unclear = bool(history) and applied is None and task.ended and _has_trigger(item, labels)
    if _has_trigger(item, labels):
        shown = end_shown is not None or reread
        again = not unclear and _applied_again(task, item, labels, history, applied, shown=shown)
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
    first = found is not None and _is_withdrawn_before_start(task, item, found, history)
    overdue = pending is not None and (confirmed or first or now - pending.since >= grace)
    # A round does not answer a label, so a label that asks for a task stays for the task's own run.
    is_round = task.spec.trigger.round is not None
    stays = unclear or is_round or found is LabelContradiction.LABEL_APPLIED_AGAIN
    # The end is shown once; afterwards only people change the labels.
    add, remove = ((), ()) if end_shown else _label_changes(task, item, labels, found, stays=stays)
    if reread:
        add, remove = (), tuple(label for label in remove if label in labels.triggers)
    after = (item.labels | set(add)) - set(remove)
    swapped = not labels.triggers & after and (task.ended or labels.processing_label in after)
    end_is_old = end_shown is not None and now - end_shown >= grace
    return ItemPlan(
        answered_until=item.updated_at if labels.triggers & set(remove) else None,
        add=add,
        remove=remove,
        labels_shown=swapped and not task.labels_shown,
        pending=pending,
        correct=found if overdue else None,
        correct_first=first,
        finished=task.ended and found is None and not unclear and end_is_old,
    )


def _is_withdrawn_before_start(
    task: AgentTask, item: ItemState, found: LabelContradiction, history: Sequence[LabelEvent]
) -> bool:
    """Whether the forge proves that a person withdrew the label before its task has started.

    Then there is no grace time, because each second may start an attempt that nobody wants. An answer that is
    older than the label may show an item that was closed then and open when the label was applied.
    """
    applied_for = labeled_at(task)
    if task.ended or task.status.attempts or applied_for is None:
        return False
    if found is LabelContradiction.ITEM_CLOSED:
        return item.updated_at is not None and item.updated_at > applied_for
    if found is not LabelContradiction.LABEL_REMOVED or not history:
        return False
    # The history is in the forge's own order, so its newest event decides also within a second.
    return not history[0].added and history[0].at >= applied_for


def _has_trigger(item: ItemState, labels: Labels) -> bool:
    return item.open and bool(labels.triggers & item.labels)


def _application(history: Sequence[LabelEvent], present: frozenset[str]) -> LabelEvent | None:
    """Return the last application of a label still on the item; `None` if the history shows none."""
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
    # The item of a round or of a task created by hand has no label until we add the processing label.
    trigger = task.spec.trigger
    by_label = trigger.origin is not Origin.MANUAL and trigger.round is None
    expects_label = by_label or task.labels_shown
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
            # We removed the label at the end of an earlier run, just as a person applied it again.
            last = history[0] if history else None
            applied_for = task.spec.trigger.labeled_at
            is_ours = last is not None and (applied_for is None or last.at >= applied_for)
            event = last if is_ours else None
        case LabelContradiction.ITEM_CLOSED:
            event = None
    return event is not None and bool(own_login) and event.user.casefold() == own_login.casefold()


def _applied_again(
    task: AgentTask,
    item: ItemState,
    labels: Labels,
    history: Sequence[LabelEvent],
    applied: LabelEvent | None,
    *,
    shown: bool,
) -> bool:
    """Whether the label on an ended task's item asks for a new run.

    Args:
        shown: whether the item shows the end of the task.
    """
    withdrawn, known = withdrawn_before(task), labeled_at(task)
    set_back = clock_was_set_back_since(item, withdrawn) or clock_was_set_back_since(item, known)
    if applied is None or set_back or clock_was_set_back(history, applied):
        # No time tells what was first, so the label counts as new if it was off the item at some time.
        return task.labels_shown or shown or _is_another(task, applied)
    cancelled = task.status.terminal_phase is Phase.CANCELLED
    # A command can withdraw a label that came after the work was over.
    if withdrawn is not None and (cancelled or applied.at < withdrawn):
        return applied.at >= withdrawn
    if task.spec.trigger.round is not None:
        return True
    if not _is_further(task, labels, history, applied):
        return False
    if cancelled:  # with kubectl
        return known is None or applied.at > known
    over = _work_was_over(task)
    return shown or over is None or applied.at > over


def _is_another(task: AgentTask, applied: LabelEvent | None) -> bool:
    """Whether this application of the label is a different one from that which created the task.

    The times are compared by their distance, because the forge's clock may have been set back.
    """
    applied_for = task.spec.trigger.labeled_at
    return applied is not None and applied_for is not None and abs(applied.at - applied_for) > TIME_TOLERANCE


def _may_have_taken_it(task: AgentTask) -> bool:
    """Whether our swap may have removed a label that a person applied after the work was over."""
    known, over = labeled_at(task), _work_was_over(task)
    if task.status.terminal_phase is Phase.CANCELLED or known is None or over is None:
        return False
    return known > over


def _taken_after_work(task: AgentTask, labels: Labels, history: Sequence[LabelEvent], own_login: str) -> bool:
    """Whether we removed a label that asks for a new run. This happens as follows.

    1. The attempt's work is over.
    2. A person applies the label. To the webhook's receiver and to the reporter, the task still runs.
    3. The reporter removes the label.
    4. The operator records the end.
    """
    over = _work_was_over(task)
    if not _may_have_taken_it(task) or over is None:
        return False
    ours = [event for event in history if event.label in labels.triggers]
    if len(ours) < 2 or ours[0].added or ours[0].user.casefold() != own_login.casefold():
        return False
    if _times_prove_nothing(task, history[: history.index(ours[1]) + 1], over):
        return False
    withdrawn = withdrawn_before(task)
    if withdrawn is not None and ours[1].at < withdrawn:
        return False
    # A removal up to a second later may have come before the attempt read the item for the last time.
    was_later = ours[0].at > over + _SECOND
    return was_later and ours[1].added and ours[1].at > over


def _times_prove_nothing(task: AgentTask, history: Sequence[LabelEvent], over: datetime) -> bool:
    """Whether the times in the history are unusable because the forge's clock was set back during the task.

    Args:
        history: the newest event is first, in the forge's own order.
        over: when the task's work was over. It was not over before the label that the task answers; a webhook
            and the item's history may differ by a second.
    """
    labeled = task.spec.trigger.labeled_at
    if labeled is not None and labeled > over + _SECOND:
        return True
    return any(clock_was_set_back(history, event) for event in history)


def _is_further(task: AgentTask, labels: Labels, history: Sequence[LabelEvent], applied: LabelEvent) -> bool:
    """Whether this application of the label is a different one from that which created the task.

    A webhook and the item's history may give times for the same application that differ by a second. So a
    later time alone proves nothing: the label must have been removed in between.
    """
    trigger, labels_shown = task.spec.trigger, task.labels_shown
    applied_for = trigger.labeled_at
    if applied_for is None:
        return labels_shown
    if trigger.cause is not Cause.LABEL:
        return applied.at >= applied_for
    is_another = labels_shown or applied.label != labels.trigger(task.spec.runner)
    if is_another and applied.at > applied_for:
        return True
    before = history[history.index(applied) + 1 :]
    removed = next((event.at for event in before if event.label == applied.label and not event.added), None)
    if removed is None:
        return False
    return removed > applied_for or (labels_shown and removed == applied_for)


def _label_changes(
    task: AgentTask, item: ItemState, labels: Labels, found: LabelContradiction | None, *, stays: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the labels to add and to remove.

    Args:
        stays: whether labels that ask for a task stay on the item.
    """
    if not task.ended and (task.spec.cancel or found is LabelContradiction.LABEL_REMOVED):
        return (), ()  # a label that a person removed must not come back
    add, remove = label_changes(phase_to_show(task), labels, item.labels)
    if stays:
        remove = [label for label in remove if label not in labels.triggers]
    return tuple(add), tuple(remove)
