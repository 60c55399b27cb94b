"""Reconciles one task: reads what the decision needs, decides, and then creates, records and cleans up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.task.agenttask import AgentTask, AttemptStatus, Event, Status, UnreadableTaskError
from coding_agent_core.task.environment import Environment

from coding_agent_operator.cluster.controller import NamespacedName
from coding_agent_operator.cluster.namespace_objects import NamespaceObjects
from coding_agent_operator.cluster.observed import NOT_READY_TO_START, Job, Pod, missing_secrets
from coding_agent_operator.tasks.evidence import EvidencePod
from coding_agent_operator.tasks.metrics import count_change
from coding_agent_operator.tasks.outcome_of import AttemptPolicy
from coding_agent_operator.tasks.plan import Plan, SchedulingDecision, plan_task

_logger = logging.getLogger("operator.reconcile")

_REFUSALS = (400, 403, 404, 413, 422)
_NO_WEBHOOK = "failed calling webhook"
"""Part of the API server's message, with status 500, when an admission webhook does not answer. Nothing was
stored then (k8s.io/apiserver/pkg/util/webhook/error.go)."""
_SHOWN_AFTER_CHECKS = 2
"""After so many checks people see what scheduler or kubelet say about a pod that does not start."""


class Builder(Protocol):
    """Builds the Jobs that the reconciler creates."""

    async def build(self, task: AgentTask, number: int) -> Mapping[str, Any]:
        """Return the manifest of the Job of attempt `number`, which counts from 1.

        What the Job needs first, such as the volume claim of its cache, is created.

        Raises:
            ApiError: something that the Job needs cannot be read or created; retry later.
        """

    async def build_evidence(self, task: AgentTask, pod: EvidencePod) -> Mapping[str, Any]:
        """Return the manifest of an evidence pod's Job."""

    def environment_refusal(self, environment: Environment) -> str | None:
        """Return why no Job may be built with this environment, `None` if it may."""


class ObjectRejectedError(ApiError):
    """The API server refuses an object, and reading the task again does not help."""

    @property
    def conflict(self) -> bool:
        return False


class JobRejectedError(ObjectRejectedError):
    """The API server rejects an attempt's Job because of a quota, an admission policy or a wrong field.

    The Job was certainly not created.
    """


