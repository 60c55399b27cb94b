"""Puts a report on the item. Level-based: it can be repeated, and each repetition leaves what is true now."""

from __future__ import annotations

from coding_agent_core.forge.protocol import Forge
from coding_agent_core.reporting.render import MARKER, Report, comment, label_changes
from coding_agent_core.settings.model import Labels
from coding_agent_core.tasks import Item


async def publish(forge: Forge, item: Item, labels: Labels, report: Report) -> None:
    """Write the comment, then add labels, then remove those of other phases.

    The comment comes first because it is what a consumer reads after a crash: a label swapped without it
    would be a task that nobody remembers. Adding precedes removing, so that the forge's own `unlabeled`
    event shows a label of the flow still present and is not taken for a person's cancel.

    Raises:
        ForgeError: the forge did not take all of it; repeat the call.
    """
    await forge.upsert_comment(item, MARKER, comment(report))
    details = await forge.read(item)
    add, remove = label_changes(report.state.phase, labels, details.labels)
    for label in add:
        await forge.add_label(item, label)
    for label in remove:
        await forge.remove_label(item, label)
