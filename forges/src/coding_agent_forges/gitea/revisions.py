"""Finds out from Gitea who changed an item's title and text, and who pushed to its branch.

The timeline has the titles and the pushes. Gitea shows only how often a text was edited (`content_version`,
since 1.26), and not by whom or when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.forge.values import ItemDetails, Revised, Revision
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.model import whole_second

from coding_agent_forges.gitea.discussion import GiteaDiscussion, TimelineEntry, pushes
from coding_agent_forges.rest.calls import Call, ResponseModel, path
from coding_agent_forges.rest.client import ForgeClient


class _Edited(ResponseModel):
    """The number of edits of the text; `None` in versions of Gitea that do not count them."""

    content_version: int | None = None
    updated_at: datetime


@dataclass(frozen=True)
class GiteaRevisions:
    """The reader of one item's revisions."""

    client: ForgeClient
    details: ItemDetails

    async def since(self, since: datetime) -> tuple[Revision, ...]:
        """Return the changes to the item's title, text and branch after a time."""
        item = self.details.item
        edited = await self._edited()
        read = await GiteaDiscussion(self.client, item).timeline(edited.updated_at)
        timeline = read.values
        revisions = [
            Revision(Revised.TITLE, entry.author.login, whole_second(entry.created_at))
            for entry in timeline
            if entry.kind == "change_title" and whole_second(entry.created_at) > since
        ]
        if not read.complete:  # somebody may have changed the title later
            revisions.append(Revision(Revised.TITLE, "", None))
        if edited.content_version != 0 and whole_second(edited.updated_at) > since:
            revisions.append(Revision(Revised.TEXT, "", None))
        if item.kind is ItemKind.CHANGE:
            revisions += self._pushed(timeline, since)
        return tuple(revisions)

    async def _edited(self) -> _Edited:
        item = self.details.item
        where = path("repos", *item.repository.split("/", 1), "issues", item.number)
        call = Call("GET", where, f"reading how often {item.display} was edited")
        return await self.client.get(_Edited, call)

    def _pushed(self, timeline: Sequence[TimelineEntry], since: datetime) -> list[Revision]:
        """Return the branch's newer pushes, and a revision without a user if none has the newest commit."""
        pushed = pushes(timeline)
        revisions = [
            Revision(Revised.BRANCH, entry.author.login, whole_second(entry.created_at))
            for entry in pushed
            if whole_second(entry.created_at) > since
        ]
        if not any(self.details.head_sha in entry.pushed for entry in pushed):
            revisions.append(Revision(Revised.BRANCH, "", None))
        return revisions
