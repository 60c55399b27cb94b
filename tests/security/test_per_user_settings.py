"""Wall: settings of one person. None of the installation's secrets leaves to an address of theirs.

The decoy: settings that are merged as they come, without a list of what a person may set, give secrets away
to the same attacks, and the search finds each.
"""

from __future__ import annotations

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
import httpx
import httpx2
import pytest
import yaml
from coding_agent_consumer import per_user
from coding_agent_consumer.agent.models import model_spec, open_model
from coding_agent_consumer.per_user import settings_for, with_personal
from coding_agent_core.errors import SettingsError
from coding_agent_core.reasons import Reason
from coding_agent_core.registry import Platform
from coding_agent_core.settings.llm import LLM
from coding_agent_core.settings.model import Settings
from coding_agent_user_config.__main__ import ApiKey, user_config_app
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai.models import ModelRequestParameters

from tests.fixtures.system import BOT_TOKEN, MODEL_KEY
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
    " https://models.corp.example/v1",
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
        patch.setenv("OPENAI_API_KEY", AMBIENT)
        patch.setenv("OPENAI_ADMIN_KEY", AMBIENT)
        patch.setenv("OPENAI_ORG_ID", AMBIENT)
        patch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Gateway: {AMBIENT}")
        for name in ("OLLAMA_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GOOGLE_API_KEY"):
            patch.setenv(name, AMBIENT)
        patch.setenv("ANTHROPIC_CUSTOM_HEADERS", f"X-Gateway: {AMBIENT}")
        patch.setenv("GOOGLE_CLOUD_PROJECT", AMBIENT)
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
    transport = httpx.ASGITransport(user_config_app(users, ApiKey(SERVICE)))
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


def key_of_another_kind(folder: Path) -> list[Any]:
    return [
        {},
        [],
        "",
        None,
        {"values": []},
        {"files": []},
        {"files": [str(folder / "token")]},
        {"values": ["own"], "files": [str(folder / "token")]},
        [""],
        ["own"],
        "${OPENAI_API_KEY}",
        "own-key",
        "own\r\nX-Evil: 1",
        True,
        7,
    ]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
DEFAULTS: list[dict[str, Any]] = [
    {},
    {"llm": {"openai": {"api_key": DEFAULT}}},
    {"llm": {"openai": {"api_key": DEFAULT, "base_url": "https://gateway.corp.example/v1"}}},
    {"llm": {"openai": {"base_url": "https://gateway.corp.example/v1"}}},
    {"llm": {"anthropic": {"base_url": "https://gateway.corp.example", "api_key": DEFAULT}}},
    {"llm": {"provider": "google", "google": {"api_key": DEFAULT}}},
    {"llm": {"provider": "ollama"}},
]


def accepted() -> st.SearchStrategy[Any]:
    """Settings that a person may have, so that requests are made."""
    address = st.sampled_from([EVIL, "http://models.corp.example/v1", *SPELLINGS[:5], *SPELLINGS[7:8]])
    openai = {"base_url": address, "api_key": st.just("own-key"), "model": st.just("m")}
    llm = {
        "provider": st.sampled_from(["openai", "anthropic", "google", "ollama", "lmstudio"]),
        "openai": st.fixed_dictionaries(
            {}, optional={**openai, "api": st.sampled_from(["auto", "responses", "chat"])}
        ),
        "anthropic": st.fixed_dictionaries({}, optional=openai),
        "google": st.fixed_dictionaries({}, optional=openai),
        "ollama": st.fixed_dictionaries({}, optional={"endpoint": address}),
        "lmstudio": st.fixed_dictionaries({}, optional={"base_url": address}),
    }
    return st.fixed_dictionaries({"llm": st.fixed_dictionaries({}, optional=llm)})


