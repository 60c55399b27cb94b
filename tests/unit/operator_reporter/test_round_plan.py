"""What the reporter does about a change of ours, by its runs and the work that is open."""

from __future__ import annotations

import pytest
from coding_agent_core.reporting.comment import State
from coding_agent_core.task.agenttask import LABEL_REPORTED, AgentTask
from coding_agent_core.task.model import Phase
from coding_agent_core.task.round_cause import RoundCause, RoundKind, Stop, StopReason, Work
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_operator.reporter.report import unreported, with_round
from coding_agent_operator.reporter.round_plan import (
    ScanPlan,
    has_active_run,
    known_rounds,
    plan_scan,
    runs_to_cancel,
)

from tests.unit.operator.making import task
from tests.unit.operator_reporter.test_round_scans import OneRound, with_condition

CAUSE = RoundCause(RoundKind.REVIEW, ("t1",), "a" * 40)
HANDS_OFF = Stop(StopReason.HANDS_OFF, "People do the rest.")


def state(record: RoundRecord | None) -> State:
    return State(uuid="u", phase=Phase.SUCCEEDED, rounds=record)


def test_without_due_work_nothing_is_created() -> None:
    assert plan_scan(Work(), [OneRound().run], None) == ScanPlan()


def test_due_work_waits_until_the_comment_has_the_end_of_the_round_before() -> None:
    run, due = OneRound().run, Work(due=(CAUSE,))
    assert plan_scan(due, [], None) == ScanPlan(create=CAUSE)
    assert plan_scan(due, [run], None) == ScanPlan(waits=True, wait=0.0)
    shown = state(with_round(RoundRecord(), run))
    assert plan_scan(due, [run], shown) == ScanPlan(create=CAUSE)
    refused = with_condition(run, unreported("ForgeRefused", "No."))
    failed = AgentTask(run.metadata, {**run.body, "status": refused.to_wire()})
    assert plan_scan(due, [failed], None) == ScanPlan(waits=True, wait=None)
    metadata = run.metadata._replace(labels={**run.metadata.labels, LABEL_REPORTED: "true"})
    assert plan_scan(due, [AgentTask(metadata, run.body)], None) == ScanPlan(create=CAUSE)


def test_the_known_rounds_are_those_of_the_comment_and_of_the_runs() -> None:
    run = OneRound().run
    assert known_rounds(None, [], ()) == RoundRecord()
    of_run = with_round(RoundRecord(), run)
    assert of_run.rounds
    assert known_rounds(None, [run], ()) == of_run == known_rounds(state(of_run), [run], ())


@pytest.mark.parametrize(("runs", "active"), [([], False), ([OneRound().run], False), ([task()], True)])
def test_a_run_that_works_is_active(runs: list[AgentTask], active: bool) -> None:
    assert has_active_run(runs) is active


def test_hands_off_cancels_the_round_and_no_run_of_a_label() -> None:
    ended, labeled = OneRound().run, task()
    works = AgentTask(ended.metadata, {name: part for name, part in ended.body.items() if name != "status"})
    runs = [labeled, ended, works]
    assert runs_to_cancel(Work(), runs) == []
    assert runs_to_cancel(Work(stops=(HANDS_OFF,)), runs) == [(works, "people do the rest")]
