"""A consumer looks at our open changes: it queues what is due once, and shows what no round does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock

import pytest
from coding_agent_consumer.rounds import scan as looks_module
from coding_agent_consumer.rounds.scan import ConsumerScans
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.forge.changes import Actor, ChangeSnapshot, CheckConclusion, OpenChanges
from coding_agent_core.forge.values import MARKER, Comment, ItemState, Permission
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.queues.interfaces import LookRequest
from coding_agent_core.reporting.comment import State, comment, read_state
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Item, Phase, TaskRequest
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_core.task.runners import RunnerName

from tests.fixtures.deliveries import RecordingSink
from tests.fixtures.notices import Notices
from tests.unit.core_reporting import making as reports
from tests.unit.core_rounds.making import HEAD, OURS, change, check, remark, review, rounds

SETTINGS = Settings.model_validate({"rounds": {"enabled": True}})
INFRASTRUCTURE = change(checks=(check(conclusion=CheckConclusion.INFRASTRUCTURE),))
RED, ASKED = change(checks=(check(),)), State(uuid="u", phase=Phase.SUCCEEDED, user="anna")


class FakeForge:
    """Shows changes with our comments on them, and keeps what it was asked."""

    host, platform = "github.com", Platform.GITHUB

    def __init__(self, *changes: ChangeSnapshot) -> None:
        self.changes = {one.item.number: one for one in changes}
        self.comments: dict[tuple[ItemKind, int], str] = {}
        self.edits = 0
        self.reruns: list[str] = []
        self.labels: frozenset[str] = frozenset()
        self.broken: set[int] = set()
        self.allowed = Permission.WRITE
        self.asked_about: list[str] = []
        self.closed: set[int] = set()
        self.lists_all = True

    async def open_changes(self) -> OpenChanges:
        return OpenChanges(
            tuple(map(self._shown, self.changes.values())), left_out=() if self.lists_all else ("more",)
        )

    def _shown(self, snapshot: ChangeSnapshot) -> ChangeSnapshot:
        body = self.comments.get((ItemKind.CHANGE, snapshot.item.number))
        return snapshot if body is None else replace(snapshot, comments=(remark(1, OURS, body),))

    async def snapshot(self, item: Item) -> ChangeSnapshot:
        return self._shown(self.changes[item.number])

    async def permission(self, item: Item, login: str) -> Permission:
        self.asked_about.append(login)
        if item.number in self.broken:
            raise ForgeUnavailableError("It cannot be read.")
        return self.allowed

    async def find_comment(self, item: Item, _marker: str) -> Comment | None:
        body = self.comments.get((item.kind, item.number))
        return None if body is None else Comment("1", "bot", body, datetime.now(UTC))

    async def upsert_comment(self, item: Item, marker: str, body: str, **_: Any) -> Comment:
        assert marker in body
        self.comments[item.kind, item.number] = body
        self.edits += 1
        return Comment("1", "bot", body, datetime.now(UTC))

    async def read_state(self, item: Item) -> ItemState:
        return ItemState(self.labels, open=item.number not in self.closed)

    async def add_label(self, _item: Item, _label: str) -> None: ...

    async def rerun_check(self, _item: Item, run: str) -> None:
        self.reruns.append(run)


class Place:
    def __init__(self, *changes: ChangeSnapshot) -> None:
        self.forge, self.source, self.sink = FakeForge(*changes), Notices(), RecordingSink()
        forge: Any = self.forge
        self.looks = ConsumerScans(SETTINGS, forge, self.source, self.sink)

    def shows(self, state: State, kind: ItemKind = ItemKind.CHANGE, number: int = 8) -> None:
        self.forge.comments[kind, number] = comment(reports.report(state))

    @property
    def shown(self) -> str:
        return self.forge.comments.get((ItemKind.CHANGE, 8), "")

    async def look(self, times: int = 2) -> None:
        for _ in range(times):
            await self.looks.scan()

    def queued(self, number: int = 8) -> TaskRequest | None:
        item = self.forge.changes[number].item
        return next((one for one in self.sink.submitted if one.item == item), None)


async def test_what_is_due_is_queued_once_for_the_person_who_asked_for_the_work() -> None:
    place = Place(RED)
    place.shows(ASKED.model_copy(update={"runner": RunnerName.CODEX}), ItemKind.ISSUE, 7)
    await place.look()
    queued = place.queued()
    assert queued is not None
    trigger = queued.trigger
    assert (trigger.cause, queued.user) == ("checks", "anna")
    assert queued.runner is RunnerName.CODEX
    assert trigger.round is not None


@pytest.mark.parametrize(
    ("state", "is_queued"),
    [
        (None, True),
        (ASKED, True),
        (ASKED.model_copy(update={"phase": Phase.RUNNING}), False),
        (ASKED.model_copy(update={"phase": Phase.BACKOFF}), False),
        (ASKED.model_copy(update={"phase": Phase.QUEUED, "attempt": 0}), True),  # lost with its queue
        (ASKED.model_copy(update={"rounds": rounds(RED, 1)[1]}), False),
    ],
)
async def test_a_round_waits_for_the_task_that_our_comment_shows(
    state: State | None, is_queued: bool
) -> None:
    place = Place(RED)
    if state is not None:
        place.shows(state)
    await place.look()
    assert (place.queued() is not None) is is_queued


@pytest.mark.parametrize("is_shown", [True, False], ids=["with a comment", "without a comment"])
async def test_a_check_that_could_not_run_is_run_again_once(is_shown: bool) -> None:
    place = Place(INFRASTRUCTURE)
    if is_shown:
        place.shows(ASKED)
    await place.look(3)
    assert place.forge.reruns == ["900"]
    state = read_state(place.shown)
    assert state is not None
    assert (state.uuid, state.phase) == ("u" if is_shown else "", Phase.SUCCEEDED)
    assert [entry.head for entry in (state.rounds or RoundRecord()).reruns] == [HEAD]
    assert "The forge was asked to run these checks again: CI / test." in place.shown
    assert place.forge.edits == 1
    assert place.queued() is None


async def test_a_round_that_waits_ends_when_people_do_the_rest() -> None:
    place = Place(RED)
    await place.look()
    queued = place.queued()
    assert queued is not None
    place.shows(State(uuid="waiting", phase=Phase.QUEUED, attempt=0, round=queued.trigger.round))
    place.forge.changes[8] = replace(RED, labels=frozenset({"Coding agent hands off"}))
    await place.look(3)
    state = read_state(place.shown)
    assert state is not None
    assert (state.uuid, state.phase) == ("waiting", Phase.CANCELLED)
    assert state.rounds is not None
    assert (state.rounds.rounds, len(state.rounds.superseded)) == ((), 1)
    assert place.forge.edits == 2, "its end, and why no other round follows"


async def test_nothing_is_written_while_a_task_has_the_change() -> None:
    place = Place(INFRASTRUCTURE)
    async with place.source.item_lock(INFRASTRUCTURE.item):
        await place.look()
    place.forge.labels = frozenset({"coding agent"})  # its task comes soon
    await place.look()
    assert (place.forge.reruns, place.forge.edits) == ([], 0)


async def test_why_no_round_follows_is_shown_until_it_is_over() -> None:
    red, record = rounds(RED, 3)
    place = Place(red)
    place.shows(ASKED.model_copy(update={"rounds": record}))
    before = place.shown
    await place.look(3)
    assert "There were 3 rounds for failed checks" in place.shown or "which is the limit" in place.shown
    assert place.forge.edits == 1
    assert place.shown.count(MARKER) == 1
    place.forge.changes[8] = replace(red, checks=())
    await place.look(3)
    assert (place.shown, place.forge.edits) == (before, 2)


async def test_a_change_that_cannot_be_handled_holds_back_no_other() -> None:
    other = replace(RED, item=RED.item.model_copy(update={"number": 9}))
    place = Place(change(reviews=(review(),)), other)
    place.forge.broken = {8}
    await place.look()
    assert place.queued() is None
    assert place.queued(9) is not None


@pytest.mark.parametrize("permission", Permission)
@pytest.mark.parametrize("login", ["anna", "Anna-B"])
async def test_only_who_may_push_asks_for_a_round_and_the_forge_is_asked_once(
    permission: Permission, login: str
) -> None:
    """Whoever may only apply labels must not start paid work by a remark."""
    place = Place(change(reviews=(review(author=Actor("7", login)),)))
    place.forge.allowed = permission
    await place.look(3)
    assert (place.queued() is not None) is (permission >= Permission.WRITE)
    assert place.forge.asked_about == [login]


async def test_changes_beyond_what_a_forge_lists_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(RED)
    place.forge.lists_all = False
    await place.look(3)
    assert caplog.text.count("has more of our open changes than a scan lists: only 1 have rounds") == 1


class Counted(FakeForge):
    """Keeps which changes were read: a number, or `None` for all of them."""

    def __init__(self, *changes: ChangeSnapshot) -> None:
        super().__init__(*changes)
        self.read: list[int | None] = []
        self.was_read = asyncio.Event()

    async def open_changes(self) -> OpenChanges:
        self.read.append(None)
        self.was_read.set()
        return await super().open_changes()

    async def snapshot(self, item: Item) -> ChangeSnapshot:
        self.read.append(item.number)
        self.was_read.set()
        return await super().snapshot(item)


@pytest.mark.parametrize("is_regular", [True, False], ids=["looks regularly", "another one looks regularly"])
async def test_an_event_looks_at_the_change_that_it_names(
    monkeypatch: pytest.MonkeyPatch, is_regular: bool
) -> None:
    monkeypatch.setattr(looks_module, "_QUIET_S", 0.01)
    other = replace(RED, item=RED.item.model_copy(update={"number": 9}))
    place, stop = Place(RED, other), asyncio.Event()
    forge: Any = Counted(RED, other)
    place.forge = forge
    place.looks = ConsumerScans(SETTINGS, forge, place.source, place.sink)
    monkeypatch.setattr(place.source, "looks", AsyncMock(return_value=is_regular))
    running = asyncio.create_task(place.looks.run(stop))
    async with asyncio.timeout(60):
        if is_regular:
            await forge.was_read.wait()
        for _ in range(2):
            forge.was_read.clear()
            place.looks.ask(LookRequest(item=RED.item))
            await forge.was_read.wait()
        stop.set()
        await running
    assert forge.read == [*([None] if is_regular else []), 8, 8]
    assert (place.queued(9) is not None) is is_regular
    assert place.queued() is not None


async def test_a_process_that_never_looks_at_all_changes_forgets_those_that_it_knew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coding_agent_core.rounds.scan._KNOWN", 10)
    place = Place(*(replace(RED, item=RED.item.model_copy(update={"number": n})) for n in range(100)))
    for one in place.forge.changes.values():
        await place.looks.scan_change(one.item)
    assert len(place.looks._changes.open) <= 10
    assert place.queued(99) is not None
