"""Decides the next actions for one task, and the status and Events that report them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from coding_agent_core.task.agenttask import (
    AgentTask,
    AttemptStatus,
    Condition,
    Event,
    OutcomeType,
    Status,
    attempt_name,
    duration,
    shown_attempt,
)
from coding_agent_core.task.environment import Environment
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import REASONS, Reason

from coding_agent_operator.cluster.observed import Job, attempt_number
from coding_agent_operator.tasks.budgets import Exhausted, day_of
from coding_agent_operator.tasks.evidence import EvidencePod, evidence_step
from coding_agent_operator.tasks.outcome_of import POD_PROBLEMS, AttemptPolicy, PodProblem, sentence
from coding_agent_operator.tasks.state import COMMAND_WAIT, Stage, TaskOutcome, TaskState, task_state

_CONDITIONS = ("Succeeded", "Running", "Finished", "WithinBudget")
"""Types of the operator's conditions."""
WAITING_FOR_BUDGET = "WaitingForBudget"
"""The reason of a task that waits because a budget has too little left. The condition `WithinBudget` says
since when."""
VERIFYING = "Verifying"
"""The reason of a task whose work is pushed and whose evidence is pending."""
OPERATOR_DEFECT = "OperatorDefect"
"""The reason of a task of which a reconcile ends with an unexpected exception."""
_VERIFIES = "The work is pushed. Its verification runs in a pod without the agent."
_HELD = (
    "Somebody wrote /cancel. No attempt starts until the reporter has checked whether they may. If it does "
    f"not within {COMMAND_WAIT.seconds // 60} minutes, the task continues."
)
DELETING_REQUEUE_S = 2.0
"""Seconds until a Job whose pods are ending is read again."""
Refusal = Callable[[Environment], str | None]
"""Returns why the settings do not allow an environment, as a sentence; `None` if they allow it."""


@dataclass(frozen=True)
class SchedulingDecision:
    """The decision of `fair_schedule` about a task.

    Attributes:
        start: whether the task's next attempt may start.
        position: the position in the queue that people are shown.
        after: the older run of the same item that must end first, or the name of an `Orphan`.
        limit: which limit keeps the task waiting, as a clause; empty if none does.
        refused: why the API server did not accept the task's Job; the operator tries again.
        exhausted: the budget that has too little left for the task.
    """

    start: bool = False
    position: int | None = None
    after: str | None = None
    limit: str = ""
    refused: str | None = None
    exhausted: Exhausted | None = None


@dataclass(frozen=True)
class Plan:
    """The actions for a task, in this order: create, record, clean up.

    Attributes:
        create: the number of the attempt whose Job to create. Such a plan contains nothing else: once the new
            Job exists, the task is planned again.
        verify: the evidence pod whose Job to create, with nothing else.
        status: the status to write; `None` if it is unchanged.
        events: Events about the changes, to be written after the status.
        lasting: Events that describe a state. Each is written once while this process runs.
        labels: labels of the task to restore.
        delete: Jobs to delete in the foreground, so that each stays until its pods are gone.
        release: Jobs whose end is recorded. The operator stops watching them, and they are deleted after
            `keep_jobs`.
        requeue_at: when to reconcile again even if nothing happens.
    """

    stage: Stage
    create: int | None = None
    verify: EvidencePod | None = None
    status: Status | None = None
    events: tuple[Event, ...] = ()
    lasting: tuple[Event, ...] = ()
    labels: dict[str, str] | None = None
    delete: tuple[Job, ...] = ()
    release: tuple[Job, ...] = ()
    requeue_at: datetime | None = None


