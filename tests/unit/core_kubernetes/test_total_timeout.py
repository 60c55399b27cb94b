"""Each operation of the task sink has one time budget, however the API server fails (simulated time)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.kubernetes.task_sink import PROBE_TIMEOUT, REQUEST_TIMEOUT, TOTAL_TIMEOUT, StoreSink
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.task.task_store import TaskStore

from tests.fixtures.deliveries import asked, issue
from tests.unit.consumer.simulation import SimulatedLoop

ANSWERED_S = 5
"""Seconds within which forges are answered. GitHub waits 10; a busy receiver has the other half."""


class Store:
    """A store that fails in one way, whatever it is asked."""

    def __init__(self, fail: Callable[[], Awaitable[None]]) -> None:
        self.fail = fail
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def ask(*_: object, **__: object) -> None:
            self.asked.append(name)
            await self.fail()

        return ask


async def hang() -> None:
    await asyncio.Event().wait()


async def time_out() -> None:
    await asyncio.sleep(REQUEST_TIMEOUT)
    raise ApiError("no answer", None)


async def refuse_for_long() -> None:
    raise ApiError("much later", 429, retry_after=30)


def run(
    fail: Callable[[], Awaitable[None]], act: Callable[[StoreSink], Coroutine[Any, Any, Any]]
) -> tuple[Any, float, Store]:
    """What an operation comes to, after how many seconds."""
    loop, store = SimulatedLoop(), Store(fail)

    async def connect() -> TaskStore:
        return cast(TaskStore, store)

    async def outcome() -> Any:
        try:
            return await act(StoreSink(connect, Consumer(), jitter=lambda: 0.5))
        except QueueUnavailableError as error:
            return error

    try:
        return loop.run_until_complete(outcome()), loop.time(), store
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("fail", "seconds", "requests"),
    [
        pytest.param(hang, TOTAL_TIMEOUT, 1, id="it stands still"),
        pytest.param(time_out, TOTAL_TIMEOUT, 2, id="each request has its own time"),
        pytest.param(refuse_for_long, 0, 1, id="it is busy for longer than the budget"),
    ],
)
def test_a_submission_ends_within_its_budget(
    fail: Callable[[], Awaitable[None]], seconds: float, requests: int
) -> None:
    outcome, took, store = run(fail, lambda sink: sink.submit(asked(issue(7))))
    assert isinstance(outcome, QueueUnavailableError)
    assert took == pytest.approx(seconds)
    assert len(store.asked) == requests


def test_readiness_has_a_budget_too() -> None:
    connected, took, store = run(hang, lambda sink: sink.connected())
    assert (connected, store.asked) == (False, ["probe"])
    assert took == pytest.approx(PROBE_TIMEOUT)


def test_forges_are_answered_in_time() -> None:
    assert max(TOTAL_TIMEOUT, PROBE_TIMEOUT) < ANSWERED_S
