"""Decides what a consumer does about one of our open changes, from the work that is open there. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from coding_agent_core.forge.changes import ChangeSnapshot
from coding_agent_core.reporting.comment import State, has_notes
from coding_agent_core.rounds.notes import as_written, our_comment
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import RoundCause, StopReason, Work
from coding_agent_core.task.round_record import RoundRecord

from coding_agent_consumer.rounds.asked_by import cause_gone


@dataclass(frozen=True)
class ScanPlan:
    """The next step on a change. At most one attribute is set.

    Attributes:
        queue: the cause of the round to queue.
        ending: the outcome with which the round that waits ends.
        shows: whether to run checks again, or to show why no round follows.
    """

    queue: RoundCause | None = None
    ending: Outcome | None = None
    shows: bool = False


def recorded_rounds(state: State | None) -> RoundRecord:
    """Return the record of rounds in our comment; an empty one if there is no comment."""
    return (state.rounds if state is not None else None) or RoundRecord()


def has_active_task(state: State | None) -> bool:
    """Whether a task works on the change, or will go on with its work."""
    return state is not None and state.attempt > 0 and not state.phase.terminal


def shows_notes(snapshot: ChangeSnapshot, notes: tuple[str, ...]) -> bool:
    """Whether our comment shows these notes; also true if there is no comment."""
    body = our_comment(snapshot).body
    return body is None or has_notes(as_written(body), notes)


def plan_scan(work: Work, state: State | None, *, is_shown: bool) -> ScanPlan:
    """Return what to do about a change.

    Args:
        state: the state in our comment; `None` if there is no comment.
        is_shown: whether our comment shows the notes about the work.
    """
    if work.due:
        return ScanPlan(queue=work.due[0])
    if state is not None and state.round:
        hands_off = next((stop for stop in work.stops if stop.reason is StopReason.HANDS_OFF), None)
        if hands_off is not None and state.phase in (Phase.QUEUED, Phase.BACKOFF):
            gone = cause_gone(state.round)
            return ScanPlan(ending=Outcome(reason=Reason.CANCELLED, message=hands_off.sentence, round=gone))
    shows_end = state is None or state.phase.terminal
    return ScanPlan(shows=shows_end and (bool(work.reruns) or not is_shown))
