"""`Forge`: the interface to a forge, with the code that the clients of all forges share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from coding_agent_core.errors import (
    ForgeError,
    ForgeListTooLongError,
    ForgeRejectedError,
    ForgeUnavailableError,
    SettingsError,
)
from coding_agent_core.forge.changes import ChangeSnapshot, OpenChanges, ReviewThread
from coding_agent_core.forge.item_forge import ItemForge
from coding_agent_core.forge.values import (
    BranchFacts,
    Change,
    Checks,
    CloneSource,
    Comment,
    CommitIdentity,
    CommitStatus,
    Discussion,
    ItemDetails,
    ItemState,
    LabelEvent,
    Permission,
    Revision,
    clock_was_set_back,
    last_application,
)
from coding_agent_core.platforms.facts import ItemKind, clone_url, web_base
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.forges import ForgeSettings
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory, Position
from coding_agent_core.task.model import (
    Head,
    Item,
    Origin,
    TaskRequest,
    Trigger,
    Trust,
    trust_of,
    whole_second,
)

from coding_agent_forges.rest.calls import SCAN_PAGES, Call, Read, User
from coding_agent_forges.rest.comments import OwnComments
from coding_agent_forges.rest.hidden_line import HiddenLines
from coding_agent_forges.rest.item_events import agrees, item_events, reaches
from coding_agent_forges.rest.responses import HistoryEvent, ItemResponse

if TYPE_CHECKING:  # the poller and the tasks, which are given a forge, import no HTTP library
    from coding_agent_core.runtime.retry import Clock

    from coding_agent_forges.rest.client import ForgeClient, Pages, TokenSource
    from coding_agent_forges.rest.signed_commits import SignedCommits

_LOOK_BACK = 20
"""Number of events before a label's application that show whether the forge's clock was set back."""
_HISTORY_READS = 3
"""The most reads of an item and its history that disagree about what happens in between."""


@dataclass(frozen=True)
class Attachment:
    """The address of an attached file.

    Attributes:
        address: a path of the forge's API, or a whole address.
        with_token: whether our token is sent, which must go only to the forge's own host.
    """

    address: str
    with_token: bool


Repository = tuple[str, int | None]
"""The path and the id of a repository, as in `Item`."""


@dataclass(frozen=True)
class LabeledItem:
    """An open item that has one of the labels, as the forge listed it."""

    item: Item
    found: ItemResponse
    labels: frozenset[str]


@dataclass
class Forge(OwnComments, ItemForge, ABC):
    """One installation of a forge, with one token.

    All calls have a timeout, retry what is safe to retry, and raise a `ForgeError` whose message names the
    item and never a secret. Class variables and abstract methods cover the differences between the APIs.
    `ItemForge` describes the methods that core calls.

    Example:
        forge = connect_forge(settings, item.platform)
        details = await forge.read(item)
        await forge.upsert_comment(item, MARKER, f"{MARKER}-->\\nWorking on {details.title}")
    """

    platform: ClassVar[Platform]
    CLONE_USER: ClassVar[str]
    ITEM: ClassVar[type[ItemResponse]]
    """The type of an answer with one item."""
    EVENTS: ClassVar[str]
    ACTIONS: ClassVar[dict[str, ItemAction]]
    """The meaning of the forge's names of events."""
    LABELED: ClassVar[str]
    """The name of the event when a label was applied."""
    UNLABELED: ClassVar[str]
    """The name of the event when a label was removed."""
    ID_MARK: ClassVar[str]
    """The characters between id and login in an account's private e-mail address."""

    settings: ForgeSettings
    client: ForgeClient
    branch_prefix: str
    """The beginning of the agent's branches for issues."""
    hidden_lines: HiddenLines = field(default_factory=HiddenLines)
    """Signs and checks the hidden lines of our comments."""

    def __post_init__(self) -> None:
        self._own: tuple[str, User] | None = None

    @classmethod
    def app_source(cls, settings: ForgeSettings, clock: Clock, only: str) -> TokenSource | None:
        """Return the source of an App's tokens; `None` if the settings have a personal token.

        Args:
            only: the repository of an attempt; empty for a program that works on all repositories.

        Raises:
            SettingsError: what the App needs here is not configured.
            TokenMissingError: a file that it needs is absent or empty.
        """
        return None

    @abstractmethod
    def _search(self, kind: ItemKind, labels: frozenset[str]) -> AsyncIterator[tuple[ItemResponse, Item]]:
        """Yield the labeled items in the configured scope; others and repetitions may be among them.

        Raises:
            ForgeListTooLongError: there are more items than are read. All that are read were yielded before.
            ForgeError: some items could not be listed. All others were yielded before.
        """

    @abstractmethod
    async def _find_user(self, login: str) -> User | None: ...

    @abstractmethod
    async def find_change(self, item: Item, *, branch: str) -> Change | None:
        """Return the open change from `branch` in the item's repository, if there is one.

        Raises:
            ForgeListTooLongError: there are more changes than are read, and none of those is from the branch.
        """

    @abstractmethod
    async def _create_change(
        self, item: Item, *, branch: str, base: str, title: str, body: str, draft: bool
    ) -> Change: ...

    @abstractmethod
    async def _is_private(self, item: Item) -> bool:
        """Whether only people with an approved account can see the item's repository."""

    @abstractmethod
    async def _head_of(self, found: ItemResponse, item: Item) -> Head:
        """Return the branch of a change."""

    @abstractmethod
    def _attachment_of(self, item: Item, link: str) -> Attachment | None:
        """Return the attachment that a link in an item's text leads to, or `None` if it leads elsewhere."""

    @abstractmethod
    async def read(self, item: Item) -> ItemDetails: ...

    @abstractmethod
    async def revisions(self, details: ItemDetails, since: datetime) -> tuple[Revision, ...]:
        """Return the changes to the item's title, text and branch after a time.

        If the forge does not say who made a change, the revision has no user.

        Args:
            since: the time in whole seconds of the forge's clock.

        Raises:
            ForgeUnavailableError: also if the forge has not examined the branch's newest commit yet.
        """

    @abstractmethod
    async def comments(self, item: Item) -> Read[Comment]:
        """Return all comments, the oldest first, but only the newest 1,000 if there are more.

        Our own comments are included, and possibly comments on lines of a change; system notes are not.
        """

    @abstractmethod
    async def discussion(self, change: Item) -> Discussion:
        """Return the reviews of a change and the threads on its lines."""

    @abstractmethod
    async def failed_checks(self, change: ItemDetails) -> Checks:
        """Return the failed checks of a change's newest commit. A part that cannot be read is left out."""

    @abstractmethod
    async def _open_changes(self) -> OpenChanges:
        """Return the open changes of our account, without having checked the hidden lines in comments."""

    @abstractmethod
    async def _snapshot(self, change: Item) -> ChangeSnapshot:
        """Return one change, without having checked the hidden lines in its comments."""

    async def open_changes(self) -> OpenChanges:
        found = await self._open_changes()
        return replace(found, snapshots=tuple([await self._with_checked(one) for one in found.snapshots]))

    async def snapshot(self, change: Item) -> ChangeSnapshot:
        return await self._with_checked(await self._snapshot(change))

    @abstractmethod
    async def check_log(self, change: Item, run: str) -> str:
        """Return the end of a job's log, up to its error, as plain text; empty if it cannot be read.

        Args:
            run: the job's id (`CheckResult.id`).
        """

    @abstractmethod
    async def rerun_check(self, change: Item, run: str) -> None: ...

    @abstractmethod
    async def set_status(self, item: Item, commit: str, status: CommitStatus) -> None:
        """Set a status of a commit in the item's repository. The call can be repeated.

        Raises:
            ForgeError: also if the repository does not have the commit.
        """

    @abstractmethod
    async def reply(self, change: Item, thread: ReviewThread, body: str) -> None:
        """Write a remark in a thread.

        Raises:
            ForgeError: the remark was not written, or it is unknown whether it was.
        """

    @abstractmethod
    async def resolve(self, change: Item, thread: ReviewThread) -> None:
        """Mark a thread as resolved. The call can be repeated."""

    @abstractmethod
    async def request_review(self, change: Item, logins: Sequence[str]) -> None:
        """Ask people for a review, including those who have already reviewed.

        On GitLab, this takes back a person's request for changes.

        Raises:
            ForgeError: nobody was asked, or it is unknown whether somebody was.
        """

    @abstractmethod
    async def mark_ready(self, change: Item) -> None:
        """Mark a draft as ready for review. The call can be repeated."""

    @abstractmethod
    async def add_label(self, item: Item, label: str) -> None: ...

    @abstractmethod
    async def remove_label(self, item: Item, label: str) -> bool: ...

    @abstractmethod
    async def permission(self, item: Item, user: str) -> Permission: ...

    @abstractmethod
    async def branch_facts(self, repository: str, branch: str) -> BranchFacts:
        """Return the facts that decide whether we may push to a branch. The branch need not exist.

        Args:
            repository: the full path of any repository of this forge.

        Raises:
            ForgeNotFoundError: there is no such repository, or our account cannot see it.
        """

    def signed_commits(self, repository: str) -> SignedCommits:
        """Return the interface through which the forge itself makes and signs commits in a repository.

        Raises:
            SettingsError: this platform signs no commits.
        """
        raise SettingsError(
            f"{self.host} signs no commits: set `consumer.commits.sign` to `key`, with `signing_key` if they "
            "must be signed"
        )

    @property
    def host(self) -> str:
        return self.settings.host

    async def whoami(self) -> str:
        return (await self._account()).login

    async def _account(self) -> User:
        account = await self.client.token.account()
        if account is None:
            identity = await self.client.token.identity()
            if self._own is None or self._own[0] != identity:
                call = Call("GET", "/user", "asking who our token belongs to")
                self._own = (identity, await self.client.get(User, call))
            account = self._own[1]
        self.client.account = account.login
        return account

    async def token_expiry(self) -> datetime | None:
        """Return when our token expires, in UTC; `None` if it never does, or if the forge does not say."""
        return None

    async def commit_identity(self) -> CommitIdentity:
        """Return the name and e-mail address of our token's account. They are read once and cached."""
        own = await self._account()
        return CommitIdentity(own.name or own.login, own.commit_email or self._private_email(own))

    async def commit_identity_of(self, user: str) -> CommitIdentity | None:
        """Return a person's name and the forge's private e-mail address for them; `None` if unknown."""
        found = await self._find_user(user)
        return CommitIdentity(found.name or found.login, self._private_email(found)) if found else None

    def _private_email(self, user: User) -> str:
        """Return the address that the forge gives an account to keep its real address private."""
        host = urlsplit(web_base(self.settings.api_url)).hostname
        return f"{user.id}{self.ID_MARK}{user.login}@users.noreply.{host}"

    async def labeled(self, labels: frozenset[str] | None = None) -> AsyncIterator[LabeledItem]:
        """Yield the labeled open issues, then changes, in the configured scope, each once.

        Args:
            labels: the labels to look for; by default `Labels.triggers`.

        Raises:
            ForgeListTooLongError: there are more items than are read. All that are read were yielded before.
            ForgeError: some items could not be listed. All others were yielded before.
        """
        wanted = self.settings.triggers if labels is None else labels
        seen = set[str]()
        problem: ForgeError | None = None
        for kind in ItemKind:
            try:
                async for found, item in self._search(kind, wanted):
                    present = self._labels(found)
                    if found.open and present & wanted and item.identity not in seen:
                        seen.add(item.identity)
                        # The whole list is kept in memory, and nobody needs the text.
                        yield LabeledItem(item, found.model_copy(update={"body": ""}), present)
            except ForgeError as error:
                if problem is None or isinstance(problem, ForgeListTooLongError):
                    problem = error  # an outage says more than a list that is too long
        if problem is not None:
            raise problem

    async def request_of(self, listed: LabeledItem, private: dict[Repository, bool]) -> TaskRequest:
        """Return the request of origin `poll` for a labeled item.

        Args:
            private: whether each repository that this poll has read is private; the call adds to it.

        Raises:
            ForgeNotFoundError: the item was deleted after it was listed.
        """
        item, response = listed.item, listed.found
        repository = (item.repository, item.project_id)
        history = await self.label_history(item, None, older=_LOOK_BACK)
        if repository not in private:
            private[repository] = await self._is_private(item)
        applied = last_application(history.values, self.settings.triggers)
        labeled_at = applied.at if applied else None
        if applied and clock_was_set_back(history.values, applied):
            labeled_at = None  # such a time does not say what is newer
        trust = await self._trust(item, response, closed=private[repository])
        # Labels that were set when the item was created may have no event; then the author applied them. But
        # if the history was not read to its end, somebody else may have applied them.
        author = response.author.login if history.complete else ""
        return TaskRequest(
            item=item,
            user=(applied.user if applied else "") or author,
            title=response.title[:1024],
            url=response.url[:2048],
            trusted=trust.trusted,
            answers=trust.answers,
            trigger=Trigger(origin=Origin.POLL, labeled_at=labeled_at, received_at=self.client.clock.now()),
            runner=self.settings.runner(listed.labels),
        )

    async def trust(self, item: Item) -> Trust:
        """Return whether a fork or a stranger wrote the item, by what the forge says now."""
        call = Call("GET", self._item_path(item), f"reading {item.display}")
        found = await self.client.get(self.ITEM, call)
        return await self._trust(item, found, closed=await self._is_private(item))

    async def _trust(self, item: Item, found: ItemResponse, *, closed: bool) -> Trust:
        head = None if item.kind is ItemKind.ISSUE else await self._head_of(found, item)
        ours = found.by_member and found.author.id == (await self._account()).id
        member = found.by_member
        return trust_of(item, head, closed=closed, member=member, ours=ours, prefix=self.branch_prefix)

    async def label_application(self, item: Item) -> LabelEvent | None:
        history = await self.label_history(item, None)
        applied = last_application(history.values, self.settings.triggers)
        if applied is None and not history.complete:
            raise ForgeListTooLongError(
                f"The history of {item.display} is longer than what is read of it, so it is not known who "
                "applied the label. Open a new issue for this work."
            )
        return applied

    async def label_history(self, item: Item, since: datetime | None, *, older: int = 0) -> Read[LabelEvent]:
        """Return the events in which labels of `Labels.active` were applied or removed; the newest is first.

        Args:
            since: a time by the forge's clock. Older events are left out, except that the last application of
                a label of `Labels.triggers`, and later events, are always included. `None` means that all
                events are older.
            older: how many older events of any kind are read nevertheless.

        Returns:
            The events. It is incomplete only if older events were asked for and not read.
        """
        history: list[LabelEvent] = []
        applied = False
        events = self._history(item)
        async for page in events:
            for event in reversed(page):
                at = whole_second(event.created_at)
                if applied and (since is None or at < since):
                    if older == 0:
                        return Read(tuple(history))
                    older -= 1
                label = self.settings.spelled(event.label.name) if event.label else ""
                if label in self.settings.active and event.action in (self.LABELED, self.UNLABELED):
                    added = event.action == self.LABELED
                    applied = applied or (added and label in self.settings.triggers)
                    user = event.user.login if event.user else ""
                    history.append(LabelEvent(at, user, label, added))
        return Read(tuple(history), () if events.complete else ("older events",))

    def _history(self, item: Item) -> Pages[list[HistoryEvent]]:
        """Return the events of an item's history, with at least all events of labels.

        The newest page is first, and the oldest event of a page is first.
        """
        what = f"reading the label events of {item.display}"
        call = Call("GET", self._item_path(item, self.EVENTS), what)
        return self.client.newest_first(list[HistoryEvent], call, limit=SCAN_PAGES)

    async def item_history(self, item: Item, after: Position | None) -> ItemHistory:
        """Read the item, and its events after a position, or all if there is none.

        Events at the position or before it are returned as well if they were read anyway, and always the last
        one of a label, unless the label was deleted.

        The item is read first. Whether it had a label before the events is derived from the first event of
        that label, and only if no event has the label from what the item shows. If a label is applied after
        the item was read, the history has an event of it. In the other order, the item would show a label
        that the history does not explain, as if it had been there all the time.

        If the item does not show what its last events say, both are read again, until they agree or until two
        reads of the history are the same. So something that happens between two requests does not look like a
        label that is gone without an event. If something happens each time, the history is returned as not
        `current`; otherwise the caller decides about that.

        Raises:
            ForgeNotFoundError: the item was deleted, or moved to another repository.
        """
        own = await self.whoami()
        events: Read[ItemEvent] | None = None
        history: ItemHistory
        for _ in range(_HISTORY_READS):
            call = Call("GET", self._item_path(item), f"reading {item.display}")
            found, before = await self.client.get(ItemResponse, call), events
            updated = None if before is None else found.updated_at
            events = await self._item_events(item, after, self._labels(found), updated)
            history = ItemHistory(
                events.values,
                self._labels(found),
                found.open,
                self.settings.triggers,
                self.settings.active,
                own,
                complete=events.complete,
            )
            if events == before or agrees(history):
                return history
        return replace(history, current=False)

    async def _item_events(
        self, item: Item, after: Position | None, shown: frozenset[str], updated: datetime | None
    ) -> Read[ItemEvent]:
        """Return the events for `item_history`, the oldest first.

        Args:
            shown: the labels on the item.
            updated: when the item was last changed, if an earlier read of the events disagreed with it.
        """
        found: list[HistoryEvent] = []
        pages = self._history(item)
        async for page in pages:
            found += page
            events = item_events(found, self.ACTIONS, self.settings)
            if reaches(events, after, shown & self.settings.active):
                return Read(tuple(events))
        events = item_events(found, self.ACTIONS, self.settings)
        return Read(tuple(events), () if pages.complete else ("older events",))

    def _labels(self, found: ItemResponse) -> frozenset[str]:
        return self.settings.all_spelled(found.label_names)

    async def redeliver_missed(self, settings: Settings) -> int:
        """Ask the forge to send again the deliveries that did not arrive; return how many.

        Only GitHub can be asked, so other forges return 0.
        """
        return 0

    async def locate(self, item: Item) -> Item:
        """Return the item with its repository's present path (a key may have only the project id).

        This sends a request only if an earlier request for the repository was redirected.
        """
        now = await self.current_path(item.repository)
        return item if now.lower() == item.repository.lower() else _in_repository(item, now)

    async def current_path(self, repository: str) -> str:
        """Return a repository's present path. Only if a request was redirected is the forge asked for it."""
        return await self._path_of(repository) if repository.lower() in self.client.redirected else repository

    async def read_state(self, item: Item) -> ItemState:
        call = Call("GET", self._item_path(item), f"reading {item.display}")
        found = await self.client.get(ItemResponse, call)
        return ItemState(self._labels(found), found.open, found.updated_second)

    def _details(self, item: Item, response: ItemResponse, *, base: str, repository: str) -> ItemDetails:
        same = repository.lower() == item.repository.lower()
        return ItemDetails(
            item=item if same else _in_repository(item, repository),
            title=response.title,
            body=response.body,
            author=response.author.login,
            url=response.url,
            labels=self._labels(response),
            open=response.open,
            base_branch=base,
            updated_at=response.updated_second,
        )

    async def open_change(
        self, item: Item, *, branch: str, base: str, title: str, body: str, draft: bool = False
    ) -> Change:
        """Return the open change from `branch` in the item's repository, and open one if there is none.

        Args:
            draft: whether the new change is a draft, if the forge has drafts there.
        """
        change = await self.find_change(item, branch=branch)
        if change is not None:
            return change
        try:
            return await self._create_change(
                item, branch=branch, base=base, title=title, body=body, draft=draft
            )
        except ForgeError as error:
            # Another consumer opened the change, or we did and the answer was lost.
            if error.status in (409, 422) or isinstance(error, ForgeUnavailableError):
                change = await self.find_change(item, branch=branch)
                if change is not None:
                    return change
            raise

    async def attachment(self, item: Item, link: str, *, limit: int) -> bytes | None:
        """Read the attached file that a link in the item's text leads to; `None` if it leads elsewhere.

        Raises:
            ForgeError: the file cannot be read or has more than `limit` bytes.
        """
        found = self._attachment_of(item, link)
        if found is None:
            return None
        what = f"reading an attachment of {item.display}"
        call = Call("GET", found.address, what, repository=item.repository)
        data = await self.client.end_of(call, limit + 1, with_token=found.with_token)
        if len(data) > limit:
            raise ForgeRejectedError(f"an attachment of {item.display} has more than {limit} bytes")
        return data

    async def clone_source(
        self, repository: str, refused: str = "", *, redirected: bool = False
    ) -> CloneSource:
        """Return the URL of a repository of this forge, with credentials for fetch and push.

        Args:
            refused: a token that git could not use, e.g. because it was revoked. It is returned again if
                there is no other.
            redirected: whether git was redirected, so that the forge is asked for the present path.
        """
        present = await (self._path_of(repository) if redirected else self.current_path(repository))
        url = clone_url(self.settings.api_url, present)
        token = await self.client.token.current(repository, refused)
        return CloneSource(url=url, username=self.CLONE_USER, token=token)

    async def aclose(self) -> None:
        await self.client.aclose()


def too_many_labeled(host: str, labels: Iterable[str]) -> ForgeListTooLongError:
    """Return the error for a search for labeled items with more results than are read."""
    return ForgeListTooLongError(
        f"{host} has more items labeled {' or '.join(map(repr, sorted(labels)))} than one poll reads. Polls "
        "find the others when these have been worked on; webhooks find them at once."
    )


def _in_repository(item: Item, repository: str) -> Item:
    return item.model_copy(update={"repository": repository})