def plan_task(
    task: AgentTask,
    jobs: Sequence[Job],
    decision: SchedulingDecision,
    now: datetime,
    policy: AttemptPolicy,
    *,
    environment_refusal: Refusal = lambda _: None,
    unauthorized: Callable[[AgentTask], str | None] = lambda _: None,
    evidence_limit: timedelta | None = None,
) -> Plan:
    """Decide what to do for a task. The decision depends only on what exists in the cluster.

    Args:
        jobs: every existing Job of the task, and Jobs of other owners that have one of its names. The pods of
            Jobs that ended must have been read.
        environment_refusal: returns why the environment that the next attempt needs is not allowed.
        unauthorized: returns why the person may not start a task, if this is known before the first attempt.
        evidence_limit: how long all evidence pods together may take; `None` if this installation has none.
    """
    if task.metadata.deleting:
        return Plan(Stage.ENDED)
    evidence_jobs = [job for job in jobs if job.verify is not None]
    jobs = [job for job in jobs if job.verify is None]
    state = _if_allowed(task_state(task, jobs, now, policy), environment_refusal)
    step = evidence_step(task, state, evidence_jobs, now=now, policy=policy, limit=evidence_limit)
    if step is not None:
        state = replace(state, evidence=step.evidence)
        if state.verifying and not task.ended:
            rests = task.spec.suspend and not any(not job.finished for job in evidence_jobs)
            state = replace(state, stage=Stage.SUSPENDED if rests else Stage.ACTIVE, outcome=None)
        if step.create is not None:
            # If a Job of another owner has the name, the next reconcile tries the next name.
            pod = EvidencePod(*step.create, step.evidence.commit)
            return Plan(state.stage, verify=pod, requeue_at=now)
    if state.stage is Stage.READY and not state.attempts and (why := unauthorized(task)) is not None:
        outcome = TaskOutcome(Phase.FAILED, Reason.NOT_AUTHORIZED, why)
        state = replace(state, stage=Stage.ENDED, outcome=outcome)
    if state.stage is Stage.READY and decision.start:
        return Plan(state.stage, create=state.next_number)
    status = status_of(task, state, decision, now)
    changed = status != task.status or not task.intact
    recorded = {attempt.number for attempt in state.attempts if attempt.outcome is not None}
    over = state.stage is Stage.ENDED
    release = tuple(
        job
        for job in jobs
        if job.owner == task.uid
        and job.active_label
        and job.finished
        and not job.deleting
        and (over or job.number in recorded)
    )
    return Plan(
        stage=state.stage,
        status=status if changed else None,
        events=tuple(_transitions(task.status, status, task.spec.max_attempts)) if changed else (),
        lasting=tuple(_lasting(task, jobs, state.problem)),
        labels=None if over else (task.missing_labels or None),
        delete=(*state.stop, *(step.delete if step is not None else ())),
        release=(*release, *(step.release if step is not None else ())),
        requeue_at=_requeue_at(state, now, policy),
    )


def _if_allowed(state: TaskState, environment_refusal: Refusal) -> TaskState:
    """Return the state, with an end if the settings do not allow the environment that the task needs.

    Without that environment, the next attempt would only ask for it again.
    """
    if state.stage not in (Stage.READY, Stage.HELD, Stage.BACKOFF) or state.environment is None:
        return state
    refused = environment_refusal(state.environment)
    if refused is None:
        return state
    outcome = TaskOutcome(Phase.FAILED, Reason.ENVIRONMENT_REFUSED, refused)
    return replace(state, stage=Stage.ENDED, outcome=outcome, next_attempt_time=None)


def _requeue_at(state: TaskState, now: datetime, policy: AttemptPolicy) -> datetime | None:
    if state.stage in (Stage.BACKOFF, Stage.HELD):
        return state.next_attempt_time
    if state.verifying and state.stage is not Stage.SUSPENDED:
        begun = state.evidence is not None and state.evidence.head is not None
        return now + timedelta(seconds=policy.pod_check_interval if begun else 0)
    if not state.live:
        return None
    if any(job.deleting for job in state.live) or state.stop:
        return now + timedelta(seconds=DELETING_REQUEUE_S)
    if any(job.ready == 0 and not job.waiting for job in state.live):
        return now + timedelta(seconds=policy.pod_check_interval)
    return None


