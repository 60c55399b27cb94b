"""Which branch an attempt works on: the rule is `claim.work_branch`, what it needs to know is asked here."""

from __future__ import annotations

from coding_agent_core.forge.protocol import Forge
from coding_agent_core.tasks import Item

from coding_agent_consumer.decide import Start, work_branch


async def branch_for(forge: Forge, item: Item, start: Start, prefix: str) -> str:
    """The branch that an issue's work goes to.

    Raises:
        ForgeError: it could not be asked whether the change of an earlier run is still open.
    """
    previous = start.previous
    still_open = False
    if previous is not None and previous.branch is not None and previous.change_url is not None:
        still_open = await forge.find_change(item, branch=previous.branch) is not None
    return work_branch(prefix, item, start, previous_change_open=still_open)
