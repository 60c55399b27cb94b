"""Which comments are commands, and what each comes to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.command_execution import reason_not_to_run
from coding_agent_core.task.commands import IssueCommand, command_in
from coding_agent_core.task.model import CommandName, Item, Phase

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


ITEM = Item(
    platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.ISSUE, number=7
)


def minutes(count: float) -> datetime:
    return T0 + timedelta(minutes=count)


def command(name: CommandName = CommandName.RUN, at: datetime | None = None, **more: Any) -> IssueCommand:
    given = {"comment": "99", "user": "alice", "delivery_id": "d-1", "received_at": T0, **more}
    return IssueCommand(item=ITEM, name=name, at=at, **given)


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
