"""Determines the state of a task: its attempts, updated from its Jobs, and what follows from them. Pure.

Nothing is remembered between two reconciles: the state follows from the recorded attempts and existing Jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from coding_agent_core.task.agenttask import AgentTask, AttemptStatus, OutcomeType, TaskResult
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.commands import cancel_asked
from coding_agent_core.task.environment import Environment
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import PodReason, Reason
from coding_agent_core.task.usage import Usage
from coding_agent_core.task.verification import Evidence

from coding_agent_operator.cluster.observed import Job, attempt_number
from coding_agent_operator.tasks.budgets import used_up
from coding_agent_operator.tasks.outcome_of import (
    AT_ONCE,
    AttemptOutcome,
    AttemptPolicy,
    PodProblem,
    agent_report,
    next_attempt_time,
    outcome_of,
    pod_problem,
    stopped,
    stuck,
)

MAX_RECORDED = 60
"""Maximum number of attempts of a task. A status can hold a few more (`maxItems` 64 in the CRD)."""
MAX_RESTARTS = 3
"""This many attempts of a task may end because they need another environment."""
MAX_WAITS = 20
"""This many attempts of a task may end because the model or the forge asks for a wait. They do not count, but
a service that always asks must not be asked for ever."""
COMMAND_WAIT = timedelta(minutes=10)
"""How long an unchecked `/cancel` keeps attempts from starting. There is a limit because anyone can write the
command, and without a reporter nobody checks it. The time counts from its arrival by the receiver's clock."""
KEPT_TAILS = 3
"""This many of the newest attempts keep their last steps. Nobody reads older ones, and a status must be
small."""


class Stage(StrEnum):
    """The stage of a task, which decides what it needs next."""

    READY = "ready"
    """An attempt may start as soon as `fair_schedule` says so."""
    ACTIVE = "active"
    """A Job of the task exists that has not ended, or whose end is not recorded yet."""
    HELD = "held"
    """A `/cancel` waits until the reporter has checked whether its author may use it."""
    BACKOFF = "backoff"
    SUSPENDED = "suspended"
    ENDED = "ended"


@dataclass(frozen=True)
class TaskOutcome:
    phase: Phase
    reason: str
    message: str


@dataclass(frozen=True)
class TaskState:
    """The state of a task.

    Attributes:
        attempts: the attempts to record; the oldest is first.
        live: the task's own Jobs that have not ended; the oldest is first.
        stop: the live Jobs to delete.
        next_number: the number of the next attempt's Job.
        next_attempt_time: the earliest start of the next attempt; in HELD, when the wait for the command
            ends. `None` if nothing delays it.
        environment: the environment of the next attempt's pod.
        problem: what keeps the attempt's pod from starting or from ending, if its pods were read.
        started: whether the agent of the running attempt has started.
        evidence: what the evidence pods show; `None` if there is no evidence.
    """

    stage: Stage
    attempts: tuple[AttemptStatus, ...]
    live: tuple[Job, ...]
    stop: tuple[Job, ...]
    next_number: int
    outcome: TaskOutcome | None = None
    result: TaskResult | None = None
    next_attempt_time: datetime | None = None
    problem: PodProblem | None = None
    started: bool = False
    environment: Environment | None = None
    evidence: Evidence | None = None

    @property
    def verifying(self) -> bool:
        """Whether the attempts are over and the evidence is pending."""
        return self.evidence is not None and self.evidence.pending

    @property
    def waiting(self) -> Job | None:
        """The attempt's Job if it does not run because Kueue has not admitted it or has preempted it."""
        job = self.live[0] if self.live else None
        return job if job is not None and job.waiting else None


def stage_of(task: AgentTask, jobs: Sequence[Job], now: datetime, policy: AttemptPolicy) -> Stage:
    """Return the stage without reading pods. If the stage is uncertain, it is ACTIVE, to exceed no limit.

    Some `jobs` may be missing, because an attempt whose end is not recorded counts as active.
    """
    own = [job for job in jobs if job.owner == task.uid]
    if any(not job.finished for job in own):
        return Stage.ACTIVE
    if task.ended:
        return Stage.ENDED
    if task.status.verify is not None and task.status.verify.pending:
        return Stage.SUSPENDED if task.spec.suspend else Stage.ACTIVE
    recorded = {attempt.number for attempt in task.status.attempts if attempt.outcome is not None}
    if len(recorded) < len(task.status.attempts) or any(job.number not in recorded for job in own):
        return Stage.ACTIVE
    return (
        Stage.ENDED
        if task.metadata.deleting
        else _between_attempts(task, task.status.attempts, None, now, policy)[0]
    )


