"""Exactly one task for each application of the label: rules 1 to 3 of the design, and who may cancel."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.forge.values import answered_by
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.admission import (
    Cancel,
    Check,
    Create,
    Duplicate,
    Keep,
    LatestTask,
    admit,
    free_run,
    withdraw,
)
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.model import (
    Cause,
    Item,
    Origin,
    RoundTrigger,
    Trigger,
    Withdrawal,
    WithdrawalCause,
    task_name,
)
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def after(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


RECEIVED = NOON + timedelta(hours=1)


def at(minutes: int | None) -> datetime | None:
    return None if minutes is None else after(minutes)


def event(
    labeled: int | None = None, delivery: str | None = None, origin: Origin = Origin.WEBHOOK
) -> Trigger:
    return Trigger(origin=origin, delivery_id=delivery, labeled_at=at(labeled), received_at=RECEIVED)


ACTIVE = LatestTask(
    name="demo-issue-7-0123456789abcdef",
    run=1,
    terminal=False,
    cancel_requested=False,
    labels_shown=True,
    labeled_at=NOON,
    delivery_ids=frozenset({"d1"}),
)
ENDED = replace(ACTIVE, terminal=True)
STALE = replace(ENDED, labels_shown=False)
CANCELLING = replace(ACTIVE, cancel_requested=True)
WITHDRAWN = replace(CANCELLING, withdrawn_before=after(3), labels_shown=False)
WITHDRAWN_AND_ENDED = replace(WITHDRAWN, terminal=True)
UNDATED = replace(ENDED, labeled_at=None)
ROUND = replace(ACTIVE, is_round=True)
A_ROUND = Trigger(
    origin=Origin.POLL,
    cause=Cause.CHECKS,
    received_at=NOON,
    round=RoundTrigger(
        cause="[]", name_part="checks-0123456789", head="a" * 40, number=1, of=3, decided_at=NOON
    ),
)

NEXT = Create(run=2, after=ACTIVE.name)

CASES = {
    "rule 1: no task for the item": (event(), None, Create(run=1)),
    "rule 2: still active": (event(labeled=5, delivery="d2"), ACTIVE, "has not ended"),
    "rule 2: being cancelled, the next run waits": (event(labeled=5), CANCELLING, NEXT),
    "rule 2: being cancelled, but this is older": (event(labeled=-1), CANCELLING, "applied before"),
    "rule 2: being cancelled, the same second": (event(labeled=0), CANCELLING, "applied before"),
    "rule 2: being cancelled, found by the poll, never swapped": (
        event(labeled=5, origin=Origin.POLL),
        replace(CANCELLING, labels_shown=False),
        "never swapped",
    ),
    "withdrawn, applied after that": (event(labeled=5), WITHDRAWN, NEXT),
    "withdrawn, applied in the same second": (event(labeled=3), WITHDRAWN, NEXT),
    "withdrawn, applied before that": (event(labeled=2), WITHDRAWN, "applied before"),
    "withdrawn, when it was applied is not known": (event(delivery="d2"), WITHDRAWN, NEXT),
    "withdrawn, found by the poll, applied before that": (
        event(labeled=2, origin=Origin.POLL),
        WITHDRAWN,
        "never swapped",
    ),
    "withdrawn and ended, applied in the same second": (event(labeled=3), WITHDRAWN_AND_ENDED, Create(run=2)),
    "withdrawn and ended, applied before that": (event(labeled=2), WITHDRAWN_AND_ENDED, "applied before"),
    "applied and withdrawn within a second": (
        event(labeled=0),
        replace(WITHDRAWN_AND_ENDED, withdrawn_before=NOON),
        Create(run=2),
    ),
    "rule 2: being cancelled, a redelivery": (event(labeled=5, delivery="d1"), CANCELLING, "seen before"),
    "rule 3: ended, labeled again": (event(labeled=5, delivery="d2"), ENDED, Create(run=2)),
    "rule 3: ended, undated new delivery": (event(delivery="d2"), ENDED, Create(run=2)),
    "rule 3: ended, delivery seen": (event(labeled=5, delivery="d1"), ENDED, "seen before"),
    "rule 3: ended, labeled before": (event(labeled=-1, delivery="d2"), ENDED, "applied before"),
    "rule 3: ended, its own label": (event(labeled=0, delivery="d2"), ENDED, "applied before"),
    "rule 3: duplicate moved its last label, event between": (
        event(labeled=1),
        replace(ENDED, labeled_at=at(2)),
        "applied before",
    ),
    "rule 3: poll, label never swapped": (event(origin=Origin.POLL), STALE, "never swapped"),
    "rule 3: a webhook shows the label, never swapped": (
        event(labeled=5, origin=Origin.LABELS),
        STALE,
        "never swapped",
    ),
    "rule 3: a webhook shows the label, its own": (
        event(labeled=0, origin=Origin.LABELS),
        ENDED,
        "applied before",
    ),
    "rule 3: a webhook shows the label again": (
        event(labeled=5, origin=Origin.LABELS),
        ENDED,
        Create(run=2),
    ),
    "rule 3: webhook, label never swapped": (event(labeled=5, delivery="d2"), STALE, Create(run=2)),
    "rule 3: task without a label time": (event(labeled=5), UNDATED, Create(run=2)),
    "a label while a round is active gets its own run": (event(labeled=5), ROUND, NEXT),
    "a label while a round is active, its delivery seen": (
        event(labeled=5, delivery="d1"),
        ROUND,
        "seen before",
    ),
    "a label that is older than an active round": (event(labeled=-5), ROUND, "applied before"),
    "a label found by the poll while a round is active": (event(labeled=5, origin=Origin.POLL), ROUND, NEXT),
    "a round of a change without a task": (A_ROUND, None, Create(run=1)),
    "a round while a run is active": (A_ROUND, ACTIVE, "is active"),
    "a round while a run is being cancelled": (A_ROUND, CANCELLING, "is active"),
    "a round while another round is active": (A_ROUND, ROUND, "is active"),
    "a round after a run": (A_ROUND, ENDED, Create(run=2)),
    "a round after a run that was never swapped": (A_ROUND, STALE, Create(run=2)),
    "a round after a round": (A_ROUND, replace(ROUND, terminal=True, run=4), Create(run=5)),
    "a round after a withdrawn run": (A_ROUND, WITHDRAWN_AND_ENDED, Create(run=2)),
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
    ("labeled", "known", "moved"), [(5, 0, 5), (-5, 0, None), (0, 0, None), (None, 0, None), (5, None, 5)]
)
def test_a_duplicate_that_is_newer_moves_the_tasks_last_label(
    labeled: int | None, known: int | None, moved: int | None
) -> None:
    decision = admit(event(labeled=labeled), replace(ACTIVE, labeled_at=at(known)))
    assert isinstance(decision, Duplicate)
    assert decision.labeled_at == at(moved)


ITEM = Item(platform=Platform.GITHUB, host="github.com", repository="o/r", kind=ItemKind.ISSUE, number=7)
UNLABELED, CLOSED, COMMAND, _ = WithdrawalCause


@pytest.mark.parametrize(
    ("run", "taken", "free"), [(1, [], 1), (1, [1], 2), (2, [1], 2), (2, [1, 2, 3, 5], 4)]
)
def test_a_run_has_the_first_number_whose_name_is_free(run: int, taken: list[int], free: int) -> None:
    stored = [AgentTask.of({"metadata": {"name": task_name(ITEM, number)}}) for number in taken]
    assert free_run(ITEM, run, stored) == free


def withdrawal(
    minute: int | None, cause: WithdrawalCause = UNLABELED, *, confirmed: bool = False
) -> Withdrawal:
    return Withdrawal(item=ITEM, reason="the label went", cause=cause, at=at(minute), confirmed=confirmed)


NO_LABEL_TIME = replace(ACTIVE, labeled_at=None)
OURS_KNOWN = replace(ACTIVE, accounts=frozenset({"bot"}))
SECOND = timedelta(seconds=1)
WITHDRAWALS: dict[str, tuple[Withdrawal, LatestTask | None, Cancel | Check | str]] = {
    "no task": (withdrawal(5), None, "no task"),
    "ended": (withdrawal(5), ENDED, "has ended"),
    "being cancelled already": (withdrawal(5), CANCELLING, "already"),
    "newer than the label": (withdrawal(5), ACTIVE, Cancel(ACTIVE.name, after(5))),
    "older than the label: it came late, or the clock was set back": (
        withdrawal(-5),
        ACTIVE,
        Check(ACTIVE.name, "applied again"),
    ),
    "older than the label, and the item shows no label": (
        withdrawal(-5, confirmed=True),
        ACTIVE,
        "applied again",
    ),
    "the label's second": (withdrawal(0), ACTIVE, Check(ACTIVE.name, "within the same second")),
    "the label's second, and the item shows no label": (
        withdrawal(0, confirmed=True),
        ACTIVE,
        Cancel(ACTIVE.name, NOON),
    ),
    "undated": (withdrawal(None), ACTIVE, Check(ACTIVE.name, "not known")),
    "undated, and the item shows no label": (
        withdrawal(None, confirmed=True),
        ACTIVE,
        Cancel(ACTIVE.name, None),
    ),
    "the task's label is undated": (withdrawal(5), NO_LABEL_TIME, Check(ACTIVE.name, "not known")),
    "closed": (withdrawal(5, CLOSED), ACTIVE, Cancel(ACTIVE.name, after(5) + SECOND)),
    "closed in the label's second: the close wins": (
        withdrawal(0, CLOSED),
        ACTIVE,
        Cancel(ACTIVE.name, NOON + SECOND),
    ),
    "closed before the label": (withdrawal(-1, CLOSED), ACTIVE, Check(ACTIVE.name, "applied again")),
    "commanded before the label": (withdrawal(-1, COMMAND), ACTIVE, "applied again"),
    "our own account took the label off for an earlier run": (
        withdrawal(5).model_copy(update={"user": "Bot"}),
        OURS_KNOWN,
        "our own account",
    ),
    "another account took the label off": (
        withdrawal(5).model_copy(update={"user": "alice"}),
        OURS_KNOWN,
        Cancel(ACTIVE.name, after(5)),
    ),
    "our own account closed it": (
        withdrawal(5, CLOSED).model_copy(update={"user": "bot"}),
        OURS_KNOWN,
        Cancel(ACTIVE.name, after(5) + SECOND),
    ),
    "commanded": (withdrawal(5, COMMAND), ACTIVE, Cancel(ACTIVE.name, after(5))),
    "commanded in the label's second": (withdrawal(0, COMMAND), ACTIVE, Cancel(ACTIVE.name, NOON)),
    "commanded in the label's second, and received later": (
        withdrawal(0, COMMAND).model_copy(update={"received_at": RECEIVED + SECOND}),
        replace(ACTIVE, trigger=event(labeled=0)),
        Cancel(ACTIVE.name, NOON + SECOND),
    ),
    "commanded in the label's second, and received before": (
        withdrawal(0, COMMAND).model_copy(update={"received_at": RECEIVED - SECOND}),
        replace(ACTIVE, trigger=event(labeled=0)),
        Cancel(ACTIVE.name, NOON),
    ),
    "commanded in the second of another label than the task's": (
        withdrawal(0, COMMAND).model_copy(update={"received_at": RECEIVED + SECOND}),
        replace(ACTIVE, trigger=event(labeled=-5)),
        Cancel(ACTIVE.name, NOON),
    ),
}


@pytest.mark.parametrize(("request_", "latest", "expected"), WITHDRAWALS.values(), ids=WITHDRAWALS.keys())
def test_withdrawal(request_: Withdrawal, latest: LatestTask | None, expected: Cancel | Check | str) -> None:
    decision = withdraw(request_, latest)
    match expected:
        case Cancel():
            assert decision == expected
        case Check():
            assert isinstance(decision, Check)
            assert decision.task == expected.task
            assert expected.why in decision.why
        case _:
            assert isinstance(decision, Keep)
            assert expected in decision.why


@pytest.mark.parametrize(
    ("minute", "latest", "recorded"),
    [
        (5, ENDED, 5),
        (0, ENDED, None),
        (-1, ENDED, None),
        (None, ENDED, None),
        (5, WITHDRAWN, 5),
        (2, WITHDRAWN, None),
    ],
)
def test_a_withdrawal_of_an_ended_task_is_recorded_against_labels_that_come_late(
    minute: int | None, latest: LatestTask, recorded: int | None
) -> None:
    decision = withdraw(withdrawal(minute), latest)
    assert isinstance(decision, Keep)
    assert decision.withdrawn_before == at(recorded)


def test_a_removed_processing_label_withdraws_no_label_that_comes_late() -> None:
    """Our own account may have removed it to show the task's end, after the label was applied again."""
    decision = withdraw(withdrawal(5).model_copy(update={"of_trigger": False}), ENDED)
    assert isinstance(decision, Keep)
    assert decision.withdrawn_before is None


