"""The rules of admission: each application of the label gets exactly one task. Pure.

Every origin (webhook, poll, redelivery, a person) asks the same `admit`. The store of tasks resolves races:
it refuses a second task with the same name, and `admit` is asked again with the latest task. Admission reads
the facts from an item's AgentTasks (`latest_of`), and its decisions are recorded on them.

Clocks need not agree, because times of a forge are only compared with times of the same forge. If such a time
is missing or two are equal, no label is lost: a label counts, and a program that can read the item has to
confirm a removal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, overload

from pydantic import ValidationError

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.agenttask import (
    AGAIN,
    ANNOTATION_CANCEL_CAUSE,
    ANNOTATION_CANCELLED,
    ANNOTATION_CHECK_LABEL,
    ANNOTATION_DELIVERIES,
    ANNOTATION_DUPLICATE_OF,
    ANNOTATION_LABEL_REMOVED_BY,
    ANNOTATION_LABELED_AT,
    ANNOTATION_LOOK,
    ANNOTATION_NEXT_RUN_AT,
    ANNOTATION_WITHDRAWN_BEFORE,
    LABEL_REPORTED,
    LOOK,
    AgentTask,
)
from coding_agent_core.task.model import (
    FRESH,
    Cause,
    Frozen,
    Item,
    Origin,
    Trigger,
    Withdrawal,
    WithdrawalCause,
    parse_time,
    task_name,
    whole_second,
)

SUBMITTED_WITHIN = timedelta(minutes=10)
"""A run that was announced longer ago is either stored or never will be, as a submission takes seconds."""
_CREATED_WITHIN = timedelta(seconds=10)
"""The same, for those who wait for the run: a submission takes 4 s, and clocks of nodes differ a little."""
_DELIVERIES = 20
"""Maximum number of further delivery ids that a task keeps. The first id is in the task's spec."""
_SECOND = timedelta(seconds=1)
"""The precision of forge times (`whole_second`)."""


@dataclass(frozen=True)
class LatestTask:
    """The facts about an item's newest task that admission must know.

    Attributes:
        run: the highest number among the item's runs.
        terminal: whether the task has ended in any way.
        cancel_requested: whether somebody asked to stop the task.
        labels_shown: whether the item has shown our own label swap at least once since the task began.
        labeled_at: the task answers applications of the label up to this time, by the forge's clock.
        withdrawn_before: applications of the label before this time, by the forge's clock, were withdrawn
            with the task. `None` if the task was not withdrawn, or the time is not known.
        delivery_ids: the ids of the deliveries that this task already answers.
        is_round: whether the task is a round, which no label asked for.
        trigger: what caused the task.
        accounts: the logins, in lower case, of our accounts that removed labels for runs of the item.
    """

    name: str
    run: int
    terminal: bool
    cancel_requested: bool
    labels_shown: bool
    labeled_at: datetime | None = None
    withdrawn_before: datetime | None = None
    delivery_ids: frozenset[str] = frozenset()
    is_round: bool = False
    trigger: Trigger | None = None
    accounts: frozenset[str] = frozenset()

    @property
    def answered_until(self) -> datetime | None:
        """Applications of the label up to this time, by the forge's clock, ask for nothing new."""
        return answered_by_withdrawal(self.withdrawn_before) or self.labeled_at


@dataclass(frozen=True)
class Create:
    """The decision to create the item's run with this number.

    Attributes:
        after: the name of the run that must end before the new one may start, if one is still active.
    """

    run: int
    after: str | None = None


@dataclass(frozen=True)
class Duplicate:
    """The decision that this application already has its task.

    Attributes:
        task: the name of that task.
        why: the reason, for logs.
        labeled_at: the time of the application, if it is newer than the task's. It must be recorded on the
            task, so that an older removal that arrives late does not cancel the task.
        looks_old: whether only the time of the application says so. If the forge's clock was set back, the
            label is newer than it looks, which only the item can show.
    """

    task: str
    why: str
    labeled_at: datetime | None = None
    looks_old: bool = False


Decision = Create | Duplicate


def is_fresh(trigger: Trigger) -> bool:
    """Whether a person has just applied the label, so that the item almost certainly has no task yet.

    Only a fresh request may create run 1 without reading the item's runs first, which saves a request. If a
    forge's clock differs from ours by more than `FRESH`, no request is fresh: each costs one more read, and
    none is lost.
    """
    if trigger.origin is not Origin.WEBHOOK or trigger.cause is not Cause.LABEL:
        return False
    return trigger.labeled_at is not None and abs(trigger.received_at - trigger.labeled_at) <= FRESH


