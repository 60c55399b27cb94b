"""B3: which comments are commands, and what each comes to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.admission import Cancel, Create, Duplicate, Keep, LatestTask, admit, withdraw
from coding_agent_core.command_execution import reason_not_to_run
from coding_agent_core.commands import CommandName, IssueCommand, command_in
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.tasks import Item, Origin, Phase

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def minutes(count: float) -> datetime:
    return T0 + timedelta(minutes=count)


def command(name: CommandName = CommandName.RUN, at: datetime | None = None) -> IssueCommand:
    item = Item(
        platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.ISSUE, number=7
    )
    return IssueCommand(
        item=item, name=name, comment="99", user="alice", at=at, delivery_id="d-1", received_at=T0
    )


def latest(*, terminal: bool = False, cancel: bool = False, labeled: float = 0) -> LatestTask:
    return LatestTask("task", 1, terminal, cancel, True, minutes(labeled))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/cancel", "cancel"),
        ("/retry", "retry"),
        ("/run", "run"),
        ("/status", None),
        ("/run  \t", "run"),
        ("/run\r\nplease look at the tests first", "run"),
        ("/run\n/cancel", "run"),
        ("", None),
        ("run", None),
        (" /run", None),
        ("\n/run", None),
        ("> /run", None),
        ("/Run", None),
        ("/run now", None),
        ("/running", None),
        ("/run/", None),
        ("/ run", None),
        ("please /run", None),
        ("`/run`", None),
        ("/run\u00a0", None),
        ("/run\u2028/cancel", None),
        ("/help", None),
    ],
)
def test_a_command_is_a_comment_whose_first_line_is_exactly_it(text: str, name: str | None) -> None:
    assert command_in(text, tuple(CommandName)) == name


def test_only_those_that_are_allowed_are_commands() -> None:
    assert command_in("/run", (CommandName.CANCEL,)) is None
    assert command_in("/cancel", (CommandName.CANCEL,)) is CommandName.CANCEL


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
        (minutes(5), latest(terminal=True), 2),
        (None, latest(terminal=True), 2),
        (minutes(5), latest(cancel=True), 2),
        (minutes(5), latest(), None),
        # Told late, e.g. by a redelivery: the task that ended is newer than the comment.
        (minutes(5), latest(terminal=True, labeled=6), None),
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
    again = command(at=minutes(5)).model_copy(update={"delivery_id": "d-2"}).request(None).trigger
    assert first.delivery_id is not None
    made = LatestTask("t", 2, True, False, True, T0, None, frozenset({first.delivery_id}))
    assert isinstance(admit(again, made), Duplicate)


def test_a_cancel_that_is_older_than_the_label_cancels_nothing() -> None:
    assert withdraw(command(CANCEL, minutes(1)).withdrawal(), latest()) == Cancel("task", minutes(1))
    assert isinstance(withdraw(command(CANCEL, minutes(1)).withdrawal(), latest(labeled=2)), Keep)
