"""What this project asks of a forge: one protocol for GitHub and GitLab, and the values that cross it.

All calls have a timeout, retry what is safe to retry within a limit, and raise the `ForgeError` family of
`coding_agent_core.errors` with a sentence that names the item and never a secret.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from coding_agent_core.platforms import Platform
from coding_agent_core.tasks import Item, TaskRequest


@dataclass(frozen=True)
class ItemDetails:
    """An issue, pull request or merge request as the forge shows it now.

    Attributes:
        body: Markdown, empty if none.
        labels: names of all labels on it.
        open: whether it can still be worked on (not closed, not merged).
        base_branch: where a change is to be merged: the repository's default branch for an issue.
        head_branch: the branch of a change; `None` for issues.
        head_sha: the commit at the tip of a change's branch; `None` for issues.
        head_repository: full path of the repository that holds a change's branch; `None` for issues.
    """

    item: Item
    title: str
    body: str
    author: str
    url: str
    labels: frozenset[str]
    open: bool
    base_branch: str
    head_branch: str | None = None
    head_sha: str | None = None
    head_repository: str | None = None


@dataclass(frozen=True)
class ItemState:
    """What one request shows of an item: the names of all labels on it, and whether it can be worked on."""

    labels: frozenset[str]
    open: bool


@dataclass(frozen=True)
class LabelApplication:
    """When a label was last put on an item, by the forge's clock, and by whom (empty: unknown)."""

    at: datetime
    user: str


@dataclass(frozen=True)
class Comment:
    """A comment on an item. `id` is the forge's own, as text."""

    id: str
    author: str
    body: str
    created_at: datetime
    url: str = ""


@dataclass(frozen=True)
class Change:
    """A pull request or merge request. `created` tells whether this call opened it."""

    number: int
    url: str
    created: bool


@dataclass(frozen=True)
class CloneSource:
    """Where to clone from, and with what: the URL never holds the secret.

    Attributes:
        url: http(s) URL without credentials.
        username: for HTTP basic authentication, e.g. `x-access-token` (GitHub), `oauth2` (GitLab).
        token: the password; not shown by repr.
    """

    url: str
    username: str
    token: str = field(repr=False)


def web_base(api_url: str) -> str:
    """Where people and git find the forge whose REST API is at `api_url`, without a trailing slash.

    `https://api.github.com` -> `https://github.com`; `https://HOST/api/v3` and `https://HOST/path/api/v4` ->
    what stands before `/api/`; `https://api.TENANT.ghe.com` -> `https://TENANT.ghe.com`.
    """
    parts = urlsplit(api_url)
    # Whatever stands before an `@` are credentials, which belong into no URL of ours.
    location = parts.netloc.rpartition("@")[2]
    if "/api/" in f"{parts.path}/":
        return f"{parts.scheme}://{location}{parts.path.split('/api/')[0]}"
    return f"{parts.scheme}://{location.removeprefix('api.')}"


def clone_url(api_url: str, repository: str) -> str:
    """The http(s) URL of a repository by its full path."""
    return f"{web_base(api_url)}/{quote(repository.strip('/'))}.git"


@dataclass(frozen=True)
class Hook:
    """A webhook as the forge has it set up.

    Attributes:
        path: of the hook in the forge's API.
        url: where it sends to.
        name: for sentences.
    """

    path: str
    url: str
    name: str


@dataclass(frozen=True)
class HookDelivery:
    """One delivery of an event to a webhook; each further one of the same event has the same `guid`.

    Attributes:
        at: when, by the forge's clock.
        status: the receiver's HTTP status, or the forge's own for a receiver that did not answer (GitHub: 502
            no connection, 504 too late).
    """

    id: int
    guid: str
    at: datetime
    status: int
    event: str

    @property
    def succeeded(self) -> bool:
        """The receiver took it."""
        return 200 <= self.status < 300