@overload
def admit(event: Trigger, latest: None) -> Create: ...


@overload
def admit(event: Trigger, latest: LatestTask | None) -> Decision: ...


def admit(event: Trigger, latest: LatestTask | None) -> Decision:
    """Decide whether a label application becomes a task, or whether a round may start.

    A round never waits for another run: if a run is active, no round is created, and the next scan decides
    again. A label that is applied during a round gets its own run, because the round does other work.
    """
    if latest is None:
        return Create(run=1)
    if event.round is not None:
        if not latest.terminal:
            return Duplicate(latest.name, "a run of the change is active; the next look decides again")
        return Create(run=latest.run + 1)
    if event.delivery_id is not None and event.delivery_id in latest.delivery_ids:
        return Duplicate(latest.name, "this delivery was seen before")
    if not latest.terminal and not latest.cancel_requested and not latest.is_round:
        newer = _newer(event.labeled_at, latest.labeled_at)
        return Duplicate(latest.name, "the item's task has not ended", newer)
    known, at = latest.answered_until, event.labeled_at
    # A poll sees the label and not its application. Unless the label is certainly newer than the withdrawal,
    # it may be the label for which the task was created.
    is_newer = latest.withdrawn_before is not None and at is not None and at >= latest.withdrawn_before
    if event.origin.shows_labels_only and not latest.labels_shown and not is_newer:
        return Duplicate(latest.name, "the label may be left from the last run; it was never swapped")
    if at is not None and known is not None and at <= known:
        why = "this label was applied before the last run ended or was cancelled"
        return Duplicate(latest.name, why, looks_old=True)
    return Create(run=latest.run + 1, after=None if latest.terminal else latest.name)


@dataclass(frozen=True)
class Cancel:
    """The decision to cancel a task.

    Attributes:
        withdrawn_before: applications of the label before this time, by the forge's clock, were withdrawn
            with the task; `None` if the time is not known.
    """

    task: str
    withdrawn_before: datetime | None = None


@dataclass(frozen=True)
class Keep:
    """The decision to cancel nothing.

    Attributes:
        why: the reason, for logs and for the sender.
        withdrawn_before: the time of the withdrawal, if it is newer than the task's. It must be recorded on
            the task, so that an older application that arrives late creates no run.
        older_than: the time of the label, by the forge's clock, if the withdrawal is ignored because it looks
            older. If the forge's clock was set back, it is newer than it looks.
    """

    why: str
    withdrawn_before: datetime | None = None
    older_than: datetime | None = None


@dataclass(frozen=True)
class Check:
    """The decision that a program with a token must read the item, and cancel the task if nobody wants it.

    Attributes:
        why: why the events alone are not enough, for logs and for the sender.
    """

    task: str
    why: str


@overload
def withdraw(withdrawal: Withdrawal, latest: None) -> Keep: ...


@overload
def withdraw(withdrawal: Withdrawal, latest: LatestTask | None) -> Cancel | Keep | Check: ...


def withdraw(withdrawal: Withdrawal, latest: LatestTask | None) -> Cancel | Keep | Check:
    """Decide whether a removed label, a closed item or a command cancels the item's task.

    Deliveries may arrive late and out of order. A withdrawal that is older than the last application of the
    label may come late, or the forge's clock was set back: the item shows whether the label was removed. A
    removal in the same second, or at an unknown time, may be older too.
    """
    if latest is None:
        return Keep("the item has no task")
    if withdrawal.user.casefold() in latest.accounts and withdrawal.cause is WithdrawalCause.UNLABELED:
        # When a run ends, our account removes its label. The event may arrive after the next run has begun,
        # whose label has the same name.
        return Keep("our own account removed the label; only people cancel tasks")
    at, labeled_at = withdrawal.at, latest.labeled_at
    if latest.terminal or latest.cancel_requested:
        why = "the item's task has ended" if latest.terminal else "the task is already being cancelled"
        is_newest = at is not None and (labeled_at is None or at > labeled_at) and withdrawal.of_trigger
        return Keep(why, _newer(withdrawal.before, latest.withdrawn_before) if is_newest else None)
    is_command = withdrawal.cause is WithdrawalCause.COMMAND
    if at is not None and labeled_at is not None:
        if at < labeled_at:
            why = "the label seems to have been applied again after that"
            if is_command or withdrawal.confirmed:
                return Keep(why, older_than=labeled_at)
            return Check(latest.name, why)
        if at == labeled_at and withdrawal.cause is WithdrawalCause.UNLABELED and not withdrawal.confirmed:
            return Check(latest.name, "the label was applied and removed within the same second")
    elif not is_command and not withdrawal.confirmed:
        return Check(latest.name, "it is not known whether the label was applied before or after that")
    before = withdrawal.before
    if before is not None and is_command and _was_received_after(withdrawal, latest.trigger):
        before += _SECOND
    return Cancel(latest.name, before)


