"""Waiting: for the first of several things, for a stop, and for work that a stop or a timeout cancels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

_logger = logging.getLogger("coding_agent.waiting")
_T = TypeVar("_T")


class StoppedError(Exception):
    """The work was cancelled because of a stop."""


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them has ended; the others are cancelled. Errors of the first are raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
