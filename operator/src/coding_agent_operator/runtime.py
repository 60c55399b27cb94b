"""Everything that runs beside kopf's watches of one namespace, started and ended together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from aiohttp.web import AppRunner
from coding_agent_core.errors import SettingsError
from coding_agent_core.kubernetes.transport import ApiServer

from coding_agent_operator import http
from coding_agent_operator.cluster import connect
from coding_agent_operator.engine import Engine
from coding_agent_operator.place import Place
from coding_agent_operator.settings import OperatorSettings

_logger = logging.getLogger("operator.runtime")


class Runtime:
    """A running operator; `start` makes it."""

    def __init__(self, server: ApiServer, place: Place) -> None:
        self._api = server
        self._place = place
        self._server: AppRunner | None = None
        self._work: asyncio.Task[None] | None = None

    @property
    def engine(self) -> Engine:
        """What the watches feed."""
        return self._place.engine

    @classmethod
    async def start(cls, settings: OperatorSettings) -> Runtime:
        """Connect, serve the probes, and begin to work.

        Raises:
            SettingsError: this process has no way to a cluster, or is to serve several namespaces.
        """
        operator = settings.operator
        if operator.namespaces:
            raise SettingsError(
                "operator.namespaces: `kopf run` serves one namespace; start the operator with "
                "`main.py --mode operator`, or leave the setting out"
            )
        server = await connect(operator.request_limit)
        runtime = cls(server, Place(server, settings.namespace, settings))
        runtime._server = await http.serve(
            operator.http_host, operator.http_port, alive=runtime._alive, ready=runtime._ready
        )
        runtime._work = asyncio.create_task(runtime._place.run())
        runtime._work.add_done_callback(_end_with_it)
        return runtime

    async def stop(self) -> None:
        """End the work; what was not done is done after the next start."""
        if self._work is not None:
            self._work.remove_done_callback(_end_with_it)
            await self._place.stop(self._work)
        if self._server is not None:
            await self._server.cleanup()
        await self._api.aclose()

    def _alive(self) -> str | None:
        return None if self._place.resync.watch_alive else "a watch is dead"

    def _ready(self) -> str | None:
        lease = self._place.lease
        if not lease.looked:
            return "the Lease was not read yet"
        # One that waits for its turn is as it should be: a rolling update waits for it to be ready.
        waits = not lease.held()
        return None if waits or self.engine.synced.is_set() else "the cluster was not listed yet"


def _end_with_it(work: asyncio.Task[None]) -> None:
    """An operator that watches and does nothing is worse than one that starts again."""
    error = None if work.cancelled() else work.exception()
    _logger.critical("The operator cannot go on and ends", exc_info=error)
    os.kill(os.getpid(), signal.SIGTERM)
