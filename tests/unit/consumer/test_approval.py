"""What is newer than the approval of a task: tables of who changed what, and when."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from coding_agent_consumer.item.approval import (
    MOST_PEOPLE,
    ApprovalCheck,
    NotApprovedError,
    Unapproved,
    newer,
    strangers_revisions,
    without_newer,
)
from coding_agent_consumer.item.background import Conversation
from coding_agent_consumer.item.forge_tasks import Approval
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.forge.values import (
    Comment,
    Discussion,
    ItemDetails,
    Permission,
    Review,
    Revised,
    Revision,
    Thread,
)
from coding_agent_core.settings.model import Authorize, NewerText
from coding_agent_core.task.model import Item
from coding_agent_forges.rest.forge import Forge

from tests.unit.consumer.making import ITEM, details

AT = datetime(2026, 11, 26, 12, 0, 7, tzinfo=UTC)
BEFORE, AFTER = AT - timedelta(minutes=1), AT + timedelta(seconds=1)
SAME_SECOND = AT + timedelta(milliseconds=999)
DETAILS = details(author="mallory")
TITLE, TEXT, PUSH = (Revision(what, "mallory", AFTER) for what in Revised)
UNKNOWN = Revision(Revised.BRANCH, "", None)


def comment(
    author: str, created: datetime = AFTER, updated: datetime | None = None, id: str = "1"
) -> Comment:
    return Comment(id, author, "Words.", created, updated_at=updated or created)


@dataclass
class People:
    """The part of `Forge` that is asked; `revisions_` are on the item."""

    revisions_: Sequence[Revision] = ()
    asked: list[str] = field(default_factory=list)

    async def whoami(self) -> str:
        return "Coding-Agent-Bot"

    async def revisions(self, details: ItemDetails, since: datetime) -> tuple[Revision, ...]:
        assert since == AT
        return tuple(self.revisions_)

    async def permission(self, item: Item, user: str) -> Permission:
        self.asked.append(user)
        if user == "unreachable":
            raise ForgeUnavailableError("gitlab.com does not answer")
        return {"alice": Permission.WRITE, "triager": Permission.TRIAGE}.get(user, Permission.NONE)


def check(
    people: People,
    *,
    at: datetime | None = AT,
    authorize: Authorize = Authorize.WRITE,
    newer_text: NewerText = NewerText.MARK,
) -> ApprovalCheck:
    return ApprovalCheck(cast(Forge, people), ITEM, Approval("Maria", at), authorize, newer_text)


@pytest.mark.parametrize(
    ("created", "updated", "expected"),
    [
        (BEFORE, BEFORE, None),
        (AT, AT, None),
        (SAME_SECOND, SAME_SECOND, None),
        (BEFORE, SAME_SECOND, None),
        (BEFORE, AFTER, "edited"),
        (AFTER, AFTER, "written"),
        (AFTER, BEFORE, "written"),
        (BEFORE, None, "perhaps edited"),
        (AFTER, None, "written"),
    ],
)
def test_whole_seconds_of_the_forges_clock_are_compared(
    created: datetime, updated: datetime | None, expected: str | None
) -> None:
    entry = Review("mallory", "commented", "Words.", created, updated)
    assert newer(entry, AT) == expected
    assert newer(entry, None) is None, "nothing is compared if it is not known when it was approved"


def test_each_person_and_part_is_named_once() -> None:
    found = [PUSH, replace(PUSH, at=BEFORE), TITLE, UNKNOWN, Revision(Revised.TEXT, "alice", AFTER)]
    assert strangers_revisions(found, frozenset({"mallory", ""})) == (
        TITLE,
        UNKNOWN,
        replace(PUSH, at=BEFORE),
    )


def test_it_is_said_who_changed_what() -> None:
    unapproved = Unapproved(AT, revisions=(TITLE, PUSH, replace(TEXT, user="eve"), UNKNOWN))
    assert (
        unapproved.sentence
        == unapproved.report
        == (
            "After the label, mallory edited the title and pushed to the branch, and eve edited the text, "
            "without write access. "
            "The forge does not show who pushed to the branch after the label, if anybody did."
        )
    )
    assert str(unapproved.refusal).startswith(unapproved.sentence)
    assert str(unapproved.refusal).endswith(
        "can read what was changed, and apply the label again to approve it."
    )
    assert (Unapproved(AT).report, Unapproved(AT).refusal) == ("", None)


@pytest.mark.parametrize(
    ("user", "authorize", "stranger"),
    [
        ("mallory", Authorize.WRITE, True),
        ("Alice", Authorize.WRITE, False),
        ("triager", Authorize.WRITE, True),
        ("triager", Authorize.TRIAGE, False),
        ("mallory", Authorize.ANYONE, False),
        ("", Authorize.WRITE, True),
        ("maria", Authorize.WRITE, False),
        ("coding-agent-bot", Authorize.WRITE, False),
    ],
)
async def test_who_may_ask_for_tasks_may_also_change_the_item(
    user: str, authorize: Authorize, stranger: bool
) -> None:
    people = People([Revision(what, user, AFTER) for what in Revised])
    for newer_text in NewerText:
        checking = check(people, authorize=authorize, newer_text=newer_text)
        if stranger and newer_text is NewerText.REFUSE:
            with pytest.raises(NotApprovedError):
                await checking.revisions(DETAILS)
        else:
            found = await checking.revisions(DETAILS)
            assert len(found.revisions) == (3 if stranger else 0)


@pytest.mark.parametrize(("at", "authorize"), [(None, Authorize.WRITE), (AT, Authorize.ANYONE)])
async def test_without_a_time_or_if_anyone_may_ask_nothing_is_compared(
    at: datetime | None, authorize: Authorize
) -> None:
    people = People([TITLE])
    checking = check(people, at=at, authorize=authorize, newer_text=NewerText.REFUSE)
    unapproved = await checking.revisions(DETAILS)
    conversation = Conversation(DETAILS, (comment("mallory"),))
    assert await checking.conversation(conversation, unapproved) == (conversation, unapproved)
    assert (unapproved.report, people.asked) == ("", [])


CONVERSATION = Conversation(
    item=DETAILS,
    comments=(
        comment("mallory", BEFORE, id="1"),
        comment("mallory", BEFORE, AFTER, id="2"),
        comment("mallory", AFTER, id="3"),
        comment("alice", AFTER, id="4"),
        comment("coding-agent-bot", AFTER, id="5"),
    ),
    change=DETAILS,
    change_comments=(comment("eve", AFTER, id="6"),),
    discussion=Discussion(
        reviews=(
            Review("mallory", "commented", "Old.", BEFORE, BEFORE),
            Review("mallory", "commented", "Unknown.", BEFORE, None),
            Review("alice", "commented", "Mine.", BEFORE, None),
        ),
        threads=(
            Thread("a.py", 1, "", False, False, (comment("mallory", AFTER, id="7"),)),
            Thread("b.py", 1, "", False, False, (comment("alice", id="8"), comment("mallory", id="9"))),
        ),
    ),
)


async def test_newer_texts_are_marked() -> None:
    conversation, unapproved = await check(People()).conversation(CONVERSATION, Unapproved(AT))
    assert conversation == CONVERSATION
    assert unapproved.report == "", "comments are part of a conversation: nobody has to be told"
    entries: list[Comment | Review] = [*conversation.comments, *conversation.discussion.reviews]
    notes = [unapproved.note(one) for one in entries]
    who = "after the label by somebody without write access"
    assert notes == ["", f"edited {who}", f"written {who}", "", "", "", f"perhaps edited {who}", ""]


async def test_newer_texts_are_left_out() -> None:
    checking = check(People(), newer_text=NewerText.REFUSE)
    conversation, unapproved = await checking.conversation(CONVERSATION, Unapproved(AT))
    assert [one.id for one in conversation.comments] == ["1", "4", "5"]
    assert conversation.change_comments == ()
    assert [review.body for review in conversation.discussion.reviews] == ["Old.", "Mine."]
    threads = [[one.id for one in thread.comments] for thread in conversation.discussion.threads]
    assert threads == [["8"]]
    assert unapproved.left_out == 6
    assert unapproved.report == (
        "6 comments were left out: newer than the label, by people without write access."
    )
    assert without_newer(conversation, unapproved) == conversation


async def test_each_person_is_asked_about_once_and_only_so_many() -> None:
    people = People([TITLE, TEXT, Revision(Revised.TEXT, "Mallory", AFTER)])
    checking = check(people)
    unapproved = await checking.revisions(DETAILS)
    crowd = [
        comment(f"user-{number}", AT + timedelta(hours=number), id=str(number)) for number in range(1, 40)
    ]
    alice = comment("alice", AFTER, id="41")
    conversation = Conversation(DETAILS, (alice, comment("mallory", id="40"), *crowd))
    _, unapproved = await checking.conversation(conversation, unapproved)
    assert people.asked == ["mallory", *(f"user-{number}" for number in range(39, 40 - MOST_PEOPLE, -1))]
    assert unapproved.note(alice), "people beyond the limit count as without access"


async def test_a_forge_that_does_not_answer_is_no_access() -> None:
    with pytest.raises(ForgeUnavailableError):
        await check(People([replace(TITLE, user="unreachable")])).revisions(DETAILS)
