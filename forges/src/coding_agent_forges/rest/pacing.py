"""Limits the rate of requests to a forge, and interprets its errors.

Each kind of request has its own limits, because forges limit new comments more than edits and labels
(`platforms.RequestLimits`). A request is sent when every limit for its kind permits it. GitHub's limits:
https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf

from coding_agent_core.errors import (
    ForgeArchivedError,
    ForgeConflictError,
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeRejectedError,
    ForgeUnavailableError,
    NotYetError,
    RequestKind,
)
from coding_agent_core.platforms.text import one_line
from coding_agent_core.runtime.retry import Clock, with_asked_wait

LIMITED_WAIT = 60.0
"""Seconds to wait after a rate limit without Retry-After (GitHub, *Rate limits for the REST API*)."""
_AT_ONCE = 0.75
_MESSAGE_LIMIT = 300
_REFUSAL_LIMIT = 4096
"""The length in bytes below which an answer with status 200 may be GraphQL's refusal."""
_RATE_LIMIT_PHRASES = ("secondary rate limit", "rate limit exceeded", "abuse detection")


@dataclass
class Bucket:
    """A token bucket with at most `capacity` tokens and `rate` new ones per second, in monotonic seconds.

    A token can be taken in advance: the level becomes negative, and the token may be used once it is 0.
    """

    capacity: float
    rate: float
    level: float = -1.0
    at: float | None = None

    def wait(self, now: float) -> float:
        """Return the seconds until a token that is taken now may be used."""
        return max(0.0, (1.0 - self._level(now)) / self.rate)

    def take(self, now: float) -> None:
        self.level, self.at = self._level(now) - 1.0, now

    def resize(self, capacity: float, rate: float) -> None:
        """Change the limits. The fill level in percent stays, so that repeated changes add no tokens."""
        self.level *= capacity / self.capacity
        self.capacity, self.rate = capacity, rate

    def is_full(self, now: float) -> bool:
        return self._level(now) >= self.capacity

    def _level(self, now: float) -> float:
        if self.at is None:
            return self.capacity
        return min(self.capacity, self.level + (now - self.at) * self.rate)


@dataclass
class Window:
    """A sliding window with at most `limit` requests in `seconds`, which may be sent all at once."""

    limit: float
    seconds: float
    sent: deque[float] = field(default_factory=deque)

    def wait(self, now: float) -> float:
        """Return the seconds until a request may be sent."""
        while self.sent and self.sent[0] <= now - self.seconds:
            self.sent.popleft()
        excess = len(self.sent) + 1 - self.limit
        return max(0.0, self.sent[int(excess) - 1] + self.seconds - now) if excess >= 1 else 0.0

    def take(self, at: float) -> None:
        self.sent.append(at)


@dataclass(frozen=True)
class RequestRate:
    """The rate limits for one forge host.

    Attributes:
        per_second: all requests per second, after a burst.
        burst: how many requests may be sent at once after a quiet time.
        per_hour: all requests per hour.
        hourly_share: the share of the hourly limit in the forge's responses that replaces `per_hour`; `None`
            keeps `per_hour`. The limit of a GitHub App grows with its installation.
        writes_per_minute: requests that write or create something per minute, after a burst.
        creates_per_minute: requests that create something per minute, after a burst.
        keep: requests of the forge's limit that are left to other programs with the same token.
        patience: the maximum number of seconds that one request waits.
    """

    per_second: float
    burst: int
    per_hour: float = inf
    hourly_share: float | None = None
    writes_per_minute: float = inf
    creates_per_minute: float = inf
    creates_per_hour: float = inf
    keep: int = 0
    patience: float = 10.0


