"""Writes a report to the item. Every call can be repeated and leaves the item in the current state."""

from __future__ import annotations

from collections.abc import Iterable

from coding_agent_core.forge.protocol import Comment, Forge
from coding_agent_core.reporting.render import MARKER, Report, comment, label_changes
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Item


async def publish(forge: Forge, item: Item, labels: Labels, report: Report) -> None:
    """Write the comment, then add labels, then remove those of other phases.

    The comment comes first because a consumer reads it after a crash: if the labels changed without it,
    nobody would remember the task.

    Raises:
        ForgeError: a request failed; repeat the call.
    """
    await forge.upsert_comment(item, MARKER, comment(report))
    seen = await forge.read_state(item)
    add, remove = label_changes(report.state.phase, labels, seen.labels)
    await swap_labels(forge, item, add, remove)


async def swap_labels(forge: Forge, item: Item, add: Iterable[str], remove: Iterable[str]) -> None:
    """Add labels, then remove others.

    In this order the forge's own `unlabeled` event still shows one of the bot's labels, so it does not look
    like a person's cancellation.

    Raises:
        ForgeError: a request failed; read the item again and repeat.
    """
    for label in add:
        await forge.add_label(item, label)
    for label in remove:
        await forge.remove_label(item, label)


async def write_comment(forge: Forge, item: Item, report: Report, *, known: Comment | None) -> Comment:
    """Create or edit our one comment.

    Args:
        known: the comment, as an earlier call returned it.

    Raises:
        ForgeError: the request failed, or its result is unknown; repeat the call.
    """
    return await forge.upsert_comment(item, MARKER, comment(report), known=known)
