"""Wall: settings of one person. None of the installation's secrets leaves to an address of theirs.

The decoy: settings that are merged as they come, without a list of what a person may set, give secrets away
to the same attacks, and the search finds each.
"""

import base64
import functools
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpcore2
import httpx  # noqa: TID251 - a model library might use it
import httpx2
import pytest
import yaml
from coding_agent_consumer.agent.model_spec import model_spec
from coding_agent_consumer.agent.models import open_model
from coding_agent_consumer.attempt import per_user
from coding_agent_consumer.attempt.per_user import settings_for, with_personal
from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.llm import LLM
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.reasons import Reason
from coding_agent_user_config.__main__ import ApiKey, user_config_app
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai.models import ModelRequestParameters

from tests.fixtures.system import BOT_TOKEN, MODEL_KEY, over
from tests.fixtures.user_config import StartUserConfig
from tests.integration.consumer_attempt.conftest import MakePlace

KEY, ANTHROPIC, GOOGLE, FORGE, S3, SERVICE, MCP, DEFAULT, FILE, AMBIENT = SECRETS = (
    "sk-model-0123456789",
    "sk-ant-model-0123456789",
    "AIza-model-0123456789",
    "ghp-forge-0123456789",
    "s3-key-0123456789",
    "service-key-0123456789",
    "mcp-token-0123456789",
    "sk-default-0123456789",
    "file-secret-0123456789",
    "ambient-secret-0123456789",
)
OURS = "https://models.corp.example/v1"
OURS_BY_PROVIDER = {
    "openai": OURS,
    "anthropic": "https://claude.corp.example",
    "google": "https://gemini.corp.example",
}
OLLAMA, LMSTUDIO = "http://ollama.corp.example:11434", "http://lmstudio.corp.example:1234/v1"
NAMED = {
    ("https", "models.corp.example", 443),
    ("https", "claude.corp.example", 443),
    ("https", "gemini.corp.example", 443),
    ("http", "ollama.corp.example", 11434),
    ("http", "lmstudio.corp.example", 1234),
}
"""The addresses that the installation names."""
EVIL = "https://evil.example/v1"
SPELLINGS = [
    OURS,
    f"{OURS}/",
    "HTTPS://models.corp.example/v1",
    "https://Models.Corp.Example:443/v1",
    "https://models.corp.example./v1",
    "http://models.corp.example/v1",
    "http://models.corp.example:443/v1",
    "https://models.corp.example:8443/v1",
    "https://models.corp.example/v1/../../evil",
    "https://models.corp.example@evil.example/v1",
    "https://evil.example\\@models.corp.example/v1",
    "https://models.corp.example\\@evil.example/v1",
    "https://models.corp.example#@evil.example/v1",
    "https://models.corp.example.evil.example/v1",
    "https://ｍodels.corp.example/v1",
    "https://models。corp。example/v1",
    "//models.corp.example/v1",
    "https://models.corp.example/v1\r\nX-Evil: 1",
    "https://models.corp.example\t.evil.example/v1",
    EVIL,
    "https://bücher.example/v1",
    "http://0x7f.1/v1",
    "file:///etc/passwd",
    "",
]


@functools.cache
def _shared_context(make: Callable[..., ssl.SSLContext]) -> Callable[..., ssl.SSLContext]:
    """Reads the certificates once: that is 40 ms of each client, and no request leaves this process."""
    return functools.cache(make)


def secret_file(folder: Path) -> Path:
    file = folder / "token"
    file.write_text(FILE)
    return file


