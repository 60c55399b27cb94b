"""The forge of a demo: where it is, and what a person does in its pages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from coding_agent_core.forge.changes import ChangeSnapshot
from coding_agent_core.platforms.registry import Platform

ROOT = Path(__file__).resolve().parents[4]
SAMPLES = ROOT / "dev" / "testbed" / "samples"
REPOSITORY = "acme/pricing"
ISSUES = (SAMPLES / "pricing.issue.md", SAMPLES / "price-steps.issue.md")
"""The issues 1 and 2. Alice opened both, and the first has the label `bug`."""
LOCAL_ISSUE = SAMPLES / "hello.issue.md"
"""Issue 1 with the small real model, which can do nothing that is harder."""
LABEL = "coding agent"
HOOK_SECRET = "sandbox-secret"


@dataclass(frozen=True, kw_only=True)
class DemoForge(ABC):
    """A forge with the sample repository, its issues, and two accounts.

    Attributes:
        title: what kind of a forge it is, such as `sandbox github`.
        url: address of its pages.
        api_url: address of its REST API.
        repository: the bare repository on disk.
        bot_token: the agent's, as are the `bot_settings` that this forge needs besides.
        person_token: Alice's.
    """

    platform: Platform
    title: str
    url: str
    api_url: str
    repository: Path
    bot_token: str = field(repr=False)
    person_token: str = field(repr=False)
    bot_settings: dict[str, str] = field(default_factory=dict)

    @abstractmethod
    def how_to_label(self, issue: str) -> str:
        """Say how a person puts the label on an issue, whose address is given, while the demo stays."""

    @abstractmethod
    def comment_on_line(self, change: ChangeSnapshot, path: str, line: int, text: str) -> None:
        """Comment on a line as Alice, and request changes.

        Raises:
            DemoError: the forge refuses it.
        """

    @abstractmethod
    def approve_and_merge(self, change: ChangeSnapshot) -> None:
        """Approve a change as Alice, and merge it.

        Raises:
            DemoError: the forge refuses it.
        """
