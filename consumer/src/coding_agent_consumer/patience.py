"""Wait for a forge that is down, and run until a stop."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from coding_agent_core.errors import ForgeUnavailableError

from coding_agent_consumer.backoff import delay

_logger = logging.getLogger("coding_agent.attempt")
_T = TypeVar("_T")


class StoppedError(Exception):
    """The work was cancelled because of a stop."""


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


async def run_until(
    action: Callable[[], Awaitable[_T]],
    stop: asyncio.Event,
    *,
    grace: float = 0.0,
    timeout: float | None = None,
    cleanup: float | None = None,
) -> _T:
    """Run it; cancel it `grace` seconds after `stop` is set, or after `timeout` seconds.

    Args:
        cleanup: seconds in which cancelled work must have ended; after them it is left to itself.

    Raises:
        StoppedError: it was cancelled because of the stop.
        TimeoutError: it was cancelled because of the timeout.
    """
    work = asyncio.ensure_future(action())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and stop.is_set() and grace:
            await asyncio.wait({work}, timeout=grace)
        if work.done():
            return work.result()
    finally:
        stopped.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait({work}, timeout=cleanup)
            if not work.done():
                _logger.warning("Cancelled work did not end within %.0f s", cleanup)
            elif not work.cancelled():
                work.exception()  # retrieved, or asyncio reports it
    if stop.is_set():
        raise StoppedError
    raise TimeoutError


async def pause_until(stop: asyncio.Event, seconds: float) -> None:
    """Wait so many seconds, or until `stop` is set meanwhile: then there is no time to lose."""
    if stop.is_set():
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
