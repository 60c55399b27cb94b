"""What is written down of attempts: ends, words and costs, within the CRD's bounds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from coding_agent_core.agenttask import AttemptStatus, Result, UsageStatus
from coding_agent_core.outcome import MAX_TAIL, Outcome, Usage, last_lines

from coding_agent_operator.observed import Job
from coding_agent_operator.outcome_of import Verdict

KEPT_TAILS = 3
"""Newest attempts that keep their last steps: more is never read, and a status is to stay small."""


def begun(job: Job, number: int) -> AttemptStatus:
    """An attempt whose Job exists; the place of its transcript is known before it says a word."""
    return AttemptStatus(
        number=number,
        job=job.name,
        start_time=job.began,
        transcript=job.transcript,
        transcript_url=job.transcript_url,
    )


def reported(attempt: AttemptStatus, report: Outcome) -> AttemptStatus:
    """The attempt with what its agent says of it."""
    return attempt.model_copy(
        update={
            "usage": UsageStatus.model_validate(report.usage.model_dump()),
            "transcript": report.transcript,
            "transcript_url": report.transcript_url,
            "tail": last_lines(report.tail, MAX_TAIL) or None,
        }
    )


def ended(attempt: AttemptStatus, verdict: Verdict, when: datetime) -> AttemptStatus:
    """The attempt with its end."""
    told = reported(attempt, verdict.report) if verdict.report is not None else attempt
    return told.model_copy(
        update={
            "completion_time": max(when, attempt.start_time),
            "outcome": verdict.outcome,
            "reason": verdict.reason,
            "message": verdict.message[:1024],
            "counted": verdict.counted,
            "tail": told.tail or verdict.log or None,
        }
    )


def bounded(attempts: Sequence[AttemptStatus]) -> tuple[AttemptStatus, ...]:
    """The attempts, of which the newest alone keep their last steps."""
    keeping = [each.number for each in attempts if each.tail][-KEPT_TAILS:]
    return tuple(
        each if each.number in keeping or not each.tail else each.model_copy(update={"tail": None})
        for each in attempts
    )


def result_of(
    before: Result | None, reports: Sequence[Outcome], attempts: Sequence[AttemptStatus]
) -> Result | None:
    """What came of the task so far; its usage is the sum over all attempts, however they ended."""
    known = before or Result()
    for report in reports:
        known = known.model_copy(
            update={
                "branch": (report.branch or known.branch or "")[:255] or None,
                "pull_request_url": (report.change_url or known.pull_request_url or "")[:2048] or None,
                "summary": (report.summary or known.summary or "")[:4096] or None,
            }
        )
    used = [each.usage for each in attempts if each.usage is not None]
    if used:
        total = Usage()
        for each in used:
            total = total.plus(Usage.model_validate(each.model_dump()))
        known = known.model_copy(update={"usage": UsageStatus.model_validate(total.model_dump())})
    return known if known != Result() else None
