"""What the reporter does on an item, given the state of its newest run and what the item shows. Pure.

People's labels are the last authority. Where they contradict the task for longer than a grace time, the task
is corrected. Until then nothing is written that would hide the contradiction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from coding_agent_core.admission import LatestTask
from coding_agent_core.forge.values import ItemState, LabelEvent
from coding_agent_core.reporting import label_changes, last_act
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Cause, Origin, Phase, RunnerName

from coding_agent_operator.observed import Task

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


@dataclass(frozen=True)
class NewestRun:
    """The state of an item's newest run. All times but `end_shown` are by the forge's clock.

    Attributes:
        acknowledged: the item has shown our label swap at least once.
        by_label: a label made the task, not a command or a person with kubectl.
        runner: the coding agent that this label names.
        applied_for: when the label was applied, or the command given, that made this task.
        labeled_at: applications of the label up to this time are known to be this task's.
        answered_until: a label that was applied after this time was applied after the work of an ended task
            was over, and asks for a new run.
        withdrawn_before: as in `LatestTask`.
        end_shown: since when the item shows the end of the task, by our clock.
    """

    phase: Phase
    origin: Origin
    cancel_requested: bool
    acknowledged: bool
    by_label: bool = True
    runner: RunnerName | None = None
    applied_for: datetime | None = None
    labeled_at: datetime | None = None
    answered_until: datetime | None = None
    withdrawn_before: datetime | None = None
    end_shown: datetime | None = None


def phase_to_show(task: Task) -> Phase:
    """The phase by the conditions, which are authoritative."""
    if (ended := task.status.terminal_phase) is not None:
        return ended
    recorded = task.status.phase
    return recorded if recorded is not None and not recorded.terminal else Phase.QUEUED


def newest_run(task: Task, latest: LatestTask, end_shown: datetime | None) -> NewestRun:
    """The state that `plan_item` needs; `latest` is the same task as admission sees it."""
    trigger, attempts = task.spec.trigger, task.status.attempts
    return NewestRun(
        phase=phase_to_show(task),
        origin=trigger.origin,
        cancel_requested=task.spec.cancel,
        acknowledged=latest.acknowledged,
        by_label=trigger.cause is Cause.LABEL,
        runner=task.spec.runner,
        applied_for=trigger.labeled_at,
        labeled_at=latest.labeled_at,
        answered_until=attempts[-1].answered_until if attempts else None,
        withdrawn_before=latest.withdrawn_before,
        end_shown=end_shown,
    )


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


def needs_history(run: NewestRun, item: ItemState, labels: Labels, *, removal_reported: bool) -> bool:
    """Whether `plan_item` needs to know when the labels on the item were applied, or who removed them."""
    if run.phase.terminal:
        return _has_trigger(item, labels) or (item.open and _may_have_taken_it(run))
    return removal_reported or _contradiction(run, item, labels, again=False) is not None


def plan_item(
    run: NewestRun,
    item: ItemState,
    labels: Labels,
    *,
    history: Sequence[LabelEvent],
    own_login: str = "",
    removal_reported: bool = False,
    pending: PendingCorrection | None,
    now: datetime,
    grace: timedelta,
) -> ItemPlan:
    """Decide what to do on the item.

    Args:
        history: from `Forge.label_history`, read after the item; empty if it does not show the label, or is
            not needed.
        own_login: of our own account, whose labels ask for nothing and whose removals cancel nothing.
        removal_reported: an event has said that the label is gone, so nothing is to be waited for.
        pending: what an earlier reconcile found.
    """
    applied = _application(history, labels.triggers & item.labels)
    # Somebody changes the labels just now, or the forge's answers are of different moments.
    unclear = bool(history) and applied is None and run.phase.terminal and _has_trigger(item, labels)
    if _has_trigger(item, labels):
        again = not unclear and _applied_again(run, labels, history, applied)
    else:
        again = item.open and _taken_after_work(run, labels, history, own_login)
    found = _contradiction(run, item, labels, again=again)
    if found is not None and _done_by_us(run, found, history, applied, own_login):
        found = None
    works = not run.phase.terminal and not run.cancel_requested
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
    add, remove = _label_changes(run, item, labels, found, stays=stays)
    after = (item.labels | set(add)) - set(remove)
    swapped = not labels.triggers & after and (run.phase.terminal or labels.processing_label in after)
    end_is_old = run.end_shown is not None and now - run.end_shown >= grace
    return ItemPlan(
        answered_until=item.updated_at if labels.triggers & set(remove) else None,
        add=add,
        remove=remove,
        acknowledge=swapped and not run.acknowledged,
        pending=pending,
        correct=found if overdue else None,
        settled=run.phase.terminal and found is None and not unclear and end_is_old,
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
    run: NewestRun, item: ItemState, labels: Labels, *, again: bool
) -> LabelContradiction | None:
    if run.phase.terminal:
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


def _done_by_us(
    run: NewestRun,
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
            is_ours = last is not None and (run.applied_for is None or last.at >= run.applied_for)
            event = last if is_ours else None
        case LabelContradiction.ITEM_CLOSED:
            event = None
    return event is not None and bool(own_login) and event.user.casefold() == own_login.casefold()


def _applied_again(
    run: NewestRun, labels: Labels, history: Sequence[LabelEvent], applied: LabelEvent | None
) -> bool:
    """Whether the label on an ended task's item asks for a new run."""
    if applied is None:  # new if the label was off the item at some time
        return run.acknowledged or run.end_shown is not None
    if run.phase is Phase.CANCELLED and run.withdrawn_before is not None:
        return applied.at >= run.withdrawn_before
    if not _is_further(run, labels, history, applied):
        return False
    if run.phase is Phase.CANCELLED:  # with kubectl
        return run.labeled_at is None or applied.at > run.labeled_at
    if run.end_shown is not None or run.answered_until is None:
        return True
    return applied.at > run.answered_until


