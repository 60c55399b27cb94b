"""The patch of the reporter's conditions: exactly those, on exactly the version that was read."""

from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.agenttask_patches import conditions_patch as patch
from coding_agent_operator.reporter.report import labels_shown, reported, unreported

from tests.unit.operator.making import task_body

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SUCCEEDED = {
    "type": "Succeeded",
    "status": "Unknown",
    "reason": "Running",
    "lastTransitionTime": "x",
    "new": 1,
}


def task(*conditions: dict[str, Any]) -> AgentTask:
    return AgentTask.of(
        {
            "metadata": {"resourceVersion": "42", "generation": 3},
            "status": {"phase": "Running", "conditions": [*conditions]},
        }
    )


def test_it_is_added_beside_what_others_wrote() -> None:
    made = patch(task(SUCCEEDED), (labels_shown("shown"),), NOW)
    assert made is not None
    assert made[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "42"}
    assert made[1:] == [
        {
            "op": "add",
            "path": "/status/conditions/-",
            "value": {
                "type": "LabelsShown",
                "status": "True",
                "reason": "Shown",
                "message": "shown",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
                "observedGeneration": 3,
            },
        }
    ], "nothing else is written, whatever it is"


def test_a_task_of_a_cache_does_not_say_what_is_stored() -> None:
    with pytest.raises(RuntimeError, match="read it again"):
        patch(AgentTask.of(task_body()).compact(), (labels_shown(""),), NOW)


def test_nothing_is_written_that_is_so_already() -> None:
    first = patch(task(SUCCEEDED), (labels_shown("shown"), unreported("ForgeUnavailable", "away")), NOW)
    assert first is not None
    stored = task(SUCCEEDED, *(change["value"] for change in first[1:]))
    again = (labels_shown("shown"), unreported("ForgeUnavailable", "away"))
    assert patch(stored, again, NOW.replace(hour=9)) is None


def test_what_is_no_condition_stays_where_it_is() -> None:
    made = patch(task({"type": []}, {}, SUCCEEDED), (labels_shown("shown"),), NOW)
    assert made is not None
    assert [change["path"] for change in made] == ["/metadata/resourceVersion", "/status/conditions/-"]


def test_the_time_is_that_of_the_change_of_status() -> None:
    first = patch(task(), (unreported("ForgeUnavailable", "away"),), NOW)
    assert first is not None
    later = NOW.replace(hour=9)
    second = patch(task(SUCCEEDED, first[1]["value"]), (unreported("ForgeRefused", "no right"),), later)
    assert second is not None
    assert (second[1]["op"], second[1]["path"]) == ("replace", "/status/conditions/1")
    assert second[1]["value"]["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    third = patch(task(second[1]["value"]), (reported(),), later)
    assert third is not None
    assert third[1]["value"]["lastTransitionTime"] == "2026-01-02T09:04:05Z"
