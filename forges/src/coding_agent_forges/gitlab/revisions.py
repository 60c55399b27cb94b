"""Finds out from GitLab who changed an item's title and text, and who pushed to its branch.

The notes that GitLab itself writes name the author of a change (`app/services/system_notes` in its source).
They are in English, whatever language people have chosen. The versions of a merge request say when its
branch was moved: https://docs.gitlab.com/api/merge_requests/#get-merge-request-diff-versions
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.forge.values import ItemDetails, Revised, Revision
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.model import whole_second

from coding_agent_forges.rest.calls import PAGE_SIZE, SCAN_PAGES, Call, ResponseModel
from coding_agent_forges.rest.client import ForgeClient
from coding_agent_forges.rest.responses import CommentResponse

_NOTES: tuple[tuple[re.Pattern[str], Revised], ...] = (
    (re.compile(r"changed title from "), Revised.TITLE),
    # If somebody ticked a list's checkbox, GitLab does not say what else was changed in the text
    # (`handle_description_change_note` of `CommonSystemNotesService`).
    (re.compile(r"changed the description|marked the (?:task|checklist item) "), Revised.TEXT),
    (re.compile(r"added \d+ commits?\b"), Revised.BRANCH),
)


class _Version(ResponseModel):
    head_commit_sha: str
    created_at: datetime


@dataclass(frozen=True)
class GitLabRevisions:
    """The reader of one item's revisions.

    Attributes:
        path: the item's path in the API.
    """

    client: ForgeClient
    path: str
    details: ItemDetails

    async def since(self, since: datetime) -> tuple[Revision, ...]:
        """Return the changes to the item's title, text and branch after a time."""
        revisions = await self._noted(since)
        if self.details.item.kind is ItemKind.CHANGE:
            noted = sum(revision.what is Revised.BRANCH for revision in revisions)
            # GitLab writes no note about a push that only removes commits.
            if await self._moves(since) > noted:
                revisions.append(Revision(Revised.BRANCH, "", None))
        return tuple(revisions)

    async def _noted(self, since: datetime) -> list[Revision]:
        what = f"reading who edited {self.details.item.display}"
        call = Call("GET", f"{self.path}/notes", what, {"sort": "desc", "order_by": "created_at"})
        revisions: list[Revision] = []
        pages = self.client.pages(list[CommentResponse], call, limit=SCAN_PAGES)
        async for page in pages:
            for note in page:
                at = whole_second(note.created_at)
                if at <= since:
                    return revisions
                if note.system and (kind := _kind(note.body)) is not None:
                    revisions.append(Revision(kind, note.author.login, at))
        if not pages.complete:
            revisions.append(Revision(Revised.TEXT, "", None))
        return revisions

    async def _moves(self, since: datetime) -> int:
        """Return how often the branch was moved, as far as the newest versions show it.

        Raises:
            ForgeUnavailableError: GitLab has not examined the newest commit yet.
        """
        display = self.details.item.display
        call = Call("GET", f"{self.path}/versions", f"reading the versions of {display}")
        versions = (await self.client.entries(list[_Version], call)).values  # newest first
        if not versions or versions[0].head_commit_sha != self.details.head_sha:
            raise ForgeUnavailableError(
                f"{self.client.host} has not examined the newest commit of {display} yet"
            )
        # GitLab creates the oldest version a moment after the merge request. Two versions can also have the
        # same commit with different bases.
        oldest = versions[-1:] if len(versions) < PAGE_SIZE else ()
        return sum(
            whole_second(version.created_at) > since and version.head_commit_sha != before.head_commit_sha
            for version, before in zip(versions, versions[1:] + oldest, strict=False)
        )


def _kind(note: str) -> Revised | None:
    return next((kind for pattern, kind in _NOTES if pattern.match(note)), None)
