"""Who may ask for a task: a table of who applied the label, how we know it, and what they may do."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast
from urllib.parse import urlsplit

import pytest
from coding_agent_consumer.item.forge_tasks import Approval, approval_of, person_refusal
from coding_agent_consumer.workspace.egress import Identities
from coding_agent_core.errors import ForgeUnavailableError, SettingsError
from coding_agent_core.forge.values import LabelEvent, Permission
from coding_agent_core.settings.model import Authorize, Settings
from coding_agent_core.task.egress import is_valid, job_of, profile_of
from coding_agent_core.task.model import Cause, Item, Origin, TaskRequest, Trigger
from coding_agent_forges.rest.forge import Forge

from tests.unit.consumer.making import ITEM

NOW = datetime(2026, 11, 26, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=1)
"""What the task says of its time; only a command has no other."""
WRITE = "but only people with write access to o/r may ask for a task."


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
        user = self.applied_by
        return None if user is None else LabelEvent(NOW, user, "coding agent", added=True)


def request(user: str, origin: Origin = Origin.WEBHOOK, cause: Cause | None = Cause.LABEL) -> TaskRequest:
    trigger = Trigger(origin=origin, cause=cause, received_at=NOW, labeled_at=BEFORE)
    return TaskRequest(item=ITEM, user=user, trigger=trigger)


async def refused(
    given: TaskRequest,
    authorize: Authorize = Authorize.WRITE,
    people: People | None = None,
    *,
    own_label_counts: bool = False,
) -> str | None:
    forge = cast(Forge, people or People(applied_by=given.user or None))
    user = (await approval_of(forge, ITEM, given)).user
    return await person_refusal(
        forge, ITEM, given.trigger, user, authorize, own_label_counts=own_label_counts
    )


@pytest.mark.parametrize(
    ("user", "authorize", "may"),
    [
        ("alice", Authorize.WRITE, True),
        ("triager", Authorize.WRITE, False),
        ("reader", Authorize.WRITE, False),
        ("triager", Authorize.TRIAGE, True),
        ("reader", Authorize.TRIAGE, False),
        ("reader", Authorize.ANYONE, True),
    ],
)
async def test_the_permission_decides(user: str, authorize: Authorize, may: bool) -> None:
    people = People(applied_by=user)
    why = await refused(request(user), authorize, people)
    assert people.asked == ([] if authorize is Authorize.ANYONE else [user])
    if may:
        assert why is None
    else:
        assert str(why).startswith(f"{user} applied the label, but only people with {authorize} access to")


@pytest.mark.parametrize("authorize", [Authorize.WRITE, Authorize.ANYONE])
async def test_a_label_of_our_own_account_starts_nothing_unless_commands_apply_it(
    authorize: Authorize,
) -> None:
    given = request("coding-agent-bot")
    assert await refused(given, authorize) == (
        "The agent's own account applied the label. Only people start tasks."
    )
    assert await refused(given, authorize, own_label_counts=True) is None


async def test_who_asks_without_a_label() -> None:
    assert await refused(request("", Origin.MANUAL, None)) is None, "the cluster's permission decided"
    command = request("reader", Origin.MANUAL, Cause.COMMAND)
    assert await refused(command, people=People(applied_by="alice")) is not None


async def test_a_forge_that_does_not_answer_is_no_permission() -> None:
    with pytest.raises(ForgeUnavailableError):
        await refused(request("unreachable"))


READER, NOBODY = f"reader applied the label, {WRITE}", f"It is not known who applied the label, {WRITE}"


@pytest.mark.parametrize(
    ("origins", "user", "applied_by", "expected"),
    [
        # Whoever has the receiver's token can write any name into a task.
        ([Origin.WEBHOOK, Origin.POLL, Origin.REDELIVERY], "alice", "reader", READER),
        ([Origin.WEBHOOK, Origin.POLL, Origin.REDELIVERY], "reader", "alice", None),
        ([Origin.WEBHOOK, Origin.POLL, Origin.REDELIVERY], "alice", None, NOBODY),
        ([Origin.WEBHOOK, Origin.POLL, Origin.REDELIVERY], "alice", "", NOBODY),
        # A message of the polling agent names the item's author.
        ([Origin.MANUAL], "reader", "alice", None),
        ([Origin.MANUAL], "alice", "reader", READER),
        ([Origin.MANUAL], "alice", None, None),
        ([Origin.MANUAL], "", None, NOBODY),
        ([Origin.MANUAL], "", "", NOBODY),
    ],
)
async def test_the_history_decides_and_not_what_the_task_says(
    origins: list[Origin], user: str, applied_by: str | None, expected: str | None
) -> None:
    for origin in origins:
        assert await refused(request(user, origin), people=People(applied_by)) == expected


@pytest.mark.parametrize(
    ("origin", "cause", "applied_by", "expected"),
    [
        (Origin.WEBHOOK, Cause.LABEL, "alice", Approval("alice", NOW)),
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
    people = People(applied_by)
    assert await approval_of(cast(Forge, people), ITEM, request("reader", origin, cause)) == expected
    assert people.histories == (cause is Cause.LABEL)


PROXY = "http://egress:3128"


def identities(**more: object) -> Identities:
    egress = {"proxy": PROXY, "key": ["new-key", "old"], "repositories": {"o/r": ["a.example.com"]}}
    made = Identities.of(Settings.model_validate({"egress": egress, **more}))
    assert made is not None
    return made


def test_commands_and_agent_have_identities_of_their_attempt() -> None:
    made = identities(gateway={"host": "gateway"})
    agent, workspace = made.agent("web-1-2"), made.workspace("web-1-2", ITEM)
    users = {}
    for name, variables in (("agent", agent), ("workspace", workspace)):
        url = urlsplit(variables["HTTPS_PROXY"])
        assert (url.hostname, url.port) == ("egress", 3128)
        assert url.username is not None
        assert url.password is not None
        assert is_valid(url.username, url.password, ["new-key"]), "the first key"
        assert job_of(url.username) == "web-1-2"
        assert "gateway" in variables["NO_PROXY"].split(","), "the gateway is on a network of the two"
        users[name] = url.username
    assert users["workspace"].endswith(profile_of("o/r")), "the list of its repository"
    assert users["agent"] == "web-1-2.agent"
    assert "new-key" not in repr(made)


def test_without_a_proxy_there_are_none_and_without_a_key_it_says_so() -> None:
    assert Identities.of(Settings()) is None
    with pytest.raises(SettingsError, match=r"egress\.key is not set"):
        Identities.of(Settings.model_validate({"egress": {"proxy": PROXY}}))
