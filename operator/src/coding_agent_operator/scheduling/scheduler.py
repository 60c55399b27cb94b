"""Schedules the tasks of one namespace: runs `fair_schedule` after changes, and remembers the granted starts.

Limits are exact: nothing starts before tasks and Jobs were listed consistently, and a task that was granted a
start counts as running until its Job is seen or is known not to exist.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.runtime.background import forever, succeed
from coding_agent_core.settings.model import Engine, Settings
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.model import Phase
from coding_agent_core.task.runs import answered_by

from coding_agent_operator.cluster.controller import Controller, NamespacedName
from coding_agent_operator.cluster.namespace_objects import NamespaceObjects
from coding_agent_operator.cluster.observed import (
    KUEUE_NOT_INSTALLED,
    Job,
    workload_job_uid,
    workload_waits_for,
)
from coding_agent_operator.scheduling.fair_share import (
    UNLIMITED,
    Candidate,
    Limited,
    Schedule,
    coarse,
    fair_schedule,
    orphans_of,
)
from coding_agent_operator.tasks import metrics
from coding_agent_operator.tasks.budgets import Spending
from coding_agent_operator.tasks.outcome_of import AttemptPolicy
from coding_agent_operator.tasks.plan import SchedulingDecision
from coding_agent_operator.tasks.state import Stage, stage_of

_logger = logging.getLogger("operator.scheduler")

_AGING_S = 60.0
"""Waiting this long raises a task's priority by one, so that a task of a lower priority waits longer by a
minute for each step, and none waits for ever."""
_PASS_SHARE = 0.1
"""Passes take no more than this share of the time, so that under load one pass covers several changes."""
_PAGE = 500
_POSITIONS_AT_A_TIME = 100
_REMEMBERED = timedelta(minutes=20)
"""How long an item with an ended task is remembered. Later, its run 1 starts before the item is read."""
_KUEUE_MESSAGES_AT_A_TIME = 100
"""This many tasks get a new message from Kueue at each relist, so that a long queue causes few writes."""


class Scheduler:
    """Decides which tasks of a namespace may start, and queues the tasks whose situation has changed."""

    def __init__(
        self,
        objects: NamespaceObjects,
        settings: Settings,
        *,
        controller: Controller,
        now: Callable[[], datetime],
    ) -> None:
        self._cluster = objects.cluster
        self._pods = objects.pods
        self._namespace = objects.cluster.namespace
        self._limits = None if settings.queue.engine is Engine.KUEUE else settings.limits
        self._policy = AttemptPolicy.of(settings.operator.policy, settings.development)
        self._position_interval = settings.development.position_interval
        self._tasks = objects.tasks
        self._jobs = objects.jobs
        self._controller = controller
        self._now = now
        self.spending = Spending(settings.budgets, now)
        self._changed = asyncio.Event()
        self._items: dict[str, str] = {}
        """The item's hash of each candidate of the last pass, by the task's name."""
        self._ended: dict[str, datetime] = {}
        """When a task of an item was found to have ended or gone, by the item's hash; the oldest is first."""
        self._schedule = Schedule()
        self._granted: set[str] = set()
        self._ready: dict[str, tuple[AgentTask, Candidate]] = {}
        """The tasks that were ready in the last pass, by name, so that a long queue is computed only once."""
        self._positions_due: set[str] = set()
        self.kueue_messages: dict[str, str] = {}
        """What a Job waits for, as Kueue says, by the Job's uid."""

    def changed(self) -> None:
        """Schedule a pass soon, because a change may let a task start."""
        self._changed.set()

    async def run(self, synced: asyncio.Event) -> None:
        """Schedule until cancelled, once everything was listed, and what ended tasks spent was read."""
        await synced.wait()
        await self._pods.listed.wait()
        await succeed("spend", self._read_spending)
        async with asyncio.TaskGroup() as group:
            group.create_task(forever("scheduling", self._schedule_once))
            group.create_task(forever("positions", self._show_positions))

    async def _read_spending(self) -> None:
        for fields in self.spending.selectors():
            async for page in self._cluster.tasks.pages(fields, _PAGE):
                for task in page:
                    self.spending.put(task)

    def ended(self, task: AgentTask) -> None:
        """Remember an ended task, because the cache drops it: its item, and what it spent."""
        self.spending.ended(task)
        self._remember(task.item_hash)

    def _remember(self, item: str) -> None:
        self._ended.pop(item, None)
        self._ended[item] = self._now()
        for oldest, at in list(self._ended.items()):
            if at + _REMEMBERED > self._now():
                break
            del self._ended[oldest]

    def decision(self, name: str, refused: str | None) -> SchedulingDecision:
        """Return the decision about a task; `refused` says why the API server last refused its Job, if so."""
        task, position = self._task(name), self._schedule.positions.get(name)
        short = self._schedule.short.get(name)
        shown = coarse(position) if position is not None else None
        if task is not None and task.status.phase is Phase.QUEUED and name not in self._positions_due:
            # A position that has only moved is not worth a separate request.
            shown = task.status.queue_position if shown is not None else None
        return SchedulingDecision(
            start=name in self._granted,
            position=shown,
            after=self._schedule.after.get(name),
            refused=refused,
            limit=self._limit(task) if task is not None else "",
            exhausted=self.spending.exhausted(task, short) if task is not None and short else None,
        )

    def _limit(self, task: AgentTask) -> str:
        """Return the limit that keeps a task waiting, as a clause for people; empty if none does."""
        limited, source = self._schedule.limited.get(task.name), task.spec.source
        if limited is None or self._limits is None:
            return ""
        if limited is Limited.GLOBAL:
            most, where = self._limits.global_, "(`limits.global`)"
        else:
            most = self._limits.of(source.host, source.repository)
            where = f"in {source.repository} (`limits.per_repository`)"
        return f"at most {most} {'task runs' if most == 1 else 'tasks run'} at a time {where}"

    def awaits_first_decision(self, name: str) -> bool:
        """Whether the task is new and no pass has seen it yet."""
        task = self._task(name)
        if task is None or task.status.phase is not None or task.spec.suspend:
            return False
        if name in self._granted or self.waits(name):
            return False
        own = [job for job in self._jobs.of(self._namespace) if job.owner == task.uid]
        return stage_of(task, own, self._now(), self._policy) is Stage.READY

    def waits(self, name: str) -> bool:
        """Whether the last pass gave the task a position in the queue."""
        return name in self._schedule.positions

    def reconciled(self, name: str, *, started: bool) -> None:
        """Record that the decision about a task was carried out."""
        self._positions_due.discard(name)
        if started:
            self.revoke(name)
            self.changed()

    def revoke(self, name: str) -> None:
        """Withdraw the grant of a task, so that the task does not count as running because of it."""
        self._granted.discard(name)

    async def read_kueue(self) -> None:
        """Read, in one request, why Kueue has not admitted the Jobs that wait."""
        waiting = {job.uid for job in self._jobs.of(self._namespace) if job.waiting and job.queue}
        stored = self.kueue_messages
        for uid in stored.keys() - waiting:
            del stored[uid]
        if not waiting:
            return
        try:
            workloads = await self._cluster.list_workloads()
        except ApiError as error:
            if error.status != 404:
                _logger.warning("Kueue's workloads cannot be read: %s", error)
                return
            messages = dict.fromkeys(waiting, KUEUE_NOT_INSTALLED)
        else:
            messages = {
                workload_job_uid(workload): text
                for workload in workloads
                if (text := workload_waits_for(workload)) is not None
            }
        new = [(uid, text) for uid, text in messages.items() if uid in waiting and stored.get(uid) != text]
        # A limit, because messages about quota change with everything that starts anywhere in the cluster.
        stored.update(new[:_KUEUE_MESSAGES_AT_A_TIME])

    def _task(self, name: str) -> AgentTask | None:
        return self._tasks.get((self._namespace, name))

    def _queue(self, name: str) -> None:
        self._controller.queue.add(NamespacedName(self._namespace, name))

    async def _schedule_once(self) -> float:
        clock = asyncio.get_running_loop().time
        with suppress(TimeoutError):
            async with asyncio.timeout(self.spending.next_period):
                await self._changed.wait()
        self._changed.clear()
        began = clock()
        try:
            self._pass()
        except Exception:
            self._changed.set()  # nothing else may happen that asks for the pass again
            raise
        # Passes take longer with more tasks; the pause keeps their share of the CPU the same.
        return (clock() - began) / _PASS_SHARE

    def _pass(self) -> None:
        before = self._schedule
        limit = UNLIMITED if self._limits is None else self._limits.global_
        candidates = self._candidates()
        demands = {
            candidate.name: candidate.demand
            for candidate in candidates
            if candidate.stage is not Stage.READY and candidate.demand
        }
        unspent = self.spending.unspent(self._tasks.of(self._namespace), demands)
        self._schedule = fair_schedule(candidates, limit, self._now(), aging=_AGING_S, unspent=unspent)
        for repository, budget, spent, reserved in self.spending.shares(unspent, self._schedule.left):
            metrics.show_budget(self._namespace, repository, budget, spent=spent, reserved=reserved)
        # A granted task counts as running until its Job was seen or surely refused; no answer is no refusal.
        self._granted.update(self._schedule.start)
        for name in self._schedule.start:
            self._queue(name)
        for name in self._schedule.positions:
            task = self._task(name)
            moved = before.after.get(name) != self._schedule.after.get(name) or (
                before.short.get(name) != self._schedule.short.get(name)
            )
            if task is not None and (task.status.phase is None or moved):
                self._queue(name)

    def _candidates(self) -> list[Candidate]:
        now = self._now()
        jobs: dict[str, list[Job]] = {}
        for job in self._jobs.of(self._namespace):
            jobs.setdefault(job.owner or "", []).append(job)
        self._granted = {name for name in self._granted if self._task(name) is not None}
        candidates: list[Candidate] = []
        ready: dict[str, tuple[AgentTask, Candidate]] = {}
        for task in self._tasks.of(self._namespace):
            own = jobs.pop(task.uid, ())
            last_ready = self._ready.get(task.name)
            # The mere passing of time does not change a ready task.
            unchanged = last_ready is not None and last_ready[0] is task and not own and not self._held(task)
            candidate = last_ready[1] if last_ready and unchanged else self._candidate(task, own, now)
            if candidate.stage is not Stage.ENDED:
                candidates.append(candidate)
            else:
                # The cache still has it, but no candidate shows any more that the item has had a task.
                self.ended(task)
            if candidate.stage is Stage.READY and not own:
                ready[task.name] = task, candidate
        self._ready = ready
        items = {candidate.name: candidate.item for candidate in candidates}
        # A watch can show that a task is gone before we have the answer to the request that ended it.
        for name in self._items.keys() - items.keys():
            self._remember(self._items[name])
        self._items = items
        candidates = self._with_unread(candidates)
        for orphan in orphans_of(
            [job for left in jobs.values() for job in left],
            self._pods.running,
            known={job.uid for job in self._jobs.of(self._namespace)},
            open_attempts={
                attempt.job
                for task in self._tasks.of(self._namespace)
                for attempt in task.status.attempts
                if attempt.outcome is None
            },
        ):
            budgets, demand = self.spending.share_of_orphan(orphan.repository, orphan.allowance)
            candidates.append(
                Candidate(
                    name=orphan.name,
                    item=orphan.item,
                    repository=orphan.repository,
                    created=orphan.created,
                    stage=Stage.ACTIVE,
                    budgets=budgets,
                    demand=demand,
                )
            )
        return candidates

    def _with_unread(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates, and mark those that may not start before somebody has read their item.

        A receiver creates run 1 without reading, so the item may have another run that answers the label.
        The item's only task starts at once.
        """
        runs = Counter(candidate.item for candidate in candidates)
        return [
            replace(candidate, unread=True)
            if (task := self._task(candidate.name)) is not None
            and task.spec.trigger.by_label
            and answered_by(task) is None
            and (runs[candidate.item] > 1 or candidate.item in self._ended)
            else candidate
            for candidate in candidates
        ]

    def _held(self, task: AgentTask) -> bool:
        """Whether the task was granted its start, or was refused and is tried again later."""
        key = NamespacedName(self._namespace, task.name)
        return task.name in self._granted or self._controller.retries_later(key)

    def _candidate(self, task: AgentTask, own: Sequence[Job], now: datetime) -> Candidate:
        stage = stage_of(task, own, now, self._policy)
        if task.name in self._granted:
            stage = Stage.ACTIVE
        elif stage is Stage.READY and self._held(task):
            stage = Stage.BACKOFF  # another task may start meanwhile
        source = task.spec.source
        starts = task.name in self._granted or stage is Stage.READY
        budgets, demand = self.spending.share(task, own, starts=starts)
        return Candidate(
            name=task.name,
            item=task.item_hash,
            repository=task.repository_hash,
            created=task.metadata.created,
            stage=stage,
            repository_limit=self._limits.of(source.host, source.repository) if self._limits else UNLIMITED,
            run=task.spec.run,
            priority=task.spec.priority,
            budgets=budgets,
            demand=demand,
        )

    async def _show_positions(self) -> float:
        """Update the metrics of phases, and queue the first tasks whose position has moved."""
        await asyncio.sleep(self._position_interval)
        tasks = self._tasks.of(self._namespace)
        metrics.show_phases(self._namespace, Counter(task.status.phase or Phase.QUEUED for task in tasks))
        starting = (task for task in tasks if task.status.phase is Phase.STARTING)
        metrics.show_reasons(self._namespace, Counter(task.status.reason or "" for task in starting))
        moved = []
        for name, position in self._schedule.positions.items():
            task = self._task(name)
            if task is not None and task.status.queue_position != coarse(position):
                moved.append((position, name))
        for _, name in sorted(moved)[:_POSITIONS_AT_A_TIME]:
            self._positions_due.add(name)
            self._queue(name)
        return 0.0
