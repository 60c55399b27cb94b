"""The consumer's claim and an issue's branch: what becomes of a message, from what the item shows."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_consumer.item.forge_tasks import (
    Abandon,
    Drop,
    ForgeTask,
    ReportAgain,
    Start,
    branch_for,
    decide_start,
    work_branch,
)
from coding_agent_core.forge.values import ItemDetails
from coding_agent_core.reporting.comment import State, read_state
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import (
    Item,
    Origin,
    Phase,
    TaskRequest,
    Trigger,
    WithdrawalCause,
    answered_issue,
)
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_record import RoundEnd, RoundRecord
from coding_agent_core.task.round_report import recorded, trigger_of

from tests.unit.consumer.making import ITEM
from tests.unit.consumer.making import details as item
from tests.unit.core_task.test_stored_rounds import CHECKS

OWN = "coding-agent/b"


@pytest.mark.parametrize(
    ("what", "previous", "continues", "change_open", "run", "expected"),
    [
        ("first run", None, False, False, 1, "coding-agent/issue-7"),
        ("next attempt", (OWN, None), True, False, 1, OWN),
        ("next attempt after the change was merged", (OWN, "url"), True, False, 1, OWN),
        ("next run, change open: one change per issue", (OWN, "url"), False, True, 2, OWN),
        ("the prefix was changed", ("old/issue-7", "url"), False, True, 2, "coding-agent/issue-7"),
        ("next run, change merged", (OWN, "url"), False, False, 2, "coding-agent/issue-7-r2"),
        ("third run, merged", ("coding-agent/issue-7-r2", "url"), False, False, 3, "coding-agent/issue-7-r3"),
        ("next run after a failure that pushed", (OWN, None), False, False, 2, OWN),
    ],
)
def test_work_branch(
    what: str,
    previous: tuple[str, str | None] | None,
    continues: bool,
    change_open: bool,
    run: int,
    expected: str,
) -> None:
    known = previous and State(uuid="x", phase=Phase.FAILED, branch=previous[0], change_url=previous[1])
    flags = {"continues": continues, "previous_change_open": change_open}
    branch = work_branch("coding-agent/", ITEM, run=run, previous=known or None, **flags)
    assert branch == expected, what
    assert answered_issue(branch, "coding-agent/") == (None if branch == OWN else ITEM.number)


OWN_CHANGE: dict[str, Any] = {"branch": "coding-agent/issue-7", "change_url": "url"}


class OpenChanges:
    """Stands for a forge with open changes from these branches; it keeps what was asked."""

    def __init__(self, *branches: str) -> None:
        self.branches = branches
        self.asked: list[str] = []

    async def find_change(self, item: Item, *, branch: str) -> object | None:
        self.asked.append(branch)
        return object() if branch in self.branches else None


@pytest.mark.parametrize(
    ("shown", "run", "open_one", "expected", "lookups"),
    [
        ((Phase.RUNNING, OWN_CHANGE), 3, "coding-agent/issue-7-r2", "coding-agent/issue-7-r2", 2),
        ((Phase.SUCCEEDED, OWN_CHANGE), 4, "coding-agent/issue-7-r3", "coding-agent/issue-7-r3", 2),
        ((Phase.RUNNING, OWN_CHANGE), 3, "", "coding-agent/issue-7-r3", 2),
        ((Phase.SUCCEEDED, OWN_CHANGE), 3, "", "coding-agent/issue-7-r3", 2),
        # Run 2 was cancelled before it was recorded that it had opened a change.
        ((Phase.CANCELLED, OWN_CHANGE), 3, "coding-agent/issue-7-r2", "coding-agent/issue-7-r2", 2),
        ((Phase.SUCCEEDED, OWN_CHANGE), 3, "coding-agent/issue-7", "coding-agent/issue-7", 1),
        ((Phase.SUCCEEDED, OWN_CHANGE), 30, "", "coding-agent/issue-7-r30", 6),
        # The comment was written before run 2 pushed anything, or it shows a branch without a change.
        ((Phase.QUEUED, {}), 4, "coding-agent/issue-7-r3", "coding-agent/issue-7-r3", 1),
        ((Phase.FAILED, {}), 3, "", "coding-agent/issue-7", 2),
        (
            (Phase.FAILED, {"branch": "coding-agent/issue-7"}),
            4,
            "coding-agent/issue-7-r3",
            *("coding-agent/issue-7-r3", 1),
        ),
        # There is no comment: the reporter has written none yet, or a person deleted it.
        (None, 1, "", "coding-agent/issue-7", 0),
        (None, 3, "coding-agent/issue-7-r2", "coding-agent/issue-7-r2", 1),
        (None, 3, "", "coding-agent/issue-7", 2),
        (None, 30, "", "coding-agent/issue-7", 5),
    ],
)
async def test_a_run_that_the_comment_does_not_show_yet_has_the_issues_change(
    shown: tuple[Phase, dict[str, Any]] | None, run: int, open_one: str, expected: str, lookups: int
) -> None:
    forge: Any = OpenChanges(open_one)
    previous = State(uuid="x", run=2, phase=shown[0], **shown[1]) if shown else None
    branch = await branch_for(forge, ITEM, "coding-agent/", run=run, previous=previous, continues=False)
    assert branch == expected
    assert len(forge.asked) == lookups


async def test_a_run_that_the_comment_shows_as_waiting_has_the_change_of_a_run_whose_end_was_lost() -> None:
    forge: Any = OpenChanges("coding-agent/issue-7-r3")
    previous = State(uuid="x", run=4, phase=Phase.QUEUED, **OWN_CHANGE)
    branch = await branch_for(forge, ITEM, "coding-agent/", run=4, previous=previous, continues=False)
    assert branch == "coding-agent/issue-7-r3"


class Shown:
    """Stands for a forge that shows one comment."""

    body = ""

    async def upsert_comment(self, item: Item, marker: str, body: str) -> None:
        self.body = body

    async def read_state(self, item: Item) -> Any:
        return SimpleNamespace(labels=frozenset())

    async def add_label(self, item: Item, label: str) -> None: ...


async def test_the_comment_of_a_further_attempt_says_why_there_is_one() -> None:
    shown: Any = Shown()
    task = ForgeTask(shown, ITEM, Labels(), State(uuid="x", phase=Phase.RUNNING, branch="b"), max_attempts=3)
    await task.prepare()
    assert "ended with" not in shown.body
    await task.comment(
        Phase.BACKOFF, outcome=Outcome(reason=Reason.MODEL_UNAVAILABLE, message="The model is down.")
    )
    remembered = read_state(shown.body)
    assert remembered is not None
    task = ForgeTask(shown, ITEM, Labels(), remembered.model_copy(update={"attempt": 2}), max_attempts=3)
    await task.prepare()
    assert "Attempt 1 ended with the reason ModelUnavailable: The model is down." in shown.body


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


def had(state: State, rounds: RoundRecord) -> State:
    """The same with a record of rounds."""
    return state.model_copy(update={"rounds": rounds})


DROP, CANCEL, SETTLE = Drop, Reason.CANCELLED, ReportAgain
CLOSED = item(PROCESSING, open=False)
CASES: dict[str, tuple[QueuedTask, ItemDetails, State | None, object]] = {
    # message, item, remembered state, expected: (run, attempt), or another end
    "the label is there: begin": (message(), item(BOT, "bug"), None, (1, 1)),
    "the label is gone, nothing begun: another task answered it": (message(), item(), None, DROP),
    "somebody deleted the comment, and the consumer died": (message(), item(PROCESSING), None, (1, 1)),
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
    "own, died in the attempt before the last": (message(2), item(PROCESSING), own(RUNNING, 2), (1, 3)),
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


A_ROUND = trigger_of(CHECKS, datetime(2026, 1, 2, tzinfo=UTC))[1]
RECORD = recorded(RoundRecord(), A_ROUND, None, RoundEnd.NO_PUSH)


def of_round(attempt: int = 1) -> QueuedTask:
    queued = message(attempt)
    trigger = queued.request.trigger.model_copy(update={"round": A_ROUND})
    return queued.model_copy(update={"request": queued.request.model_copy(update={"trigger": trigger})})


CASES |= {
    "a round needs no label": (of_round(), item(), None, (1, 1)),
    "a round of a closed change": (of_round(), item(open=False), None, DROP),
    "a round after a task": (of_round(), item(DONE), other(SUCCEEDED, run=4), (5, 1)),
    "a round for which there was one": (of_round(), item(), had(other(SUCCEEDED), RECORD), DROP),
    "a round after another one": (of_round(), item(), had(other(SUCCEEDED), RoundRecord()), (2, 1)),
    "another task works, or waits for its next attempt": (of_round(), item(), other(BACKOFF), DROP),
    "another message of the round is shown as waiting": (of_round(), item(), other(QUEUED, 0), (1, 1)),
    "a round, shown as waiting": (of_round(), item(), own(QUEUED, 0), (1, 1)),
    "a round, its consumer died": (of_round(), item(PROCESSING), own(RUNNING), (1, 2)),
    "a round, its label was removed": (of_round(), item(), own(RUNNING), WithdrawalCause.UNLABELED),
    "a round, closed while it waited": (of_round(), CLOSED, own(BACKOFF), WithdrawalCause.CLOSED),
    "a round, left to people": (of_round(), item("hands OFF"), None, DROP),
    "a round, left to people while it waited": (
        of_round(),
        item("hands OFF", PROCESSING),
        own(QUEUED, 0),
        WithdrawalCause.HANDS_OFF,
    ),
    "a label on a change that is left to people": (message(), item(BOT, "hands OFF"), None, (1, 1)),
    "a round, ended, delivered again": (of_round(), item(), had(own(SUCCEEDED), RECORD), SETTLE),
    "a label after a round": (message(), item(BOT), had(other(SUCCEEDED), RECORD), (2, 1)),
}


@pytest.mark.parametrize(("queued", "details", "remembered", "expected"), CASES.values(), ids=CASES)
def test_claim(queued: QueuedTask, details: ItemDetails, remembered: State | None, expected: object) -> None:
    match decide_start(queued, details, remembered, Labels(), 3, hands_off_label="Hands off"):
        case Start(run, attempt):
            assert (run, attempt) == expected
        case Drop():
            assert expected is DROP
        case ReportAgain(ended):
            assert expected is SETTLE
            assert ended is remembered
        case Abandon(_, reason, sentence, cause):
            assert expected in (reason, cause)
            assert sentence.endswith(".")


def test_a_further_attempt_is_told_why_the_last_one_ended() -> None:
    known = own(BACKOFF).model_copy(update={"retry_cause": "Attempt 1 ended."})
    decision = decide_start(message(2), item(PROCESSING), known, Labels(), 3, hands_off_label="x")
    assert isinstance(decision, Start)
    assert decision.ended == "Attempt 1 ended."
    assert Start(run=2, attempt=1, previous=known, continues=False).ended == "", "another task's"


def test_a_task_that_only_waited_continues_nothing() -> None:
    waiting = own(QUEUED, 0)
    decision = decide_start(message(), item(BOT), waiting, Labels(), 3, hands_off_label="x")
    assert decision == Start(run=1, attempt=1, previous=waiting, continues=False)
