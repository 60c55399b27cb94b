"""The patch of the reporter's conditions: exactly those, on exactly the version that was read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from coding_agent_core.agenttask import conditions_patch as patch
from coding_agent_operator.reporter.report import acknowledged, reported, unreported

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SUCCEEDED = {
    "type": "Succeeded",
    "status": "Unknown",
    "reason": "Running",
    "lastTransitionTime": "x",
    "new": 1,
}


def body(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"resourceVersion": "42", "generation": 3},
        "status": {"phase": "Running", "conditions": [*conditions]},
    }


def test_it_is_added_beside_what_others_wrote() -> None:
    made = patch(body(SUCCEEDED), (acknowledged("shown"),), NOW)
    assert made is not None
    assert made[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "42"}
    assert made[1]["path"] == "/status/conditions"
    assert made[1]["value"] == [
        SUCCEEDED,
        {
            "type": "Acknowledged",
            "status": "True",
            "reason": "Shown",
            "message": "shown",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "observedGeneration": 3,
        },
    ]


def test_a_task_without_status_gets_one() -> None:
    made = patch({"metadata": {"resourceVersion": "1", "generation": 1}}, (acknowledged(""),), NOW)
    assert made is not None
    assert made[1]["path"] == "/status"


def test_nothing_is_written_that_is_so_already() -> None:
    first = patch(body(SUCCEEDED), (acknowledged("shown"), unreported("ForgeUnavailable", "away")), NOW)
    assert first is not None
    stored = body(*first[1]["value"])
    again = (acknowledged("shown"), unreported("ForgeUnavailable", "away"))
    assert patch(stored, again, NOW.replace(hour=9)) is None


def test_the_time_is_that_of_the_change_of_status() -> None:
    first = patch(body(), (unreported("ForgeUnavailable", "away"),), NOW)
    assert first is not None
    later = NOW.replace(hour=9)
    second = patch(body(*first[1]["value"]), (unreported("ForgeRefused", "no right"),), later)
    assert second is not None
    assert second[1]["value"][0]["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    third = patch(body(*second[1]["value"]), (reported(),), later)
    assert third is not None
    assert third[1]["value"][0]["lastTransitionTime"] == "2026-01-02T09:04:05Z"
