"""Exactly one task for each application of the label: rules 1 to 3 of the design, and who may cancel."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.admission import Cancel, Create, Duplicate, Keep, LatestTask, admit, withdraw
from coding_agent_core.tasks import Origin, Trigger
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def after(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def at(minutes: int | None) -> datetime | None:
    return None if minutes is None else after(minutes)


def event(
    labeled: int | None = None, delivery: str | None = None, origin: Origin = Origin.WEBHOOK
) -> Trigger:
    return Trigger(origin=origin, delivery_id=delivery, labeled_at=at(labeled), received_at=NOON)


ACTIVE = LatestTask(
    name="demo-issue-7-0123abcd",
    run=1,
    terminal=False,
    cancel_requested=False,
    acknowledged=True,
    created_at=NOON,
    labeled_at=NOON,
    delivery_ids=frozenset({"d1"}),
)
ENDED = replace(ACTIVE, terminal=True)
STALE = replace(ENDED, acknowledged=False)
CANCELLING = replace(ACTIVE, cancel_requested=True)
UNDATED = replace(ENDED, labeled_at=None)

NEXT = Create(run=2, after=ACTIVE.name)

CASES = {
    "rule 1: no task for the item": (event(), None, Create(run=1)),
    "rule 1: whatever the origin": (event(origin=Origin.POLL), None, Create(run=1)),
    "rule 2: still active": (event(labeled=5, delivery="d2"), ACTIVE, "has not ended"),
    "rule 2: still active, found by the poll": (event(origin=Origin.POLL), ACTIVE, "has not ended"),
    "rule 2: being cancelled, the next run waits": (
        event(labeled=5),
        CANCELLING,
        NEXT,
    ),
    "rule 2: being cancelled, undated event": (
        event(delivery="d2"),
        CANCELLING,
        NEXT,
    ),
    "rule 2: being cancelled, but this is older": (event(labeled=-1), CANCELLING, "before the task"),
    "rule 2: being cancelled, the same second": (event(labeled=0), CANCELLING, "before the task"),
    "rule 2: being cancelled, a redelivery": (event(labeled=5, delivery="d1"), CANCELLING, "seen before"),
    "rule 3: ended, labeled again": (event(labeled=5, delivery="d2"), ENDED, Create(run=2)),
    "rule 3: ended, undated new delivery": (event(delivery="d2"), ENDED, Create(run=2)),
    "rule 3: ended, a person asks": (event(origin=Origin.MANUAL), ENDED, Create(run=2)),
    "rule 3: ended, delivery seen": (event(labeled=5, delivery="d1"), ENDED, "seen before"),
    "rule 3: ended, labeled before its creation": (event(labeled=-1, delivery="d2"), ENDED, "before the run"),
    "rule 3: ended, labeled at its creation": (event(labeled=0, delivery="d2"), ENDED, "before the run"),
    "rule 3: created later than labeled, event between": (
        event(labeled=1),
        replace(ENDED, created_at=after(2)),
        "before the run",
    ),
    "rule 3: duplicate moved its last label, event between": (
        event(labeled=1),
        replace(ENDED, labeled_at=at(2)),
        "before the run",
    ),
    "rule 3: poll, label never swapped": (event(origin=Origin.POLL), STALE, "never swapped"),
    "rule 3: poll, label swapped once": (event(origin=Origin.POLL), ENDED, Create(run=2)),
    "rule 3: poll, labeled after, never swapped": (event(9, origin=Origin.POLL), STALE, "never swapped"),
    "rule 3: webhook, label never swapped": (event(labeled=5, delivery="d2"), STALE, Create(run=2)),
    "rule 3: task without a label time": (event(labeled=5), UNDATED, Create(run=2)),
    "rule 3: runs are counted on": (event(labeled=5), replace(ENDED, run=7), Create(run=8)),
}


@pytest.mark.parametrize(("trigger", "latest", "expected"), CASES.values(), ids=CASES.keys())
def test_admission(trigger: Trigger, latest: LatestTask | None, expected: Create | str) -> None:
    decision = admit(trigger, latest)
    if isinstance(expected, Create):
        assert decision == expected
    else:
        assert isinstance(decision, Duplicate)
        assert decision.task == ACTIVE.name
        assert expected in decision.why


@pytest.mark.parametrize(
    ("labeled", "known", "moved"),
    [(5, 0, 5), (-5, 0, None), (0, 0, None), (None, 0, None), (5, None, 5)],
)
def test_a_duplicate_that_is_newer_moves_the_tasks_last_label(
    labeled: int | None, known: int | None, moved: int | None
) -> None:
    decision = admit(event(labeled=labeled), replace(ACTIVE, labeled_at=at(known)))
    assert isinstance(decision, Duplicate)
    assert decision.labeled_at == at(moved)


WITHDRAWALS = {
    "no task": (5, None, "no task"),
    "ended": (5, ENDED, "has ended"),
    "being cancelled already": (5, CANCELLING, "already"),
    "newer than the label": (5, ACTIVE, Cancel(ACTIVE.name)),
    "older than the label: it came late": (-5, ACTIVE, "applied again"),
    "a tie: the label wins": (0, ACTIVE, "applied again"),
    "undated": (None, ACTIVE, Cancel(ACTIVE.name)),
    "the task's label is undated": (5, replace(ACTIVE, labeled_at=None), Cancel(ACTIVE.name)),
}


@pytest.mark.parametrize(("minutes", "latest", "expected"), WITHDRAWALS.values(), ids=WITHDRAWALS.keys())
def test_withdrawal(minutes: int | None, latest: LatestTask | None, expected: Cancel | str) -> None:
    decision = withdraw(at(minutes), latest)
    if isinstance(expected, Cancel):
        assert decision == expected
    else:
        assert isinstance(decision, Keep)
        assert expected in decision.why


minutes = st.integers(-100, 100)
triggers = st.builds(
    event,
    labeled=st.none() | minutes,
    delivery=st.none() | st.sampled_from(["d1", "d2", "d3"]),
    origin=st.sampled_from(Origin),
)
tasks = st.builds(
    LatestTask,
    name=st.just(ACTIVE.name),
    run=st.integers(1, 50),
    terminal=st.booleans(),
    cancel_requested=st.booleans(),
    acknowledged=st.booleans(),
    created_at=minutes.map(after),
    labeled_at=st.none() | minutes.map(at),
    delivery_ids=st.frozensets(st.sampled_from(["d1", "d2"])),
)


@given(triggers, tasks)
def test_never_two_tasks_at_once_and_never_one_delivery_twice(trigger: Trigger, latest: LatestTask) -> None:
    decision = admit(trigger, latest)
    if isinstance(decision, Create):
        assert decision.run == latest.run + 1
        assert trigger.delivery_id is None or trigger.delivery_id not in latest.delivery_ids
        assert latest.terminal or decision.after == latest.name, "it must wait for the active run"
        assert latest.terminal or latest.cancel_requested
    else:
        assert decision.task == latest.name


@given(tasks, minutes)
def test_a_late_unlabel_never_cancels_what_was_labeled_after_it(latest: LatestTask, minute: int) -> None:
    if isinstance(withdraw(at(minute), latest), Cancel):
        assert latest.labeled_at is None or after(minute) > latest.labeled_at
