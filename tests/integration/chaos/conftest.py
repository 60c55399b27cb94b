"""A sandbox forge of each flavor, with people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from coding_agent_testbed.forge import ForgeServer

BOT = "coding-agent-bot"
REPOSITORIES = ("acme/pricing", "acme/shop", "octo/demo")
PEOPLE = {"ada": "member", "grace": "member", "eve": "stranger"}
ROLES = {"ada": "write", "grace": "admin", BOT: "write", "eve": "read"}


@pytest.fixture(params=["github", "gitlab"])
def forge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ForgeServer]:
    """A forge with three repositories, two members and a stranger."""
    names = [name.split("/") for name in REPOSITORIES]
    users = [{"login": login, "token": f"{login}-token"} for login in PEOPLE]
    seed = {
        "users": [
            *users,
            {"login": BOT, "token": "bot-token", "bot": True},
            {"login": "owner", "token": "owner-token", "admin": True},
        ],
        "repositories": [{"owner": owner, "name": name, "roles": ROLES} for owner, name in names],
    }
    with ForgeServer(request.param, seed, tmp_path / "forge") as server:
        yield server
