"""Each task at most once in the queue, never at two workers, the urgent first."""

from __future__ import annotations

import asyncio

from coding_agent_operator.workqueue import WorkQueue


async def test_a_name_is_handed_out_once_and_again_only_after_it_is_done() -> None:
    queue = WorkQueue()
    for _ in range(3):
        queue.add("a")
    assert await queue.take() == "a"
    queue.add("a")
    queue.add("b")
    assert await queue.take() == "b"
    assert len(queue) == 0
    queue.done("a")
    assert await queue.take() == "a"


async def test_the_urgent_comes_first() -> None:
    queue = WorkQueue()
    for name in "abc":
        queue.add(name)
    queue.add("c", urgent=True)
    queue.add("d", urgent=True)
    assert [await queue.take() for _ in range(4)] == ["d", "c", "a", "b"]


async def test_what_is_due_later_comes_then_at_the_soonest_time_asked_for() -> None:
    queue = WorkQueue()
    queue.add_later("a", 30)
    queue.add_later("a", 0.01)
    queue.add_later("b", 0.02)
    async with asyncio.timeout(5):
        assert [await queue.take(), await queue.take()] == ["a", "b"]
    queue.add_later("c", 0.01)
    queue.forget("c")
    queue.add_later("d", 0.02)
    async with asyncio.timeout(5):
        assert await queue.take() == "d"


async def test_all_workers_get_work() -> None:
    queue = WorkQueue()
    takers = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(0)
    for name in "abc":
        queue.add(name)
    async with asyncio.timeout(5):
        assert sorted(await asyncio.gather(*takers)) == ["a", "b", "c"]


async def test_drained_it_hands_out_nothing_and_waits_for_who_is_at_work() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.add("b")
    assert await queue.take() == "a"
    drained = asyncio.create_task(queue.drain())
    taking = asyncio.create_task(queue.take())
    await asyncio.wait([drained, taking], timeout=0.05)
    assert (drained.done(), taking.done()) == (False, False)
    queue.done("a")
    await asyncio.wait_for(drained, 1)
    taking.cancel()
