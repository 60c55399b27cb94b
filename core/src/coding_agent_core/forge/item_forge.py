"""The interface that core needs of a forge, to read and write one item and our account's changes.

`coding_agent_forges` has the implementation, which core does not import.
"""

from __future__ import annotations

from typing import Protocol

from coding_agent_core.forge.changes import ChangeSnapshot, OpenChanges
from coding_agent_core.forge.values import (
    Comment,
    ItemDetails,
    ItemState,
    LabelEvent,
    Permission,
)
from coding_agent_core.task.model import Item


class ItemForge(Protocol):
    """A forge as core calls it. `coding_agent_forges.rest.forge.Forge` implements it."""

    @property
    def host(self) -> str:
        """The web host of the installation, e.g. `github.com`."""

    async def whoami(self) -> str:
        """Return the login of our token's account. It is read once and cached."""

    async def permission(self, item: Item, user: str) -> Permission:
        """Return what the person may do in the item's repository now; `NONE` for unknown people."""

    async def read(self, item: Item) -> ItemDetails:
        """Read the item. The `item` of the details has the repository's present path."""

    async def read_state(self, item: Item) -> ItemState:
        """Read the item's state in one request."""

    async def label_application(self, item: Item) -> LabelEvent | None:
        """Return when one of `Labels.triggers` was last applied; `None` if the history does not show it.

        Raises:
            ForgeListTooLongError: the history was not read to its end, and what was read does not show it.
        """

    async def open_changes(self) -> OpenChanges:
        """Return the open changes that our account opened in the configured scope, at most 200.

        Facts that the forge computes or indexes in the background may be some seconds old. If a change cannot
        be read, the others are still returned.

        Raises:
            ForgeError: the changes cannot be listed.
        """

    async def snapshot(self, change: Item) -> ChangeSnapshot:
        """Return one change, whoever opened it, without using cached responses."""

    async def rerun_check(self, change: Item, run: str) -> None:
        """Ask the forge to run a job again. A lost response raises an error, although the job may run.

        Args:
            run: the job's id (`CheckResult.id`).

        Raises:
            ForgeError: also if the forge does not run this job again.
        """

    async def add_label(self, item: Item, label: str) -> None:
        """Add one label without changing others. The forge creates a label that does not exist."""

    async def remove_label(self, item: Item, label: str) -> bool:
        """Remove one label without changing others; return whether it was on the item."""

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        """Return the oldest comment by our own account that contains `marker`.

        If the signature of its hidden line is not valid, the comment is returned without that line.

        Raises:
            ForgeListTooLongError: there are more comments than are read, and ours is not among them.
        """

    async def upsert_comment(
        self, item: Item, marker: str, body: str, *, known: Comment | None = None
    ) -> Comment:
        """Edit the comment that `find_comment` finds, unless its body is the same, or create it.

        A `known` comment from an earlier call is edited without a search, unless it is gone.

        Raises:
            ValueError: the body has no marker, so we would never find the comment again.
            ForgeError: the comment was not written, or it is unknown whether it was.
        """

    async def read_comment(self, item: Item, comment: str) -> Comment:
        """Return the comment with this id, which a person wrote on the item.

        Raises:
            ForgeNotFoundError: the comment is gone, is on another item, or the forge itself wrote it.
        """

    async def has_reacted(self, item: Item, comment: str) -> bool:
        """Whether the comment with this id has our reaction.

        Raises:
            ForgeNotFoundError: the comment is gone.
        """

    async def react(self, item: Item, comment: str) -> None:
        """Add the reaction `eyes` to the comment of an executed command. The call can be repeated."""
