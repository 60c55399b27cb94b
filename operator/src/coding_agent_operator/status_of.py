"""The status that says where a task stands; conditions first, all else derived from them. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from coding_agent_core.agenttask import AttemptStatus, Condition, Status
from coding_agent_core.phases import Phase

from coding_agent_operator.observed import Task
from coding_agent_operator.outcome_of import STOPS, Trouble, sentence
from coding_agent_operator.standing import End, Stage, Standing

if TYPE_CHECKING:
    from coding_agent_operator.decide import Turn


def status_of(task: Task, standing: Standing, turn: Turn, now: datetime) -> Status:
    """The status to be stored; equal to the stored one when nothing has changed."""
    phase, reason, message = _words(task, standing, turn)
    succeeded: Literal["True", "False", "Unknown"] = "Unknown"
    if standing.stage is Stage.ENDED:
        succeeded = "True" if phase is Phase.SUCCEEDED else "False"
    running = standing.stage is Stage.ACTIVE and standing.waiting is None
    conditions = [
        _since(
            task,
            Condition(
                type="Succeeded", status=succeeded, reason=reason, message=message, last_transition_time=now
            ),
        ),
        _since(
            task,
            Condition(
                type="Running",
                status="True" if running else "False",
                reason="JobExists" if running else "JobSuspended" if standing.waiting else "NoJob",
                message=_running(standing) if running else "No attempt is running.",
                last_transition_time=now,
            ),
        ),
    ]
    # Acknowledged is the reporter's.
    conditions += [each for each in task.status.conditions if each.type not in ("Succeeded", "Running")]
    queued = phase is Phase.QUEUED
    return Status(
        conditions=tuple(conditions),
        phase=phase,
        reason=reason,
        queue_position=turn.position if queued else None,
        attempts=standing.attempts,
        attempt=_attempt(standing.attempts, task.spec.max_attempts),
        result=standing.result,
        next_attempt_time=standing.next_attempt_time if phase is Phase.BACKOFF else None,
        observed_generation=task.generation,
    )


def _running(standing: Standing) -> str:
    if standing.trouble is not None and not standing.trouble.at_end:
        return "The attempt's Job exists; its pod has not begun."
    return "An attempt is running."


def _words(task: Task, standing: Standing, turn: Turn) -> tuple[Phase, str, str]:
    if standing.end is not None:
        end: End = standing.end
        return end.phase, end.reason, end.message[:4096]
    last = standing.attempts[-1] if standing.attempts else None
    match standing.stage:
        case Stage.ACTIVE:
            return _words_of_active(task, standing, last)
        case Stage.SUSPENDED:
            return Phase.SUSPENDED, "Suspended", "The task is suspended; no attempt is started."
        case Stage.BACKOFF if last is not None:
            return (
                Phase.BACKOFF,
                last.reason or "Backoff",
                f"{last.message or ''} It will be tried again.".strip(),
            )
        case _ if turn.refused is not None:
            return Phase.QUEUED, "Refused", _refused(turn.refused)
        case _ if turn.after is not None:
            return Phase.QUEUED, "WaitingForRun", f"The item's run {turn.after} has not ended yet."
    return Phase.QUEUED, "Waiting", "The task waits for its turn: as many attempts run as `limits` allow."


def _words_of_active(task: Task, standing: Standing, last: AttemptStatus | None) -> tuple[Phase, str, str]:
    job = standing.waiting
    phase = Phase.RUNNING if job is None else Phase.QUEUED
    trouble = standing.trouble
    ending = "its attempt is ending."
    if trouble is not None and trouble.at_end:
        ending = f"its attempt is ending. {trouble.verdict.message}"
    if task.spec.cancel:
        return phase, "Cancelling", f"The task is being cancelled; {ending}"
    if task.spec.suspend:
        return phase, "Suspending", f"The task is being suspended; {ending}"
    if trouble is not None and trouble.at_end:
        return phase, trouble.verdict.reason, trouble.verdict.message
    if last is not None and last.outcome is None and last.reason is not None:
        return phase, last.reason, f"{last.message} The attempt is ending."
    if job is None and trouble is not None:
        return phase, trouble.verdict.reason, _troubled(task, trouble, last)
    if job is None:
        return phase, "Running", f"Attempt {last.number if last else 1} is running."
    if not job.queue:
        return phase, "JobSuspended", "The attempt's Job is suspended."
    return phase, "WaitingForKueue", job.waits_for or f"The attempt waits in Kueue's queue {job.queue}."


def _troubled(task: Task, trouble: Trouble, last: AttemptStatus | None) -> str:
    """Why the attempt does not begin, in the first words found: a pull that fails has two in turn."""
    number = last.number if last else 1
    begin = f"Attempt {number} has not begun yet. {STOPS[trouble.verdict.reason].message}"
    known = task.status.condition("Succeeded")
    if known is not None and known.reason == trouble.verdict.reason and known.message.startswith(begin):
        return known.message
    rest = trouble.verdict.message.removeprefix(STOPS[trouble.verdict.reason].message)
    return f"{begin}{rest} It is given up if that lasts for {trouble.patience:.0f} s."


def _refused(why: str) -> str:
    return f"The attempt's Job cannot be created, which is tried again: {sentence(why)}"[:4096]


def _attempt(attempts: tuple[AttemptStatus, ...], maximum: int) -> str:
    started = sum(1 for each in attempts if each.counted)
    return f"{started}/{maximum}"


def _since(task: Task, condition: Condition) -> Condition:
    """The condition with the time since which it holds."""
    known = task.status.condition(condition.type)
    same = known is not None and known.status == condition.status
    since = known.last_transition_time if known is not None and same else condition.last_transition_time
    return condition.model_copy(
        update={"last_transition_time": since, "observed_generation": task.generation}
    )
