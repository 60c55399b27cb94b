"""Exactly one task for each application of the label (docs/decisions/0010). Pure.

Every origin (webhook, poll, redelivery, a person) asks the same `admit`; whoever stores tasks arbitrates
races by refusing a second task of the same name and asking again with the latest one. What admission must
know is read from an item's AgentTasks (`latest_of`), and what it decides is written down on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from coding_agent_core.agenttask import (
    ANNOTATION_CANCELLED,
    ANNOTATION_DELIVERIES,
    ANNOTATION_DUPLICATE_OF,
    ANNOTATION_LABELED_AT,
    ANNOTATION_NEXT_RUN_AT,
    Spec,
    parse_spec,
)
from coding_agent_core.tasks import Cause, Item, Origin, Phase, Trigger, parse_time, task_name, terminal_phase

FRESH = timedelta(minutes=1)
"""A webhook that comes within this time after its label is fresh; a later one may be a redelivery."""
SETTLED = timedelta(minutes=10)
"""A run that was announced longer ago is stored, or never will be: a submission takes seconds."""
_DELIVERIES = 20
"""Further delivery ids kept on a task; the first one is in its spec."""
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

Body = Mapping[str, Any]


@dataclass(frozen=True)
class LatestTask:
    """What admission must know of an item's newest task.

    Attributes:
        run: the highest number among the item's runs.
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


def is_fresh(trigger: Trigger) -> bool:
    """A person has just put the label on: almost always, the item has no task yet.

    Only such a request may create run 1 without reading first (docs/decisions/0010).
    """
    if trigger.origin is not Origin.WEBHOOK or trigger.cause is not Cause.LABEL:
        return False
    return trigger.labeled_at is not None and trigger.received_at - trigger.labeled_at <= FRESH


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
    """Change nothing, for this reason."""

    why: str


def withdraw(at: datetime | None, latest: LatestTask | None) -> Cancel | Keep:
    """Decide whether a removed label (or a closed item) cancels the item's task.

    Args:
        at: when, by the forge's clock. Deliveries come late and out of order: one that is not newer than the
            last application of the label is ignored, because unwanted work costs less than lost
            work.
        latest: the item's newest task.
    """
    if latest is None:
        return Keep("the item has no task")
    if latest.terminal:
        return Keep("the item's task has ended")
    if latest.cancel_requested:
        return Keep("the task is already being cancelled")
    if _not_after(at, latest.labeled_at):
        return Keep("the label has been applied again since then")
    return Cancel(latest.name)


def _newer(candidate: datetime | None, known: datetime | None) -> datetime | None:
    return candidate if candidate is not None and (known is None or candidate > known) else None


def _not_after(moment: datetime | None, known: datetime | None) -> bool:
    return moment is not None and known is not None and moment <= known


def runs_of(item: Item, objects: Iterable[Body]) -> list[Body]:
    """The runs of exactly this item, the newest last: labels hold a hash, which other items may share.

    The newest is the one that works; if none does, the one that was created last. Numbers alone do not say
    it: if a person deleted run 1, the next run can be run 1 again.
    """
    return [body for _, body in sorted(_of(item, objects), key=_order)]


def latest_of(runs: Iterable[Body]) -> LatestTask | None:
    """The facts of an item's newest run.

    Its deliveries and its last `labeledAt` are those of all runs together: a delivery that an older run
    answers for asks for nothing new, and a newer run does not make the forge's clock go back.
    """
    readable = [(spec, body) for body in runs if (spec := _spec(body)) is not None]
    if not readable:
        return None
    spec, newest = max(readable, key=_order)
    labeled = [time for spec_, body in readable if (time := _labeled_at(spec_, body)) is not None]
    return LatestTask(
        name=newest["metadata"]["name"],
        run=max(spec_.run for spec_, _ in readable),
        terminal=_terminal(newest),
        cancel_requested=spec.cancel,
        acknowledged=_condition(newest, "Acknowledged").get("status") == "True",
        created_at=_created(newest),
        labeled_at=max(labeled, default=None),
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


def cancellation(why: str) -> dict[str, Any]:
    """The merge patch that cancels a task, and says why."""
    return {"metadata": {"annotations": {ANNOTATION_CANCELLED: why}}, "spec": {"cancel": True}}


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
    noted = parse_time((body["metadata"].get("annotations") or {}).get(ANNOTATION_LABELED_AT))
    return max((time for time in (spec.trigger.labeled_at, noted) if time is not None), default=None)


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
