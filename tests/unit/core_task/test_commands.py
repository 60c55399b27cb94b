"""Which comments are commands, and what each comes to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.command_execution import reason_not_to_run
from coding_agent_core.task.admission import Cancel, Create, Duplicate, Keep, LatestTask, admit, withdraw
from coding_agent_core.task.commands import IssueCommand, command_in
from coding_agent_core.task.model import CommandName, Item, Origin, Phase

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


ITEM = Item(
    platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.ISSUE, number=7
)


def minutes(count: float) -> datetime:
    return T0 + timedelta(minutes=count)


def command(name: CommandName = CommandName.RUN, at: datetime | None = None, **more: Any) -> IssueCommand:
    given = {"comment": "99", "user": "alice", "delivery_id": "d-1", "received_at": T0, **more}
    return IssueCommand(item=ITEM, name=name, at=at, **given)


def latest(*, terminal: bool = False, cancel: bool = False, labeled: float = 0) -> LatestTask:
    return LatestTask("task", 1, terminal, cancel, True, minutes(labeled))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *(("/cancel", "cancel"), ("/retry", "retry"), ("/run", "run")),
        *((text, "run") for text in ("/run  \t", "/run\r\nlook at the tests first", "/run\n/cancel")),
        *((text, None) for text in ("", "run", "/status", "/Run", "/run now", "/running", "/run/", "/ run")),
        *((text, None) for text in (" /run", "\n/run", "> /run", "please /run", "`/run`")),
        *((text, None) for text in ("/run\u00a0", "/run\u2028/cancel")),
    ],
)
def test_a_command_is_a_comment_whose_first_line_is_exactly_it(text: str, name: str | None) -> None:
    assert command_in(text, tuple(CommandName)) == name
    assert command_in(text, (CommandName.CANCEL,)) == (name if name == "cancel" else None)


CANCEL, RETRY, RUN = CommandName.CANCEL, CommandName.RETRY, CommandName.RUN


@pytest.mark.parametrize(
    ("name", "phase", "reason"),
    [
        (RUN, None, None),
        (RUN, Phase.RUNNING, None),  # admission says that it is a duplicate
        (RUN, Phase.SUCCEEDED, None),
        (RETRY, Phase.FAILED, None),
        (RETRY, Phase.CANCELLED, None),
        (RETRY, Phase.SUCCEEDED, "the last task succeeded; /run starts another"),
        (RETRY, Phase.RUNNING, "the item's task has not ended"),
        (RETRY, None, "there is no task to retry; /run starts one"),
    ],
)
def test_when_a_run_is_not_even_requested(name: CommandName, phase: Phase | None, reason: str | None) -> None:
    assert reason_not_to_run(name, phase) == reason


@pytest.mark.parametrize(
    ("at", "task", "run"),
    [
        (minutes(5), None, 1),
        (None, latest(terminal=True), 2),
        (minutes(5), latest(cancel=True), 2),
        (minutes(5), latest(), None),
        (minutes(5), latest(terminal=True, labeled=6), None),  # delivered late
    ],
)
def test_a_run_that_is_asked_for_goes_through_admission(
    at: datetime | None, task: LatestTask | None, run: int | None
) -> None:
    request = command(at=at).request(None)
    assert (request.trigger.origin, request.user) == (Origin.MANUAL, "alice")
    decision = admit(request.trigger, task)
    assert (decision.run if isinstance(decision, Create) else None) == run


def test_the_same_comment_never_makes_two_runs_whatever_delivery_tells_of_it() -> None:
    first = command(at=minutes(5)).request(None).trigger
    again = command(at=minutes(5), delivery_id="d-2").request(None).trigger
    assert first.delivery_id is not None
    made = LatestTask("t", 2, True, False, True, T0, None, frozenset({first.delivery_id}))
    assert isinstance(admit(again, made), Duplicate)


def test_a_cancel_that_is_older_than_the_label_cancels_nothing() -> None:
    assert withdraw(command(CANCEL, minutes(1)).withdrawal(), latest()) == Cancel("task", minutes(1))
    assert isinstance(withdraw(command(CANCEL, minutes(1)).withdrawal(), latest(labeled=2)), Keep)
