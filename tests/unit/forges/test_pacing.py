"""Requests stay inside the configured rate, and inside what the forge itself asks for."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import inf

import pytest
from coding_agent_core.errors import ForgeUnavailableError, NotYetError, RequestKind
from coding_agent_core.runtime.retry import Clock
from coding_agent_forges.rest.pacing import Paced, RequestRate, asked_pause, stated_limit

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FAST = RequestRate(per_second=1000, burst=1000, writes_per_minute=600_000, per_hour=10_000_000)


@dataclass
class Time:
    """Time that passes by sleeping."""

    at: float = 0.0
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds

    def clock(self) -> Clock:
        return Clock(
            now=lambda: NOW + timedelta(seconds=self.at), monotonic=lambda: self.at, sleep=self.sleep
        )


async def test_new_comments_have_a_budget_of_their_own() -> None:
    time = Time()
    rate = RequestRate(per_second=100, burst=10, per_hour=360_000, creates_per_minute=30, creates_per_hour=12)
    pace = Paced("h", rate, time.clock())
    for _ in range(12):
        await pace.turn(RequestKind.CREATE)
    assert time.at == pytest.approx(4.0), "ten at once, then one in two seconds"
    with pytest.raises(NotYetError) as raised:
        await pace.turn(RequestKind.CREATE)
    assert raised.value.kind is RequestKind.CREATE
    assert raised.value.retry_after == pytest.approx(3596.0), "until the first is an hour old"
    for _ in range(20):
        await pace.turn(RequestKind.WRITE)
    assert time.at < 5, "edits and labels go on"


async def test_a_rate_without_limits_still_waits_for_what_the_forge_asks_for() -> None:
    time = Time()
    pace = Paced("h", RequestRate(per_second=inf, burst=1), time.clock())
    for kind in RequestKind:
        await pace.turn(kind)
    assert time.slept == []
    pace.answered("GET", 429, {"retry-after": "7"}, b"")
    await pace.turn(RequestKind.READ)
    assert time.at == pytest.approx(7.0)


CORE = {"x-ratelimit-resource": "core", "x-ratelimit-limit": "12500", "x-ratelimit-remaining": "12000"}


async def at_once(pace: Paced) -> int:
    """How many requests may be sent now without a wait."""
    for number in range(100_000):
        try:
            await pace.turn(RequestKind.READ)
        except NotYetError:
            return number
    raise AssertionError("no limit")


async def test_the_hour_has_the_limit_that_the_forge_states() -> None:
    time = Time()
    rate = replace(FAST, per_second=1e6, burst=10**6, per_hour=3750, hourly_share=0.75, patience=0)
    pace = Paced("h", rate, time.clock())
    await pace.turn(RequestKind.READ)
    pace.answered("GET", 200, CORE, b"")
    assert await at_once(pace) == 7028, "three quarters of three quarters of 12,500"
    for limit in ("1000", "12500"):
        pace.answered("GET", 200, {**CORE, "x-ratelimit-limit": limit}, b"")
        assert await at_once(pace) == 0, "another limit gives back nothing"
    pace.answered("GET", 200, {**CORE, "x-ratelimit-limit": "1000"}, b"")
    time.at = 3600.0 * 24
    assert await at_once(pace) == 562

    fixed = Paced("h", replace(rate, hourly_share=None), time.clock())
    fixed.answered("GET", 200, CORE, b"")
    assert await at_once(fixed) == 2812


@pytest.mark.parametrize(
    ("status", "headers", "limit"),
    [
        (200, CORE, 12_500),
        (201, CORE, 12_500),
        (None, {}, None),
        (401, {**CORE, "x-ratelimit-limit": "60"}, None),
        (200, {**CORE, "x-ratelimit-resource": "search", "x-ratelimit-limit": "30"}, None),
        (200, {"ratelimit-limit": "2000"}, None),
        (200, {**CORE, "x-ratelimit-limit": "0"}, None),
        (200, {**CORE, "x-ratelimit-limit": "many"}, None),
    ],
)
def test_only_a_success_states_the_limit_of_our_token(
    status: int | None, headers: dict[str, str], limit: int | None
) -> None:
    assert stated_limit(status, headers) == limit


async def test_writes_have_a_limit_of_their_own() -> None:
    time = Time()
    rate = RequestRate(per_second=100, burst=100, writes_per_minute=60, per_hour=360_000)
    pace = Paced("h", rate, time.clock())
    for _ in range(130):
        await pace.turn(RequestKind.WRITE)
    written = time.at
    for _ in range(40):
        await pace.turn(RequestKind.READ)
    assert written == pytest.approx(30)
    assert time.at - written < 1, "reads do not wait for it"


async def test_a_wait_that_is_too_long_is_handed_to_the_caller() -> None:
    time = Time()
    pace = Paced("h", FAST, time.clock())
    pace.answered("GET", 429, {"retry-after": "30"}, b"")
    with pytest.raises(NotYetError) as raised:
        await pace.turn(RequestKind.READ)
    assert isinstance(raised.value, ForgeUnavailableError), "temporary, to whoever does not tell them apart"
    assert raised.value.retry_after == pytest.approx(30)
    assert time.slept == []
    time.at = 25
    await pace.turn(RequestKind.READ)
    assert time.at == pytest.approx(30)


@pytest.mark.parametrize("asked", [3, 30])
async def test_a_pause_that_begins_while_a_request_waits_for_its_turn_is_kept(asked: int) -> None:
    time = Time()

    async def sleep(seconds: float) -> None:
        if not time.slept:  # another request is answered meanwhile
            pace.answered("GET", 429, {"retry-after": str(asked)}, b"")
        await time.sleep(seconds)

    clock = Clock(now=lambda: NOW, monotonic=lambda: time.at, sleep=sleep)
    pace = Paced("h", RequestRate(per_second=2, burst=1), clock)
    await pace.turn(RequestKind.READ)
    if asked < FAST.patience:
        await pace.turn(RequestKind.READ)
        assert time.at == pytest.approx(asked)
        return
    with pytest.raises(NotYetError) as raised:
        await pace.turn(RequestKind.READ)
    assert raised.value.retry_after == pytest.approx(asked - time.at)


class ClosedError(Exception):
    """The fence of a test is closed."""


@pytest.mark.parametrize("kind", [RequestKind.WRITE, RequestKind.CREATE])
async def test_the_fence_is_asked_for_each_write_after_its_wait(kind: RequestKind) -> None:
    time = Time()
    pace = Paced("h", RequestRate(per_second=1, burst=1), time.clock())
    asked = []

    def fence() -> None:
        asked.append(time.at)
        if time.at >= 1:  # the Lease was lost while the second write waited for its turn
            raise ClosedError

    pace.fence = fence
    await pace.turn(kind)
    with pytest.raises(ClosedError):
        await pace.turn(kind)
    assert asked == [0, pytest.approx(1)]
    await pace.turn(RequestKind.READ)
    assert len(asked) == 2, "a read changes nothing"


async def test_our_own_limit_is_no_outage_of_the_forge() -> None:
    time = Time()
    rate = RequestRate(per_second=100, burst=10, writes_per_minute=60, per_hour=360_000, patience=0.9)
    pace = Paced("h", rate, time.clock())
    for _ in range(10):
        await pace.turn(RequestKind.WRITE)
    with pytest.raises(NotYetError) as raised:
        await pace.turn(RequestKind.WRITE)
    assert raised.value.kind is RequestKind.WRITE
    assert raised.value.retry_after == pytest.approx(1.0), "one a second"
    await pace.turn(RequestKind.READ)
    time.at += 2.0
    await pace.turn(RequestKind.WRITE)
    assert time.slept == [pytest.approx(0.01)], "the read; what was not sent has cost no turn"


@pytest.mark.parametrize(
    ("status", "headers", "content", "counts"),
    [
        (200, {}, b"", True),
        (403, {}, b'{"message": "Resource not accessible"}', True),
        (None, {}, b"", False),
        (503, {"retry-after": "7"}, b"", False),
        (429, {}, b"", False),
        (403, {}, b'{"message": "You have exceeded a secondary rate limit."}', False),
    ],
)
def test_what_shows_that_the_forge_is_there(
    status: int | None, headers: dict[str, str], content: bytes, counts: bool
) -> None:
    pace = Paced("h", FAST, Time().clock())
    pace.answered("GET", status, headers, content)
    assert pace.answers == (1 if counts else 0)


SECONDARY = b'{"message": "You have exceeded a secondary rate limit."}'
PRIMARY = b'{"errors": [{"type": "RATE_LIMITED", "message": "API rate limit exceeded for user ID 1."}]}'
A_COMMENT = b'{"data": {"body": "This is not about a secondary rate limit."}}'
LEFT = {"x-ratelimit-limit": "5000", "x-ratelimit-reset": str(int(NOW.timestamp()) + 100)}
POINTS = {**LEFT, "x-ratelimit-resource": "graphql"}


@pytest.mark.parametrize(
    ("status", "headers", "content", "expected"),
    [
        (200, {}, b"", None),
        (None, {}, b"", None),
        (403, {}, b'{"message": "Resource not accessible"}', None),
        (429, {"retry-after": "7"}, b"", 7),
        (429, {}, b"", 60),
        (403, {"retry-after": "7"}, SECONDARY, 7),
        (403, {}, SECONDARY, 60),
        (503, {"retry-after": "7"}, b"", 7),
        (200, {**LEFT, "x-ratelimit-remaining": "201"}, b"", None),
        (200, {**LEFT, "x-ratelimit-remaining": "200"}, b"", 100),
        (403, {**LEFT, "x-ratelimit-remaining": "0"}, b"", 100),
        (200, {"ratelimit-remaining": "5", "ratelimit-reset": LEFT["x-ratelimit-reset"]}, b"", 100),
        # An installation that allows 100 an hour would never be asked if 200 were kept for others.
        (200, {**LEFT, "x-ratelimit-limit": "100", "x-ratelimit-remaining": "50"}, b"", None),
        (200, {**POINTS, "x-ratelimit-remaining": "4968"}, b'{"data": {}}', None),
        (200, {**POINTS, "x-ratelimit-remaining": "200"}, b'{"data": {}}', 100),
        (200, {**POINTS, "x-ratelimit-remaining": "0"}, PRIMARY, 100),
        (200, {**POINTS, "x-ratelimit-remaining": "4000"}, SECONDARY, 60),
        (200, {**POINTS, "x-ratelimit-remaining": "4000"}, b'{"errors": [' + SECONDARY + b"]}", 60),
        (200, {**POINTS, "x-ratelimit-remaining": "4000", "retry-after": "7"}, SECONDARY, 7),
        (200, {**POINTS, "x-ratelimit-remaining": "4000"}, A_COMMENT, None),
        (200, {"x-ratelimit-resource": "core"}, SECONDARY, None),
    ],
)
def test_what_the_forge_asks_for(
    status: int | None, headers: dict[str, str], content: bytes, expected: float | None
) -> None:
    """GraphQL answers 200 also if it did nothing.

    https://docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api
    """
    found = asked_pause(status, headers, content, keep=200, now=NOW)
    assert found == (None if expected is None else pytest.approx(expected, abs=1))
