"""What to do next for one task: the whole rule of the operator, as a pure function (design, *Operator*)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from coding_agent_core.agenttask import Status

from coding_agent_operator.notices import Notice, ending_notices, foreign_notices, transitions
from coding_agent_operator.observed import Job, Task
from coding_agent_operator.settings import Policy
from coding_agent_operator.standing import Stage, Standing, assess
from coding_agent_operator.status_of import status_of

DELETING_LOOK_S = 2.0
"""Between two looks at a Job whose pods are ending."""


@dataclass(frozen=True)
class Turn:
    """What `schedule` says about a task.

    Attributes:
        start: it is its turn.
        position: its place in the queue as it is to be shown.
        after: the older run of the same item that must end before.
        refused: why the API server did not take its Job; it is tried again.
    """

    start: bool = False
    position: int | None = None
    after: str | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Plan:
    """What to do, in this order: create, record, clean up.

    Attributes:
        create: number of the attempt whose Job is to be created. Then nothing else is planned: what is to be
            recorded is decided again with the new Job in sight.
        status: to be written; `None`: as it is.
        notices: Events for people, once the status is written.
        labels: of the task, to be put right.
        delete: Jobs to be deleted in the foreground, so that each stays until its pods are gone.
        release: Jobs whose end is recorded: no longer watched, deleted after `keep_jobs`.
        retire: the task has ended and all is recorded: it is no longer watched.
        look_at: when to look again although nothing happened.
    """

    stage: Stage
    create: int | None = None
    status: Status | None = None
    notices: tuple[Notice, ...] = ()
    labels: dict[str, str] | None = None
    delete: tuple[Job, ...] = ()
    release: tuple[Job, ...] = ()
    retire: bool = False
    look_at: datetime | None = None


def decide(task: Task, jobs: Sequence[Job], turn: Turn, now: datetime, policy: Policy) -> Plan:
    """Decide what to do for a task, from nothing but what exists.

    Args:
        jobs: every Job of the task that exists, and Jobs of others that have one of its names; pods of Jobs
            that ended have been looked at.
    """
    if task.deleting:
        return Plan(Stage.ENDED)
    standing = assess(task, jobs, now, policy)
    if standing.stage is Stage.READY and turn.start:
        return Plan(standing.stage, create=standing.next_number)
    status = status_of(task, standing, turn, now)
    changed = status != task.status or not task.intact
    ended = {attempt.number for attempt in standing.attempts if attempt.outcome is not None}
    over = standing.stage is Stage.ENDED
    release = tuple(
        job
        for job in jobs
        if job.owner == task.uid
        and job.active_label
        and job.finished
        and not job.deleting
        and (over or job.number in ended)
    )
    return Plan(
        stage=standing.stage,
        status=status if changed else None,
        notices=(
            *(transitions(task.status, status, task.spec.max_attempts) if changed else ()),
            *ending_notices(standing.trouble),
            *foreign_notices(task, jobs),
        ),
        labels=None if over else (task.missing_labels or None),
        delete=standing.stop,
        release=release,
        retire=over and not standing.live,
        look_at=_look_at(standing, now, policy),
    )


def _look_at(standing: Standing, now: datetime, policy: Policy) -> datetime | None:
    if standing.stage is Stage.BACKOFF:
        return standing.next_attempt_time
    if not standing.live:
        return None
    if any(job.deleting for job in standing.live) or standing.stop:
        return now + timedelta(seconds=DELETING_LOOK_S)
    if any(job.ready == 0 and not job.waiting for job in standing.live):
        return now + timedelta(seconds=policy.look_interval)
    return None
