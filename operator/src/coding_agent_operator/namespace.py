"""The controller of one namespace: its Lease, the reconciles of its tasks, and its relist.

The watches show only complete active tasks. So the controller also looks for incomplete tasks, which it
completes, and for ended tasks, which the sweep deletes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.runtime.background import forever
from coding_agent_core.settings.model import Engine, Settings
from coding_agent_core.task.agenttask import NOT_ENDED, AgentTask, Event, Status, UnreadableTaskError
from coding_agent_core.task.agenttask_patches import completion
from coding_agent_core.task.runs import next_run, runs_of

from coding_agent_operator.cluster.attempt_pods import AttemptPods
from coding_agent_operator.cluster.attempts import Attempts, Leadership
from coding_agent_operator.cluster.controller import (
    Controller,
    NamespacedName,
    ObjectCache,
    Requeue,
    WorkQueue,
    key_of,
)
from coding_agent_operator.cluster.namespace_objects import NamespaceObjects
from coding_agent_operator.cluster.observed import ACTIVE, DEFAULTED, NOT_DEFAULTED, Job
from coding_agent_operator.cluster.unauthorized_requests import UnauthorizedRequests
from coding_agent_operator.cluster.watching import Relist
from coding_agent_operator.scheduling.scheduler import Scheduler
from coding_agent_operator.tasks import metrics
from coding_agent_operator.tasks.evidence import evidence_limit
from coding_agent_operator.tasks.outcome_of import AttemptPolicy
from coding_agent_operator.tasks.plan import status_with_defect
from coding_agent_operator.tasks.reconcile import Builder, JobRejectedError, ObjectRejectedError, Reconciler
from coding_agent_operator.tasks.runs import sweep
from coding_agent_operator.tasks.state import Stage

_logger = logging.getLogger("operator.namespace")

_PROBE_EVERY = 3
"""The number of relist intervals between two checks of the rights."""
_DRAIN_S = 5.0


class NamespaceError(CodingAgentError):
    """The namespace cannot be served now; its controller is started again."""


def observe(
    tasks: ObjectCache[AgentTask],
    jobs: ObjectCache[Job],
    queue: WorkQueue,
    kind: str | None,
    stored: AgentTask | Job,
) -> bool:
    """Process a watch event: update the cache, and queue the task. Return whether the event was new."""
    key = key_of(stored)
    if isinstance(stored, AgentTask):
        if not tasks.observe(kind, stored):
            return False
        task = tasks.get(key)
        # Work that nobody wants costs money until it stops.
        urgent = task is not None and (task.spec.cancel or task.spec.suspend)
    else:
        if not jobs.observe(kind, stored):
            return False
        job = jobs.get(key) or stored
        key, urgent = NamespacedName(key.namespace, job.task or ""), job.deleting and kind != "DELETED"
    if key.name:
        queue.add(key, urgent=urgent)
    return True


class NamespaceController:
    """Works on the active tasks of a namespace while this process leads there.

    Args:
        cluster: runs the attempts, and has the store of the tasks.
        lease: says whether this process leads.
        builder: builds what runs an attempt.
        tasks, jobs: the caches of all served namespaces.
        controller: reconciles the keys of all served namespaces.
        behind: called at every relist with the number of versions that no watch has shown.
    """

    def __init__(
        self,
        cluster: Attempts,
        lease: Leadership,
        builder: Builder,
        settings: Settings,
        *,
        tasks: ObjectCache[AgentTask],
        jobs: ObjectCache[Job],
        controller: Controller,
        behind: Callable[[int], None],
        now: Callable[[], datetime] | None = None,
    ) -> None:
        operator = settings.operator
        self.namespace = namespace = cluster.namespace
        self._settings = settings
        self._kueue = settings.queue.engine is Engine.KUEUE
        self._tasks = tasks
        self._jobs = jobs
        self._controller = controller
        self._now = now or (lambda: datetime.now(UTC))
        self.cluster = cluster
        self.lease = lease
        self.acting = False
        """Whether the controller holds the Lease and works."""
        self.relist = Relist(
            namespace,
            [
                (tasks, lambda: self.cluster.tasks.list(DEFAULTED, NOT_ENDED)),
                (jobs, lambda: self.cluster.list_jobs(ACTIVE)),
            ],
            settings.relist_interval,
            listed=self._listed,
            behind=behind,
        )
        self._pods = AttemptPods(self.cluster, self._pod_ended, self._pod_gone)
        objects = NamespaceObjects(self.cluster, tasks, jobs, self._pods)
        self.scheduler = Scheduler(objects, settings, controller=controller, now=self._now)
        self._unauthorized_requests = UnauthorizedRequests(self._now)
        self._reconciler = Reconciler(
            objects,
            builder,
            policy=AttemptPolicy.of(operator.policy, settings.development),
            evidence_limit=evidence_limit(settings.verify, operator.job),
            unauthorized=self._unauthorized_requests.refusal,
            waits=self.scheduler.kueue_messages,
            ended=self._ended,
            now=self._now,
        )
        self._refused: dict[str, str] = {}
        """Why the API server refused a task's Job, by task, until it accepts one."""
        self._reported: set[str] = set()
        """Tasks with an Event about a refusal, until a reconcile succeeds."""
        self._defective: dict[str, Status] = {}
        """The status that shows a defect, by task, until a reconcile succeeds."""
        self._orphans: set[str] = set()
        self._invalid: set[str] = set()
        """Tasks with an Event about a spec that cannot be read."""

    @property
    def ready(self) -> bool:
        """Whether the controller works or waits for the Lease. A rolling update waits for this."""
        return self.lease.was_read and (not self.lease.held() or self.relist.synced.is_set())

    @property
    def empty(self) -> bool:
        """Whether the namespace has no active task and no Job."""
        return not (self._tasks.of(self.namespace) or self._jobs.of(self.namespace))

    async def has_tasks(self) -> bool:
        """Whether the namespace has any AgentTask, ended or not; `True` if the API server does not say."""
        try:
            return bool(await anext(self.cluster.tasks.pages("", 1)))
        except ApiError:
            return True

    async def run(self, probed: Callable[[], None]) -> None:
        """Check the rights, wait for the Lease, then work until cancelled.

        Args:
            probed: called once the check has shown that this process has the rights.

        Raises:
            ApiError: a right is missing, or the API server does not answer.
            NamespaceError: a RuntimeClass that the settings name does not exist.
            ExceptionGroup: the work failed; with `LeaseLostError` if another operator has taken over.
        """
        await self.cluster.probe()
        await self._require_runtime_classes()
        probed()
        cancelled = False
        try:
            async with asyncio.TaskGroup() as group:
                # This runs while we wait for the Lease too: a replica without rights must not look ready.
                group.create_task(self._check_rights())
                await self.lease.acquire()
                self.acting = True
                group.create_task(self.lease.keep())
                group.create_task(self.relist.run())
                group.create_task(forever("sweep", self._sweep))
                group.create_task(forever("adoption", self._adopt_unlabeled))
                group.create_task(self._pods.run())
                group.create_task(self.scheduler.run(self.relist.synced))
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            self.acting = False
            # The next operator may start at once only if no request is under way.
            try:
                async with asyncio.timeout(_DRAIN_S):
                    await self._controller.queue.idle(self.namespace)
            except TimeoutError:
                cancelled = False
            if cancelled:
                await self.lease.release()

    async def _require_runtime_classes(self) -> None:
        """Check the RuntimeClasses for attempts: the API server rejects each pod that names a missing one."""
        names = self._settings.operator.job.runtime_classes.names
        try:
            missing = await self.cluster.missing_runtime_classes(names)
        except ApiError as error:
            if error.status != 403:
                raise
            # Reading them needs a right in the whole cluster, which an installation may refuse.
            _logger.warning("Whether the RuntimeClasses %s exist is unknown: %s", ", ".join(names), error)
            return
        if missing:
            raise NamespaceError(
                f"operator.job.runtime_classes: the cluster has no RuntimeClass {', '.join(missing)}; create "
                "it, or name one of `kubectl get runtimeclasses`"
            )

    async def _check_rights(self) -> None:
        """Check the rights regularly, and more often while the Lease cannot be renewed.

        Raises:
            NamespaceError: the Lease cannot be renewed although the API server answers.
            ApiError: a right was taken away.
        """
        for turn in itertools.count(1):
            await asyncio.sleep(self._settings.relist_interval)
            doubtful = self.acting and not self.lease.held()
            if not doubtful and turn % _PROBE_EVERY:
                continue
            try:
                await self.cluster.probe()
            except ApiError as error:
                if error.status in (401, 403, 404):
                    raise
                continue  # there was no answer, and the relist tries again
            # The API server answers us but the Lease cannot be renewed, so only a new start can help.
            if doubtful and not self.lease.held():
                raise NamespaceError("its Lease cannot be renewed")

    async def _sweep(self) -> float:
        """Delete tasks that ended long ago; return the seconds until the next time."""
        keep = timedelta(seconds=self._settings.keep_finished)
        await sweep(self.cluster.tasks, keep, self._settings.budgets, self._now())
        return self._settings.development.sweep_interval

    def _queue(self, name: str, *, urgent: bool = False) -> None:
        self._controller.queue.add(NamespacedName(self.namespace, name), urgent=urgent)

    def _ended(self, task: AgentTask) -> None:
        """Pass an ended task to the parts that must remember it, because the cache drops it."""
        self.scheduler.ended(task)
        self._unauthorized_requests.ended(task)

    def _pod_ended(self, uid: str) -> None:
        """Reconcile at once if the pod's Job is being deleted; otherwise the Job's end follows soon."""
        job = next((job for job in self._jobs.of(self.namespace) if job.uid == uid), None)
        if job is not None and job.task is not None and job.deleting:
            self._queue(job.task, urgent=True)

    def _pod_gone(self) -> None:
        self.scheduler.changed()

    async def reconcile(self, name: str) -> Requeue:
        """Reconcile one task.

        Raises:
            ApiError: the API server refused something or did not answer.
        """
        if not (self.acting and self.relist.synced.is_set()):
            return Requeue()  # the first relist queues every task
        if name not in self._refused and self.scheduler.awaits_first_decision(name):
            self.scheduler.changed()  # the next pass queues it with its position
            return Requeue()
        decision = self.scheduler.decision(name, self._refused.get(name))
        with metrics.RECONCILES.time():
            plan = await self._reconciler.reconcile(name, decision)
        self._defective.pop(name, None)
        if decision.start or plan is None or plan.stage is Stage.ENDED:
            self._refused.pop(name, None)
        # A reconcile that only showed the refusal does not count as recovery.
        recovered = name not in self._refused
        if recovered:
            self._reported.discard(name)
        self.scheduler.reconciled(name, started=decision.start)
        if plan is None:
            self._controller.queue.forget(NamespacedName(self.namespace, name))
            return Requeue()
        if plan.stage is not Stage.READY or not self.scheduler.waits(name):
            self.scheduler.changed()
        after = (plan.requeue_at - self._now()).total_seconds() if plan.requeue_at else None
        return Requeue(after, recovered)

    async def failed(self, name: str, error: Exception) -> None:
        metrics.RECONCILE_ERRORS.inc()
        # A refused request changed nothing. Without an answer, and after most 5xx, this is not known.
        refused = isinstance(error, ObjectRejectedError) or (
            isinstance(error, ApiError) and error.status is not None and error.status < 500
        )
        if refused and isinstance(error, ApiError) and not error.conflict and error.status not in (404, 429):
            await self._report_refusal(name, error)
        if not isinstance(error, ApiError):
            await self._show_defect(name, error)
        if isinstance(error, JobRejectedError):
            self._refused[name] = str(error)
        if refused:
            self.scheduler.revoke(name)
        self.scheduler.changed()

    async def _report_refusal(self, name: str, error: ApiError) -> None:
        """Emit a single Event about a refusal that repeats, e.g. by a quota or for a missing right."""
        task = self._tasks.get((self.namespace, name))
        if task is None or name in self._reported:
            return
        self._reported.add(name)
        event = Event("Warning", "Refused", str(error))
        await self.cluster.tasks.emit(event, task, self._now())

    async def _show_defect(self, name: str, error: Exception) -> None:
        """Record on a task, and in a single Event, that its reconcile ends with an unexpected exception."""
        task = self._tasks.get((self.namespace, name))
        if task is None or task.ended:
            return
        try:
            status = status_with_defect(task, error, self._now())
            if self._defective.get(name) == status:
                return
            if status != task.status:
                self._tasks.put(await self.cluster.tasks.set_status(task, status))
            self._defective[name] = status
            event = Event("Warning", "OperatorDefect", status.conditions[0].message)
            await self.cluster.tasks.emit(event, task, self._now())
        except ApiError as problem:
            _logger.warning("%s does not show the defect yet: %s", name, problem)
        except Exception:
            # The retry must follow even if the same defect is met here.
            _logger.exception("%s cannot show the defect", name)

    async def _listed(self, _: set[NamespacedName]) -> None:
        if self._kueue:
            await self.scheduler.read_kueue()
        for task in self._tasks.of(self.namespace):
            self._queue(task.name)
        self.scheduler.changed()
        await self._report_orphans()

    async def _report_orphans(self) -> None:
        """Emit an Event for each of our Jobs without a task; the operator leaves such Jobs alone."""
        uids = {task.uid for task in self._tasks.of(self.namespace)}
        for job in self._jobs.of(self.namespace):
            if job.owner in uids or job.deleting or job.uid in self._orphans:
                continue
            if job.task is not None and await self.cluster.tasks.get(job.task) is not None:
                self._queue(job.task)  # the Job of an ended task must not continue to run
                continue
            self._orphans.add(job.uid)
            event = Event(
                "Warning",
                "OrphanedJob",
                "No AgentTask owns this Job, so the operator leaves it alone. Delete the Job if nobody "
                "needs it.",
            )
            _logger.warning("Job %s has no task; it is left alone", job.name)
            await self.cluster.tasks.emit(event, job, self._now(), kind="Job")

    async def _adopt_unlabeled(self) -> float:
        """Adopt existing and new tasks without the label that marks complete tasks, for some time.

        The receiver creates complete tasks with that label. All other tasks were written by a person or a
        GitOps tool, or have lost their labels.
        """
        tasks, seconds = self.cluster.tasks, int(self._settings.development.sweep_interval)
        listed, version = await tasks.list(NOT_DEFAULTED, NOT_ENDED)
        for task in listed:
            await self._adopt(task)
        async for kind, task in tasks.watch(NOT_DEFAULTED, NOT_ENDED, version, seconds):
            if kind in ("ADDED", "MODIFIED"):
                await self._adopt(task)
        return 0.0

    async def _adopt(self, task: AgentTask) -> None:
        """Fill in the fields and labels that the task lacks."""
        tasks, defaults = self.cluster.tasks, self._settings.consumer
        try:
            item = task.spec.item
        except UnreadableTaskError as error:
            _logger.warning("%s", error)
            if task.uid not in self._invalid:
                self._invalid.add(task.uid)
                event = Event("Warning", "InvalidSpec", f"The spec cannot be used: {error.why}")
                await tasks.emit(event, task, self._now())
            return
        others = [run for run in await tasks.runs(item) if run.uid != task.uid]
        patch = completion(
            task,
            run=next_run(item, runs_of(item, others), ()),
            timeout_seconds=defaults.timeout_seconds,
            max_attempts=defaults.max_attempts,
        )
        # If somebody else changes the task at this moment, the list or the watch shows it again.
        if patch is not None and await tasks.patch(task, patch) is not None:
            _logger.info("Adopted task %s", task.name)
