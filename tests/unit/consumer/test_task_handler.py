"""A consumer of a queue: how long a task waits for its next attempt, and how an attempt is watched."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_consumer.task_handler import TaskHandler
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.settings.model import Settings

UNUSED: Any = None


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [(None, 15, 30), (0.0, 15, 30), (60.0, 60, 66), (600.0, 545, 600), (7200.0, 545, 600)],
)
def test_an_asked_wait_is_kept_spread_and_capped(asked: float | None, least: float, most: float) -> None:
    """A task waits no longer than its comment says, whatever the model or the forge asks for."""
    handler = TaskHandler(Settings(), {}, UNUSED, asyncio.Event())
    waits = [handler._delay(1, asked) for _ in range(50)]
    assert least <= min(waits) < max(waits) <= most


@pytest.mark.parametrize("error", [ForgeUnavailableError("down"), RuntimeError("a bug")])
async def test_a_check_that_failed_is_repeated(error: Exception) -> None:
    """While an attempt works, its consumer checks again and again whether it is still wanted."""
    settings = Settings.model_validate({"consumer": {"cancel_check_interval": 0.01}})
    handler = TaskHandler(settings, {}, UNUSED, asyncio.Event())
    answers: list[Exception | str] = [error, "", "The label was removed."]

    async def check() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    claim: Any = SimpleNamespace(cancelled=asyncio.Event(), lost=asyncio.Event(), ending=lambda: None)
    task: Any = SimpleNamespace(check=check, item=SimpleNamespace(display="acme/pricing#1"))
    async with asyncio.timeout(60), handler._watch(claim, task) as (stop, why):
        await stop.wait()
    assert why == ["The label was removed."]
