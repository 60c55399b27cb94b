"""When what failed is tried again, and how long to wait before: the one policy of all programs.

Everything that waits between tries takes its seconds from `backoff`; what also counts its tries has a
`RetryPolicy`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from coding_agent_core.errors import ForgeUnavailableError

_logger = logging.getLogger("coding_agent.waiting")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Clock:
    """Time and chance as a client sees them, so that tests need not wait.

    Attributes:
        now: the time of day, timezone-aware.
        monotonic: seconds since some fixed moment.
        sleep: waits for a number of seconds.
        chance: a random number in [0, 1).
    """

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


def backoff(failures: int, first: float, longest: float, chance: float | None = None) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, less up to a half by chance.

    Args:
        failures: from 1.
        first: seconds after the first failure, at most.
        longest: seconds of one wait, at most.
        chance: a number in [0, 1), so that many clients do not come back at once; random by default.
    """
    # The exponent is bounded: a program that has tried for weeks must not compute 2 ** 100000.
    wait = min(longest, first * 2.0 ** min(failures - 1, 63))
    return wait * (0.5 + (random.random() if chance is None else chance) / 2)


@dataclass(frozen=True)
class RetryPolicy:
    """Limits of repetition.

    Attributes:
        tries: requests in all, the first one included.
        total: seconds in which the last try must begin, counted from the first.
        first_wait: seconds before the second try.
        longest_wait: seconds of one wait. A server that asks for more is not waited for: the caller gets the
            error, with the seconds, and decides.
    """

    tries: int = 4
    total: float = 45.0
    first_wait: float = 0.5
    longest_wait: float = 20.0

    def next_wait(
        self, *, tried: int, elapsed: float, chance: float, retry_after: float | None = None
    ) -> float | None:
        """Seconds to wait before the next try, `None` to give up.

        Args:
            tried: requests sent so far, from 1.
            elapsed: seconds since the first was begun.
            chance: a random number in [0, 1), so that many clients do not come back at once.
            retry_after: seconds that the server asks us to wait.
        """
        if tried >= self.tries or (retry_after or 0.0) > self.longest_wait:
            return None
        if retry_after is None:
            wait = backoff(tried, self.first_wait, self.longest_wait, chance)
        else:
            wait = retry_after + chance  # never earlier than asked
        return wait if elapsed + wait <= self.total else None


async def while_unavailable(
    action: Callable[[], Awaitable[_T]],
    *,
    within: float,
    logger: logging.Logger,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
    longest_wait: float = 60.0,
) -> _T:
    """Do it, and retry while the forge is not available: for work that must not fail because of that.

    Args:
        within: seconds after which the last error is raised.
        logger: logs each wait.
        pause: waits a number of seconds; raises if waiting any longer makes no sense.
        chance: a random number in [0, 1).
        longest_wait: seconds of one wait, unless the forge asks for more.

    Raises:
        ForgeError: the forge refused, or was down for longer than `within`.
    """
    deadline = time.monotonic() + within
    tried = 0
    while True:
        try:
            return await action()
        except ForgeUnavailableError as error:
            tried += 1
            wait = max(error.retry_after or 0.0, backoff(tried, 1.0, longest_wait, chance()))
            if time.monotonic() + wait > deadline:
                raise
            logger.warning("The forge is not available, retrying in %.0f s: %s", wait, error)
            await pause(wait)


class StoppedError(Exception):
    """The work was cancelled because of a stop."""


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them ends and cancel the others. Raises the first one's error."""
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
        cleanup: seconds to wait for cancelled work to end.

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
    """Wait so many seconds, less if `stop` is set meanwhile. If it is set already, wait all of them."""
    if stop.is_set():
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
