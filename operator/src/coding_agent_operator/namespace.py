"""The controller of one namespace: its Lease, the reconciliation of its tasks, its relist and its sweep."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from coding_agent_core.agenttask import LABEL_ACTIVE, LABEL_REPORTED, Event
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.kubernetes.controller import Controller, Key, ObjectCache, Relist, Requeue
from coding_agent_core.kubernetes.transport import ApiError, ApiServer
from coding_agent_core.settings import Settings
from coding_agent_core.settings.model import Engine

from coding_agent_operator import metrics
from coding_agent_operator.adoption import Adoption
from coding_agent_operator.cluster import Cluster, Lease, identity
from coding_agent_operator.job import build_job, with_transcript_annotations
from coding_agent_operator.observed import ACTIVE, Job, Task, UnreadableTaskError, read_task
from coding_agent_operator.reconcile import JobRefusedError, Reconciler, RefusedError, TerminationMessages
from coding_agent_operator.schedule import NOT_INSTALLED, job_uid, waits_for, with_kueue_labels
from coding_agent_operator.scheduler import Scheduler
from coding_agent_operator.task_state import Stage

_logger = logging.getLogger("operator.namespace")

_KUEUE_MESSAGES_AT_A_TIME = 100
"""So many tasks get a new message from Kueue at each relist: a long queue causes no storm of writes."""
_PROBE_EVERY = 3
"""So many relist intervals are between two checks of the rights."""
_DRAIN_S = 5.0
_INACTIVE = f"{LABEL_ACTIVE}!=true"
_PAGE = 200
_UNREPORTED = timedelta(days=1)


class NamespaceError(CodingAgentError):
    """The namespace cannot be served as it is; its controller is started afresh."""


class NamespaceController:
    """Keeps every active task of a namespace moving while this process holds the namespace's Lease.

    Args:
        tasks, jobs: caches of all served namespaces.
        controller: reconciles the keys of all served namespaces.
        behind: is told at every relist how many versions no watch has shown.
    """

    def __init__(
        self,
        server: ApiServer,
        namespace: str,
        settings: Settings,
        *,
        tasks: ObjectCache[Task],
        jobs: ObjectCache[Job],
        controller: Controller,
        behind: Callable[[int], None],
        now: Callable[[], datetime] | None = None,
    ) -> None:
        operator = settings.operator
        self.namespace = namespace
        self._settings = settings
        self._kueue = settings.queue.engine is Engine.KUEUE
        self._tasks = tasks
        self._jobs = jobs
        self._controller = controller
        self._now = now or (lambda: datetime.now(UTC))
        self._cluster = Cluster(server, namespace)
        # Names of pods are unique in their namespace alone.
        me = f"{operator.own_namespace}/{identity(os.environ)}"
        self.lease = Lease(self._cluster, me, operator.lease_duration)
        self._cluster.may_write = self.lease.held
        self.acting = False
        """It holds the Lease and works."""
        self.relist = Relist(
            namespace,
            [
                (tasks, lambda: self._cluster.tasks.list(ACTIVE)),
                (jobs, lambda: self._cluster.list_jobs(ACTIVE)),
            ],
            operator.resync_interval,
            listed=self._listed,
            behind=behind,
        )
        self._sweep = Sweep(
            self._cluster,
            keep=operator.policy.keep_finished,
            interval=operator.sweep_interval,
            now=self._now,
        )
        self._adoption = Adoption(self._cluster.tasks, settings.consumer, operator.sweep_interval)
        self._messages = TerminationMessages(self._cluster, self._pod_ended)
        self._kueue_messages: dict[str, str] = {}
        """By a Job's uid, what Kueue says it waits for."""
        self._reconciler = Reconciler(
            self._cluster,
            tasks,
            jobs,
            self._messages,
            policy=operator.policy,
            build=self._build,
            waits=self._kueue_messages,
            now=self._now,
        )
        self._scheduler = Scheduler(
            namespace, settings, tasks=tasks, jobs=jobs, controller=controller, now=self._now
        )
        self._refused: dict[str, str] = {}
        """By task, why the API server refused its Job, until it has taken one."""
        self._reported: set[str] = set()
        """Tasks with an Event about a refusal, until something has worked."""
        self._orphans: set[str] = set()

    @property
    def ready(self) -> bool:
        """It works, or waits for the Lease: a rolling update waits until the new operator is ready."""
        return self.lease.was_read and (not self.lease.held() or self.relist.synced.is_set())

    @property
    def empty(self) -> bool:
        """It has no active task and no Job."""
        return not (self._tasks.of(self.namespace) or self._jobs.of(self.namespace))

    async def has_tasks(self) -> bool:
        """Whether there is any task, ended or not; in doubt there is."""
        return await self._cluster.has_tasks()

    async def run(self, probed: Callable[[], None]) -> None:
        """Check the rights, wait for the Lease, then work until cancelled.

        Args:
            probed: is called once the rights are found to be there.

        Raises:
            ApiError: a right is missing, or the API server does not answer.
            ExceptionGroup: the work failed; with `LeaseLostError` if another operator has taken over.
        """
        await self._cluster.probe()
        probed()
        cancelled = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._check_rights())
                await self.lease.acquire()
                self.acting = True
                group.create_task(self.lease.keep())
                group.create_task(self.relist.run())
                group.create_task(self._sweep.run())
                group.create_task(self._adoption.run())
                group.create_task(self._messages.run())
                group.create_task(self._scheduler.run(self.relist.synced))
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            self.acting = False
            drained = await self._drained()
            if drained and cancelled:
                await self.lease.release()

    async def _drained(self) -> bool:
        """Whether no request is under way any more: only then may the next operator start at once."""
        try:
            async with asyncio.timeout(_DRAIN_S):
                await self._controller.queue.idle(self.namespace)
        except TimeoutError:
            return False
        return True

    async def _check_rights(self) -> None:
        """Raises:
        NamespaceError: the Lease cannot be renewed although the API server answers.
        ApiError: a right was taken away.
        """
        for turn in itertools.count(1):
            await asyncio.sleep(self._settings.operator.resync_interval)
            doubtful = self.acting and not self.lease.held()
            if not doubtful and turn % _PROBE_EVERY:
                continue
            try:
                await self._cluster.probe()
            except ApiError as error:
                if error.status in (401, 403, 404):
                    raise
                continue  # no answer: the relist goes on trying
            if doubtful and not self.lease.held():
                raise NamespaceError("its Lease cannot be renewed")

    def changed(self) -> None:
        """Something happened that may let a task start."""
        self._scheduler.changed()

    def _queue(self, name: str, *, urgent: bool = False) -> None:
        self._controller.queue.add(Key(self.namespace, name), urgent=urgent)

    def _task(self, name: str) -> Task | None:
        return self._tasks.get((self.namespace, name))

    def _build(self, task: Task, number: int) -> Mapping[str, Any]:
        settings = self._settings
        manifest = build_job(task, number, settings.operator.job)
        manifest = with_transcript_annotations(manifest, task, number, settings.context_storage)
        return with_kueue_labels(manifest, task, settings.queue.kueue) if self._kueue else manifest

    def _pod_ended(self, uid: str) -> None:
        job = next((job for job in self._jobs.of(self.namespace) if job.uid == uid), None)
        if job is not None and job.task is not None:
            self._queue(job.task, urgent=job.deleting)
            self._scheduler.changed()

    async def reconcile(self, name: str) -> Requeue:
        """Bring one task nearer to its end.

        Raises:
            ApiError: the API server refused something or did not answer.
        """
        if not (self.acting and self.relist.synced.is_set()):
            return Requeue()  # the first relist queues every task
        if name not in self._refused and self._scheduler.awaits_first_decision(name):
            self._scheduler.changed()  # the next pass queues it with its position
            return Requeue()
        decision = self._scheduler.decision(name, self._refused.get(name))
        with metrics.RECONCILES.time():
            plan = await self._reconciler.reconcile(name, decision)
        if decision.start or plan is None or plan.stage is Stage.ENDED:
            self._refused.pop(name, None)
        # A reconciliation that only showed the refusal is no recovery.
        recovered = name not in self._refused
        if recovered:
            self._reported.discard(name)
        self._scheduler.reconciled(name, started=decision.start)
        if plan is None:
            self._controller.queue.forget(Key(self.namespace, name))
            return Requeue()
        if plan.stage is not Stage.READY or not self._scheduler.waits(name):
            self._scheduler.changed()
        after = (plan.requeue_at - self._now()).total_seconds() if plan.requeue_at else None
        return Requeue(after, recovered)

    async def failed(self, name: str, error: Exception) -> None:
        """A reconciliation failed, and is retried later."""
        metrics.RECONCILE_ERRORS.inc()
        if isinstance(error, ApiError) and not error.conflict:
            await self._report_refusal(name, error)
        if isinstance(error, JobRefusedError):
            self._refused[name] = str(error)
        if _certain(error):
            self._scheduler.revoke(name)
        self._scheduler.changed()

    async def _report_refusal(self, name: str, error: ApiError) -> None:
        """Emit one Event about a refusal that repeats: a quota, an admission webhook, a missing right."""
        task = self._task(name)
        if task is None or not _certain(error) or error.status in (404, 429) or name in self._reported:
            return
        self._reported.add(name)
        event = Event("Warning", "Refused", str(error))
        try:
            await self._cluster.tasks.emit(event, name=task.name, uid=task.uid, now=self._now())
        except ApiError as second:
            _logger.warning("The Event could not be written either: %s", second)

    async def _listed(self, _: set[Key]) -> None:
        if self._kueue:
            await self._read_kueue()
        for task in self._tasks.of(self.namespace):
            self._queue(task.name)
        self._scheduler.changed()
        await self._report_orphans()

    async def _read_kueue(self) -> None:
        """Read in one request what the Jobs that Kueue has not admitted wait for."""
        waiting = {job.uid for job in self._jobs.of(self.namespace) if job.waiting and job.queue}
        known = self._kueue_messages
        for uid in known.keys() - waiting:
            del known[uid]
        if not waiting:
            return
        try:
            workloads = await self._cluster.list_workloads()
        except ApiError as error:
            if error.status != 404:
                _logger.warning("Kueue's workloads cannot be read: %s", error)
                return
            found = dict.fromkeys(waiting, NOT_INSTALLED)
        else:
            found = {job_uid(each): text for each in workloads if (text := waits_for(each)) is not None}
        new = [(uid, text) for uid, text in found.items() if uid in waiting and known.get(uid) != text]
        known.update(new[:_KUEUE_MESSAGES_AT_A_TIME])

    async def _report_orphans(self) -> None:
        """Jobs of ours without a task are left alone; an Event says so."""
        uids = {task.uid for task in self._tasks.of(self.namespace)}
        for job in self._jobs.of(self.namespace):
            if job.owner in uids or job.deleting or job.uid in self._orphans:
                continue
            if job.task is not None and await self._cluster.tasks.get(job.task) is not None:
                self._queue(job.task)  # an ended task must not let a Job run on
                continue
            self._orphans.add(job.uid)
            event = Event(
                "Warning",
                "OrphanedJob",
                "No AgentTask owns this Job; it is left alone. Delete it if nobody needs it.",
            )
            _logger.warning("Job %s has no task; it is left alone", job.name)
            await self._cluster.tasks.emit(event, kind="Job", name=job.name, uid=job.uid, now=self._now())


