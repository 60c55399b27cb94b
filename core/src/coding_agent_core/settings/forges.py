"""Settings of the forges and of the webhooks that they send."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Self, assert_never

from pydantic import AfterValidator, Field, field_validator, model_validator

from coding_agent_core.commands import CommandName
from coding_agent_core.registry import Platform
from coding_agent_core.settings.section import OptionalUrl, SecretField, SecretSettings, Section, Url
from coding_agent_core.tasks import RunnerName, host_of


class Labels(Section):
    """The labels that show an item's state; the system never changes other labels."""

    bot_label: str = Field(default="coding agent", min_length=1)
    """Label that a person applies to ask for a task. With a colon and the name of a coding agent, for example
    `coding agent: codex`, it also chooses the coding agent that does the work."""
    processing_label: str = Field(default="coding agent processing", min_length=1)
    """Label on the item while a task runs."""
    done_label: str = Field(default="coding agent done", min_length=1)
    """Label on the item after success."""
    failed_label: str | None = None
    """Label on the item after a failure; none by default."""

    def trigger(self, runner: RunnerName | None) -> str:
        """The label that asks for a task of this coding agent; `None`: of the configured one."""
        return self.bot_label if runner is None else f"{self.bot_label}: {runner}"

    @property
    def triggers(self) -> frozenset[str]:
        """The labels that ask for a task. All of them mean the same: an item with two has one task."""
        return frozenset(map(self.trigger, (None, *RunnerName)))

    @property
    def active(self) -> frozenset[str]:
        """The labels of which an item has at least one while its task waits or runs."""
        return self.triggers | {self.processing_label}

    def runner(self, present: Iterable[str]) -> RunnerName | None:
        """The coding agent that these labels choose; of several, the first by name."""
        names = {label.casefold() for label in present}
        return next((name for name in sorted(RunnerName) if self.trigger(name).casefold() in names), None)


class Redelivery(Section):
    """Webhooks whose failed deliveries the poll asks GitHub to send again. GitHub never does so by itself.

    Off while both lists are empty. The token needs the permission *Webhooks* (write) on each of them.
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


class GitHub(Labels):
    """GitHub. For GitHub Enterprise, set `api_url`."""

    api_url: Url = "https://api.github.com"
    """REST base URL; GitHub Enterprise: `https://HOST/api/v3`."""
    owner: str = ""
    """Polling: only repositories of this user or organization."""
    assignee: str = ""
    """Polling: only items assigned to this user."""
    query: str = "state:open archived:false sort:updated-desc"
    """Polling: appended to the search."""
    redelivery: Redelivery = Redelivery()
    personal_access_token: SecretField = SecretSettings()
    """Token of the account that labels, comments, pushes and opens pull requests."""
    account: str = ""
    """Login of the token's account. The receiver ignores labels that this account applies or removes, and
    does not trust what it wrote. It has no token, so it cannot ask the forge for the login; the poller and
    the reporter ask the forge."""

    @property
    def host(self) -> str:
        """The web host: the API's host, without `api.` on github.com and GHE.com.

        GitHub's documentation, *Network details for GHE.com*: the API of SUBDOMAIN.ghe.com is at
        `https://api.SUBDOMAIN.ghe.com`.
        """
        host = host_of(self.api_url)
        bare = host.removeprefix("api.")
        return bare if bare == "github.com" or bare.endswith(".ghe.com") else host


class GitLab(Labels):
    """GitLab.com. For a self-managed GitLab, set `api_url`."""

    api_url: Url = "https://gitlab.com/api/v4"
    """REST base URL; self-managed: `https://HOST/api/v4` (`https://HOST` is enough)."""
    project_id: str | int | tuple[str | int, ...] = ""
    """Polling: id or path of the project to search, or a list of them. If it is empty, the group or the whole
    instance is searched."""
    group_id: str | int = ""
    """Polling: id or path of the group to search, subgroups included."""
    assignee: str = ""
    """Polling: only items assigned to this user."""
    query: str = ""
    """Polling: search text."""
    personal_access_token: SecretField = SecretSettings()
    """Personal, project or group access token with the scope `api`."""
    account: str = ""
    """Login of the token's account. The receiver ignores labels that this account applies or removes, and
    does not trust what it wrote. It has no token, so it cannot ask the forge for the login; the poller and
    the reporter ask the forge."""

    @field_validator("api_url")
    @classmethod
    def _complete(cls, value: str) -> str:
        value = value.rstrip("/")
        return value if "/api/" in value else f"{value}/api/v4"

    @property
    def projects(self) -> tuple[str | int, ...]:
        """The projects to poll; empty: the group, or the whole instance."""
        given = self.project_id if isinstance(self.project_id, tuple) else (self.project_id,)
        return tuple(project for project in given if project)

    @property
    def host(self) -> str:
        """The web host."""
        return host_of(self.api_url)


class WebhookServer(Section):
    """Where the receiver listens."""

    host: str = "0.0.0.0"  # noqa: S104 - a container must listen on all addresses
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 chooses a free port."""


