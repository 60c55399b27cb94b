"""The operator's heart: a level-based queue of tasks, fed by watches and by regular looks at the whole.

Starts are exact: nothing starts before tasks and Jobs were listed consistently, and a task that was told to
start counts as running until its Job is seen or is known not to exist.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.agenttask import LABEL_ITEM, LABEL_REPOSITORY, Event
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.logs import bound
from coding_agent_core.phases import Phase

from coding_agent_operator import metrics
from coding_agent_operator.cluster import Cluster
from coding_agent_operator.decide import Plan, SchedulingDecision
from coding_agent_operator.job import build_job, with_transcript_annotations
from coding_agent_operator.observed import Job, Task, read_job, read_task
from coding_agent_operator.reconcile import JobRefusedError, Reconciler, RefusedError
from coding_agent_operator.schedule import UNLIMITED, Candidate, Schedule, coarse, schedule, with_kueue_labels
from coding_agent_operator.settings import OperatorSettings
from coding_agent_operator.store import Shelf
from coding_agent_operator.task_state import Stage, stage_of
from coding_agent_operator.termination_messages import TerminationMessages
from coding_agent_operator.workqueue import WorkQueue

_logger = logging.getLogger("operator.engine")

_PASS_INTERVAL_S = 0.1
"""Between two scheduling passes: what happens meanwhile is taken together."""
_RETRY_FIRST_S, _RETRY_MAX_S = 0.5, 60.0
_POSITIONS_AT_A_TIME = 100


class Engine:
    """Keeps every active task of a namespace moving."""

    def __init__(
        self, cluster: Cluster, settings: OperatorSettings, now: Callable[[], datetime] | None = None
    ) -> None:
        self.cluster = cluster
        self.settings = settings
        self.tasks: Shelf[Task] = Shelf(read_task)
        self.jobs: Shelf[Job] = Shelf(read_job)
        self.queue = WorkQueue()
        self.synced = asyncio.Event()
        self.clock = now or (lambda: datetime.now(UTC))
        self.waits: dict[str, str] = {}
        """By a Job's uid what Kueue says it waits for."""
        self._words = TerminationMessages(cluster, self._pod_ended)
        self._reconciler = Reconciler(
            cluster,
            self.tasks,
            self.jobs,
            self._words,
            policy=settings.operator.policy,
            build=self._build,
            waits=self.waits,
            now=self.clock,
        )
        self._changed = asyncio.Event()
        self._schedule = Schedule()
        self._granted: set[str] = set()
        self._put_off: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._refused: dict[str, str] = {}
        """By task why the API server did not take its Job, until it has taken one."""
        self._told: set[str] = set()
        """Tasks with a refusal that people were told of, until something has worked."""
        self._positions_due: set[str] = set()

    def _build(self, task: Task, number: int) -> Mapping[str, Any]:
        manifest = build_job(task, number, self.settings.operator.job)
        manifest = with_transcript_annotations(manifest, task, number, self.settings.context_storage)
        return (
            with_kueue_labels(manifest, task, self.settings.queue.kueue) if self.settings.kueue else manifest
        )

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._schedule_forever())
            group.create_task(self._positions_forever())
            group.create_task(self._words.forever())
            for _ in range(self.settings.operator.workers):
                group.create_task(self._work_forever())

    def observe_task(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take a watch event of a task; `kind` is its type, `None` in the initial list."""
        meta = body["metadata"]
        if kind == "DELETED":
            if self.tasks.unwatched(body):
                self.touch(meta["name"])
        elif (task := self.tasks.watched(body)) is not None:
            self.touch(task.name, urgent=task.spec.cancel or task.spec.suspend)

    def observe_job(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take a watch event of a Job."""
        if kind == "DELETED":
            if self.jobs.unwatched(body):
                self.touch(read_job(body).task)
        elif (job := self.jobs.watched(body)) is not None:
            self.touch(job.task, urgent=job.deleting)

    def _pod_ended(self, uid: str) -> None:
        job = next((job for job in self.jobs if job.uid == uid), None)
        if job is not None:
            self.touch(job.task, urgent=job.deleting)

    def touch(self, task: str | None, *, urgent: bool = False) -> None:
        """Something about a task has changed."""
        self._changed.set()
        if task is not None:
            self.queue.add(task, urgent=urgent)

    def touch_all(self) -> None:
        """Look at every active task."""
        for task in self.tasks:
            self.queue.add(task.name)
        self._changed.set()

    def phases(self) -> dict[Phase, int]:
        """How many active tasks are in each phase."""
        return dict(Counter(task.status.phase or Phase.QUEUED for task in self.tasks))

    async def _schedule_forever(self) -> None:
        await self.synced.wait()
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._pass()
            await asyncio.sleep(_PASS_INTERVAL_S)

    def _pass(self) -> None:
        """Decide who starts, and wake those for whom something has changed."""
        before = self._schedule
        settings = self.settings
        limit = UNLIMITED if settings.kueue else settings.limits.global_
        self._schedule = schedule(
            self._candidates(), limit, self.clock(), aging=settings.operator.policy.aging
        )
        self._granted.update(self._schedule.start)
        for name in self._schedule.start:
            self.queue.add(name)
        for name in self._schedule.positions:
            task = self.tasks.get(name)
            moved = before.after.get(name) != self._schedule.after.get(name)
            if task is not None and (task.status.phase is None or moved):
                self.queue.add(name)

    def _candidates(self) -> list[Candidate]:
        now, clock = self.clock(), asyncio.get_running_loop().time()
        jobs: dict[str, list[Job]] = {}
        for job in self.jobs:
            jobs.setdefault(job.owner or "", []).append(job)
        self._granted = {name for name in self._granted if self.tasks.get(name) is not None}
        settings = self.settings.operator
        found = []
        for task in self.tasks:
            stage = stage_of(task, jobs.pop(task.uid, ()), now, settings.policy)
            if task.name in self._granted:
                stage = Stage.ACTIVE
            elif stage is Stage.READY and self._put_off.get(task.name, 0) > clock:
                stage = Stage.BACKOFF
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
        # A Job that runs without a task (deleted by hand, its end not recorded) takes its place all the same.
        for orphans in jobs.values():
            found += [_orphan(job) for job in orphans if not job.finished]
        return found

    def _limit_of(self, task: Task) -> int:
        source = task.spec.source
        return UNLIMITED if self.settings.kueue else self.settings.limits.of(source.host, source.repository)

    async def _positions_forever(self) -> None:
        """Show how the queue moves, to a few tasks at a time, the foremost first."""
        await self.synced.wait()
        while True:
            await asyncio.sleep(self.settings.operator.position_interval)
            metrics.show_phases(self.phases())
            moved = []
            for name, position in self._schedule.positions.items():
                task = self.tasks.get(name)
                if task is not None and task.status.queue_position != coarse(position):
                    moved.append((position, name))
            for _, name in sorted(moved)[:_POSITIONS_AT_A_TIME]:
                self._positions_due.add(name)
                self.queue.add(name)

    def _decision(self, name: str) -> SchedulingDecision:
        task, position = self.tasks.get(name), self._schedule.positions.get(name)
        shown = coarse(position) if position is not None else None
        if task is not None and task.status.phase is Phase.QUEUED and name not in self._positions_due:
            # A place that has only moved is not worth a request of its own.
            shown = task.status.queue_position if shown is not None else None
        return SchedulingDecision(
            start=name in self._granted,
            position=shown,
            after=self._schedule.after.get(name),
            refused=self._refused.get(name),
        )

    async def _work_forever(self) -> None:
        await self.synced.wait()
        while True:
            name = await self.queue.take()
            try:
                with bound(task=name), metrics.RECONCILES.time():
                    await self._look(name)
            except Exception as error:
                await self._failed(name, error)
            finally:
                self.queue.done(name)

    async def _look(self, name: str) -> None:
        task = self.tasks.get(name)
        new = task is not None and task.status.phase is None and not task.spec.suspend
        told = name in self._granted or name in self._schedule.positions or name in self._refused
        if new and not told:
            mine = [job for job in self.jobs if task is not None and job.owner == task.uid]
            if (
                task is not None
                and stage_of(task, mine, self.clock(), self.settings.operator.policy) is Stage.READY
            ):
                self._changed.set()  # the next pass tells its place
                return
        decision = self._decision(name)
        plan = await self._reconciler.reconcile(name, decision)
        if decision.start or plan is None or plan.stage is Stage.ENDED:
            self._refused.pop(name, None)
        if name not in self._refused:
            # A look that told of a refusal is no success: the next try keeps its growing distance.
            self._failures.pop(name, None)
            self._told.discard(name)
            self._put_off.pop(name, None)
        self._positions_due.discard(name)
        if decision.start:
            self._granted.discard(name)
            self._changed.set()
        self._after(name, plan)

    def _after(self, name: str, plan: Plan | None) -> None:
        if plan is None:
            self.queue.forget(name)
            return
        if plan.requeue_at is not None:
            self.queue.add_later(name, (plan.requeue_at - self.clock()).total_seconds())
        if plan.stage is not Stage.READY or name not in self._schedule.positions:
            self._changed.set()

    async def _failed(self, name: str, error: Exception) -> None:
        metrics.RECONCILE_ERRORS.inc()
        self._failures[name] += 1
        delay = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** min(self._failures[name] - 1, 10))
        delay *= random.uniform(0.5, 1.0)
        if not isinstance(error, ApiError):
            _logger.error("Task %s: %r; looking again in %.1f s", name, error, delay, exc_info=error)
        elif error.conflict:
            _logger.info("Task %s has changed meanwhile; looking again", name)
            delay = 0.0 if self._failures[name] < 5 else delay
        else:
            _logger.warning("Task %s: %s; looking again in %.1f s", name, error, delay)
            delay = max(delay, error.retry_after or 0.0)
            await self._tell(name, error)
        if isinstance(error, JobRefusedError):
            self._refused[name] = str(error)
        if _certain(error) and name in self._granted:
            # It was refused for certain: another may have the place meanwhile.
            self._granted.discard(name)
            self._put_off[name] = asyncio.get_running_loop().time() + delay
        self.queue.add_later(name, delay)
        self._changed.set()

    async def _tell(self, name: str, error: ApiError) -> None:
        """Tell people once of a refusal that repeats: a quota, an admission webhook, a missing right."""
        task = self.tasks.get(name)
        if task is None or not _certain(error) or error.status in (404, 429) or name in self._told:
            return
        self._told.add(name)
        event = Event("Warning", "Refused", str(error))
        try:
            await self.cluster.tasks.emit(event, name=task.name, uid=task.uid, now=self.clock())
        except ApiError as second:
            _logger.warning("The Event could not be written either: %s", second)


def _certain(error: Exception) -> bool:
    """It was refused, so it was not done; of no answer and of most failures of the server nobody knows."""
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
