"""Who may ask for a task: the permission of the person who applied the label, checked as an attempt starts.

The attempt checks it, because it runs in every mode and has a forge token; receiver and operator have none
(docs/decisions/0021).
"""

from __future__ import annotations

from coding_agent_core.forge.protocol import Forge, Permission
from coding_agent_core.settings.model import Authorize
from coding_agent_core.tasks import Cause, Item, Origin, TaskRequest

_REQUIRED = {Authorize.WRITE: Permission.WRITE, Authorize.TRIAGE: Permission.TRIAGE}


async def refusal(
    forge: Forge,
    item: Item,
    request: TaskRequest,
    authorize: Authorize,
    *,
    own_label_counts: bool,
) -> str | None:
    """Why the task is refused, for people; `None`: whoever asked may.

    Args:
        item: with its repository.
        own_label_counts: as in the settings: our own account applies the label for commands.

    Raises:
        ForgeError: it is not known what the person may do.
    """
    trigger = request.trigger
    if trigger.cause is None:  # who writes AgentTasks has the cluster's rights
        return None
    user = request.user
    if not user or (trigger.origin is Origin.MANUAL and trigger.cause is Cause.LABEL):
        # A message of the polling agent names the item's author.
        applied = await forge.label_application(item)
        user = applied.user if applied and applied.user else user
    if user and user.casefold() == (await forge.whoami()).casefold():
        # Without a time, the poll does not know who applied the label, and names the item's author.
        if own_label_counts or trigger.labeled_at is None:
            return None
        return "The agent's own account applied the label. Only people start tasks."
    if authorize is Authorize.ANYONE or (user and await forge.permission(item, user) >= _REQUIRED[authorize]):
        return None
    who = f"{user} applied the label" if user else "It is not known who applied the label"
    return f"{who}, but only people with {authorize} access to {item.repository} may ask for a task."
