"""Tokens of a GitHub App, against the sandbox: limits, renewal, a sentence for each thing that is wrong.

The sentence is the same if the token service asks for the token, and it ends an attempt or lets it wait.
"""

import asyncio
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from coding_agent_consumer.attempt.failures import outcome_of_error
from coding_agent_core.errors import (
    ForgeError,
    ForgeRefusedError,
    ForgeUnavailableError,
    SettingsError,
    TokenMissingError,
)
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import Clock, RetryPolicy
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.operator import Reporter
from coding_agent_core.task.reasons import Reason
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.app import AppProblem, AppRefusedError, token_hash
from coding_agent_forges.github.auth.app_tokens import AppTokens, connect_app
from coding_agent_forges.github.auth.service_token import ServiceTokens
from coding_agent_forges.github.auth.token_credential import TokenCredential, signed
from coding_agent_forges.rest.pacing import Paced
from coding_agent_operator.reporter.reporter_program import rate_for
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.apps import App, Installation

from tests.fixtures.forge import REPOSITORY, client, git, git_url, plant_fault
from tests.fixtures.github_app import GRANTED, app_settings, create_app, install, key_pair
from tests.fixtures.token_service import KEY, secrets_of, service_for
from tests.unit.forges.test_pacing import at_once

ONCE = RetryPolicy(tries=1)


class World:
    """An App that is installed for all of `acme`, and the clocks of both sides."""

    def __init__(self, forge: ForgeServer, folder: Path) -> None:
        self.forge = forge
        self.app: App = create_app(forge)
        self.installation: Installation = install(forge, self.app)
        self.key_file = folder / "key.pem"
        self.settings = app_settings(forge, self.app, self.key_file)
        self.ahead = 0.0
        self.elapsed = 0.0

    @property
    def clock(self) -> Clock:
        return Clock(
            now=lambda: datetime.now(UTC) + timedelta(seconds=self.ahead + self.elapsed),
            monotonic=lambda: self.elapsed,
        )

    def tokens(self) -> AppTokens:
        return connect_app(self.settings, clock=self.clock, policy=ONCE)

    def through_the_service(self) -> ServiceTokens:
        """As an attempt gets them."""
        credential = TokenCredential(
            job="acme-pricing-1-1",
            host=self.settings.host,
            repository=REPOSITORY,
            purpose=Purpose.ATTEMPT,
            expires=datetime.now(UTC) + timedelta(hours=1),
        )
        transport = httpx2.ASGITransport(service_for(self.settings, clock=self.clock))
        given = secrets_of(signed(credential, KEY))
        return ServiceTokens("http://tokens", given, Clock(), only=REPOSITORY, transport=transport)

    def pass_time(self, seconds: float) -> None:
        """Let both clocks go on."""
        self.elapsed += seconds
        self.forge.sandbox.clock.ahead += timedelta(seconds=seconds)

    def select(self, **settings: object) -> None:
        assert self.settings.app is not None
        app = self.settings.app.model_copy(update=settings)
        self.settings = self.settings.model_copy(update={"app": app})

    @property
    def exchanges(self) -> int:
        return sum(one.path.endswith("/access_tokens") for one in self.forge.sandbox.requests)


@pytest.fixture
def world(github_forge: ForgeServer, tmp_path: Path) -> World:
    return World(github_forge, tmp_path)


def status(world: World, token: str, path: str, method: str = "GET") -> tuple[int, str]:
    with client(world.forge, token) as api:
        answer = api.request(method, path, json={} if method != "GET" else None)
        return answer.status_code, answer.json().get("message", "") if answer.is_error else ""


async def test_a_token_reaches_one_repository_with_the_permissions_of_its_purpose(
    world: World, tmp_path: Path
) -> None:
    other = world.forge.fork(REPOSITORY, "mallory", private=True)
    tokens = world.tokens()
    attempt = await tokens.token(REPOSITORY, Purpose.ATTEMPT)
    evidence = await tokens.token(REPOSITORY, Purpose.EVIDENCE)
    own = await tokens.account()
    assert (own.id, own.login) == (world.app.account.id, "coding-agent[bot]")
    assert 3500 < attempt.expires_in <= 3600
    assert attempt.token not in repr(attempt) + repr(vars(tokens))
    repository, issue = f"/repos/{REPOSITORY}", f"/repos/{REPOSITORY}/issues/1/comments"
    forbidden = (403, "Resource not accessible by integration")
    assert await asyncio.to_thread(status, world, attempt.token, repository) == (200, "")
    assert await asyncio.to_thread(status, world, evidence.token, issue, "POST") == forbidden
    assert (await asyncio.to_thread(status, world, attempt.token, issue, "POST"))[0] == 422
    assert await asyncio.to_thread(status, world, attempt.token, f"/repos/{other.full_name}") == (
        404,
        "Not Found",
    )
    clones = {
        name: (await asyncio.to_thread(git, "clone", git_url(world.forge, one.token), name, cwd=tmp_path))
        for name, one in (("attempt", attempt), ("evidence", evidence))
    }
    assert [clone.returncode for clone in clones.values()] == [0, 0]
    pushes = {
        name: await asyncio.to_thread(git, "push", "origin", "HEAD:refs/heads/fix", cwd=tmp_path / name)
        for name in ("evidence", "attempt")
    }
    assert pushes["evidence"].returncode != 0
    assert "not granted" in pushes["evidence"].stderr or "403" in pushes["evidence"].stderr
    assert pushes["attempt"].returncode == 0
    await tokens.aclose()


