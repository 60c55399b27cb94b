"""Puts a report on the item. Level-based: it can be repeated, and each repetition leaves what is true now."""

from __future__ import annotations

from collections.abc import Iterable

from coding_agent_core.forge.protocol import Comment, Forge
from coding_agent_core.reporting.render import MARKER, Report, comment, label_changes
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Item


async def publish(forge: Forge, item: Item, labels: Labels, report: Report) -> None:
    """Write the comment, then add labels, then remove those of other phases.

    The comment comes first because it is what a consumer reads after a crash: a label swapped without it
    would be a task that nobody remembers.

    Raises:
        ForgeError: the forge did not take all of it; repeat the call.
    """
    await forge.upsert_comment(item, MARKER, comment(report))
    seen = await forge.glance(item)
    add, remove = label_changes(report.state.phase, labels, seen.labels)
    await swap(forge, item, add, remove)


async def swap(forge: Forge, item: Item, add: Iterable[str], remove: Iterable[str]) -> None:
    """Put labels on, then take others off.

    Adding precedes removing, so that the forge's own `unlabeled` event shows a label of the flow still
    present and is not taken for a person's cancel.

    Raises:
        ForgeError: the forge did not take all of it; read the item again and repeat.
    """
    for label in add:
        await forge.add_label(item, label)
    for label in remove:
        await forge.remove_label(item, label)


async def write_comment(forge: Forge, item: Item, report: Report, *, known: Comment | None) -> Comment:
    """Write the one comment.

    Args:
        known: as an earlier call returned it.

    Raises:
        ForgeError: it was not written, or it cannot be told whether it was; repeat the call.
    """
    return await forge.upsert_comment(item, MARKER, comment(report), known=known)
