"""Retries and waits: backoff, the retry policy that all programs share, and waits that a stop ends."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from coding_agent_core.errors import ForgeUnavailableError

_logger = logging.getLogger("coding_agent.waiting")
_K = TypeVar("_K")
_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclass(frozen=True)
class Clock:
    """Time and randomness, which tests replace: an aware `now`, monotonic seconds, `chance` in [0, 1)."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


@dataclass(frozen=True)
class Deadline:
    """A time of a monotonic clock: `Deadline.after(30.0)` passes in 30 seconds."""

    at: float
    clock: Clock

    @classmethod
    def after(cls, seconds: float, clock: Clock | None = None) -> Deadline:
        clock = clock or Clock()
        return cls(clock.monotonic() + seconds, clock)

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative afterwards."""
        return self.at - self.clock.monotonic()

    @property
    def passed(self) -> bool:
        return self.left <= 0


def backoff(failures: int, first: float, longest: float, chance: float | None = None) -> float:
    """Return the seconds to wait after failures in a row: doubled each time, minus up to a half at random.

    Args:
        failures: the number of failures, from 1.
        first: the longest wait after the first failure.
        longest: the longest of all waits.
        chance: a number in [0, 1), random by default, so that clients do not all return at once.
    """
    # The exponent is limited, because a program that has tried for weeks must not compute 2 ** 100000.
    wait = min(longest, first * 2.0 ** min(failures - 1, 63))
    return wait * (0.5 + (random.random() if chance is None else chance) / 2)


LONGEST_ASKED_WAIT = 24 * 3600.0
"""The most seconds of a wait that a server asks for. The limits of GitHub and of models' providers start
again within a day."""


def asked_wait(asked: float, longest: float = LONGEST_ASKED_WAIT, chance: float | None = None) -> float:
    """Return the seconds to wait if a server asks for a delay: never less, and up to a tenth more.

    Args:
        longest: the most seconds that are kept of what the server asks for.
        chance: a number in [0, 1), random by default, so that clients do not all return at once.
    """
    return min(asked, longest) * (1 + (random.random() if chance is None else chance) / 10)


def with_asked_wait(message: str, asked: float | None) -> str:
    """Return a message with a sentence about the seconds for which a server asks to wait, if it asks."""
    return f"{message.rstrip('.')}. It asks for a wait of {asked:.0f} s." if asked else message


@dataclass(frozen=True)
class RetryPolicy:
    """The policy of retries: limits of tries and times.

    Attributes:
        tries: the maximum number of tries, including the first.
        total: the seconds, counted from the first try, within which the last try must start.
        first_wait: the maximum number of seconds before the second try.
        longest_wait: the maximum number of seconds of one wait, unless the server asks for more.
        longest_retry_after: the maximum number of seconds that a server may ask for. If it asks for more, the
            caller gets the error with the seconds, and decides.
    """

    tries: int = 4
    total: float = 45.0
    first_wait: float = 0.5
    longest_wait: float = 20.0
    longest_retry_after: float = 20.0

    def next_wait(
        self, *, tried: int, elapsed: float, chance: float, retry_after: float | None = None
    ) -> float | None:
        """Return the seconds to wait before the next try; `None` if the policy permits no further try.

        Args:
            tried: the number of tries so far, from 1.
            elapsed: the seconds since the first try started.
            chance: a number in [0, 1) that spreads the tries of many clients.
            retry_after: the seconds for which the server asks to wait. The result is not less.
        """
        if tried >= self.tries or (retry_after or 0.0) > self.longest_retry_after:
            return None
        wait = backoff(tried, self.first_wait, self.longest_wait, chance)
        if retry_after is not None:
            wait = max(wait, retry_after + chance)
        return wait if elapsed + wait <= self.total else None


async def retry(
    action: Callable[[], Awaitable[_T]],
    policy: RetryPolicy,
    clock: Clock,
    *,
    retryable: Callable[[BaseException], bool],
    before_wait: Callable[[BaseException, float, int], None],
) -> _T:
    """Run an action, and repeat it after retryable errors as long as the policy permits.

    When the policy permits no further try, the last error is raised.

    An error's attribute `retry_after` gives the seconds for which the server asks to wait.

    Args:
        before_wait: called with the error, the seconds to wait, and the number of tries so far.
    """
    began, tried = clock.monotonic(), 0
    while True:
        try:
            return await action()
        except Exception as error:
            if not retryable(error):
                raise
            tried += 1
            seconds = policy.next_wait(
                tried=tried,
                elapsed=clock.monotonic() - began,
                chance=clock.chance(),
                retry_after=getattr(error, "retry_after", None),
            )
            if seconds is None:
                raise
            before_wait(error, seconds, tried)
        # Outside of the handler, so that a cancellation of the wait does not show the error as its context.
        await clock.sleep(seconds)


async def while_unavailable(
    action: Callable[[], Awaitable[_T]],
    *,
    within: float,
    logger: logging.Logger,
    clock: Clock | None = None,
    longest_wait: float = 60.0,
) -> _T:
    """Run an action, and repeat it while the forge is not available, for work that must survive an outage.

    Args:
        within: the seconds after which the last error is raised.
        clock: a clock whose `sleep` can raise to end the waits.

    Raises:
        ForgeError: the forge refused, or was unavailable for longer than `within`.
    """
    return await retry(
        action,
        RetryPolicy(sys.maxsize, within, 1.0, longest_wait, longest_retry_after=math.inf),
        clock or Clock(),
        retryable=lambda error: isinstance(error, ForgeUnavailableError),
        before_wait=lambda error, seconds, _: logger.warning(
            "The forge is not available, retrying in %.0f s: %s", seconds, error
        ),
    )


class StoppedError(Exception):
    """The error if work was cancelled because of a stop."""


async def first_of(*waits: Awaitable[object]) -> None:
    """Wait until one of the waits ends, and cancel the others. If the first one failed, raise its error."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def both(first: Awaitable[_T], second: Awaitable[_U]) -> tuple[_T, _U]:
    """Run two independent requests concurrently, and return both results.

    Both have ended when this returns or raises. If both fail, it raises the error of the first argument.
    """
    found, other = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(found, BaseException):
        raise found
    if isinstance(other, BaseException):
        raise other
    return found, other