def task_state(task: AgentTask, jobs: Sequence[Job], now: datetime, policy: AttemptPolicy) -> TaskState:
    """Return the state of the task.

    Args:
        jobs: every existing Job of the task, and Jobs of other owners that have one of its names. The pods of
            Jobs that ended must have been read.
    """
    own = {job.number: job for job in jobs if job.owner == task.uid and job.number is not None}
    live = tuple(own[number] for number in sorted(own) if not (own[number].finished or own[number].gone))
    taken = [number for job in jobs if (number := attempt_number(task.name, job.name)) is not None]
    recorded = {attempt.number: attempt for attempt in task.status.attempts}
    next_number = max([0, *taken, *recorded]) + 1
    known_end = _recorded_outcome(task)
    if known_end is not None:
        stop = tuple(job for job in live if not job.deleting)
        state = TaskState(Stage.ENDED, task.status.attempts, live, stop, next_number, known_end)
        return replace(state, result=task.status.result, environment=task.status.environment)
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
        problem, started = pod_problem(live[0], now, policy), _agent_started(task, live[0])
        state = TaskState(
            Stage.ACTIVE, shown, live, stop, next_number, None, result, problem=problem, started=started
        )
    else:
        stage, outcome, soonest = _between_attempts(task, attempts, last, now, policy)
        state = TaskState(stage, shown, live, stop, next_number, outcome, result, soonest)
    changed = [one.environment for one in reports if one.reason is Reason.ENVIRONMENT_CHANGED]
    return replace(state, environment=(changed[-1] if changed else task.status.environment) or None)


def _agent_started(task: AgentTask, job: Job) -> bool:
    """Whether the agent of an unfinished Job has started, as far as this is known.

    The Job and its pods may not show it at the moment, because the workspace starts again or the pod has just
    ended. Then the task's condition `Running` decides, which is False between two attempts.
    """
    if job.ready or job.waiting:
        return not job.waiting
    current = [pod for pod in job.pods or () if not (pod.over or pod.deleting)]
    if current:
        return current[-1].started
    running = task.status.condition("Running")
    recorded = any(entry.number == job.number and entry.outcome is None for entry in task.status.attempts)
    return job.pods != () and recorded and running is not None and running.status == "True"


def _between_attempts(
    task: AgentTask,
    attempts: Sequence[AttemptStatus],
    last: AttemptOutcome | None,
    now: datetime,
    policy: AttemptPolicy,
) -> tuple[Stage, TaskOutcome | None, datetime | None]:
    """Return the next stage of a task of which no attempt runs.

    Args:
        attempts: all attempts, with their ends.
        last: the newest end, if it is not recorded yet.

    Returns:
        The stage, the task's end (if it ends), and the earliest start of the next attempt (if there is one).
    """
    outcome = _task_outcome(task, attempts, last, policy)
    if outcome is not None:
        return Stage.ENDED, outcome, None
    soonest = next_attempt_time(
        task.uid,
        attempts,
        policy,
        now,
        asked=last.report.retry_after if last and last.report else None,
        stored=task.status.next_attempt_time if last is None else None,
    )
    if task.spec.suspend:
        return Stage.SUSPENDED, None, soonest
    if soonest is not None and soonest > now:
        return Stage.BACKOFF, None, soonest
    # A person's `/cancel` waits for the reporter. An attempt that starts meanwhile would work in vain.
    asked = cancel_asked(task)
    # Somebody with the receiver's token can store any time, and a later one must not hold the task longer.
    if asked is not None and abs(now - asked) < COMMAND_WAIT:
        return Stage.HELD, None, asked + COMMAND_WAIT
    return Stage.READY, None, soonest


