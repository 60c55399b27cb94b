"""The regular looks at the whole: after the start and ever again, whatever the watches have shown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from coding_agent_core.agenttask import LABEL_ACTIVE, LABEL_REPORTED, Event
from coding_agent_core.kubernetes.transport import ApiError

from coding_agent_operator.cluster import Cluster
from coding_agent_operator.engine import Engine
from coding_agent_operator.metrics import WATCH_BEHIND
from coding_agent_operator.observed import ACTIVE, Task, UnreadableTaskError, read_task
from coding_agent_operator.schedule import NOT_INSTALLED, job_uid, waits_for
from coding_agent_operator.store import Missed

_logger = logging.getLogger("operator.resync")

_INACTIVE = f"{LABEL_ACTIVE}!=true"
_NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Cancelled"
_PAGE = 200
_RETRY_S = 1.0
_UNREPORTED = timedelta(days=1)
_WORDS_AT_A_TIME = 100
"""So many tasks get new words from Kueue in one look, so that a long queue makes no storm of writes."""


class Resync:
    """Lists what is active, events a dead watch."""

    def __init__(self, engine: Engine, cluster: Cluster) -> None:
        self._engine = engine
        self._cluster = cluster
        self._missed_tasks: set[Missed] = set()
        self._missed_jobs: set[Missed] = set()
        self._orphans: set[str] = set()
        self.watch_alive = True
        """False once a version was in the API for a whole interval and no watch has shown it."""

    async def forever(self) -> None:
        """Look now, and again at every interval; sooner while the API server does not answer."""
        interval = self._engine.settings.operator.resync_interval
        while True:
            try:
                await self.once()
            except ApiError as error:
                _logger.warning("The cluster cannot be looked at: %s", error)
                await asyncio.sleep(min(_RETRY_S, interval))
            else:
                await asyncio.sleep(interval)

    async def once(self) -> None:
        """One look.

        Raises:
            ApiError: the API server did not answer.
        """
        engine = self._engine
        tasks, task_version = await self._cluster.tasks.list(ACTIVE)
        jobs, job_version = await self._cluster.list_jobs(ACTIVE)
        behind = engine.tasks.still_missed(self._missed_tasks) | engine.jobs.still_missed(self._missed_jobs)
        _, self._missed_tasks = engine.tasks.replace(tasks, task_version)
        _, self._missed_jobs = engine.jobs.replace(jobs, job_version)
        WATCH_BEHIND.set(len(behind))
        if behind and self.watch_alive:
            _logger.error("A watch is dead: %d objects have versions that it never showed", len(behind))
        self.watch_alive = not behind
        if not engine.synced.is_set():
            _logger.info("%d tasks and %d Jobs are active", len(engine.tasks), len(engine.jobs))
            engine.synced.set()
        if engine.settings.kueue:
            await self._listen_to_kueue()
        engine.touch_all()
        await self._warn_of_orphans()

    async def _listen_to_kueue(self) -> None:
        """Ask once for all what the Jobs that Kueue has not admitted wait for."""
        waiting = {job.uid for job in self._engine.jobs if job.waiting and job.queue}
        known = self._engine.waits
        for uid in known.keys() - waiting:
            del known[uid]
        if not waiting:
            return
        news = {uid: words for uid, words in (await self._words()).items() if known.get(uid) != words}
        known.update([pair for pair in news.items() if pair[0] in waiting][:_WORDS_AT_A_TIME])

    async def _words(self) -> dict[str, str]:
        try:
            workloads = await self._cluster.list_workloads()
        except ApiError as error:
            if error.status == 404:
                return dict.fromkeys((job.uid for job in self._engine.jobs), NOT_INSTALLED)
            _logger.warning("Kueue's workloads cannot be read: %s", error)
            return {}
        return {job_uid(each): words for each in workloads if (words := waits_for(each)) is not None}

    async def _warn_of_orphans(self) -> None:
        """Jobs of ours without a task are left alone; a person is told."""
        uids = {task.uid for task in self._engine.tasks}
        for job in self._engine.jobs:
            if job.owner in uids or job.deleting or job.uid in self._orphans:
                continue
            if job.task is not None and await self._cluster.tasks.get(job.task) is not None:
                self._engine.touch(job.task)  # one that has ended lets no Job run on
                continue
            self._orphans.add(job.uid)
            event = Event(
                "Warning",
                "OrphanedJob",
                "No AgentTask owns this Job; it is left alone. Delete it if nobody needs it.",
            )
            _logger.warning("Job %s has no task; it is left alone", job.name)
            await self._cluster.tasks.emit(
                event, kind="Job", name=job.name, uid=job.uid, now=self._engine.clock()
            )


class Sweep:
    """The rare looks at what is not active: adopts what lost its label, deletes what ended long ago.

    The server goes through every task that ever ran for it (10,000: some two seconds), so it is done rarely.
    """

    def __init__(
        self, cluster: Cluster, *, keep: float, interval: float, now: Callable[[], datetime]
    ) -> None:
        self._cluster = cluster
        self._keep = timedelta(seconds=keep)
        self._interval = interval
        self._now = now

    async def forever(self) -> None:
        """Sweep at every interval."""
        while True:
            try:
                await self.adopt()
                deleted = await self.once()
                if deleted:
                    _logger.info("Deleted %d tasks that ended more than %s ago", deleted, self._keep)
            except ApiError as error:
                _logger.warning("Ended tasks could not be swept: %s", error)
            await asyncio.sleep(self._interval)

    async def adopt(self) -> None:
        """Label tasks that have not ended and lack the label: made by hand, or edited by hand.

        Raises:
            ApiError: the API server did not answer.
        """
        bodies, _ = await self._cluster.tasks.list(_INACTIVE, _NOT_ENDED)
        for body in bodies:
            try:
                task = read_task(body)
            except UnreadableTaskError as error:
                _logger.warning("%s", error)
                continue
            # One whose conditions say that it has ended is adopted too: its phase is wrong and is put right.
            labelled = await self._cluster.tasks.set_labels(task.name, task.uid, task.missing_labels)
            if labelled is not None:
                _logger.info("Adopted task %s, which lacked the label %s", task.name, LABEL_ACTIVE)

    async def once(self) -> int:
        """Delete what is due; how many.

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

    One whose end is not on its issue yet stays a day longer: the forge may be away, and nobody else knows.
    """
    status = task.status
    succeeded = status.condition("Succeeded")
    ended = status.completion_time or (succeeded.last_transition_time if succeeded else None)
    keep = keep if task.labels.get(LABEL_REPORTED) == "true" else keep + _UNREPORTED
    return task.ended and ended is not None and ended + keep <= now
