"""Exactly one task for each application of the label (docs/decisions/0010). Pure.

Every origin (webhook, poll, redelivery, a person) asks the same `admit`; whoever stores tasks arbitrates
races by refusing a second task of the same name and asking again with the latest one. What admission must
know is read from an item's AgentTasks (`latest_of`), and what it decides is written down on them.

Clocks need not agree: times of the forge are compared with times of the same forge only. Where such a time
is missing or two are equal, no label is lost: a label counts, and a removal has to be confirmed by somebody
who can read the item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from coding_agent_core.agenttask import (
    ANNOTATION_CANCELLED,
    ANNOTATION_CHECK_LABEL,
    ANNOTATION_DELIVERIES,
    ANNOTATION_DUPLICATE_OF,
    ANNOTATION_LABELED_AT,
    ANNOTATION_NEXT_RUN_AT,
    ANNOTATION_WITHDRAWN_BEFORE,
    AgentTask,
)
from coding_agent_core.tasks import (
    Cause,
    Item,
    Origin,
    Trigger,
    Withdrawal,
    WithdrawalCause,
    parse_time,
    task_name,
    whole_second,
)

FRESH = timedelta(minutes=1)
"""A webhook that comes within this time after its label is fresh; a later one may be a redelivery."""
SETTLED = timedelta(minutes=10)
"""A run that was announced longer ago is stored, or never will be: a submission takes seconds."""
_DELIVERIES = 20
"""Further delivery ids kept on a task; the first one is in its spec."""
_SECOND = timedelta(seconds=1)
"""The precision of forge times (`whole_second`)."""


@dataclass(frozen=True)
class LatestTask:
    """What admission must know of an item's newest task.

    Attributes:
        run: the highest number among the item's runs.
        terminal: it ended, one way or another.
        cancel_requested: someone asked to stop it.
        acknowledged: the forge showed our own label swap at least once since the task began.
        labeled_at: applications of the label up to this time are the task's, by the forge's clock.
        withdrawn_before: applications of the label before this time were withdrawn with the task, by the
            forge's clock; `None` if it was not withdrawn, or nobody knows when.
        delivery_ids: ids of the deliveries that this task already answers for.
    """

    name: str
    run: int
    terminal: bool
    cancel_requested: bool
    acknowledged: bool
    labeled_at: datetime | None = None
    withdrawn_before: datetime | None = None
    delivery_ids: frozenset[str] = frozenset()

    @property
    def answered_until(self) -> datetime | None:
        """Applications of the label up to this time ask for nothing new, by the forge's clock."""
        return answered_by_withdrawal(self.withdrawn_before) or self.labeled_at


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


def is_fresh(trigger: Trigger) -> bool:
    """A person has just put the label on: almost always, the item has no task yet.

    Only such a request may create run 1 without reading first (docs/decisions/0010). With a forge whose clock
    differs from ours by more than `FRESH`, no request is fresh: each costs one more read, and none is lost.
    """
    if trigger.origin is not Origin.WEBHOOK or trigger.cause is not Cause.LABEL:
        return False
    return trigger.labeled_at is not None and abs(trigger.received_at - trigger.labeled_at) <= FRESH


def admit(event: Trigger, latest: LatestTask | None) -> Decision:
    """Decide whether a label application becomes a task."""
    if latest is None:
        return Create(run=1)
    if event.delivery_id is not None and event.delivery_id in latest.delivery_ids:
        return Duplicate(latest.name, "this delivery was seen before")
    if not latest.terminal and not latest.cancel_requested:
        newer = _newer(event.labeled_at, latest.labeled_at)
        return Duplicate(latest.name, "the item's task has not ended", newer)
    known, at = latest.answered_until, event.labeled_at
    # A poll sees the label, not the event. Unless it is known to be newer than the withdrawal, it may be the
    # one that made the task.
    is_newer = latest.withdrawn_before is not None and at is not None and at >= latest.withdrawn_before
    if event.origin is Origin.POLL and not latest.acknowledged and not is_newer:
        return Duplicate(latest.name, "the label may be left from the last run; it was never swapped")
    if at is not None and known is not None and at <= known:
        return Duplicate(latest.name, "this label was applied before the last run ended or was cancelled")
    return Create(run=latest.run + 1, after=None if latest.terminal else latest.name)


@dataclass(frozen=True)
class Cancel:
    """Cancel this task.

    Attributes:
        withdrawn_before: as in `LatestTask`.
    """

    task: str
    withdrawn_before: datetime | None = None


@dataclass(frozen=True)
class Keep:
    """Cancel nothing.

    Attributes:
        why: a sentence for logs and for the sender.
        withdrawn_before: newer than what the task knows: to be recorded on it, so that an older application
            that arrives late makes no run.
    """

    why: str
    withdrawn_before: datetime | None = None


