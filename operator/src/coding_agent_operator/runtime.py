"""Everything that runs beside kopf's watches, started and ended together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from datetime import UTC, datetime

from aiohttp.web import AppRunner

from coding_agent_operator import http
from coding_agent_operator.cluster import connect
from coding_agent_operator.engine import Engine
from coding_agent_operator.lease import Lease, identity
from coding_agent_operator.resync import Resync, Sweep
from coding_agent_operator.settings import OperatorSettings

_logger = logging.getLogger("operator.runtime")
_DRAIN_S = 5.0


class Runtime:
    """A running operator; `start` makes it."""

    def __init__(self, engine: Engine, lease: Lease, resync: Resync, sweep: Sweep) -> None:
        self.engine = engine
        self._lease = lease
        self._resync = resync
        self._sweep = sweep
        self._server: AppRunner | None = None
        self._work: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, settings: OperatorSettings) -> Runtime:
        """Connect, serve the probes, and begin to work."""
        operator = settings.operator
        # The fence of the Lease leaves a third of it for requests that are under way.
        timeout = min(operator.request_timeout, operator.lease_duration / 3)
        cluster = await connect(settings.namespace, timeout)
        lease = Lease(cluster, identity(os.environ), operator.lease_duration)
        cluster.may_write = lease.held
        engine = Engine(cluster, settings)
        sweep = Sweep(
            cluster,
            keep=operator.policy.keep_finished,
            interval=operator.sweep_interval,
            now=lambda: datetime.now(UTC),
        )
        runtime = cls(engine, lease, Resync(engine, cluster), sweep)
        runtime._server = await http.serve(
            operator.http_host, operator.http_port, alive=runtime._alive, ready=runtime._ready
        )
        runtime._work = asyncio.create_task(runtime._run())
        runtime._work.add_done_callback(_end_with_it)
        return runtime

    async def stop(self) -> None:
        """End the work; what was not done is done after the next start."""
        if self._work is not None:
            self._work.remove_done_callback(_end_with_it)
            drained = await self._drained()
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
            if drained:
                await self._lease.release()
        if self._server is not None:
            await self._server.cleanup()
        await self.engine.cluster.aclose()

    async def _run(self) -> None:
        await self._lease.acquire()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep())
            group.create_task(self.engine.run())
            group.create_task(self._resync.forever())
            group.create_task(self._sweep.forever())

    async def _drained(self) -> bool:
        """Whether no request is under way any more: only then may the next operator begin at once."""
        try:
            async with asyncio.timeout(_DRAIN_S):
                await self.engine.queue.drain()
        except TimeoutError:
            return False
        return True

    def _alive(self) -> str | None:
        return None if self._resync.watch_alive else "a watch is dead"

    def _ready(self) -> str | None:
        if not self._lease.looked:
            return "the Lease was not read yet"
        # One that waits for its turn is as it should be: a rolling update waits for it to be ready.
        waits = not self._lease.held()
        return None if waits or self.engine.synced.is_set() else "the cluster was not listed yet"


def _end_with_it(work: asyncio.Task[None]) -> None:
    """An operator that watches and does nothing is worse than one that starts again."""
    error = None if work.cancelled() else work.exception()
    _logger.critical("The operator cannot go on and ends", exc_info=error)
    os.kill(os.getpid(), signal.SIGTERM)
