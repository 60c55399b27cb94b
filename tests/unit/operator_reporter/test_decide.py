"""What the item says against its task, and what is written: the reporter's rules, case by case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.phases import Phase
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Origin
from coding_agent_operator.reporter.decide import Doubt, Item, Plan, Says, Standing, decide
from hypothesis import given
from hypothesis import strategies as st

BOT, PROCESSING, DONE, FAILED = "coding agent", "coding agent processing", "coding agent done", "failed"
LABELS = Labels(failed_label=FAILED)
T = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
GRACE = timedelta(seconds=60)


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def standing(phase: Phase, **more: Any) -> Standing:
    """A task whose label was put on at 0 and whose work, if it has ended, was over at 100."""
    known: dict[str, Any] = {
        "origin": Origin.WEBHOOK,
        "cancel_requested": False,
        "acknowledged": True,
        "work_ended": at(100),
        "asked_at": at(0),
        "labeled_at": at(0),
    }
    return Standing(phase=phase, **{**known, **more})


def plan(task: Standing, present: set[str], *, now: float = 200, **more: Any) -> Plan:
    known: dict[str, Any] = {"applied": None, "doubt": None, **more}
    opened = known.pop("open", True)
    item = Item(frozenset(present), opened)
    return decide(task, item, LABELS, now=at(now), grace=GRACE, **known)


NEW = {"acknowledged": False}
CASES: list[tuple[str, Standing, set[str], bool, float | None, Says | None]] = [
    ("waits with its label", standing(Phase.QUEUED, **NEW), {BOT}, True, None, None),
    ("waits without its label", standing(Phase.QUEUED, **NEW), {"bug"}, True, None, Says.WITHDRAWN),
    ("waits, by hand", standing(Phase.QUEUED, **NEW, origin=Origin.MANUAL), set(), True, None, None),
    ("runs, not swapped yet", standing(Phase.RUNNING, **NEW), {BOT}, True, None, None),
    ("runs", standing(Phase.RUNNING), {PROCESSING}, True, None, None),
    ("runs, its label gone", standing(Phase.RUNNING), {DONE}, True, None, Says.WITHDRAWN),
    ("runs, put on again", standing(Phase.RUNNING), {BOT}, True, 50, None),
    (
        "by hand, our label gone",
        standing(Phase.RUNNING, origin=Origin.MANUAL),
        set(),
        True,
        None,
        Says.WITHDRAWN,
    ),
    ("closed", standing(Phase.RUNNING), {PROCESSING}, False, None, Says.CLOSED),
    ("closed and unlabelled", standing(Phase.RUNNING), set(), False, None, Says.CLOSED),
    ("is being cancelled", standing(Phase.RUNNING, cancel_requested=True), set(), False, None, None),
    ("done", standing(Phase.SUCCEEDED), {PROCESSING}, True, None, None),
    ("done, all labels gone", standing(Phase.SUCCEEDED), set(), True, None, None),
    ("done, put on during the work", standing(Phase.SUCCEEDED), {PROCESSING, BOT}, True, 99, None),
    ("done, put on after the work", standing(Phase.SUCCEEDED), {PROCESSING, BOT}, True, 101, Says.ASKED),
    ("done and closed", standing(Phase.SUCCEEDED), {PROCESSING, BOT}, False, 101, None),
    ("done, at an unknown time", standing(Phase.SUCCEEDED), {BOT}, True, None, Says.ASKED),
    ("done, never swapped", standing(Phase.FAILED, **NEW), {BOT}, True, 0, None),
    ("done, never swapped, unknown", standing(Phase.FAILED, **NEW), {BOT}, True, None, None),
    (
        "never swapped, the forge's clock is ahead",
        standing(Phase.FAILED, **NEW, asked_at=at(900), labeled_at=at(900)),
        {BOT},
        True,
        900,
        None,
    ),
    ("never swapped, put on again", standing(Phase.FAILED, **NEW), {BOT}, True, 150, Says.ASKED),
    ("cancelled, never swapped", standing(Phase.CANCELLED, **NEW), {BOT}, True, 1, None),
    ("cancelled, put on again before its end", standing(Phase.CANCELLED), {BOT}, True, 60, Says.ASKED),
    ("shown, then put on", standing(Phase.SUCCEEDED, shown=at(120)), {BOT, DONE}, True, 90, Says.ASKED),
    ("shown, a stale look", standing(Phase.SUCCEEDED, shown=at(120)), {BOT, DONE}, True, 0, None),
]


@pytest.mark.parametrize(
    ("task", "present", "opened", "applied", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_what_the_item_says(
    task: Standing, present: set[str], opened: bool, applied: float | None, expected: Says | None
) -> None:
    when = None if applied is None else at(applied)
    found = plan(task, present, open=opened, applied=when)
    assert (found.doubt.says if found.doubt else None) == expected
    assert found.correct is None, "not before the grace time"
    if expected is not None:
        again = plan(task, present, open=opened, applied=when, doubt=Doubt(expected, at(100)), now=161)
        assert again.correct is expected
        early = plan(task, present, open=opened, applied=when, doubt=Doubt(expected, at(100)), now=159)
        assert early.correct is None
        assert early.doubt == Doubt(expected, at(100)), "the time counts from the first look"


def test_a_doubt_that_passed_or_changed_starts_anew() -> None:
    task = standing(Phase.RUNNING)
    doubt = Doubt(Says.WITHDRAWN, at(0))
    assert plan(task, {PROCESSING}, doubt=doubt).doubt is None
    assert plan(task, set(), open=False, doubt=doubt).doubt == Doubt(Says.CLOSED, at(200))


@pytest.mark.parametrize(
    ("task", "present", "add", "remove", "acknowledge"),
    [
        (standing(Phase.QUEUED, **NEW), {BOT}, (), (), False),
        (standing(Phase.RUNNING, **NEW), {BOT, "bug"}, (PROCESSING,), (BOT,), True),
        (standing(Phase.RUNNING, **NEW), {PROCESSING}, (), (), True),  # the write of the condition was lost
        (standing(Phase.RUNNING), {PROCESSING}, (), (), False),
        (standing(Phase.RUNNING), set(), (), (), False),  # taken off: it must not come back
        (standing(Phase.RUNNING, cancel_requested=True, **NEW), {BOT}, (), (), False),
        (standing(Phase.SUCCEEDED), {PROCESSING}, (DONE,), (PROCESSING,), False),
        (standing(Phase.SUCCEEDED, **NEW), {BOT}, (DONE,), (BOT,), True),
        (standing(Phase.CANCELLED, **NEW), set(), (), (), True),
        (standing(Phase.SUCCEEDED, shown=at(190)), set(), (), (), False),  # people's, once shown
    ],
)
def test_what_is_written(
    task: Standing, present: set[str], add: tuple[str, ...], remove: tuple[str, ...], acknowledge: bool
) -> None:
    found = plan(task, present)
    assert (found.add, found.remove, found.acknowledge) == (add, remove, acknowledge)


def test_a_new_application_is_left_on_while_the_end_is_shown() -> None:
    found = plan(standing(Phase.SUCCEEDED, **NEW), {PROCESSING, BOT}, applied=at(150))
    assert (found.add, found.remove) == ((DONE,), (PROCESSING,))
    assert not found.acknowledge, "the poll must not take it for a stale one, nor for two"


@pytest.mark.parametrize(
    ("shown", "present", "settled"),
    [(None, {DONE}, False), (at(150), {DONE}, False), (at(100), {DONE}, True), (at(100), {DONE, BOT}, False)],
)
def test_an_end_is_settled_when_nothing_has_spoken_against_it(
    shown: datetime | None, present: set[str], settled: bool
) -> None:
    assert plan(standing(Phase.SUCCEEDED, shown=shown), present).settled is settled


@given(
    st.sampled_from(Phase),
    st.booleans(),
    st.booleans(),
    st.sampled_from(Origin),
    st.frozensets(st.sampled_from([BOT, PROCESSING, DONE, FAILED, "bug"])),
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
    task = standing(phase, acknowledged=acknowledged, cancel_requested=cancel, origin=origin)
    when = None if applied is None else at(applied)
    found = plan(task, set(present), open=opened, applied=when)
    after = (present | set(found.add)) - set(found.remove)
    assert "bug" not in {*found.add, *found.remove}
    if found.acknowledge:
        assert BOT not in after, "or the poll would make run after run"
    if found.doubt is not None:
        second = plan(task, set(after), open=opened, applied=when, doubt=found.doubt, now=300)
        assert second.correct is found.doubt.says, "what is written does not hide what the item says"