@pytest.mark.parametrize(
    ("updated", "labeled", "answered"),
    [(NOON, True, NOON), (NOON, False, NOON - SECOND), (None, True, None), (None, False, None)],
)
def test_what_an_item_shows_says_until_when_labels_are_answered(
    updated: datetime | None, labeled: bool, answered: datetime | None
) -> None:
    assert answered_by(updated, labeled=labeled) == answered


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
    labels_shown=st.booleans(),
    withdrawn_before=st.none() | minutes.map(at),
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


@given(triggers, tasks, st.integers(-100_000, 100_000))
def test_the_offset_of_the_forges_clock_changes_no_decision(
    trigger: Trigger, latest: LatestTask, offset: int
) -> None:
    """Only times of the forge are compared, so all of them can move."""
    shift = timedelta(seconds=offset)

    def moved(moment: datetime | None) -> datetime | None:
        return None if moment is None else moment + shift

    later = replace(
        latest, labeled_at=moved(latest.labeled_at), withdrawn_before=moved(latest.withdrawn_before)
    )
    here = admit(trigger, latest)
    there = admit(trigger.model_copy(update={"labeled_at": moved(trigger.labeled_at)}), later)
    if isinstance(here, Duplicate):
        here = replace(here, labeled_at=moved(here.labeled_at))
    assert there == here
