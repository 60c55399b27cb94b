"""When a failed request is sent again, and how long to wait before: the one policy of all programs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from coding_agent_core.errors import ForgeUnavailableError

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


@dataclass(frozen=True)
class RetryPolicy:
    """Limits of repetition. Waits are doubled from try to try and shortened by chance, by a half at most.

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

    def backoff(self, tried: int, chance: float) -> float:
        """Seconds to wait after so many tries that failed in a row, from 1, where nobody asks for a time."""
        # The exponent is bounded: a program that has tried for weeks must not compute 2 ** 100000.
        longest = min(self.first_wait * 2.0 ** min(tried - 1, 63), self.longest_wait)
        return longest * (0.5 + chance / 2)

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
        # Never earlier than asked; a little later, by chance.
        wait = self.backoff(tried, chance) if retry_after is None else retry_after + chance
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
    policy = RetryPolicy(first_wait=1.0, longest_wait=longest_wait)
    deadline = time.monotonic() + within
    tried = 0
    while True:
        try:
            return await action()
        except ForgeUnavailableError as error:
            tried += 1
            wait = max(error.retry_after or 0.0, policy.backoff(tried, chance()))
            if time.monotonic() + wait > deadline:
                raise
            logger.warning("The forge is not available, retrying in %.0f s: %s", wait, error)
            await pause(wait)
