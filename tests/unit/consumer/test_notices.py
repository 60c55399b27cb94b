"""Notices of one forge do not wait for another forge, and signs that come too late are dropped.

A notice that a stop keeps from being handled is not labels_shown: the next consumer gets it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from coding_agent_consumer.queue import notices
from coding_agent_consumer.queue.notices import NoticeHandler, handle_notices
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.forge.values import Comment, ItemDetails, ItemState, LabelEvent, Permission
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.queues.interfaces import Notice, item_of_notice
from coding_agent_core.queues.rabbitmq.publisher import RabbitMQNotices
from coding_agent_core.reporting.comment import State, comment, read_state
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.commands import IssueCommand
from coding_agent_core.task.model import (
    CommandName,
    Item,
    Origin,
    Phase,
    TaskRequest,
    Trigger,
    Withdrawal,
    WithdrawalCause,
    new_uuid,
)
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.round_record import RoundEnd
from coding_agent_core.task.round_report import trigger_of
from coding_agent_forges.rest.calls import Read
from coding_agent_forges.rest.forge import Forge
from coding_agent_testbed.until import until_async

from tests.fixtures.notices import Notices
from tests.unit.consumer.making import ITEM, details
from tests.unit.core_reporting.making import report
from tests.unit.core_task.test_commands import command
from tests.unit.core_task.test_stored_rounds import CHECKS

GITHUB, GITLAB = "github.com", "gitlab.com"


def item(host: str, number: int) -> Item:
    platform = Platform.GITHUB if host == GITHUB else Platform.GITLAB
    return ITEM.model_copy(update={"platform": platform, "host": host, "number": number})


def waiting(host: str, number: int, age: float = 0.0) -> QueuedTask:
    received = datetime.now(UTC) - timedelta(seconds=age)
    trigger = Trigger(origin=Origin.WEBHOOK, received_at=received)
    return QueuedTask(request=TaskRequest(item=item(host, number), trigger=trigger), uuid=new_uuid())


def cancel(host: str, number: int) -> IssueCommand:
    return command(CommandName.CANCEL).model_copy(update={"item": item(host, number)})


class Place:
    """Notices that were handled, and the forges that are down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue, self.stop = Notices(), asyncio.Event()
        self.handled: list[tuple[str, str, int]] = []
        self.down: set[str] = set()
        self.tried = asyncio.Event()
        place = self

        async def handle(_handler: NoticeHandler, notice: Notice) -> None:
            of = item_of_notice(notice)
            if of.host in place.down:
                place.tried.set()
                raise ForgeUnavailableError("down")
            place.handled.append((type(notice).__name__, of.host, of.number))

        monkeypatch.setattr(notices, "connect_all", lambda _: {})
        monkeypatch.setattr(notices, "RETRY_SECONDS", 0.01)
        monkeypatch.setattr(NoticeHandler, "handle", handle)

    async def until_handled(self, count: int) -> list[tuple[str, str, int]]:
        async with asyncio.TaskGroup() as group:
            group.create_task(handle_notices(Settings(), self.queue, self.stop))
            await until_async(f"{count} are handled", lambda: len(self.handled) >= count, interval=0.005)
            self.stop.set()
        return self.handled


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


async def test_a_forge_that_is_down_keeps_no_other_waiting(place: Place) -> None:
    place.down = {GITHUB}
    for number in range(3):
        place.queue.put(waiting(GITHUB, number + 1))
    place.queue.put(cancel(GITLAB, 7))
    assert await place.until_handled(1) == [("IssueCommand", GITLAB, 7)]


async def test_a_sign_that_comes_too_late_is_dropped(place: Place) -> None:
    place.queue.put(waiting(GITHUB, 1, age=notices.SIGN_SECONDS + 1))
    place.queue.put(waiting(GITHUB, 2))
    assert await place.until_handled(1) == [("QueuedTask", GITHUB, 2)]


