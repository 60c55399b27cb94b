"""S5, B3: what the senders are answered."""

import asyncio
from pathlib import Path

import pytest

from tests.fixtures.deliveries import RecordingSink, github_issue, settings
from tests.fixtures.receiver import Receiver, receiving
from tests.fixtures.task_file import file_sink

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_redelivery_is_answered_as_a_duplicate_with_the_same_task(
    receiver: Receiver, sink: RecordingSink
) -> None:
    first = (await receiver.github(github_issue(), delivery="d-9")).json()
    again = await receiver.github(github_issue(), delivery="d-9")
    assert again.status_code == 200
    assert again.json() == {"status": "duplicate", "task": first["task"]}
    assert len(sink.submitted) == 1


async def test_many_deliveries_at_once_for_one_label_are_one_task(tmp_path: Path) -> None:
    async with receiving(settings(), file_sink(tmp_path)) as receiver:
        answers = await asyncio.gather(
            *(receiver.github(github_issue(), delivery=f"d-{index}") for index in range(30))
        )
    statuses = [answer.json()["status"] for answer in answers]
    assert sorted(statuses) == ["duplicate"] * 29 + ["success"]
    assert len({answer.json()["task"] for answer in answers}) == 1


async def test_nothing_is_answered_before_the_task_is_stored(receiver: Receiver, sink: RecordingSink) -> None:
    sink.hold = asyncio.Event()
    sending = asyncio.create_task(receiver.github(github_issue()))
    await sink.entered.wait()
    assert not sending.done()
    sink.hold.set()
    assert (await sending).json()["status"] == "success"


async def test_a_queue_that_cannot_be_reached_is_answered_503_with_retry_after(
    receiver: Receiver, sink: RecordingSink
) -> None:
    sink.down = True
    response = await receiver.github(github_issue())
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.json()["status"] == "error"
    assert "127.0.0.1" not in response.text


async def test_a_queue_that_hangs_is_answered_503_before_github_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coding_agent_receiver.app.STORE_TIMEOUT_FACTOR", 0.002)  # meant to expire
    async with receiving(settings(), RecordingSink(hold=asyncio.Event())) as receiver:
        response = await receiver.github(github_issue())
    assert response.status_code == 503
    assert "Retry-After" in response.headers


async def test_a_defect_of_ours_is_answered_503_without_its_trace_and_logged_with_it(
    receiver: Receiver, sink: RecordingSink, caplog: pytest.LogCaptureFixture
) -> None:
    sink.broken = RuntimeError("secret details")
    response = await receiver.github(github_issue())
    assert response.status_code == 503
    assert "Retry-After" in response.headers
    assert "details" not in response.text
    assert "Traceback" in caplog.text


async def test_a_person_who_takes_the_label_off_cancels_the_task(
    receiver: Receiver, sink: RecordingSink
) -> None:
    task = (await receiver.github(github_issue())).json()["task"]
    response = await receiver.github(github_issue("unlabeled"), delivery="d-2")
    assert (response.status_code, response.json()) == (200, {"status": "cancelled", "task": task})
    assert sink.withdrawn[0].reason == "the issue lost the label 'coding agent'"
