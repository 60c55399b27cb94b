"""The reporter's two conditions, written so that no other writer's change is ever lost. Pure.

The operator replaces the whole status, the reporter the list of conditions; both with a JSON patch that tests
the resourceVersion they have read. Whoever comes second is refused, reads again and decides again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from coding_agent_core.agenttask import Condition

Kind = Literal["Acknowledged", "Reported"]
Body = Mapping[str, Any]
_NO = datetime(1970, 1, 1, tzinfo=UTC)


def acknowledged(message: str) -> Condition:
    """A bot label on the item from now on is a new application: our swap was shown, or cannot be."""
    return _condition("Acknowledged", "True", "Shown", message)


def reported(message: str) -> Condition:
    """The item shows the task again."""
    return _condition("Reported", "True", "Shown", message)


def unreported(reason: str, message: str) -> Condition:
    """The item does not show the task as it is; since when, the condition's time tells."""
    return _condition("Reported", "False", reason, message)


def _condition(kind: Kind, status: Literal["True", "False"], reason: str, message: str) -> Condition:
    # The time is set when it is written.
    return Condition(
        type=kind, status=status, reason=reason, message=message[:4096], last_transition_time=_NO
    )


def patch(body: Body, wanted: tuple[Condition, ...], now: datetime) -> list[dict[str, Any]] | None:
    """The JSON patch that sets the conditions on exactly this version of a task; `None`: they are so.

    Conditions of others are left as they are, whatever they hold.
    """
    status = body.get("status")
    stored: list[dict[str, Any]] = list((status or {}).get("conditions") or [])
    result, changed = list(stored), False
    for each in wanted:
        known = next((c for c in stored if c.get("type") == each.type), None)
        if known is not None and _same(known, each):
            continue
        changed = True
        entry = {**each.to_wire(), "lastTransitionTime": _text(now)}
        if known is not None and known.get("status") == each.status:
            entry["lastTransitionTime"] = known["lastTransitionTime"]
        result = [c for c in result if c.get("type") != each.type] + [entry]
    if not changed:
        return None
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": body["metadata"]["resourceVersion"]}
    if status is None:
        return [test, {"op": "add", "path": "/status", "value": {"conditions": result}}]
    return [test, {"op": "add", "path": "/status/conditions", "value": result}]


def _same(known: Mapping[str, Any], wanted: Condition) -> bool:
    return (known.get("status"), known.get("reason"), known.get("message", "")) == (
        wanted.status,
        wanted.reason,
        wanted.message,
    )


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
