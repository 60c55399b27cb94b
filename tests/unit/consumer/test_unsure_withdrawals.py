"""In memory, a removal that may be older than the label is decided by what the item shows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from coding_agent_consumer.notices import NoticeHandler
from coding_agent_core.forge.base import Forge
from coding_agent_core.forge.values import Comment, ItemState
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.settings.model import Settings
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger, Withdrawal

from tests.unit.consumer.making import ITEM

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
BOT, PROCESSING = "coding agent", "coding agent processing"


class ShownItem:
    def __init__(self, state: ItemState) -> None:
        self.state = state

    async def read_state(self, item: Item) -> ItemState:
        return self.state

    async def locate(self, item: Item) -> Item:
        return item

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        return None


@pytest.mark.parametrize(
    ("labels", "open_", "cancelled"),
    [({"bug"}, True, True), ({BOT}, True, False), ({PROCESSING}, True, False), ({BOT}, False, True)],
)
@pytest.mark.parametrize("at", [NOON, None])
async def test_the_consumer_reads_the_item(
    labels: set[str], open_: bool, cancelled: bool, at: datetime | None
) -> None:
    queue = MemoryQueue()
    trigger = Trigger(origin=Origin.WEBHOOK, delivery_id="d1", labeled_at=NOON, received_at=NOON)
    await queue.submit(TaskRequest(item=ITEM, trigger=trigger))
    removal = Withdrawal(item=ITEM, reason="the issue lost the label", at=at)
    await queue.withdraw(removal)
    latest = queue.latest(ITEM)
    assert latest is not None
    assert not latest.cancel_requested
    forge = ShownItem(ItemState(frozenset(labels), open_, NOON + timedelta(seconds=2)))
    handler = NoticeHandler(Settings(), queue, {ITEM.host: cast("Forge", forge)})
    async with asyncio.timeout(60):
        await handler.handle(removal)
    latest = queue.latest(ITEM)
    assert latest is not None
    assert latest.cancel_requested is cancelled
