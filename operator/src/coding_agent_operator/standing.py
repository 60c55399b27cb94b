"""Where a task stands: its attempts brought up to date from its Jobs, and what follows from them. Pure.

Nothing is remembered between two looks: the recorded attempts and the Jobs that exist say it all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from coding_agent_core.agenttask import AttemptOutcome, AttemptStatus, Result
from coding_agent_core.outcome import Outcome
from coding_agent_core.phases import Phase

from coding_agent_operator.backoff import next_time, possible
from coding_agent_operator.names import attempt_number
from coding_agent_operator.observed import Job, Task
from coding_agent_operator.outcome_of import (
    Trouble,
    Verdict,
    outcome_of,
    report_of,
    stopped,
    stuck,
    trouble,
)
from coding_agent_operator.recorded import begun, bounded, ended, reported, result_of
from coding_agent_operator.settings import Policy

MAX_RECORDED = 60
"""Attempts that a status can hold (`maxItems` 64 in the CRD), with some room."""


class Stage(StrEnum):
    """What a task is about at this moment."""

    READY = "ready"
    """An attempt may start as soon as `schedule` says so."""
    ACTIVE = "active"
    """A Job of it exists that has not ended, or whose end is not recorded yet."""
    BACKOFF = "backoff"
    SUSPENDED = "suspended"
    ENDED = "ended"


@dataclass(frozen=True)
class End:
    """How a task ends."""

    phase: Phase
    reason: str
    message: str


@dataclass(frozen=True)
class Standing:
    """Where a task stands.

    Attributes:
        attempts: as they are to be recorded, oldest first.
        live: own Jobs that have not ended.
        stop: those of them that are to be deleted.
        next_number: of the next attempt's Job.
        next_attempt_time: when it may start at the soonest, in BACKOFF.
        trouble: what keeps the attempt's pod from beginning or from ending, as far as that was looked at.
    """

    stage: Stage
    attempts: tuple[AttemptStatus, ...]
    live: tuple[Job, ...]
    stop: tuple[Job, ...]
    next_number: int
    end: End | None = None
    result: Result | None = None
    next_attempt_time: datetime | None = None
    trouble: Trouble | None = None

    @property
    def waiting(self) -> Job | None:
        """The attempt's Job, if it does not run: Kueue has not admitted it, or has preempted it."""
        job = self.live[0] if self.live else None
        return job if job is not None and job.waiting else None


def stage_of(task: Task, jobs: Sequence[Job], now: datetime, policy: Policy) -> Stage:
    """The stage, from what is cheap to know; in doubt ACTIVE, so that no limit is ever exceeded.

    `jobs` need not be complete nor looked into: an attempt whose end is not recorded is active.
    """
    outcomes = {attempt.number: attempt.outcome for attempt in task.status.attempts}
    unrecorded = any(outcome is None for outcome in outcomes.values())
    own = [job for job in jobs if job.owner == task.uid]
    if any(not job.finished for job in own):
        return Stage.ACTIVE
    if task.ended:
        return Stage.ENDED
    if unrecorded or any(outcomes.get(job.number or 0) is None for job in own):
        return Stage.ACTIVE
    if task.spec.cancel or task.deleting:
        return Stage.ENDED
    if task.spec.suspend:
        return Stage.SUSPENDED
    later = task.status.next_attempt_time
    if outcomes and later is not None and later > now and possible(later, now, policy):
        return Stage.BACKOFF
    return Stage.READY


def assess(task: Task, jobs: Sequence[Job], now: datetime, policy: Policy) -> Standing:
    """Where the task stands.

    Args:
        jobs: every Job of the task that exists, and Jobs of others that have one of its names. Pods of Jobs
            that ended have been looked at.
    """
    own = {job.number: job for job in jobs if job.owner == task.uid and job.number is not None}
    live = tuple(own[number] for number in sorted(own) if not own[number].finished)
    taken = [number for job in jobs if (number := attempt_number(task.name, job.name)) is not None]
    recorded = {attempt.number: attempt for attempt in task.status.attempts}
    next_number = max([0, *taken, *recorded]) + 1
    if task.ended:
        stop = tuple(job for job in live if not job.deleting)
        return Standing(
            Stage.ENDED, task.status.attempts, live, stop, next_number, _end_of(task), task.status.result
        )
    attempts, reports, last = _attempts(task, own, live, now, policy)
    shown = bounded(attempts)
    result = result_of(task.status.result, reports, shown)
    intended = {attempt.number for attempt in attempts if attempt.reason is not None}
    known = {attempt.number for attempt in attempts}
    unwanted = {
        job.number
        for job in (live if task.spec.cancel or task.spec.suspend else live[1:])
        if job.number not in known
    }
    stop = tuple(job for job in live if job.number in intended | unwanted and not job.deleting)
    if live:
        why = trouble(live[0], now, policy)
        return Standing(Stage.ACTIVE, shown, live, stop, next_number, None, result, trouble=why)
    end = _end(task, attempts, last, policy)
    soonest = next_time(
        task.uid,
        attempts,
        policy,
        now,
        asked=last.report.retry_after if last and last.report else None,
        stored=task.status.next_attempt_time if last is None else None,
    )
    if end is not None:
        stage, soonest = Stage.ENDED, None
    elif task.spec.suspend:
        stage = Stage.SUSPENDED
    else:
        stage = Stage.BACKOFF if soonest is not None and soonest > now else Stage.READY
    return Standing(stage, shown, live, stop, next_number, end, result, soonest)


