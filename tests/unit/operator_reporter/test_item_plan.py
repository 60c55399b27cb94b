"""How an item contradicts its task, and what is written: the reporter's rules, case by case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.forge.protocol import ItemState
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Origin, Phase
from coding_agent_operator.reporter.item_plan import (
    ItemPlan,
    LabelContradiction,
    NewestRun,
    PendingCorrection,
    plan_item,
)
from hypothesis import given
from hypothesis import strategies as st

BOT, PROCESSING, DONE, FAILED = "coding agent", "coding agent processing", "coding agent done", "failed"
CODEX = f"{BOT}: codex"
LABELS = Labels(failed_label=FAILED)
T = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
GRACE = timedelta(seconds=60)


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def newest_run(phase: Phase, **more: Any) -> NewestRun:
    """A task whose label was put on at 0 and whose work, if it has ended, was over at 100."""
    known: dict[str, Any] = {
        "origin": Origin.WEBHOOK,
        "cancel_requested": False,
        "acknowledged": True,
        "work_ended": at(100),
        "applied_for": at(0),
        "labeled_at": at(0),
    }
    return NewestRun(phase=phase, **{**known, **more})


def plan(task: NewestRun, present: set[str], *, now: float = 200, **more: Any) -> ItemPlan:
    known: dict[str, Any] = {"applied": None, "pending": None, **more}
    opened = known.pop("open", True)
    item = ItemState(frozenset(present), opened)
    return plan_item(task, item, LABELS, now=at(now), grace=GRACE, **known)


NEW = {"acknowledged": False}
CASES: list[tuple[str, NewestRun, set[str], bool, float | None, LabelContradiction | None]] = [
    ("waits with its label", newest_run(Phase.QUEUED, **NEW), {BOT}, True, None, None),
    (
        "waits without its label",
        newest_run(Phase.QUEUED, **NEW),
        {"bug"},
        True,
        None,
        LabelContradiction.LABEL_REMOVED,
    ),
    ("waits, by hand", newest_run(Phase.QUEUED, **NEW, origin=Origin.MANUAL), set(), True, None, None),
    ("waits with the label of a runner", newest_run(Phase.QUEUED, **NEW), {CODEX}, True, None, None),
    ("runs, not swapped yet", newest_run(Phase.RUNNING, **NEW), {BOT}, True, None, None),
    ("runs", newest_run(Phase.RUNNING), {PROCESSING}, True, None, None),
    ("runs, its label gone", newest_run(Phase.RUNNING), {DONE}, True, None, LabelContradiction.LABEL_REMOVED),
    ("runs, applied again", newest_run(Phase.RUNNING), {BOT}, True, 50, None),
    (
        "by hand, our label gone",
        newest_run(Phase.RUNNING, origin=Origin.MANUAL),
        set(),
        True,
        None,
        LabelContradiction.LABEL_REMOVED,
    ),
    ("closed", newest_run(Phase.RUNNING), {PROCESSING}, False, None, LabelContradiction.ITEM_CLOSED),
    ("closed and unlabelled", newest_run(Phase.RUNNING), set(), False, None, LabelContradiction.ITEM_CLOSED),
    ("is being cancelled", newest_run(Phase.RUNNING, cancel_requested=True), set(), False, None, None),
    ("done", newest_run(Phase.SUCCEEDED), {PROCESSING}, True, None, None),
    ("done, all labels gone", newest_run(Phase.SUCCEEDED), set(), True, None, None),
    ("done, applied during the work", newest_run(Phase.SUCCEEDED), {PROCESSING, BOT}, True, 99, None),
    (
        "done, put on after the work",
        newest_run(Phase.SUCCEEDED),
        {PROCESSING, BOT},
        True,
        101,
        LabelContradiction.LABEL_APPLIED_AGAIN,
    ),
    (
        "done, the label of a runner put on after the work",
        newest_run(Phase.SUCCEEDED),
        {PROCESSING, CODEX},
        True,
        101,
        LabelContradiction.LABEL_APPLIED_AGAIN,
    ),
    ("done and closed", newest_run(Phase.SUCCEEDED), {PROCESSING, BOT}, False, 101, None),
    (
        "done, at an unknown time",
        newest_run(Phase.SUCCEEDED),
        {BOT},
        True,
        None,
        LabelContradiction.LABEL_APPLIED_AGAIN,
    ),
    ("done, never swapped", newest_run(Phase.FAILED, **NEW), {BOT}, True, 0, None),
    ("done, never swapped, unknown", newest_run(Phase.FAILED, **NEW), {BOT}, True, None, None),
    (
        "never swapped, the forge's clock is ahead",
        newest_run(Phase.FAILED, **NEW, applied_for=at(900), labeled_at=at(900)),
        {BOT},
        True,
        900,
        None,
    ),
    (
        "never swapped, applied again",
        newest_run(Phase.FAILED, **NEW),
        {BOT},
        True,
        150,
        LabelContradiction.LABEL_APPLIED_AGAIN,
    ),
    ("cancelled, never swapped", newest_run(Phase.CANCELLED, **NEW), {BOT}, True, 1, None),
    (
        "cancelled, applied again before its end",
        newest_run(Phase.CANCELLED),
        {BOT},
        True,
        60,
        LabelContradiction.LABEL_APPLIED_AGAIN,
    ),
    (
        "shown, then put on",
        newest_run(Phase.SUCCEEDED, end_shown=at(120)),
        {BOT, DONE},
        True,
        90,
        LabelContradiction.LABEL_APPLIED_AGAIN,
    ),
    ("shown, a stale look", newest_run(Phase.SUCCEEDED, end_shown=at(120)), {BOT, DONE}, True, 0, None),
]


@pytest.mark.parametrize(
    ("task", "present", "opened", "applied", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_contradictions(
    task: NewestRun,
    present: set[str],
    opened: bool,
    applied: float | None,
    expected: LabelContradiction | None,
) -> None:
    when = None if applied is None else at(applied)
    found = plan(task, present, open=opened, applied=when)
    assert (found.pending.contradiction if found.pending else None) == expected
    assert found.correct is None, "not before the grace time"
    if expected is not None:
        again = plan(
            task, present, open=opened, applied=when, pending=PendingCorrection(expected, at(100)), now=161
        )
        assert again.correct is expected
        early = plan(
            task, present, open=opened, applied=when, pending=PendingCorrection(expected, at(100)), now=159
        )
        assert early.correct is None
        assert early.pending == PendingCorrection(expected, at(100)), (
            "the grace time starts at the first reconcile"
        )


def test_the_grace_time_starts_again_when_the_contradiction_changes() -> None:
    task = newest_run(Phase.RUNNING)
    pending = PendingCorrection(LabelContradiction.LABEL_REMOVED, at(0))
    assert plan(task, {PROCESSING}, pending=pending).pending is None
    assert plan(task, set(), open=False, pending=pending).pending == PendingCorrection(
        LabelContradiction.ITEM_CLOSED, at(200)
    )


@pytest.mark.parametrize(
    ("task", "present", "add", "remove", "acknowledge"),
    [
        (newest_run(Phase.QUEUED, **NEW), {BOT}, (), (), False),
        (newest_run(Phase.RUNNING, **NEW), {BOT, "bug"}, (PROCESSING,), (BOT,), True),
        (newest_run(Phase.RUNNING, **NEW), {BOT, CODEX}, (PROCESSING,), (BOT, CODEX), True),
        (newest_run(Phase.RUNNING, **NEW), {PROCESSING}, (), (), True),  # the write of the condition was lost
        (newest_run(Phase.RUNNING), {PROCESSING}, (), (), False),
        (newest_run(Phase.RUNNING), set(), (), (), False),  # taken off: it must not come back
        (newest_run(Phase.RUNNING, cancel_requested=True, **NEW), {BOT}, (), (), False),
        (newest_run(Phase.SUCCEEDED), {PROCESSING}, (DONE,), (PROCESSING,), False),
        (newest_run(Phase.SUCCEEDED, **NEW), {BOT}, (DONE,), (BOT,), True),
        (newest_run(Phase.SUCCEEDED, **NEW), {CODEX}, (DONE,), (CODEX,), True),
        (newest_run(Phase.CANCELLED, **NEW), set(), (), (), True),
        (newest_run(Phase.SUCCEEDED, end_shown=at(190)), set(), (), (), False),  # people's, once shown
    ],
)
def test_label_changes_and_acknowledgement(
    task: NewestRun, present: set[str], add: tuple[str, ...], remove: tuple[str, ...], acknowledge: bool
) -> None:
    found = plan(task, present)
    assert (found.add, found.remove, found.acknowledge) == (add, remove, acknowledge)


def test_a_new_application_stays_while_the_end_is_shown() -> None:
    found = plan(newest_run(Phase.SUCCEEDED, **NEW), {PROCESSING, BOT}, applied=at(150))
    assert (found.add, found.remove) == ((DONE,), (PROCESSING,))
    assert not found.acknowledge, "the poll must take it neither for a stale label nor for two"


@pytest.mark.parametrize(
    ("shown", "present", "settled"),
    [(None, {DONE}, False), (at(150), {DONE}, False), (at(100), {DONE}, True), (at(100), {DONE, BOT}, False)],
)
def test_an_end_is_settled_after_the_grace_time_without_a_contradiction(
    shown: datetime | None, present: set[str], settled: bool
) -> None:
    assert plan(newest_run(Phase.SUCCEEDED, end_shown=shown), present).settled is settled


def test_a_label_of_our_own_account_asks_for_nothing() -> None:
    ended = newest_run(Phase.SUCCEEDED, end_shown=at(150))
    assert plan(ended, {DONE, BOT}, applied=at(160), now=300).pending is not None
    assert plan(ended, {DONE, BOT}, applied=at(160), now=300, applied_by_us=True) == ItemPlan(settled=True)


@given(
    st.sampled_from(Phase),
    st.booleans(),
    st.booleans(),
    st.sampled_from(Origin),
    st.frozensets(st.sampled_from([BOT, CODEX, PROCESSING, DONE, FAILED, "bug"])),
    st.booleans(),
    st.none() | st.integers(-50, 250),
)
def test_in_every_case(
    phase: Phase,
    acknowledged: bool,
    cancel: bool,
    origin: Origin,
    present: frozenset[str],
    opened: bool,
    applied: int | None,
) -> None:
    task = newest_run(phase, acknowledged=acknowledged, cancel_requested=cancel, origin=origin)
    when = None if applied is None else at(applied)
    found = plan(task, set(present), open=opened, applied=when)
    after = (present | set(found.add)) - set(found.remove)
    assert "bug" not in {*found.add, *found.remove}
    if found.acknowledge:
        assert not {BOT, CODEX} & after, "or the poll would make run after run"
    if found.pending is not None:
        second = plan(task, set(after), open=opened, applied=when, pending=found.pending, now=300)
        assert second.correct is found.pending.contradiction, (
            "what is written does not hide the contradiction"
        )
