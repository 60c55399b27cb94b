"""Time limits for the steps of an attempt, and the events that end a step early."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from coding_agent_core.runtime.retry import Clock, Deadline, pause_until, run_until, while_unavailable

_logger = logging.getLogger("coding_agent.attempt")

_T = TypeVar("_T")
_LONGEST_PAUSE = 30.0
"""The most seconds between two tries to push finished work."""


@dataclass(frozen=True)
class AttemptTime:
    """The time of one attempt.

    Attributes:
        deadline: when the agent must have finished.
        overtime: seconds after the deadline in which finished work can still be pushed.
        patience: the most seconds that each step before the work waits while the forge is down.
        stop: set to end the attempt early; work that was done is still pushed.

    example:
        details = await time.before_work(lambda: forge.read(item))
        await time.after_work(publisher.push)
    """

    deadline: Deadline
    overtime: float
    patience: float
    stop: asyncio.Event
    clock: Clock

    @property
    def hurried(self) -> bool:
        """Whether the remaining steps must be quick, because the attempt was stopped or its time is over."""
        return self.stop.is_set() or self.deadline.passed

    async def before_work(self, action: Callable[[], Awaitable[_T]]) -> _T:
        """Do a step before the work: wait while the forge is down, but give up at once when stopped.

        Raises:
            StoppedError: the attempt was stopped.
            ForgeError: the forge refused, or was down for too long.
        """
        within = min(self.deadline.left, self.patience)
        return await run_until(
            lambda: while_unavailable(action, within=within, logger=_logger, clock=self.clock), self.stop
        )

    async def after_work(self, action: Callable[[], Awaitable[_T]]) -> _T:
        """Do a step after the work: wait for a forge that is down until the overtime ends.

        The work exists nowhere else yet. Each step can be repeated safely: a push of the same commit changes
        nothing, and `open_change` returns the change that is open already.

        Raises:
            ForgeError: the forge refused, or was down for too long.
        """
        return await while_unavailable(
            action,
            within=self.deadline.left + self.overtime,
            logger=_logger,
            clock=replace(self.clock, sleep=lambda seconds: pause_until(self.stop, seconds)),
            longest_wait=_LONGEST_PAUSE,
        )