def persons(folder: Path) -> st.SearchStrategy[Any]:
    """Settings near to what is accepted, with each kind of a wrong value, and any other JSON."""
    address = st.sampled_from(SPELLINGS) | ANY
    key = st.sampled_from(key_of_another_kind(folder)) | ANY
    name = st.sampled_from(["m", "gpt-4o", "${OPENAI_API_KEY}", str(folder / "token")]) | ANY
    service = {"model": name, "max_token": st.integers(), "context_length": st.integers()}
    openai = st.fixed_dictionaries({}, optional={"base_url": address, "api_key": key, **service})
    other = {"base_url": address, "endpoint": address, "api_key": key, **service}
    llm = st.fixed_dictionaries(
        {},
        optional={
            "provider": st.sampled_from([*OURS_BY_PROVIDER, "ollama", "lmstudio", "azure", None]),
            "openai": openai | ANY,
            "anthropic": openai | ANY,
            "google": openai | ANY,
            "ollama": st.fixed_dictionaries({}, optional=other) | ANY,
            "lmstudio": st.fixed_dictionaries({}, optional=other) | ANY,
            "fallback": openai,
        },
    )
    server = {"mcp_server_name": "x", "url": EVIL, "headers": {"A": "${OPENAI_API_KEY}"}}
    return (
        accepted()
        | st.fixed_dictionaries({"llm": llm})
        | st.fixed_dictionaries(
            {},
            optional={
                "llm": llm | ANY,
                "system_prompt": st.text(max_size=20) | ANY,
                "instructions": st.text(max_size=20) | ANY,
                "max_llm_process_num": st.integers(0, 2000) | ANY,
                "mcp_servers": st.just([server]),
                "user_config_api": st.just({"url": EVIL}),
                "github": st.just({"api_url": EVIL}),
                "context_storage": st.just({"s3": {"bucket": "evil", "endpoint_url": EVIL}}),
            },
        )
        | st.dictionaries(st.text(max_size=12), ANY, max_size=3)
    )


def attacks(folder: Path) -> dict[str, dict[str, Any]]:
    """What gave secrets away before there was a list of what a person may set."""
    file = str(folder / "token")
    return {
        "no key": {"llm": {"openai": {"base_url": EVIL, "api_key": {}}}},
        "no value": {"llm": {"openai": {"base_url": EVIL, "api_key": {"values": []}}}},
        "no file": {"llm": {"openai": {"base_url": EVIL, "api_key": {"files": []}}}},
        "any file": {"llm": {"openai": {"base_url": EVIL, "api_key": {"files": [file]}}}},
        "without TLS": {"llm": {"openai": {"base_url": "http://models.corp.example/v1", "api_key": {}}}},
    }


def merged_as_it_comes(ours: Settings, data: Mapping[str, Any]) -> Settings:
    """The decoy: one tree over the other."""

    def over(base: Any, own: Any) -> Any:
        if not isinstance(base, Mapping) or not isinstance(own, Mapping):
            return own
        return {**base, **{key: over(base.get(key), value) for key, value in own.items()}}

    return ours.model_copy(update={"llm": LLM.model_validate(over(ours.llm.model_dump(), data["llm"]))})


@pytest.mark.parametrize("name", attacks(Path()))
async def test_the_search_finds_what_a_plain_merge_gives_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(per_user, "with_personal", merged_as_it_comes)
    ours = installation(tmp_path, by_file=name == "no value")
    assert {secret for _, secret in await stolen(ours, attacks(tmp_path)[name], {}, tmp_path, monkeypatch)}


@pytest.mark.parametrize("name", attacks(Path()))
async def test_each_known_attack_is_refused_by_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ours = installation(tmp_path)
    with pytest.raises(SettingsError, match=r"The settings of mallory .*llm\.openai\.") as refused:
        await stolen(ours, attacks(tmp_path)[name], {}, tmp_path, monkeypatch)
    assert not [secret for secret in SECRETS if secret in str(refused.value)]
    assert "evil" not in str(refused.value), "values are not repeated"


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


async def test_the_key_of_the_default_stays_with_the_address_of_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = "https://gateway.corp.example/v1"
    default = {"llm": {"openai": {"base_url": gateway, "api_key": DEFAULT}}}
    ours = installation(tmp_path)
    for stored in ({}, {"llm": {"openai": {"base_url": EVIL}}}):
        assert await stolen(ours, stored, default, tmp_path, monkeypatch) == set()
    transport = httpx.ASGITransport(user_config_app(tmp_path / "users", ApiKey(SERVICE)))
    bob = await settings_for(ours, Platform.GITHUB, "bob", transport=transport)
    assert (bob.llm.openai.base_url, model_spec(bob).api_key) == (gateway, DEFAULT)


