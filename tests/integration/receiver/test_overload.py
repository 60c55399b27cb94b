"""Above its capacity the receiver goes on storing, and answers the rest with an early 503."""

import asyncio

import pytest
from coding_agent_receiver import limits
from coding_agent_receiver.limits import ConcurrencyLimit, OverloadedError

from tests.fixtures.deliveries import RecordingSink, github_issue, settings
from tests.fixtures.receiver import receiving


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