class Paced:
    """A rate limiter for the requests to one forge host.

    Attributes:
        answers: the number of requests that the forge has answered, without 5xx and rate limits.
        fence: called before every request that changes something; it raises an error if this process may not
            write now, because another replica may have taken its Lease.
    """

    def __init__(self, host: str, rate: RequestRate, clock: Clock) -> None:
        self.host = host
        self.answers = 0
        self.fence: Callable[[], None] = lambda: None
        self._rate = rate
        self._clock = clock
        self._hour = Bucket(*_hourly(rate.per_hour))
        every = [Bucket(rate.burst, rate.per_second), self._hour]
        write = [*every, Bucket(rate.burst, rate.writes_per_minute / 60)]
        create = [*write, Bucket(rate.burst, rate.creates_per_minute / 60)]
        kinds = {RequestKind.READ: every, RequestKind.WRITE: write, RequestKind.CREATE: create}
        self._buckets = {kind: [one for one in buckets if one.rate < inf] for kind, buckets in kinds.items()}
        self._created = Window(rate.creates_per_hour, 3600.0)
        self._until = 0.0

    async def turn(self, kind: RequestKind) -> None:
        """Wait until a request of this kind may be sent.

        Raises:
            NotYetError: the wait would be longer than `RequestRate.patience`; `retry_after` says how long.
            Exception: the error of `fence`.
        """
        now = self._clock.monotonic()
        buckets = self._buckets[kind]
        wait = max([self._until - now, *(bucket.wait(now) for bucket in buckets)])
        if kind is RequestKind.CREATE:
            wait = max(wait, self._created.wait(now))
        self._require_patience(kind, wait)
        for bucket in buckets:
            bucket.take(now)
        if kind is RequestKind.CREATE:
            # The request counts from when it is sent, and not from when it began to wait.
            self._created.take(now + wait)
        while wait > 0:
            await self._clock.sleep(wait)
            wait = self._until - self._clock.monotonic()  # a pause may have begun meanwhile
            self._require_patience(kind, wait)
        if kind is not RequestKind.READ:
            self.fence()

    def _require_patience(self, kind: RequestKind, wait: float) -> None:
        if wait > self._rate.patience:
            raise NotYetError(
                f"The next request to {self.host} ({kind}) may be sent in {wait:.0f} s: that keeps "
                "`reporter.forge_share` of the forge's limits, and what its answers ask for.",
                kind,
                wait,
            )

    def answered(self, method: str, status: int | None, headers: Mapping[str, str], content: bytes) -> None:
        """Record a response and the rate limit in its headers. The status is `None` if no response came."""
        if status is not None and _available(status, headers, content):
            self.answers += 1
        limit = stated_limit(status, headers)
        if limit is not None and self._rate.hourly_share is not None:
            self._hour.resize(*_hourly(limit * self._rate.hourly_share))
        wait = asked_pause(status, headers, content, keep=self._rate.keep, now=self._clock.now())
        if wait is not None:
            # An answer to an older request may ask for a shorter pause.
            self._until = max(self._until, self._clock.monotonic() + wait)


def _hourly(limit: float) -> tuple[float, float]:
    """Return capacity and rate of the bucket for an hourly limit."""
    # A full bucket and the tokens that it gains in an hour must not exceed the limit together. A burst may
    # use most of them. The others are spread over the hour, so that requests never stop for long.
    return limit * _AT_ONCE, limit * (1 - _AT_ONCE) / 3600


def stated_limit(status: int | None, headers: Mapping[str, str]) -> int | None:
    """Return the hourly limit of our token from a response of GitHub; `None` if it states no such limit."""
    # Searches have a separate limit, and the response to a refused token states the limit of strangers.
    if status is None or status >= 400 or headers.get("x-ratelimit-resource") != "core":
        return None
    limit = headers.get("x-ratelimit-limit", "")
    return int(limit) if _is_number(limit) and int(limit) > 0 else None


def _available(status: int, headers: Mapping[str, str], content: bytes) -> bool:
    """Whether a response shows that the forge is available. An ordinary refusal does."""
    if status in (408, 425) or status >= 500:
        return False
    return not rate_limited(status, headers, content)


