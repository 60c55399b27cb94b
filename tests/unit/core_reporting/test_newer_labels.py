"""At its end a task takes off the label that asked for it, and leaves one that was applied afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from coding_agent_core.forge.base import Forge
from coding_agent_core.forge.values import Comment, ItemState, LabelEvent
from coding_agent_core.reporting import State, publish
from coding_agent_core.tasks import Item, Phase

from tests.unit.core_reporting import making

BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class ShownItem:
    """One item and its history."""

    def __init__(self, labels: set[str], history: Sequence[LabelEvent]) -> None:
        self.labels, self.history = labels, history

    async def upsert_comment(
        self, item: Item, marker: str, body: str, *, known: Comment | None = None
    ) -> Comment:
        return Comment("1", "coding-agent-bot", body, NOON)

    async def read_state(self, item: Item) -> ItemState:
        return ItemState(frozenset(self.labels), open=True)

    async def label_application(self, item: Item) -> LabelEvent | None:
        return next((event for event in self.history if event.added and event.label == BOT), None)

    async def add_label(self, item: Item, label: str) -> None:
        self.labels.add(label)

    async def remove_label(self, item: Item, label: str) -> bool:
        self.labels.discard(label)
        return True


def event(seconds: int, *, added: bool = True, label: str = BOT) -> LabelEvent:
    return LabelEvent(NOON + timedelta(seconds=seconds), "alice", label, added)


@pytest.mark.parametrize(
    ("history", "stays"),
    [
        ([event(-5)], False),
        ([event(0)], False),
        ([event(1)], True),
        ([event(0), event(0, added=False)], False),
        ([event(5, label=PROCESSING), event(-5)], False),
        ([], True),  # nobody knows
    ],
)
async def test_a_newer_label_stays_at_an_end(history: list[LabelEvent], stays: bool) -> None:
    for phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED):
        assert await labels_after(phase, history) - {DONE} == ({BOT, "bug"} if stays else {"bug"})
    assert await labels_after(Phase.RUNNING, history) == {PROCESSING, "bug"}, "its own, while it works"


async def labels_after(phase: Phase, history: list[LabelEvent]) -> set[str]:
    item = ShownItem({BOT, PROCESSING, "bug"}, history)
    await publish(cast("Forge", item), making.report(State(uuid="u", phase=phase)), answered_until=NOON)
    return item.labels
