"""A task is a round only if its cause says so, and the history decides whose settings it has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_consumer.rounds.asked_by import round_refusal, round_user
from coding_agent_core.errors import ForgeListTooLongError, ForgeNotFoundError
from coding_agent_core.forge.values import Comment
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.model import Cause, Item, Origin, Trigger
from coding_agent_core.task.reasons import Reason
from coding_agent_forges.rest.calls import Read

from tests.unit.core_rounds.making import NOON, change

CHANGE = change().item
ISSUE = CHANGE.model_copy(update={"kind": ItemKind.ISSUE, "number": 7})


@pytest.mark.parametrize(
    ("cause", "enabled", "expected"),
    [
        (Cause.REVIEW, True, None),
        (Cause.CHECKS, True, None),
        (Cause.CONFLICT, True, None),
        (Cause.REVIEW, False, Reason.SUPERSEDED),
        (Cause.LABEL, True, Reason.NOT_AUTHORIZED),
        (Cause.LABEL, False, Reason.NOT_AUTHORIZED),
        (Cause.COMMAND, True, Reason.NOT_AUTHORIZED),
        (None, True, Reason.NOT_AUTHORIZED),
    ],
)
def test_a_task_is_a_round_only_if_its_cause_says_so_and_rounds_are_on(
    cause: Cause | None, enabled: bool, expected: Reason | None
) -> None:
    trigger = Trigger(origin=Origin.POLL, cause=cause, received_at=datetime.now(UTC))
    refused = round_refusal(trigger, enabled=enabled)
    assert (refused and refused.reason) == expected


class History:
    """Who applied the label, and who wrote what, by the number of the item."""

    def __init__(self, applied: dict[int, str], comments: dict[int, list[tuple[str, str]]]) -> None:
        self.applied, self.written, self.reads = applied, comments, 0
        self.left_out: tuple[str, ...] = ()

    async def whoami(self) -> str:
        return "Coding-Agent"

    async def label_application(self, item: Item) -> Any:
        if self.applied.get(item.number) == "gone":
            raise ForgeNotFoundError("gone")
        user = self.applied.get(item.number)
        return None if user is None else SimpleNamespace(user=user)

    async def comments(self, item: Item) -> Read[Comment]:
        self.reads += 1
        found = tuple(
            Comment("1", by, body, NOON, updated_at=NOON + timedelta(minutes=by == "Edited"))
            for by, body in self.written.get(item.number, [])
        )
        return Read(found, self.left_out)


@pytest.mark.parametrize(
    ("what", "claimed", "applied", "comments", "expected"),
    [
        ("the label of the issue", "anna", {7: "Anna"}, {}, "anna"),
        ("the label of the change", "olaf", {7: "anna", 8: "olaf"}, {}, "olaf"),
        ("a name that the history does not have", "boss", {7: "anna"}, {}, "anna"),
        ("a name that only talked", "boss", {7: "anna"}, {7: [("boss", "Nice. /run")]}, "anna"),
        ("a command on the issue", "boss", {7: "coding-agent"}, {7: [("Boss", "/run\nplease")]}, "boss"),
        ("a command on the change", "boss", {}, {8: [("boss", "/retry")]}, "boss"),
        ("a command of somebody else", "boss", {}, {8: [("anna", "/retry")]}, ""),
        ("a command that somebody may have edited", "edited", {7: "anna"}, {7: [("Edited", "/run")]}, "anna"),
        ("our own account", "coding-agent", {7: "coding-agent"}, {7: [("coding-agent", "/run")]}, ""),
        ("nobody", "", {}, {}, ""),
        ("nobody named", "", {7: "anna"}, {}, "anna"),
        ("a deleted issue", "boss", {7: "gone"}, {}, ""),
    ],
)
async def test_the_history_decides_whose_settings_a_round_has(
    what: str,
    claimed: str,
    applied: dict[int, str],
    comments: dict[int, list[tuple[str, str]]],
    expected: str,
) -> None:
    history: Any = History(applied, comments)
    assert await round_user(history, CHANGE, ISSUE, claimed) == expected, what


async def test_comments_are_read_only_if_the_labels_do_not_show_the_person() -> None:
    history: Any = History({7: "anna"}, {})
    await round_user(history, CHANGE, ISSUE, "anna")
    assert history.reads == 0


@pytest.mark.parametrize("applied", [{}, {7: "anna"}])
async def test_a_command_may_be_among_comments_that_were_not_read(applied: dict[int, str]) -> None:
    history: Any = History(applied, {8: [("boss", "/retry")]})
    history.left_out = ("older comments",)
    assert await round_user(history, CHANGE, ISSUE, "boss") == "boss"
    with pytest.raises(ForgeListTooLongError, match="If olaf applies the label"):
        await round_user(history, CHANGE, ISSUE, "olaf")
