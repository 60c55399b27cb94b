"""Under load, a withdrawal is stored first, and no event overtakes an earlier one of its item."""

import asyncio
from collections.abc import Collection
from typing import Any

import pytest
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.section import Secrets
from coding_agent_forges.github.webhook import interpret
from coding_agent_forges.webhooks.events import Delivery
from coding_agent_receiver import turns
from coding_agent_receiver.app import WEBHOOKS, Intake, Webhooks
from coding_agent_receiver.receiver_metrics import ReceiverMetrics
from coding_agent_receiver.turns import OverloadedError, Turns, Waiter, next_in_line
from prometheus_client import CollectorRegistry

from tests.fixtures.deliveries import NOW, RecordingSink, github_issue, settings

COMMANDS: Any = {"enabled": True}


@pytest.mark.parametrize(
    ("line", "busy", "expected"),
    [
        ("", "", None),
        ("a b", "", 0),
        ("a b", "a", 1),
        ("a b", "a b", None),
        ("a b -c", "", 2),
        ("a b c -b", "", 1),  # the label of b comes first, then its withdrawal
        ("a b -b", "b", 0),  # the label of b is at the queue
        ("a -b -c", "", 1),
        ("a b b", "b", 0),
        ("-a a b", "", 0),
        ("b -a", "", 1),
    ],
)
async def test_whose_turn_it_is(line: str, busy: str, expected: int | None) -> None:
    places = [Waiter(name.removeprefix("-"), name.startswith("-")) for name in line.split()]
    found = next_in_line(places, busy.split())
    assert found is (None if expected is None else places[expected])


class OrderedSink(RecordingSink):
    """Remembers in which order it is asked."""

    def __init__(self) -> None:
        super().__init__(hold=asyncio.Event())
        self.order: list[str] = []

    async def submit(self, request: Any) -> Any:
        self.order.append(f"label {request.item.number}")
        return await super().submit(request)

    async def withdraw(self, withdrawal: Any) -> Any:
        self.order.append(f"closed {withdrawal.item.number}")
        return await super().withdraw(withdrawal)

    async def command(self, command: Any) -> Any:
        self.order.append(f"/{command.name} {command.item.number}")
        return await super().command(command)


def payload(what: str, number: int) -> tuple[str, dict[str, Any]]:
    if not what.startswith("/"):
        return "issues", github_issue(what, "coding agent" if what == "labeled" else None, number=number)
    event = github_issue("created", None, number=number)
    times = {"created_at": "2026-11-25T11:59:00Z"}
    return "issue_comment", event | {"comment": {"id": 5, "body": what, "user": {"login": "alice"}} | times}


async def stored(events: list[tuple[str, int]]) -> tuple[list[int], list[str]]:
    """The statuses with which events are answered that arrive one after the other, and what was stored."""
    sink = OrderedSink()
    intake = Intake(settings(commands=COMMANDS), sink, ReceiverMetrics(CollectorRegistry()), lambda: NOW)
    secrets = Secrets(intake.settings.webhook.secret(Platform.GITHUB))
    github = Webhooks(Platform.GITHUB, WEBHOOKS[Platform.GITHUB], secrets)
    sent: list[asyncio.Task[Any]] = []
    for what, number in events:
        event, body = payload(what, number)
        meaning = interpret(Delivery(event, f"d-{len(sent)}"), body, intake.settings, NOW)
        sent.append(asyncio.create_task(intake.act(github, meaning)))
        await asyncio.sleep(0)  # it is in the line now
    assert sink.hold is not None
    sink.hold.set()
    async with asyncio.timeout(60):
        return [(await one).status for one in sent], sink.order


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "STORING_AT_ONCE", 1)
    monkeypatch.setattr(turns, "IN_LINE", 5)


async def test_a_withdrawal_is_stored_first_with_the_earlier_events_of_its_item() -> None:
    events = [("labeled", number) for number in (1, 2, 3, 4)]
    statuses, order = await stored([*events, ("closed", 3), ("/cancel", 4)])
    assert statuses == [200] * 6
    assert order == ["label 1", "label 3", "label 4", "closed 3", "/cancel 4", "label 2"]


async def test_a_withdrawal_finds_room_in_a_full_line() -> None:
    events = [("labeled", number) for number in (1, 2, 3, 4, 5, 6)]
    statuses, order = await stored([*events, ("labeled", 7), ("closed", 2), ("closed", 1), ("closed", 8)])
    # The label of 7 finds no room. The newest labels of other items make room for the withdrawals.
    assert statuses == [200, 200, 200, 503, 503, 503, 503, 200, 200, 200]
    assert order == ["label 1", "label 2", "closed 2", "closed 1", "closed 8", "label 3"]


async def test_a_turn_that_was_waited_for_in_vain_is_free_again() -> None:
    limit = Turns(longest_wait=0.01)

    async def wait_in_vain(item: str) -> None:
        with pytest.raises(OverloadedError):
            async with limit.turn(item, is_withdrawal=False):
                pytest.fail("two turns at once")

    async with limit.turn("a", is_withdrawal=False):
        await wait_in_vain("b")
        await wait_in_vain("a")
    async with limit.turn("a", is_withdrawal=False):
        assert not limit.overloaded


async def test_only_a_line_of_withdrawals_takes_no_more_events() -> None:
    limit = Turns(longest_wait=60)

    async def hold(item: str, *, is_withdrawal: bool) -> None:
        async with limit.turn(item, is_withdrawal=is_withdrawal):
            await asyncio.Event().wait()

    async def arrive(items: Collection[str], *, is_withdrawal: bool) -> list[asyncio.Task[None]]:
        waiting = [asyncio.create_task(hold(item, is_withdrawal=is_withdrawal)) for item in items]
        await asyncio.sleep(0)
        return waiting

    waiting = await arrive(["first", *"abcde"], is_withdrawal=False)
    assert not limit.overloaded, "there is room for a withdrawal"
    waiting += await arrive("fghij", is_withdrawal=True)
    assert limit.overloaded
    with pytest.raises(OverloadedError):
        await hold("k", is_withdrawal=True)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("is_full", [True, False], ids=["a withdrawal needs room", "a turn is free"])
async def test_an_event_that_stops_waiting_as_its_turn_comes_keeps_no_turn(
    monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    """Its wait is over, but its task has not run yet. It would hold a turn until the receiver restarts."""
    monkeypatch.setattr(turns, "STORING_AT_ONCE", 1)
    monkeypatch.setattr(turns, "IN_LINE", 1)
    line, ends = Turns(longest_wait=60), asyncio.Event()

    async def hold(item: str, *, is_withdrawal: bool) -> None:
        async with line.turn(item, is_withdrawal=is_withdrawal):
            await ends.wait()

    def start(item: str, *, is_withdrawal: bool = False) -> asyncio.Task[None]:
        return asyncio.create_task(hold(item, is_withdrawal=is_withdrawal))

    stored = start("a")
    await asyncio.sleep(0)
    waits = start("b")
    await asyncio.sleep(0)
    ends.set()
    waits.cancel()
    if is_full:
        await hold("c", is_withdrawal=True)  # it needs room before the task of b runs
    await asyncio.gather(stored, waits, return_exceptions=True)
    assert waits.cancelled()
    assert (stored.exception(), line.waiting, line.busy) == (None, [], set())