def status_of(task: AgentTask, state: TaskState, decision: SchedulingDecision, now: datetime) -> Status:
    """Return the status to store. It equals the stored one if nothing has changed."""
    phase, reason, message = _summary(task, state, decision)
    if reason == WAITING_FOR_BUDGET:
        message = f"{message} It has waited since {_waits_since(task, now):%Y-%m-%d %H:%M} UTC."
    succeeded: Literal["True", "False", "Unknown"] = "Unknown"
    over = state.stage is Stage.ENDED
    if over:
        succeeded = "True" if phase is Phase.SUCCEEDED else "False"

    def condition(kind: str, value: Literal["True", "False", "Unknown"], why: str, text: str) -> Condition:
        known = task.status.condition(kind)
        since = known.last_transition_time if known is not None and known.status == value else now
        return Condition(
            type=kind,
            status=value,
            reason=why,
            message=text,
            last_transition_time=since,
            observed_generation=task.metadata.generation,
        )

    conditions = [
        condition("Succeeded", succeeded, reason, message),
        condition("Running", "True" if state.started else "False", *_running(state)),
        condition("Finished", "True", phase.value, message)
        if over
        else condition("Finished", "False", "NotFinished", "The task has not ended yet."),
    ]
    if phase is Phase.QUEUED and reason == WAITING_FOR_BUDGET:
        conditions.append(condition("WithinBudget", "False", reason, message))
    elif task.status.condition("WithinBudget") is not None:
        conditions.append(condition("WithinBudget", "True", "Enough", "No budget keeps the task waiting."))
    # All other conditions are the reporter's.
    conditions += [condition for condition in task.status.conditions if condition.type not in _CONDITIONS]
    counted = sum(1 for attempt in state.attempts if attempt.counted)
    start = state.attempts[0].start_time if state.attempts else None
    completion = (task.status.completion_time or now) if over else None
    kept_as_usual = task.spec.ttl_seconds_after_finished is None
    return Status(
        conditions=tuple(conditions),
        item=task.spec.item.mark,
        phase=phase,
        reason=reason,
        start_time=start,
        completion_time=completion,
        duration=duration(start, completion) if start and completion else None,
        kept_since=str(day_of(completion)) if completion and kept_as_usual else None,
        queue_position=decision.position if phase is Phase.QUEUED else None,
        attempts=state.attempts,
        attempt=f"{shown_attempt(state.attempts)}/{task.spec.max_attempts}",
        counted_attempts=counted,
        result=state.result,
        environment=state.environment,
        verify=state.evidence,
        # It may be what a provider asked for, and then it must outlast a suspension.
        next_attempt_time=state.next_attempt_time if phase in (Phase.BACKOFF, Phase.SUSPENDED) else None,
        observed_generation=task.metadata.generation,
    )


def status_with_defect(task: AgentTask, error: Exception, now: datetime) -> Status:
    """Return the status of a task whose reconcile ended with an unexpected exception.

    Only reason and message change. The next reconcile that succeeds replaces them. The text of the exception
    is left out, because it can contain anything.
    """
    succeeded = task.status.condition("Succeeded")
    shown = Condition(
        type="Succeeded",
        status="Unknown",
        reason=OPERATOR_DEFECT,
        message=(
            f"A defect in the operator ({type(error).__name__}) stops its work on this task; the operator "
            "keeps trying. See the operator's log."
        ),
        last_transition_time=succeeded.last_transition_time if succeeded is not None else now,
        observed_generation=task.metadata.generation,
    )
    others = tuple(condition for condition in task.status.conditions if condition.type != "Succeeded")
    return task.status.model_copy(update={"conditions": (shown, *others), "reason": OPERATOR_DEFECT})


def _running(state: TaskState) -> tuple[str, str]:
    """Return reason and message of the condition `Running`."""
    if state.stage is not Stage.ACTIVE or state.verifying:
        return "NoJob", "No attempt is running."
    if state.waiting:
        return "JobSuspended", "No attempt is running."
    if state.started:
        return "AgentStarted", "An attempt is running."
    return "PodStarting", "The attempt's Job exists; its agent has not started."


def _waits_since(task: AgentTask, now: datetime) -> datetime:
    known = task.status.condition("WithinBudget")
    return known.last_transition_time if known is not None and known.status == "False" else now


