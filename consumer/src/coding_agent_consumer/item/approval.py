"""Finds text and commits that are newer than a task's approval, by people who may not ask for tasks.

A label approves an item as it was then. Nobody has approved what a stranger writes, edits or pushes
afterwards (docs/decisions/0021). The decisions are pure functions; `ApprovalCheck` reads the facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from coding_agent_core.errors import CodingAgentError, ForgeNotFoundError
from coding_agent_core.forge.values import Comment, ItemDetails, Review, Revised, Revision, Thread
from coding_agent_core.platforms.text import one_line
from coding_agent_core.settings.model import Authorize, NewerText
from coding_agent_core.task.model import Item, whole_second
from coding_agent_forges.rest.forge import Forge

from coding_agent_consumer.item.background import Conversation
from coding_agent_consumer.item.forge_tasks import REQUIRED, Approval

MOST_PEOPLE = 20
"""The rights of this many people are read in one attempt; all others count as people without access."""
_DID = {
    Revised.TITLE: "edited the title",
    Revised.TEXT: "edited the text",
    Revised.BRANCH: "pushed to the branch",
}


class NotApprovedError(CodingAgentError):
    """Somebody without access wrote or changed what the task works on, and nobody has approved that."""


async def require_trusted(forge: Forge, item: Item) -> None:
    """Check that neither a fork nor a stranger wrote the item of a task that says so.

    Whoever has the receiver's token can create a trusted task. Its workspace may write to the repository's
    cache, and may have another runtime class. The sink asks the tasks of an issue for which the agent made a
    change; here the issue itself counts.

    Raises:
        NotApprovedError: the forge does not say so.
        ForgeError: the item cannot be read.
    """
    trust = await forge.trust(item)
    if not trust.trusted and trust.answers is not None:
        with suppress(ForgeNotFoundError):  # the issue was deleted
            trust = await forge.trust(trust.answers)
    if not trust.trusted:
        raise NotApprovedError(
            f"The task says that nobody strange wrote {item.display}, and {forge.host} does not say so. "
            "Apply the label again: then the task is not trusted."
        )


@dataclass(frozen=True)
class Unapproved:
    """Texts and commits that are newer than the approval, by people who may not ask for tasks.

    Attributes:
        at: when the task was approved, in whole seconds of the forge's clock; `None`: nothing is compared.
        by: what approved it: `label` or `command`.
        access: the access that these people lack.
        revisions: their revisions of the item, one for each person and part.
        people: the authors of newer comments and reviews, in lower case.
        left_out: number of newer comments and reviews with text that the model does not get.
    """

    at: datetime | None = None
    by: str = "label"
    access: str = Authorize.WRITE.value
    revisions: tuple[Revision, ...] = ()
    people: frozenset[str] = frozenset()
    left_out: int = 0

    def note(self, entry: Comment | Review) -> str:
        """Return a remark on a comment or review for the model; empty if the text needs no (new) approval."""
        verb = newer(entry, self.at)
        if verb is None or entry.author.casefold() not in self.people:
            return ""
        return f"{verb} after the {self.by} by somebody without {self.access} access"

    @property
    def sentence(self) -> str:
        """A text for people and the model that says who changed the item; empty if nobody did."""
        done: dict[str, list[str]] = {}
        for revision in self.revisions:
            done.setdefault(one_line(revision.user, 100), []).append(_DID[revision.what])
        unknown = done.pop("", [])
        people = [f"{user} {' and '.join(verbs)}" for user, verbs in done.items()]
        sentences = []
        if people:
            sentences.append(f"After the {self.by}, {', and '.join(people)}, without {self.access} access.")
        if unknown:
            what = " and ".join(unknown)
            sentences.append(f"The forge does not show who {what} after the {self.by}, if anybody did.")
        return " ".join(sentences)

    @property
    def report(self) -> str:
        """A remark on the work for people; usually empty."""
        omitted = f"{_counted(self.left_out)} left out: {self.why_left_out}." if self.left_out else ""
        return " ".join(filter(None, (self.sentence, omitted)))

    @property
    def why_left_out(self) -> str:
        return f"newer than the {self.by}, by people without {self.access} access"

    @property
    def refusal(self) -> str | None:
        """A text for people that says why the task must not be worked on; `None` if it may be."""
        if not self.revisions:
            return None
        return (
            f"{self.sentence} Nobody has approved that. Somebody with {self.access} access can read what was "
            "changed, and apply the label again to approve it."
        )


ALL_APPROVED = Unapproved()
"""Nothing is newer than the approval, or nothing was compared."""


def _counted(number: int) -> str:
    return "1 comment was" if number == 1 else f"{number} comments were"


def newer(entry: Comment | Review, at: datetime | None) -> str | None:
    """Return how a text is newer than a time: `written`, `edited` or `perhaps edited`; `None` if it is not.

    The times have whole seconds, and what happened in the same second does not count as newer.
    """
    if at is None:
        return None
    if whole_second(entry.created_at) > at:
        return "written"
    if entry.updated_at is None:
        return "perhaps edited"
    return "edited" if whole_second(entry.updated_at) > at else None


def strangers_revisions(revisions: Sequence[Revision], strangers: frozenset[str]) -> tuple[Revision, ...]:
    """Return strangers' revisions, one for each person and part of the item, in the order of `Revised`."""
    revised = {
        (revision.what, revision.user): revision
        for revision in revisions
        if revision.user.casefold() in strangers
    }
    order = list(Revised)
    return tuple(revised[key] for key in sorted(revised, key=lambda key: (order.index(key[0]), key[1])))


