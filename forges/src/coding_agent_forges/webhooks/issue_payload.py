"""Reads items and comments, which GitHub's and Gitea's webhooks have in the same fields. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.platforms.text import safe
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Item

from coding_agent_forges.webhooks import events
from coding_agent_forges.webhooks.events import Delivery, Ignored, Meaning
from coding_agent_forges.webhooks.payload import Fields

COMMENT_EVENT = "issue_comment"
"""The event of comments on issues and pull requests. The item is in the field `issue`."""
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}", re.ASCII)


@dataclass(frozen=True)
class IssuePayload:
    """The reader of one forge's payloads.

    Attributes:
        login: matches the logins that the forge gives to accounts.
    """

    platform: Platform
    login: re.Pattern[str]

    def comment(
        self, delivered: Delivery, fields: Fields, settings: Settings, received_at: datetime
    ) -> Meaning:
        """Return the command in a new comment.

        Raises:
            FieldError: a field is missing or has the wrong type.
        """
        if fields.text("action") != "created":
            return Ignored("not a new comment")
        comment = fields.object("comment")
        name = events.comment_command(comment.optional_text("body"), settings)
        if isinstance(name, Ignored):
            return name
        item = self.item(fields, "issue", settings)
        if isinstance(item, Ignored):
            return item
        issue = fields.object("issue")
        return events.command(
            item,
            name,
            comment,
            user=comment.object("user").matching("login", self.login, f"{self._title} login"),
            subject=issue,
            url=issue.url("html_url"),
            delivered=delivered,
            received_at=received_at,
        )

    def item(self, fields: Fields, name: str, settings: Settings) -> Item | Ignored:
        """Return the item in a field. An `issue` of a pull request has an object `pull_request`.

        Raises:
            FieldError: a field is missing or has the wrong type.
        """
        subject = fields.object(name)
        is_change = name == "pull_request" or subject.has("pull_request")
        kind = ItemKind.CHANGE if is_change else ItemKind.ISSUE
        url = subject.url("html_url"), f"{name}.html_url"
        return self.item_in(fields, settings, kind, subject.number("number"), url=url)

    def item_in(
        self,
        fields: Fields,
        settings: Settings,
        kind: ItemKind,
        number: int,
        *,
        url: tuple[str, str] | None = None,
    ) -> Item | Ignored:
        """Return an item of the event's repository.

        Args:
            url: the web address that shows the installation, and the name of its field; by default the
                repository's.

        Raises:
            FieldError: a field is missing or has the wrong type.
        """
        repository, own = fields.object("repository"), settings.forge(self.platform).host
        address, field = url or (repository.url("html_url"), "repository.html_url")
        host = events.foreign_host(address, field, own)
        if host is not None:
            reason = f"the event is from {safe(host)}, but {self.platform.value}.api_url points to {own}"
            return Ignored(reason, unexpected=True)
        owner = repository.object("owner").matching("login", _NAME, f"{self._title} login")
        repo = repository.matching("name", _NAME, "repository name")
        return Item(platform=self.platform, host=own, repository=f"{owner}/{repo}", kind=kind, number=number)

    @property
    def _title(self) -> str:
        return FACTS[self.platform].title
