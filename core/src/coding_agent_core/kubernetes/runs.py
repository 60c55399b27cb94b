"""What admission must know, read from an item's AgentTasks; and what is written down on them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.admission import LatestTask
from coding_agent_core.agenttask import (
    ANNOTATION_CANCELLED,
    ANNOTATION_DELIVERIES,
    ANNOTATION_LABELED_AT,
    Spec,
    parse_spec,
)
from coding_agent_core.outcome import Phase, terminal_phase
from coding_agent_core.tasks import Item, Trigger, parse_time

_DELIVERIES = 20
"""Further delivery ids kept on a task; the first one is in its spec."""
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

Body = Mapping[str, Any]


def runs_of(item: Item, objects: Iterable[Body]) -> list[Body]:
    """The runs of exactly this item, oldest first: labels hold a hash, which other items may share."""
    runs = [(spec.run, each) for spec, each in _of(item, objects)]
    return [each for _, each in sorted(runs, key=lambda pair: pair[0])]


def latest_of(runs: Iterable[Body]) -> LatestTask | None:
    """The facts of an item's newest run.

    Its deliveries and its last `labeledAt` are those of all runs together: a delivery that an older run
    answers for asks for nothing new, and a newer run does not make the forge's clock go back.
    """
    readable = [(spec, each) for each in runs if (spec := _spec(each)) is not None]
    if not readable:
        return None
    spec, newest = max(readable, key=lambda pair: pair[0].run)
    meta = newest["metadata"]
    labeled = [time for spec_, each in readable if (time := _labeled_at(spec_, each)) is not None]
    return LatestTask(
        name=meta["name"],
        run=spec.run,
        # What is being deleted will start nothing any more: its item can have its next run.
        terminal=phase_of(newest) is not Phase.RUNNING or bool(meta.get("deletionTimestamp")),
        cancel_requested=spec.cancel,
        acknowledged=_condition(newest, "Acknowledged") == "True",
        created_at=parse_time(meta.get("creationTimestamp")) or _NEVER,
        labeled_at=max(labeled, default=None),
        delivery_ids=frozenset().union(*(_deliveries(spec_, each) for spec_, each in readable)),
    )


def phase_of(newest: Body) -> Phase:
    """How a run ended, by its conditions, which are the truth; Running while it has not."""
    conditions = (newest.get("status") or {}).get("conditions") or []
    end: Body = next((each for each in conditions if each.get("type") == "Succeeded"), {})
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
    # One that tells a time which the task knows is a duplicate by that time, whenever it comes again.
    unknown_by_time = labeled_at is not None or trigger.labeled_at is None
    if delivery and unknown_by_time and "," not in delivery and delivery not in latest.delivery_ids:
        known = [*_noted(newest), delivery]
        annotations[ANNOTATION_DELIVERIES] = ",".join(known[-_DELIVERIES:])
    if not annotations:
        return None
    return {"metadata": {"annotations": annotations}}


def cancellation(why: str) -> dict[str, Any]:
    """The merge patch that cancels a task, and says why."""
    return {"metadata": {"annotations": {ANNOTATION_CANCELLED: why}}, "spec": {"cancel": True}}


def trigger_of(body: Body) -> Trigger | None:
    """What made a task; `None` if it cannot be read."""
    spec = _spec(body)
    return spec.trigger if spec else None


def _of(item: Item, objects: Iterable[Body]) -> list[tuple[Spec, Body]]:
    return [(spec, each) for each in objects if (spec := _spec(each)) and _identity(spec) == item.identity]


def _spec(body: Body) -> Spec | None:
    try:
        return parse_spec(body)
    except ValueError:  # pydantic's are ValueErrors: what another release stored is not ours to judge
        return None


def _identity(spec: Spec) -> str | None:
    try:
        return spec.item.identity
    except ValueError:
        return None


def _labeled_at(spec: Spec, body: Body) -> datetime | None:
    noted = parse_time((body["metadata"].get("annotations") or {}).get(ANNOTATION_LABELED_AT))
    return max((time for time in (spec.trigger.labeled_at, noted) if time is not None), default=None)


def _deliveries(spec: Spec, body: Body) -> set[str]:
    first = spec.trigger.delivery_id
    return {*_noted(body), *([first] if first else [])}


def _noted(body: Body) -> list[str]:
    noted = (body["metadata"].get("annotations") or {}).get(ANNOTATION_DELIVERIES, "")
    return [each for each in noted.split(",") if each]


def _condition(body: Body, name: str) -> str | None:
    conditions = (body.get("status") or {}).get("conditions") or []
    return next((each.get("status") for each in conditions if each.get("type") == name), None)