def asked_pause(
    status: int | None, headers: Mapping[str, str], content: bytes, *, keep: int, now: datetime
) -> float | None:
    """Return the seconds to pause after a response; `None` if no pause is needed.

    GitHub's GraphQL API sends the `x-ratelimit-` headers of its REST API too, with points in place of
    requests. GitHub advises to read them rather than to query `rateLimit`:
    https://docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api

    Args:
        keep: if no more than this many requests are left, the pause lasts until the limit's reset.
    """
    if status is None:
        return None
    if rate_limited(status, headers, content):
        wait = retry_after(headers, now)
        return LIMITED_WAIT if wait is None else wait
    if status == 503 and "retry-after" in headers:
        return retry_after(headers, now)
    remaining = headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining", ""))
    reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", ""))
    limit = headers.get("x-ratelimit-limit", headers.get("ratelimit-limit", ""))
    if not (remaining.isdigit() and reset.isdigit()):
        return None
    if limit.isdigit():
        keep = min(keep, int(limit) // 10)  # an installation's limit may be lower than `keep`
    if int(remaining) > keep:
        return None
    return max(0.0, int(reset) - now.timestamp())


def forge_error(
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    *,
    what: str,
    host: str,
    token: str,
    now: datetime,
    account: str = "",
) -> ForgeError:
    """Return the error for a response with a status of 300 or more.

    Args:
        headers: the response's headers, with names in lower case.
        token: where a person sets our token.
        account: the login of the token's account; empty if it is not known yet.
    """
    message = message_of(content)
    detail = f": {message}" if message else ""
    if rate_limited(status, headers, content):
        wait = retry_after(headers, now)
        if wait is None and status == 403:
            wait = LIMITED_WAIT
        return ForgeUnavailableError(
            with_asked_wait(f"{host} is rate-limiting us ({status}) while {what}{detail}", wait),
            status=status,
            retry_after=wait,
        )
    if status == 423 or (status == 403 and "archived" in message.lower()):
        return ForgeArchivedError(
            f"{host} refused {what} ({status}): the repository is archived. Unarchive it, then try again.",
            status=status,
        )
    if status in (401, 403):
        wanted = headers.get("x-accepted-github-permissions") or headers.get("x-accepted-oauth-scopes")
        needs = f" It asks for: {one_line(wanted, 200)}." if wanted and status == 403 else ""
        whose = f"{account}'s token" if account else "the token"
        return ForgeRefusedError(
            f"{host} refused {what} ({status}){detail}.{needs} Check {whose} and its permissions: {token}.",
            status=status,
        )
    if status in (404, 410):
        return ForgeNotFoundError(
            f"{host} does not have it, or the token cannot see it ({status}), while {what}{detail}",
            status=status,
        )
    if status in (408, 425) or status >= 500:
        wait = retry_after(headers, now)
        return ForgeUnavailableError(
            with_asked_wait(f"{host} could not answer ({status}) while {what}{detail}", wait),
            status=status,
            retry_after=wait,
        )
    if status < 400:
        return ForgeRejectedError(
            f"{host} redirects elsewhere ({status}) while {what}. Our token is not sent there; "
            "check the `api_url`.",
            status=status,
        )
    return rejection(f"{host} did not accept {what} ({status}){detail}", status)


def rejection(message: str, status: int) -> ForgeRejectedError:
    """Return the error for a status of 400 to 499 that says nothing about rights, limits or availability.

    The request stays as it is, so only a status about something else than the request can be over later: 409
    Conflict, 412 Precondition Failed and 421 Misdirected Request (RFC 9110).
    """
    return (ForgeConflictError if status in (409, 412, 421) else ForgeRejectedError)(message, status=status)


def rate_limited(status: int, headers: Mapping[str, str], content: bytes) -> bool:
    """Whether a response means that we sent too many requests, so that the forge did nothing.

    GitHub answers 403 or 429, and shows that no requests remain, or sends Retry-After or a phrase in the
    message (documentation, *Rate limits for the REST API*). GitLab answers 429. GitHub's GraphQL API also
    answers 200 with such a message, or with Retry-After:
    https://docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api
    """
    if status == 429:
        return True
    if status == 200 and headers.get("x-ratelimit-resource") == "graphql":
        # Only a refusal is parsed: it has no data, so it is short.
        return "retry-after" in headers or (len(content) < _REFUSAL_LIMIT and _says_rate_limit(content))
    if status != 403:
        return False
    return (
        headers.get("x-ratelimit-remaining") == "0" or "retry-after" in headers or _says_rate_limit(content)
    )


def _says_rate_limit(content: bytes) -> bool:
    return any(phrase in message_of(content).lower() for phrase in _RATE_LIMIT_PHRASES)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds to wait, from Retry-After (seconds or a date), or from the limit's reset."""
    seconds = _seconds(headers.get("retry-after", ""), now)
    if seconds is not None:
        return seconds
    if headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining")) != "0":
        return None
    reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", ""))
    return max(0.0, int(reset) - now.timestamp()) if _is_number(reset) else None


def message_of(content: bytes) -> str:
    """Return the message in an error's body, at most 300 characters; empty if there is none.

    GitHub: `message` and `errors[]`, each with a `message`, or with `field` and `code` alone. GitLab:
    `message` (text, list, or lists by field) or `error`.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(body, dict):
        return ""
    parts = _texts(body.get("message")) or _texts(body.get("error_description")) or _texts(body.get("error"))
    if isinstance(body.get("errors"), list):
        for error in body["errors"]:
            parts += _detail(error) if isinstance(error, dict) else _texts(error)
    return " ".join("; ".join(parts).split())[:_MESSAGE_LIMIT]


def _detail(error: Mapping[str, object]) -> list[str]:
    field, code = error.get("field"), error.get("code")
    if isinstance(field, str) and isinstance(code, str) and not error.get("message"):
        return [f"{field}: {code.replace('_', ' ')}"]
    return _texts(error.get("message"))


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for text in value if isinstance(text, str)]
    if isinstance(value, dict):
        return [f"{name} {text}" for name, texts in value.items() for text in _texts(texts)]
    return []


def _seconds(value: str, now: datetime) -> float | None:
    value = value.strip()
    if _is_number(value):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 12
