"""Settings that every forge has. The folder of each forge has its others, in `settings.py`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import Field

from coding_agent_core.registry import Platform, forge_module
from coding_agent_core.settings.section import SecretField, SecretSettings, Section, Url
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


class ForgeSettings(Labels):
    """The section of a forge: `SECTION` in its folder."""

    SCOPE: ClassVar[str]
    """What to set so that `narrowed` is true, for people."""

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

    @property
    def host(self) -> str:
        """The web host."""
        return host_of(self.api_url)

    @property
    @abstractmethod
    def narrowed(self) -> bool:
        """Whether a poll finds only items of certain people, repositories or groups."""


def forge_sections(attribute: str) -> dict[str, Any]:
    """Fields of the platforms' names, with the types of this name in the `settings.py` of their folders."""
    types = {platform: getattr(forge_module(platform, "settings"), attribute) for platform in Platform}
    return {platform.value: (section, section()) for platform, section in types.items()}