def _attempts(
    task: Task, own: Mapping[int, Job], live: Sequence[Job], now: datetime, policy: Policy
) -> tuple[list[AttemptStatus], list[Outcome], Verdict | None]:
    """The attempts up to date, what their agents newly said, and the newest end that was not recorded."""
    attempts: list[AttemptStatus] = []
    reports: list[Outcome] = []
    last: Verdict | None = None
    recorded = {attempt.number: attempt for attempt in task.status.attempts}
    for number in sorted({*recorded, *own}):
        job = own.get(number)
        attempt = recorded.get(number)
        if attempt is None and own[number].waiting:
            continue  # it has not begun: deleted now, it never was
        if attempt is None:
            attempt = begun(own[number], number)
        elif job is not None and job.queue and job.started is not None and not job.finished:
            attempt = attempt.model_copy(update={"start_time": job.started})
        verdict = None
        if attempt.outcome is None:
            attempt, verdict = _settle(
                task, attempt, job, first=job is None or job in live[:1], now=now, policy=policy
            )
            last = verdict or last
        report = verdict.report if verdict else report_of(job) if job and not job.finished else None
        if report is not None:
            # An agent that is being stopped has its say before its Job is gone for good.
            reports.append(report)
            attempt = attempt if verdict else reported(attempt, report)
        attempts.append(attempt)
    return attempts, reports, last


def _settle(
    task: Task, attempt: AttemptStatus, job: Job | None, *, first: bool, now: datetime, policy: Policy
) -> tuple[AttemptStatus, Verdict | None]:
    """An attempt without a recorded end: its end, or why its Job is to go, or nothing new."""
    if job is None:
        # It was recorded, so it ran: a Job that is missing was deleted.
        verdict = stopped("Cancelled" if task.spec.cancel else attempt.reason, attempt.message)
        return ended(attempt, verdict, now), verdict
    if job.finished:
        verdict = outcome_of(job)
        if attempt.reason is not None and verdict.outcome is not AttemptOutcome.SUCCEEDED:
            verdict = replace(
                stopped(attempt.reason, attempt.message), report=verdict.report, log=verdict.log
            )
        elif task.spec.cancel and verdict.outcome is not AttemptOutcome.SUCCEEDED:
            verdict = replace(stopped("Cancelled"), report=verdict.report, log=verdict.log)
        return ended(attempt, verdict, job.finished_at or now), verdict
    if task.spec.cancel:
        intent: Verdict | None = stopped("Cancelled")
    elif task.spec.suspend:
        intent = stopped("Suspended")
    elif job.deleting:
        return attempt, None
    elif not first:
        intent = stopped("Superfluous")
    else:
        intent = stuck(job, now, policy)
    update = {
        "reason": intent.reason if intent else None,
        "message": intent.message if intent else None,
    }
    return attempt.model_copy(update=update), None


def _end(task: Task, attempts: Sequence[AttemptStatus], last: Verdict | None, policy: Policy) -> End | None:
    if task.spec.cancel:
        when = "" if attempts else " before it started"
        return End(Phase.CANCELLED, "Cancelled", f"The task was cancelled{when}.")
    done = next((each for each in attempts if each.outcome is AttemptOutcome.SUCCEEDED), None)
    if done is not None:
        return End(Phase.SUCCEEDED, done.reason or "Completed", done.message or "The task is done.")
    if not attempts:
        return None
    newest = attempts[-1]
    reason, message = newest.reason or "Failed", newest.message or "The attempt failed."
    if last is not None and not last.retried:
        return End(Phase.FAILED, reason, message)
    counted = sum(1 for each in attempts if each.counted)
    if counted >= task.spec.max_attempts:
        return End(Phase.FAILED, reason, f"{message} That was attempt {counted} of {task.spec.max_attempts}.")
    disrupted = sum(1 for each in attempts if not each.counted and each.reason != "Suspended")
    if disrupted > policy.max_disruptions:
        return End(Phase.FAILED, reason, f"{message} The cluster disrupted {disrupted} attempts; given up.")
    if len(attempts) >= MAX_RECORDED:
        return End(Phase.FAILED, "TooManyAttempts", f"{len(attempts)} attempts were started; given up.")
    return None


def _end_of(task: Task) -> End:
    """The end that the conditions of an ended task tell."""
    condition = task.status.condition("Succeeded")
    if condition is not None and condition.status == "True":
        return End(Phase.SUCCEEDED, condition.reason, condition.message)
    reason = condition.reason if condition else "Failed"
    phase = Phase.CANCELLED if reason == "Cancelled" else Phase.FAILED
    return End(phase, reason, condition.message if condition else "")
