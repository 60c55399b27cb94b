"""The token service knows its callers, and the client understands its answers."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import jwt
import pytest
from coding_agent_core.errors import ForgeError, ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.section import Secrets, SecretSettings
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.app import token_hash
from coding_agent_forges.github.auth.service_token import ServiceTokens
from coding_agent_forges.github.auth.token_credential import TokenCredential, read_credential, signed
from coding_agent_forges.rest.client import issued_tokens
from pydantic import SecretStr

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
KEY, OTHER = "k" * 32, "o" * 32
CREDENTIAL = TokenCredential(
    job="acme-pricing-7-1",
    host="github.com",
    repository="acme/pricing",
    purpose=Purpose.ATTEMPT,
    expires=NOW + timedelta(hours=1),
)
CLAIMS: dict[str, Any] = jwt.decode(signed(CREDENTIAL, KEY), options={"verify_signature": False})


def test_a_credential_is_read_with_one_of_the_keys_until_it_expires() -> None:
    text = signed(CREDENTIAL, KEY)
    assert read_credential(text, [OTHER, KEY], NOW) == CREDENTIAL
    assert read_credential(text, [OTHER], NOW) is None
    assert read_credential(text, [], NOW) is None
    assert read_credential(text, [KEY], CREDENTIAL.expires) is None
    with pytest.raises(ValueError, match="fewer than 32 bytes"):
        signed(CREDENTIAL, "short")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not.a.jwt",
        signed(CREDENTIAL, KEY)[:-2] + "AA",
        jwt.encode(CLAIMS, "", algorithm="none"),
        jwt.encode({**CLAIMS, "aud": "another"}, KEY, algorithm="HS256"),
        jwt.encode({**CLAIMS, "purpose": "admin"}, KEY, algorithm="HS256"),
        jwt.encode({**CLAIMS, "repository": "acme"}, KEY, algorithm="HS256"),
        jwt.encode({**CLAIMS, "exp": 10**18}, KEY, algorithm="HS256"),
        *(
            jwt.encode({key: one for key, one in CLAIMS.items() if key != name}, KEY, algorithm="HS256")
            for name in CLAIMS
            if name != "namespace"
        ),
    ],
)
def test_nothing_else_is_a_credential(text: str) -> None:
    assert read_credential(text, [KEY], NOW) is None


def test_a_credential_of_an_older_operator_names_no_namespace() -> None:
    older = jwt.encode({key: CLAIMS[key] for key in CLAIMS if key != "namespace"}, KEY, algorithm="HS256")
    assert read_credential(older, [KEY], NOW) == CREDENTIAL.model_copy(update={"namespace": ""})


class Service:
    """A token service that answers from a list; the last answer repeats."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []
        self.elapsed = 0.0

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def tokens(self, only: str = "") -> ServiceTokens:
        return ServiceTokens(
            "http://tokens:8080",
            Secrets(SecretSettings(values=(SecretStr("who-we-are"),))),
            replace(Clock(), monotonic=lambda: self.elapsed),
            only,
            transport=httpx2.MockTransport(self.handle),
        )


def given(token: str, expires_in: float = 3600) -> httpx2.Response:
    return httpx2.Response(200, json={"token": token, "expires_in": expires_in})


async def test_a_token_is_kept_renewed_in_time_and_known_to_the_scrubber() -> None:
    service = Service(given("one"), httpx2.ConnectError("refused"), given("two"))
    tokens = service.tokens()
    assert await tokens.current("acme/pricing") == "one"
    service.elapsed = 3299
    assert await tokens.current("ACME/pricing") == "one"
    service.elapsed = 3301
    for _ in range(3):  # the service does not answer, and the token lives
        assert await tokens.current("acme/pricing") == "one"
    assert len(service.requests) == 2
    service.elapsed = 3332
    assert await tokens.current("acme/pricing") == "two"
    assert {"one", "two"} <= set(issued_tokens())
    assert "one" not in repr(tokens)
    assert "who-we-are" not in repr(tokens)
    [first, *_] = service.requests
    assert (first.url.path, first.headers["authorization"]) == ("/v1/token", "Bearer who-we-are")
    assert first.content == b'{"repository":"acme/pricing"}'


