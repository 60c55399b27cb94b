"""Waiting for a forge that is down: a task does not fail for that, within limits."""

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

_T = TypeVar("_T")


class StoppedError(Exception):
    """The attempt was told to stop while the forge was waited for."""


Pause = Callable[[float], Awaitable[None]]
"""Waits so many seconds; raises where waiting any longer has lost its sense."""


async def patiently(
    action: Callable[[], Awaitable[_T]],
    *,
    within: float,
    logger: logging.Logger,
    pause: Pause = asyncio.sleep,
    chance: random.Random | None = None,
    cap: float = 60.0,
) -> _T:
    """Do it, again and again while the forge is not available.

    Args:
        within: seconds after which the last error is raised.
        logger: told of each wait.
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
            logger.warning("The forge is not available, trying again in %.0f s: %s", wait, error)
            await pause(wait)


async def until_stopped(
    action: Callable[[], Awaitable[_T]], stop: asyncio.Event, *, grace: float = 0.0
) -> _T:
    """Do it; `grace` seconds after `stop` is set it is cancelled, whatever it waits for.

    Raises:
        StoppedError: it was cancelled.
    """
    work = asyncio.ensure_future(action())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and grace:
            await asyncio.wait({work}, timeout=grace)
        if work.done():
            return work.result()
    finally:
        stopped.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    raise StoppedError


async def pause_until(stop: asyncio.Event, seconds: float) -> None:
    """Wait so many seconds, or until `stop` is set meanwhile: then there is no time to lose."""
    if stop.is_set():
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
