"""What the operator writes of a task, for tests that do so in its place."""

from datetime import UTC, datetime, timedelta
from typing import Any

from coding_agent_core.task.model import Phase


def operators_status(body: dict[str, Any], phase: Phase, more: dict[str, Any]) -> dict[str, Any]:
    """The whole status of a task in a phase, with the conditions that are not the operator's."""
    now = datetime.now(UTC)
    at = _text(now)
    succeeded = {Phase.SUCCEEDED: "True", Phase.FAILED: "False", Phase.CANCELLED: "False"}.get(
        phase, "Unknown"
    )
    reason = more.pop("reason", None) or {
        Phase.QUEUED: "Waiting",
        Phase.RUNNING: "Running",
        Phase.SUCCEEDED: "Completed",
    }.get(phase, phase.value)
    known = (body.get("status") or {}).get("conditions") or []
    message = more.pop("message", f"It is {phase.value}.")
    conditions = [
        {
            "type": "Succeeded",
            "status": succeeded,
            "reason": reason,
            "message": message,
            "lastTransitionTime": at,
        },
        *(entry for entry in known if entry["type"] not in ("Succeeded", "Running")),
    ]
    attempts = more.pop("attempts", None)
    if attempts is None and phase not in (Phase.QUEUED, Phase.SUSPENDED):
        attempts = [attempt(1, now, ended=phase is not Phase.RUNNING, phase=phase)]
    return {"conditions": conditions, "phase": phase.value, "attempts": attempts or [], **more}


def attempt(number: int, now: datetime, *, ended: bool, phase: Phase = Phase.FAILED) -> dict[str, Any]:
    entry = {
        "number": number,
        "job": f"job-{number}",
        "startTime": _text(now - timedelta(seconds=5)),
        "counted": True,
    }
    outcomes = {Phase.SUCCEEDED: "Succeeded", Phase.CANCELLED: "Cancelled"}
    if ended:
        entry |= {"completionTime": _text(now), "outcome": outcomes.get(phase, "Failed"), "reason": "Said"}
    return entry


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
