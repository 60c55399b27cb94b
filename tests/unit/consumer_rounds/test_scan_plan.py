"""What a consumer does about a change of ours, by our comment and the work that is open."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_consumer.rounds.scan_plan import ScanPlan, has_active_task, plan_scan
from coding_agent_core.reporting.comment import State
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import Rerun, RoundCause, RoundKind, Stop, StopReason, Work
from coding_agent_core.task.round_report import trigger_of

CAUSE = RoundCause(RoundKind.REVIEW, ("t1",), "a" * 40)
RERUN = Rerun("900", "check", "CI / test", "a" * 40, "it timed out")
HANDS_OFF = Work(stops=(Stop(StopReason.HANDS_OFF, "People do the rest."),))
_, ROUND = trigger_of(CAUSE, datetime(2026, 12, 3, tzinfo=UTC))


def state(phase: Phase, attempt: int = 0, **more: Any) -> State:
    return State(uuid="u", phase=phase, attempt=attempt, **more)


WAITS, ENDED = state(Phase.QUEUED, round=ROUND), state(Phase.SUCCEEDED, 1)


@pytest.mark.parametrize(
    ("of", "active"),
    [
        (None, False),
        (ENDED, False),
        (state(Phase.QUEUED), False),
        (state(Phase.BACKOFF, 1), True),
        (state(Phase.RUNNING, 1), True),
    ],
)
def test_a_task_is_active_once_it_has_begun(of: State | None, active: bool) -> None:
    assert has_active_task(of) is active


@pytest.mark.parametrize(
    ("work", "of", "is_shown", "shows"),
    [
        (Work(), None, True, False),
        (Work(), ENDED, False, True),
        (Work(reruns=(RERUN,)), ENDED, True, True),
        (Work(reruns=(RERUN,)), None, True, True),
        (Work(), state(Phase.RUNNING, 1), False, False),
        (HANDS_OFF, ENDED, False, True),
    ],
)
def test_the_comment_changes_only_while_no_task_has_it(
    work: Work, of: State | None, is_shown: bool, shows: bool
) -> None:
    assert plan_scan(work, of, is_shown=is_shown) == ScanPlan(shows=shows)


@pytest.mark.parametrize("of", [None, ENDED, WAITS])
def test_due_work_is_queued(of: State | None) -> None:
    plan = plan_scan(Work(due=(CAUSE,), reruns=(RERUN,)), of, is_shown=False)
    assert plan == ScanPlan(queue=CAUSE)


@pytest.mark.parametrize(
    ("work", "of", "reason"),
    [
        (HANDS_OFF, WAITS, Reason.CANCELLED),
        (HANDS_OFF, state(Phase.BACKOFF, 1, round=ROUND), Reason.CANCELLED),
        (Work(), WAITS, None),
        (HANDS_OFF, state(Phase.RUNNING, 1, round=ROUND), None),
        (HANDS_OFF, state(Phase.QUEUED), None),
    ],
)
def test_a_waiting_round_ends_with_hands_off(work: Work, of: State, reason: Reason | None) -> None:
    ending = plan_scan(work, of, is_shown=True).ending
    assert (ending.reason if ending is not None else None) is reason
