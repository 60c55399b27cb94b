"""What admission is told about an item's AgentTasks, and what is written on them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.admission import cancellation, latest_of, note, runs_of
from coding_agent_core.agenttask import (
    ANNOTATION_CANCELLED,
    ANNOTATION_DELIVERIES,
    ANNOTATION_LABELED_AT,
    manifest,
)
from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
T1, T2, T3 = (T0 + timedelta(minutes=minutes) for minutes in (1, 2, 3))


def item(number: int = 7) -> Item:
    return Item(
        platform=Platform.GITHUB,
        host="github.com",
        repository="octo/demo",
        kind=ItemKind.ISSUE,
        number=number,
    )


def trigger(labeled_at: datetime | None = None, delivery: str | None = None) -> Trigger:
    return Trigger(origin=Origin.WEBHOOK, delivery_id=delivery, labeled_at=labeled_at, received_at=T0)


def task(
    run: int = 1,
    *,
    of: Item | None = None,
    by: Trigger | None = None,
    cancel: bool = False,
    annotations: dict[str, str] | None = None,
    deleting: bool = False,
    **conditions: str,
) -> dict[str, Any]:
    request = TaskRequest(item=of or item(), trigger=by or trigger())
    body = manifest(request, run=run, timeout_seconds=60, max_attempts=3)
    body["metadata"] |= {"creationTimestamp": "2026-11-25T12:00:00Z", "resourceVersion": f"{run}0"}
    body["metadata"].setdefault("annotations", {}).update(annotations or {})
    if deleting:
        body["metadata"]["deletionTimestamp"] = "2026-11-25T12:05:00Z"
    body["spec"]["cancel"] = cancel
    body["status"] = {"conditions": [{"type": name, "status": is_} for name, is_ in conditions.items()]}
    return body


def test_no_task_no_facts() -> None:
    assert latest_of([]) is None


@pytest.mark.parametrize(
    ("body", "terminal", "cancel", "acknowledged"),
    [
        (task(), False, False, False),
        (task(Succeeded="Unknown"), False, False, False),
        (task(Succeeded="True"), True, False, False),
        (task(Succeeded="False"), True, False, False),
        (task(Succeeded="False", Acknowledged="True"), True, False, True),
        (task(Acknowledged="False"), False, False, False),
        (task(cancel=True), False, True, False),
        (task(deleting=True), True, False, False),
    ],
)
def test_conditions_are_the_truth(
    body: dict[str, Any], terminal: bool, cancel: bool, acknowledged: bool
) -> None:
    facts = latest_of([body])
    assert facts is not None
    assert (facts.terminal, facts.cancel_requested, facts.acknowledged) == (terminal, cancel, acknowledged)
    assert facts.created_at == T0


def test_a_hand_edited_phase_changes_nothing() -> None:
    facts = latest_of([{**task(), "status": {"phase": "Succeeded"}}])
    assert facts is not None
    assert not facts.terminal


def test_the_newest_run_is_the_one_of_the_highest_number_whatever_the_order() -> None:
    facts = latest_of([task(10), task(9, Succeeded="True"), task(2)])
    assert facts is not None
    assert (facts.run, facts.name[-4:]) == (10, "-r10")


def test_deliveries_of_all_runs_are_known() -> None:
    runs = [
        task(1, by=trigger(delivery="a"), annotations={ANNOTATION_DELIVERIES: "b,c"}, Succeeded="True"),
        task(2, by=trigger(delivery="d")),
    ]
    facts = latest_of(runs)
    assert facts is not None
    assert facts.delivery_ids == {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("first", "annotation", "known"),
    [
        (None, None, None),
        (T1, None, T1),
        (T1, T2.isoformat(), T2),
        (T2, T1.isoformat(), T2),
        (None, T1.isoformat(), T1),
        (T1, "edited by hand", T1),
    ],
)
def test_the_newest_labeling_counts(
    first: datetime | None, annotation: str | None, known: datetime | None
) -> None:
    annotations = {ANNOTATION_LABELED_AT: annotation} if annotation else {}
    facts = latest_of([task(by=trigger(first), annotations=annotations)])
    assert facts is not None
    assert facts.labeled_at == known


def test_a_newer_run_does_not_make_the_clock_go_back() -> None:
    facts = latest_of([task(1, by=trigger(T3), cancel=True), task(2)])
    assert facts is not None
    assert facts.labeled_at == T3


def test_others_with_the_same_hash_and_what_cannot_be_read_are_not_the_items() -> None:
    unreadable = {**task(3), "spec": {"source": "of another release"}}
    unknown = task(4)
    unknown["spec"]["source"]["platform"] = "gerrit"
    runs = runs_of(item(), [task(2), task(1, of=item(8)), unreadable, unknown, task(1)])
    assert [run["spec"]["run"] for run in runs] == [1, 2]


def _note(body: dict[str, Any], event: Trigger, newer: datetime | None) -> dict[str, Any] | None:
    facts = latest_of([body])
    assert facts is not None
    return note(body, event, newer, facts)


def test_a_newer_labeling_moves_the_annotation() -> None:
    assert _note(task(by=trigger(T1, "a")), trigger(T2, "b"), T2) == {
        "metadata": {
            "annotations": {ANNOTATION_LABELED_AT: T2.isoformat(), ANNOTATION_DELIVERIES: "b"},
        }
    }


@pytest.mark.parametrize(
    ("event", "newer", "written"),
    [
        (trigger(T1, "a"), None, False),  # the same delivery again
        (trigger(T1, "b"), None, False),  # known by its time
        (trigger(None, "b"), None, True),  # known by nothing but its id
        (trigger(None, None), None, False),  # a poll
        (trigger(None, "b,c"), None, False),  # no id of a forge
        (trigger(T2, None), T2, True),
    ],
)
def test_only_what_is_news_is_written(event: Trigger, newer: datetime | None, written: bool) -> None:
    patch = _note(task(by=trigger(T1, "a")), event, newer)
    assert (patch is not None) == written


def test_the_newest_twenty_deliveries_are_kept() -> None:
    noted = [f"d{number}" for number in range(20)]
    patch = _note(task(annotations={ANNOTATION_DELIVERIES: ",".join(noted)}), trigger(None, "new"), None)
    assert patch is not None
    assert patch["metadata"]["annotations"][ANNOTATION_DELIVERIES].split(",") == [*noted[1:], "new"]


def test_a_cancel_says_why() -> None:
    why = {ANNOTATION_CANCELLED: "the issue was closed"}
    assert cancellation("the issue was closed") == {
        "spec": {"cancel": True},
        "metadata": {"annotations": why},
    }
