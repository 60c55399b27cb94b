"""Everything that runs beside kopf's watch, started and ended together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from aiohttp.web import AppRunner
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access, ApiServer
from coding_agent_core.settings import Settings

from coding_agent_operator import http
from coding_agent_operator.reporter.engine import Engine
from coding_agent_operator.reporter.forges import connect_paced
from coding_agent_operator.reporter.metrics import count_request
from coding_agent_operator.reporter.names import MANAGER, ROLE
from coding_agent_operator.reporter.resync import Resync
from coding_agent_operator.settings import OperatorSettings

_logger = logging.getLogger("reporter.runtime")


class Runtime:
    """A running reporter; `start` makes it."""

    def __init__(self, engine: Engine, resync: Resync) -> None:
        self.engine = engine
        self._resync = resync
        self._closing: list[object] = []
        self._server: AppRunner | None = None
        self._work: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, settings: Settings) -> Runtime:
        """Connect, serve the probes, and begin to work.

        Raises:
            SettingsError: no forge or no cluster can be used.
        """
        reporter = settings.reporter
        namespace = OperatorSettings.of(settings).namespace
        forges = connect_paced(settings)
        server = await ApiServer.connect(
            Access.find(), reporter.request_timeout, role=ROLE, on_answer=count_request
        )
        tasks = AgentTasks(server, namespace, MANAGER)
        sink = KubernetesSink(Access.find(), namespace, settings.consumer)
        engine = Engine(tasks, sink, forges, settings)
        runtime = cls(engine, Resync(engine))
        runtime._closing = [sink, tasks, *(forge for forge, _ in forges.values())]
        runtime._server = await http.serve(
            reporter.http_host, reporter.http_port, alive=runtime._alive, ready=runtime._ready
        )
        _logger.info("Reporting to %s", ", ".join(sorted(forges)))
        runtime._work = asyncio.create_task(runtime._run())
        runtime._work.add_done_callback(_end_with_it)
        return runtime

    async def stop(self) -> None:
        """End the work; what was not done is done after the next start."""
        if self._work is not None:
            self._work.remove_done_callback(_end_with_it)
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        if self._server is not None:
            await self._server.cleanup()
        for each in self._closing:
            await each.aclose()  # type: ignore[attr-defined]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.engine.run())
            group.create_task(self._resync.forever())

    def _alive(self) -> str | None:
        return None if self._resync.watch_alive else "the watch is dead"

    def _ready(self) -> str | None:
        return None if self.engine.synced.is_set() else "the cluster was not listed yet"


def _end_with_it(work: asyncio.Task[None]) -> None:
    """A reporter that watches and does nothing is worse than one that starts again."""
    error = None if work.cancelled() else work.exception()
    _logger.critical("The reporter cannot go on and ends", exc_info=error)
    os.kill(os.getpid(), signal.SIGTERM)
