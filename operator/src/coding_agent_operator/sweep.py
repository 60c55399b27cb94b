"""Deletes tasks that ended long ago."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from coding_agent_core.agenttask import LABEL_ACTIVE, LABEL_REPORTED
from coding_agent_core.kubernetes.transport import ApiError

from coding_agent_operator.cluster import Cluster
from coding_agent_operator.observed import Task, UnreadableTaskError, read_task

_logger = logging.getLogger("operator.sweep")

_INACTIVE = f"{LABEL_ACTIVE}!=true"
_PAGE = 200
_UNREPORTED = timedelta(days=1)


class Sweep:
    """Lists what is not active, rarely, and deletes what ended long ago.

    The server reads every task that ever ran for it (10,000: about two seconds).
    """

    def __init__(
        self, cluster: Cluster, *, keep: float, interval: float, now: Callable[[], datetime]
    ) -> None:
        self._cluster = cluster
        self._keep = timedelta(seconds=keep)
        self._interval = interval
        self._now = now

    async def run(self) -> None:
        """Sweep at every interval, until cancelled."""
        while True:
            try:
                deleted = await self.delete_expired()
                if deleted:
                    _logger.info("Deleted %d tasks that ended more than %s ago", deleted, self._keep)
            except ApiError as error:
                _logger.warning("Ended tasks could not be swept: %s", error)
            await asyncio.sleep(self._interval)

    async def delete_expired(self) -> int:
        """Delete what expired; returns how many.

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

    One whose end is not shown on its item yet stays a day longer: the forge may not answer.
    """
    status, own = task.status, task.spec.ttl_seconds_after_finished
    keep = keep if own is None else timedelta(seconds=own)
    succeeded = status.condition("Succeeded")
    ended = status.completion_time or (succeeded.last_transition_time if succeeded else None)
    keep = keep if task.labels.get(LABEL_REPORTED) == "true" else keep + _UNREPORTED
    return task.ended and ended is not None and ended + keep <= now
