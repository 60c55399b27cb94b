"""Settings of GitLab and of its webhooks."""

from __future__ import annotations

from typing import ClassVar

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.forges import ForgeSettings
from coding_agent_core.settings.section import ForgeId, SecretField, SecretSettings, Section, Url
from pydantic import field_validator


class GitLab(ForgeSettings):
    """GitLab.com. For a self-managed GitLab, set `api_url`."""

    PLATFORM = Platform.GITLAB
    SCOPE: ClassVar[str] = "set gitlab.project_id, gitlab.group_id or gitlab.assignee"

    api_url: Url = "https://gitlab.com/api/v4"
    """REST base URL; self-managed: `https://HOST/api/v4` (`https://HOST` is enough)."""
    project_id: str | ForgeId | tuple[str | ForgeId, ...] = ""
    """Polling: id or path of the project to search, or a list of them. If it is empty, the group or the whole
    instance is searched."""
    group_id: str | ForgeId = ""
    """Polling: id or path of the group to search, subgroups included."""
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
    def projects(self) -> tuple[str | int, ...]:
        """The projects to poll; if it is empty, the group or the whole instance is polled."""
        given = self.project_id if isinstance(self.project_id, tuple) else (self.project_id,)
        return tuple(project for project in given if project)

    @property
    def narrowed(self) -> bool:
        return bool(self.projects or self.group_id or self.assignee)


class GitLabWebhook(Section):
    """GitLab's project, group and system webhooks."""

    token: SecretField = SecretSettings()
    """Secret token of the webhook, or several while you rotate it."""
    events: tuple[str, ...] = ("Issue Hook", "Merge Request Hook")
    """Events that can create a task; the same names stand for the events of system hooks."""


SECTION, WEBHOOK_SECTION = GitLab, GitLabWebhook
