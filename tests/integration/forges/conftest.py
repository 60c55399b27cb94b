"""Both sandbox forges with our client of each, for an issue and for a change."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Item
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.rest.forge import Forge
from coding_agent_testbed.forge import ForgeServer

from tests.fixtures.forge import BOT_TOKEN, REPOSITORY, push_fix

BRANCH = "coding-agent/fix"
LABEL = "coding agent"


@dataclass
class World:
    """A sandbox, and our client of it."""

    server: ForgeServer
    forge: Forge
    settings: Settings
    folder: Path

    @property
    def platform(self) -> Platform:
        return Platform(self.server.flavour.value)

    @property
    def issue(self) -> Item:
        return self.item(ItemKind.ISSUE, 1)

    def item(self, kind: ItemKind, number: int) -> Item:
        repository = self.server.repository(REPOSITORY)
        return Item(
            platform=self.platform,
            host=self.forge.host,
            repository=REPOSITORY,
            kind=kind,
            number=number,
            project_id=repository.id if FACTS[self.platform].by_project_id else None,
        )

    async def change(self) -> Item:
        """A pull or merge request from a pushed branch."""
        push_fix(self.server, self.folder, BRANCH)
        opened = await self.forge.open_change(
            self.issue, branch=BRANCH, base="main", title="Fix it", body="For you"
        )
        assert opened.created
        return self.item(ItemKind.CHANGE, opened.number)

    async def some(self, kind: ItemKind) -> Item:
        return self.issue if kind is ItemKind.ISSUE else await self.change()


@pytest.fixture(params=["github", "gitlab"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    server: ForgeServer = request.getfixturevalue(f"{request.param}_forge")
    settings = Settings.model_validate(
        {request.param: {"api_url": server.api_url, "personal_access_token": BOT_TOKEN}}
    )
    # The forges are real, the waiting between two tries is not.
    forge = connect_forge(settings, Platform(request.param), clock=Clock(sleep=lambda _: asyncio.sleep(0)))
    yield World(server, forge, settings, tmp_path)
    await forge.aclose()
