"""Which ended tasks `prune` deletes: none that still keeps a label from starting a second run."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.agenttask import AgentTask, Source
from coding_agent_core.task.model import Item, task_name
from kubectl_agenttask.prune import select

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)
ITEM = Item(
    platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.ISSUE, number=7
)
FIRST, SECOND = task_name(ITEM), task_name(ITEM, 2)
USAGE = {"requests": 1, "inputTokens": 1, "outputTokens": 1}


def run(
    number: int = 1, days: float | None = 8, *, reported: str = "true", swapped: bool = True, **options: Any
) -> AgentTask:
    """A run that ended days ago; `None`: it has not ended."""
    ended = None if days is None else (NOW - timedelta(days=days)).isoformat()
    attempt = {"number": 1, "job": "j", "startTime": NOW.isoformat(), **options}
    succeeded = {"type": "Succeeded", "reason": "Completed", "lastTransitionTime": ended or NOW.isoformat()}
    shown = succeeded | {"type": "LabelsShown", "status": str(swapped)}
    name = task_name(ITEM, number)
    return AgentTask.of(
        {
            "metadata": {
                "name": name,
                "uid": name,
                "creationTimestamp": (NOW - timedelta(days=20 - number)).isoformat(),
                "labels": {"coding-agent.dev/reported": reported} if reported else {},
            },
            "spec": {"source": Source.of(ITEM).to_wire(), "run": number},
            "status": {
                "conditions": [succeeded | {"status": "True" if ended else "Unknown"}, shown],
                "attempts": [attempt],
                **({"completionTime": ended} if ended else {}),
            },
        }
    )


def decided(*tasks: AgentTask, monthly: bool = False) -> tuple[list[str], list[str]]:
    """The names to delete in their order, and the reasons of the others."""
    selection = select(tasks, NOW, WEEK, monthly=monthly)
    return [task.name for task in selection.delete], [reason for _, reason in selection.keep]


def test_a_round_goes_although_it_took_no_label_off() -> None:
    made = run(2, swapped=False).body
    cause = {"cause": "review:1", "namePart": "review-1", "head": "a" * 40, "number": 1, "of": 3}
    at = NOW.isoformat()
    trigger = {"origin": "webhook", "receivedAt": at, "round": cause | {"decidedAt": at}}
    a_round = AgentTask.of({**made, "spec": made["spec"] | {"trigger": trigger}})
    assert decided(a_round) == ([SECOND], [])


def test_a_task_that_ended_long_ago_and_is_shown_on_its_item() -> None:
    assert decided(run()) == ([FIRST], [])


@pytest.mark.parametrize("days", [None, 0, 6.9])
def test_a_task_that_works_or_ended_lately_is_not_even_named(days: float | None) -> None:
    assert decided(run(days=days)) == ([], [])


@pytest.mark.parametrize(("reported", "swapped"), [("", True), ("rescan", True), ("true", False)])
def test_a_task_whose_label_may_stand_stays(reported: str, swapped: bool) -> None:
    deleted, [reason] = decided(run(reported=reported, swapped=swapped))
    assert deleted == []
    assert "its label may still be on the item" in reason


def test_a_later_run_goes_although_the_first_is_needed() -> None:
    assert decided(run(1, 1), run(2)) == ([SECOND], [])


@pytest.mark.parametrize(
    ("days", "spent", "stays"), [(8, True, True), (8, False, False), (25.6, True, False), (8, None, False)]
)
def test_what_a_budget_of_the_month_counts_stays(days: float, spent: bool | None, stays: bool) -> None:
    task = run(days=days, usage=USAGE) if spent else run(days=days)
    deleted, reasons = decided(task, monthly=spent is not None)
    assert (deleted, reasons) == (
        ([], ["the budget of this month counts what it spent"]) if stays else ([FIRST], [])
    )


def test_a_task_of_another_release_stays() -> None:
    other = AgentTask.of({**run().body, "spec": {"source": {"platform": "unknown"}}})
    assert decided(other) == ([], ["another release stored it"])
