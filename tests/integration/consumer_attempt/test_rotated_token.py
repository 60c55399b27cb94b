"""A token that ends while an attempt works, as a GitHub App's does every hour: the work is delivered."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.workspace.protocol import Workspace
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.token_credential import TokenCredential, signed
from coding_agent_forges.rest.client import issued_tokens

from tests.fixtures.forge import client
from tests.fixtures.github_app import app_settings, create_app, install
from tests.fixtures.system import BOT_TOKEN, REPOSITORY
from tests.fixtures.token_service import KEY, served, service_for
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.place import AttemptPlace

NEW_TOKEN = "the-next-token-of-the-bot-5353"


class Rotating:
    """An agent during whose work the token is replaced, on the forge and in its file."""

    def __init__(self, place: AttemptPlace, file: Path) -> None:
        self._place, self._file = place, file

    async def work(self, brief: object, workspace: Workspace, **_: object) -> Outcome:
        await workspace.write_file("a.md", "a\n")
        forge = self._place.system.forge
        user = forge.user("coding-agent-bot")
        forge.run(lambda: setattr(user, "token", NEW_TOKEN))
        self._file.write_text(NEW_TOKEN)
        return Outcome(reason=Reason.COMPLETED, message="Done.", summary="Wrote it.")


async def test_the_work_is_pushed_with_the_new_token(
    make_place: MakePlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    place = make_place("github", [])
    file = tmp_path / "token"
    file.write_text(BOT_TOKEN)
    sections: dict[str, Any] = {"github": {"personal_access_token": {"files": [str(file)]}}}
    outcome = await place.run(place.given(), make_agent=lambda *_: Rotating(place, file), **sections)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert place.system.file_at("coding-agent/issue-1", "a.md") == "a\n"
    [change] = place.system.changes()
    assert change.author.login == "coding-agent-bot"
    for token in (BOT_TOKEN, NEW_TOKEN):
        assert token not in caplog.text + outcome.model_dump_json() + change.body


class Hours:
    """The clocks of the forge and of our programs, which a test lets go on."""

    def __init__(self, place: AttemptPlace) -> None:
        self._place = place
        self.elapsed = 0.0
        real = Clock()
        self.clock = Clock(
            now=lambda: datetime.now(UTC) + timedelta(seconds=self.elapsed),
            monotonic=lambda: real.monotonic() + self.elapsed,
        )

    def go_on(self, seconds: float) -> None:
        self.elapsed += seconds
        self._place.system.forge.sandbox.clock.ahead += timedelta(seconds=seconds)


class Working:
    """An agent during whose work something happens to the attempt's token.

    Attributes:
        before: the tokens that were issued before.
    """

    def __init__(self, happen: Callable[[], None]) -> None:
        self._happen = happen
        self.before: tuple[str, ...] = ()

    async def work(self, brief: object, workspace: Workspace, **_: object) -> Outcome:
        self.before = issued_tokens()
        await workspace.write_file("a.md", "a\n")
        await asyncio.to_thread(self._happen)
        return Outcome(reason=Reason.COMPLETED, message="Done.", summary="Wrote it.")


@pytest.mark.parametrize("end", ["expires", "is revoked"])
async def test_a_token_of_an_app_that_ends_during_the_work_is_replaced(
    make_place: MakePlace, tmp_path: Path, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    caplog.set_level(logging.DEBUG)
    place = make_place("github", [])
    forge, hours, known = place.system.forge, Hours(place), set(issued_tokens())
    app = create_app(forge)
    install(forge, app)
    settings = app_settings(forge, app, tmp_path / "key.pem")
    credential = TokenCredential(
        job="acme-pricing-1-1",
        host=settings.host,
        repository=REPOSITORY,
        purpose=Purpose.ATTEMPT,
        expires=datetime.now(UTC) + timedelta(hours=3),
    )

    def happen() -> None:
        if end == "expires":
            return hours.go_on(3700)
        hours.go_on(120)
        for token in set(agent.before) - known:
            with client(forge, token) as api:
                assert api.delete("/installation/token").status_code in (204, 401)
        return None

    agent = Working(happen)
    with served(service_for(settings, clock=hours.clock)) as url:
        section = {"app_id": app.id, "private_key_file": str(tmp_path / "absent"), "service": {"url": url}}
        own = signed(credential, KEY)
        github = {"app": section, "token_credential": own, "personal_access_token": None}
        given = place.given()
        outcome = await place.run(given, make_agent=lambda *_: agent, clock=hours.clock, github=github)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert "coding-agent/issue-1" in place.branches()
    [change] = place.system.changes()
    assert change.author.login == "coding-agent[bot]"
    assert len(set(agent.before) - known) == 2, "the service read the account with another token"
    issued = set(issued_tokens()) - known
    assert len(issued) == 3
    dead = {one.actor.token for one in forge.sandbox.store.apps.tokens} & set(agent.before)
    assert not dead, "the first tokens were dead when the work was pushed"
    for secret in (*issued, own, KEY):
        assert secret not in caplog.text
