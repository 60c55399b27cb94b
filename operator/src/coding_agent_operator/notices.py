"""What a person would look for in `kubectl describe`: Kubernetes Events, derived from a change of status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.agenttask import AttemptOutcome, AttemptStatus, Event, Status
from coding_agent_core.phases import Phase

from coding_agent_operator.names import attempt_number
from coding_agent_operator.observed import Job, Task
from coding_agent_operator.outcome_of import Trouble


@dataclass(frozen=True)
class Notice(Event):
    """An Event of the operator.

    Attributes:
        once: not again while this process runs: it tells of a state, not of a change.
    """

    once: bool = False


def transitions(old: Status, new: Status, max_attempts: int) -> tuple[Notice, ...]:
    """The Events of a change of status, in the order in which things happened."""
    return tuple(_transitions(old, new, max_attempts))


def _transitions(old: Status, new: Status, max_attempts: int) -> Iterator[Notice]:
    before = {attempt.number: attempt for attempt in old.attempts}
    for attempt in new.attempts:
        known = before.get(attempt.number)
        if known is None:
            yield Notice("Normal", "AttemptStarted", f"Attempt {attempt.number} runs as Job {attempt.job}")
        if attempt.outcome is not None and (known is None or known.outcome is None):
            yield _attempt_ended(attempt, max_attempts)
        elif attempt.reason is not None and (known is None or known.reason is None):
            yield Notice(
                "Normal", "AttemptStopping", f"Attempt {attempt.number} is stopped: {attempt.message}"
            )
    if new.phase is not old.phase:
        yield from _phase_entered(old, new)


def _phase_entered(old: Status, new: Status) -> Iterator[Notice]:
    succeeded = new.condition("Succeeded")
    message = succeeded.message if succeeded else ""
    match new.phase:
        case Phase.SUCCEEDED | Phase.CANCELLED:
            yield Notice("Normal", new.phase.value, message)
        case Phase.FAILED:
            yield Notice("Warning", "Failed", f"{new.reason}: {message}")
        case Phase.SUSPENDED:
            yield Notice("Normal", "Suspended", message)
        case Phase.BACKOFF:
            yield Notice("Normal", "Retrying", _after(new.next_attempt_time))
        case Phase.QUEUED if old.phase is Phase.SUSPENDED:
            yield Notice("Normal", "Resumed", message)
        case Phase.QUEUED if old.phase is Phase.RUNNING and new.reason == "WaitingForKueue":
            yield Notice("Normal", "Preempted", "Kueue has suspended the attempt; it waits to go on.")
        case Phase.QUEUED if new.attempts:
            yield Notice("Normal", "Retrying", "The next attempt waits for its turn.")
        case Phase.QUEUED:
            yield Notice("Normal", "Queued", message)


def _after(moment: datetime | None) -> str:
    at = f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "a while"
    return f"The next attempt starts after {at}."


def _attempt_ended(attempt: AttemptStatus, max_attempts: int) -> Notice:
    outcome = attempt.outcome or AttemptOutcome.FAILED
    bad = outcome in (AttemptOutcome.FAILED, AttemptOutcome.DISRUPTED) and attempt.reason != "Suspended"
    counted = "" if attempt.counted else f" It does not count against the {max_attempts} allowed."
    text = f"Attempt {attempt.number}: {attempt.reason}: {attempt.message}{counted}"
    return Notice("Warning" if bad else "Normal", f"Attempt{outcome.value}", text)


def ending_notices(trouble: Trouble | None) -> tuple[Notice, ...]:
    """A pod that does not end holds its task's place, and only a person can help."""
    if trouble is None or not trouble.at_end:
        return ()
    return (Notice("Warning", trouble.verdict.reason, trouble.verdict.message, once=True),)


def foreign_notices(task: Task, jobs: Sequence[Job]) -> tuple[Notice, ...]:
    """A Job of somebody else's has a name of ours: it is left alone, the next number is used."""
    return tuple(
        Notice(
            "Warning",
            "ForeignJob",
            f"Job {job.name} is not this task's; it is left alone and the attempt gets the next number. "
            "Delete it if nobody needs it.",
            once=True,
        )
        for job in jobs
        if job.owner != task.uid and attempt_number(task.name, job.name) is not None
    )
