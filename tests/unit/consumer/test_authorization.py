"""Who may ask for a task: a table of who applied the label, how we know it, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from coding_agent_consumer.tasks import Approval, approval_of, refusal
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.forge.base import Forge
from coding_agent_core.forge.values import LabelEvent, Permission
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.settings.model import Authorize
from coding_agent_core.tasks import Cause, Item, Origin, TaskRequest, Trigger

NOW = datetime(2026, 11, 26, tzinfo=UTC)
ITEM = Item(
    platform=Platform.GITHUB, host="github.com", repository="acme/pricing", kind=ItemKind.ISSUE, number=1
)
WRITE = "but only people with write access to acme/pricing may ask for a task."


@dataclass
class People:
    """The part of `Forge` that is asked; `applied_by` is in the item's history."""

    applied_by: str | None = None
    asked: list[str] = field(default_factory=list)
    histories: int = 0

    async def whoami(self) -> str:
        return "Coding-Agent-Bot"

    async def permission(self, item: Item, user: str) -> Permission:
        self.asked.append(user)
        if user == "unreachable":
            raise ForgeUnavailableError("github.com does not answer")
        return {"alice": Permission.WRITE, "triager": Permission.TRIAGE}.get(user, Permission.NONE)

    async def label_application(self, item: Item) -> LabelEvent | None:
        self.histories += 1
        return (
            None if self.applied_by is None else LabelEvent(NOW, self.applied_by, "coding agent", added=True)
        )


def request(user: str, origin: Origin = Origin.WEBHOOK, cause: Cause | None = Cause.LABEL) -> TaskRequest:
    return TaskRequest(item=ITEM, user=user, trigger=Trigger(origin=origin, cause=cause, received_at=NOW))


async def refused(
    given: TaskRequest,
    authorize: Authorize = Authorize.WRITE,
    people: People | None = None,
    *,
    own_label_counts: bool = False,
) -> str | None:
    forge = cast(Forge, people or People(applied_by=given.user or None))
    user = (await approval_of(forge, ITEM, given)).user
    return await refusal(forge, ITEM, given.trigger, user, authorize, own_label_counts=own_label_counts)


@pytest.mark.parametrize(
    ("user", "authorize", "may"),
    [
        ("alice", Authorize.WRITE, True),
        ("triager", Authorize.WRITE, False),
        ("reader", Authorize.WRITE, False),
        ("alice", Authorize.TRIAGE, True),
        ("triager", Authorize.TRIAGE, True),
        ("reader", Authorize.TRIAGE, False),
        ("reader", Authorize.ANYONE, True),
    ],
)
async def test_the_permission_decides(user: str, authorize: Authorize, may: bool) -> None:
    for origin in (Origin.WEBHOOK, Origin.POLL, Origin.REDELIVERY):
        why = await refused(request(user, origin), authorize)
        assert (why is None) is may
        if why is not None:
            assert why.startswith(f"{user} applied the label, but only people with {authorize} access to")


@pytest.mark.parametrize("authorize", Authorize)
async def test_a_label_of_our_own_account_starts_nothing_unless_commands_apply_it(
    authorize: Authorize,
) -> None:
    given = request("coding-agent-bot")
    assert await refused(given, authorize) == (
        "The agent's own account applied the label. Only people start tasks."
    )
    assert await refused(given, authorize, own_label_counts=True) is None


async def test_anyone_needs_no_request() -> None:
    people = People(applied_by="reader")
    assert await refused(request("reader"), Authorize.ANYONE, people) is None
    assert people.asked == []


async def test_who_writes_agent_tasks_has_the_clusters_permission() -> None:
    assert await refused(request("", Origin.MANUAL, None)) is None


async def test_the_author_of_a_command_is_asked_about() -> None:
    given = request("reader", Origin.MANUAL, Cause.COMMAND)
    assert await refused(given, people=People(applied_by="alice")) is not None


@pytest.mark.parametrize(
    ("user", "applied_by", "expected"),
    [
        ("reader", "alice", None),
        ("alice", "reader", f"reader applied the label, {WRITE}"),
        ("alice", None, None),
        ("", "alice", None),
        ("", None, f"It is not known who applied the label, {WRITE}"),
        ("", "", f"It is not known who applied the label, {WRITE}"),
    ],
)
async def test_a_message_of_the_polling_agent_names_the_author_so_the_history_decides(
    user: str, applied_by: str | None, expected: str | None
) -> None:
    assert await refused(request(user, Origin.MANUAL), people=People(applied_by)) == expected


@pytest.mark.parametrize(
    ("user", "applied_by", "expected"),
    [
        ("alice", "reader", f"reader applied the label, {WRITE}"),
        ("reader", "alice", None),
        ("alice", None, f"It is not known who applied the label, {WRITE}"),
        ("alice", "", f"It is not known who applied the label, {WRITE}"),
    ],
)
@pytest.mark.parametrize("origin", [Origin.WEBHOOK, Origin.POLL, Origin.REDELIVERY])
async def test_the_history_decides_and_not_what_the_task_says(
    origin: Origin, user: str, applied_by: str | None, expected: str | None
) -> None:
    """Whoever has the receiver's token can write any name into a task."""
    assert await refused(request(user, origin), people=People(applied_by)) == expected


BEFORE = NOW - timedelta(hours=1)
"""What the task says of its time; only a command has no other."""


@pytest.mark.parametrize(
    ("origin", "cause", "applied_by", "expected"),
    [
        (Origin.WEBHOOK, Cause.LABEL, "alice", Approval("alice", NOW)),
        (Origin.POLL, Cause.LABEL, "alice", Approval("alice", NOW)),
        (Origin.WEBHOOK, Cause.LABEL, None, Approval("", None)),
        (Origin.MANUAL, Cause.LABEL, "alice", Approval("alice", NOW)),
        (Origin.MANUAL, Cause.LABEL, None, Approval("reader", None)),
        (Origin.MANUAL, Cause.COMMAND, "alice", Approval("reader", BEFORE, "command")),
        (Origin.MANUAL, None, "alice", Approval("reader", None)),
    ],
)
async def test_a_label_approves_when_it_was_applied_and_a_command_when_it_was_written(
    origin: Origin, cause: Cause | None, applied_by: str | None, expected: Approval
) -> None:
    given = request("reader", origin, cause)
    trigger = given.trigger.model_copy(update={"labeled_at": BEFORE})
    people = People(applied_by)
    approval = await approval_of(cast(Forge, people), ITEM, given.model_copy(update={"trigger": trigger}))
    assert approval == expected
    assert people.histories == (cause is Cause.LABEL)


async def test_a_forge_that_does_not_answer_is_no_permission() -> None:
    with pytest.raises(ForgeUnavailableError):
        await refused(request("unreachable"))
