"""Wait for a forge that is down: a task does not fail for that, within limits."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coding_agent_core.errors import ForgeUnavailableError

from coding_agent_consumer.backoff import delay

_T = TypeVar("_T")


Pause = Callable[[float], Awaitable[None]]
"""Waits so many seconds; raises if waiting any longer makes no sense."""


async def patiently(
    action: Callable[[], Awaitable[_T]],
    *,
    within: float,
    logger: logging.Logger,
    pause: Pause = asyncio.sleep,
    chance: random.Random | None = None,
    cap: float = 60.0,
) -> _T:
    """Do it, and retry while the forge is not available.

    Args:
        within: seconds after which the last error is raised.
        logger: logs each wait.
        pause: waits between two tries.
        chance: where the jitter comes from.
        cap: seconds of the longest wait that the forge has not asked for.

    Raises:
        ForgeError: the forge refused, or was down for longer than that.
    """
    chance = chance or random.Random()
    deadline = time.monotonic() + within
    tries = 0
    while True:
        try:
            return await action()
        except ForgeUnavailableError as error:
            tries += 1
            wait = max(error.retry_after or 0, delay(tries, first=1, cap=cap, chance=chance))
            if time.monotonic() + wait > deadline:
                raise
            logger.warning("The forge is not available, retrying in %.0f s: %s", wait, error)
            await pause(wait)
