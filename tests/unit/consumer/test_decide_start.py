"""The consumer's claim: what becomes of a message, from what the item shows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from coding_agent_consumer.tasks import Abandon, Drop, Settle, Start, decide_start
from coding_agent_core.forge.values import ItemDetails
from coding_agent_core.messages import QueuedTask
from coding_agent_core.platforms import ItemKind
from coding_agent_core.reasons import Reason
from coding_agent_core.registry import Platform
from coding_agent_core.reporting import State
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Item, Origin, Phase, TaskRequest, Trigger

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ITEM = Item(platform=Platform.GITHUB, host="github.com", repository="o/r", kind=ItemKind.ISSUE, number=7)
BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
OWN, OTHER = "uuid-own", "uuid-other"


def message(*, attempt: int = 1, run: int = 1, origin: Origin = Origin.WEBHOOK) -> QueuedTask:
    return QueuedTask(
        request=TaskRequest(item=ITEM, trigger=Trigger(origin=origin, received_at=NOW)),
        uuid=OWN,
        run=run,
        attempt=attempt,
    )


def item(*labels: str, is_open: bool = True) -> ItemDetails:
    return ItemDetails(
        item=ITEM,
        title="t",
        body="",
        author="a",
        url="u",
        labels=frozenset(labels),
        open=is_open,
        base_branch="main",
    )


def state(uuid: str, phase: Phase, *, attempt: int = 1, run: int = 1) -> State:
    return State(uuid=uuid, phase=phase, attempt=attempt, run=run)


DROP, END, SETTLE = Drop, Abandon, Settle

CASES = [
    # what, message, item, remembered state, expected (run, attempt)
    ("the label is there: begin", message(), item(BOT, "bug"), None, (1, 1)),
    ("the label is gone, nothing begun: another task answered it", message(), item(), None, DROP),
    ("done by another task", message(), item(DONE), state(OTHER, Phase.SUCCEEDED), DROP),
    (
        "another message of the same application runs",
        message(),
        item(PROCESSING),
        state(OTHER, Phase.RUNNING),
        DROP,
    ),
    (
        "applied again after the end: the next run",
        message(),
        item(BOT, DONE),
        state(OTHER, Phase.SUCCEEDED),
        (2, 1),
    ),
    (
        "applied again after a failure: the next run",
        message(),
        item(BOT),
        state(OTHER, Phase.FAILED, run=4),
        (5, 1),
    ),
    (
        "its run was counted by the queue already",
        message(run=9),
        item(BOT),
        state(OTHER, Phase.FAILED),
        (9, 1),
    ),
    ("closed before it began", message(), item(BOT, is_open=False), None, DROP),
    ("by hand, without a label", message(origin=Origin.MANUAL), item(), None, (1, 1)),
    ("own, ended, message delivered again", message(), item(DONE), state(OWN, Phase.SUCCEEDED), SETTLE),
    ("own, failed, message delivered again", message(), item(), state(OWN, Phase.FAILED), SETTLE),
    (
        "own, failed, its consumer died before the labels",
        message(),
        item(PROCESSING),
        state(OWN, Phase.FAILED),
        SETTLE,
    ),
    (
        "own, its consumer died: the next attempt",
        message(),
        item(PROCESSING),
        state(OWN, Phase.RUNNING),
        (1, 2),
    ),
    (
        "own, died between comment and label swap",
        message(),
        item(BOT, PROCESSING),
        state(OWN, Phase.RUNNING),
        (1, 2),
    ),
    (
        "own, died in the last attempt",
        message(attempt=3),
        item(PROCESSING),
        state(OWN, Phase.RUNNING, attempt=3),
        (END, Reason.INTERNAL),
    ),
    (
        "own, the retry arrives",
        message(attempt=2),
        item(PROCESSING),
        state(OWN, Phase.BACKOFF),
        (1, 2),
    ),
    (
        "own, the first message again after its retry was queued",
        message(attempt=1),
        item(PROCESSING),
        state(OWN, Phase.BACKOFF),
        DROP,
    ),
    (
        "own, the retry arrives before the item said so",
        message(attempt=2),
        item(PROCESSING),
        state(OWN, Phase.RUNNING),
        (1, 2),
    ),
    (
        "own, interrupted in good order: costs no attempt",
        message(attempt=2),
        item(PROCESSING),
        state(OWN, Phase.QUEUED, attempt=2),
        (1, 2),
    ),
    (
        "own, the label was removed while it waited",
        message(attempt=2),
        item("bug"),
        state(OWN, Phase.BACKOFF),
        (END, Reason.CANCELLED),
    ),
    (
        "own, the item was closed while it waited",
        message(attempt=2),
        item(PROCESSING, is_open=False),
        state(OWN, Phase.BACKOFF),
        (END, Reason.CANCELLED),
    ),
    ("own, shown as waiting", message(), item(BOT), state(OWN, Phase.QUEUED, attempt=0, run=3), (3, 1)),
    (
        "own, the label was removed before it started",
        message(),
        item("bug"),
        state(OWN, Phase.QUEUED, attempt=0),
        (END, Reason.CANCELLED),
    ),
    (
        "another message of the same application is shown as waiting: the same run",
        message(),
        item(BOT),
        state(OTHER, Phase.QUEUED, attempt=0, run=3),
        (3, 1),
    ),
    (
        "another message is shown as waiting, the label is gone",
        message(),
        item(),
        state(OTHER, Phase.QUEUED, attempt=0),
        DROP,
    ),
]


def test_a_further_attempt_is_told_why_the_last_one_ended() -> None:
    known = state(message(attempt=2).uuid, Phase.BACKOFF).model_copy(
        update={"retry_cause": "Attempt 1 ended."}
    )
    decision = decide_start(message(attempt=2), item(PROCESSING), known, Labels(), 3)
    assert isinstance(decision, Start)
    assert decision.ended == "Attempt 1 ended."
    other = Start(run=2, attempt=1, previous=known, continues=False)
    assert other.ended == "", "another task's"


def test_a_task_that_only_waited_continues_nothing() -> None:
    waiting = state(OWN, Phase.QUEUED, attempt=0)
    decision = decide_start(message(), item(BOT), waiting, Labels(), max_attempts=3)
    assert decision == Start(run=1, attempt=1, previous=waiting, continues=False)


@pytest.mark.parametrize(
    ("queued", "details", "remembered", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_claim(queued: QueuedTask, details: ItemDetails, remembered: State | None, expected: object) -> None:
    decision = decide_start(queued, details, remembered, Labels(), max_attempts=3)
    match decision:
        case Start(run, attempt):
            assert (run, attempt) == expected
        case Drop():
            assert expected is DROP
        case Settle(ended):
            assert expected is SETTLE
            assert ended is remembered
        case Abandon(_, reason, sentence):
            assert (END, reason) == expected
            assert sentence.endswith(".")