def _certain(error: Exception) -> bool:
    """It was refused, so it was not done. Without an answer, and after most 5xx, that is not known."""
    if isinstance(error, RefusedError):
        return True
    return isinstance(error, ApiError) and error.status is not None and error.status < 500


class Sweep:
    """Lists what is not active, rarely, and deletes what ended long ago.

    The server reads every task that ever ran for it (10,000: about two seconds).
    """

    def __init__(
        self, cluster: Cluster, *, keep: float, interval: float, now: Callable[[], datetime]
    ) -> None:
        self._cluster = cluster
        self._keep = timedelta(seconds=keep)
        self._interval = interval
        self._now = now

    async def run(self) -> None:
        """Sweep at every interval, until cancelled."""
        while True:
            try:
                deleted = await self.delete_expired()
                if deleted:
                    _logger.info("Deleted %d tasks that ended more than %s ago", deleted, self._keep)
            except ApiError as error:
                _logger.warning("Ended tasks could not be swept: %s", error)
            await asyncio.sleep(self._interval)

    async def delete_expired(self) -> int:
        """Delete what expired; returns how many.

        Raises:
            ApiError: the API server did not answer.
        """
        deleted = 0
        async for page in self._cluster.tasks.pages(_INACTIVE, _PAGE):
            for body in page:
                try:
                    task = read_task(body)
                except UnreadableTaskError:
                    continue
                if expired(task, self._now(), self._keep):
                    await self._cluster.tasks.delete(task.name, task.uid, task.version)
                    deleted += 1
        return deleted


def expired(task: Task, now: datetime, keep: timedelta) -> bool:
    """The task ended long enough ago.

    One whose end is not shown on its item yet stays a day longer: the forge may not answer.
    """
    status, own = task.status, task.spec.ttl_seconds_after_finished
    keep = keep if own is None else timedelta(seconds=own)
    succeeded = status.condition("Succeeded")
    ended = status.completion_time or (succeeded.last_transition_time if succeeded else None)
    keep = keep if task.labels.get(LABEL_REPORTED) == "true" else keep + _UNREPORTED
    return task.ended and ended is not None and ended + keep <= now
