"""Checks that this consumer still has a task, before the task's attempt starts and before each report.

A broker gives the task of a consumer that it cannot reach to another one, and the first consumer learns of
this late (docs/decisions/0005).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from coding_agent_core.queues.interfaces import Claim
from coding_agent_core.reporting.comment import State
from coding_agent_core.runtime.retry import Clock, first_of

from coding_agent_consumer.item.forge_tasks import ForgeTask, remembered

_HURRY = 1.0
"""Seconds that a consumer that must end waits for a broker that is away."""


class TaskStoppedError(Exception):
    """The consumer is shutting down, or the queue gave the task to another consumer: report nothing more."""


class OutdatedError(Exception):
    """Another consumer has changed the item since it was decided that an attempt starts."""


@dataclass(frozen=True)
class ClaimChecks:
    """Checks a claim before its attempt starts and before each report.

    Attributes:
        shutdown: set when the consumer must end.
    """

    shutdown: asyncio.Event
    clock: Clock

    async def require_start(self, claim: Claim, task: ForgeTask, seen: State | None) -> None:
        """Return if the attempt may start: this consumer holds the item, and the decision still applies.

        Args:
            seen: the comment's state from which it was decided that the attempt starts.

        Raises:
            ForgeError: the comment cannot be read.
            OutdatedError: another consumer has reported since.
            TaskStoppedError: another consumer may have the task. No work has begun, so it can have it.
        """
        if not await self._holds_item(claim):
            claim.lost.set()
            raise TaskStoppedError
        # The second state is our own, if the forge accepted the comment and then failed.
        if _progress_of(await remembered(task.forge, task.item)) not in (
            _progress_of(seen),
            _progress_of(task.state),
        ):
            raise OutdatedError

    async def require_ours(self, claim: Claim, task: ForgeTask) -> None:
        """Return if this consumer's next report replaces nothing newer in the comment.

        1. This consumer loses its connection, and with it the item's lock. It may not know it yet.
        2. Another consumer gets the message and the lock, and starts the next attempt, or reports the end.
        3. This consumer reports.

        Raises:
            ForgeError: the comment cannot be read.
            TaskStoppedError: another consumer has or had the task.
        """
        if not claim.lost.is_set():
            await self._holds_item(claim)
            shown, ours = await remembered(task.forge, task.item), task.state
            if shown is not None and (shown.run, shown.attempt, shown.phase.terminal) > (
                ours.run,
                ours.attempt,
                ours.phase.terminal,
            ):
                claim.lost.set()
        if claim.lost.is_set():
            raise TaskStoppedError

    async def _holds_item(self, claim: Claim) -> bool:
        """Whether the claim still holds its item; stop waiting for the broker when the consumer must end."""

        async def hurry() -> None:
            await self.shutdown.wait()
            await self.clock.sleep(_HURRY)

        asked = asyncio.ensure_future(claim.holds_item())
        try:
            await first_of(asyncio.wait({asked}), hurry())
            return asked.done() and asked.result()
        finally:
            asked.cancel()


def _progress_of(state: State | None) -> tuple[object, ...]:
    """Return the fields of a state that differ between one report of a task and the next."""
    return () if state is None else (state.uuid, state.run, state.attempt, state.phase)
