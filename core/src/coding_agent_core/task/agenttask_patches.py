"""The patches with which the operator and the reporter change an AgentTask. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from coding_agent_core.task.agenttask import AgentTask, Condition
from coding_agent_core.task.model import Origin


def completion(
    task: AgentTask, *, run: int, timeout_seconds: int, max_attempts: int
) -> dict[str, Any] | None:
    """Return the merge patch that fills in what a task's author left out; `None` if nothing is missing.

    Args:
        run: the number of the item's next run.

    Raises:
        UnreadableTaskError: the spec does not name an item, or does not fit the schema.
    """
    spec, created = task.body.get("spec") or {}, task.metadata.created
    filled = {
        "source": task.spec.source.to_wire(),
        "trigger": {"origin": Origin.MANUAL.value, "receivedAt": f"{created:%Y-%m-%dT%H:%M:%SZ}"},
        "run": run,
        "timeoutSeconds": timeout_seconds,
        "maxAttempts": max_attempts,
    }
    missing = {name: value for name, value in filled.items() if name not in spec}
    if not task.missing_labels and not missing:
        return None
    return {"metadata": {"labels": task.missing_labels}, "spec": missing}


def conditions_patch(
    task: AgentTask, wanted: Sequence[Condition], now: datetime
) -> list[dict[str, Any]] | None:
    """Return the JSON patch that sets conditions on exactly this version of a task; `None` if they are set.

    The operator replaces the whole status, and the reporter replaces single conditions. Both patches test the
    resourceVersion, so the second of two writers is refused, reads the task, and decides again. No change is
    lost.
    """
    status = task.body.get("status")
    stored = status.get("conditions") if isinstance(status, Mapping) else None
    entries = stored if isinstance(stored, list) else []
    places = {
        entry["type"]: place
        for place, entry in enumerate(entries)
        if isinstance(entry, Mapping) and isinstance(entry.get("type"), str)
    }
    changes: list[dict[str, Any]] = []
    for condition in wanted:
        known, place = task.status.condition(condition.type), places.get(condition.type, "-")
        if known is not None and _same(known, condition):
            continue
        same_status = known is not None and known.status == condition.status
        since = known.last_transition_time if known and same_status else now.replace(microsecond=0)
        update = {"last_transition_time": since, "observed_generation": task.metadata.generation}
        value = condition.model_copy(update=update).to_wire()
        op = "add" if place == "-" else "replace"
        changes.append({"op": op, "path": f"/status/conditions/{place}", "value": value})
    if not changes:
        return None
    if not isinstance(stored, list):
        values = [change["value"] for change in changes]
        whole = (
            ("/status/conditions", values)
            if isinstance(status, Mapping)
            else ("/status", {"conditions": values})
        )
        changes = [{"op": "add", "path": whole[0], "value": whole[1]}]
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": task.version}
    return [test, *changes]


def _same(known: Condition, wanted: Condition) -> bool:
    return (known.status, known.reason, known.message) == (wanted.status, wanted.reason, wanted.message)
