"""Keeps the requests to a forge inside a configured rate, and obeys what the forge itself asks for.

A token bucket for each limit: a request is sent when every bucket has a token for it. Pure but for `turn`.
Limits of GitHub: https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.forge.errors import message_of, rate_limited, retry_after
from coding_agent_core.retry import Clock

_READS = ("GET", "HEAD", "OPTIONS")
_LIMITED_WAIT = 60.0
"""Seconds to stay away after a limit without a time (GitHub: at least one minute)."""


class NotYetError(ForgeUnavailableError):
    """A request was not sent: the limits that are kept do not permit one yet, for `retry_after` seconds.

    It says nothing of the forge, which was not asked. To whoever does not tell the two apart it is temporary,
    as an outage is.
    """


@dataclass
class Bucket:
    """Holds at most `capacity` tokens and gains `rate` of them a second. Times are monotonic seconds.

    Taking from an empty bucket goes into debt: whoever took waits until the debt is paid.
    """

    capacity: float
    rate: float
    level: float = -1.0
    at: float | None = None

    def wait(self, now: float) -> float:
        """Seconds after which a token that is taken now may be used."""
        return max(0.0, (1.0 - self._level(now)) / self.rate)

    def take(self, now: float) -> None:
        """Take a token."""
        self.level, self.at = self._level(now) - 1.0, now

    def _level(self, now: float) -> float:
        if self.at is None:
            return self.capacity
        return min(self.capacity, self.level + (now - self.at) * self.rate)


class Pace(Protocol):
    """Asked before each request, told after it."""

    async def turn(self, method: str) -> None:
        """Return when a request of this method may be sent.

        Raises:
            NotYetError: that would take too long; `retry_after` tells how long.
        """
        ...

    def answered(self, method: str, status: int | None, headers: Mapping[str, str], content: bytes) -> None:
        """A request was answered (`None`: it was not)."""
        ...


class Unpaced:
    """No limit."""

    async def turn(self, method: str) -> None:
        """Now."""

    def answered(self, method: str, status: int | None, headers: Mapping[str, str], content: bytes) -> None:
        """Nothing follows."""


@dataclass(frozen=True)
class Rate:
    """Limits of one forge host.

    Attributes:
        keep: requests of the forge's own allowance that are left to others with the same token.
        patience: seconds that one request may wait for its turn.
    """

    per_second: float
    burst: int
    writes_per_minute: float
    per_hour: float
    keep: int = 0
    patience: float = 10.0


class Paced:
    """A pace for one forge host.

    Attributes:
        answers: requests that the forge has answered since the start, whatever it said but that it cannot now
            (5xx, a limit).
    """

    def __init__(self, host: str, rate: Rate, clock: Clock) -> None:
        self.host = host
        self.answers = 0
        self._rate = rate
        self._clock = clock
        # A full bucket and what flows in meanwhile must not exceed the hour's allowance.
        hour = Bucket(rate.per_hour / 2, rate.per_hour / 2 / 3600)
        self._all = [Bucket(rate.burst, rate.per_second), hour]
        self._writes = Bucket(min(rate.burst, rate.writes_per_minute / 2), rate.writes_per_minute / 2 / 60)
        self._until = 0.0

    async def turn(self, method: str) -> None:
        """See `Pace`."""
        now = self._clock.monotonic()
        buckets = self._all if method in _READS else [*self._all, self._writes]
        wait = max(self.paused(now), *(bucket.wait(now) for bucket in buckets))
        if wait > self._rate.patience:
            raise NotYetError(
                f"The next request to {self.host} may be sent in {wait:.0f} s: that keeps the limits in "
                "the section `reporter` and those of the forge.",
                retry_after=wait,
            )
        for bucket in buckets:
            bucket.take(now)
        if wait > 0:
            await self._clock.sleep(wait)

    def paused(self, now: float) -> float:
        """Seconds for which the forge asked us to stay away."""
        return max(0.0, self._until - now)

    def answered(self, method: str, status: int | None, headers: Mapping[str, str], content: bytes) -> None:
        """Remember a limit that the answer tells of, or that it was answered."""
        if status is not None and available(status, headers, content):
            self.answers += 1
        wait = asked_pause(status, headers, content, keep=self._rate.keep, now=self._clock.now())
        if wait is not None:
            self._until = max(self._until, self._clock.monotonic() + wait)


def available(status: int, headers: Mapping[str, str], content: bytes) -> bool:
    """Whether an answer shows that the forge can be asked now, be it that it refuses what was asked."""
    if status in (408, 425) or status >= 500:
        return False
    return not rate_limited(status, headers, message_of(content) if status == 403 else "")


def asked_pause(
    status: int | None, headers: Mapping[str, str], content: bytes, *, keep: int, now: datetime
) -> float | None:
    """Seconds to send nothing, from what the forge answered; `None`: go on.

    Args:
        keep: stay away until the reset when no more than this many requests are left.
    """
    if status is None:
        return None
    if rate_limited(status, headers, message_of(content) if status in (403, 429) else ""):
        told = retry_after(headers, now)
        return _LIMITED_WAIT if told is None else told
    if status == 503 and "retry-after" in headers:
        return retry_after(headers, now)
    remaining = headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining", ""))
    reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", ""))
    limit = headers.get("x-ratelimit-limit", headers.get("ratelimit-limit", ""))
    if not (remaining.isdigit() and reset.isdigit()):
        return None
    if limit.isdigit():
        keep = min(keep, int(limit) // 10)  # an installation may allow less than is kept for others
    if int(remaining) > keep:
        return None
    return max(0.0, int(reset) - now.timestamp())