def _summary(task: AgentTask, state: TaskState, decision: SchedulingDecision) -> tuple[Phase, str, str]:
    """Return the phase, and reason and message of the condition `Succeeded`."""
    if state.outcome is not None:
        # The schema refuses a longer message, and with it the whole status.
        return state.outcome.phase, state.outcome.reason, state.outcome.message[:4096]
    last = state.attempts[-1] if state.attempts else None
    if state.verifying and state.stage is not Stage.SUSPENDED:
        return Phase.RUNNING, VERIFYING, _VERIFIES
    match state.stage:
        case Stage.ACTIVE:
            return _summary_of_active(task, state, last)
        case Stage.SUSPENDED:
            what = "evidence pod" if state.verifying else "attempt"
            return Phase.SUSPENDED, "Suspended", f"The task is suspended; no {what} is started."
        case Stage.BACKOFF if last is not None:
            message = f"{last.message or ''} Another attempt will follow.".strip()
            return Phase.BACKOFF, last.reason or "Backoff", message
        case Stage.HELD:
            return Phase.QUEUED, "CommandPending", _HELD
        case _ if decision.refused is not None:
            message = (
                "The attempt's Job cannot be created; the operator keeps trying: "
                f"{sentence(decision.refused)}"
            )
            return Phase.QUEUED, "Refused", message[:4096]
        case _ if decision.after is not None and "/" in decision.after:
            message = (
                f"A deleted task of the item still has a {decision.after.replace('/', ' ')}, which must end."
            )
            return Phase.QUEUED, "WaitingForRun", message
        case _ if decision.after is not None:
            return Phase.QUEUED, "WaitingForRun", f"The item's run {decision.after} has not ended yet."
        case _ if decision.exhausted is not None:
            return Phase.QUEUED, WAITING_FOR_BUDGET, decision.exhausted.message
    known = task.status.condition("Succeeded")
    if known is not None and known.reason == "Waiting" and decision.position == task.status.queue_position:
        # Another limit alone is not worth a write: a long queue would be written at each change.
        return Phase.QUEUED, "Waiting", known.message
    limit = decision.limit or "as many attempts run as `limits` and `budgets` allow"
    return Phase.QUEUED, "Waiting", f"The task waits for its turn: {limit}."


def _summary_of_active(
    task: AgentTask, state: TaskState, last: AttemptStatus | None
) -> tuple[Phase, str, str]:
    job, problem = state.waiting, state.problem
    phase = Phase.QUEUED if job is not None else Phase.RUNNING if state.started else Phase.STARTING
    ending = "its attempt is ending."
    if problem is not None and problem.at_end:
        ending = f"its attempt is ending. {problem.outcome.message}"
    if task.spec.cancel:
        return phase, "Cancelling", f"The task is being cancelled; {ending}"
    if task.spec.suspend:
        return phase, "Suspending", f"The task is being suspended; {ending}"
    if problem is not None and problem.at_end:
        return phase, problem.outcome.reason, problem.outcome.message
    if last is not None and last.outcome is None and last.reason is not None:
        return phase, last.reason, f"{last.message} The attempt is ending."
    if job is None and problem is not None:
        return phase, problem.outcome.reason, _problem_message(task, problem, state.attempts)
    if job is None and phase is Phase.STARTING:
        return phase, "Starting", f"{attempt_name(state.attempts)} waits for its pod to start."
    if job is None:
        return phase, "Running", f"{attempt_name(state.attempts)} is running."
    if not job.queue:
        return phase, "JobSuspended", "The attempt's Job is suspended."
    return phase, "WaitingForKueue", job.waits_for or f"The attempt waits in Kueue's queue {job.queue}."


def _problem_message(task: AgentTask, problem: PodProblem, attempts: Sequence[AttemptStatus]) -> str:
    """Return why the attempt does not start.

    The first message for a reason stays, because a failing image pull alternates between two messages.
    """
    outcome = problem.outcome
    begin = f"{attempt_name(attempts)} has not started yet. {REASONS[outcome.reason].message}"
    known = task.status.condition("Succeeded")
    if known is not None and known.reason == outcome.reason and known.message.startswith(begin):
        return known.message
    rest = outcome.message.removeprefix(REASONS[outcome.reason].message)
    then = "the attempt fails" if outcome.counted else "another attempt starts"
    return f"{begin}{rest} If this lasts for {problem.patience:.0f} s, {then}."


