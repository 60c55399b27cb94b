"""What programs do on all repositories, with the tokens of an App: from the service, and by their own key."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Item
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.rest.forge import Forge
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.apps import App

from tests.fixtures.forge import REPOSITORY, polled
from tests.fixtures.github_app import GRANTED, app_settings, create_app, install
from tests.fixtures.system import BOT
from tests.fixtures.token_service import served, service_for
from tests.integration.forges.conftest import World
from tests.integration.forges.test_requests import METHODS, everything
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
    [found] = await polled(forge)
    item: Item = found.item
    assert (item.repository, found.user) == (REPOSITORY, "alice")
    assert await forge.whoami() == "coding-agent[bot]"
    identity = await forge.commit_identity()
    assert identity.email.startswith(f"{app.account.id}+coding-agent[bot]@users.noreply.")
    await forge.upsert_comment(item, "<!-- marker", "<!-- marker-->\nWorking on it.")
    [comment] = (await forge.comments(item)).values
    assert comment.author == "coding-agent[bot]"
    assert (await forge.open_changes()).snapshots == ()
    grants = [one.actor.grant for one in github_forge.sandbox.store.apps.tokens]
    levels = {grant.permissions["issues"] for grant in grants if grant and "issues" in grant.permissions}
    assert levels == {"read", "write"}, "the search only reads"


async def test_each_request_has_a_token_with_the_permission_that_it_needs(
    github_forge: ForgeServer, tmp_path: Path
) -> None:
    app = create_app(github_forge, {**GRANTED, "actions": "write"})
    install(github_forge, app)
    key = tmp_path / "key.pem"
    app_settings(github_forge, app, key)
    section = {"app_id": app.id, "private_key_file": key}
    settings = Settings.model_validate({"github": {"api_url": github_forge.api_url, "app": section}})
    forge = connect_forge(settings, Platform.GITHUB)
    try:
        assert await everything(World(github_forge, forge, settings, tmp_path)) == METHODS
    finally:
        await forge.aclose()
