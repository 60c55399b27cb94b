"""Settings of Gitea and of its webhooks."""

from __future__ import annotations

from typing import ClassVar

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.forges import ForgeSettings
from coding_agent_core.settings.section import SecretField, SecretSettings, Section, Url
from pydantic import field_validator


class Gitea(ForgeSettings):
    """Gitea or Forgejo. Set `api_url` to your installation."""

    PLATFORM = Platform.GITEA
    SCOPE: ClassVar[str] = "set gitea.owner or gitea.assignee"

    api_url: Url = "https://gitea.com/api/v1"
    """REST base URL: `https://HOST/api/v1` (`https://HOST` is enough)."""
    owner: str = ""
    """Polling: only repositories of this user or organization."""
    query: str = ""
    """Polling: search text."""
    personal_access_token: SecretField = SecretSettings()
    """Access token with the scopes `write:issue`, `write:repository` and `read:user`. To read what other
    people may do, Gitea demands that its account is an administrator of the repository."""

    @field_validator("api_url")
    @classmethod
    def _complete(cls, value: str) -> str:
        value = value.rstrip("/")
        return value if "/api/" in value else f"{value}/api/v1"

    @property
    def narrowed(self) -> bool:
        return bool(self.owner or self.assignee)


class GiteaWebhook(Section):
    """Gitea's webhooks of repositories, organizations and the whole installation."""

    secret: SecretField = SecretSettings()
    """Secret of the webhook, or several while you rotate it."""
    events: tuple[str, ...] = ("issues", "pull_request")
    """Events that can create a task, by `X-Gitea-Event`."""


SECTION, WEBHOOK_SECTION = Gitea, GiteaWebhook