def _was_received_after(withdrawal: Withdrawal, trigger: Trigger | None) -> bool:
    """Whether a command was received after the label that was applied in the same second.

    Forges give times in whole seconds, so the times of receipt decide. They decide for commands only: after
    the label was removed, it may have been applied again in that second, and no application may be lost. A
    command removes no label, so the label on the item is still the one that caused the task.
    """
    if trigger is None or withdrawal.received_at is None or withdrawal.at is None:
        return False
    return trigger.labeled_at == withdrawal.at and trigger.received_at < withdrawal.received_at


def answered_by_withdrawal(before: datetime | None) -> datetime | None:
    """Return the time up to which applications of the label are answered by a withdrawal.

    Args:
        before: applications before this time were withdrawn; `None` if there was no withdrawal.
    """
    return None if before is None else before - _SECOND


def _newer(candidate: datetime | None, known: datetime | None) -> datetime | None:
    return candidate if candidate is not None and (known is None or candidate > known) else None


def runs_of(item: Item, tasks: Iterable[AgentTask]) -> list[AgentTask]:
    """Return the runs of exactly this item, the newest last; another item may have the same hash in labels.

    The newest run is the active run; if no run is active, it is the run that was created last. The numbers do
    not show this, because after a person has deleted run 1, the next run can be run 1 again.
    """
    same = [task for task in tasks if task.readable and task.spec.item.identity == item.identity]
    return sorted(same, key=_order)


def free_run(item: Item, run: int, tasks: Iterable[AgentTask]) -> int:
    """Return the first number from `run` on for which the name is free.

    A task of another item can have the name of one of this item's runs, because a person may choose any name,
    and two items may have the same hash.
    """
    taken = {task.name for task in tasks}
    while task_name(item, run) in taken:
        run += 1
    return run


def latest_of(runs: Iterable[AgentTask]) -> LatestTask | None:
    """Return the facts about an item's newest run.

    Deliveries and the last `labeledAt` are taken from all runs: a delivery that an older run answers asks for
    nothing new, and a newer run does not turn back the forge's clock. Applications that were withdrawn with
    an older run count as answered.
    """
    readable = [task for task in runs if task.readable]
    if not readable:
        return None
    newest = max(readable, key=_order)
    asked_for = [task for task in readable if task.spec.trigger.round is None]
    is_round = newest not in asked_for
    labeled = [labeled_at(task) for task in readable]
    labeled += [answered_by_withdrawal(withdrawn_before(task)) for task in readable if task is not newest]
    # A run that was created while the newest run was being stopped can be withdrawn and end before it.
    since = [task for task in readable if task is newest or comes_after(task, newest)]
    withdrawals = [withdrawn_before(task) for task in sorted(since, key=_order_of_ended, reverse=True)]
    return LatestTask(
        name=newest.name,
        run=max(task.spec.run for task in readable),
        terminal=newest.over,
        cancel_requested=newest.spec.cancel,
        # No label asks for a round, so a label on the item cannot be left from one.
        labels_shown=newest.labels_shown or (is_round and all(task.labels_shown for task in asked_for)),
        labeled_at=max(filter(None, labeled), default=None),
        withdrawn_before=next(filter(None, withdrawals), None),
        delivery_ids=frozenset().union(*(_deliveries(task) for task in readable)),
        is_round=is_round,
        trigger=newest.spec.trigger,
        accounts=frozenset(login.casefold() for task in readable if (login := _remover(task))),
    )


def works(task: AgentTask) -> bool:
    """Whether the run is active: it has not ended, and nobody has asked to stop it."""
    return task.readable and not task.spec.cancel and not task.over


def first_run(item: Item, runs: Iterable[AgentTask]) -> AgentTask | None:
    """Return the run with the name of run 1, which a fresh webhook tries to create; `None` if absent."""
    return next((task for task in runs if task.name == task_name(item)), None)


