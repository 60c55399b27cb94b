"""A report for the tests of what an item shows."""

from datetime import UTC, datetime
from typing import Any

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import Report, State
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.model import Item

ITEM = Item(platform=Platform.GITHUB, host="github.com", repository="o/r", kind=ItemKind.ISSUE, number=7)
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def report(state: State, **more: Any) -> Report:
    name = "r-issue-7-abcdef0123456789"
    return Report(task=name, item=ITEM, labels=Labels(), state=state, max_attempts=3, since=AT, **more)
