"""The settings that every forge has. Each forge's other settings are in `settings.py` of its folder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import Field

from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.platforms.registry import FACTS, Platform, forge_module
from coding_agent_core.settings.section import SecretField, SecretSettings, Section, Url
from coding_agent_core.task.runners import RunnerName


class Labels(Section):
    """What an item shows: labels, of which the system never changes others, and who helps."""

    bot_label: str = Field(default="coding agent", min_length=1)
    """Label that a person applies to ask for a task. With a colon and the name of a coding agent, for example
    `coding agent: codex`, it also chooses the coding agent that does the work."""
    processing_label: str = Field(default="coding agent processing", min_length=1)
    """Label on the item while a task runs."""
    done_label: str = Field(default="coding agent done", min_length=1)
    """Label on the item after success."""
    failed_label: str | None = None
    """Label on the item after a failure; none by default."""
    support: str = Field(default="", max_length=200)
    """Who helps if something needs an administrator: a text or an address, which the comment then shows."""

    def trigger(self, runner: RunnerName | None) -> str:
        """Return the label that asks for a task with this runner; `None` means the configured runner."""
        return self.bot_label if runner is None else f"{self.bot_label}: {runner}"

    @property
    def triggers(self) -> frozenset[str]:
        """The labels that ask for a task. An item with several of them has only one task."""
        return frozenset(map(self.trigger, (None, *RunnerName)))

    @property
    def active(self) -> frozenset[str]:
        """The labels for waiting and running tasks; the item of such a task has at least one of them."""
        return self.triggers | {self.processing_label}

    def runner(self, present: Iterable[str]) -> RunnerName | None:
        """Return the runner that these labels choose; if they choose several, the first by name."""
        names = set(present)
        return next((name for name in sorted(RunnerName) if self.trigger(name) in names), None)


class ForgeSettings(Labels):
    """The settings that all forges have. Each forge's folder derives its own section from it (`SECTION`)."""

    PLATFORM: ClassVar[Platform]
    SCOPE: ClassVar[str]
    """Tells people what to set so that `narrowed` is true."""

    api_url: Url
    """REST base URL."""
    assignee: str = ""
    """Polling: only items assigned to this user."""
    personal_access_token: SecretField = SecretSettings()
    """Token of the account that labels, comments, pushes and opens changes."""
    account: str = ""
    """Login of the token's account. The receiver ignores labels that this account applies or removes, and
    does not trust what it wrote. It has no token, so it cannot ask the forge for the login; the poller and
    the reporter ask the forge."""

    def spelled(self, label: str) -> str:
        """Return a label of the forge as these settings spell it.

        All rules compare exact names, so each name passes through this function where it enters. The platform
        decides which spellings are one label (`PlatformFacts.label_key`).
        """
        return next(iter(self.all_spelled((label,))))

    def all_spelled(self, labels: Iterable[str]) -> frozenset[str]:
        """Return labels of the forge as these settings spell them."""
        key = FACTS[self.PLATFORM].label_key
        ours = {key(own): own for own in (*self.active, self.done_label, self.failed_label) if own}
        return frozenset(ours.get(key(label), label) for label in labels)

    @property
    def host(self) -> str:
        """The web host."""
        return host_of(self.api_url)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each request to the REST API."""
        return {"Accept": "application/json"}

    @property
    def connectable(self) -> bool:
        """Whether the settings name a token, or what gets one."""
        return self.personal_access_token.configured

    @property
    def credentials(self) -> tuple[SecretSettings, ...]:
        """The secrets with which a program identifies itself, at the forge or for a token of the forge."""
        return (self.personal_access_token,)

    @property
    def token_service_urls(self) -> tuple[str, ...]:
        """The URLs of services that give attempts their tokens."""
        return ()

    @property
    @abstractmethod
    def narrowed(self) -> bool:
        """Whether a poll finds only items of certain people, repositories or groups."""


def forge_sections(attribute: str) -> dict[str, Any]:
    """Return a field for each platform; its type is this attribute of `settings` in the platform's folder."""
    types = {platform: getattr(forge_module(platform, "settings"), attribute) for platform in Platform}
    return {platform.value: (section, section()) for platform, section in types.items()}


_PATHS: Iterable[tuple[str, tuple[str, ...]]] = (
    (f"{platform.upper()}_{name}", path)
    for platform, facts in FACTS.items()
    for name, path in (
        ("API_URL", (platform, "api_url")),
        ("BOT_NAME", (platform, "assignee")),
        ("PERSONAL_ACCESS_TOKEN", (platform, "personal_access_token")),
        (f"WEBHOOK_{facts.webhook_setting.upper()}", ("webhook", platform, facts.webhook_setting)),
    )
)
FORGE_VARIABLES: dict[str, tuple[str, ...]] = {
    **dict(_PATHS),
    "CODING_AGENT_TOKEN_CREDENTIAL": (Platform.GITHUB, "token_credential"),
}
"""The setting of a forge that each environment variable sets."""
FORGE_SECRETS = frozenset(
    name for name, path in FORGE_VARIABLES.items() if path[-1] not in ("api_url", "assignee")
)
"""Variables of these that can also be given as the path of a file in `<NAME>_FILE`."""
