"""What an AgentTask keeps of a round leads to the same record as the round's result itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.attempts import MAX_MESSAGE_BYTES, Outcome
from coding_agent_core.reasons import Reason
from coding_agent_core.rounds.record import RerunEntry, RoundEnd, RoundRecord, RoundResult, after
from coding_agent_core.rounds.trigger import (
    REPORTED_RERUNS,
    RoundReport,
    cause_of,
    recorded,
    report_of_round,
    trigger_of,
)
from coding_agent_core.rounds.values import IDS_LIMIT, RoundCause, RoundKind
from coding_agent_core.tasks import ROUND_CAUSE_LIMIT, Cause, Origin, Trigger

NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
HEAD, NEXT = "a" * 40, "b" * 40
REVIEW = RoundCause(RoundKind.REVIEW, ("c7", "t9"), HEAD, again=1, number=2, limit=5, seen=NOW)
CHECKS = RoundCause(RoundKind.CHECKS, ("build / test",), HEAD, number=1, limit=3, seen=NOW)
CONFLICT = RoundCause(RoundKind.CONFLICT, ("c" * 40,), HEAD, limit=2)


@pytest.mark.parametrize("cause", [REVIEW, CHECKS, CONFLICT], ids=lambda cause: cause.kind)
def test_a_cause_is_read_back_from_its_task(cause: RoundCause) -> None:
    word, trigger = trigger_of(cause, NOW)
    assert word is Cause(cause.kind.value)
    assert trigger.name_part == cause.name_part
    assert cause_of(trigger) == cause
    sent = Trigger(origin=Origin.POLL, cause=word, received_at=NOW, round=trigger)
    for by_alias in (True, False):
        message = sent.model_dump(mode="json", by_alias=by_alias)
        assert Trigger.model_validate(message) == sent


def test_long_names_of_checks_are_left_out() -> None:
    names = tuple(sorted(f"{number} {'é' * 290}" for number in range(IDS_LIMIT)))
    word, trigger = trigger_of(replace(CHECKS, ids=names), NOW)
    assert len(trigger.cause) <= ROUND_CAUSE_LIMIT
    assert 1 <= len(cause_of(trigger).ids) < IDS_LIMIT
    assert set(cause_of(trigger).ids) < set(names)
    assert trigger.name_part == cause_of(trigger).name_part
    assert word is Cause.CHECKS


ENDS = {
    "pushed": RoundResult(CHECKS, NOW, RoundEnd.PUSHED, NEXT, "1" * 40, "2" * 40, created_for=CHECKS),
    "more than asked": RoundResult(
        replace(CHECKS, ids=("build / lint", "build / test")), NOW, RoundEnd.PUSHED, NEXT, created_for=CHECKS
    ),
    "another cause": RoundResult(REVIEW, NOW, RoundEnd.NO_PUSH, HEAD, created_for=CHECKS),
    "nothing due": RoundResult(CHECKS, NOW, RoundEnd.SUPERSEDED, HEAD, created_for=CHECKS),
    "no progress": RoundResult(CHECKS, NOW, RoundEnd.NO_PROGRESS, HEAD, created_for=CHECKS),
}


@pytest.mark.parametrize("result", ENDS.values(), ids=ENDS)
def test_a_report_leads_to_the_same_record(result: RoundResult) -> None:
    expected = after(RoundRecord(), result)
    _, trigger = trigger_of(CHECKS, NOW)
    report = report_of_round(result)
    assert recorded(RoundRecord(), trigger, report, RoundEnd.FAILED) == expected
    assert recorded(expected, trigger, report, RoundEnd.FAILED) == expected, "the call can be repeated"


def test_a_run_without_a_report_is_recorded() -> None:
    _, trigger = trigger_of(CHECKS, NOW)
    record = recorded(RoundRecord(), trigger, None, RoundEnd.CANCELLED)
    assert record.has(CHECKS)
    assert record.rounds[0].end is RoundEnd.CANCELLED
    assert record.rounds[0].seen == CHECKS.seen
    assert recorded(record, trigger, None, RoundEnd.CANCELLED) == record


def test_reruns_of_a_round_are_recorded_once() -> None:
    _, trigger = trigger_of(CHECKS, NOW)
    rerun = RerunEntry(head=HEAD, check="0" * 12, run="42", at=NOW)
    report = report_of_round(ENDS["nothing due"], [rerun])
    record = recorded(RoundRecord(), trigger, report, RoundEnd.FAILED)
    assert record.reruns == (rerun,)
    assert recorded(record, trigger, report, RoundEnd.FAILED) == record
    # A later look asked again on a newer head; the round's report is recorded at each look.
    later = record.with_rerun_entry(rerun.model_copy(update={"head": NEXT, "at": NOW + timedelta(hours=1)}))
    assert [one.head for one in later.reruns] == [NEXT]
    assert recorded(later, trigger, report, RoundEnd.FAILED) == later


def test_the_largest_report_fits_a_termination_message() -> None:
    names = tuple(f"check {number}" for number in range(IDS_LIMIT))
    cause = replace(CHECKS, ids=names, errors=tuple(f"{number:012x}" for number in range(IDS_LIMIT)))
    rerun = RerunEntry(head=HEAD, check="0" * 12, run="1234567890", at=NOW)
    report = report_of_round(RoundResult(cause, NOW, RoundEnd.PUSHED, NEXT, "1" * 40, "2" * 40), [rerun] * 9)
    assert len(report.reruns) == REPORTED_RERUNS
    outcome = Outcome(
        reason=Reason.COMPLETED, message="m" * 900, summary="s" * 4000, tail="t" * 2000, round=report
    )
    message = outcome.to_termination_message()
    assert len(message.encode()) <= MAX_MESSAGE_BYTES
    read = Outcome.from_termination_message(message)
    assert read is not None
    assert read.round == report


def test_a_report_that_cannot_be_read_does_not_hide_the_outcome() -> None:
    outcome = Outcome.from_termination_message(
        '{"reason": "Completed", "message": "Done.", "round": {"kind": "dance"}}'
    )
    assert outcome is not None
    assert outcome.round is None
    assert RoundReport.model_validate(report_of_round(ENDS["pushed"]).model_dump(mode="json"))
