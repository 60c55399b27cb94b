"""Operator and reporter of one machine: the controllers of Kubernetes over a file and processes."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from coding_agent_core.errors import SettingsError
from coding_agent_core.kubernetes.task_sink import StoreSink
from coding_agent_core.runtime.background import forever
from coding_agent_core.settings.model import Engine, Settings
from coding_agent_core.task.agenttask import NOT_ENDED, UNREPORTED, AgentTask
from coding_agent_core.task.task_store import TaskStore
from coding_agent_core.task_file.objects import ObjectFile, only_process
from coding_agent_core.task_file.tasks import FileTasks, file_of
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.pacing import Paced

from coding_agent_operator.cluster.controller import Controller, NamespacedName, ObjectCache, Requeue
from coding_agent_operator.cluster.observed import ACTIVE, DEFAULTED, Job
from coding_agent_operator.namespace import NamespaceController, observe
from coding_agent_operator.one_machine.attempts import ProcessAttempts
from coding_agent_operator.one_machine.builder import ProcessBuilder
from coding_agent_operator.one_machine.processes import Processes
from coding_agent_operator.reporter.reporter_program import ReporterController, connect_forges

_logger = logging.getLogger("operator.one_machine")

_WORKERS = 4
_WATCH_S = 300
_RETRY_S = 1.0


class SoleProcess:
    """The `Leadership` of the process that has locked the file: it leads until it ends."""

    was_read = True

    def held(self) -> bool:
        return True

    async def acquire(self) -> None:
        """Return at once: the file was locked before."""

    async def keep(self) -> None:
        await asyncio.Event().wait()

    async def release(self) -> None:
        """Do nothing: the kernel releases the lock of the file."""


def on_one_machine(settings: Settings) -> Settings:
    """Return the settings as they count on one machine: attempts share its cores, and there are no pods.

    Raises:
        SettingsError: a setting needs a cluster.
    """
    if settings.queue.engine is Engine.KUEUE:
        raise SettingsError(
            "queue.engine: kueue schedules the Jobs of a Kubernetes cluster, and one machine has none: "
            "set queue.backend to kubernetes, or remove queue.engine"
        )
    changes: dict[str, Any] = {"verify": settings.verify.model_copy(update={"evidence": False})}
    if "check_interval" not in settings.development.model_fields_set:
        # Often there is no webhook, and few tasks work at a time. So a removed label is noticed as soon as by
        # a consumer.
        interval = {"check_interval": settings.development.cancel_check_interval}
        changes["development"] = settings.development.model_copy(update=interval)
    if "global_" not in settings.limits.model_fields_set:
        limits = {"global_": settings.consumer.concurrency}
        changes["limits"] = settings.limits.model_copy(update=limits)
    return settings.model_copy(update=changes)


class OneMachine:
    """The operator and the reporter over one file of tasks, for one event loop.

    Attributes:
        sink: takes new tasks, withdrawals and commands.
        hosts: the hosts whose items the machine works on.

    Example:
        async with OneMachine.opened(settings, [sys.executable, "main.py", "--mode", "attempt"]) as machine:
            await asyncio.gather(machine.run(stop), serve(settings, machine.sink, stop=stop))
    """

    def __init__(
        self,
        settings: Settings,
        objects: ObjectFile,
        command: Sequence[str],
        forges: Mapping[str, tuple[Forge, Paced]],
    ) -> None:
        self.hosts = sorted(forges)
        now: Callable[[], datetime] = lambda: datetime.now(UTC)  # noqa: E731
        self.tasks = FileTasks(objects)

        async def connect() -> TaskStore:
            return self.tasks

        self.sink = StoreSink(connect, settings.consumer, total_timeout=settings.development.webhook_timeout)
        folder = file_of(settings).parent / "attempts"
        processes = Processes(folder, command, Path(tempfile.gettempdir()))
        self._attempts = ProcessAttempts(objects, self.tasks, processes, now)
        self._cached_tasks: ObjectCache[AgentTask] = ObjectCache(AgentTask.compact)
        self._cached_jobs: ObjectCache[Job] = ObjectCache()
        self._controller = Controller(self._reconcile, workers=_WORKERS, on_error=self._failed)
        self._operator = NamespaceController(
            self._attempts,
            SoleProcess(),
            ProcessBuilder(settings),
            settings,
            tasks=self._cached_tasks,
            jobs=self._cached_jobs,
            controller=self._controller,
            behind=lambda _: None,
        )
        self._reporter = ReporterController(self.tasks, self.sink, forges, settings)

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings, command: Sequence[str]) -> AsyncIterator[Self]:
        """Open the file of the tasks and connect to the forges.

        Args:
            command: starts an attempt.

        Raises:
            CodingAgentError: another process works on the same tasks.
            SettingsError: the file cannot be used, or no forge has a token.
        """
        settings, path = on_one_machine(settings), file_of(settings)
        with only_process(path):
            forges = connect_forges(settings)
            objects = ObjectFile(path)
            try:
                yield cls(settings, objects, command, forges)
            finally:
                for forge, _ in forges.values():
                    await forge.aclose()
                objects.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Attempts that run then go on, and the next process finds them."""
        async with asyncio.TaskGroup() as group:
            work = [
                group.create_task(one)
                for one in (
                    self._attempts.run(),
                    self._controller.run(),
                    self._operator.run(lambda: None),
                    self._reporter.run(),
                    self._watch_tasks(),
                    self._watch_jobs(),
                    self._watch_unreported(),
                )
            ]
            await stop.wait()
            # The next process may start at once, and it would not find a comment that is being stored.
            await self._reporter.ended()
            for task in work:
                task.cancel()

    async def done(self) -> None:
        """Wait until every task has ended and its item shows it."""
        await self._reporter.scanned()
        tasks, version = await self.tasks.list(UNREPORTED)
        while tasks:
            async with aclosing(self.tasks.watch("", "", version, _WATCH_S)) as changes:
                await anext(changes, None)
            tasks, version = await self.tasks.list(UNREPORTED)

    async def _watch_tasks(self) -> None:
        await self._watch(
            lambda version: self.tasks.watch(DEFAULTED, NOT_ENDED, version, _WATCH_S), self._seen
        )

    async def _watch_jobs(self) -> None:
        await self._watch(lambda version: self._attempts.watch_jobs(ACTIVE, version, _WATCH_S), self._seen)

    async def _watch_unreported(self) -> None:
        await self._watch(
            lambda version: self.tasks.watch(UNREPORTED, "", version, _WATCH_S), self._reporter.observe
        )

    async def _watch(
        self,
        events: Callable[[int], AsyncIterator[tuple[str, Any]]],
        seen: Callable[[str, Any], None],
    ) -> None:
        """Watch all changes from the beginning on, until cancelled."""
        version = 0

        async def once() -> float:
            nonlocal version
            async for kind, stored in events(version):
                version = int(stored.version)
                seen(kind, stored)
            return 0.0

        await forever("watch", once)

    def _seen(self, kind: str, stored: AgentTask | Job) -> None:
        if observe(self._cached_tasks, self._cached_jobs, self._controller.queue, kind, stored):
            self._operator.scheduler.changed()

    async def _reconcile(self, key: NamespacedName) -> Requeue:
        return await self._operator.reconcile(key.name)

    async def _failed(self, key: NamespacedName, error: Exception) -> None:
        await self._operator.failed(key.name, error)
