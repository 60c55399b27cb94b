"""Attached files, read from both sandbox forges."""

import pytest
from coding_agent_core.errors import ForgeError, ForgeNotFoundError
from coding_agent_core.registry import Platform

from tests.integration.core_forge.conftest import World

SECRET = "0123456789abcdef0123456789abcdef"
DATA = b"\x89PNG\r\n\x1a\n picture"


def attached(world: World) -> str:
    """The link that stands in a text after somebody attached a file."""
    if world.platform is Platform.GITHUB:
        world.server.sandbox.attachments["id-1"] = DATA
        return f"{world.server.base_url}/user-attachments/assets/id-1"
    world.server.sandbox.attachments[f"{SECRET}/a b.png"] = DATA
    return f"/uploads/{SECRET}/a%20b.png"


async def test_one_that_is_too_large_is_not(world: World) -> None:
    link = attached(world)
    assert await world.forge.attachment(world.issue, link, limit=len(DATA)) == DATA
    with pytest.raises(ForgeError, match="has more than"):
        await world.forge.attachment(world.issue, link, limit=len(DATA) - 1)


async def test_one_that_is_gone_says_so(world: World) -> None:
    link = attached(world)
    world.server.sandbox.attachments.clear()
    with pytest.raises(ForgeNotFoundError, match="reading an attachment of"):
        await world.forge.attachment(world.issue, link, limit=1000)


async def test_nothing_is_asked_for_a_link_that_leads_elsewhere(world: World) -> None:
    world.server.sandbox.requests.clear()
    for link in ("https://evil.example/a.png", f"{world.server.base_url}/_sandbox/state"):
        assert await world.forge.attachment(world.issue, link, limit=1000) is None
    assert not world.server.sandbox.requests