class Reconciler:
    """Carries out what `plan_task` decides, one task at a time."""

    def __init__(
        self,
        objects: NamespaceObjects,
        builder: Builder,
        *,
        policy: AttemptPolicy,
        evidence_limit: timedelta | None,
        unauthorized: Callable[[AgentTask], str | None],
        waits: Mapping[str, str],
        ended: Callable[[AgentTask], None],
        now: Callable[[], datetime],
    ) -> None:
        self._cluster = objects.cluster
        self._tasks = objects.tasks
        self._jobs = objects.jobs
        self._pods = objects.pods
        self._builder = builder
        self._policy = policy
        self._evidence_limit = evidence_limit
        self._unauthorized = unauthorized
        self._waits = waits
        self._ended = ended
        self._now = now
        self._patience = timedelta(
            seconds=min(policy.config_after, policy.image_after, policy.unschedulable_after)
        )
        self._first_check = timedelta(seconds=policy.pod_check_interval)
        self._emitted: set[tuple[str, Event]] = set()
        self._foreign: dict[str, list[Job]] = {}

    async def reconcile(self, name: str, decision: SchedulingDecision) -> Plan | None:
        """Reconcile a task and return the last plan, or `None` if the task is gone.

        Raises:
            JobRejectedError: the API server does not accept the attempt's Job.
            ApiError: the API server refused something else or did not answer; retry later.
        """
        task = self._tasks.get((self._cluster.namespace, name)) or await self._of_a_stray_job(name)
        if task is None:
            self._foreign.pop(name, None)
            return None
        jobs = await self._jobs_of(task)
        plan = self._plan(task, jobs, decision)
        # The Job is created before the status names it: if we are killed in between, the next pass finds
        # the Job by its name. A recorded attempt without a Job would count as deleted.
        manifest = await self._manifest(task, plan)
        if manifest is not None:
            job = await self._create(task, manifest)
            jobs = [other for other in jobs if other.name != job.name] + [job]
            plan = self._plan(task, jobs, SchedulingDecision())
        if plan.status is not None:
            recorded = await self._record(task, plan, plan.status)
            if recorded is None:
                return plan
            task = recorded
        # Each of these Events is written once while this process runs.
        lasting = [event for event in plan.lasting if (task.uid, event) not in self._emitted]
        self._emitted.update((task.uid, event) for event in lasting)
        await self._emit(task, lasting)
        # Why a Job ends is recorded before the Job is deleted: afterwards nothing would show it.
        await self._clean_up(task, plan)
        return plan

    def _plan(self, task: AgentTask, jobs: Sequence[Job], decision: SchedulingDecision) -> Plan:
        return plan_task(
            task,
            jobs,
            decision,
            self._now(),
            self._policy,
            environment_refusal=self._builder.environment_refusal,
            unauthorized=self._unauthorized,
            evidence_limit=self._evidence_limit,
        )

    async def _manifest(self, task: AgentTask, plan: Plan) -> Mapping[str, Any] | None:
        """Return the Job that the plan creates, if any."""
        if plan.verify is not None:
            return await self._builder.build_evidence(task, plan.verify)
        return None if plan.create is None else await self._builder.build(task, plan.create)

    def _own_jobs(self) -> list[Job]:
        return self._jobs.of(self._cluster.namespace)

    async def _of_a_stray_job(self, name: str) -> AgentTask | None:
        """Return an ended task that still has a Job although no watch shows the task. This happens if:

        - the request to create the Job got no answer, and the task was cancelled before the Job existed; or
        - the process recorded the task's end and stopped before it cleaned up.
        """
        if not any(job.task == name for job in self._own_jobs()):
            return None
        task = await self._cluster.tasks.get(name)
        try:
            return None if task is None else task.compact()
        except UnreadableTaskError as error:
            _logger.warning("%s", error)
            return None

    async def _jobs_of(self, task: AgentTask) -> list[Job]:
        """Return all Jobs of the task, also recorded ones that the cache lacks, with the pods needed."""
        jobs = {job.name: job for job in self._own_jobs() if job.owner == task.uid or job.task == task.name}
        for job in self._foreign.get(task.name, []):
            jobs.setdefault(job.name, job)
        if not task.ended:
            for attempt in task.status.attempts:
                if attempt.outcome is None and attempt.job not in jobs:
                    # A Job that the watch does not show may exist.
                    unseen = await self._cluster.get_job(attempt.job)
                    if unseen is not None:
                        self._jobs.put(unseen)
                    else:
                        unseen = await self._left_behind(task, attempt)
                    if unseen is not None:
                        jobs[attempt.job] = unseen
            await self._find_evidence_job(task, jobs)
        outcomes = {attempt.number: attempt.outcome for attempt in task.status.attempts}
        return [
            await self._with_pods(job)
            if job.owner == task.uid and outcomes.get(job.number or 0) is None and not task.ended
            else job
            for job in jobs.values()
        ]

    async def _find_evidence_job(self, task: AgentTask, jobs: dict[str, Job]) -> None:
        """Add the Job of the evidence pod that is recorded, if it exists and the watch does not show it."""
        evidence = task.status.verify
        for side in (evidence.head, evidence.base) if evidence is not None and evidence.pending else ():
            if side is None or side.settled or side.job in jobs:
                continue
            unseen = await self._cluster.get_job(side.job)
            if unseen is not None and unseen.owner == task.uid:
                self._jobs.put(unseen)
                jobs[side.job] = unseen

    async def _left_behind(self, task: AgentTask, attempt: AttemptStatus) -> Job | None:
        """Return a deleted Job: while its pods run, as one that is being deleted; then with their reports."""
        pods = await self._cluster.pods_of(attempt.job)
        gone = all(pod.over for pod in pods)
        if gone:
            pods = self._pods.of(attempt.job, attempt.start_time)
        if not pods:
            return None
        return Job(
            name=attempt.job,
            uid=pods[-1].job_uid,
            owner=task.uid,
            task=task.name,
            number=attempt.number,
            created=attempt.start_time,
            labels={},
            deleting=True,
            pods=pods,
            gone=gone,
        )

    async def _with_pods(self, job: Job) -> Job:
        if job.pods is not None:
            return job
        if job.waiting:
            return replace(job, waits_for=self._waits.get(job.uid, ""))
        seen = self._pods.added_to(job, ())
        if job.complete and any(pod.phase == "Succeeded" for pod in seen):
            return replace(job, pods=seen)
        going, age = not job.finished and not job.deleting, self._now() - job.began
        if going and (job.ready or age < min(self._patience, self._first_check)):
            return job
        pods = await self._cluster.pods_of(job.name)
        if going:
            pods = tuple([await self._with_setup_failures(pod) for pod in pods])
            # A pod usually starts soon, so people are not shown at once what it waits for.
            told = not pods or any(
                pod.waiting_detail or pod.waiting not in ("", NOT_READY_TO_START) for pod in pods
            )
            shown = age >= self._patience or (told and age >= _SHOWN_AFTER_CHECKS * self._first_check)
            if not shown and not any(pod.missing or pod.started for pod in pods):
                return job
        return replace(job, pods=self._pods.added_to(job, pods))

    async def _with_setup_failures(self, pod: Pod) -> Pod:
        if pod.waiting != NOT_READY_TO_START:
            return pod
        try:
            failures = await self._cluster.setup_failures(pod.name)
        except ApiError as error:
            # The Role of an older release lacks this right; then the message does not name the cause.
            _logger.warning("Events of pod %s cannot be read: %s", pod.name, error)
            return pod
        return replace(pod, missing=missing_secrets(failures), waiting_detail=(failures or [""])[-1])

    async def _create(self, task: AgentTask, manifest: Mapping[str, Any]) -> Job:
        """Create the Job or find it. If a Job of another owner has its name, remember that Job."""
        name = manifest["metadata"]["name"]
        try:
            job = await self._cluster.create_job(dict(manifest))
        except ApiError as error:
            if error.status in _REFUSALS or (error.status == 500 and _NO_WEBHOOK in str(error)):
                raise JobRejectedError(str(error), error.status, error.retry_after) from error
            if error.status != 409:
                raise
            existing = await self._cluster.get_job(name)
            if existing is None:
                raise
            if existing.owner != task.uid:
                _logger.warning("Job %s does not belong to task %s; it is left alone", name, task.name)
                self._foreign.setdefault(task.name, []).append(existing)
                return existing
            self._jobs.put(existing)
            return await self._with_pods(existing)
        _logger.info("Created Job %s", name)
        self._jobs.put(job)
        return job

    async def _record(self, task: AgentTask, plan: Plan, status: Status) -> AgentTask | None:
        """Write the status; `None` if the task is gone."""
        try:
            recorded = await self._cluster.tasks.set_status(task, status)
        except ApiError as error:
            if error.status == 404:
                self._tasks.forget(NamespacedName(self._cluster.namespace, task.name), task.uid)
                return None
            if error.conflict and not await self._is_newer(task):
                # The status does not fit the schema (an older CRD), so reading the task again does not help.
                raise ObjectRejectedError(str(error), error.status, error.retry_after) from error
            raise
        count_change(task, status)
        _log_ends(task, status)
        self._tasks.put(recorded)
        if recorded.ended:
            # No watch shows an ended task.
            self._tasks.remove(recorded)
            self._foreign.pop(task.name, None)
            self._ended(recorded)
        await self._emit(task, plan.events)
        return recorded

    async def _is_newer(self, task: AgentTask) -> bool:
        """Read the task again; return whether it has changed."""
        newest = await self._cluster.tasks.newest(task)
        if newest is None:
            self._tasks.forget(NamespacedName(self._cluster.namespace, task.name), task.uid)
        elif not newest.ended:
            self._tasks.put(newest)
        return newest is None or newest.version != task.version

    async def _clean_up(self, task: AgentTask, plan: Plan) -> None:
        for job in plan.delete:
            deleted = await self._cluster.delete_job(job)
            if deleted is not None:
                self._jobs.put(deleted)  # so that it is not deleted again before the watch shows it
            _logger.info("Deleted Job %s", job.name)
        for job in plan.release:
            released = await self._cluster.release_job(job, self._policy.keep_jobs)
            if released is not None:
                self._jobs.remove(released)
        if plan.labels:
            labeled = await self._cluster.tasks.set_labels(task, plan.labels)
            if labeled is not None:
                self._tasks.put(labeled)

    async def _emit(self, task: AgentTask, events: Sequence[Event]) -> None:
        for event in events:
            await self._cluster.tasks.emit(event, task, self._now())


def _log_ends(task: AgentTask, new: Status) -> None:
    """Log how attempts and the task ended, after the new status is stored."""
    for attempt in task.newly_ended(new):
        why = f": {attempt.message}" if attempt.message else ""
        _logger.info("Job %s ended: %s (%s)%s", attempt.job, attempt.outcome, attempt.reason, why)
    if new.terminal_phase is not None and not task.ended:
        _logger.info("Task %s ended: %s (%s)", task.name, new.terminal_phase, new.reason)
    elif new.next_attempt_time not in (None, task.status.next_attempt_time):
        _logger.info("Task %s: next attempt at %s", task.name, new.next_attempt_time)
