"""What a person does and sees on the forge.

The person reads with the client that the product has for each forge, and acts on the pages as in a browser.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from coding_agent_core.forge.changes import ChangeSnapshot
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Item
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.rest.forge import Forge

from coding_agent_demo.forges import LABEL, REPOSITORY
from coding_agent_demo.world import World

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Seen:
    """The demo's issue and its change as the forge shows them."""

    labels: tuple[str, ...] = ()
    comment: str = ""
    comments: int = 0
    change_url: str = ""
    change_branch: str = ""
    is_open: bool = True


@dataclass(frozen=True)
class SeenChange:
    """A change as the forge shows it.

    Attributes:
        comments: the texts of the agent's comments on it, outside of threads.
    """

    snapshot: ChangeSnapshot
    comments: tuple[str, ...]


@dataclass
class Person:
    """Alice, who applies the label, reviews, merges and watches."""

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

    def look_at_change(self, number: int) -> SeenChange:
        """A change with its checks and threads, now."""

        async def read(forge: Forge, issue: Item) -> SeenChange:
            change = issue.model_copy(update={"kind": ItemKind.CHANGE, "number": number})
            snapshot = await forge.snapshot(change)
            return SeenChange(snapshot, await _of_the_agent(forge, change))

        return self._with_forge(read)

    def comment_on_line(self, change: ChangeSnapshot, path: str, code: str, text: str) -> int:
        """Comment on the line of a file that has this code, and request changes; the line's number."""
        line = next(
            number
            for number, line in enumerate(self._file(change, path).splitlines(), start=1)
            if code in line
        )
        self.world.forge.comment_on_line(change, path, line, text)
        return line

    def approve_and_merge(self, change: ChangeSnapshot) -> None:
        """Approve the change and merge it."""
        self.world.forge.approve_and_merge(change)

    def subject(self, commit: str) -> str:
        """The first line of a commit's message."""
        return self._git("show", "--no-patch", "--format=%s", commit).strip()

    def _file(self, change: ChangeSnapshot, path: str) -> str:
        return self._git("show", f"{change.head_commit}:{path}")

    def _git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "--git-dir", str(self.world.forge.repository), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def _with_forge(self, use: Callable[[Forge, Item], Awaitable[_Result]]) -> _Result:
        platform = self.world.forge.platform
        section = {
            "api_url": self.world.forge.api_url,
            "personal_access_token": self.world.forge.person_token,
        }
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
    comments = (await forge.comments(issue)).values
    change = await forge.find_change(issue, branch=branch)
    return Seen(
        labels=tuple(sorted(shown.labels)),
        comment=comments[-1].body if comments else "",
        comments=len(comments),
        change_url=change.url if change else "",
        change_branch=branch if change else "",
        is_open=shown.open,
    )


async def _of_the_agent(forge: Forge, change: Item) -> tuple[str, ...]:
    return tuple(one.body for one in (await forge.comments(change)).values if MARKER in one.body)
