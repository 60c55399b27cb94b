"""Settings of the forges: addresses, tokens, labels, and what polling looks for."""

from __future__ import annotations

from pydantic import Field, field_validator

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
