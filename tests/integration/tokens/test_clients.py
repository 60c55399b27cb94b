"""What programs do on all repositories, with the tokens of an App: from the service, and by their own key."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.forge.base import Forge
from coding_agent_core.forge.connect import connect_forge
from coding_agent_core.forge.github.app import Purpose
from coding_agent_core.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.tasks import Item
from coding_agent_forge import ForgeServer
from coding_agent_forge.apps import App

from tests.fixtures.forge import REPOSITORY
from tests.fixtures.github_app import app_settings, create_app, install
from tests.fixtures.system import BOT
from tests.fixtures.token_service import served, service_for
from tests.integration.tokens.test_service import REPORTER, review


@pytest.fixture
def app(github_forge: ForgeServer) -> App:
    app = create_app(github_forge)
    install(github_forge, app)
    return app


@pytest.fixture(params=["the service's", "its own"])
async def forge(
    request: pytest.FixtureRequest, github_forge: ForgeServer, app: App, tmp_path: Path
) -> AsyncIterator[Forge]:
    """A program's client, with the tokens of the service or its own."""
    key = tmp_path / "key.pem"
    settings = app_settings(github_forge, app, key)
    section: dict[str, Any] = {"app_id": app.id, "private_key_file": key}
    with ExitStack() as stack:
        if request.param == "the service's":
            service = service_for(settings, programs={REPORTER: Purpose.REPORT}, review=review)
            url = stack.enter_context(served(service))
            section["service"] = {"url": url}
            section["private_key_file"] = tmp_path / "absent"
        github = {"api_url": github_forge.api_url, "app": section, "token_credential": "of-the-reporter"}
        forge = connect_forge(Settings.model_validate({"github": github}), Platform.GITHUB)
        yield forge
        await forge.aclose()


async def test_a_program_searches_and_reports_as_the_app(
    forge: Forge, app: App, github_forge: ForgeServer
) -> None:
    github_forge.add_label(REPOSITORY, 1, BOT)
    [found] = [request async for request in forge.find_labeled()]
    item: Item = found.item
    assert (item.repository, found.user) == (REPOSITORY, "alice")
    assert await forge.whoami() == "coding-agent[bot]"
    identity = await forge.commit_identity()
    assert identity.email.startswith(f"{app.account.id}+coding-agent[bot]@users.noreply.")
    await forge.upsert_comment(item, "<!-- marker", "<!-- marker-->\nWorking on it.")
    [comment] = await forge.comments(item)
    assert comment.author == "coding-agent[bot]"
    assert (await forge.open_changes()).snapshots == ()
    grants = [one.actor.grant for one in github_forge.sandbox.store.apps.tokens]
    levels = {grant.permissions["issues"] for grant in grants if grant and "issues" in grant.permissions}
    assert levels == {"read", "write"}, "the search only reads"