@dataclass(frozen=True)
class Check:
    """Cancel this task if the item shows that nobody wants it: somebody with a token has to read it.

    Attributes:
        why: what makes the events alone not enough; a sentence for logs and for the sender.
    """

    task: str
    why: str


def withdraw(withdrawal: Withdrawal, latest: LatestTask | None) -> Cancel | Keep | Check:
    """Decide whether a removed label, a closed item or a command cancels the item's task.

    Deliveries come late and out of order. A withdrawal that is older than the last application of the label
    is ignored. A removal of the same second, or of an unknown time, may be older too.
    """
    if latest is None:
        return Keep("the item has no task")
    at, labeled_at = withdrawal.at, latest.labeled_at
    if latest.terminal or latest.cancel_requested:
        why = "the item's task has ended" if latest.terminal else "the task is already being cancelled"
        is_newest = at is not None and (labeled_at is None or at > labeled_at) and withdrawal.of_trigger
        return Keep(why, _newer(withdrawal.before, latest.withdrawn_before) if is_newest else None)
    is_command = withdrawal.cause is WithdrawalCause.COMMAND
    if at is not None and labeled_at is not None:
        if at < labeled_at:
            return Keep("the label was applied again after that")
        if at == labeled_at and withdrawal.cause is WithdrawalCause.UNLABELED and not withdrawal.confirmed:
            return Check(latest.name, "the label was applied and removed within the same second")
    elif not is_command and not withdrawal.confirmed:
        return Check(latest.name, "it is not known whether the label was applied before or after that")
    return Cancel(latest.name, withdrawal.before)


def answered_by(updated_at: datetime | None, *, labeled: bool) -> datetime | None:
    """The last moment of the forge's clock at which the label can have been applied before an item was read.

    Args:
        updated_at: as in `ItemState`.
        labeled: the item showed the label.
    """
    return updated_at if updated_at is None or labeled else updated_at - _SECOND


def answered_by_withdrawal(before: datetime | None) -> datetime | None:
    """As `answered_by`, of a withdrawal.

    Args:
        before: `withdrawn_before` of `LatestTask`.
    """
    return None if before is None else before - _SECOND


def _newer(candidate: datetime | None, known: datetime | None) -> datetime | None:
    return candidate if candidate is not None and (known is None or candidate > known) else None


def runs_of(item: Item, tasks: Iterable[AgentTask]) -> list[AgentTask]:
    """The runs of exactly this item, the newest last: labels hold a hash, which other items may share.

    The newest is the one that works; if none does, the one that was created last. Numbers alone do not say
    it: if a person deleted run 1, the next run can be run 1 again.
    """
    same = [task for task in tasks if task.readable and task.spec.item.identity == item.identity]
    return sorted(same, key=_order)


def free_run(item: Item, run: int, tasks: Iterable[AgentTask]) -> int:
    """The first number from `run` on whose name none of these tasks has.

    A task of another item can have the name of one of this item's runs: a person may choose any name, and
    two items may have the same hash.
    """
    taken = {task.name for task in tasks}
    while task_name(item, run) in taken:
        run += 1
    return run


def latest_of(runs: Iterable[AgentTask]) -> LatestTask | None:
    """The facts of an item's newest run.

    Its deliveries and its last `labeledAt` are those of all runs together: a delivery that an older run
    answers for asks for nothing new, and a newer run does not make the forge's clock go back. What was
    withdrawn with an older run counts as answered.
    """
    readable = [task for task in runs if task.readable]
    if not readable:
        return None
    newest = max(readable, key=_order)
    labeled = [labeled_at(task) for task in readable]
    labeled += [answered_by_withdrawal(withdrawn_before(task)) for task in readable if task is not newest]
    return LatestTask(
        name=newest.name,
        run=max(task.spec.run for task in readable),
        terminal=newest.over,
        cancel_requested=newest.spec.cancel,
        acknowledged=newest.acknowledged,
        labeled_at=max(filter(None, labeled), default=None),
        withdrawn_before=withdrawn_before(newest),
        delivery_ids=frozenset().union(*(_deliveries(task) for task in readable)),
    )


def works(task: AgentTask) -> bool:
    """The run has not ended, and nobody asked to stop it: normally at most one run of an item does."""
    return task.readable and not task.spec.cancel and not task.over


def first_run(item: Item, runs: Iterable[AgentTask]) -> AgentTask | None:
    """The run whose name a fresh webhook tries to take."""
    return next((task for task in runs if task.name == task_name(item)), None)