def installation(folder: Path, *, by_file: bool = False) -> Settings:
    """Settings with a secret in each place that has one."""
    key: Any = {"files": [str(secret_file(folder))]} if by_file else KEY
    return Settings.model_validate(
        {
            "github": {"personal_access_token": FORGE},
            "gitlab": {"personal_access_token": {"files": [str(secret_file(folder))]}},
            "llm": {
                "openai": {"base_url": OURS, "api_key": key, "model": "ours"},
                "anthropic": {"base_url": OURS_BY_PROVIDER["anthropic"], "api_key": ANTHROPIC},
                "google": {"base_url": OURS_BY_PROVIDER["google"], "api_key": GOOGLE},
                "ollama": {"endpoint": OLLAMA},
                "lmstudio": {"base_url": LMSTUDIO},
            },
            "mcp_servers": [
                {"mcp_server_name": "docs", "url": "https://mcp.corp.example/", "headers": {"X-Token": MCP}}
            ],
            "context_storage": {
                "s3": {"bucket": "logs", "access_key_id": S3, "secret_access_key": S3, "prefix": "logs"}
            },
            "user_config_api": {"enabled": True, "url": "http://user-config", "api_key": SERVICE},
        }
    )


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[httpx2.Request]]:
    """Every request that would leave this process, answered as a model does."""
    requests: list[Any] = []
    message = {"role": "assistant", "content": "Hello."}
    answer = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }

    async def handle(self: Any, request: Any) -> Any:
        await request.aread()
        requests.append(request)
        library = httpx2 if isinstance(request, httpx2.Request) else httpx
        return library.Response(200, json=answer, request=request)

    with monkeypatch.context() as patch:
        patch.setattr(ssl, "create_default_context", _shared_context(ssl.create_default_context))
        patch.setattr(httpcore2, "default_ssl_context", _shared_context(httpcore2.default_ssl_context))
        for library in (httpx, httpx2):
            patch.setattr(library.AsyncHTTPTransport, "handle_async_request", handle)
        for name in (
            *("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OLLAMA_API_KEY", "ANTHROPIC_API_KEY"),
            *("ANTHROPIC_AUTH_TOKEN", "GOOGLE_API_KEY", "GOOGLE_CLOUD_PROJECT"),
        ):
            patch.setenv(name, AMBIENT)
        for name in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
            patch.setenv(name, f"X-Gateway: {AMBIENT}")
        patch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
        yield requests


def found_in(request: Any) -> set[str]:
    """The secrets in a request: as they are, quoted, or in base64."""
    head = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    text = f"{request.url}\n{head}\n{request.content.decode(errors='replace')}"
    return {
        secret
        for secret in SECRETS
        if secret in text or quote(secret) in text or any(form in text for form in in_base64(secret))
    }


def in_base64(secret: str) -> Iterator[str]:
    """What is sure to be in the base64 of any text that contains the secret."""
    for skipped in range(3):
        yield base64.b64encode(secret.encode()[skipped:-3]).decode().rstrip("=")[:-2]