def note(
    newest: AgentTask, trigger: Trigger, duplicate: Duplicate, latest: LatestTask
) -> dict[str, Any] | None:
    """Return the merge patch that records a duplicate on its task; `None` if there is nothing to record.

    Args:
        newest: the task as it was read. The patch is for exactly this version of it.
        latest: the facts on which the decision was based.
    """
    annotations: dict[str, str] = {}
    labeled_at = duplicate.labeled_at
    if labeled_at is not None:
        annotations[ANNOTATION_LABELED_AT] = labeled_at.isoformat()
    delivery = trigger.delivery_id
    # A repeated delivery is recognized by the time of its label; only without a time is the id needed.
    unknown_by_time = labeled_at is not None or trigger.labeled_at is None
    if delivery and unknown_by_time and "," not in delivery and delivery not in latest.delivery_ids:
        known = [*_further_deliveries(newest), delivery]
        annotations[ANNOTATION_DELIVERIES] = ",".join(known[-_DELIVERIES:])
    patch = _annotated(annotations) if annotations else {"metadata": {}}
    if duplicate.looks_old and newest.reported:
        patch["metadata"]["labels"] = {LABEL_REPORTED: AGAIN}
    return patch if patch["metadata"] else None


def announcement(now: datetime) -> dict[str, Any]:
    """Return the merge patch that says that a further run of the item is about to be created.

    On run 1 it prevents the sweep from deleting the run. On the newest run the write fails if somebody has
    changed the run since the decision read it, e.g. a reporter that recorded that this run answers the label.
    """
    return _annotated({ANNOTATION_NEXT_RUN_AT: now.isoformat()})


def is_announced(first: AgentTask) -> bool:
    """Whether a further run of the item was ever announced on this run 1."""
    return ANNOTATION_NEXT_RUN_AT in first.metadata.annotations


def next_run_is_near(newest: AgentTask, now: datetime) -> bool:
    """Whether a further run was announced on the newest run within the last seconds, and may be under way."""
    announced = parse_time(newest.metadata.annotations.get(ANNOTATION_NEXT_RUN_AT))
    return announced is not None and abs(now - announced) < _CREATED_WITHIN


def may_delete_first(item: Item, runs: Iterable[AgentTask], now: datetime) -> bool:
    """Whether the ended run 1 may be deleted: it is the only run, and no other was announced recently.

    Run 1 is deleted last, so that a free name of run 1 proves that the item has no run at all. A fresh
    webhook depends on this when it creates run 1 without reading.

    Args:
        runs: a consistent list. The deletion is for exactly that version of run 1, so that it fails if a
            further run was announced meanwhile.
    """
    same = runs_of(item, runs)
    if len(same) != 1:
        return False
    announced = parse_time(same[0].metadata.annotations.get(ANNOTATION_NEXT_RUN_AT))
    return announced is None or announced + SUBMITTED_WITHIN <= now


def duplicate_of(duplicate: Duplicate) -> dict[str, Any]:
    """Return the merge patch that cancels a duplicate task, which then never counts as the newest run."""
    because = f"{duplicate.task} already covers it: {duplicate.why}"
    return _cancelled({ANNOTATION_CANCELLED: because, ANNOTATION_DUPLICATE_OF: duplicate.task})


def cancellation(
    why: str, cause: WithdrawalCause, withdrawn_before: datetime | None = None
) -> dict[str, Any]:
    """Return the merge patch that cancels a task and records the reason.

    Args:
        withdrawn_before: applications of the label before this time are withdrawn with the task.
    """
    annotations = {ANNOTATION_CANCELLED: why, ANNOTATION_CANCEL_CAUSE: cause.value}
    if withdrawn_before is not None:
        annotations[ANNOTATION_WITHDRAWN_BEFORE] = withdrawn_before.isoformat()
    return _cancelled(annotations)


def is_superseded(task: AgentTask) -> bool:
    """Whether the task was cancelled because the item was closed, or because people took over.

    A round that is cancelled for this reason is not counted, so that its cause can return when the change is
    reopened.
    """
    cause = task.metadata.annotations.get(ANNOTATION_CANCEL_CAUSE)
    return task.spec.cancel and any(one.supersedes for one in WithdrawalCause if one == cause)


def withdrawn(before: datetime) -> dict[str, Any]:
    """Return the merge patch that records a withdrawal on a task without cancelling it."""
    return _annotated({ANNOTATION_WITHDRAWN_BEFORE: before.isoformat()})


def answered(task: AgentTask, until: datetime, account: str) -> dict[str, Any] | None:
    """Return the merge patch that records up to which time a task answers labels; `None` if it is recorded.

    It is written before our account removes the label.

    Args:
        until: the task answers applications of the label up to this time, by the forge's clock.
        account: the login of our own account, which removes the label. So this removal cancels no other run,
            also if the receiver does not know the account.
    """
    known, annotations = labeled_at(task), dict[str, str]()
    if known is None or until > known:
        annotations[ANNOTATION_LABELED_AT] = until.isoformat()
    if account and account != _remover(task):
        annotations[ANNOTATION_LABEL_REMOVED_BY] = account
    return _annotated(annotations) if annotations else None


