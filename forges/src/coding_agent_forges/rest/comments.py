"""The comments of an item: how ours is found, signed and written once, and how many of all are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from coding_agent_core.errors import (
    ForgeError,
    ForgeListTooLongError,
    ForgeNotFoundError,
    ForgeUnavailableError,
    NotYetError,
    SettingsError,
)
from coding_agent_core.forge.changes import BODY_LIMIT, ChangeSnapshot
from coding_agent_core.forge.values import Comment
from coding_agent_core.task.model import Item

from coding_agent_forges.rest.calls import SCAN_PAGES, Call, Read, Repeat, User
from coding_agent_forges.rest.hidden_line import HiddenLines
from coding_agent_forges.rest.responses import CommentResponse, Reaction

if TYPE_CHECKING:  # the poller and the tasks, which are given a forge, import no HTTP library
    from coding_agent_forges.rest.client import ForgeClient, Pages

COMMENT_LIMIT = 1000
"""The most comments of an item that are kept, the newest ones."""
_REACTION = "eyes"


class OwnComments(ABC):
    """The part of `Forge` that writes our comments; `ItemForge` describes its public methods.

    Class variables and abstract methods cover the differences between the APIs.
    """

    COMMENTS: ClassVar[str]
    OLDEST_FIRST: ClassVar[dict[str, str | int]]
    EDIT_METHOD: ClassVar[str]
    REACTIONS: ClassVar[str]
    REACTION_FIELD: ClassVar[str]
    EDITS_ARE_DATED: ClassVar[bool]
    """Whether only an edit of a comment changes its time `updated_at`."""

    client: ForgeClient
    hidden_lines: HiddenLines

    @abstractmethod
    def _item_path(self, item: Item, *rest: str | int) -> str:
        """Return the API's path of the item, or of something below it."""

    @abstractmethod
    def _comment_path(self, item: Item, comment: str) -> str: ...

    @abstractmethod
    async def _path_of(self, repository: str) -> str:
        """Return the present path of a repository that may have been renamed or transferred."""

    @abstractmethod
    async def _account(self) -> User:
        """Return the account of our token."""

    def _comments_call(self, item: Item, params: Mapping[str, str | int]) -> Call:
        path = self._item_path(item, self.COMMENTS)
        return Call("GET", path, f"reading the comments of {item.display}", params)

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        own = await self._account()
        pages = self.client.pages(
            list[CommentResponse], self._comments_call(item, self.OLDEST_FIRST), limit=SCAN_PAGES
        )
        async for page in pages:
            for found in page:
                if found.author.id == own.id and not found.system and marker in found.body:
                    comment = found.comment()
                    return replace(comment, body=await self._checked(item, comment.body))
        _require_all(pages, "comments", item)
        return None

    async def upsert_comment(
        self, item: Item, marker: str, body: str, *, known: Comment | None = None
    ) -> Comment:
        if marker not in body:
            raise ValueError("the body of our comment must contain its marker")
        edited = await self._edit_comment(item, known, body) if known else None
        if edited is not None:
            return edited
        found = await self.find_comment(item, marker)
        if found is not None:
            if _same(found.body, body):
                return found
            edited = await self._edit_comment(item, found, body)
            if edited is not None:
                return edited
        call = Call(
            "POST",
            self._item_path(item, self.COMMENTS),
            f"commenting on {item.display}",
            json={"body": self.hidden_lines.signed(item, body)},
            repeat=Repeat.UNLESS_PROCESSED,
            creates=True,
        )
        try:
            return await self._written(item, call)
        except NotYetError:
            raise  # it was not sent
        except ForgeUnavailableError:
            # The answer may be lost although the comment exists, so check this before the caller retries.
            written = await self.find_comment(item, marker)
            if written is not None and _same(written.body, body):
                return written
            raise

    async def _edit_comment(self, item: Item, comment: Comment, body: str) -> Comment | None:
        """Edit the comment and return it; return `None` if it is gone (or the whole item is)."""
        what = f"editing our comment on {item.display}"
        json = {"body": self.hidden_lines.signed(item, body)}
        call = Call(self.EDIT_METHOD, self._comment_path(item, comment.id), what, json=json)
        try:
            return await self._written(item, call)
        except ForgeNotFoundError:
            return None

    async def _written(self, item: Item, call: Call) -> Comment:
        comment = (await self.client.get(CommentResponse, call)).comment()
        return replace(comment, body=await self._checked(item, comment.body))

    async def _with_checked(self, found: ChangeSnapshot) -> ChangeSnapshot:
        """Return the snapshot with checked hidden lines in our comments."""
        comments = list(found.comments)
        for index, one in enumerate(comments):
            # A body of this length was cut before its hidden line.
            if one.author.id == found.own.id and len(one.body) < BODY_LIMIT:
                comments[index] = replace(one, body=await self._checked(found.item, one.body))
        return found if comments == list(found.comments) else replace(found, comments=tuple(comments))

    async def _checked(self, item: Item, body: str) -> str:
        """Return the body of our comment without its signature, and without a hidden line by others."""
        found = self.hidden_lines.checked(item, body)
        if found.place and not await self._is_same_repository(item, found.place):
            return self.hidden_lines.ignored(item, body, f"it was signed for the repository {found.place}")
        return found.body

    async def _is_same_repository(self, item: Item, place: str) -> bool:
        """Whether the repository in a valid signature is the item's repository under another name."""
        # The signature covers the repository, because somebody could otherwise have a line signed for the
        # same number in a repository of their own. A renamed repository must keep its signed lines.
        own = str(item.project_id or item.repository)
        try:
            return (await self._path_of(place)).lower() == (await self._path_of(own)).lower()
        except ForgeUnavailableError:
            raise
        except (ForgeError, SettingsError):
            return False  # there is no such repository any more, or our token cannot read it

    async def read_comment(self, item: Item, comment: str) -> Comment:
        where = f"comment {comment} on {item.display}"
        call = Call("GET", self._comment_path(item, comment), f"reading {where}")
        response = await self.client.send(call)
        # Gitea answers 204 for an entry of the timeline that is no comment (routers/api/v1/repo/
        # issue_comment.go). GitHub and Gitea find a comment whatever its item is.
        if response.status_code != 204:
            found = self.client.parse(CommentResponse, response, call)
            if not found.system and found.item_number == item.number:
                read = found.comment()
                return read if self.EDITS_ARE_DATED else replace(read, updated_at=None)
        raise ForgeNotFoundError(f"There is no {where} by a person.")

    async def has_reacted(self, item: Item, comment: str) -> bool:
        own = await self._account()
        call = Call(
            "GET",
            f"{self._comment_path(item, comment)}/{self.REACTIONS}",
            f"reading the reactions to a comment on {item.display}",
        )
        pages = self.client.pages(list[Reaction], call, limit=SCAN_PAGES)
        async for page in pages:
            if any(
                reaction.content == _REACTION and reaction.user and reaction.user.id == own.id
                for reaction in page
            ):
                return True
        _require_all(pages, "reactions", item)
        return False

    async def react(self, item: Item, comment: str) -> None:
        call = Call(
            "POST",
            f"{self._comment_path(item, comment)}/{self.REACTIONS}",
            f"reacting to a comment on {item.display}",
            json={self.REACTION_FIELD: _REACTION},
        )
        try:
            await self.client.send(call)
        except ForgeNotFoundError:
            # Some forges answer a second reaction with 404, as if the comment did not exist.
            if not await self.has_reacted(item, comment):
                raise


def newest_comments(found: Sequence[Comment], *, complete: bool) -> Read[Comment]:
    """Return the newest comments, at most `COMMENT_LIMIT`, from a list with the oldest first.

    Args:
        complete: whether the forge has no comments that are older than these.
    """
    cut = len(found) > COMMENT_LIMIT or not complete
    return Read(tuple(found[-COMMENT_LIMIT:]), ("older comments",) if cut else ())


def _require_all(pages: Pages[Any], what: str, item: Item) -> None:
    """Raise `ForgeListTooLongError` if a list was not read to its end and nothing was found in it."""
    if not pages.complete:
        raise ForgeListTooLongError(
            f"{item.display} has more {what} than are read, so it is not known whether ours is among them."
        )


def _same(one: str, other: str) -> bool:
    """Whether two bodies differ at most in line ends and outer white space, which forges change."""
    return one.replace("\r\n", "\n").strip() == other.replace("\r\n", "\n").strip()
