"""One namespace: its Lease, the engine of its tasks, and the regular looks at it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.kubernetes.transport import ApiServer

from coding_agent_operator import lease
from coding_agent_operator.cluster import Cluster
from coding_agent_operator.engine import Engine
from coding_agent_operator.lease import Lease, identity
from coding_agent_operator.metrics import LEADER, WATCH_BEHIND
from coding_agent_operator.resync import Resync, Sweep
from coding_agent_operator.settings import OperatorSettings
from coding_agent_operator.watching import JOBS, TASKS, Resource

_DRAIN_S = 5.0


class Place:
    """Keeps the tasks of one namespace moving while it has the namespace's Lease."""

    def __init__(self, server: ApiServer, namespace: str, settings: OperatorSettings) -> None:
        operator = settings.operator
        self.namespace = namespace
        self._cluster = Cluster(server, namespace)
        me = identity(os.environ)
        if operator.namespaces:
            me = f"{settings.namespace}/{me}"  # names of pods are unique in their namespace alone
        self.lease = Lease(self._cluster, me, operator.lease_duration)
        self._cluster.may_write = self.lease.held
        self.engine = Engine(self._cluster, settings)
        self.resync = Resync(self.engine, self._cluster)
        self._sweep = Sweep(
            self._cluster,
            keep=operator.policy.keep_finished,
            interval=operator.sweep_interval,
            now=lambda: datetime.now(UTC),
        )
        self.acting = False
        """It has had the Lease and works."""

    def observe(self, resource: Resource, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take a watch event; `kind` is its type, `None` in the initial list."""
        take = {TASKS: self.engine.observe_task, JOBS: self.engine.observe_job}[resource]
        take(kind, body)

    async def look(self) -> None:
        """See whether it can be served.

        Raises:
            ApiError: a right is missing, or the API server does not answer.
        """
        await self._cluster.probe(lease.NAME)

    async def run(self) -> None:
        """Wait for the Lease, then work until cancelled.

        Raises:
            ExceptionGroup: the work failed; with `LeaseLostError` if another operator has taken over.
        """
        LEADER.set(0)
        WATCH_BEHIND.set(0)
        await self.lease.acquire()
        self.acting = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self.lease.keep())
            group.create_task(self.engine.run())
            group.create_task(self.resync.forever())
            group.create_task(self._sweep.forever())

    async def stop(self, *work: asyncio.Task[None]) -> None:
        """End the work, `run` among it; what was not done is done after the next start."""
        failed = any(each.done() for each in work)
        drained = await self._drained()
        await cancelled(work)
        if drained and not failed:
            await self.lease.release()

    async def _drained(self) -> bool:
        """Whether no request is under way any more: only then may the next operator begin at once."""
        try:
            async with asyncio.timeout(_DRAIN_S):
                await self.engine.queue.drain()
        except TimeoutError:
            return False
        return True


async def cancelled(work: Sequence[asyncio.Task[None]]) -> None:
    """Cancel them and wait for their ends, whatever these are."""
    for each in work:
        each.cancel()
    await asyncio.gather(*work, return_exceptions=True)