async def test_a_token_is_renewed_before_it_expires_and_serves_while_github_is_down(world: World) -> None:
    tokens = world.tokens()
    first, *others = await asyncio.gather(*(tokens.token(REPOSITORY, Purpose.REPORT) for _ in range(5)))
    assert {one.token for one in others} == {first.token}
    assert world.exchanges == 1

    world.pass_time(2900)
    assert (await tokens.token("ACME/pricing", Purpose.REPORT)).token == first.token
    world.pass_time(200)  # 500 s are left
    fault = await asyncio.to_thread(plant_fault, world.forge, path=".*/access_tokens", status=502, times=1)
    assert fault
    found = await asyncio.gather(*(tokens.token(REPOSITORY, Purpose.REPORT) for _ in range(5)))
    assert {one.token for one in found} == {first.token}
    assert world.exchanges == 2, "nobody waits for a GitHub that is down"
    world.pass_time(31)
    second = await tokens.token(REPOSITORY, Purpose.REPORT)
    assert second.token != first.token
    assert second.expires_in > 3500

    world.pass_time(3595)
    await asyncio.to_thread(plant_fault, world.forge, path=".*/access_tokens", status=502, times=1)
    with pytest.raises(ForgeUnavailableError, match="could not answer"):
        await tokens.token(REPOSITORY, Purpose.REPORT)
    assert (await tokens.token(REPOSITORY, Purpose.REPORT)).token != second.token
    await tokens.aclose()


async def test_a_refused_token_is_replaced_once_for_all_and_a_new_one_not_at_all(world: World) -> None:
    tokens = world.tokens()
    first = await tokens.token(REPOSITORY, Purpose.REPORT)
    refused = token_hash(first.token)
    world.pass_time(59)
    assert (await tokens.token(REPOSITORY, Purpose.REPORT, refused)).token == first.token
    world.pass_time(2)
    found = await asyncio.gather(*(tokens.token(REPOSITORY, Purpose.REPORT, refused) for _ in range(5)))
    [second] = {one.token for one in found}
    assert second != first.token
    assert world.exchanges == 2
    world.pass_time(61)
    assert (await tokens.token(REPOSITORY, Purpose.REPORT, refused)).token == second
    assert (await tokens.token(REPOSITORY, Purpose.REPORT)).token == second
    await tokens.aclose()


async def test_a_process_with_its_own_key_replaces_a_revoked_token(world: World) -> None:
    """The request that met the revoked token is sent again."""
    forge = connect_forge(
        Settings.model_validate({"github": world.settings}), Platform.GITHUB, clock=world.clock, policy=ONCE
    )
    facts = await forge.branch_facts(REPOSITORY, "main")
    [token] = {one.actor.token for one in world.forge.sandbox.store.apps.tokens}
    with client(world.forge, token) as api:
        assert (await asyncio.to_thread(api.delete, "/installation/token")).status_code == 204
        assert (await asyncio.to_thread(api.delete, "/installation/token")).status_code == 401
    with pytest.raises(ForgeRefusedError, match="Bad credentials"):
        await forge.branch_facts(REPOSITORY, "main")
    world.pass_time(61)
    assert await forge.branch_facts(REPOSITORY, "main") == facts
    assert world.exchanges == 2
    await forge.aclose()


async def test_a_suspended_installation_is_named_to_whoever_still_has_a_token(world: World) -> None:
    forge = connect_forge(
        Settings.model_validate({"github": world.settings}), Platform.GITHUB, clock=world.clock, policy=ONCE
    )
    await forge.branch_facts(REPOSITORY, "main")
    world.installation.suspended_at = datetime.now(UTC)
    world.pass_time(61)
    with pytest.raises(AppRefusedError, match=r"is suspended\. Unsuspend it"):
        await forge.branch_facts(REPOSITORY, "main")
    await forge.aclose()


