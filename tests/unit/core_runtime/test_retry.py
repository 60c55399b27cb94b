"""Work that a stop or a timeout ends, at once or after a grace time."""

import asyncio
import logging
import random
from contextlib import suppress

import pytest
from coding_agent_core.errors import ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.runtime.retry import (
    Clock,
    RetryPolicy,
    Shared,
    StoppedError,
    asked_wait,
    both,
    run_until,
    while_unavailable,
)


class Endless:
    """An action that ends when it is cancelled, or released."""

    def __init__(self) -> None:
        self.begun, self.release, self.cancelled = asyncio.Event(), asyncio.Event(), False

    async def __call__(self) -> str:
        self.begun.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "done"


async def test_a_stop_cancels_it_at_once() -> None:
    action, stop = Endless(), asyncio.Event()
    waiting = asyncio.create_task(run_until(action, stop))
    await action.begun.wait()
    stop.set()
    with pytest.raises(StoppedError):
        await waiting
    assert action.cancelled


async def test_within_the_grace_time_it_may_end() -> None:
    action, stop = Endless(), asyncio.Event()
    stop.set()
    waiting = asyncio.create_task(run_until(action, stop, grace=600))
    await action.begun.wait()
    action.release.set()
    assert await waiting == "done"


async def test_after_the_grace_time_it_is_cancelled() -> None:
    action, stop = Endless(), asyncio.Event()
    stop.set()
    with pytest.raises(StoppedError):
        await run_until(action, stop, grace=0.01)
    assert action.cancelled


async def test_after_the_timeout_it_is_cancelled() -> None:
    action = Endless()
    with pytest.raises(TimeoutError):
        await run_until(action, asyncio.Event(), timeout=0.01)
    assert action.cancelled


async def test_work_that_ignores_its_cancellation_is_left_behind() -> None:
    release, stop = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    stop.set()
    with pytest.raises(StoppedError):
        await run_until(stubborn, stop, cleanup=0.01)
    release.set()


async def test_who_is_cancelled_leaves_nothing_running() -> None:
    action, stop = Endless(), asyncio.Event()
    waiting = asyncio.create_task(run_until(action, stop))
    await action.begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert action.cancelled


POLICY = RetryPolicy(tries=4, total=45, first_wait=1, longest_wait=20)


@pytest.mark.parametrize(
    ("tried", "elapsed", "chance", "retry_after", "wait"),
    [
        pytest.param(1, 0, 0.0, None, 0.5, id="first wait, least chance"),
        pytest.param(1, 0, 1.0, None, 1.0, id="first wait, most chance"),
        pytest.param(3, 5, 1.0, None, 4.0, id="doubled twice"),
        pytest.param(4, 5, 1.0, None, None, id="no fifth try"),
        pytest.param(2, 43.5, 1.0, None, None, id="not past the total time"),
        pytest.param(1, 0, 0.0, 7, 7.0, id="as long as the server asks"),
        pytest.param(3, 0, 0.5, 7, 7.5, id="never shorter, a little longer"),
        pytest.param(1, 0, 0.0, 0, 0.5, id="at once by the server, not by us"),
        pytest.param(1, 0, 0.0, 21, None, id="asks for longer than we wait"),
        pytest.param(2, 30, 0.0, 20, None, id="asked wait passes the total"),
    ],
)
def test_next_wait(
    tried: int, elapsed: float, chance: float, retry_after: float | None, wait: float | None
) -> None:
    assert POLICY.next_wait(tried=tried, elapsed=elapsed, chance=chance, retry_after=retry_after) == wait


@pytest.mark.parametrize(
    ("asked", "chance", "wait"),
    [
        (0, 1.0, 0),
        (60, 0.0, 60),
        (60, 0.5, 63),
        (900, 0.0, 900),
        (900, 1.0, 990),
        (3600, 0.0, 3600),
        (86_400, 0.0, 86_400),
        (86_400, 1.0, 95_040),
        (1e9, 0.0, 86_400),
    ],
)
def test_an_asked_wait_is_kept_in_full_up_to_a_day_and_spread_by_a_tenth(
    asked: float, chance: float, wait: float
) -> None:
    assert asked_wait(asked, chance=chance) == pytest.approx(wait, abs=0.1)


LOGGER = logging.getLogger("test")


class Forge:
    """A forge that fails so often, with this error."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    async def call(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return self.calls


async def waited(forge: Forge, within: float) -> list[float]:
    """The waits between the calls."""
    waits: list[float] = []

    async def pause(seconds: float) -> None:
        waits.append(seconds)

    await while_unavailable(
        forge.call, within=within, logger=LOGGER, clock=Clock(sleep=pause, chance=random.Random(1).random)
    )
    return waits


async def test_it_is_tried_until_the_forge_is_there_with_growing_waits() -> None:
    waits = await waited(Forge(9, ForgeUnavailableError("down")), within=600)
    assert len(waits) == 9
    assert waits[0] <= 1
    assert 30 <= waits[-1] <= 60


async def test_what_the_forge_asks_for_is_waited() -> None:
    [wait] = await waited(Forge(1, ForgeUnavailableError("limited", retry_after=90)), within=600)
    assert 90 <= wait <= 91


@pytest.mark.parametrize(
    ("error", "within"),
    [
        (ForgeUnavailableError("limited", retry_after=90), 60),
        (ForgeUnavailableError("down"), 0),
        (ForgeRefusedError("no"), 600),
    ],
)
async def test_what_waiting_cannot_help_is_raised_at_once(error: Exception, within: float) -> None:
    forge = Forge(9, error)
    with pytest.raises(type(error)):
        await waited(forge, within=within)
    assert forge.calls == 1


async def test_callers_with_the_same_key_share_work_also_if_one_of_them_leaves() -> None:
    shared: Shared[str, str] = Shared()
    action, other = Endless(), Endless()
    first, second = (asyncio.create_task(shared.run("a", action)) for _ in range(2))
    third = asyncio.create_task(shared.run("b", other))
    await action.begun.wait()
    await other.begun.wait()
    assert len(shared) == 2
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    action.release.set()
    assert await second == "done"
    assert ("a" in shared, "b" in shared) == (False, True)
    other.release.set()
    assert await third == "done"


async def test_shared_work_fails_for_all_and_starts_again_for_the_next() -> None:
    shared: Shared[str, str] = Shared()

    async def fail() -> str:
        await asyncio.sleep(0)
        raise ForgeUnavailableError("down")

    found = await asyncio.gather(*(shared.run("a", fail) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in found] == ["down"] * 3
    assert found[0] is found[1]

    async def succeed() -> str:
        return "up"

    assert await shared.run("a", succeed) == "up"


async def test_two_requests_run_at_once() -> None:
    met = asyncio.Barrier(2)

    async def meet(name: str) -> str:
        await met.wait()
        return name

    async with asyncio.timeout(60):
        assert await both(meet("first"), meet("second")) == ("first", "second")


@pytest.mark.parametrize("failing", ["first", "second", "both"])
async def test_two_requests_end_before_the_first_of_their_errors_is_raised(failing: str) -> None:
    ended = []

    async def request(name: str, pauses: int) -> None:
        for _ in range(pauses):
            await asyncio.sleep(0)
        ended.append(name)
        if failing in (name, "both"):
            raise ForgeUnavailableError(name)

    with pytest.raises(ForgeUnavailableError, match="second" if failing == "second" else "first"):
        await both(request("first", 3), request("second", 1))
    assert ended == ["second", "first"]