def _transitions(old: Status, new: Status, max_attempts: int) -> Iterator[Event]:
    """Yield the Events of a change of status, in the order in which things happened.

    The attempt that ends the task has no Event of its own if the task's Event gives the same reason.
    """
    before = {attempt.number: attempt for attempt in old.attempts}
    ends = new.phase is not None and new.phase.terminal and new.phase is not old.phase
    for attempt in new.attempts:
        known = before.get(attempt.number)
        if ends and attempt is new.attempts[-1] and attempt.reason == new.reason:
            continue
        if attempt.outcome is not None and (known is None or known.outcome is None):
            yield _attempt_ended(attempt, max_attempts)
        elif attempt.reason is not None and (known is None or known.reason is None):
            yield Event(
                "Normal", "AttemptStopping", f"Attempt {attempt.number} is stopped: {attempt.message}"
            )
    if new.phase is not old.phase:
        yield from _phase_entered(old, new)
    if new.phase is Phase.STARTING and new.reason in POD_PROBLEMS and new.reason != old.reason:
        # A pod that cannot start is given minutes, and whoever can help should know at once.
        succeeded = new.condition("Succeeded")
        yield Event("Warning", new.reason, succeeded.message if succeeded else "")


def _phase_entered(old: Status, new: Status) -> Iterator[Event]:
    succeeded = new.condition("Succeeded")
    message = succeeded.message if succeeded else ""
    match new.phase:
        case Phase.CANCELLED:
            yield Event("Normal", "Cancelled", message)
        case Phase.FAILED:
            yield Event("Warning", "Failed", f"{new.reason}: {message}")
        case Phase.SUSPENDED:
            yield Event("Normal", "Suspended", message)
        case Phase.BACKOFF:
            at = f"{new.next_attempt_time:%Y-%m-%d %H:%M:%S} UTC" if new.next_attempt_time else "a while"
            yield Event("Normal", "Retrying", f"The next attempt starts after {at}.")
        case Phase.QUEUED if old.phase is Phase.SUSPENDED:
            yield Event("Normal", "Resumed", message)
        case Phase.QUEUED if old.phase in (Phase.STARTING, Phase.RUNNING) and new.reason == "WaitingForKueue":
            yield Event("Normal", "Preempted", "Kueue has suspended the attempt; it waits to continue.")
        case Phase.QUEUED if old.phase is None:
            yield Event("Normal", "Queued", message)
        case Phase.RUNNING if new.attempts:
            yield Event(
                "Normal", "Started", f"Attempt {new.attempts[-1].number} runs in Job {new.attempts[-1].job}."
            )
        case Phase.SUCCEEDED:
            yield Event("Normal", "Succeeded", message)
        case Phase.QUEUED if new.attempts:
            yield Event("Normal", "Retrying", "The next attempt waits for its turn.")


def _attempt_ended(attempt: AttemptStatus, max_attempts: int) -> Event:
    outcome = attempt.outcome or OutcomeType.FAILED
    bad = outcome in (OutcomeType.FAILED, OutcomeType.DISRUPTED) and attempt.reason != "Suspended"
    counted = "" if attempt.counted else f" It does not count against the {max_attempts} allowed."
    text = f"Attempt {attempt.number}: {attempt.reason}: {attempt.message}{counted}"
    return Event("Warning" if bad else "Normal", f"Attempt{outcome.value}", text)


def _lasting(task: AgentTask, jobs: Sequence[Job], problem: PodProblem | None) -> Iterator[Event]:
    """Yield Events about states that only a person can end."""
    if problem is not None and problem.at_end:
        yield Event("Warning", problem.outcome.reason, problem.outcome.message)
    for job in jobs:
        if job.owner != task.uid and attempt_number(task.name, job.name) is not None:
            yield Event(
                "Warning",
                "ForeignJob",
                f"Job {job.name} does not belong to this task. The operator leaves it alone and gives the "
                "attempt the next number. Delete the Job if nobody needs it.",
            )
