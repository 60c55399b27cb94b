"""When a failed request is sent again: one policy for both forges, decided purely."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum


@dataclass(frozen=True)
class Clock:
    """Time and chance as the clients see them, so that tests need not wait.

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
    """Limits of repetition.

    Attributes:
        tries: requests in all, the first one included.
        total: seconds in which the last try must begin, counted from the first.
        first_wait: seconds before the second try; doubled for each further one.
        longest_wait: seconds of one wait. A forge that asks for more is not waited for: the caller is told
            how long, and decides.
    """

    tries: int = 4
    total: float = 45.0
    first_wait: float = 0.5
    longest_wait: float = 20.0


class Repeat(Enum):
    """What repeating a request does."""

    SAFE = "safe"
    """Its effect and its answer are the same however often it is sent."""
    UNLESS_PROCESSED = "unless processed"
    """Only after a failure in which the forge certainly did nothing: no connection, or rate-limited."""


@dataclass(frozen=True)
class Failure:
    """A failed try.

    Attributes:
        processed: whether the forge may have done what was asked.
        retry_after: seconds that the forge asks us to wait.
    """

    processed: bool
    retry_after: float | None = None


def next_wait(
    policy: RetryPolicy, repeat: Repeat, failure: Failure, *, tried: int, elapsed: float, chance: float
) -> float | None:
    """Seconds to wait before the next try, `None` to give up.

    Args:
        policy: the limits.
        repeat: what repeating this request does.
        failure: the temporary failure at hand.
        tried: requests sent so far, from 1.
        elapsed: seconds since the first was begun.
        chance: a random number in [0, 1), so that many clients do not come back at once.
    """
    if tried >= policy.tries or (failure.processed and repeat is Repeat.UNLESS_PROCESSED):
        return None
    if failure.retry_after is not None:
        if failure.retry_after > policy.longest_wait:
            return None
        # Never earlier than asked; a little later, by chance.
        wait = failure.retry_after + chance
    else:
        wait = min(policy.first_wait * 2 ** (tried - 1), policy.longest_wait) * (0.5 + chance / 2)
    return wait if elapsed + wait <= policy.total else None
