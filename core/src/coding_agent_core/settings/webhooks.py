"""Settings of the receiver."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from pydantic import Field, field_validator

from coding_agent_core.commands import CommandName
from coding_agent_core.secrets import SecretSettings
from coding_agent_core.settings.section import SecretField, Section


class WebhookServer(Section):
    """Where the receiver listens."""

    host: str = "0.0.0.0"  # noqa: S104 - the specification's default; a container must listen on all
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free one."""


class GitHubWebhook(Section):
    """GitHub webhooks."""

    secret: SecretField = SecretSettings()
    """The webhook's secret; several while it is rotated."""
    events: tuple[str, ...] = ("issues", "pull_request")
    """Events that can make a task, by `X-GitHub-Event`."""
    actions: tuple[str, ...] = ("labeled",)
    """Actions of them that can make a task."""


class GitLabWebhook(Section):
    """GitLab webhooks, project, group and system hooks."""

    token: SecretField = SecretSettings()
    """The webhook's secret token; several while it is rotated."""
    events: tuple[str, ...] = ("Issue Hook", "Merge Request Hook")
    """Events that can make a task; a system hook's are named as these."""


class Commands(Section):
    """Commands that people with write access give as comments: `/cancel`, `/retry`, `/run`, `/status`.

    The webhook must send comments too: GitHub's event `issue_comment`, GitLab's *Comments*.
    """

    enabled: bool = False
    """Whether comments are looked at at all."""
    allowed: tuple[CommandName, ...] = tuple(CommandName)
    """Those that are understood; comments with any other are comments."""


class RateLimit(Section):
    """Requests for each client address, in slowapi's notation (`100/minute`)."""

    failed: str = "100/minute"
    """Requests that fail verification; answered 429 beyond it."""
    verified: str | None = None
    """Authentic requests. Off by default: GitHub does not send again what was answered 429."""


class Webhook(Section):
    """The receiver."""

    enabled: bool = True
    """`false`: `--mode webhook` refuses to start."""
    server: WebhookServer = WebhookServer()
    github: GitHubWebhook = GitHubWebhook()
    gitlab: GitLabWebhook = GitLabWebhook()
    commands: Commands = Commands()
    rate_limit: RateLimit = RateLimit()
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose X-Forwarded-For is believed."""
    allowed_networks: tuple[str, ...] = ()
    """If not empty, only these networks may send; `github` stands for GitHub's published hook addresses."""
    max_body_bytes: int = Field(default=25 * 1024 * 1024, gt=0)
    """Larger bodies are answered 413. GitHub caps its payloads at 25 MB."""

    @field_validator("trusted_proxies", "allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        for entry in value:
            if entry == "github" and info.field_name == "allowed_networks":
                continue
            try:
                ip_network(entry, strict=False)
            except ValueError as error:
                raise ValueError(f"{entry!r} is no network; write for example 10.0.0.0/8") from error
        return value


def networks(entries: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    """The entries that are networks, parsed; keywords are left out."""
    return [ip_network(entry, strict=False) for entry in entries if entry != "github"]
