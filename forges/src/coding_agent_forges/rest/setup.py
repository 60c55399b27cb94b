"""`ForgeSetup`: sets up repositories of a forge for the agent, and diagnoses their set-up.

It reads the rights of the token in a repository, creates labels and a webhook, and reads the webhook's last
deliveries. Only `kubectl agenttask init` and `doctor` use it.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar

from coding_agent_core.errors import ForgeError, ForgeListTooLongError, ForgeNotFoundError
from coding_agent_core.platforms.registry import Platform, forge_module
from pydantic import AliasChoices, AliasPath, Field

from coding_agent_forges.rest.calls import Call, Read, Repeat, ResponseModel, User, path
from coding_agent_forges.rest.responses import Label

if TYPE_CHECKING:  # the setup is given a forge and imports no HTTP library
    from coding_agent_forges.rest.forge import Forge

LIST_PAGES = 40
"""Maximum number of pages of labels or webhooks that are read."""


@dataclass(frozen=True)
class TokenRights:
    """The rights of a token, and when they expire.

    Attributes:
        scopes: the token's scopes; `None` if the forge does not tell them.
        lacks: the scopes that the agent needs and that the token does not have.
        expires_at: when the token expires; `None` if it never does, or if the forge does not say it.
    """

    scopes: frozenset[str] | None = None
    lacks: tuple[str, ...] = ()
    expires_at: datetime | None = None


@dataclass(frozen=True)
class TokenFacts:
    """The facts about our token that the forge states.

    Attributes:
        login: the token's account.
        at: when the forge answered, by its own clock; `None` if it did not say so.
    """

    login: str
    at: datetime | None
    rights: TokenRights


@dataclass(frozen=True)
class RepositoryFacts:
    """The rights of our account in a repository.

    Attributes:
        path: the repository's path as the forge spells it.
        lacks: a clause for each right that the agent needs and that our account does not have.
        may_add_webhook: whether our account may create webhooks there.
    """

    path: str
    lacks: tuple[str, ...]
    may_add_webhook: bool


@dataclass(frozen=True)
class NewLabel:
    """A label to create; `color` is six hex digits."""

    name: str
    color: str
    description: str


@dataclass(frozen=True)
class RepositoryWebhook:
    """A webhook of a repository."""

    id: int
    url: str
    active: bool


@dataclass(frozen=True)
class DeliveryResponse:
    """The result of a delivery of a webhook.

    Attributes:
        event: the event's name at the forge.
        status: the receiver's HTTP status; 0 if there was no answer.
    """

    event: str
    status: int


class _Hook(ResponseModel):
    """A webhook. GitLab sets `alert_status` when it has stopped sending because of many failures."""

    id: int
    # GitHub's own `url` is the webhook's address in the API.
    url: str = Field(validation_alias=AliasChoices(AliasPath("config", "url"), "url"))
    active: bool = True
    alert_status: str = "executable"


class OwnedRepository(ResponseModel):
    """A repository of GitHub or Gitea with the rights of the account that asks."""

    full_name: str
    archived: bool = False
    topics: tuple[str, ...] = ()
    has_issues: bool = True
    push: bool = Field(default=False, validation_alias=AliasPath("permissions", "push"))
    admin: bool = Field(default=False, validation_alias=AliasPath("permissions", "admin"))


class FolderEntry(ResponseModel):
    """A file or a folder of a repository."""

    name: str


class _FileContent(ResponseModel):
    """A file of GitHub or Gitea; GitHub leaves out the content of files above 1 MB."""

    content: str = ""


@dataclass(frozen=True)
class ForgeSetup(ABC):
    """The interface to set up repositories of one forge. All methods raise `ForgeError`.

    Example:
        setup = setup_of(forge)
        for label in labels:
            await setup.create_label("acme/pricing", label)
    """

    LABEL_MARK: ClassVar[str]
    """The characters before a label's color."""

    forge: Forge

    def _repository_path(self, repository: str, *rest: str | int) -> str:
        """Return the API's path of a repository, or of something below it."""
        return path("repos", *repository.split("/", 1), *rest)

    @abstractmethod
    def _webhook_body(self, url: str, secret: str) -> dict[str, object]:
        """Return the request that creates a webhook for all events that the receiver understands."""

    @abstractmethod
    def poll_scope(self, repositories: Sequence[str]) -> dict[str, object]:
        """Return the settings with which a poll searches only these repositories.

        Raises:
            ValueError: one poll cannot search them all.
        """

    @abstractmethod
    def owner_scope(self, owner: str) -> dict[str, object]:
        """Return the settings with which a poll searches all repositories of an owner; `None` removes one."""

    @abstractmethod
    async def repositories_of(self, owner: str, topic: str) -> tuple[str, ...]:
        """Return the paths of an owner's repositories that our account sees and that are not archived.

        Args:
            topic: only repositories with this topic; empty for all.
        """

    @abstractmethod
    async def _token_rights(self, headers: Mapping[str, str]) -> TokenRights:
        """Return the rights of our token.

        Args:
            headers: of the answer that named the token's account.
        """

    @abstractmethod
    async def repository(self, repository: str) -> RepositoryFacts:
        """Return the rights of our account in a repository."""

    @abstractmethod
    async def deliveries(self, repository: str, webhook: RepositoryWebhook) -> Sequence[DeliveryResponse]:
        """Return the last deliveries, the newest first; empty if the forge's API does not show them."""

    async def token(self) -> TokenFacts:
        """Return the account and the rights of our token."""
        call = Call("GET", "/user", "asking who our token belongs to")
        response = await self.forge.client.send(call)
        user = self.forge.client.parse(User, response, call)
        date = response.headers.get("date")
        at = None if date is None else parsedate_to_datetime(date)
        return TokenFacts(user.login, at, await self._token_rights(response.headers))

    async def files(self, repository: str, folder: str = "") -> frozenset[str]:
        """Return the names in a folder of the default branch; empty if the folder does not exist."""
        try:
            found = await self.forge.client.get(list[FolderEntry], self._folder_call(repository, folder))
        except ForgeNotFoundError:
            return frozenset()  # also the answer for a repository without a commit
        return frozenset(entry.name for entry in found)

    def _folder_call(self, repository: str, folder: str) -> Call:
        where = self._repository_path(repository, "contents", *filter(None, folder.split("/")))
        return Call("GET", where, f"reading the files of {repository}")

    async def text(self, repository: str, file: str) -> str:
        """Return a text file of the default branch."""
        where = self._repository_path(repository, "contents", *file.split("/"))
        call = Call("GET", where, f"reading {file} of {repository}")
        found = await self.forge.client.get(_FileContent, call)
        return base64.b64decode(found.content).decode("utf-8", "replace")

    async def _owned(self, where: str, owner: str, topic: str) -> tuple[str, ...]:
        """Return the repositories of an owner in a list of GitHub or Gitea."""
        call = Call("GET", where, f"reading the repositories of {owner}")
        found = await self.forge.client.entries(list[OwnedRepository], call, limit=LIST_PAGES)
        require_all(found, "repositories", owner)
        return tuple(
            sorted(
                one.full_name
                for one in found.values
                if one.full_name.partition("/")[0].casefold() == owner.casefold()
                and not one.archived
                and (not topic or topic in one.topics)
            )
        )

    async def webhooks(self, repository: str) -> list[RepositoryWebhook]:
        """Return the webhooks of a repository. Only people who may change them can read them."""
        where = self._repository_path(repository, "hooks")
        call = Call("GET", where, f"reading the webhooks of {repository}")
        found = await self.forge.client.entries(list[_Hook], call, limit=LIST_PAGES)
        require_all(found, "webhooks", repository)
        return [
            RepositoryWebhook(hook.id, hook.url, hook.active and hook.alert_status == "executable")
            for hook in found.values
        ]

    async def labels(self, repository: str) -> frozenset[str]:
        """Return the names of the repository's labels, those of our settings as the settings spell them."""
        call = Call("GET", self._repository_path(repository, "labels"), f"reading the labels of {repository}")
        found = await self.forge.client.entries(list[Label], call, limit=LIST_PAGES)
        require_all(found, "labels", repository)
        return self.forge.settings.all_spelled(label.name for label in found.values)

    async def create_label(self, repository: str, label: NewLabel) -> None:
        """Create a label. If a label of this name exists already, it is left unchanged."""
        call = Call(
            "POST",
            self._repository_path(repository, "labels"),
            f"creating the label {label.name!r} in {repository}",
            json=self._label_body(label),
            repeat=Repeat.UNLESS_PROCESSED,
        )
        try:
            await self.forge.client.send(call)
        except ForgeError as error:
            # Somebody else, or an earlier request whose answer was lost, has made the label.
            if error.status not in (409, 422) or label.name not in await self.labels(repository):
                raise

    def _label_body(self, label: NewLabel) -> dict[str, str]:
        color = f"{self.LABEL_MARK}{label.color}"
        return {"name": label.name, "color": color, "description": label.description}

    async def create_webhook(self, repository: str, url: str, secret: str) -> None:
        """Create a webhook that sends all events that the receiver understands."""
        call = Call(
            "POST",
            self._repository_path(repository, "hooks"),
            f"creating the webhook of {repository}",
            json=self._webhook_body(url, secret),
            repeat=Repeat.UNLESS_PROCESSED,
        )
        await self.forge.client.send(call)


def require_all(found: Read[Any], what: str, repository: str) -> None:
    """Raise an error if a list was not read to its end, because an object to create may already exist."""
    if not found.complete:
        raise ForgeListTooLongError(
            f"{repository} has more than {len(found.values)} {what}, which is more than are read. Delete "
            "some that nobody needs."
        )


def setup_of(forge: Forge) -> ForgeSetup:
    """Return the `ForgeSetup` of a forge, which its platform's module `setup` names `SETUP`."""
    kind: type[ForgeSetup] = forge_module(Platform(forge.platform), "setup").SETUP
    return kind(forge)
