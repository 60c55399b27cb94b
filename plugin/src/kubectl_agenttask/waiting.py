"""Waits for the end of a task, and turns its result into an exit status."""

from __future__ import annotations

import math
from argparse import Namespace
from datetime import timedelta

from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.model import Phase

from kubectl_agenttask import ExitStatus, NotFoundError, TimedOutError, tables
from kubectl_agenttask.session import Session

STATUSES = {
    Phase.SUCCEEDED: ExitStatus.DONE,
    Phase.FAILED: ExitStatus.FAILED,
    Phase.CANCELLED: ExitStatus.CANCELLED,
}
"""The exit status for each way in which a task can end."""


def wait(session: Session, arguments: Namespace) -> ExitStatus:
    """`wait`: return when a task has ended, or when the time is over."""
    return end_of(session, session.cluster.find(arguments.name), arguments)


def end_of(session: Session, task: AgentTask, arguments: Namespace) -> ExitStatus:
    """Wait for a task's end, print it, and return the exit status that says how it ended.

    Raises:
        TimedOutError: the task has not ended in the time of `--timeout`.
        NotFoundError: somebody deleted the task.
    """
    limit: timedelta | None = arguments.timeout
    seconds = math.inf if limit is None else limit.total_seconds()
    said = ""
    selector = f"metadata.name={task.name}"
    for seen, there in session.cluster.changes(everywhere=False, selector=selector, seconds=seconds):
        if not there or seen.uid != task.uid:
            raise NotFoundError(f"somebody deleted {task.name} while this command waited for its end.")
        ended = seen.status.terminal_phase
        if ended is not None:
            session.show(seen, arguments.output, tables.state_text(seen.body, ended))
            return STATUSES[ended]
        if (state := tables.state_text(seen.body)) != said:
            session.notes.print(state, soft_wrap=True)
            said = state
    raise TimedOutError(
        f"{task.name} has not ended after {tables.span(seconds)}. It goes on: "
        f"`kubectl agenttask wait {task.name}` waits again."
    )
