"""Work that a stop or a timeout ends, at once or after a grace time."""

import asyncio
from contextlib import suppress

import pytest
from coding_agent_core.retry import StoppedError, run_until


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
