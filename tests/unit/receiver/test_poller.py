"""S16: polling submits what is labeled, the same way as a webhook, and survives a forge that is down."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.errors import (
    ForgeError,
    ForgeListTooLongError,
    ForgeRefusedError,
    ForgeUnavailableError,
    QueueUnavailableError,
    SettingsError,
)
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.load import load_settings
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Origin, Submission, TaskRequest
from coding_agent_forges.rest.forge import LabeledItem
from coding_agent_receiver import poller
from coding_agent_receiver.labeled_items import ends_pass, in_turn, may_be_everywhere
from coding_agent_receiver.poller import Poller, scope_problem
from coding_agent_receiver.receiver_metrics import PollMetrics
from prometheus_client import CollectorRegistry

from tests.fixtures.deliveries import NOW, RecordingSink, asked, issue
from tests.fixtures.task_file import file_sink


def labeled(number: int) -> TaskRequest:
    return asked(issue(number, "octo-org/octo-repo"), Origin.POLL)


class ListedForge:
    """The part of `Forge` that polling uses, over a list; `fail_after` items the listing breaks down.

    Attributes:
        unreadable: why items cannot be read, by number.
        tried: the numbers of the items that polls tried to read.
    """

    platform = Platform.GITHUB
    host = "github.com"

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.fail_after: int | None = None
        self.broken: Exception = ForgeUnavailableError("github.com does not answer", status=502)
        self.unreadable: dict[int, Exception] = {}
        self.tried: list[int] = []
        self.user = ""
        self.asked = 0
        self.redeliveries = 0

    async def whoami(self) -> str:
        return "coding-agent-bot"

    async def redeliver_missed(self, settings: Settings) -> int:
        self.redeliveries += 1
        return 1

    async def labeled(self, labels: object = None) -> AsyncIterator[LabeledItem]:
        self.asked += 1
        for index, number in enumerate(self.numbers):
            if index == self.fail_after:
                raise self.broken
            found: Any = None
            yield LabeledItem(labeled(number).item, found, frozenset())

    async def request_of(self, listed: LabeledItem, private: object) -> TaskRequest:
        number = listed.item.number
        self.tried.append(number)
        if number in self.unreadable:
            raise self.unreadable[number]
        request = labeled(number)
        if self.user:
            trigger = request.trigger.model_copy(update={"labeled_at": NOW})
            request = request.model_copy(update={"user": self.user, "trigger": trigger})
        return request


def listed(*numbers: int) -> Any:
    return ListedForge(*numbers)


def recovered(metrics: PollMetrics) -> float | None:
    return metrics.registry.get_sample_value(
        "coding_agent_tasks_recovered_by_poll_total", {"platform": "github"}
    )


async def test_a_labeled_item_becomes_one_task_however_often_it_is_polled(tmp_path: Path) -> None:
    queue, forge = file_sink(tmp_path), listed(1, 2)
    metrics = PollMetrics(CollectorRegistry())
    assert recovered(metrics) == 0, "shown from the start, or `increase()` would not see the first"
    first = await Poller(Settings(), forge, queue, metrics).once()
    again = await Poller(Settings(), forge, queue, metrics).once()
    assert (first.found, len(first.created), first.duplicates, first.problem) == (2, 2, 0, None)
    assert (again.found, len(again.created), again.duplicates) == (2, 0, 2)
    assert recovered(metrics) == 2


@pytest.mark.parametrize(
    ("user", "created"), [("coding-agent-bot", 0), ("Coding-Agent-Bot", 0), ("alice", 1)]
)
async def test_a_label_of_our_own_account_starts_nothing(
    user: str, created: int, caplog: pytest.LogCaptureFixture
) -> None:
    forge = listed(1)
    forge.user = user
    poller = Poller(Settings(), forge, RecordingSink())
    report = await poller.once()
    assert (report.found, len(report.created)) == (1, created)
    await poller.once()
    warnings = [one for one in caplog.records if one.levelname == "WARNING"]
    assert len(warnings) == 1 - created, "each poll finds the label, and one line says it"


async def test_a_forge_that_breaks_down_ends_the_round_and_what_was_found_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forge, sink = listed(1, 2, 3), RecordingSink()
    forge.fail_after = 2
    report = await Poller(Settings(), forge, sink).once()
    assert len(sink.submitted) == 2
    assert report.problem == "github.com does not answer"
    assert "the next poll goes on from there: github.com does not answer" in caplog.text
    assert forge.redeliveries == 1, "missed deliveries do not wait for the list"


async def test_a_list_that_was_cut_is_said_once_and_ends_no_poll(caplog: pytest.LogCaptureFixture) -> None:
    forge, sink, metrics = listed(1, 2, 3), RecordingSink(), PollMetrics(CollectorRegistry())
    forge.fail_after, forge.broken = 2, ForgeListTooLongError("github.com has more labeled issues")
    poller = Poller(Settings(), forge, sink, metrics)
    for _ in range(2):
        report = await poller.once()
        assert (report.found, report.problem) == (2, None)
    assert [one.message for one in caplog.records if one.levelname == "WARNING"].count(
        "github.com has more labeled issues"
    ) == 1
    assert (counted(metrics, "failures"), counted(metrics, "partial")) == (0, 2)
    forge.fail_after = None
    await poller.once()
    forge.fail_after = 2
    await poller.once()
    assert caplog.text.count("github.com has more labeled issues") == 2, "it was whole in between"


DOWN = ForgeUnavailableError("github.com does not answer")
REFUSED = ForgeRefusedError("github.com refused reading acme/secret#2 (403)", status=403)
UNREADABLE = {
    "refused": REFUSED,
    "blocked": ForgeError("github.com did not accept reading acme/secret#2 (451)", status=451),
    "broken": ForgeUnavailableError("github.com could not answer (500)", status=500),
    "a defect of ours": RuntimeError("a defect of ours"),
}


def counted(metrics: PollMetrics, what: str) -> float | None:
    return metrics.registry.get_sample_value(f"coding_agent_poll_{what}_total", {"platform": "github"})


@pytest.mark.parametrize("error", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_item_that_cannot_be_read_holds_back_no_other(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    forge, sink, metrics = listed(1, 2, 3), RecordingSink(), PollMetrics(CollectorRegistry())
    assert counted(metrics, "item_failures") == 0, "shown from the start"
    forge.unreadable = {2: error}
    poller = Poller(Settings(), forge, sink, metrics)
    for _ in range(2):
        report = await poller.once()
        assert (report.found, report.failed, report.problem) == (3, 1, None)
    assert [request.item.number for request in sink.submitted] == [1, 3], "the second poll finds them known"
    assert forge.redeliveries == 2
    assert (counted(metrics, "item_failures"), counted(metrics, "failures")) == (2, 0)
    [line] = [line for line in caplog.records if "skips this item" in line.getMessage()]
    assert str(error) in line.getMessage(), "a problem that stays is logged once"


async def test_a_task_that_cannot_be_stored_holds_back_no_other() -> None:
    class RefusingSink(RecordingSink):
        async def submit(self, request: TaskRequest) -> Submission:
            if request.item.number == 2:
                raise QueueUnavailableError("the API server refused the task (422)")
            return await super().submit(request)

    sink = RefusingSink()
    report = await Poller(Settings(), listed(1, 2, 3), sink).once()
    assert [request.item.number for request in sink.submitted] == [1, 3]
    assert (report.failed, report.problem) == (1, None)


async def test_a_poll_that_faults_cut_short_goes_on_from_there() -> None:
    forge, sink, metrics = listed(*range(1, 11)), RecordingSink(), PollMetrics(CollectorRegistry())
    forge.unreadable = dict.fromkeys((2, 3, 4, 7, 8, 9), DOWN)
    poller = Poller(Settings(), forge, sink, metrics)
    report = await poller.once()
    assert (forge.tried, report.failed, report.problem) == ([1, 2, 3, 4], 3, str(DOWN))
    assert counted(metrics, "failures") == 1
    await poller.once()
    assert forge.tried[4:] == [5, 6, 7, 8, 9]
    forge.unreadable = {}
    forge.numbers.remove(9)  # its label is off
    assert (await poller.once()).problem is None
    assert forge.tried[9:] == [10, 1, 2, 3, 4, 5, 6, 7, 8]
    await poller.once()
    assert forge.tried[18:] == [1, 2, 3, 4, 5, 6, 7, 8, 10]


async def test_without_a_token_no_item_is_tried() -> None:
    forge = listed(1, 2)
    forge.unreadable = {1: SettingsError("No token for GitHub")}
    with pytest.raises(SettingsError):
        await Poller(Settings(), forge, RecordingSink()).once()
    assert forge.tried == [1]


LIMITED = ForgeUnavailableError("github.com is rate-limiting us", status=403, retry_after=60.0)
REVOKED = ForgeRefusedError("github.com refused it (401)", status=401)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([], False),
        ([DOWN, DOWN], False),
        ([DOWN, DOWN, DOWN], True),
        ([DOWN, QueueUnavailableError("the API server does not answer"), RuntimeError()], True),
        ([DOWN, DOWN, REFUSED, DOWN, DOWN], False),
        ([REFUSED] * 20, False),
        ([UNREADABLE["blocked"]] * 20, False),
        ([LIMITED], True),
        ([REVOKED], True),
    ],
)
def test_which_errors_end_a_poll(errors: list[Exception], expected: bool) -> None:
    in_a_row: list[Exception] = []
    ended = False
    for error in errors:
        in_a_row = [*in_a_row, error] if may_be_everywhere(error) else []
        ended = ended or ends_pass(in_a_row)
    assert ended is expected


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, [1, 2, 3]),
        ((1, 0), [2, 3, 1]),
        ((3, 2), [1, 2, 3]),
        ((2, 0), [3, 1, 2]),  # newer items are before it now
        ((9, 1), [2, 3, 1]),  # it has left the list
        ((9, 7), [1, 2, 3]),
    ],
)
def test_the_order_of_a_pass(last: tuple[int, int] | None, expected: list[int]) -> None:
    found: Any = None
    items = [LabeledItem(labeled(number).item, found, frozenset()) for number in (1, 2, 3)]
    place = None if last is None else (labeled(last[0]).item.identity, last[1])
    assert [one.item.number for _, one in in_turn(items, place)] == expected


@pytest.mark.parametrize("broken", [DOWN, RuntimeError("a defect of ours"), SettingsError("No token")])
async def test_polling_goes_on_after_a_failed_round_until_it_is_stopped(broken: Any) -> None:
    forge, sink, stop = listed(1), RecordingSink(), asyncio.Event()
    forge.fail_after, forge.broken = 0, broken
    # The settings take whole seconds of at least one; the test does not want to wait for that.
    settings = Settings().model_copy(
        update={"scheduling": Settings().scheduling.model_copy(update={"interval": 0.01})}
    )
    polling = asyncio.create_task(Poller(settings, forge, sink).forever(stop))
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

        async def request_of(self, listed: LabeledItem, private: object) -> TaskRequest:
            self.entered.set()
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(poller, "_STOP_GRACE", 0.01)
    stop = asyncio.Event()
    forge: Any = WaitingForge(1)
    polling = asyncio.create_task(Poller(Settings(), forge, RecordingSink()).forever(stop))
    async with asyncio.timeout(60):
        await forge.entered.wait()
        stop.set()
        await polling
        assert await Poller(Settings(), forge, RecordingSink()).until(stop) is None


async def test_a_poll_that_ends_within_the_grace_time_of_a_stop_is_complete() -> None:
    stop = asyncio.Event()

    class StoppingForge(ListedForge):
        async def request_of(self, listed: LabeledItem, private: object) -> TaskRequest:
            stop.set()
            for _ in range(10):  # turns of the event loop, in which the stop is seen
                await asyncio.sleep(0)
            return await super().request_of(listed, private)

    forge: Any = StoppingForge(1, 2)
    report = await Poller(Settings(), forge, RecordingSink()).until(stop)
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
