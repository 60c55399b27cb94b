"""What the REST APIs of GitHub and GitLab have in common: labels, our comment, our change, reactions.

One type reads the same answer of both forges; its fields list both forges' names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.client import GHOST, Author, Call, ForgeClient, Repeat, ResponseModel, Text, User
from coding_agent_core.forge.pacing import NotYetError
from coding_agent_core.forge.protocol import (
    Change,
    CloneSource,
    Comment,
    CommitIdentity,
    ItemDetails,
    ItemState,
    LabelEvent,
)
from coding_agent_core.platforms import ItemKind, Platform, clone_url, web_base
from coding_agent_core.settings.forges import GitHub, GitLab
from coding_agent_core.tasks import (
    GITHUB_MEMBERS,
    Head,
    Item,
    Origin,
    TaskRequest,
    Trigger,
    trust_of,
    whole_second,
)

COMMENT_LIMIT = 1000
SCAN_PAGES = 100
"""Pages of comments, reactions or events that are read at most."""
_REACTION = "eyes"


class Label(ResponseModel):
    name: str


class ItemAnswer(ResponseModel):
    """An issue, pull request or merge request."""

    number: int = Field(validation_alias=AliasChoices("number", "iid"))
    title: str
    body: Text = Field(default="", validation_alias=AliasChoices("body", "description"))
    url: str = Field(validation_alias=AliasChoices("html_url", "web_url"))
    state: str
    labels: list[Label | str]
    # `author` first: GitLab's merge requests also have a `user`, with what we may do.
    author: Author = Field(default=GHOST, validation_alias=AliasChoices("author", "user"))
    author_association: Text = ""
    """GitHub alone says it."""
    updated_at: datetime | None = None

    @property
    def open(self) -> bool:
        return self.state in ("open", "opened")

    @property
    def updated_second(self) -> datetime | None:
        return None if self.updated_at is None else whole_second(self.updated_at)

    @property
    def label_names(self) -> list[str]:
        return [label if isinstance(label, str) else label.name for label in self.labels]


class CommentAnswer(ResponseModel):
    """A comment, or what GitLab writes itself (`system`)."""

    id: int
    body: Text = ""
    author: Author = Field(default=GHOST, validation_alias=AliasChoices("author", "user"))
    created_at: datetime
    updated_at: datetime | None = None
    html_url: str = ""
    system: bool = False

    def comment(self) -> Comment:
        return Comment(
            id=str(self.id),
            author=self.author.login,
            body=self.body,
            created_at=self.created_at,
            url=self.html_url,
            updated_at=self.updated_at,
        )


class _LabelEvent(ResponseModel):
    """An event of an item's history; the user or label is null when it was deleted since."""

    action: str = Field(validation_alias=AliasChoices("event", "action"))
    created_at: datetime
    user: User | None = Field(default=None, validation_alias=AliasChoices("actor", "user"))
    label: Label | None = None


class _Reaction(ResponseModel):
    content: str = Field(validation_alias=AliasChoices("content", "name"))
    user: User | None = None


@dataclass(frozen=True)
class Attachment:
    """Where an attached file is read.

    Attributes:
        address: a path of the forge's API, or a whole address.
        with_token: whether our token goes there: to the forge's own host alone.
    """

    address: str
    with_token: bool


