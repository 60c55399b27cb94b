"""The consumer's claim: what becomes of a message, from what the item shows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from coding_agent_consumer.tasks import Abandon, Drop, Settle, Start, decide_start
from coding_agent_core.forge.values import ItemDetails
from coding_agent_core.messages import QueuedTask
from coding_agent_core.reasons import Reason
from coding_agent_core.reporting import State
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Origin, Phase, TaskRequest, Trigger

from tests.unit.consumer.making import ITEM
from tests.unit.consumer.making import details as item

BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
QUEUED, RUNNING, BACKOFF, SUCCEEDED, FAILED = (
    *(Phase.QUEUED, Phase.RUNNING, Phase.BACKOFF, Phase.SUCCEEDED, Phase.FAILED),
)


def message(attempt: int = 1, *, run: int = 1, origin: Origin = Origin.WEBHOOK) -> QueuedTask:
    trigger = Trigger(origin=origin, received_at=datetime(2026, 1, 2, tzinfo=UTC))
    return QueuedTask(request=TaskRequest(item=ITEM, trigger=trigger), uuid="own", run=run, attempt=attempt)


def own(phase: Phase, attempt: int = 1, *, run: int = 1) -> State:
    return State(uuid="own", phase=phase, attempt=attempt, run=run)


def other(phase: Phase, attempt: int = 1, *, run: int = 1) -> State:
    return State(uuid="other", phase=phase, attempt=attempt, run=run)


DROP, CANCEL, SETTLE = Drop, Reason.CANCELLED, Settle
CLOSED = item(PROCESSING, open=False)
CASES: dict[str, tuple[QueuedTask, ItemDetails, State | None, object]] = {
    # message, item, remembered state, expected: (run, attempt), or another end
    "the label is there: begin": (message(), item(BOT, "bug"), None, (1, 1)),
    "the label is gone, nothing begun: another task answered it": (message(), item(), None, DROP),
    "done by another task": (message(), item(DONE), other(SUCCEEDED), DROP),
    "another message of the application runs": (message(), item(PROCESSING), other(RUNNING), DROP),
    "applied again after the end: the next run": (message(), item(BOT, DONE), other(SUCCEEDED), (2, 1)),
    "applied again after a failure: the next run": (message(), item(BOT), other(FAILED, run=4), (5, 1)),
    "its run was counted by the queue already": (message(run=9), item(BOT), other(FAILED), (9, 1)),
    "closed before it began": (message(), item(BOT, open=False), None, DROP),
    "by hand, without a label": (message(origin=Origin.MANUAL), item(), None, (1, 1)),
    "own, ended, message delivered again": (message(), item(DONE), own(SUCCEEDED), SETTLE),
    "own, failed, message delivered again": (message(), item(), own(FAILED), SETTLE),
    "own, its consumer died before the labels": (message(), item(PROCESSING), own(FAILED), SETTLE),
    "own, its consumer died: the next attempt": (message(), item(PROCESSING), own(RUNNING), (1, 2)),
    "own, died before the label swap": (message(), item(BOT, PROCESSING), own(RUNNING), (1, 2)),
    "own, died in the last attempt": (message(3), item(PROCESSING), own(RUNNING, 3), Reason.INTERNAL),
    "own, the retry arrives": (message(2), item(PROCESSING), own(BACKOFF), (1, 2)),
    "own, the first message again after its retry": (message(), item(PROCESSING), own(BACKOFF), DROP),
    "own, the retry before the item said so": (message(2), item(PROCESSING), own(RUNNING), (1, 2)),
    "own, interrupted in good order": (message(2), item(PROCESSING), own(QUEUED, 2), (1, 2)),
    "own, the label was removed while it waited": (message(2), item("bug"), own(BACKOFF), CANCEL),
    "own, the item was closed while it waited": (message(2), CLOSED, own(BACKOFF), CANCEL),
    "own, shown as waiting": (message(), item(BOT), own(QUEUED, 0, run=3), (3, 1)),
    "own, the label was removed before it started": (message(), item("bug"), own(QUEUED, 0), CANCEL),
    "another of the application is shown as waiting": (message(), item(BOT), other(QUEUED, 0, run=3), (3, 1)),
    "another is shown as waiting, the label is gone": (message(), item(), other(QUEUED, 0), DROP),
}


@pytest.mark.parametrize(("queued", "details", "remembered", "expected"), CASES.values(), ids=CASES)
def test_claim(queued: QueuedTask, details: ItemDetails, remembered: State | None, expected: object) -> None:
    match decide_start(queued, details, remembered, Labels(), max_attempts=3):
        case Start(run, attempt):
            assert (run, attempt) == expected
        case Drop():
            assert expected is DROP
        case Settle(ended):
            assert expected is SETTLE
            assert ended is remembered
        case Abandon(_, reason, sentence):
            assert reason is expected
            assert sentence.endswith(".")


def test_a_further_attempt_is_told_why_the_last_one_ended() -> None:
    known = own(BACKOFF).model_copy(update={"retry_cause": "Attempt 1 ended."})
    decision = decide_start(message(2), item(PROCESSING), known, Labels(), 3)
    assert isinstance(decision, Start)
    assert decision.ended == "Attempt 1 ended."
    assert Start(run=2, attempt=1, previous=known, continues=False).ended == "", "another task's"


def test_a_task_that_only_waited_continues_nothing() -> None:
    waiting = own(QUEUED, 0)
    decision = decide_start(message(), item(BOT), waiting, Labels(), max_attempts=3)
    assert decision == Start(run=1, attempt=1, previous=waiting, continues=False)
