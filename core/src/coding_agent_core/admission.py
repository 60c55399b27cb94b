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
from datetime import UTC, datetime, timedelta
from typing import Any

from coding_agent_core.agenttask import (
    ANNOTATION_CANCELLED,
    ANNOTATION_CHECK_LABEL,
    ANNOTATION_DELIVERIES,
    ANNOTATION_DUPLICATE_OF,
    ANNOTATION_LABELED_AT,
    ANNOTATION_NEXT_RUN_AT,
    ANNOTATION_WITHDRAWN_BEFORE,
    Spec,
    parse_spec,
)
from coding_agent_core.tasks import (
    Cause,
    Item,
    Origin,
    Phase,
    Trigger,
    Withdrawal,
    WithdrawalCause,
    parse_time,
    task_name,
    terminal_phase,
    whole_second,
)

FRESH = timedelta(minutes=1)
"""A webhook that comes within this time after its label is fresh; a later one may be a redelivery."""
SETTLED = timedelta(minutes=10)
"""A run that was announced longer ago is stored, or never will be: a submission takes seconds."""
_DELIVERIES = 20
"""Further delivery ids kept on a task; the first one is in its spec."""
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
"""The precision of forge times (`whole_second`)."""

Body = Mapping[str, Any]


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


def runs_of(item: Item, objects: Iterable[Body]) -> list[Body]:
    """The runs of exactly this item, the newest last: labels hold a hash, which other items may share.

    The newest is the one that works; if none does, the one that was created last. Numbers alone do not say
    it: if a person deleted run 1, the next run can be run 1 again.
    """
    return [body for _, body in sorted(_of(item, objects), key=_order)]


def free_run(item: Item, run: int, objects: Iterable[Body]) -> int:
    """The first number from `run` on whose name none of these objects has.

    A task of another item can have the name of one of this item's runs: a person may choose any name, and
    two items may have the same hash.
    """
    taken = {body["metadata"]["name"] for body in objects}
    while task_name(item, run) in taken:
        run += 1
    return run


def latest_of(runs: Iterable[Body]) -> LatestTask | None:
    """The facts of an item's newest run.

    Its deliveries and its last `labeledAt` are those of all runs together: a delivery that an older run
    answers for asks for nothing new, and a newer run does not make the forge's clock go back. What was
    withdrawn with an older run counts as answered.
    """
    readable = [(spec, body) for body in runs if (spec := _spec(body)) is not None]
    if not readable:
        return None
    spec, newest = max(readable, key=_order)
    labeled = [_labeled_at(spec_, body) for spec_, body in readable]
    older = [body for _, body in readable if body is not newest]
    labeled += [answered_by_withdrawal(_time(body, ANNOTATION_WITHDRAWN_BEFORE)) for body in older]
    return LatestTask(
        name=newest["metadata"]["name"],
        run=max(spec_.run for spec_, _ in readable),
        terminal=_terminal(newest),
        cancel_requested=spec.cancel,
        acknowledged=_condition(newest, "Acknowledged").get("status") == "True",
        labeled_at=max(filter(None, labeled), default=None),
        withdrawn_before=_time(newest, ANNOTATION_WITHDRAWN_BEFORE),
        delivery_ids=frozenset().union(*(_deliveries(spec_, body) for spec_, body in readable)),
    )


def works(body: Body) -> bool:
    """The run has not ended, and nobody asked to stop it: normally at most one run of an item does."""
    spec = _spec(body)
    return spec is not None and not spec.cancel and not _terminal(body)


def first_run(item: Item, runs: Iterable[Body]) -> Body | None:
    """The run whose name a fresh webhook tries to take."""
    return next((body for body in runs if body["metadata"]["name"] == task_name(item)), None)


def phase_of(newest: Body) -> Phase:
    """How a run ended, by its conditions, which are the truth; Running while it has not."""
    end = _condition(newest, "Succeeded")
    return terminal_phase(end.get("status"), end.get("reason")) or Phase.RUNNING


