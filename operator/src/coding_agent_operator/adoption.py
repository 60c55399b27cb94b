"""Completes tasks that a person or a GitOps tool wrote, and tasks that lost their labels by hand.

The receiver's tasks are complete and labeled. All others lack the label that the operator watches, so a
second watch finds them.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from coding_agent_core.admission import latest_of, runs_of
from coding_agent_core.agenttask import LABEL_ACTIVE, LABEL_ITEM, Event, completion, labels_for, parse_spec
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError, Body
from coding_agent_core.settings.attempts import Consumer
from coding_agent_core.text import first_problem
from pydantic import ValidationError

_logger = logging.getLogger("operator.adoption")
_UNLABELED = f"{LABEL_ACTIVE}!=true"
_NOT_ENDED = ",".join(f"status.phase!={phase}" for phase in ("Succeeded", "Failed", "Cancelled"))
_RETRY_S = 5.0


class Adoption:
    """Adopts the tasks of one namespace.

    Args:
        defaults: limits of tasks that name none.
        interval: seconds between two lists.
    """

    def __init__(self, tasks: AgentTasks, defaults: Consumer, interval: float) -> None:
        self._tasks = tasks
        self._defaults = defaults
        self._interval = interval
        self._refused: set[str] = set()

    async def run(self) -> None:
        """Adopt what is there and what comes, until cancelled."""
        while True:
            try:
                bodies, version = await self._tasks.list(_UNLABELED, _NOT_ENDED)
                for body in bodies:
                    await self.adopt(body)
                async for change in self._tasks.watch(_UNLABELED, _NOT_ENDED, version, int(self._interval)):
                    if change["type"] in ("ADDED", "MODIFIED"):
                        await self.adopt(change["object"])
            except ApiError as error:
                _logger.warning("Tasks without labels cannot be adopted: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def adopt(self, body: Body) -> None:
        """Fill in what the task lacks, its labels too.

        Raises:
            ApiError: the API server did not answer.
        """
        name, uid = body["metadata"]["name"], body["metadata"]["uid"]
        try:
            item = parse_spec(body).item
            others = [
                each
                for each in await self._tasks.runs(labels_for(item)[LABEL_ITEM])
                if each["metadata"]["uid"] != uid
            ]
            latest = latest_of(runs_of(item, others))
            patch = completion(
                body,
                run=latest.run + 1 if latest else 1,
                timeout_seconds=self._defaults.timeout_seconds,
                max_attempts=self._defaults.max_attempts,
            )
        except ValueError as error:
            await self._refuse(
                name, uid, first_problem(error) if isinstance(error, ValidationError) else str(error)
            )
            return
        # One that others change at this moment is listed or watched again.
        if patch is not None and await self._tasks.patch(body, patch) is not None:
            _logger.info("Adopted task %s", name)

    async def _refuse(self, name: str, uid: str, why: str) -> None:
        _logger.warning("AgentTask %s cannot be read: %s", name, why)
        if uid not in self._refused:
            self._refused.add(uid)
            event = Event("Warning", "InvalidSpec", f"The spec cannot be used: {why}")
            await self._tasks.emit(event, name=name, uid=uid, now=datetime.now(UTC))