def _attempts(
    task: AgentTask, own: Mapping[int, Job], live: Sequence[Job], now: datetime, policy: AttemptPolicy
) -> tuple[list[AttemptStatus], list[Outcome], AttemptOutcome | None]:
    """Return the updated attempts, new reports of their agents, and the newest end not recorded yet."""
    attempts: list[AttemptStatus] = []
    reports: list[Outcome] = []
    last: AttemptOutcome | None = None
    recorded = {attempt.number: attempt for attempt in task.status.attempts}
    for number in sorted({*recorded, *own}):
        job = own.get(number)
        attempt = recorded.get(number)
        if attempt is None and own[number].waiting:
            continue  # it has not started; if its Job is deleted now, it never existed
        if attempt is None:
            attempt = started_attempt(own[number], number)
        elif job is not None and job.queue and job.started is not None and not job.finished:
            attempt = attempt.model_copy(update={"start_time": job.started})
        outcome = None
        if attempt.outcome is None:
            first = job is None or job.gone or job in live[:1]
            attempt, outcome = _updated(task, attempt, job, first=first, now=now, policy=policy)
            last = outcome or last
        report = outcome.report if outcome else agent_report(job) if job and not job.finished else None
        if report is not None:
            # An agent that is being stopped reports before its Job is gone.
            reports.append(report)
            attempt = attempt if outcome else with_report(attempt, report)
        attempts.append(attempt)
    return attempts, reports, last


def _updated(
    task: AgentTask,
    attempt: AttemptStatus,
    job: Job | None,
    *,
    first: bool,
    now: datetime,
    policy: AttemptPolicy,
) -> tuple[AttemptStatus, AttemptOutcome | None]:
    """Update an attempt without a recorded end: with its end, or with the reason for deleting its Job."""
    if job is None or job.gone:
        # The attempt was recorded, so its Job existed and was deleted.
        outcome = stopped("Cancelled" if task.spec.cancel else attempt.reason, attempt.message)
        if job is not None:
            outcome = replace(outcome, report=agent_report(job))
        return ended(attempt, outcome, now), outcome
    if job.finished:
        outcome = outcome_of(job)
        if attempt.reason is not None and outcome.type is not OutcomeType.SUCCEEDED:
            intended = stopped(attempt.reason, attempt.message)
            outcome = _as_intended(intended, outcome)
        elif task.spec.cancel and outcome.type is not OutcomeType.SUCCEEDED:
            outcome = _as_intended(stopped("Cancelled"), outcome)
        return ended(attempt, outcome, job.finished_at or now), outcome
    if task.spec.cancel:
        intent: AttemptOutcome | None = stopped("Cancelled")
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


def _as_intended(intended: AttemptOutcome, seen: AttemptOutcome) -> AttemptOutcome:
    """Return the outcome for the reason recorded before the Job was deleted, with the pods' details."""
    never_began = intended.never_began or seen.never_began
    return replace(intended, report=seen.report, log=seen.log, never_began=never_began)


def _task_outcome(
    task: AgentTask, attempts: Sequence[AttemptStatus], last: AttemptOutcome | None, policy: AttemptPolicy
) -> TaskOutcome | None:
    if task.spec.cancel:
        when = "" if attempts else " before it started"
        return TaskOutcome(Phase.CANCELLED, "Cancelled", f"The task was cancelled{when}.")
    done = next((attempt for attempt in attempts if attempt.outcome is OutcomeType.SUCCEEDED), None)
    if done is not None:
        return TaskOutcome(Phase.SUCCEEDED, done.reason or "Completed", done.message or "The task is done.")
    if not attempts:
        return None
    newest = attempts[-1]
    reason, message = newest.reason or "Failed", newest.message or "The attempt failed."
    # Only a new end decides: an older one was followed by another attempt already.
    if last is not None and last.reason is Reason.WITHDRAWN:
        return TaskOutcome(Phase.CANCELLED, "Cancelled", message)
    if last is not None and not last.retried:
        return TaskOutcome(Phase.FAILED, reason, message)
    allowance = used_up(attempts)
    if allowance is not None:
        rest = f"{message} Nothing is left of the {allowance} that the task may spend."
        return TaskOutcome(Phase.FAILED, Reason.BUDGET_EXCEEDED, rest)
    counted, maximum = sum(1 for attempt in attempts if attempt.counted), task.spec.max_attempts
    if counted >= maximum:
        return TaskOutcome(Phase.FAILED, reason, f"{message} That was attempt {counted} of {maximum}.")
    # Each push to the file could ask for another pod; without a limit, no attempt would ever work.
    restarts = sum(1 for attempt in attempts if attempt.reason == Reason.ENVIRONMENT_CHANGED)
    if restarts > MAX_RESTARTS:
        many = f"{message} It has changed {restarts} times during this task, so the operator gave up."
        return TaskOutcome(Phase.FAILED, Reason.ENVIRONMENT_CHANGED, many)
    waits = sum(1 for one in attempts if one.outcome is OutcomeType.FAILED and not one.counted)
    if waits > MAX_WAITS:
        many = f"{message} {waits} attempts were asked to wait, so the operator gave up."
        return TaskOutcome(Phase.FAILED, reason, many)
    disruptions = [attempt for attempt in attempts if attempt.outcome is OutcomeType.DISRUPTED]
    disrupted = sum(1 for attempt in disruptions if attempt.reason not in AT_ONCE)
    # Disruptions do not count against `maxAttempts`, but a pod that is always evicted must not run for
    # ever.
    if disrupted > policy.max_disruptions:
        many = f"{message} The cluster disrupted {disrupted} attempts, so the operator gave up."
        return TaskOutcome(Phase.FAILED, reason, many)
    # The status lists all attempts, and an object must stay small.
    if len(attempts) >= MAX_RECORDED:
        many = f"The operator gave up after {len(attempts)} attempts."
        return TaskOutcome(Phase.FAILED, PodReason.TOO_MANY_ATTEMPTS, many)
    return None


