"""A webhook that comes long after its event was sent again, or late."""

from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.forge.events import Delivery, accept
from coding_agent_core.forge.payload import Fields
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.tasks import Item, Origin, Trust

ITEM = Item(platform=Platform.GITHUB, host="github.com", repository="o/r", kind=ItemKind.ISSUE, number=7)
LABELED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("age", "origin"),
    [(-30, Origin.WEBHOOK), (2, Origin.WEBHOOK), (60, Origin.WEBHOOK), (61, Origin.REDELIVERY)],
)
def test_origin(age: float, origin: Origin) -> None:
    subject = Fields({"updated_at": LABELED.isoformat()}, "issue")
    accepted = accept(
        ITEM,
        subject,
        user="alice",
        url="",
        trust=Trust(trusted=False),
        runner=None,
        delivered=Delivery("issues", "d"),
        received_at=LABELED + timedelta(seconds=age),
    )
    assert accepted.request.trigger.origin is origin
