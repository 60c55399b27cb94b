"""Above its capacity the receiver goes on storing, and answers the rest with an early 503."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from coding_agent_receiver import limits
from coding_agent_receiver.limits import ConcurrencyLimit, OverloadedError

from tests.fixtures.deliveries import RecordingSink, github_issue, settings
from tests.fixtures.receiver import receiving
from tests.fixtures.receiver_process import authentic, receiver_process

CAPACITY = 10
"""Events a second that the queue of this test stores: 8 at a time, each in 0.8 s."""
PROGRAM = """
import asyncio, logging, sys
from coding_agent_core.tasks import Submission
from coding_agent_receiver.server import run
from tests.fixtures.deliveries import RecordingSink, settings

class Slow(RecordingSink):
    turns = asyncio.Semaphore(8)

    async def submit(self, request):
        async with self.turns:
            await asyncio.sleep(0.8)
        return Submission("a-task")

logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
run(settings(server={"host": "127.0.0.1", "port": 0}), Slow())
"""
SECONDS = 6.0


async def probe(port: int, until: float) -> list[tuple[int, float]]:
    """Ask for liveness and readiness four times a second; the statuses and seconds."""
    found = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
        while time.monotonic() < until:
            for path in ("/livez", "/readyz"):
                start = time.monotonic()
                status = (await http.get(path)).status_code
                found.append((status, time.monotonic() - start))
            await asyncio.sleep(0.25)  # the pace of the probes
    return found


async def test_beyond_its_capacity_it_sheds_early_and_keeps_its_throughput() -> None:
    async with receiver_process(PROGRAM) as receiver:
        start = time.monotonic()
        async with authentic(receiver.port, rate=3 * CAPACITY) as sent:
            probes = await probe(receiver.port, start + SECONDS)
        took = time.monotonic() - start
    stored = [answer for answer in sent if answer.status == 200]
    shed = [answer for answer in sent if answer.status == 503]
    print(
        f"{len(stored)} stored within {max(answer.seconds for answer in stored):.2f} s, "
        f"{len(shed)} shed within {max(answer.seconds for answer in shed):.2f} s, in {took:.1f} s"
    )
    assert shed
    assert len(stored) + len(shed) == len(sent)
    assert len(stored) >= CAPACITY * SECONDS / 2
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in shed)
    assert {status for status, _ in probes} == {200}


async def test_an_event_that_waits_too_long_for_its_turn_is_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STORING_AT_ONCE", 1)
    monkeypatch.setattr(limits, "LONGEST_WAIT", 0.1)
    sink = RecordingSink(hold=asyncio.Event())
    async with receiving(settings(), sink) as receiver:
        stored = asyncio.create_task(receiver.github(github_issue()))
        await sink.entered.wait()
        shed = await receiver.github(github_issue(number=8), delivery="d-2")
        assert (shed.status_code, shed.json()["reason"]) == (503, "too many webhooks at once")
        assert "Retry-After" in shed.headers
        assert (await receiver.http.get("/livez")).status_code == 200
        assert sink.hold
        sink.hold.set()
        assert (await stored).json()["status"] == "success"
        again = await receiver.github(github_issue(number=8), delivery="d-2")
        assert again.json()["status"] == "success"


async def test_turns_come_in_order_and_a_long_line_refuses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STORING_AT_ONCE", 1)
    monkeypatch.setattr(limits, "IN_LINE", 3)
    monkeypatch.setattr(limits, "LONGEST_WAIT", 60.0)
    limit, order = ConcurrencyLimit(), []

    async def store(number: int) -> None:
        async with limit.turn():
            order.append(number)

    async with asyncio.TaskGroup() as group, limit.turn():
        for number in range(3):
            assert not limit.overloaded
            group.create_task(store(number))
            await asyncio.sleep(0)
        assert limit.overloaded
    assert order == [0, 1, 2]
    assert not limit.overloaded


async def test_a_turn_that_was_waited_for_in_vain_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STORING_AT_ONCE", 1)
    monkeypatch.setattr(limits, "LONGEST_WAIT", 0.01)
    limit = ConcurrencyLimit()
    async with limit.turn():
        with pytest.raises(OverloadedError):
            async with limit.turn():
                pytest.fail("two turns at once")
    async with limit.turn():
        assert not limit.overloaded
