"""A label applied while the end is being shown is a new application (no label is lost)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from coding_agent_core.platforms import ItemKind
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.registry import Platform
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ITEM = Item(platform=Platform.GITHUB, host="github.com", repository="o/r", kind=ItemKind.ISSUE, number=7)


def labeled(minutes: int) -> TaskRequest:
    at = NOW + timedelta(minutes=minutes)
    trigger = Trigger(origin=Origin.WEBHOOK, delivery_id=f"d{minutes}", labeled_at=at, received_at=at)
    return TaskRequest(item=ITEM, trigger=trigger)


async def test_the_next_run_waits_for_the_one_that_is_ending() -> None:
    queue = MemoryQueue(clock=lambda: NOW)
    stop = asyncio.Event()
    await queue.submit(labeled(0))
    claims = queue.claims(stop)
    first = await anext(claims)
    assert (await queue.submit(labeled(1))).duplicate, "while it runs, the label belongs to it"
    first.ending()
    assert not (await queue.submit(labeled(2))).duplicate
    waiting = asyncio.ensure_future(anext(queue.claims(stop)))
    await asyncio.sleep(0)
    assert not waiting.done(), "one run of an item at a time"
    await first.done()
    assert (await waiting).task.run == 2
    await queue.aclose()