@pytest.mark.parametrize("provider", ["anthropic", "google"])
async def test_each_key_goes_to_its_own_address_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    ours = installation(tmp_path)
    key = {"anthropic": ANTHROPIC, "google": GOOGLE}[provider]
    assert model_spec(with_personal(ours, {"llm": {"provider": provider}})).api_key == key
    for name, own_address in OURS_BY_PROVIDER.items():
        for address in {EVIL, *OURS_BY_PROVIDER.values()} - {own_address}:
            stored = {"llm": {"provider": name, name: {"base_url": address}}}
            assert model_spec(with_personal(ours, stored)).api_key is None
            await check(stored, {}, False, tmp_path, monkeypatch)
    own = {"llm": {"provider": provider, provider: {"base_url": EVIL, "api_key": "own-key"}}}
    assert model_spec(with_personal(ours, own)).api_key == "own-key"


@pytest.mark.parametrize("default", DEFAULTS)
async def test_no_spelling_of_an_address_gets_a_key_that_is_not_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: dict[str, Any]
) -> None:
    for spelling in SPELLINGS:
        await check({"llm": {"openai": {"base_url": spelling}}}, default, False, tmp_path, monkeypatch)


async def test_our_address_in_another_spelling_is_ours_as_we_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = installation(tmp_path)
    same = {
        spelling
        for spelling in SPELLINGS
        if is_address(spelling)
        and with_personal(ours, {"llm": {"openai": {"base_url": spelling}}}).llm.openai == ours.llm.openai
    }
    assert same == {*SPELLINGS[:5], "https://ｍodels.corp.example/v1", "https://models。corp。example/v1"}


def is_address(url: str) -> bool:
    try:
        with_personal(Settings(), {"llm": {"openai": {"base_url": url}}})
    except SettingsError:
        return False
    return True


_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=80, suppress_health_check=_SHARED)
@given(data=st.data(), default=st.sampled_from(DEFAULTS), by_file=st.booleans())
async def test_whatever_a_person_stores_no_secret_leaves_to_an_address_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject, default: Any, by_file: bool
) -> None:
    await check(data.draw(persons(tmp_path)), default, by_file, tmp_path, monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(max_examples=500, suppress_health_check=_SHARED)
@given(data=st.data(), default=st.sampled_from(DEFAULTS), by_file=st.booleans())
async def test_the_same_at_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject, default: Any, by_file: bool
) -> None:
    await check(data.draw(persons(tmp_path)), default, by_file, tmp_path, monkeypatch)


class Listener:
    """A service of the attacker's on loopback: keeps whatever it gets, and repeats the key in its answer."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                received.append(f"{self.requestline}\n{self.headers}".encode() + body)
                answer = json.dumps(
                    {"error": {"message": f"wrong: {self.headers['Authorization']}"}}
                ).encode()
                self.send_response(401)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)


@pytest.fixture
def listener() -> Iterator[Listener]:
    started = Listener()
    yield started
    started.close()


OWN = "sk-own-key-of-alice-0123456789"


@pytest.mark.parametrize("key", ["absent", OWN, {}, {"files": []}], ids=["none", "own", "empty", "files"])
async def test_an_attempt_sends_nothing_of_ours_to_a_persons_service(
    make_place: MakePlace,
    start_user_config: StartUserConfig,
    listener: Listener,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    key: Any,
) -> None:
    place = make_place("github", [])
    users = tmp_path / "users"
    (users / "github").mkdir(parents=True)
    (users / "default.yaml").write_text(yaml.safe_dump({"llm": {"openai": {"api_key": DEFAULT}}}))
    openai = {"base_url": listener.url} | ({} if key == "absent" else {"api_key": key})
    (users / "github" / "alice.yaml").write_text(yaml.safe_dump({"llm": {"openai": openai}}))
    service = start_user_config(users, USER_CONFIG_API_KEY=SERVICE)
    outcome = await place.run(
        place.given(),
        user_config_api={"enabled": True, "url": service.url(), "api_key": SERVICE, "timeout": 60},
    )
    sent = b"\n".join(listener.received).decode()
    assert not [secret for secret in (BOT_TOKEN, MODEL_KEY, DEFAULT, SERVICE) if secret in sent]
    assert not place.system.model.requests
    if isinstance(key, dict):
        assert outcome.reason is Reason.CONFIGURATION
        assert outcome.message == "The settings of alice cannot be used: llm.openai.api_key: must be text"
        assert not sent
    else:
        assert outcome.reason is Reason.MODEL_REFUSED
        assert "POST /v1/chat/completions" in sent, "the listener was asked"
        assert (f"Bearer {OWN}" in sent) is (key == OWN)
        assert ("authorization" in sent.lower()) is (key == OWN), "without a key nothing is sent in its place"
        assert OWN not in outcome.message + caplog.text