async def test_all_who_report_a_refused_token_share_a_request_for_another() -> None:
    service = Service(given("one"), given("two"))
    tokens = service.tokens()
    assert await tokens.current("acme/pricing") == "one"
    found = await asyncio.gather(*(tokens.current("acme/pricing", "one") for _ in range(5)))
    assert set(found) == {"two"}
    assert await tokens.current("acme/pricing", "one") == "two", "somebody has replaced it already"
    assert [json.loads(each.content) for each in service.requests] == [
        {"repository": "acme/pricing"},
        {"repository": "acme/pricing", "refused": token_hash("one")},
    ]


async def test_a_refused_token_does_not_serve_while_the_service_is_down() -> None:
    service = Service(given("one"), httpx2.ConnectError("refused"))
    tokens = service.tokens()
    await tokens.current("acme/pricing")
    with pytest.raises(ForgeUnavailableError, match="cannot be reached"):
        await tokens.current("acme/pricing", "one")
    with pytest.raises(ForgeUnavailableError, match="cannot be reached"):
        await tokens.current("acme/pricing")


async def test_a_token_that_the_service_could_not_renew_is_asked_for_again_in_a_while() -> None:
    """While GitHub is down, the service gives what it has; not each request to the forge may ask for it."""
    service = Service(given("one", 100))
    tokens = service.tokens()
    for service.elapsed in (0, 10, 29):
        assert await tokens.current("acme/pricing") == "one"
    assert len(service.requests) == 1
    service.elapsed = 31
    await tokens.current("acme/pricing")
    assert len(service.requests) == 2


async def test_a_program_has_a_token_for_each_repository_and_an_attempt_only_one() -> None:
    program = Service(given("of-pricing"), given("of-shop"), given("of-all"))
    tokens = program.tokens()
    asked = ["acme/pricing", "acme/shop", "", "acme/pricing"]
    assert [await tokens.current(each) for each in asked] == ["of-pricing", "of-shop", "of-all", "of-pricing"]

    attempt = Service(given("own"))
    tokens = attempt.tokens(only="acme/pricing")
    assert {await tokens.current(each) for each in ["acme/pricing", "mallory/fork", ""]} == {"own"}
    assert [each.content for each in attempt.requests] == [b'{"repository":"acme/pricing"}']


async def test_the_service_knows_the_account() -> None:
    service = Service(httpx2.Response(200, json={"id": 7, "login": "agent[bot]"}))
    tokens = service.tokens()
    own = await tokens.account()
    assert (own.id, own.login, await tokens.identity()) == (7, "agent[bot]", "agent[bot]")
    [request] = service.requests
    assert request.url.path == "/v1/account"


@pytest.mark.parametrize(
    ("answer", "error", "said", "retry_after"),
    [
        (
            httpx2.Response(403, json={"message": "Suspended. Unsuspend it."}),
            ForgeRefusedError,
            "Unsus",
            None,
        ),
        (httpx2.Response(401, json={"message": "Who?"}), ForgeRefusedError, "Who", None),
        (httpx2.Response(503, headers={"retry-after": "9"}, text="<p>"), ForgeUnavailableError, "503", 9.0),
        (httpx2.Response(200, json={"token": "secret"}), ForgeUnavailableError, "unexpected", None),
        (httpx2.ReadTimeout(""), ForgeUnavailableError, "ReadTimeout", None),
    ],
)
async def test_what_the_service_answers_decides_what_follows(
    answer: httpx2.Response | Exception, error: type[ForgeError], said: str, retry_after: float | None
) -> None:
    with pytest.raises(error, match=said) as caught:
        await Service(answer).tokens().current("acme/pricing")
    assert caught.value.retry_after == retry_after
    assert caught.value.repeatable is (error is ForgeUnavailableError)
    assert "secret" not in str(caught.value)
