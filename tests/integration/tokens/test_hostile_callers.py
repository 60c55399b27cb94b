"""Many callers that nobody knows: the API server is asked about few, and programs still get their tokens."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coding_agent_core.runtime.retry import Clock
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.app import TOKEN_PATH
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.until import until_async
from fastapi import FastAPI

from tests.fixtures.forge import REPOSITORY
from tests.fixtures.github_app import app_settings, create_app, install
from tests.fixtures.token_service import service_for
from tests.integration.tokens.test_service import POLLER, REPORTER, review

ATTACKER, PROGRAM = "10.0.0.66", "10.0.0.7"


class ApiServer:
    """Counts TokenReviews, and answers them when `go` is set."""

    def __init__(self) -> None:
        self.reviews = 0
        self.running = 0
        self.go = asyncio.Event()
        self.go.set()

    async def review(self, request: dict[str, Any]) -> Mapping[str, Any]:
        self.reviews += 1
        self.running += 1
        await self.go.wait()
        self.running -= 1
        return await review(request)


class World:
    """A token service whose clock and API server the test controls."""

    def __init__(self, forge: ForgeServer, folder: Path) -> None:
        app = create_app(forge)
        install(forge, app)
        settings = app_settings(forge, app, folder / "key.pem")
        self.now = 0.0
        self.api_server = ApiServer()
        programs = {REPORTER: Purpose.REPORT, POLLER: Purpose.POLL}
        clock = Clock(monotonic=lambda: self.now)
        self.app: FastAPI = service_for(
            settings, programs=programs, review=self.api_server.review, clock=clock
        )

    async def ask(self, bearer: str, address: str = ATTACKER) -> httpx2.Response:
        transport = httpx2.ASGITransport(self.app, client=(address, 40_000))
        async with httpx2.AsyncClient(base_url="http://tokens", transport=transport) as client:
            headers = {"Authorization": f"Bearer {bearer}"}
            return await client.post(TOKEN_PATH, json={"repository": REPOSITORY}, headers=headers)


@pytest.fixture
def world(github_forge: ForgeServer, tmp_path: Path) -> World:
    return World(github_forge, tmp_path)


async def test_many_unknown_credentials_cost_few_reviews_and_programs_get_their_tokens(world: World) -> None:
    answers = [await world.ask(f"unknown-{number}") for number in range(200)]
    assert {answer.status_code for answer in answers} == {401, 429}
    assert world.api_server.reviews == sum(answer.status_code == 401 for answer in answers) <= 20
    last = answers[-1]
    assert 1 <= int(last.headers["retry-after"]) <= 10
    assert "too many" in last.json()["message"]

    assert (await world.ask("of-the-reporter", PROGRAM)).status_code == 200
    world.now += int(last.headers["retry-after"])
    assert (await world.ask("unknown-again")).status_code == 401


async def test_a_refusal_is_remembered_for_some_seconds(world: World) -> None:
    for _ in range(50):
        assert (await world.ask("unknown")).status_code == 401
    assert world.api_server.reviews == 1
    world.now += 10
    await world.ask("unknown")
    assert world.api_server.reviews == 2


async def test_a_slow_api_server_gets_few_reviews_at_once(world: World) -> None:
    world.api_server.go.clear()
    asked = [asyncio.create_task(world.ask(f"unknown-{number}", f"10.0.1.{number}")) for number in range(100)]
    refused = [await answer for _, answer in zip(range(92), asyncio.as_completed(asked), strict=False)]
    assert {answer.status_code for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert world.api_server.running == 8
    world.api_server.go.set()
    assert sorted(answer.status_code for answer in await asyncio.gather(*asked)) == [401] * 8 + [503] * 92


async def test_all_requests_with_one_credential_share_a_review(world: World) -> None:
    world.api_server.go.clear()
    asked = [asyncio.create_task(world.ask("of-the-reporter", PROGRAM)) for _ in range(30)]
    await until_async("a review runs", lambda: world.api_server.running)
    world.api_server.go.set()
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
    assert world.api_server.reviews == 1