def note(
    newest: Body, trigger: Trigger, labeled_at: datetime | None, latest: LatestTask
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
        known = [*_noted(newest), delivery]
        annotations[ANNOTATION_DELIVERIES] = ",".join(known[-_DELIVERIES:])
    if not annotations:
        return None
    return {"metadata": {"annotations": annotations}}


def announcement(now: datetime) -> dict[str, str]:
    """The annotation of an item's run 1 that says that a further run is about to be created."""
    return {ANNOTATION_NEXT_RUN_AT: now.isoformat()}


def is_announced(first: Body) -> bool:
    """Whether the item may have more runs than this run 1."""
    return ANNOTATION_NEXT_RUN_AT in (first["metadata"].get("annotations") or {})


def may_delete_first(item: Item, runs: Iterable[Body], now: datetime) -> bool:
    """Whether the ended run 1 of an item may be deleted: it is the only run, and no other is about to
    come.

    While a run of an item is stored, the name of run 1 stays taken. So whoever creates it has the item's
    only run.

    Args:
        runs: a consistent list; the deletion is for exactly that version of run 1, so that it fails if a
            further run was announced meanwhile.
    """
    readable = _of(item, runs)
    if len(readable) != 1:
        return False
    notes = readable[0][1]["metadata"].get("annotations") or {}
    announced = parse_time(notes.get(ANNOTATION_NEXT_RUN_AT))
    return announced is None or announced + SETTLED <= now


def duplicate_of(duplicate: Duplicate) -> dict[str, Any]:
    """The merge patch for a task that should not have been created: it is cancelled, and never the newest."""
    because = f"{duplicate.task} already covers it: {duplicate.why}"
    patch = cancellation(because)
    patch["metadata"]["annotations"][ANNOTATION_DUPLICATE_OF] = duplicate.task
    return patch


def cancellation(why: str, withdrawn_before: datetime | None = None) -> dict[str, Any]:
    """The merge patch that cancels a task, and says why.

    Args:
        withdrawn_before: as in `LatestTask`.
    """
    annotations = {ANNOTATION_CANCELLED: why}
    if withdrawn_before is not None:
        annotations[ANNOTATION_WITHDRAWN_BEFORE] = withdrawn_before.isoformat()
    return {"metadata": {"annotations": annotations}, "spec": {"cancel": True}}


def withdrawn(before: datetime) -> dict[str, Any]:
    """The merge patch that records a withdrawal on a task that it does not cancel."""
    return {"metadata": {"annotations": {ANNOTATION_WITHDRAWN_BEFORE: before.isoformat()}}}


def answered(until: datetime) -> dict[str, Any]:
    """The merge patch that records that applications of the label up to this forge time are the task's."""
    return {"metadata": {"annotations": {ANNOTATION_LABELED_AT: until.isoformat()}}}


def check_label(why: str | None) -> dict[str, Any]:
    """The merge patch that asks the reporter to read the item; `None`: it has."""
    return {"metadata": {"annotations": {ANNOTATION_CHECK_LABEL: why}}}


def must_check_label(body: Body) -> bool:
    return ANNOTATION_CHECK_LABEL in (body["metadata"].get("annotations") or {})


def trigger_of(body: Body) -> Trigger | None:
    """What made a task; `None` if it cannot be read."""
    spec = _spec(body)
    return spec.trigger if spec else None


def _of(item: Item, objects: Iterable[Body]) -> list[tuple[Spec, Body]]:
    return [(spec, body) for body in objects if (spec := _spec(body)) and spec.item.identity == item.identity]


def _spec(body: Body) -> Spec | None:
    try:
        return parse_spec(body)
    except ValueError:  # pydantic's are ValueErrors: another release may have stored it
        return None


def _order(run: tuple[Spec, Body]) -> tuple[bool, bool, bool, datetime, int]:
    """Sorts the runs of an item, the newest last."""
    spec, body = run
    original = ANNOTATION_DUPLICATE_OF not in (body["metadata"].get("annotations") or {})
    active = not _terminal(body)
    return original, active and not spec.cancel, active, _created(body), spec.run


def _terminal(body: Body) -> bool:
    # A run that is being deleted starts nothing any more: its item can have its next run.
    return phase_of(body) is not Phase.RUNNING or bool(body["metadata"].get("deletionTimestamp"))


def _created(body: Body) -> datetime:
    return parse_time(body["metadata"].get("creationTimestamp")) or _NEVER


def _labeled_at(spec: Spec, body: Body) -> datetime | None:
    noted = _time(body, ANNOTATION_LABELED_AT)
    return max((time for time in (spec.trigger.labeled_at, noted) if time is not None), default=None)


def _time(body: Body, annotation: str) -> datetime | None:
    """A time by the forge's clock."""
    noted = parse_time((body["metadata"].get("annotations") or {}).get(annotation))
    return None if noted is None else whole_second(noted)


def _deliveries(spec: Spec, body: Body) -> set[str]:
    first = spec.trigger.delivery_id
    return {*_noted(body), *([first] if first else [])}


def _noted(body: Body) -> list[str]:
    noted = (body["metadata"].get("annotations") or {}).get(ANNOTATION_DELIVERIES, "")
    return [delivery for delivery in noted.split(",") if delivery]


def _condition(body: Body, name: str) -> Body:
    """The condition of this type; empty if there is none."""
    conditions = (body.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == name), {})
