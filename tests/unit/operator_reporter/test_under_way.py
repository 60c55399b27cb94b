"""What a stop waits for, and when nothing is left that could still take effect."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from coding_agent_core.task.model import Submission, TaskRequest
from coding_agent_operator.reporter.under_way import UnderWay
from coding_agent_testbed.until import until_async

from tests.unit.consumer_rounds.test_looks import RED, FakeForge
from tests.unit.operator_reporter.test_round_scans import looks


class Work:
    """A piece of work that begins at once, and ends when the test lets it."""

    def __init__(self, under_way: UnderWay) -> None:
        self._under_way, self.begun, self.go_on = under_way, asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._under_way.one():
            self.begun.set()
            await self.go_on.wait()

    async def end(self) -> None:
        self.go_on.set()
        await self.task

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def _nothing(_: Work) -> None: ...


@pytest.mark.parametrize(
    ("happens", "seconds", "ended"),
    [(Work.end, 60.0, True), (Work.cancel, 60.0, False), (_nothing, 0.0, False)],
    ids=["it ends", "it is cancelled", "it takes too long"],
)
async def test_whether_all_has_ended(
    happens: Callable[[Work], Awaitable[None]], seconds: float, ended: bool
) -> None:
    under_way = UnderWay()
    work = Work(under_way)
    await work.begun.wait()
    stop = asyncio.create_task(under_way.ended(seconds))
    await asyncio.sleep(0)
    await happens(work)
    assert await stop is ended
    later = Work(under_way)
    await asyncio.sleep(0)
    assert not later.begun.is_set(), "nothing begins after a stop"
    await asyncio.gather(work.cancel(), later.cancel())


async def test_what_was_cancelled_before_the_stop_may_still_take_effect() -> None:
    under_way = UnderWay()
    work = Work(under_way)
    await work.begun.wait()
    await work.cancel()
    assert not await under_way.ended(60.0)


class SlowSink:
    """Takes its time to store a task."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def submit(self, _: TaskRequest) -> Submission:
        self.asked.set()
        await self.go_on.wait()
        return Submission(task="t")


async def test_a_stop_waits_for_what_a_scan_writes() -> None:
    looked, sink = looks(FakeForge(RED)), SlowSink()
    looked.context = replace(looked.context, sink=cast("Any", sink))
    scan = asyncio.create_task(looked.scan())
    await until_async("the scan writes", sink.asked.is_set, interval=0.001)
    stop = asyncio.create_task(looked.context.under_way.ended(60.0))
    await asyncio.sleep(0)
    assert not stop.done()
    sink.go_on.set()
    await until_async("the stop goes on", stop.done, interval=0.001)
    assert stop.result()
    await scan
