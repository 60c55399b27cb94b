"""What an attempt does if its item's history says that people have withdrawn its run."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import pytest
from coding_agent_consumer.item import run_check
from coding_agent_consumer.item.run_check import RunCheck
from coding_agent_core.errors import ForgeError, ForgeUnavailableError, WithdrawnError
from coding_agent_core.task.attempts import AttemptInput, Outcome
from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory, Position
from coding_agent_core.task.model import Cause, Item, Origin, TaskRequest, Trigger
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.reasons import Reason
from coding_agent_forges.rest.forge import Forge

from tests.unit.consumer.making import ITEM

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
BOT, PROCESSING, US, ALICE = "coding agent", "coding agent processing", "bot", "alice"
DONE = Outcome(reason=Reason.COMPLETED, message="Done.", branch="b")


def event(number: int, action: ItemAction, label: str = BOT, user: str = ALICE) -> ItemEvent:
    return ItemEvent(number, action, label, user, NOON)


APPLIED = event(3, ItemAction.LABELED)
SWAPPED = [event(4, ItemAction.LABELED, PROCESSING, US), event(5, ItemAction.UNLABELED, user=US)]
REMOVED = event(6, ItemAction.UNLABELED, PROCESSING)
CLOSED = event(6, ItemAction.CLOSED, "")
AGAIN = event(6, ItemAction.LABELED)


def shows(*events: ItemEvent, present: Sequence[str] = (), is_open: bool = True) -> ItemHistory:
    triggers, active = frozenset({BOT}), frozenset({BOT, PROCESSING})
    return ItemHistory(events, frozenset(present), is_open, triggers, active, US)


LABELED = shows(APPLIED, present=[BOT])
WORKING = shows(APPLIED, *SWAPPED, present=[PROCESSING])
BEHIND = shows(present=[])


@dataclass
class Histories:
    """A forge that shows one history after the other, and the last one for ever.

    Attributes:
        reads: the position after which each read asked for events.
    """

    found: list[ItemHistory | ForgeError]
    reads: list[str | None] = field(default_factory=list)

    async def item_history(self, _: Item, after: Position | None) -> ItemHistory:
        self.reads.append(None if after is None else str(after))
        history = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(history, ForgeError):
            raise history
        return history


def check_of(
    *found: ItemHistory | ForgeError, answered: str | None = None, cause: Cause | None = Cause.LABEL
) -> tuple[RunCheck, Histories]:
    forge = Histories(list(found))
    trigger = Trigger(origin=Origin.WEBHOOK, cause=cause, received_at=NOON)
    task = QueuedTask(uuid="t", run=1, request=TaskRequest(item=ITEM, trigger=trigger))
    given = AttemptInput(task=task, max_attempts=3, timeout_seconds=60, answered=answered)
    return RunCheck(cast(Forge, forge), ITEM, given), forge


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_check, "_BEHIND", 0.0)


async def test_the_first_read_says_what_the_run_answers_and_later_ones_go_on_from_there() -> None:
    check, forge = check_of(LABELED, WORKING)
    assert check.must_remember
    assert (await check()).position == Position((3,))
    assert not check.must_remember
    assert (await check()).position == Position((5,))
    assert forge.reads == [None, "3"]


async def test_a_run_that_the_reporter_has_read_already_goes_on_from_its_position() -> None:
    check, forge = check_of(WORKING, answered="3")
    assert not check.must_remember
    assert (await check()).position == Position((5,))
    assert forge.reads == ["3"]


async def test_what_an_earlier_run_has_answered_is_no_reason_for_this_one() -> None:
    check, _ = check_of(LABELED)
    check.remembered = Position((3,))
    assert (await check()).unsure
    with pytest.raises(WithdrawnError):
        await check(current=True)


@pytest.mark.parametrize(
    ("history", "closed", "answered"),
    [
        (shows(APPLIED, *SWAPPED, REMOVED), False, "6"),
        (shows(APPLIED, *SWAPPED, REMOVED, event(7, ItemAction.LABELED), present=[BOT]), False, "6"),
        (shows(APPLIED, *SWAPPED, CLOSED, present=[PROCESSING], is_open=False), True, "6"),
    ],
)
async def test_a_withdrawal_ends_the_attempt_and_says_what_it_answers(
    history: ItemHistory, closed: bool, answered: str
) -> None:
    check, _ = check_of(history, answered="3")
    with pytest.raises(WithdrawnError) as found:
        await check()
    assert (found.value.closed, found.value.answered) == (closed, answered)


async def test_a_command_works_without_a_label() -> None:
    check, _ = check_of(shows(), cause=Cause.COMMAND)
    assert await check.at_end(DONE) == DONE.model_copy(update={"answered": "0"})


async def test_at_its_end_a_run_answers_what_was_applied_during_its_work() -> None:
    check, _ = check_of(shows(APPLIED, *SWAPPED, AGAIN, present=[BOT, PROCESSING]), answered="3")
    assert await check.at_end(DONE) == DONE.model_copy(update={"answered": "6"})


async def test_a_history_without_new_events_leaves_what_the_run_answers() -> None:
    check, _ = check_of(WORKING, answered="5")
    assert (await check.at_end(DONE)).answered == "5"


async def test_work_that_was_withdrawn_by_its_end_is_no_result() -> None:
    check, _ = check_of(shows(APPLIED, *SWAPPED, REMOVED), answered="3")
    ended = await check.at_end(DONE)
    assert (ended.reason, ended.message, ended.answered) == (Reason.WITHDRAWN, "The label was removed.", "6")
    assert ended.branch == "b"


async def test_the_end_waits_for_a_history_that_is_behind() -> None:
    check, forge = check_of(BEHIND, BEHIND, LABELED)
    ended = await check.at_end(DONE)
    assert (ended.reason, ended.answered, len(forge.reads)) == (Reason.COMPLETED, "3", 3)


async def test_a_label_that_the_history_never_shows_was_not_applied() -> None:
    check, forge = check_of(BEHIND)
    ended = await check.at_end(DONE)
    assert (ended.reason, ended.answered, len(forge.reads)) == (Reason.WITHDRAWN, "0", 6)


async def test_a_forge_that_fails_at_the_end_does_not_lose_the_work(caplog: pytest.LogCaptureFixture) -> None:
    check, _ = check_of(ForgeUnavailableError("The forge is down."), answered="3")
    with caplog.at_level(logging.WARNING):
        assert await check.at_end(DONE) == DONE
    assert "may start another run: The forge is down." in caplog.text


async def test_a_forge_that_does_not_answer_at_the_end_does_not_hold_the_attempt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def never(*_: object) -> ItemHistory:
        await asyncio.Event().wait()
        raise AssertionError

    check, forge = check_of(LABELED)
    monkeypatch.setattr(forge, "item_history", never)
    monkeypatch.setattr(run_check, "_LAST_READS", 0.05)
    with caplog.at_level(logging.WARNING):
        assert await check.at_end(DONE) == DONE
    assert "no answer" in caplog.text
