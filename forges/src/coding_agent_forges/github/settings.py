"""Settings of GitHub and of its webhooks."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Self

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.forges import ForgeSettings
from coding_agent_core.settings.section import ForgeId, OptionalUrl, SecretField, SecretSettings, Section
from pydantic import Field, model_validator

from coding_agent_forges.github.app_settings import GitHubServer

_SCOPE = re.compile(r"\b(repo|org|user|assignee|author|involves):\S")
"""Matches the qualifiers with which a search finds no items of strangers."""


class Redelivery(Section):
    """Webhooks whose failed deliveries the poll asks GitHub to send again. GitHub never does so on its own.

    This is off while both lists are empty. The token needs the permission *Webhooks* (write) on each of them.
    """

    repositories: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")], ...] = ()
    """Repositories that have the webhook, as `OWNER/NAME`."""
    organizations: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...] = ()
    """Organizations that have the webhook."""
    webhook_url: OptionalUrl = ""
    """The webhook's Payload URL, as in GitHub's form; webhooks with another URL are left alone."""

    @model_validator(mode="after")
    def _knows_the_webhook(self) -> Self:
        if (self.repositories or self.organizations) and not self.webhook_url:
            raise ValueError("webhook_url is missing: set it to the Payload URL of the webhook")
        return self


class GitHub(GitHubServer, ForgeSettings):
    """GitHub. For GitHub Enterprise, set `api_url`."""

    PLATFORM = Platform.GITHUB
    SCOPE: ClassVar[str] = (
        "set github.owner, github.assignee, or a qualifier such as `org:NAME` or `repo:OWNER/NAME` in "
        "github.query"
    )

    owner: str = ""
    """Polling: only repositories of this user or organization."""
    query: str = "state:open archived:false"
    """Polling: appended to the search, which has the oldest items first (`sort:` has no effect)."""
    redelivery: Redelivery = Redelivery()
    account_id: ForgeId | None = None
    """Number of the token's account, as `https://api.github.com/users/LOGIN` shows it. With it, the receiver
    recognizes the account by its number and not by `account`, so a new name of the account does no harm."""
    token_credential: SecretField = SecretSettings()
    """What identifies this program at the token service: a projected token of its ServiceAccount. An attempt
    gets its credential from the operator. The Helm chart sets this."""

    @model_validator(mode="after")
    def _has_one_identity(self) -> Self:
        if self.app is not None and self.personal_access_token.configured:
            raise ValueError(
                "both app and personal_access_token are set, and they are different accounts: remove one"
            )
        if self.app is not None and (self.redelivery.repositories or self.redelivery.organizations):
            raise ValueError(
                "redelivery needs a personal access token: the token of an App may not read webhooks. Remove "
                "redelivery or app"
            )
        return self

    @property
    def connectable(self) -> bool:
        return self.app is not None or super().connectable

    @property
    def credentials(self) -> tuple[SecretSettings, ...]:
        service = self.app.service if self.app is not None else None
        keys = (service.key,) if service is not None else ()
        return (self.personal_access_token, self.token_credential, *keys)

    @property
    def token_service_urls(self) -> tuple[str, ...]:
        return (self.app.service.url,) if self.app is not None and self.app.service is not None else ()

    @property
    def narrowed(self) -> bool:
        return bool(self.owner or self.assignee or _SCOPE.search(self.query))


class GitHubWebhook(Section):
    """GitHub webhooks."""

    secret: SecretField = SecretSettings()
    """Secret of the webhook, or several while you rotate it."""
    events: tuple[str, ...] = ("issues", "pull_request")
    """Events that can create a task, by `X-GitHub-Event`."""
    actions: tuple[str, ...] = ("labeled",)
    """Actions of these events that can create a task."""


SECTION, WEBHOOK_SECTION = GitHub, GitHubWebhook
