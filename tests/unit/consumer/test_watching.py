"""While an attempt works, its consumer looks again and again whether it is still wanted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_consumer.task_handler import TaskHandler
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.settings.model import Settings

UNUSED: Any = None


@pytest.mark.parametrize("error", [ForgeUnavailableError("down"), RuntimeError("a defect")])
async def test_a_check_that_failed_is_repeated(error: Exception) -> None:
    settings = Settings.model_validate({"consumer": {"cancel_check_interval": 0.01}})
    handler = TaskHandler(settings, {}, UNUSED, UNUSED, asyncio.Event())
    answers: list[Exception | str] = [error, "", "The label was removed."]

    async def check() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    claim: Any = SimpleNamespace(cancelled=asyncio.Event(), lost=asyncio.Event(), why_cancelled="")
    task: Any = SimpleNamespace(check=check, item=SimpleNamespace(display="acme/pricing#1"))
    async with asyncio.timeout(60), handler._watch(claim, task) as (stop, why):
        await stop.wait()
    assert why == ["The label was removed."]