class Hooks(Protocol):
    """A forge's log of what its webhooks sent. All methods raise the `ForgeError` family."""

    async def of_repository(self, repository: str) -> list[Hook]:
        """The active webhooks of a repository, by its full path."""
        ...

    async def of_organization(self, organization: str) -> list[Hook]:
        """The active webhooks of an organisation."""
        ...

    def deliveries(
        self, hook: Hook, since: datetime, *, failed_only: bool = False
    ) -> AsyncIterator[HookDelivery]:
        """What the hook has sent since a time, newest first; with `failed_only` only what was not taken."""
        ...

    async def payload(self, hook: Hook, delivery: HookDelivery) -> dict[str, Any]:
        """The event that was sent."""
        ...

    async def redeliver(self, hook: Hook, delivery: HookDelivery) -> None:
        """Have the forge send it again; it does so after this has returned."""
        ...


class Forge(Protocol):
    """One installation of a forge, with one identity."""

    @property
    def platform(self) -> Platform:
        """Which product it is."""
        ...

    @property
    def host(self) -> str:
        """Its web host, as in `Item.host`."""
        ...

    async def whoami(self) -> str:
        """Login of our own identity; asked once and remembered."""
        ...

    def find_labeled(self, label: str) -> AsyncIterator[TaskRequest]:
        """Every open item in the configured scope that carries the label, as requests of origin `poll`.

        `trigger.labeled_at` is when the label was last put on where the forge tells it, else `None`.
        """
        ...

    async def locate(self, item: Item) -> Item:
        """The item with its repository path filled in (a bare GitLab key has only the project id)."""
        ...

    async def read(self, item: Item) -> ItemDetails:
        """The item as it is now."""
        ...

    async def read_state(self, item: Item) -> ItemState:
        """The item's labels and whether it is open, in one request."""
        ...

    async def label_application(self, item: Item, label: str) -> LabelApplication | None:
        """When the label was last put on the item; `None` where its history does not tell."""
        ...

    async def comments(self, item: Item) -> list[Comment]:
        """All comments, oldest first, our own included, system notes excluded; the newest 1,000 at most."""
        ...

    async def add_label(self, item: Item, label: str) -> None:
        """Put one label on, leaving every other alone; creates the label where the forge needs it."""
        ...

    async def remove_label(self, item: Item, label: str) -> bool:
        """Take one label off, leaving every other alone; whether it was there."""
        ...

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        """The oldest comment by our own identity that contains `marker`."""
        ...

    async def upsert_comment(
        self, item: Item, marker: str, body: str, *, known: Comment | None = None
    ) -> Comment:
        """Write our one comment: edit the one that `find_comment` finds, or create it.

        Does nothing when the body is the same already. `body` must contain `marker`. With `known`, as an
        earlier call returned it, that one is edited without being looked for; if it is gone, it is.
        """
        ...

    async def find_change(self, item: Item, *, branch: str) -> Change | None:
        """The open change from `branch` in the item's repository, if there is one."""
        ...

    async def open_change(self, item: Item, *, branch: str, base: str, title: str, body: str) -> Change:
        """Find the open change from `branch` in the item's repository, or open one."""
        ...

    async def can_write(self, item: Item, user: str) -> bool:
        """Whether the person may push to the repository (GitHub `write`, GitLab Developer, or more)."""
        ...

    async def has_reacted(self, item: Item, comment: str) -> bool:
        """Whether our own reaction is on the comment of this id.

        Raises:
            ForgeNotFoundError: the comment is gone.
        """
        ...

    async def react(self, item: Item, comment: str) -> None:
        """Put the reaction `eyes` on a comment that was executed. Doing it twice is harmless."""
        ...

    async def clone_source(self, repository: str) -> CloneSource:
        """Where to clone a repository of this forge from, with credentials for fetch and push."""
        ...

    def hooks(self) -> Hooks | None:
        """The log of its webhook deliveries; `None` where the forge keeps none that we read (GitLab)."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...
