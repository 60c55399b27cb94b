"""The regular look at the whole: after the start and ever again, whatever the watch has shown."""

from __future__ import annotations

import asyncio
import logging

from coding_agent_core.kubernetes.transport import ApiError

from coding_agent_operator.reporter.engine import Engine
from coding_agent_operator.reporter.metrics import WATCH_BEHIND
from coding_agent_operator.reporter.names import WATCHED
from coding_agent_operator.store import Missed

_logger = logging.getLogger("reporter.resync")

_RETRY_S = 1.0


class Resync:
    """Lists what is to be shown, notices a dead watch."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._missed: set[Missed] = set()
        self.watch_alive = True
        """False once a version was in the API for a whole interval and no watch has shown it."""

    async def forever(self) -> None:
        """Look now, and again at every interval; sooner while the API server does not answer."""
        interval = self._engine.settings.resync_interval
        while True:
            try:
                await self.once()
            except ApiError as error:
                _logger.warning("The cluster cannot be looked at: %s", error)
                if error.status == 401:
                    await self._engine.tasks.renew()
                await asyncio.sleep(min(_RETRY_S, interval))
            else:
                await asyncio.sleep(interval)

    async def once(self) -> None:
        """One look.

        Raises:
            ApiError: the API server did not answer.
        """
        engine = self._engine
        bodies, version = await engine.tasks.list(WATCHED)
        behind = engine.seen.still_missed(self._missed)
        first = not engine.synced.is_set()
        self._missed = engine.take(bodies, version)
        WATCH_BEHIND.set(len(behind))
        if behind and self.watch_alive:
            _logger.error("The watch is dead: %d tasks have versions that it never showed", len(behind))
        self.watch_alive = not behind
        if first:
            _logger.info("%d tasks are active or not shown yet", len(engine.seen))