async def stolen(
    ours: Settings, stored: Mapping[str, Any], default: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> set[tuple[str, str]]:
    """What goes where it must not, by the real service, merge and client: (host, secret).

    Raises:
        SettingsError: the person's settings are refused.
    """
    users = folder / "users"
    (users / "github").mkdir(parents=True, exist_ok=True)
    (users / "default.yaml").write_text(yaml.safe_dump(default))
    (users / "github" / "mallory.yaml").write_text(yaml.safe_dump(dict(stored)))
    transport = httpx2.ASGITransport(user_config_app(users, ApiKey(SERVICE)))
    theirs = await settings_for(ours, Platform.GITHUB, "mallory", transport=transport)
    spec = model_spec(theirs)
    with recorded(monkeypatch) as requests:
        async with open_model(spec) as model:
            question = ModelRequest(parts=[UserPromptPart("Hello?")])
            with suppress(Exception):  # an address that no client can use, or an answer of another API
                await model.request([question], None, ModelRequestParameters())
    named = NAMED | {_place(found) for found in _addresses(default)}
    return {
        (request.url.host, secret)
        for request in requests
        if _place(str(request.url)) not in named
        for secret in found_in(request)
    }


def _addresses(default: Any) -> list[str]:
    sections = default.get("llm", {}).values()
    return [entry["base_url"] for entry in sections if isinstance(entry, dict) and "base_url" in entry]


def _place(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return (parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme])


ATTACKS: dict[str, Any] = {
    "no key": {"api_key": {}},
    "no value": {"api_key": {"values": []}},
    "no file": {"api_key": {"files": []}},
    "any file": {"api_key": {"files": ["FILE"]}},
    "without TLS": {"base_url": "http://models.corp.example/v1", "api_key": {}},
}
"""What gave secrets away before there was a list of what a person may set."""


def attack(name: str, folder: Path) -> dict[str, Any]:
    openai = {"base_url": EVIL, **ATTACKS[name]}
    if name == "any file":
        openai["api_key"] = {"files": [str(folder / "token")]}
    return {"llm": {"openai": openai}}


def merged_as_it_comes(ours: Settings, data: Mapping[str, Any]) -> Settings:
    """The decoy: one tree over the other."""
    return ours.model_copy(update={"llm": LLM.model_validate(over(ours.llm.model_dump(), dict(data["llm"])))})


@pytest.mark.parametrize("name", ATTACKS)
async def test_each_known_attack_is_refused_by_its_key_and_a_plain_merge_gives_secrets_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stored = attack(name, tmp_path)
    with pytest.raises(SettingsError, match=r"The settings of mallory .*llm\.openai\.") as refused:
        await stolen(installation(tmp_path), stored, {}, tmp_path, monkeypatch)
    assert not [secret for secret in SECRETS if secret in str(refused.value)]
    assert "evil" not in str(refused.value), "values are not repeated"
    monkeypatch.setattr(per_user, "with_personal", merged_as_it_comes)
    ours = installation(tmp_path, by_file=name == "no value")
    assert {secret for _, secret in await stolen(ours, stored, {}, tmp_path, monkeypatch)}


async def check(
    stored: Mapping[str, Any], default: Any, by_file: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = installation(folder, by_file=by_file)
    before = ours.model_dump_json()
    message = ""
    try:
        assert await stolen(ours, stored, default, folder, monkeypatch) == set()
    except SettingsError as refused:
        message = str(refused)
    assert not [secret for secret in SECRETS if secret in message]
    assert ours.model_dump_json() == before


def test_each_key_goes_to_its_own_address_alone(tmp_path: Path) -> None:
    ours = installation(tmp_path)
    for provider, key in (("openai", KEY), ("anthropic", ANTHROPIC), ("google", GOOGLE)):
        assert model_spec(with_personal(ours, {"llm": {"provider": provider}})).api_key == key
        for address in {EVIL, *OURS_BY_PROVIDER.values()} - {OURS_BY_PROVIDER[provider]}:
            stored = {"llm": {"provider": provider, provider: {"base_url": address}}}
            assert model_spec(with_personal(ours, stored)).api_key is None


async def test_no_spelling_of_an_address_gets_a_key_that_is_not_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for spelling in SPELLINGS:
        await check({"llm": {"openai": {"base_url": spelling}}}, DEFAULT_KEY, False, tmp_path, monkeypatch)
    for spelling in SPELLINGS[:5]:
        theirs = with_personal(installation(tmp_path), {"llm": {"openai": {"base_url": spelling}}})
        assert theirs.llm.openai == installation(tmp_path).llm.openai, "ours as we write it"


DEFAULT_KEY = {"llm": {"openai": {"api_key": DEFAULT}}}


@contextmanager
def service_of_a_stranger() -> Iterator[tuple[str, list[str]]]:
    """Its address, and all that it gets; it repeats the key in its answer."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            received.append(f"{self.requestline}\n{self.headers}{body.decode()}")
            answer = json.dumps({"error": {"message": f"wrong: {self.headers['Authorization']}"}}).encode()
            self.send_response(401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", received
        finally:  # a thread that accepts on a closed socket would use a whole CPU
            server.shutdown()


async def test_an_attempt_sends_nothing_of_ours_to_a_persons_service(
    make_place: MakePlace,
    start_user_config: StartUserConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = make_place("github", [])
    users, own = tmp_path / "users", "sk-own-key-of-alice-0123456789"
    (users / "github").mkdir(parents=True)
    (users / "default.yaml").write_text(yaml.safe_dump(DEFAULT_KEY))
    url = start_user_config(users, USER_CONFIG_API_KEY=SERVICE).url()
    service = {"enabled": True, "url": url, "api_key": SERVICE}
    with service_of_a_stranger() as (address, received):
        for key in ({}, {"api_key": own}):
            received.clear()
            stored = {"llm": {"openai": {"base_url": address, **key}}}
            (users / "github" / "alice.yaml").write_text(yaml.safe_dump(stored))
            outcome = await place.run(place.given(), user_config_api=service)
            assert outcome.reason is Reason.MODEL_REFUSED
            sent = "\n".join(received)
            assert "POST /v1/chat/completions" in sent, "the stranger was asked"
            assert not [secret for secret in (BOT_TOKEN, MODEL_KEY, DEFAULT, SERVICE) if secret in sent]
            assert (f"Bearer {own}" in sent) is bool(key)
            assert ("authorization" in sent.lower()) is bool(key), (
                "without a key nothing is sent in its place"
            )
            assert own not in outcome.message + caplog.text
    assert not place.system.model.requests