def _recorded_outcome(task: AgentTask) -> TaskOutcome | None:
    """Return the outcome that the conditions of an ended task show; `None` if the task has not ended."""
    condition, phase = task.status.condition("Succeeded"), task.status.terminal_phase
    if condition is None or phase is None:
        return None
    return TaskOutcome(phase, condition.reason, condition.message)


def started_attempt(job: Job, number: int) -> AttemptStatus:
    """Return the attempt of an existing Job, which already says where the transcript will be."""
    return AttemptStatus(
        number=number,
        job=job.name,
        start_time=job.began,
        transcript=job.transcript,
        transcript_url=job.transcript_url,
        allowance=job.allowance,
    )


def with_report(attempt: AttemptStatus, report: Outcome) -> AttemptStatus:
    """Add the agent's report to the attempt, without reason and message, which the operator decides."""
    same = (AttemptStatus.model_fields.keys() & Outcome.model_fields.keys()) - {"reason", "message"}
    return attempt.model_copy(update={name: getattr(report, name) or None for name in same})


def ended(attempt: AttemptStatus, outcome: AttemptOutcome, when: datetime) -> AttemptStatus:
    """Add the end to the attempt."""
    if outcome.report is not None:
        attempt = with_report(attempt, outcome.report)
    elif outcome.never_began:
        attempt = attempt.model_copy(update={"usage": Usage()})  # it has spent nothing
    return attempt.model_copy(
        update={
            "completion_time": max(when, attempt.start_time),
            "outcome": outcome.type,
            "reason": outcome.reason.value,
            "message": outcome.message,
            "counted": outcome.counted,
            "tail": attempt.tail or outcome.log or None,
        }
    )


def bounded(attempts: Sequence[AttemptStatus]) -> tuple[AttemptStatus, ...]:
    """Remove the last steps from all but the newest attempts, because a status must stay small."""
    keeping = [attempt.number for attempt in attempts if attempt.tail][-KEPT_TAILS:]
    return tuple(
        attempt
        if attempt.number in keeping or not attempt.tail
        else attempt.model_copy(update={"tail": None})
        for attempt in attempts
    )


def result_of(
    before: TaskResult | None, reports: Sequence[Outcome], attempts: Sequence[AttemptStatus]
) -> TaskResult | None:
    """Return the task's result so far. Its usage is the sum over all attempts, however they ended."""
    result = before or TaskResult()
    same = (TaskResult.model_fields.keys() & Outcome.model_fields.keys()) - {"usage"}
    for report in reports:
        reported = {name: value for name in same if (value := getattr(report, name))}
        result = result.model_copy(update=reported)
    used = [attempt.usage for attempt in attempts if attempt.usage is not None]
    if used:
        total = Usage()
        for usage in used:
            total = total.plus(usage)
        result = result.model_copy(update={"usage": total})
    return result if result != TaskResult() else None
