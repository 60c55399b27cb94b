"""Settings of the forges: addresses, tokens, labels, and what polling looks for."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from coding_agent_core.secrets import SecretSettings
from coding_agent_core.settings.section import SecretField, Section
from coding_agent_core.tasks import host_of


class Labels(Section):
    """The labels that tell an item's state; all others on it are never touched."""

    bot_label: str = Field(default="coding agent", min_length=1)
    """Applied by a person: asks for a task."""
    processing_label: str = Field(default="coding agent processing", min_length=1)
    """On the item while a task is at work."""
    done_label: str = Field(default="coding agent done", min_length=1)
    """On the item after success."""
    failed_label: str | None = None
    """Set when a task failed or was given up; none by default."""


class Redelivery(Section):
    """Failed deliveries of our webhook that the poll has GitHub send again, which it never does by itself.

    Off while both lists are empty. The token needs the permission *Webhooks*, write, of each.
    """

    repositories: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")], ...] = ()
    """Repositories that have the webhook, as `OWNER/NAME`."""
    organizations: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...] = ()
    """Organisations that have the webhook."""
    webhook_url: str = ""
    """Its Payload URL, as it stands in GitHub's form; webhooks with another one are left alone."""

    @model_validator(mode="after")
    def _knows_the_webhook(self) -> Self:
        if (self.repositories or self.organizations) and not self.webhook_url:
            raise ValueError("webhook_url is missing: the Payload URL of the webhook, to tell it from others")
        return self


class GitHub(Labels):
    """GitHub, or GitHub Enterprise by `api_url`."""

    api_url: str = "https://api.github.com"
    """REST base URL; GitHub Enterprise: `https://HOST/api/v3`."""
    owner: str = ""
    """Polling: only repositories of this user or organisation."""
    assignee: str = ""
    """Polling: only items assigned to this user."""
    query: str = "state:open archived:false sort:updated-desc"
    """Polling: appended to the search."""
    redelivery: Redelivery = Redelivery()
    personal_access_token: SecretField = SecretSettings()
    """Of the account that labels, comments, pushes and opens pull requests."""

    @property
    def host(self) -> str:
        """The web host: the API's own, or what stands behind `api.` on github.com and GHE.com.

        GitHub's documentation, *Network details for GHE.com*: the API of SUBDOMAIN.ghe.com is at
        `https://api.SUBDOMAIN.ghe.com`.
        """
        host = host_of(self.api_url)
        bare = host.removeprefix("api.")
        return bare if bare == "github.com" or bare.endswith(".ghe.com") else host


class GitLab(Labels):
    """GitLab.com or a self-managed GitLab by `api_url`."""

    api_url: str = "https://gitlab.com/api/v4"
    """REST base URL; self-managed: `https://HOST/api/v4` (`https://HOST` is completed)."""
    owner: str = ""
    """Kept for compatibility with existing files; the project or group below selects."""
    project_id: str | int = ""
    """Polling: id or path of the one project to search; empty: the group, or the whole instance."""
    group_id: str | int = ""
    """Polling: id or path of the group to search, subgroups included."""
    assignee: str = ""
    """Polling: only items assigned to this user."""
    query: str = ""
    """Polling: search text."""
    personal_access_token: SecretField = SecretSettings()
    """Personal, project or group access token with the scope `api`."""

    @field_validator("api_url")
    @classmethod
    def _complete(cls, value: str) -> str:
        value = value.rstrip("/")
        return value if "/api/" in value else f"{value}/api/v4"

    @property
    def host(self) -> str:
        """The web host."""
        return host_of(self.api_url)
