"""Settings of GitHub and of its webhooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from coding_agent_core.registry import Platform
from coding_agent_core.settings.forges import ForgeSettings
from coding_agent_core.settings.section import OptionalUrl, SecretField, SecretSettings, Section, Url
from coding_agent_core.tasks import host_of

_OWNER_OR_REPOSITORY = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$"
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


class TokenService(Section):
    """The token service, which alone holds the App's key. The Helm chart sets all of this."""

    url: Url
    """URL of the service."""
    key: SecretField = SecretSettings()
    """Key with which the operator signs the credentials of attempts. The service accepts all values; the
    operator uses the first. At least 32 bytes."""


class App(Section):
    """The GitHub App that gives the tokens, instead of a personal access token."""

    app_id: int = Field(gt=0)
    """*App ID* on the App's settings page."""
    installation_id: int | None = Field(default=None, gt=0)
    """The only installation to use: the number at the end of its page's address. By default, the
    installation of each repository is looked up."""
    private_key_file: Path
    """File with the App's private key in PEM format. With `service`, only the token service reads it. It is
    read again when it changes."""
    service: TokenService | None = None
    """The token service; without it, this process reads the key and gets its tokens itself."""
    namespaces: dict[str, tuple[Annotated[str, Field(pattern=_OWNER_OR_REPOSITORY)], ...]] = Field(
        default_factory=dict
    )
    """For an App of several teams: the owners (`acme`) and repositories (`acme/pricing`) for which the
    programs and attempts of each namespace get tokens. A namespace that is not listed then gets none. By
    default, each gets tokens for every repository of every installation. The token service reads this."""


class GitHub(ForgeSettings):
    """GitHub. For GitHub Enterprise, set `api_url`."""

    PLATFORM = Platform.GITHUB
    SCOPE: ClassVar[str] = (
        "set github.owner, github.assignee, or a qualifier such as `org:NAME` or `repo:OWNER/NAME` in "
        "github.query"
    )

    api_url: Url = "https://api.github.com"
    """REST base URL; GitHub Enterprise: `https://HOST/api/v3`."""
    owner: str = ""
    """Polling: only repositories of this user or organization."""
    query: str = "state:open archived:false"
    """Polling: appended to the search."""
    redelivery: Redelivery = Redelivery()
    app: App | None = None
    """GitHub App; not used together with `personal_access_token`."""
    account_id: int | None = Field(default=None, gt=0)
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
    def host(self) -> str:
        """The web host: the API's host, but without `api.` on github.com and GHE.com.

        GitHub's documentation, *Network details for GHE.com*: the API of SUBDOMAIN.ghe.com is at
        `https://api.SUBDOMAIN.ghe.com`.
        """
        host = host_of(self.api_url)
        bare = host.removeprefix("api.")
        return bare if bare == "github.com" or bare.endswith(".ghe.com") else host

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