def entries(conversation: Conversation) -> list[Comment | Review]:
    """Return all comments and reviews of a conversation."""
    found: list[Comment | Review] = [*conversation.comments, *conversation.change_comments]
    found += conversation.discussion.reviews
    found += [comment for thread in conversation.discussion.threads for comment in thread.comments]
    return found


def without_newer(conversation: Conversation, unapproved: Unapproved) -> Conversation:
    """Return the conversation without the texts for which `unapproved` has a note."""

    def approved(comments: Iterable[Comment]) -> tuple[Comment, ...]:
        return tuple(comment for comment in comments if not unapproved.note(comment))

    def approved_thread(thread: Thread) -> Thread:
        return replace(thread, comments=approved(thread.comments))

    discussion = conversation.discussion
    threads = map(approved_thread, discussion.threads)
    return replace(
        conversation,
        comments=approved(conversation.comments),
        change_comments=approved(conversation.change_comments),
        discussion=replace(
            discussion,
            reviews=tuple(review for review in discussion.reviews if not unapproved.note(review)),
            threads=tuple(thread for thread in threads if thread.comments),
        ),
    )


@dataclass
class ApprovalCheck:
    """Compares an item with the time at which its task was approved.

    Attributes:
        authorize: the setting of this name. If it lets anyone ask for tasks, nothing is compared.
        newer_text: the setting of this name.
    """

    forge: Forge
    item: Item
    approval: Approval
    authorize: Authorize
    newer_text: NewerText
    _access: dict[str, bool] = field(default_factory=dict, init=False)
    """Whether a person may ask for tasks, by their login in lower case."""
    _asked: int = field(default=0, init=False)

    @property
    def at(self) -> datetime | None:
        return None if self.authorize is Authorize.ANYONE else self.approval.at

    @property
    def shows_strangers(self) -> bool:
        """Whether a round may read what people without write access wrote beside the remarks that it answers.

        Nobody approves a round, so for a round, all that they wrote counts as newer.
        """
        return self.newer_text is NewerText.MARK or self.authorize is Authorize.ANYONE

    async def revisions(self, details: ItemDetails) -> Unapproved:
        """Return the revisions of the item that nobody has approved.

        Raises:
            NotApprovedError: there are such revisions, and the settings refuse the item because of them.
            ForgeError: the revisions, or the rights of their authors, cannot be read.
        """
        nothing = Unapproved(self.at, self.approval.by, self.authorize.value)
        if self.at is None:
            return nothing
        found = await self.forge.revisions(details, self.at)
        strangers = await self._strangers(revision.user for revision in found)
        unapproved = replace(nothing, revisions=strangers_revisions(found, strangers))
        if self.newer_text is NewerText.REFUSE and unapproved.refusal is not None:
            raise NotApprovedError(unapproved.refusal)
        return unapproved

    async def conversation(
        self, conversation: Conversation, unapproved: Unapproved
    ) -> tuple[Conversation, Unapproved]:
        """Return the conversation as the model may read it, and which parts of it nobody has approved.

        Raises:
            ForgeError: it is not known who may ask for tasks.
        """
        said = [entry for entry in entries(conversation) if newer(entry, self.at)]
        said.sort(key=lambda entry: entry.created_at, reverse=True)
        unapproved = replace(unapproved, people=await self._strangers(entry.author for entry in said))
        if self.newer_text is NewerText.MARK:
            return conversation, unapproved
        # A review without text is only there for its threads.
        left_out = sum(bool(unapproved.note(entry) and entry.body.strip()) for entry in said)
        return without_newer(conversation, unapproved), replace(unapproved, left_out=left_out)

    async def _strangers(self, logins: Iterable[str]) -> frozenset[str]:
        """Return which of these people may not ask for tasks, in lower case; unknown people may not."""
        if not self._access:
            own = await self.forge.whoami()
            self._access = {self.approval.user.casefold(): True, own.casefold(): True, "": False}
        people = list(dict.fromkeys(login.casefold() for login in logins))
        for login in people:
            if login not in self._access and self._asked < MOST_PEOPLE:
                self._asked += 1
                found = await self.forge.permission(self.item, login)
                self._access[login] = found >= REQUIRED[self.authorize]
        return frozenset(login for login in people if not self._access.get(login, False))