async def test_many_tasks_of_a_suspended_installation_cost_one_request_in_half_a_minute(world: World) -> None:
    tokens, asked = world.tokens(), world.forge.sandbox.requests
    world.installation.suspended_at = datetime.now(UTC)

    async def refused() -> int:
        """Ask as ten tasks do, one after the other; the number of requests to GitHub."""
        before = len(asked)
        for _ in range(10):
            with pytest.raises(AppRefusedError, match=r"is suspended\. Unsuspend it") as caught:
                await tokens.token(REPOSITORY, Purpose.ATTEMPT)
            assert caught.value.problem is AppProblem.SUSPENDED
            assert len(traceback.extract_tb(caught.value.__traceback__)) < 20
        return len(asked) - before

    assert await refused() == 1
    with pytest.raises(AppRefusedError):
        await tokens.token("acme/other", Purpose.ATTEMPT)
    world.pass_time(29)
    assert await refused() == 0
    world.pass_time(2)
    assert await refused() == 1
    world.installation.suspended_at = None
    world.pass_time(31)
    assert (await tokens.token(REPOSITORY, Purpose.ATTEMPT)).token
    await tokens.aclose()


async def test_a_refused_account_is_not_asked_for_at_once_again(world: World) -> None:
    tokens, asked = world.tokens(), world.forge.sandbox.requests
    world.installation.suspended_at = datetime.now(UTC)
    with pytest.raises(AppRefusedError, match="suspended"):
        await tokens.account()
    before = len(asked)
    with pytest.raises(AppRefusedError, match="suspended"):
        await tokens.account()
    assert len(asked) == before
    world.installation.suspended_at = None
    world.pass_time(31)
    assert (await tokens.account()).id == world.app.account.id
    await tokens.aclose()


async def test_the_reporter_follows_the_limit_of_the_installation(world: World) -> None:
    """All tokens of an installation share its limit, which each answer states."""
    world.installation.hourly_quota = 12_500
    own = rate_for(Reporter(), Platform.GITHUB, "github.com")
    rate = replace(own, per_second=1e6, burst=100_000, patience=0)  # meant to expire
    pace = Paced("github.com", rate, world.clock)
    forge = connect_forge(
        Settings.model_validate({"github": world.settings}), Platform.GITHUB, clock=world.clock, pace=pace
    )
    await forge.branch_facts(REPOSITORY, "main")
    assert 7000 < await at_once(pace) <= 7031
    left = []
    for purpose in (Purpose.REPORT, Purpose.ATTEMPT):
        token = (await world.tokens().token(REPOSITORY, purpose)).token
        with client(world.forge, token) as api:
            answer = await asyncio.to_thread(api.get, f"/repos/{REPOSITORY}")
            left.append(int(answer.headers["x-ratelimit-remaining"]))
    assert left == [12_497, 12_496]
    await forge.aclose()


async def test_a_configured_installation_gives_no_token_for_another_owners_repository_of_the_same_name(
    world: World,
) -> None:
    other = world.forge.fork(REPOSITORY, "mallory")
    world.select(installation_id=world.installation.id)
    with pytest.raises(AppRefusedError, match=re.escape(other.full_name)) as caught:
        await world.tokens().token(other.full_name, Purpose.ATTEMPT)
    assert caught.value.problem is AppProblem.REPOSITORY_OUTSIDE
    assert world.exchanges == 0
    assert (await world.tokens().token(REPOSITORY.upper(), Purpose.ATTEMPT)).token


async def test_a_suspended_installation_does_not_hide_the_account(world: World) -> None:
    install(world.forge, world.app)
    world.installation.suspended_at = datetime.now(UTC)
    assert (await world.tokens().account()).id == world.app.account.id


async def test_a_renewed_token_acts_as_the_same_account(world: World) -> None:
    """The sandbox recognizes the account, as GitHub does, and not the token."""
    tokens = world.tokens()
    first = await tokens.token(REPOSITORY, Purpose.REPORT)
    number = await asyncio.to_thread(world.forge.open_issue, REPOSITORY, "Round prices")
    issue = f"/repos/{REPOSITORY}/issues/{number}/comments"
    with client(world.forge, first.token) as api:
        comment = (await asyncio.to_thread(api.post, issue, json={"body": "Seen"})).json()["id"]
    reactions = f"/repos/{REPOSITORY}/issues/comments/{comment}/reactions"
    world.pass_time(3500)
    second = await tokens.token(REPOSITORY, Purpose.REPORT)
    assert second.token != first.token
    for token, expected in ((first.token, 201), (second.token, 200)):
        with client(world.forge, token) as api:
            answer = await asyncio.to_thread(api.post, reactions, json={"content": "eyes"})
            assert answer.status_code == expected
    await tokens.aclose()


