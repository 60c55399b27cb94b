"""The controller of one namespace: its Lease, its limits, and what each task needs next.

Starts are exact: nothing starts before tasks and Jobs were listed consistently, and a task that was granted a
start counts as running until its Job is seen or is known not to exist.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.agenttask import LABEL_ITEM, LABEL_REPOSITORY, Event
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.kubernetes.controller import Controller, Key, ObjectCache, Relist, Requeue
from coding_agent_core.kubernetes.transport import ApiError, ApiServer
from coding_agent_core.phases import Phase

from coding_agent_operator import lease, metrics
from coding_agent_operator.adoption import Adoption
from coding_agent_operator.cluster import Cluster
from coding_agent_operator.decide import SchedulingDecision
from coding_agent_operator.job import build_job, with_transcript_annotations
from coding_agent_operator.observed import ACTIVE, Job, Task
from coding_agent_operator.reconcile import JobRefusedError, Reconciler, RefusedError, TerminationMessages
from coding_agent_operator.schedule import (
    NOT_INSTALLED,
    UNLIMITED,
    Candidate,
    Schedule,
    coarse,
    job_uid,
    schedule,
    waits_for,
    with_kueue_labels,
)
from coding_agent_operator.settings import OperatorSettings
from coding_agent_operator.sweep import Sweep
from coding_agent_operator.task_state import Stage, stage_of

_logger = logging.getLogger("operator.namespace")

_PASS_GAP_S, _PASS_SHARE = 0.01, 0.1
"""Scheduling passes take no more than this share of the time: under load, changes are taken together."""
_POSITIONS_AT_A_TIME = 100
_KUEUE_MESSAGES_AT_A_TIME = 100
"""So many tasks get a new message from Kueue at each relist: a long queue causes no storm of writes."""
_PROBE_EVERY = 3
"""So many relist intervals are between two checks of the rights."""
_DRAIN_S = 5.0


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
        settings: OperatorSettings,
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
        self._tasks = tasks
        self._jobs = jobs
        self._controller = controller
        self._now = now or (lambda: datetime.now(UTC))
        self._cluster = Cluster(server, namespace)
        # Names of pods are unique in their namespace alone.
        me = f"{settings.namespace}/{lease.identity(os.environ)}"
        self.lease = lease.Lease(self._cluster, me, operator.lease_duration)
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
        self._changed = asyncio.Event()
        self._schedule = Schedule()
        self._granted: set[str] = set()
        self._refused: dict[str, str] = {}
        """By task, why the API server refused its Job, until it has taken one."""
        self._reported: set[str] = set()
        """Tasks with an Event about a refusal, until something has worked."""
        self._positions_due: set[str] = set()
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
        await self._cluster.probe(lease.NAME)
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
                group.create_task(self._schedule_passes())
                group.create_task(self._show_positions())
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
                await self._cluster.probe(lease.NAME)
            except ApiError as error:
                if error.status in (401, 403, 404):
                    raise
                continue  # no answer: the relist goes on trying
            if doubtful and not self.lease.held():
                raise NamespaceError("its Lease cannot be renewed")

    def changed(self) -> None:
        """Something happened that may let a task start."""
        self._changed.set()

    def _queue(self, name: str, *, urgent: bool = False) -> None:
        self._controller.queue.add(Key(self.namespace, name), urgent=urgent)

    def _task(self, name: str) -> Task | None:
        return self._tasks.get((self.namespace, name))

    def _build(self, task: Task, number: int) -> Mapping[str, Any]:
        settings = self._settings
        manifest = build_job(task, number, settings.operator.job)
        manifest = with_transcript_annotations(manifest, task, number, settings.context_storage)
        return with_kueue_labels(manifest, task, settings.queue.kueue) if settings.kueue else manifest

    def _pod_ended(self, uid: str) -> None:
        job = next((job for job in self._jobs.of(self.namespace) if job.uid == uid), None)
        if job is not None and job.task is not None:
            self._queue(job.task, urgent=job.deleting)
            self._changed.set()

    # Scheduling

    async def _schedule_passes(self) -> None:
        await self.relist.synced.wait()
        clock = asyncio.get_running_loop().time
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = clock()
            self._pass()
            await asyncio.sleep(max(_PASS_GAP_S, (clock() - began) / _PASS_SHARE))

    def _pass(self) -> None:
        """Decide who starts, and queue the tasks for which something has changed."""
        before, settings = self._schedule, self._settings
        limit = UNLIMITED if settings.kueue else settings.limits.global_
        self._schedule = schedule(
            self._candidates(), limit, self._now(), aging=settings.operator.policy.aging
        )
        self._granted.update(self._schedule.start)
        for name in self._schedule.start:
            self._queue(name)
        for name in self._schedule.positions:
            task = self._task(name)
            moved = before.after.get(name) != self._schedule.after.get(name)
            if task is not None and (task.status.phase is None or moved):
                self._queue(name)

    def _candidates(self) -> list[Candidate]:
        now = self._now()
        jobs: dict[str, list[Job]] = {}
        for job in self._jobs.of(self.namespace):
            jobs.setdefault(job.owner or "", []).append(job)
        self._granted = {name for name in self._granted if self._task(name) is not None}
        found = []
        for task in self._tasks.of(self.namespace):
            stage = stage_of(task, jobs.pop(task.uid, ()), now, self._settings.operator.policy)
            if task.name in self._granted:
                stage = Stage.ACTIVE
            elif stage is Stage.READY and self._controller.retries_later(Key(self.namespace, task.name)):
                stage = Stage.BACKOFF  # it was refused: another task may start meanwhile
            if stage is Stage.ENDED:
                continue
            found.append(
                Candidate(
                    name=task.name,
                    item=task.item,
                    repository=task.repository,
                    created=task.created,
                    stage=stage,
                    limit=self._limit_of(task),
                    run=task.spec.run,
                    priority=task.spec.priority,
                )
            )
        # A Job that runs without a task (deleted by hand, its end not recorded) counts all the same.
        for orphans in jobs.values():
            found += [_orphan(job) for job in orphans if not job.finished]
        return found

    def _limit_of(self, task: Task) -> int:
        source = task.spec.source
        return UNLIMITED if self._settings.kueue else self._settings.limits.of(source.host, source.repository)

    async def _show_positions(self) -> None:
        """Show how the queue moves, of a few tasks at a time, the foremost first."""
        await self.relist.synced.wait()
        while True:
            await asyncio.sleep(self._settings.operator.position_interval)
            phases = Counter(task.status.phase or Phase.QUEUED for task in self._tasks.of(self.namespace))
            metrics.show_phases(self.namespace, phases)
            moved = []
            for name, position in self._schedule.positions.items():
                task = self._task(name)
                if task is not None and task.status.queue_position != coarse(position):
                    moved.append((position, name))
            for _, name in sorted(moved)[:_POSITIONS_AT_A_TIME]:
                self._positions_due.add(name)
                self._queue(name)

    def _decision(self, name: str) -> SchedulingDecision:
        task, position = self._task(name), self._schedule.positions.get(name)
        shown = coarse(position) if position is not None else None
        if task is not None and task.status.phase is Phase.QUEUED and name not in self._positions_due:
            # A position that has only moved is not worth a request of its own.
            shown = task.status.queue_position if shown is not None else None
        return SchedulingDecision(
            start=name in self._granted,
            position=shown,
            after=self._schedule.after.get(name),
            refused=self._refused.get(name),
        )

    # Reconciling

    async def reconcile(self, name: str) -> Requeue:
        """Bring one task nearer to its end.

        Raises:
            ApiError: the API server refused something or did not answer.
        """
        if not (self.acting and self.relist.synced.is_set()):
            return Requeue()  # the first relist queues every task
        if self._awaits_first_decision(name):
            self._changed.set()
            return Requeue()
        decision = self._decision(name)
        with metrics.RECONCILES.time():
            plan = await self._reconciler.reconcile(name, decision)
        if decision.start or plan is None or plan.stage is Stage.ENDED:
            self._refused.pop(name, None)
        # A reconciliation that only showed the refusal is no recovery.
        recovered = name not in self._refused
        if recovered:
            self._reported.discard(name)
        self._positions_due.discard(name)
        if decision.start:
            self._granted.discard(name)
            self._changed.set()
        if plan is None:
            self._controller.queue.forget(Key(self.namespace, name))
            return Requeue()
        if plan.stage is not Stage.READY or name not in self._schedule.positions:
            self._changed.set()
        after = (plan.requeue_at - self._now()).total_seconds() if plan.requeue_at else None
        return Requeue(after, recovered)

    def _awaits_first_decision(self, name: str) -> bool:
        """A new task that no scheduling pass has seen yet: the next pass queues it with its position."""
        task = self._task(name)
        if task is None or task.status.phase is not None or task.spec.suspend:
            return False
        if name in self._granted or name in self._schedule.positions or name in self._refused:
            return False
        own = [job for job in self._jobs.of(self.namespace) if job.owner == task.uid]
        return stage_of(task, own, self._now(), self._settings.operator.policy) is Stage.READY

    async def failed(self, name: str, error: Exception) -> None:
        """A reconciliation failed, and is retried later."""
        metrics.RECONCILE_ERRORS.inc()
        if isinstance(error, ApiError) and not error.conflict:
            await self._report_refusal(name, error)
        if isinstance(error, JobRefusedError):
            self._refused[name] = str(error)
        if _certain(error):
            self._granted.discard(name)
        self._changed.set()

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

    # The relist

    async def _listed(self, _: set[Key]) -> None:
        if self._settings.kueue:
            await self._read_kueue()
        for task in self._tasks.of(self.namespace):
            self._queue(task.name)
        self._changed.set()
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


def _orphan(job: Job) -> Candidate:
    return Candidate(
        name=f"job/{job.name}",
        item=job.labels.get(LABEL_ITEM, job.name),
        repository=job.labels.get(LABEL_REPOSITORY, ""),
        created=job.created,
        stage=Stage.ACTIVE,
    )
