"""The reporter's looks at a change without a run: none was needed yet, or all were deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from coding_agent_core.platforms import ItemKind
from coding_agent_core.reporting import comment, read_state
from coding_agent_core.rounds.record import RoundRecord
from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.operator import Reporter
from coding_agent_core.settings.rounds import Rounds
from coding_agent_core.tasks import Item, Submission, TaskRequest
from coding_agent_operator.reporter.reconcile_item import ForgeContext
from coding_agent_operator.reporter.round_looks import ReporterLooks

from tests.unit.consumer_rounds.test_looks import ASKED, INFRASTRUCTURE, RED, FakeForge
from tests.unit.core_reporting import making as reports
from tests.unit.core_rounds.making import NOON, rounds


class NoTasks:
    async def runs(self, _item: Item) -> tuple[()]:
        return ()


def looks(forge: FakeForge) -> ReporterLooks:
    parts: dict[str, Any] = {"forge": forge, "tasks": NoTasks(), "links": None, "sink": None}
    clock: dict[str, Any] = {"clock": lambda: NOON, "monotonic": lambda: 0.0}
    context = ForgeContext(labels=Labels(), settings=cast("Reporter", None), **parts, **clock)
    return ReporterLooks(context, Rounds(enabled=True), "coding-agent/", lambda _key: None)


async def test_why_no_round_follows_is_shown_until_it_is_over() -> None:
    red, record = rounds(RED, 3)
    forge = FakeForge(red)
    key = ItemKind.CHANGE, red.item.number
    before = comment(reports.report(ASKED.model_copy(update={"rounds": record})))
    forge.comments[key] = before.replace("\n", "\r\n")
    looked = looks(forge)
    for _ in range(3):
        await looked.look()
    assert "which is the limit" in forge.comments[key]
    assert forge.edits == 1
    state = read_state(forge.comments[key])
    assert state is not None
    assert state.rounds == record
    forge.changes[red.item.number] = replace(red, checks=())
    for _ in range(3):
        await looked.look()
    assert (forge.comments[key], forge.edits) == (before, 2)


class Sink:
    def __init__(self) -> None:
        self.asked: list[TaskRequest] = []

    async def submit(self, request: TaskRequest) -> Submission:
        self.asked.append(request)
        return Submission(task="t")


@pytest.mark.parametrize("closed", [True, False])
async def test_a_change_that_was_merged_after_it_was_read_has_no_round(closed: bool) -> None:
    forge, sink = FakeForge(RED), Sink()
    forge.closed = {RED.item.number} if closed else set()
    looked = looks(forge)
    looked.context = replace(looked.context, sink=cast("Any", sink))
    await looked.look()
    assert len(sink.asked) == (0 if closed else 1)


@pytest.mark.parametrize("is_shown", [True, False], ids=["with a comment", "without a comment"])
async def test_a_check_that_is_run_again_is_shown_with_what_the_change_waits_for(is_shown: bool) -> None:
    forge = FakeForge(INFRASTRUCTURE)
    key = ItemKind.CHANGE, INFRASTRUCTURE.item.number
    if is_shown:
        forge.comments[key] = comment(reports.report(ASKED))
    looked = looks(forge)
    for _ in range(3):
        await looked.look()
    assert forge.reruns == ["900"]
    assert "The forge was asked to run these checks again: CI / test." in forge.comments[key]
    state = read_state(forge.comments[key])
    assert len(((state and state.rounds) or RoundRecord()).reruns) == 1
    assert forge.edits == 1