def note(
    newest: AgentTask, trigger: Trigger, labeled_at: datetime | None, latest: LatestTask
) -> dict[str, Any] | None:
    """The merge patch that records a duplicate on its task; `None` if there is nothing to record.

    Args:
        newest: the task, as it was read; the patch is for exactly this version of it.
        labeled_at: from the `Duplicate`: newer than what the task knows.
        latest: the facts on which the duplicate was decided.
    """
    annotations: dict[str, str] = {}
    if labeled_at is not None:
        annotations[ANNOTATION_LABELED_AT] = labeled_at.isoformat()
    delivery = trigger.delivery_id
    # A delivery with a time that the task knows is recognized by that time when it comes again.
    unknown_by_time = labeled_at is not None or trigger.labeled_at is None
    if delivery and unknown_by_time and "," not in delivery and delivery not in latest.delivery_ids:
        known = [*_further_deliveries(newest), delivery]
        annotations[ANNOTATION_DELIVERIES] = ",".join(known[-_DELIVERIES:])
    return _annotated(annotations) if annotations else None


def announcement(now: datetime) -> dict[str, str]:
    """The annotation of an item's run 1 that says that a further run is about to be created."""
    return {ANNOTATION_NEXT_RUN_AT: now.isoformat()}


def is_announced(first: AgentTask) -> bool:
    """Whether the item may have more runs than this run 1."""
    return ANNOTATION_NEXT_RUN_AT in first.metadata.annotations


def may_delete_first(item: Item, runs: Iterable[AgentTask], now: datetime) -> bool:
    """Whether the ended run 1 of an item may be deleted: it is the only run, and no other is about to
    come.

    While a run of an item is stored, the name of run 1 stays taken. So whoever creates it has the item's
    only run.

    Args:
        runs: a consistent list; the deletion is for exactly that version of run 1, so that it fails if a
            further run was announced meanwhile.
    """
    same = runs_of(item, runs)
    if len(same) != 1:
        return False
    announced = parse_time(same[0].metadata.annotations.get(ANNOTATION_NEXT_RUN_AT))
    return announced is None or announced + SETTLED <= now


def duplicate_of(duplicate: Duplicate) -> dict[str, Any]:
    """The merge patch for a task that should not have been created: it is cancelled, and never the newest."""
    because = f"{duplicate.task} already covers it: {duplicate.why}"
    return _cancelled({ANNOTATION_CANCELLED: because, ANNOTATION_DUPLICATE_OF: duplicate.task})


def cancellation(why: str, withdrawn_before: datetime | None = None) -> dict[str, Any]:
    """The merge patch that cancels a task, and says why.

    Args:
        withdrawn_before: as in `LatestTask`.
    """
    annotations = {ANNOTATION_CANCELLED: why}
    if withdrawn_before is not None:
        annotations[ANNOTATION_WITHDRAWN_BEFORE] = withdrawn_before.isoformat()
    return _cancelled(annotations)


def withdrawn(before: datetime) -> dict[str, Any]:
    """The merge patch that records a withdrawal on a task that it does not cancel."""
    return _annotated({ANNOTATION_WITHDRAWN_BEFORE: before.isoformat()})


def answered(until: datetime) -> dict[str, Any]:
    """The merge patch that records that applications of the label up to this forge time are the task's."""
    return _annotated({ANNOTATION_LABELED_AT: until.isoformat()})


def check_label(why: str | None) -> dict[str, Any]:
    """The merge patch that asks the reporter to read the item; `None`: it has."""
    return _annotated({ANNOTATION_CHECK_LABEL: why})


def must_check_label(task: AgentTask) -> bool:
    """The reporter has to read the item's labels."""
    return ANNOTATION_CHECK_LABEL in task.metadata.annotations


def labeled_at(task: AgentTask) -> datetime | None:
    """Applications of the label up to this time are known to be the task's, by the forge's clock."""
    times = (task.spec.trigger.labeled_at, _time(task, ANNOTATION_LABELED_AT))
    return max((time for time in times if time is not None), default=None)


def withdrawn_before(task: AgentTask) -> datetime | None:
    """As in `LatestTask`."""
    return _time(task, ANNOTATION_WITHDRAWN_BEFORE)


def _annotated(annotations: Mapping[str, str | None]) -> dict[str, Any]:
    return {"metadata": {"annotations": annotations}}


def _cancelled(annotations: Mapping[str, str]) -> dict[str, Any]:
    return _annotated(annotations) | {"spec": {"cancel": True}}


def _order(task: AgentTask) -> tuple[bool, bool, bool, datetime, int]:
    """Sorts the runs of an item, the newest last."""
    original, active = ANNOTATION_DUPLICATE_OF not in task.metadata.annotations, not task.over
    return original, active and not task.spec.cancel, active, task.metadata.created, task.spec.run


def _time(task: AgentTask, annotation: str) -> datetime | None:
    """A time by the forge's clock."""
    time = parse_time(task.metadata.annotations.get(annotation))
    return None if time is None else whole_second(time)


def _deliveries(task: AgentTask) -> set[str]:
    first = task.spec.trigger.delivery_id
    return {*_further_deliveries(task), *([first] if first else [])}


def _further_deliveries(task: AgentTask) -> list[str]:
    known = task.metadata.annotations.get(ANNOTATION_DELIVERIES, "")
    return [delivery for delivery in known.split(",") if delivery]