async def test_a_sign_that_waits_for_its_forge_is_dropped_once_it_is_too_late(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.down = {GITHUB}
    place.queue.put(waiting(GITHUB, 1))

    async def come_back() -> None:
        await place.tried.wait()
        monkeypatch.setattr(notices, "SIGN_SECONDS", -1.0)
        place.queue.put(cancel(GITHUB, 7))
        place.down = set()

    coming: Any = asyncio.create_task(come_back())
    assert await place.until_handled(1) == [("IssueCommand", GITHUB, 7)]
    await coming


class Source(Notices):
    """One notice."""

    labels_shown = closed = False

    async def notices(self, host: str, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        try:
            yield command(CommandName.RUN)
            self.labels_shown = True
        finally:
            self.closed = True


@pytest.mark.parametrize("available", [True, False])
async def test_it_is_acknowledged_only_if_it_was_handled(
    monkeypatch: pytest.MonkeyPatch, available: bool
) -> None:
    stop, source = asyncio.Event(), Source()

    async def handle(_handler: NoticeHandler, _notice: Notice) -> None:
        stop.set()
        if not available:
            raise ForgeUnavailableError("down")

    monkeypatch.setattr(notices, "connect_all", lambda _: {})
    monkeypatch.setattr(NoticeHandler, "handle", handle)
    async with asyncio.timeout(60):
        await handle_notices(Settings.model_construct(), source, stop)
    assert (source.labels_shown, source.closed) == (available, True)


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"


class ShownItem:
    def __init__(self, state: ItemState) -> None:
        self.state = state

    async def read_state(self, item: Item) -> ItemState:
        return self.state

    async def locate(self, item: Item) -> Item:
        return item

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        return None


class WrittenItem(ShownItem):
    """An item whose label was applied at noon; it keeps the comment, and which labels come off."""

    host = ITEM.host

    def __init__(self) -> None:
        super().__init__(ItemState(frozenset({BOT}), open=True, updated_at=NOON))
        self.bodies: list[str] = []

    async def read(self, item: Item) -> ItemDetails:
        return details(*self.state.labels, updated_at=NOON)

    async def label_application(self, item: Item) -> LabelEvent:
        return LabelEvent(NOON, "alice", BOT, added=True)

    async def label_history(self, item: Item, since: datetime | None) -> Read[LabelEvent]:
        return Read((LabelEvent(NOON, "alice", BOT, added=True),))

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        return Comment("1", "bot", self.bodies[-1], NOON) if self.bodies else None

    async def upsert_comment(self, item: Item, marker: str, body: str) -> Comment:
        self.bodies.append(body)
        return Comment("1", "bot", body, NOON)

    async def whoami(self) -> str:
        return "bot"

    async def permission(self, item: Item, user: str) -> Permission:
        return Permission.WRITE

    async def read_comment(self, item: Item, comment: str) -> Comment:
        return Comment(comment, "alice", "/cancel", NOON)

    async def has_reacted(self, item: Item, comment: str) -> bool:
        return False

    async def react(self, item: Item, comment: str) -> None: ...

    async def remove_label(self, item: Item, label: str) -> bool:
        self.state = replace(self.state, labels=self.state.labels - {label})
        return True

    @property
    def phases(self) -> list[Phase]:
        """What the comment said, oldest first."""
        return [state.phase for body in self.bodies if (state := read_state(body)) is not None]


class Broker(RabbitMQNotices):
    """Knows no tasks; nobody holds a lock."""

    def __init__(self) -> None: ...

    @asynccontextmanager
    async def item_lock(self, item: Item) -> AsyncIterator[bool]:
        yield True


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_command_cancels_a_round_that_waits_and_has_no_label(enabled: bool) -> None:
    forge, found = WrittenItem(), trigger_of(CHECKS, NOON)[1]
    forge.state = replace(forge.state, labels=frozenset({DONE}))
    waiting = State(uuid="u", run=2, attempt=0, phase=Phase.QUEUED, round=found)
    forge.bodies = [comment(report(waiting))]
    settings = Settings.model_validate({"webhook": {"commands": {"enabled": enabled}}})
    handler = NoticeHandler(settings, Broker(), {ITEM.host: cast("Forge", forge)})
    await handler.handle(command(CommandName.CANCEL).model_copy(update={"item": ITEM}))
    if not enabled:
        assert forge.phases == [Phase.QUEUED], "a message of the broker is not believed either"
        return
    assert forge.phases == [Phase.QUEUED, Phase.CANCELLED]
    state = read_state(forge.bodies[-1])
    assert state is not None
    assert state.rounds is not None
    assert state.rounds.has(CHECKS)


@pytest.mark.parametrize(
    ("cause", "end"),
    [
        (WithdrawalCause.CLOSED, RoundEnd.SUPERSEDED),
        (WithdrawalCause.UNLABELED, RoundEnd.CANCELLED),
    ],
)
async def test_a_waiting_round_of_a_closed_change_is_not_counted(
    cause: WithdrawalCause, end: RoundEnd
) -> None:
    forge, found = WrittenItem(), trigger_of(CHECKS, NOON)[1]
    forge.state = replace(forge.state, labels=frozenset(), open=cause is not WithdrawalCause.CLOSED)
    forge.bodies = [comment(report(State(uuid="u", phase=Phase.BACKOFF, round=found)))]
    handler = NoticeHandler(Settings(), Broker(), {ITEM.host: cast("Forge", forge)})
    await handler.handle(Withdrawal(item=ITEM, reason="it was withdrawn", cause=cause))
    state = read_state(forge.bodies[-1])
    assert state is not None
    assert state.rounds is not None
    ends = [entry.end for entry in state.rounds.rounds]
    assert (ends, len(state.rounds.superseded)) == (([], 1) if end is RoundEnd.SUPERSEDED else ([end], 0))


async def test_labels_without_ours_cancel_no_round_that_waits() -> None:
    """The change has no label of ours until the round's first attempt. Gitea reports any change of labels."""
    forge, (_, found) = WrittenItem(), trigger_of(CHECKS, NOON)
    forge.state = replace(forge.state, labels=frozenset({DONE, "bug"}))
    forge.bodies = [comment(report(State(uuid="u", run=2, attempt=0, phase=Phase.QUEUED, round=found)))]
    handler = NoticeHandler(Settings(), Broker(), {ITEM.host: cast("Forge", forge)})
    await handler.handle(Withdrawal(item=ITEM, reason="it shows no label of ours"))
    assert forge.phases == [Phase.QUEUED]
