"""Decides what the reporter does about one of our open changes: which round, which cancellation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coding_agent_core.reporting.comment import State
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.round_cause import RoundCause, StopReason, Work
from coding_agent_core.task.round_record import RerunEntry, RoundRecord, with_reruns
from coding_agent_core.task.runs import works

from coding_agent_operator.reporter.report import has_problem, with_round


@dataclass(frozen=True)
class ScanPlan:
    """Whether the reporter creates a round of a change now, or waits.

    Attributes:
        create: the cause of the round to create.
        waits: whether nothing is done yet, because the end of an earlier round is not shown.
        wait: seconds until the next scan of a change that waits; `None` if only an event can help.
    """

    create: RoundCause | None = None
    waits: bool = False
    wait: float | None = None


def known_rounds(state: State | None, runs: Sequence[AgentTask], reruns: Iterable[RerunEntry]) -> RoundRecord:
    """Return the rounds of our comment, with those of the runs and the re-runs that it does not list yet."""
    record = (state.rounds if state is not None else None) or RoundRecord()
    for run in runs:
        record = with_round(record, run)
    return with_reruns(record, reruns)


def has_active_run(runs: Sequence[AgentTask]) -> bool:
    """Whether a run works. A change has one active run at a time, so no round is created meanwhile."""
    return any(not run.over for run in runs)


def plan_scan(work: Work, runs: Sequence[AgentTask], state: State | None) -> ScanPlan:
    """Return what to do about a change.

    The attempt of the next round knows earlier rounds from our comment alone. Without the end of the last
    one, it could do the same work again. So no round is created before the comment shows it.

    Args:
        state: the state in our comment; `None` if there is no comment.
    """
    if not work.due:
        return ScanPlan()
    shown = (state.rounds if state is not None else None) or RoundRecord()
    unshown = [run for run in runs if not run.reported and with_round(shown, run).rounds != shown.rounds]
    if unshown:
        # A comment that cannot be written is not helped by more frequent scans.
        return ScanPlan(waits=True, wait=None if any(map(has_problem, unshown)) else 0.0)
    return ScanPlan(create=work.due[0])


def runs_to_cancel(work: Work, runs: Sequence[AgentTask]) -> list[tuple[AgentTask, str]]:
    """Return the rounds to cancel because of the hands-off label, each with the reason.

    A run that a label has started continues.
    """
    rounds = [run for run in runs if works(run) and run.spec.trigger.round is not None]
    sentences = [stop.sentence for stop in work.stops if stop.reason is StopReason.HANDS_OFF]
    return [(run, one[0].lower() + one[1:].removesuffix(".")) for one in sentences for run in rounds]
