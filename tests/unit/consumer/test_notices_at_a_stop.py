"""A notice that a stop keeps from being handled is not acknowledged: the next consumer gets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from coding_agent_consumer import notices
from coding_agent_consumer.notices import NoticeHandler, handle_notices
from coding_agent_core.commands import CommandName
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.messages import Notice
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.settings.model import Settings

from tests.unit.core_commands.test_commands import command


class Source(MemoryQueue):
    """One notice."""

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged = self.closed = False

    async def notices(self, host: str, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        try:
            yield command(CommandName.RUN)
            self.acknowledged = True
        finally:
            self.closed = True


@pytest.mark.parametrize("available", [True, False])
async def test_it_is_acknowledged_only_if_it_was_handled(
    monkeypatch: pytest.MonkeyPatch, available: bool
) -> None:
    stop = asyncio.Event()

    async def handle(_handler: NoticeHandler, _notice: Notice) -> None:
        stop.set()
        if not available:
            raise ForgeUnavailableError("down")

    monkeypatch.setattr(notices, "connect_all", lambda _: {})
    monkeypatch.setattr(NoticeHandler, "handle", handle)
    source = Source()
    async with asyncio.timeout(60):
        await handle_notices(Settings.model_construct(), source, stop)
    assert (source.acknowledged, source.closed) == (available, True)