class GitHubWebhook(Section):
    """GitHub webhooks."""

    secret: SecretField = SecretSettings()
    """Secret of the webhook, or several while you rotate it."""
    events: tuple[str, ...] = ("issues", "pull_request")
    """Events that can create a task, by `X-GitHub-Event`."""
    actions: tuple[str, ...] = ("labeled",)
    """Actions of these events that can create a task."""


class GitLabWebhook(Section):
    """GitLab's project, group and system webhooks."""

    token: SecretField = SecretSettings()
    """Secret token of the webhook, or several while you rotate it."""
    events: tuple[str, ...] = ("Issue Hook", "Merge Request Hook")
    """Events that can create a task; the same names stand for the events of system hooks."""


class Commands(Section):
    """Commands that people with write access give as comments: `/cancel`, `/retry`, `/run`.

    The webhook must send comments too: GitHub's event `issue_comment`, GitLab's *Comments*.
    """

    enabled: bool = False
    """Whether comments are read."""
    allowed: tuple[CommandName, ...] = tuple(CommandName)
    """Commands that are accepted; any other text is an ordinary comment."""


_RATE = re.compile(r"\s*\d+\s*(/|per)\s*(\d+\s*)?(second|minute|hour|day|month|year)s?\s*", re.IGNORECASE)


def _rates(value: str) -> str:
    if not all(_RATE.fullmatch(part) for part in re.split(r"[,;|]", value)):
        raise ValueError(f"{value!r} is not a rate limit; write for example 100/minute")
    return value


Rates = Annotated[str, AfterValidator(_rates)]
"""One or several limits, in the notation of the library `limits`: `10/second; 100/minute`."""


class RateLimit(Section):
    """Requests for each client address, in the notation of the library `limits` (`100/minute`)."""

    failed: Rates = "100/minute"
    """Limit for requests that fail verification; beyond it they are answered 429."""
    verified: Rates | None = None
    """Limit for authentic requests. Off by default: GitHub does not resend what was answered 429."""


class Webhook(Section):
    """The receiver."""

    enabled: bool = True
    """If false, `--mode webhook` refuses to start."""
    server: WebhookServer = WebhookServer()
    github: GitHubWebhook = GitHubWebhook()
    gitlab: GitLabWebhook = GitLabWebhook()
    commands: Commands = Commands()
    rate_limit: RateLimit = RateLimit()
    trusted_proxies: tuple[str, ...] = ()
    """Networks of proxies whose X-Forwarded-For header is trusted."""
    allowed_networks: tuple[str, ...] = ()
    """If not empty, only these networks may send webhooks; `github` stands for GitHub's published hook
    addresses."""
    max_body_bytes: int = Field(default=25 * 1024 * 1024, gt=0)
    """Size of the largest body; larger ones are answered 413. GitHub caps its payloads at 25 MB."""

    def secret(self, platform: Platform) -> SecretSettings:
        """The secret that verifies a platform's webhooks."""
        match platform:
            case Platform.GITHUB:
                return self.github.secret
            case Platform.GITLAB:
                return self.gitlab.token
            case _:
                assert_never(platform)

    @field_validator("trusted_proxies", "allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        for entry in value:
            if entry == "github" and info.field_name == "allowed_networks":
                continue
            try:
                ip_network(entry, strict=False)
            except ValueError as error:
                raise ValueError(f"{entry!r} is not a network; write for example 10.0.0.0/8") from error
        return value


def networks(entries: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    """The parsed networks of the entries, without keywords."""
    return [ip_network(entry, strict=False) for entry in entries if entry != "github"]
