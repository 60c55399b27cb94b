"""A queue's task waits no longer than its comment says, whatever the model or the forge asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from coding_agent_consumer.task_handler import TaskHandler
from coding_agent_core.settings.model import Settings

UNUSED: Any = None


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [(None, 15, 30), (0.0, 15, 30), (60.0, 60, 66), (600.0, 600, 600), (7200.0, 600, 600)],
)
def test_an_asked_wait_is_kept_spread_and_capped(asked: float | None, least: float, most: float) -> None:
    handler = TaskHandler(Settings(), {}, UNUSED, UNUSED, asyncio.Event())
    waits = [handler._delay(1, asked) for _ in range(50)]
    assert least <= min(waits) <= max(waits) <= most