async def test_a_poll_needs_one_installation(world: World) -> None:
    tokens = world.tokens()
    found = await tokens.token("", Purpose.POLL)
    assert await asyncio.to_thread(status, world, found.token, "/search/issues?q=is:issue") == (200, "")
    install(world.forge, world.app)
    assert (await tokens.token("", Purpose.POLL)).token == found.token
    with pytest.raises(ForgeError, match=r"has 2 installations.*installation_id"):
        await world.tokens().token("", Purpose.POLL)
    world.select(installation_id=world.installation.id)
    assert await world.tokens().token("", Purpose.POLL)


@dataclass(frozen=True)
class Wrong:
    """Something that is wrong; the error and a part of its sentence.

    An attempt ends with `reason`, and its class says whether another attempt follows.
    """

    id: str
    change: Callable[[World], object]
    error: AppProblem | type[Exception]
    said: str
    reason: Reason = Reason.FORGE_REFUSED


def _other_key(world: World) -> None:
    world.key_file.write_text(key_pair(1)[0], encoding="utf-8")


def _suspend(world: World) -> None:
    world.installation.suspended_at = datetime.now(UTC)


def _lack(world: World) -> None:
    world.installation.permissions = {**GRANTED, "contents": "read"}


def _only_other(world: World) -> None:
    world.installation.repositories = ["other"]


def _only_other_by_id(world: World) -> None:
    _only_other(world)
    world.select(installation_id=world.installation.id)


WRONG = (
    Wrong("key of another App", _other_key, AppProblem.KEY_REFUSED, "Private keys"),
    Wrong("public key", lambda world: world.key_file.write_text(key_pair()[1]), SettingsError, "private RSA"),
    Wrong("no key", lambda world: world.key_file.write_text("secret text"), SettingsError, "private RSA"),
    Wrong(
        "absent key",
        lambda world: world.key_file.unlink(),
        TokenMissingError,
        "private_key_file",
        Reason.FORGE_UNAVAILABLE,
    ),
    Wrong("App id", lambda world: world.select(app_id=1), AppProblem.APP_UNKNOWN, "github.app.app_id"),
    Wrong("fast clock", lambda world: setattr(world, "ahead", 300), AppProblem.CLOCK_WRONG, "s ahead"),
    Wrong("slow clock", lambda world: setattr(world, "ahead", -900), AppProblem.CLOCK_WRONG, "s behind"),
    Wrong(
        "not installed",
        lambda world: world.forge.sandbox.store.apps.installations.clear(),
        AppProblem.NOT_INSTALLED,
        "Install App",
    ),
    Wrong(
        "installation id",
        lambda world: world.select(installation_id=1),
        AppProblem.INSTALLATION_UNKNOWN,
        "github.app.installation_id",
    ),
    Wrong("suspended", _suspend, AppProblem.SUSPENDED, "/settings/installations/"),
    Wrong("repository not selected", _only_other, AppProblem.NOT_INSTALLED, "acme/pricing"),
    Wrong("repository outside", _only_other_by_id, AppProblem.REPOSITORY_OUTSIDE, "Repository access"),
    Wrong("permission", _lack, AppProblem.PERMISSION_MISSING, "Contents (write)"),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.id)
async def test_what_is_wrong_is_said_in_a_sentence(world: World, wrong: Wrong) -> None:
    wrong.change(world)
    tokens = world.tokens()
    kind = AppRefusedError if isinstance(wrong.error, AppProblem) else wrong.error
    with pytest.raises(kind) as caught:
        await tokens.token(REPOSITORY, Purpose.ATTEMPT)
    if isinstance(caught.value, AppRefusedError):
        assert caught.value.problem is wrong.error
    assert wrong.said in str(caught.value)
    assert "BEGIN" not in str(caught.value)
    assert "secret text" not in str(caught.value)
    await tokens.aclose()

    with pytest.raises(ForgeError) as told:
        await world.through_the_service().current(REPOSITORY)
    outcome = outcome_of_error(told.value, str)
    assert outcome.reason is wrong.reason
    shown, said = (re.sub(r"\d+ s (ahead|behind)", "", str(one)) for one in (outcome.message, caught.value))
    assert shown == said


async def test_a_rate_limit_is_not_a_refusal(world: World) -> None:
    def limited(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(403, headers={"retry-after": "90"}, json={"message": "rate limit"})

    tokens = connect_app(world.settings, policy=ONCE, transport=httpx2.MockTransport(limited))
    with pytest.raises(ForgeUnavailableError) as caught:
        await tokens.token(REPOSITORY, Purpose.ATTEMPT)
    assert caught.value.retry_after == 90