def check_label(why: str | None) -> dict[str, Any]:
    """Return the merge patch that asks the reporter to read the item; `None` removes this request."""
    return _annotated({ANNOTATION_CHECK_LABEL: why})


def must_check_label(task: AgentTask) -> bool:
    """Whether the reporter has to read the item's labels."""
    return ANNOTATION_CHECK_LABEL in task.metadata.annotations


class StoredLook(Frozen):
    """A request on a task to scan a change, which events have made.

    Attributes:
        at: when the last event came. Each event writes its own time, so that a scan which began earlier does
            not remove the request.
        change: the number of the change; `None` if an event did not name it, or if events named several.
        author: the login of the comment's author; empty if any of the events was not a comment.
    """

    at: datetime | None = None
    change: int | None = None
    author: str = ""


def must_look(task: AgentTask, now: datetime, items: Sequence[Item], author: str) -> dict[str, Any]:
    """Return the merge patch that asks the reporter to scan a change, or all changes if the event named none.

    Args:
        items: the change, or the issue that its branch names.
        author: the login of the comment's author; empty if the event was not a comment.
    """
    change = next((item.number for item in items if item.kind is ItemKind.CHANGE), None)
    known = stored_look(task)
    if known is not None:
        change = change if change == known.change else None
        author = author if known.author else ""
    look = StoredLook(at=now, change=change, author=author)
    patch = _annotated({ANNOTATION_LOOK: look.model_dump_json(exclude_defaults=True)})
    if task.metadata.labels.get(LABEL_REPORTED) == "true":
        patch["metadata"]["labels"] = {LABEL_REPORTED: LOOK}
    return patch


def stored_look(task: AgentTask) -> StoredLook | None:
    """Return the scan that events have requested on a task; `None` if they requested none."""
    text = task.metadata.annotations.get(ANNOTATION_LOOK)
    if text is None:
        return None
    try:
        return StoredLook.model_validate_json(text)
    except ValidationError:
        return StoredLook()  # an earlier version wrote only the time


def labeled_at(task: AgentTask) -> datetime | None:
    """Return the time, by the forge's clock, up to which the task answers applications of the label."""
    times = (task.spec.trigger.labeled_at, _time(task, ANNOTATION_LABELED_AT))
    return max((time for time in times if time is not None), default=None)


def withdrawn_before(task: AgentTask) -> datetime | None:
    """Return the time, by the forge's clock, before which applications of the label were withdrawn."""
    return _time(task, ANNOTATION_WITHDRAWN_BEFORE)


def _remover(task: AgentTask) -> str | None:
    return task.metadata.annotations.get(ANNOTATION_LABEL_REMOVED_BY)


def _annotated(annotations: Mapping[str, str | None]) -> dict[str, Any]:
    return {"metadata": {"annotations": annotations}}


def _cancelled(annotations: Mapping[str, str]) -> dict[str, Any]:
    return _annotated(annotations) | {"spec": {"cancel": True}}


def _order(task: AgentTask) -> tuple[bool, bool, bool, datetime, int]:
    """Return the sort key of an item's runs, which puts the newest last."""
    original, created, run = _order_of_ended(task)
    active = not task.over
    return original, active and not task.spec.cancel, active, created, run


def comes_after(task: AgentTask, other: AgentTask) -> bool:
    """Whether a run counts as newer than another run of the item once both have ended."""
    return _order_of_ended(task) > _order_of_ended(other)


def _order_of_ended(task: AgentTask) -> tuple[bool, datetime, int]:
    original = ANNOTATION_DUPLICATE_OF not in task.metadata.annotations
    return original, task.metadata.created, task.spec.run


def _time(task: AgentTask, annotation: str) -> datetime | None:
    """Read a time by the forge's clock from an annotation."""
    time = parse_time(task.metadata.annotations.get(annotation))
    return None if time is None else whole_second(time)


def _deliveries(task: AgentTask) -> set[str]:
    first = task.spec.trigger.delivery_id
    return {*_further_deliveries(task), *([first] if first else [])}


def _further_deliveries(task: AgentTask) -> list[str]:
    known = task.metadata.annotations.get(ANNOTATION_DELIVERIES, "")
    return [delivery for delivery in known.split(",") if delivery]
