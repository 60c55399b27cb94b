"""A project access token of GitLab: its bot user is our account, and a rotated token goes on with it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.errors import ForgeRefusedError
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.model import Settings
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.rest.forge import Forge
from coding_agent_testbed.forge import ForgeServer, Seed

from tests.fixtures.forge import REPOSITORY, SAMPLES, client
from tests.integration.forges.conftest import BRANCH, World

LOGIN = "project_1_bot_3cca1d029554e372cf8f39df76bf507d"
TOKEN = "glpat-of-the-project"
ENDS = datetime.now(UTC).date() + timedelta(days=30)
SEED: dict[str, Any] = {
    "users": [
        {"login": "alice", "token": "alice-token", "admin": True},
        {"login": LOGIN, "token": TOKEN, "bot": True, "token_expires_at": ENDS},
    ],
    "repositories": [
        {
            "owner": "acme",
            "name": "pricing",
            "files": str(SAMPLES / "pricing"),
            "roles": {LOGIN: "write"},
        }
    ],
}
MARKER = "<!-- coding-agent:status "


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """GitLab with a bot user, whose token is in a file."""
    (tmp_path / "token").write_text(TOKEN)
    with ForgeServer("gitlab", Seed.model_validate(SEED), tmp_path / "forge") as server:
        server.open_issue(REPOSITORY, "A bug", "It is there.")
        section = {"api_url": server.api_url, "personal_access_token": {"files": [str(tmp_path / "token")]}}
        settings = Settings.model_validate({"gitlab": section})
        forge = connect_forge(settings, Platform.GITLAB, clock=Clock(sleep=lambda _: asyncio.sleep(0)))
        yield World(server, forge, settings, tmp_path)
        await forge.aclose()


async def test_the_bot_users_token_is_rotated_and_its_account_stays(world: World) -> None:
    forge: Forge = world.forge
    assert await forge.whoami() == LOGIN
    assert (await forge.commit_identity()).email.startswith(LOGIN)
    assert await forge.token_expiry() == midnight(ENDS)
    await forge.upsert_comment(world.issue, MARKER, f"{MARKER}1 -->")
    world.server.push(REPOSITORY, BRANCH, {"fix.md": "Fixed\n"}, by=LOGIN)
    opened = await forge.open_change(world.issue, branch=BRANCH, base="main", title="Fix it", body="For you")
    change = world.item(ItemKind.CHANGE, opened.number)

    later = ENDS + timedelta(days=200)
    with client(world.server, TOKEN) as api:
        answer = api.post("/personal_access_tokens/self/rotate", json={"expires_at": later.isoformat()})
    rotated = answer.raise_for_status().json()
    with pytest.raises(ForgeRefusedError, match="401"):
        await forge.read(world.issue)  # the file has the old token still
    (world.folder / "token").write_text(rotated["token"])

    assert await forge.token_expiry() == midnight(later)
    await forge.upsert_comment(world.issue, MARKER, f"{MARKER}2 -->")
    [comment] = (await forge.comments(world.issue)).values
    assert (comment.body, comment.author) == (f"{MARKER}2 -->", LOGIN), "it is still our own comment"
    [snapshot] = (await forge.open_changes()).snapshots
    assert (snapshot.item, snapshot.author.id) == (change, snapshot.own.id)

    world.server.set_clock(timedelta(days=231).total_seconds())
    with pytest.raises(ForgeRefusedError, match="401"):
        await forge.read(world.issue)
