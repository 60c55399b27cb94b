"""Whether the forge says of an item what its task says: that neither a fork nor a stranger wrote it."""

from typing import cast

import pytest
from coding_agent_consumer.item.approval import NotApprovedError, require_trusted
from coding_agent_core.errors import ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.model import Item, Trust
from coding_agent_forges.rest.forge import Forge

from tests.unit.consumer.making import ITEM

CHANGE = ITEM.model_copy(update={"kind": ItemKind.CHANGE})
YES, NO, WORK = Trust(trusted=True), Trust(trusted=False), Trust(trusted=False, answers=ITEM)


class TrustingForge:
    """The part of `Forge` that is asked."""

    host = "github.com"

    def __init__(self, said: dict[ItemKind, Trust | Exception]) -> None:
        self.said = said

    async def trust(self, item: Item) -> Trust:
        said = self.said[item.kind]
        if isinstance(said, Exception):
            raise said
        return said


async def is_refused(item: Item, issue: Trust | Exception, change: Trust = NO) -> bool:
    forge = TrustingForge({ItemKind.ISSUE: issue, ItemKind.CHANGE: change})
    try:
        await require_trusted(cast("Forge", forge), item)
    except NotApprovedError:
        return True
    return False


@pytest.mark.parametrize(
    ("item", "issue", "change", "refused"),
    [
        (ITEM, YES, NO, False),
        (ITEM, NO, YES, True),
        (CHANGE, NO, YES, False),
        (CHANGE, YES, NO, True),
        (CHANGE, YES, WORK, False),
        (CHANGE, NO, WORK, True),
        (CHANGE, ForgeNotFoundError("It was deleted."), WORK, True),
    ],
)
async def test_the_forge_decides(item: Item, issue: Trust | Exception, change: Trust, refused: bool) -> None:
    assert await is_refused(item, issue, change) is refused


async def test_a_forge_that_does_not_answer_is_no_trust() -> None:
    with pytest.raises(ForgeUnavailableError):
        await is_refused(ITEM, ForgeUnavailableError("away"))