@dataclass
class RestForge(ABC):
    """One installation of a forge, with one token; see `Forge`.

    The class variables are what differs between the APIs: path segments, parameters, a method, names.
    """

    PLATFORM: ClassVar[Platform]
    HEADERS: ClassVar[dict[str, str]]
    CLONE_USER: ClassVar[str]
    COMMENTS: ClassVar[str]
    OLDEST_FIRST: ClassVar[dict[str, str | int]]
    EDIT_METHOD: ClassVar[str]
    EVENTS: ClassVar[str]
    LABELED: ClassVar[str]
    """The event of a label that was put on."""
    UNLABELED: ClassVar[str]
    """The event of a label that was taken off."""
    REACTIONS: ClassVar[str]
    REACTION_FIELD: ClassVar[str]
    ID_MARK: ClassVar[str]
    """Between id and login in an account's private e-mail address."""

    settings: GitHub | GitLab
    client: ForgeClient
    branch_prefix: str
    """Starts the agent's branches for issues."""

    def __post_init__(self) -> None:
        self._own: tuple[str, User] | None = None

    @abstractmethod
    def item_path(self, item: Item, *rest: str | int) -> str:
        """The item, or what is below it."""

    @abstractmethod
    def comment_path(self, item: Item, comment: str) -> str: ...

    @abstractmethod
    def search(self, kind: ItemKind, labels: frozenset[str]) -> AsyncIterator[tuple[ItemAnswer, Item]]:
        """Items of the configured scope with one of the labels; maybe others too, and some twice."""

    @abstractmethod
    async def find_user(self, login: str) -> User | None: ...

    @abstractmethod
    async def find_change(self, item: Item, *, branch: str) -> Change | None: ...

    @abstractmethod
    async def create_change(self, item: Item, *, branch: str, base: str, title: str, body: str) -> Change: ...

    @abstractmethod
    async def is_closed(self, item: Item) -> bool:
        """Whether only people with an approved account see the item's repository (`tasks.trust_of`)."""

    @abstractmethod
    async def head_of(self, found: ItemAnswer, item: Item) -> Head:
        """The branch of a change."""

    @abstractmethod
    def attachment_of(self, item: Item, link: str) -> Attachment | None:
        """The attachment that a link in an item's text leads to; `None`: the link leads elsewhere."""

    @property
    def platform(self) -> Platform:
        return self.PLATFORM

    @property
    def host(self) -> str:
        return self.settings.host

    async def whoami(self) -> str:
        return (await self.account()).login

    async def account(self) -> User:
        token = self.client.token.fingerprint()
        if self._own is None or self._own[0] != token:
            call = Call("GET", "/user", "asking who our token belongs to")
            self._own = (token, await self.client.get(User, call))
        return self._own[1]

    async def commit_identity(self) -> CommitIdentity:
        own = await self.account()
        return CommitIdentity(own.name or own.login, own.commit_email or self.private_email(own))

    async def commit_identity_of(self, user: str) -> CommitIdentity | None:
        found = await self.find_user(user)
        return CommitIdentity(found.name or found.login, self.private_email(found)) if found else None

    def private_email(self, user: User) -> str:
        """The address that the forge gives an account to keep its real one private."""
        host = urlsplit(web_base(self.settings.api_url)).hostname
        return f"{user.id}{self.ID_MARK}{user.login}@users.noreply.{host}"

    async def find_labeled(self, labels: frozenset[str] | None = None) -> AsyncIterator[TaskRequest]:
        """Open issues, then changes, that carry such a label now."""
        wanted = self.settings.triggers if labels is None else labels
        seen = set[str]()
        closed: dict[tuple[str, int | None], bool] = {}
        for kind in ItemKind:
            async for found, item in self.search(kind, wanted):
                present = self.labels(found)
                if not found.open or not present & wanted or item.identity in seen:
                    continue
                seen.add(item.identity)
                repository = (item.repository, item.project_id)
                try:
                    applied = await self.label_application(item)
                    if repository not in closed:
                        closed[repository] = await self.is_closed(item)
                    head = None if item.kind is ItemKind.ISSUE else await self.head_of(found, item)
                except ForgeNotFoundError:  # gone since it was listed
                    continue
                member = found.author_association in GITHUB_MEMBERS  # GitLab says nothing like it
                trust = trust_of(
                    item,
                    head,
                    closed=closed[repository],
                    member=member,
                    ours=member and found.author.id == (await self.account()).id,
                    prefix=self.branch_prefix,
                )
                yield TaskRequest(
                    item=item,
                    user=(applied.user if applied else "") or found.author.login,
                    title=found.title[:1024],
                    url=found.url[:2048],
                    trusted=trust.trusted,
                    answers=trust.answers,
                    trigger=Trigger(
                        origin=Origin.POLL,
                        labeled_at=applied.at if applied else None,
                        received_at=self.client.clock.now(),
                    ),
                    runner=self.settings.runner(present),
                )

    async def label_application(self, item: Item) -> LabelEvent | None:
        events = await self.label_history(item, None)
        triggers = self.settings.triggers
        return next((event for event in events if event.added and event.label in triggers), None)

    async def label_history(self, item: Item, since: datetime | None) -> list[LabelEvent]:
        what = f"reading the label events of {item.display}"
        call = Call("GET", self.item_path(item, self.EVENTS), what)
        history: list[LabelEvent] = []
        applied = False
        async for page in self.client.newest_first(list[_LabelEvent], call, limit=SCAN_PAGES):
            for event in reversed(page):
                at = whole_second(event.created_at)
                if applied and (since is None or at < since):
                    return history
                label = self.spelled(event.label.name) if event.label else ""
                if label in self.settings.active and event.action in (self.LABELED, self.UNLABELED):
                    added = event.action == self.LABELED
                    applied = applied or (added and label in self.settings.triggers)
                    user = event.user.login if event.user else ""
                    history.append(LabelEvent(at, user, label, added))
        return history

    def spelled(self, label: str) -> str:
        """The label as our settings spell it, because our rules compare."""
        return label

    def labels(self, found: ItemAnswer) -> frozenset[str]:
        return frozenset(map(self.spelled, found.label_names))

    async def locate(self, item: Item) -> Item:
        return item

    async def read_state(self, item: Item) -> ItemState:
        call = Call("GET", self.item_path(item), f"reading {item.display}")
        found = await self.client.get(ItemAnswer, call)
        return ItemState(self.labels(found), found.open, found.updated_second)

    def details(self, item: Item, found: ItemAnswer, *, base: str) -> ItemDetails:
        return ItemDetails(
            item=item,
            title=found.title,
            body=found.body,
            author=found.author.login,
            url=found.url,
            labels=self.labels(found),
            open=found.open,
            base_branch=base,
            updated_at=found.updated_second,
        )

    def comments_call(self, item: Item, params: Mapping[str, str | int]) -> Call:
        path = self.item_path(item, self.COMMENTS)
        return Call("GET", path, f"reading the comments of {item.display}", params)

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        own = await self.account()
        call = self.comments_call(item, self.OLDEST_FIRST)
        async for page in self.client.pages(list[CommentAnswer], call, limit=SCAN_PAGES):
            for found in page:
                if found.author.id == own.id and not found.system and marker in found.body:
                    return found.comment()
        return None

    async def upsert_comment(
        self, item: Item, marker: str, body: str, *, known: Comment | None = None
    ) -> Comment:
        """See `Forge`.

        Raises:
            ValueError: the body has no marker, so it would never be found again.
            ForgeError: the comment was not written, or it is unknown whether it was.
        """
        if marker not in body:
            raise ValueError("the body of our comment must contain its marker")
        edited = await self._edit_comment(item, known, body) if known else None
        if edited is not None:
            return edited
        found = await self.find_comment(item, marker)
        if found is not None:
            if _same(found.body, body):
                return found
            edited = await self._edit_comment(item, found, body)
            if edited is not None:
                return edited
        call = Call(
            "POST",
            self.item_path(item, self.COMMENTS),
            f"commenting on {item.display}",
            json={"body": body},
            repeat=Repeat.UNLESS_PROCESSED,
            creates=True,
        )
        try:
            return (await self.client.get(CommentAnswer, call)).comment()
        except NotYetError:
            raise  # it was not sent
        except ForgeUnavailableError:
            # The comment may exist although its answer was lost: check before the caller retries.
            written = await self.find_comment(item, marker)
            if written is not None and _same(written.body, body):
                return written
            raise

    async def _edit_comment(self, item: Item, comment: Comment, body: str) -> Comment | None:
        """The edited comment; `None` if it is gone. If the item is gone too, creating a comment fails."""
        what = f"editing our comment on {item.display}"
        call = Call(self.EDIT_METHOD, self.comment_path(item, comment.id), what, json={"body": body})
        try:
            return (await self.client.get(CommentAnswer, call)).comment()
        except ForgeNotFoundError:
            return None

    async def open_change(self, item: Item, *, branch: str, base: str, title: str, body: str) -> Change:
        found = await self.find_change(item, branch=branch)
        if found is not None:
            return found
        try:
            return await self.create_change(item, branch=branch, base=base, title=title, body=body)
        except ForgeError as error:
            # Another consumer opened it, or ours was opened and its answer lost.
            if error.status in (409, 422) or isinstance(error, ForgeUnavailableError):
                found = await self.find_change(item, branch=branch)
                if found is not None:
                    return found
            raise

    async def has_reacted(self, item: Item, comment: str) -> bool:
        own = await self.account()
        call = Call(
            "GET",
            f"{self.comment_path(item, comment)}/{self.REACTIONS}",
            f"reading the reactions to a comment on {item.display}",
        )
        async for page in self.client.pages(list[_Reaction], call, limit=SCAN_PAGES):
            if any(
                reaction.content == _REACTION and reaction.user and reaction.user.id == own.id
                for reaction in page
            ):
                return True
        return False

    async def react(self, item: Item, comment: str) -> None:
        call = Call(
            "POST",
            f"{self.comment_path(item, comment)}/{self.REACTIONS}",
            f"reacting to a comment on {item.display}",
            json={self.REACTION_FIELD: _REACTION},
        )
        try:
            await self.client.send(call)
        except ForgeNotFoundError:
            # GitLab answers a second reaction with 404, as if there were no comment.
            if not await self.has_reacted(item, comment):
                raise

    async def attachment(self, item: Item, link: str, *, limit: int) -> bytes | None:
        found = self.attachment_of(item, link)
        if found is None:
            return None
        call = Call("GET", found.address, f"reading an attachment of {item.display}")
        data = await self.client.end_of(call, limit + 1, with_token=found.with_token)
        if len(data) > limit:
            raise ForgeError(f"an attachment of {item.display} has more than {limit} bytes")
        return data

    async def clone_source(self, repository: str) -> CloneSource:
        """See `Forge`. Both forges accept a token as the password of any user name."""
        url = clone_url(self.settings.api_url, repository)
        return CloneSource(url=url, username=self.CLONE_USER, token=self.client.token.current())

    async def aclose(self) -> None:
        await self.client.aclose()


def _same(one: str, other: str) -> bool:
    """Whether two bodies are the same to a reader: forges change line ends and outer white space."""
    return one.replace("\r\n", "\n").strip() == other.replace("\r\n", "\n").strip()
