"""What an AgentTask keeps of a round, and what the record gets from it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from coding_agent_core.task.attempts import MAX_MESSAGE_BYTES, Outcome
from coding_agent_core.task.model import ROUND_CAUSE_LIMIT, Cause, Origin, Trigger
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import IDS_LIMIT, RoundCause, RoundKind
from coding_agent_core.task.round_record import (
    RERUNS_LIMIT,
    RerunEntry,
    RoundEnd,
    RoundRecord,
    RoundResult,
    entry_of,
    with_reruns,
)
from coding_agent_core.task.round_report import (
    REPORTED_RERUNS,
    RoundReport,
    cause_of,
    recorded,
    report_of_round,
    round_phrase,
    trigger_of,
)

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


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "7",
        "[]",
        '["review"]',
        '["label","","t1",0]',
        '["review","","t1",{}]',
        '["review","",1e999]',
        "[" * ROUND_CAUSE_LIMIT,
    ],
    ids=lambda text: text[:20],
)
def test_what_a_person_wrote_as_a_cause_can_be_anything(text: str) -> None:
    _, trigger = trigger_of(CHECKS, NOW)
    with pytest.raises(ValueError, match="not the identity of a round's cause"):
        cause_of(trigger.model_copy(update={"cause": text}))


ENDS = {
    "pushed": RoundResult(CHECKS, NOW, RoundEnd.PUSHED, NEXT, "1" * 40, "2" * 40),
    "more than asked": RoundResult(
        replace(CHECKS, ids=("build / lint", "build / test")), NOW, RoundEnd.PUSHED, NEXT
    ),
    "another cause": RoundResult(REVIEW, NOW, RoundEnd.NO_PUSH, HEAD),
    "nothing due": RoundResult(CHECKS, NOW, RoundEnd.SUPERSEDED, HEAD),
    "no progress": RoundResult(CHECKS, NOW, RoundEnd.NO_PROGRESS, HEAD),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_report_is_recorded_with_the_cause_that_the_round_was_created_for(name: str) -> None:
    _, trigger = trigger_of(CHECKS, NOW)
    report = report_of_round(ENDS[name])
    record = recorded(RoundRecord(), trigger, report, RoundEnd.FAILED)
    assert record.rounds == (() if name == "nothing due" else (entry_of(ENDS[name]),))
    assert len(record.superseded) == (name in ("another cause", "nothing due"))
    assert record.has(CHECKS) is (name != "more than asked"), "its name is taken"
    assert recorded(record, trigger, report, RoundEnd.FAILED) == record, "the call can be repeated"


@pytest.mark.parametrize("cause", [REVIEW, replace(CHECKS, ids=("a",))], ids=lambda cause: cause.kind)
def test_a_round_that_did_more_on_another_head_did_what_it_was_created_for_if_it_is_a_review(
    cause: RoundCause,
) -> None:
    """Checks belong to a commit, and remarks to the change."""
    more = replace(cause, ids=(*cause.ids, "z1"), head=NEXT)
    _, trigger = trigger_of(cause, NOW)
    report = report_of_round(RoundResult(more, NOW, RoundEnd.PUSHED, "c" * 40))
    record = recorded(RoundRecord(), trigger, report, RoundEnd.FAILED)
    assert len(record.superseded) == (cause.kind is not RoundKind.REVIEW)


@pytest.mark.parametrize("name", ENDS)
def test_people_read_which_round_ran(name: str) -> None:
    _, trigger = trigger_of(replace(CHECKS, number=2, limit=3), NOW)
    expected = "review round" if name == "another cause" else "checks round 2 of 3"
    assert round_phrase(trigger, report_of_round(ENDS[name])) == expected
    assert round_phrase(trigger) == "checks round 2 of 3"


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
    # Later looks asked again on a newer head; the round's report is recorded at each look.
    newer = [rerun.model_copy(update={"head": NEXT, "run": str(number)}) for number in range(RERUNS_LIMIT)]
    later = with_reruns(record, newer)
    assert {one.head for one in later.reruns} == {NEXT}
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