async def run_until(
    action: Callable[[], Awaitable[_T]],
    stop: asyncio.Event,
    *,
    grace: float = 0.0,
    timeout: float | None = None,
    cleanup: float | None = None,
) -> _T:
    """Run an action; cancel it `grace` seconds after `stop` is set, or after `timeout` seconds.

    Args:
        cleanup: the seconds to wait for the end of cancelled work.

    Raises:
        StoppedError: the action was cancelled because of the stop.
        TimeoutError: the action was cancelled because of the timeout.
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
                work.exception()  # if nobody retrieves the exception, asyncio reports it
    if stop.is_set():
        raise StoppedError
    raise TimeoutError


class Shared(Generic[_K, _T]):
    """Work that all callers with the same key share while it is under way.

    Example:
        tokens: Shared[str, str] = Shared()
        token = await tokens.run("acme/pricing", request_token)
    """

    def __init__(self) -> None:
        self._running: dict[_K, asyncio.Future[_T]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, key: object) -> bool:
        return key in self._running

    async def run(self, key: _K, work: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of the work for a key, which is started unless it is under way.

        If a caller is cancelled, the work continues, because others may wait for it. If it fails, all callers
        get its error.
        """
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.ensure_future(work())
            running.add_done_callback(lambda done: self._ended(key, done))
        # Others wait for the same work, so one caller that gives up does not end it.
        return await asyncio.shield(running)

    def _ended(self, key: _K, done: asyncio.Future[_T]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # if nobody retrieves the exception, asyncio reports it


async def pause_until(stop: asyncio.Event, seconds: float) -> None:
    """Wait for some seconds, or until `stop` becomes set. If it is set before, wait the whole time."""
    if stop.is_set():
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


@asynccontextmanager
async def any_of(*events: asyncio.Event) -> AsyncIterator[asyncio.Event]:
    """Yield an event that is set once one of these events is set."""
    one = asyncio.Event()

    async def copy(event: asyncio.Event) -> None:
        await event.wait()
        one.set()

    copying = [asyncio.create_task(copy(event)) for event in events]
    try:
        yield one
    finally:
        for task in copying:
            task.cancel()
