"""What a person does and sees on the forge, with the client that the product has for each forge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from coding_agent_core.forge.base import Forge
from coding_agent_core.forge.connect import connect_forge
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.tasks import Item

from coding_agent_demo.world import LABEL, PERSON_TOKEN, REPOSITORY, World

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Seen:
    """The demo's issue and its change as the forge shows them."""

    labels: tuple[str, ...] = ()
    comment: str = ""
    comments: int = 0
    change_url: str = ""
    change_branch: str = ""


@dataclass
class Person:
    """Alice, who applies the label and watches."""

    world: World

    def apply_label(self) -> None:
        """Put the label on the issue."""
        self._with_forge(lambda forge, issue: forge.add_label(issue, LABEL))

    def issue_url(self) -> str:
        """The page of the demo's issue."""
        return self._with_forge(lambda forge, issue: forge.read(issue)).url

    def look(self) -> Seen:
        """The issue, the agent's comment and the change, now."""
        return self._with_forge(_look)

    def _with_forge(self, use: Callable[[Forge, Item], Awaitable[_Result]]) -> _Result:
        platform = Platform(self.world.forge)
        section = {"api_url": self.world.api_url, "personal_access_token": PERSON_TOKEN}
        settings = Settings.model_validate({platform.value: section})

        async def run() -> _Result:
            forge = connect_forge(settings, platform)
            try:
                issue = Item(
                    platform=platform,
                    host=forge.host,
                    repository=REPOSITORY,
                    kind=ItemKind.ISSUE,
                    number=1,
                )
                return await use(forge, issue)
            finally:
                await forge.aclose()

        return asyncio.run(run())


async def _look(forge: Forge, issue: Item) -> Seen:
    branch = f"{Settings().consumer.branch_prefix}issue-{issue.number}"
    shown = await forge.read_state(issue)
    comments = await forge.comments(issue)
    change = await forge.find_change(issue, branch=branch)
    return Seen(
        labels=tuple(sorted(shown.labels)),
        comment=comments[-1].body if comments else "",
        comments=len(comments),
        change_url=change.url if change else "",
        change_branch=branch if change else "",
    )
