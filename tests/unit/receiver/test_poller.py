"""S16: polling submits what is labeled, the same way as a webhook, and survives a forge that is down."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.registry import Platform
from coding_agent_core.settings.load import load_settings
from coding_agent_core.settings.model import Settings
from coding_agent_core.tasks import Origin, TaskRequest
from coding_agent_receiver import poller
from coding_agent_receiver.poller import poll_forever, poll_once, poll_until, scope_problem
from coding_agent_receiver.receiver_metrics import PollMetrics
from prometheus_client import CollectorRegistry

from tests.fixtures.deliveries import NOW, RecordingSink, asked, issue


def labeled(number: int) -> TaskRequest:
    return asked(issue(number, "octo-org/octo-repo"), Origin.POLL)


class ListedForge:
    """The part of `Forge` that polling uses, over a list; `fail_after` items it breaks down."""

    platform = Platform.GITHUB
    host = "github.com"

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.fail_after: int | None = None
        self.broken: Exception = ForgeUnavailableError("github.com does not answer", status=502)
        self.user = ""
        self.asked = 0

    async def whoami(self) -> str:
        return "coding-agent-bot"

    async def redeliver_missed(self, settings: Settings) -> int:
        return 0

    async def find_labeled(self, labels: object = None) -> AsyncIterator[TaskRequest]:
        self.asked += 1
        for index, number in enumerate(self.numbers):
            if index == self.fail_after:
                raise self.broken
            request = labeled(number)
            if self.user:
                trigger = request.trigger.model_copy(update={"labeled_at": NOW})
                request = request.model_copy(update={"user": self.user, "trigger": trigger})
            yield request


def listed(*numbers: int) -> Any:
    return ListedForge(*numbers)


def recovered(metrics: PollMetrics) -> float | None:
    return metrics.registry.get_sample_value(
        "coding_agent_tasks_recovered_by_poll_total", {"platform": "github"}
    )


async def test_a_labeled_item_becomes_one_task_however_often_it_is_polled() -> None:
    queue, forge = MemoryQueue(), listed(1, 2)
    metrics = PollMetrics(CollectorRegistry())
    assert recovered(metrics) == 0, "shown from the start, or `increase()` would not see the first"
    first = await poll_once(Settings(), forge, queue, metrics=metrics)
    again = await poll_once(Settings(), forge, queue, metrics=metrics)
    assert (first.found, len(first.created), first.duplicates, first.problem) == (2, 2, 0, None)
    assert (again.found, len(again.created), again.duplicates) == (2, 0, 2)
    assert recovered(metrics) == 2


@pytest.mark.parametrize(
    ("user", "created"), [("coding-agent-bot", 0), ("Coding-Agent-Bot", 0), ("alice", 1)]
)
async def test_a_label_of_our_own_account_starts_nothing(user: str, created: int) -> None:
    forge = listed(1)
    forge.user = user
    report = await poll_once(Settings(), forge, MemoryQueue())
    assert (report.found, len(report.created)) == (1, created)


async def test_a_forge_that_breaks_down_ends_the_round_and_what_was_found_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forge, sink = listed(1, 2, 3), RecordingSink()
    forge.fail_after = 2
    report = await poll_once(Settings(), forge, sink)
    assert len(sink.submitted) == 2
    assert report.problem == "github.com does not answer"
    assert "the next poll retries" in caplog.text


@pytest.mark.parametrize(
    "broken", [ForgeUnavailableError("github.com does not answer"), RuntimeError("a defect of ours")]
)
async def test_polling_goes_on_after_a_failed_round_until_it_is_stopped(broken: Any) -> None:
    forge, sink, stop = listed(1), RecordingSink(), asyncio.Event()
    forge.fail_after, forge.broken = 0, broken
    # The settings take whole seconds of at least one; the test does not want to wait for that.
    settings = Settings().model_copy(
        update={"scheduling": Settings().scheduling.model_copy(update={"interval": 0.01})}
    )
    polling = asyncio.create_task(poll_forever(settings, forge, sink, stop))
    async with asyncio.timeout(60):
        while forge.asked < 2:
            await asyncio.sleep(0)
        forge.fail_after = None
        await sink.entered.wait()
        stop.set()
        await polling
    assert sink.submitted[0].item.number == 1


async def test_a_poll_that_waits_for_the_forge_is_ended_by_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    class WaitingForge(ListedForge):
        entered = asyncio.Event()

        async def find_labeled(self, labels: object = None) -> AsyncIterator[TaskRequest]:
            self.entered.set()
            await asyncio.Event().wait()
            yield labeled(1)

    monkeypatch.setattr(poller, "_STOP_GRACE", 0.01)
    stop = asyncio.Event()
    forge: Any = WaitingForge()
    polling = asyncio.create_task(poll_forever(Settings(), forge, RecordingSink(), stop))
    async with asyncio.timeout(60):
        await forge.entered.wait()
        stop.set()
        await polling
        assert await poll_until(stop, Settings(), forge, RecordingSink()) is None


async def test_a_poll_that_ends_within_the_grace_time_of_a_stop_is_complete() -> None:
    stop = asyncio.Event()

    class StoppingForge(ListedForge):
        async def find_labeled(self, labels: object = None) -> AsyncIterator[TaskRequest]:
            stop.set()
            for number in self.numbers:
                for _ in range(10):  # turns of the event loop, in which the stop is seen
                    await asyncio.sleep(0)
                yield labeled(number)

    forge: Any = StoppingForge(1, 2)
    report = await poll_until(stop, Settings(), forge, RecordingSink())
    assert report is not None
    assert (report.found, report.problem) == (2, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "github.owner"),
        ("github: {owner: acme}", None),
        ("github: {query: 'state:open org:acme'}", None),
        ("github: {api_url: 'https://ghe.example.com/api/v3'}", None),
        ("{task_source: gitlab, gitlab: {project_id: 7}}", None),
        ("{task_source: gitlab, gitlab: {api_url: 'https://gitlab.example.com'}}", None),
    ],
)
def test_scope(tmp_path: Path, text: str, expected: str | None) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    problem = scope_problem(load_settings(file, {}))
    assert problem is None if expected is None else expected in (problem or "")
