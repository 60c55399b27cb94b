"""Who gets a token from the token service, and what the client makes of its answers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from coding_agent_core.errors import ForgeError, ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.forge.github.app import Purpose
from coding_agent_core.forge.service_token import ServiceToken
from coding_agent_core.forge.token_credential import TokenCredential, read_credential, signed
from coding_agent_core.retry import Clock

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
        ),
    ],
)
def test_nothing_else_is_a_credential(text: str) -> None:
    assert read_credential(text, [KEY], NOW) is None


class Service:
    """A token service that answers from a list; the last answer repeats."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.elapsed = 0.0
        self.learned: list[str] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def token(self) -> ServiceToken:
        return ServiceToken(
            "http://tokens:8080",
            "acme/pricing",
            lambda: "who-we-are",
            replace(Clock(), monotonic=lambda: self.elapsed),
            self.learned.append,
            transport=httpx.MockTransport(self.handle),
        )


def given(token: str, expires_in: float = 3600) -> httpx.Response:
    return httpx.Response(200, json={"token": token, "expires_in": expires_in, "login": "agent[bot]"})


async def test_a_token_is_kept_renewed_in_time_and_told_to_the_scrubber() -> None:
    service = Service(given("one"), httpx.ConnectError("refused"), given("two"))
    token = service.token()
    assert (await token.current(), await token.identity()) == ("one", "agent[bot]")
    service.elapsed = 3299
    assert await token.current() == "one"
    service.elapsed = 3301
    assert await token.current() == "one"  # the service does not answer, and the token still lives
    assert await token.current() == "two"
    assert service.learned == ["one", "two"]
    assert "one" not in repr(token)
    assert "who-we-are" not in repr(token)
    [first, *_] = service.requests
    assert (first.url.path, first.headers["authorization"]) == ("/v1/token", "Bearer who-we-are")
    assert first.content == b'{"repository":"acme/pricing"}'


@pytest.mark.parametrize(
    ("answer", "error", "said", "retry_after"),
    [
        (httpx.Response(403, json={"message": "Suspended. Unsuspend it."}), ForgeRefusedError, "Unsus", None),
        (httpx.Response(401, json={"message": "Who?"}), ForgeRefusedError, "Who", None),
        (httpx.Response(503, headers={"retry-after": "9"}, text="<p>"), ForgeUnavailableError, "503", 9.0),
        (httpx.Response(200, json={"token": "secret"}), ForgeUnavailableError, "unexpected", None),
        (httpx.ReadTimeout(""), ForgeUnavailableError, "ReadTimeout", None),
    ],
)
async def test_what_the_service_answers_decides_what_follows(
    answer: httpx.Response | Exception, error: type[ForgeError], said: str, retry_after: float | None
) -> None:
    with pytest.raises(error, match=said) as caught:
        await Service(answer).token().current()
    assert caught.value.retry_after == retry_after
    assert caught.value.repeatable is (error is ForgeUnavailableError)
    assert "secret" not in str(caught.value)