def _may_have_taken_it(run: NewestRun) -> bool:
    """Whether we may have taken a label off that was applied after the work was over."""
    if run.phase is Phase.CANCELLED or run.labeled_at is None or run.answered_until is None:
        return False
    return run.labeled_at > run.answered_until


def _taken_after_work(run: NewestRun, labels: Labels, history: Sequence[LabelEvent], own_login: str) -> bool:
    """Whether we took a label off that asks for a new run.

    1. The attempt's work is over.
    2. A person applies the label. For its webhook and for the reporter, the task still runs.
    3. The reporter takes the label off.
    4. The operator records the end.
    """
    if not _may_have_taken_it(run) or run.answered_until is None:
        return False
    ours = [event for event in history if event.label in labels.triggers]
    if len(ours) < 2 or ours[0].added or ours[0].user.casefold() != own_login.casefold():
        return False
    # A removal in the second after that came before the attempt read the item for the last time.
    was_later = ours[0].at > run.answered_until + _SECOND
    return was_later and ours[1].added and ours[1].at > run.answered_until


def _is_further(run: NewestRun, labels: Labels, history: Sequence[LabelEvent], applied: LabelEvent) -> bool:
    """Whether this is not the application that made the task.

    A webhook and the item's history may give times for the same application that differ by a second. So the
    time alone does not show it: the label must have been removed in between.
    """
    if run.applied_for is None:
        return run.acknowledged
    if not run.by_label:
        return applied.at >= run.applied_for
    is_another = run.acknowledged or applied.label != labels.trigger(run.runner)
    if is_another and applied.at > run.applied_for:
        return True
    before = history[history.index(applied) + 1 :]
    removed = next((event.at for event in before if event.label == applied.label and not event.added), None)
    if removed is None:
        return False
    return removed > run.applied_for or (run.acknowledged and removed == run.applied_for)


def _label_changes(
    run: NewestRun, item: ItemState, labels: Labels, found: LabelContradiction | None, *, stays: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labels to add and to remove.

    Args:
        stays: a label that asks for a task is not removed.
    """
    if run.end_shown is not None:
        return (), ()  # an end is shown once; afterwards the labels belong to people
    if not run.phase.terminal and (run.cancel_requested or found is LabelContradiction.LABEL_REMOVED):
        return (), ()  # a label that a person removed must not come back
    add, remove = label_changes(run.phase, labels, item.labels)
    if stays:
        remove = [label for label in remove if label not in labels.triggers]
    return tuple(add), tuple(remove)
