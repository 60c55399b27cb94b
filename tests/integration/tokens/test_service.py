"""The token service over HTTP, with an App of the sandbox: who gets which token, and who gets none."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coding_agent_core.errors import CodingAgentError, ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.runtime.metrics import CollectorRegistry
from coding_agent_core.runtime.retry import Clock
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.app import TOKEN_PATH
from coding_agent_forges.github.auth.service_token import ServiceTokens
from coding_agent_forges.github.auth.token_credential import TokenCredential, signed
from coding_agent_forges.rest.client import issued_tokens
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.model import Grant
from coding_agent_tokens.callers import AUDIENCE

from tests.fixtures.forge import REPOSITORY
from tests.fixtures.github_app import app_settings, create_app, install
from tests.fixtures.token_service import KEY, OLD_KEY, secrets_of, service_for

REPORTER, POLLER, STRANGER = (f"system:serviceaccount:agents:{name}" for name in ("reporter", "poller", "x"))
ACCOUNTS = {"of-the-reporter": REPORTER, "of-the-poller": POLLER, "of-a-stranger": STRANGER}


async def review(request: dict[str, Any]) -> Mapping[str, Any]:
    """An API server that knows these accounts; a token without audience is for another service."""
    given = request["spec"]["token"]
    if given == "server-down":
        raise CodingAgentError("the API server does not answer")
    if given == "another-audience":
        return {"status": {"authenticated": True, "user": {"username": REPORTER}}}
    name = ACCOUNTS.get(given)
    if name is None:
        return {"status": {"authenticated": False, "error": "invalid bearer token"}}
    return {"status": {"authenticated": True, "user": {"username": name}, "audiences": [AUDIENCE]}}


class World:
    """A token service, and an App that is installed for all of `acme`."""

    def __init__(
        self, forge: ForgeServer, folder: Path, namespaces: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.forge = forge
        self.app = create_app(forge)
        self.installation = install(forge, self.app)
        self.key_file = folder / "key.pem"
        settings = app_settings(forge, self.app, self.key_file)
        self.host = settings.host
        programs = {REPORTER: Purpose.REPORT, POLLER: Purpose.POLL}
        self.registry = CollectorRegistry()
        service = service_for(
            settings, programs=programs, review=review, registry=self.registry, namespaces=namespaces
        )
        self.transport = httpx2.ASGITransport(service)

    def credential(self, key: str = KEY, **changes: Any) -> str:
        facts = {
            "job": "acme-pricing-7-1",
            "host": self.host,
            "repository": REPOSITORY,
            "purpose": Purpose.ATTEMPT,
            "expires": datetime.now(UTC) + timedelta(hours=1),
        }
        return signed(TokenCredential.model_validate({**facts, **changes}), key)

    async def ask(self, credential: str, repository: str = REPOSITORY) -> str:
        return await self.source(credential).current(repository)

    def source(self, credential: str) -> ServiceTokens:
        return ServiceTokens(
            "http://tokens", secrets_of(credential or "-"), Clock(), transport=self.transport
        )

    def results(self) -> dict[str, float]:
        """How many requests had which result."""
        [metric] = self.registry.collect()
        counted = [sample for sample in metric.samples if sample.value]
        return {sample.labels["result"]: sample.value for sample in counted}

    def permissions(self, token: str) -> Mapping[str, str]:
        return self.grant(token).permissions

    def grant(self, token: str) -> Grant:
        [actor] = [one for one in self.forge.sandbox.store.apps.actors() if one.token == token]
        assert actor.grant is not None
        return actor.grant


@pytest.fixture
def world(github_forge: ForgeServer, tmp_path: Path) -> World:
    return World(github_forge, tmp_path)


async def test_each_caller_gets_the_token_of_its_purpose(world: World) -> None:
    attempt = await world.ask(world.credential())
    evidence = await world.ask(world.credential(purpose=Purpose.EVIDENCE))
    reporter = await world.ask("of-the-reporter")
    poller = await world.ask("of-the-poller", "")
    assert world.permissions(attempt)["contents"] == "write"
    assert set(world.permissions(evidence).values()) == {"read"}
    assert world.permissions(reporter)["contents"] == "read"
    assert world.permissions(reporter)["statuses"] == "write"
    assert set(world.permissions(poller).values()) == {"read"}
    search = await world.ask("of-the-reporter", "")
    assert set(world.permissions(search).values()) == {"read"}
    assert {"checks", "contents"} <= set(world.permissions(search))
    assert {attempt, evidence, reporter, poller} <= set(issued_tokens())
    assert await world.ask(world.credential()) == attempt
    assert world.results() == {"Given": 6}


@pytest.mark.parametrize(
    ("namespaces", "own", "everything"),
    [
        ({}, True, True),
        ({"agents": [REPOSITORY]}, True, True),
        ({"agents": ["Acme"], "team-b": ["globex"]}, True, True),
        # The forge has no such repository, so it refuses a token that is narrowed to it.
        ({"agents": ["acme/absent"]}, False, False),
        ({"agents": ["globex"], "team-b": ["acme"]}, False, False),
        ({"team-b": ["acme"]}, False, False),
    ],
)
async def test_a_namespace_gets_tokens_only_for_its_owners_and_repositories(
    github_forge: ForgeServer,
    tmp_path: Path,
    namespaces: Mapping[str, Sequence[str]],
    own: bool,
    everything: bool,
) -> None:
    world = World(github_forge, tmp_path, namespaces)
    attempt = world.credential(namespace="agents")
    for caller in ("of-the-reporter", "of-the-poller", attempt):
        if own:
            assert await world.ask(caller)
            continue
        with pytest.raises(ForgeRefusedError, match=r"agents may not have .*github\.app\.namespaces"):
            await world.ask(caller)
    if not everything:
        with pytest.raises(ForgeRefusedError):
            await world.ask("of-the-reporter", "")
    else:
        grant = world.grant(await world.ask("of-the-reporter", ""))
        assert grant.repositories == {github_forge.repository(REPOSITORY).id}
    if namespaces:
        with pytest.raises(ForgeRefusedError):
            await world.ask(world.credential())  # of an operator that does not say its namespace
        stranger = world.credential(namespace="team-c")
        with pytest.raises(ForgeRefusedError, match="team-c"):
            await world.ask(stranger)


@pytest.mark.parametrize(
    ("credential", "repository", "said"),
    [
        ({}, "acme/other", "may only have a token for acme/pricing"),
        ({}, "", "not for all repositories"),
        ({"host": "another.example"}, REPOSITORY, "does not know who asks"),
        ({"expires": datetime(2020, 1, 1, tzinfo=UTC)}, REPOSITORY, "has expired"),
        ("of-a-stranger", REPOSITORY, "does not know who asks"),
        ("another-audience", REPOSITORY, "does not know who asks"),
        ("nobody's", REPOSITORY, "does not know who asks"),
        ("", REPOSITORY, "does not know who asks"),
        ("x" * 20_000, REPOSITORY, "does not know who asks"),
    ],
)
async def test_nobody_else_gets_a_token(
    world: World, credential: dict[str, Any] | str, repository: str, said: str
) -> None:
    given = credential if isinstance(credential, str) else world.credential(**credential)
    with pytest.raises(ForgeRefusedError, match=said):
        await world.ask(given, repository)
    assert world.forge.sandbox.store.apps.tokens == []


async def test_each_valid_key_identifies_an_attempt_and_no_other(world: World) -> None:
    for key in (KEY, OLD_KEY):
        assert await world.ask(world.credential(key))
    with pytest.raises(ForgeRefusedError, match="does not know who asks"):
        await world.ask(world.credential(KEY.replace("1", "2")))


async def test_no_caller_fills_the_memory_of_the_service(world: World) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 4096

    answers = []
    async with httpx2.AsyncClient(base_url="http://tokens", transport=world.transport) as client:
        for credential in ("nobody's", world.credential()):
            headers = {"Authorization": f"Bearer {credential}"}
            answers.append(await client.post(TOKEN_PATH, content=body(), headers=headers))
    assert [(answer.status_code, "message" in answer.json()) for answer in answers] == [
        (401, True),
        (413, True),
    ]
    assert sent == 2, "the service reads nothing from a stranger, and no more than it has to"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"repository": "a/b/c"}', b'{"purpose": "report"}'])
async def test_a_malformed_request_has_an_answer_for_people(world: World, body: bytes) -> None:
    async with httpx2.AsyncClient(base_url="http://tokens", transport=world.transport) as client:
        headers = {"Authorization": f"Bearer {world.credential()}"}
        answer = await client.post(TOKEN_PATH, content=body, headers=headers)
    assert (answer.status_code, "message" in answer.json()) == (422, True)


async def test_each_caller_learns_the_account(world: World) -> None:
    found = [await world.source(each).account() for each in (world.credential(), "of-the-poller")]
    assert {(each.id, each.login) for each in found} == {(world.app.account.id, "coding-agent[bot]")}
    with pytest.raises(ForgeRefusedError, match="does not know who asks"):
        await world.source("of-a-stranger").account()


async def test_the_sentence_of_a_failure_reaches_the_caller_with_its_class(world: World) -> None:
    with pytest.raises(ForgeUnavailableError, match="cannot find out who asks"):
        await world.ask("server-down")
    key = world.key_file.read_text(encoding="utf-8")
    world.key_file.unlink()
    with pytest.raises(ForgeUnavailableError, match="private_key_file") as caught:
        await world.ask(world.credential())
    assert caught.value.retry_after == 10
    world.key_file.write_text("not a key", encoding="utf-8")
    with pytest.raises(ForgeRefusedError, match="not a private RSA key"):
        await world.ask(world.credential())
    world.key_file.write_text(key, encoding="utf-8")
    world.installation.suspended_at = datetime.now(UTC)
    with pytest.raises(ForgeRefusedError, match=r"is suspended\. Unsuspend it: .*/settings/installations/"):
        await world.ask(world.credential())
    with pytest.raises(ForgeRefusedError, match="may only have a token"):
        await world.ask(world.credential(), "acme/other")
    with pytest.raises(ForgeRefusedError, match="does not know"):
        await world.ask("nobody's")
    names = ("ReviewFailed", "KeyMissing", "Suspended", "KeyUnreadable", "OtherRepository", "CallerUnknown")
    assert world.results() == dict.fromkeys(names, 1)
