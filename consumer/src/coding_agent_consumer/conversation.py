"""Everything that was said about a task, read from the forge: comments, reviews, threads, failed checks."""

from __future__ import annotations

from dataclasses import dataclass, field

from coding_agent_core.forge.discussion import Checks, Comment, Discussion
from coding_agent_core.forge.protocol import Forge, ItemDetails
from coding_agent_core.platforms import ItemKind


@dataclass(frozen=True)
class Conversation:
    """
    Attributes:
        item: what carries the label.
        comments: on the item, oldest first.
        change: the item itself if it is a change; of an issue, the open change of an earlier run or attempt.
        change_comments: on an issue's change, oldest first.
    """

    item: ItemDetails
    comments: tuple[Comment, ...] = ()
    change: ItemDetails | None = None
    change_comments: tuple[Comment, ...] = ()
    discussion: Discussion = field(default_factory=Discussion)
    checks: Checks = field(default_factory=Checks)


async def read_conversation(forge: Forge, details: ItemDetails, *, pushed_branch: str | None) -> Conversation:
    """Read it.

    Args:
        pushed_branch: the task's work branch, if an earlier run or attempt pushed it.

    Raises:
        ForgeError: something other than the checks could not be read.
    """
    item = details.item
    comments = await forge.comments(item)
    if item.kind is ItemKind.CHANGE:
        change: ItemDetails | None = details
    else:
        found = await forge.find_change(item, branch=pushed_branch) if pushed_branch else None
        own = found and item.model_copy(update={"kind": ItemKind.CHANGE, "number": found.number})
        change = await forge.read(own) if own else None
    if change is None:
        return Conversation(details, tuple(comments))
    change_comments = await forge.comments(change.item) if change is not details else []
    discussion = await forge.discussion(change.item)
    in_threads = {comment.id for thread in discussion.threads for comment in thread.comments}
    return Conversation(
        item=details,
        comments=tuple(comment for comment in comments if comment.id not in in_threads),
        change=change,
        change_comments=tuple(comment for comment in change_comments if comment.id not in in_threads),
        discussion=discussion,
        checks=await forge.failed_checks(change),
    )
