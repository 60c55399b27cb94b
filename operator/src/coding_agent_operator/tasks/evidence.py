"""Decides which evidence pod a task needs next, and what the finished pods show (docs/decisions/0030). Pure.

The task has not ended while its evidence is pending. So an evidence pod counts against the limits like an
attempt, in the place of the attempt that has just ended, and a task has one pod at a time: first the pod of
the pushed commit, then the pod of the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from coding_agent_core.settings.attempt_settings import Verify
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import REASONS
from coding_agent_core.task.verification import (
    MAX_TRIES,
    Evidence,
    Side,
    SideEvidence,
    VerifyResult,
    judged,
)

from coding_agent_operator.cluster.observed import Job, evidence_job_name
from coding_agent_operator.tasks.outcome_of import AttemptOutcome, AttemptPolicy, outcome_of, stuck
from coding_agent_operator.tasks.state import Stage, TaskState

_NO_RESULT = "The pod left no result that can be read."
_DELETED = "The pod's Job was deleted."
_NAME_TAKEN = "A Job of another owner has the name of the pod's Job."
_CANCELLED = "The task was cancelled."
_SWITCHED_OFF = "The settings no longer ask for evidence."
_TOO_LATE = "The pods did not finish in time."


def evidence_limit(verify: Verify, template: JobTemplate) -> timedelta | None:
    """Return how long all evidence pods of a task together may take; `None` if the task has none."""
    pod = verify.timeout_seconds + template.start_seconds + template.grace_seconds
    return timedelta(seconds=len(Side) * MAX_TRIES * pod) if verify.evidence else None


class EvidencePod(NamedTuple):
    """An evidence pod to create.

    Attributes:
        number: the number of the try, from 1.
        commit: the head commit of the evidence.
    """

    side: Side
    number: int
    commit: str


@dataclass(frozen=True)
class EvidenceStep:
    """The next actions for a task's evidence.

    Attributes:
        evidence: what to record.
        create: the side and the number of the pod to create.
        delete: the Jobs to delete.
        release: the Jobs whose results are recorded.
    """

    evidence: Evidence
    create: tuple[Side, int] | None = None
    delete: tuple[Job, ...] = ()
    release: tuple[Job, ...] = ()


def evidence_step(
    task: AgentTask,
    state: TaskState,
    jobs: Sequence[Job],
    *,
    now: datetime,
    policy: AttemptPolicy,
    limit: timedelta | None,
) -> EvidenceStep | None:
    """Decide the next step for a task's evidence; return `None` if the task has no evidence.

    Args:
        state: the state of the task by its attempts alone.
        jobs: the task's Jobs of evidence pods, and Jobs of other owners that have one of their names. The
            pods of the task's Jobs that ended must have been read.
        limit: how long all pods together may take, from the first request or from the newest time that Kueue
            admitted one; `None` if there is no evidence in this installation.
    """
    evidence = task.status.verify
    named, jobs = jobs, [job for job in jobs if job.owner == task.uid]
    live = tuple(job for job in jobs if not job.finished)
    if evidence is None:
        commit = _asked(task, state)
        if commit is None or limit is None:
            return None
        # It is recorded before the first pod is created, so that the limit counts from here.
        return EvidenceStep(judged(Evidence(commit=commit, started=now.replace(microsecond=0))))
    stop = tuple(job for job in live if not job.deleting)
    if not evidence.pending or task.ended:
        return EvidenceStep(evidence, delete=stop, release=_released(evidence, jobs))
    if task.spec.cancel or limit is None:
        over = _given_up(task, evidence, _CANCELLED if task.spec.cancel else _SWITCHED_OFF)
        return EvidenceStep(over, delete=stop, release=_released(over, jobs))
    if task.status.phase is Phase.SUSPENDED and not task.spec.suspend:
        evidence = evidence.model_copy(
            update={"started": now.replace(microsecond=0)}
        )  # the limit counts from here
    # The time that pods wait for Kueue does not count.
    since = max((evidence.started, *(job.started for job in jobs if job.started is not None)))
    is_late = now - since > limit and not any(job.waiting for job in live) and not task.spec.suspend
    # One pod after the other, and one commit for each: in one pod, a program that the agent pushed could
    # change the result of the base.
    for side in Side:
        step = _of_side(task, evidence.side(side), side, named, now=now, policy=policy)
        evidence = judged(evidence.model_copy(update={side.value: step.known}))
        if step.create is not None or step.known is None or not step.known.settled:
            if is_late:
                over = _given_up(task, evidence, _TOO_LATE)
                return EvidenceStep(over, delete=stop, release=_released(over, jobs))
            # A pod that runs already may end.
            create = None if step.create is None or task.spec.suspend else (side, step.create)
            return EvidenceStep(evidence, create, step.delete, _released(evidence, jobs))
        if not evidence.pending:
            break
    return EvidenceStep(evidence, release=_released(evidence, jobs))


def _asked(task: AgentTask, state: TaskState) -> str | None:
    """Return the commit to verify if the task is about to succeed; `None` if there is nothing to verify."""
    if task.ended or state.outcome is None or state.outcome.phase is not Phase.SUCCEEDED:
        return None
    result = state.result
    if state.stage is not Stage.ENDED or result is None or result.verify is None:
        return None
    return result.commit if result.verify.commands else None


@dataclass(frozen=True)
class _SideStep:
    known: SideEvidence | None
    create: int | None = None
    delete: tuple[Job, ...] = ()


def _of_side(
    task: AgentTask,
    recorded: SideEvidence | None,
    side: Side,
    jobs: Sequence[Job],
    *,
    now: datetime,
    policy: AttemptPolicy,
) -> _SideStep:
    if recorded is not None and recorded.settled:
        return _SideStep(recorded)
    named = {job.verify[1]: job for job in jobs if job.verify is not None and job.verify[0] is side}
    own = {number: job for number, job in named.items() if job.owner == task.uid}
    tries = max([0, *own, recorded.tries if recorded is not None else 0])
    free = next((number for number in range(tries + 1, MAX_TRIES + 1) if number not in named), None)
    if not tries and free is not None:
        return _SideStep(None, create=free)
    if recorded is None or recorded.tries != tries:
        number = max(tries, 1)
        recorded = SideEvidence(job=evidence_job_name(task.name, side, number), tries=min(number, MAX_TRIES))
    job = own.get(tries)
    if not tries:
        problem = _NAME_TAKEN
    elif job is None:
        problem = recorded.problem or _DELETED
    elif job.finished:
        result = _result_of(job)
        if result is not None:
            told = {"commit": result.commit, "commands": result.commands, "problem": result.problem or None}
            return _SideStep(recorded.model_copy(update={**told, "settled": True}))
        problem = recorded.problem or (_NO_RESULT if job.complete else _told(outcome_of(job)))
    elif job.deleting:
        return _SideStep(recorded)
    else:
        outcome = stuck(job, now, policy)
        if outcome is None:
            return _SideStep(recorded)
        return _SideStep(recorded.model_copy(update={"problem": _told(outcome)}), delete=(job,))
    recorded = recorded.model_copy(update={"problem": problem})
    if free is None:
        return _SideStep(recorded.model_copy(update={"settled": True}))
    return _SideStep(recorded, create=free)


def _told(outcome: AttemptOutcome) -> str:
    """Return why a pod has no result, without details for administrators, because everybody can read it."""
    return REASONS[outcome.reason].message


def _result_of(job: Job) -> VerifyResult | None:
    """Return what the Job's pod reported; `None` if the pod did not end by itself."""
    if not job.complete:
        return None
    good = [pod for pod in job.pods or () if pod.phase == "Succeeded" and pod.exit_code == 0]
    return good[-1].verified if good else None


def _given_up(task: AgentTask, known: Evidence, why: str) -> Evidence:
    sides = {}
    for side in Side:
        one = known.side(side) or SideEvidence(job=evidence_job_name(task.name, side, 1), tries=1)
        sides[side.value] = one if one.settled else one.model_copy(update={"problem": why, "settled": True})
    return judged(known.model_copy(update=sides))


def _released(known: Evidence, jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Return the ended Jobs that the operator no longer needs to read."""
    jobs_to_release = []
    for job in jobs:
        if job.verify is None or not job.finished or not job.active_label or job.deleting:
            continue
        one = known.side(job.verify[0])
        if not known.pending or (one is not None and (one.settled or one.tries > job.verify[1])):
            jobs_to_release.append(job)
    return tuple(jobs_to_release)
