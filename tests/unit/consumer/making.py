"""An item, and what a forge shows of it, for the tests of the consumer."""

from typing import Any

from coding_agent_core.forge.values import ItemDetails
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.model import Item

ITEM = Item(platform=Platform.GITHUB, host="github.com", repository="o/r", kind=ItemKind.ISSUE, number=7)


def details(*labels: str, item: Item = ITEM, **more: Any) -> ItemDetails:
    text = {"title": "t", "body": "", "author": "a", "url": "u", "base_branch": "main", "open": True}
    return ItemDetails(**{"item": item, "labels": frozenset(labels), **text, **more})
