"""What is shown of a task: from the AgentTask to the report that `core.reporting` renders. Pure.

The same task gives the same report at any time, so that nothing is written when nothing has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from coding_agent_core.admission import LatestTask
from coding_agent_core.agenttask import OutcomeType
from coding_agent_core.outcome import Usage
from coding_agent_core.phases import Phase
from coding_agent_core.platforms import FACTS
from coding_agent_core.reporting.render import Report, State
from coding_agent_core.settings.forges import Labels

from coding_agent_operator.observed import Task
from coding_agent_operator.reporter.decide import Standing

_ITSELF = ("Running", "Waiting")
"""Reasons that say no more than the phase."""
_REFUSED = (
    "The cluster does not take the attempt's Job, and is asked again. The administrator of this bot finds "
    "on the task what it says."
)
"""In place of the API server's words, which name what strangers need not know."""


def phase_of(task: Task) -> Phase:
    """The phase by the conditions, which are the truth."""
    told, succeeded = task.status.phase, task.status.condition("Succeeded")
    if not task.ended or succeeded is None:
        return told if told is not None and not told.terminal else Phase.QUEUED
    if succeeded.status == "True":
        return Phase.SUCCEEDED
    return Phase.CANCELLED if succeeded.reason == "Cancelled" else Phase.FAILED


def standing_of(task: Task, known: LatestTask, shown: datetime | None) -> Standing:
    """What `decide` has to know.

    Args:
        known: the same task as admission sees it.
        shown: since when its end is shown.
    """
    return Standing(
        phase=phase_of(task),
        origin=task.spec.trigger.origin,
        cancel_requested=task.spec.cancel,
        acknowledged=known.acknowledged,
        work_ended=_work_ended(task),
        asked_at=task.spec.trigger.labeled_at,
        labeled_at=known.labeled_at,
        shown=shown,
    )


def report_of(task: Task, labels: Labels, before: Iterable[State] = (), cancelled: str = "") -> Report:
    """The report of an item's newest run.

    Args:
        before: what earlier runs left, the newest first: a run goes on with the branch and the change of the
            last one, so they are remembered until it has its own.
        cancelled: who or what cancelled it, half a sentence.
    """
    phase, result, attempts = phase_of(task), task.status.result, task.status.attempts
    branch, change = (result.branch, result.pull_request_url) if result else (None, None)
    earlier = next((state for state in before if state.branch), None)
    if earlier is not None and branch is None:
        branch, change = earlier.branch, change or earlier.change_url
    used = result.usage if result and result.usage else None
    last = attempts[-1] if attempts else None
    told = phase.terminal or phase is Phase.BACKOFF
    failed = next((each for each in reversed(attempts) if each.outcome is OutcomeType.FAILED), None)
    return Report(
        task=task.name,
        state=State(
            uuid=task.spec.uuid,
            run=task.spec.run,
            attempt=max(1, sum(1 for each in attempts if each.counted)),
            phase=phase,
            branch=branch,
            change_url=change,
        ),
        max_attempts=task.spec.max_attempts,
        since=_since(task, phase),
        position=task.status.queue_position if phase is Phase.QUEUED else None,
        next_attempt=task.status.next_attempt_time,
        reason=_reason(task) if told else None,
        message=_cancelled(task, cancelled) if phase is Phase.CANCELLED else _message(task, phase),
        summary=(result.summary or "") if result and phase.terminal else "",
        usage=Usage(
            requests=used.requests,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cost=used.cost,
        )
        if used
        else Usage(),
        pushed=result is not None and result.branch is not None,
        began=bool(attempts),
        transcript=(last.transcript_url or last.transcript) if last else None,
        tail=(failed.tail or "") if failed is last and failed is not None and told else "",
        bot_label=labels.bot_label,
        change_noun=FACTS[task.spec.source.platform].change_noun,
    )


def _reason(task: Task) -> str | None:
    condition = task.status.condition("Succeeded")
    return condition.reason if condition else None


def _message(task: Task, phase: Phase) -> str:
    condition = task.status.condition("Succeeded")
    if condition is None or (condition.reason in _ITSELF and phase in (Phase.QUEUED, Phase.RUNNING)):
        return ""
    return _REFUSED if condition.reason == "Refused" else condition.message


def _cancelled(task: Task, why: str) -> str:
    told, result = _message(task, Phase.CANCELLED), task.status.result
    said = f"{told.removesuffix('.')}: {why}." if told and why else told
    # Where there is no change yet, the comment names the branch in a line of its own.
    if result is not None and result.branch and result.pull_request_url:
        said += f" What was done so far is on the branch `{result.branch}`."
    return said


def _since(task: Task, phase: Phase) -> datetime:
    """When the phase began, as far as the status tells."""
    attempts = task.status.attempts
    condition = task.status.condition("Succeeded")
    if phase.terminal and condition is not None:
        return condition.last_transition_time
    if not attempts:
        return task.created
    last = attempts[-1]
    return last.start_time if phase is Phase.RUNNING else last.completion_time or last.start_time


def _work_ended(task: Task) -> datetime:
    condition = task.status.condition("Succeeded")
    ends = [each.completion_time for each in task.status.attempts if each.completion_time is not None]
    ended = condition.last_transition_time if condition else task.created
    return min(ended, ends[-1]) if ends else ended
