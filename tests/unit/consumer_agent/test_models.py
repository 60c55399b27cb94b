"""From the settings to a model; when a request is tried again; what a failure is called."""

from __future__ import annotations

from typing import Any

import pytest
from coding_agent_consumer.agent.failures import failure_of, too_long
from coding_agent_consumer.agent.models import (
    Api,
    allowed_models,
    model_spec,
    open_model,
    retry_policy,
    transient,
    upstreams,
)
from coding_agent_consumer.transcript import Scrub
from coding_agent_core.errors import SettingsError
from coding_agent_core.reasons import Reason
from coding_agent_core.settings.model import Settings
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
)
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel


def settings(**llm: Any) -> Settings:
    return Settings.model_validate({"llm": llm})


IDENTITY = {"cloud": "azure", "tenant_id": "t", "client_id": "c"}


def test_the_gateway_asks_the_configured_models_unless_others_are_listed() -> None:
    llm: dict[str, Any] = {
        "provider": "ollama",
        "ollama": {"model": "qwen"},
        "anthropic": {"api_key": "k", "model": "claude[1m]"},
    }
    assert allowed_models(Settings.model_validate({"llm": llm})) == ("qwen", "claude[1m]", "claude")
    settings = Settings.model_validate({"llm": llm, "gateway": {"models": ["*"]}})
    assert allowed_models(settings) == ("*",)


def test_an_identity_opens_the_chosen_provider_alone() -> None:
    llm = {
        "openai": {"base_url": "https://r.openai.azure.com/openai/v1"},
        "anthropic": {"api_key": "key-of-another"},
    }
    fallback = {"format": "openai", "base_url": "https://second.example.com/v1"}
    given = {"llm": llm, "gateway": {"identity": IDENTITY, "fallbacks": [fallback]}}
    chosen, other, second = upstreams(Settings.model_validate(given))
    assert (chosen.base_url, chosen.key) == ("https://r.openai.azure.com/openai/v1", None)
    assert chosen.identity is not None
    assert (other.identity, second.identity) == (None, None)


@pytest.mark.parametrize(
    ("llm", "problem"),
    [
        ({}, "set llm.openai.base_url to the cloud's address"),
        ({"provider": "ollama"}, "llm.ollama is not one"),
        (
            {"openai": {"base_url": "https://r.example.com/v1", "api_key": "k"}},
            "are both set: remove `llm.openai.api_key`",
        ),
    ],
)
def test_an_identity_that_fits_no_provider_is_refused(llm: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        upstreams(Settings.model_validate({"llm": llm, "gateway": {"identity": IDENTITY}}))


def http(status: int, category: Any = None, message: str = "", **data: Any) -> ModelHTTPError:
    return ModelHTTPError.for_category(
        category, status_code=status, model_name="m", body={"message": message}, **data
    )


@pytest.mark.parametrize(
    ("llm", "url", "name", "section"),
    [
        ({"openai": {"api_key": "k" * 9}}, "https://api.openai.com/v1", "gpt-4o", "llm.openai"),
        ({"openai": {"base_url": "http://gw:1/v1/"}}, "http://gw:1/v1", "gpt-4o", "llm.openai"),
        ({"provider": "ollama"}, "http://localhost:11434/v1", "qwen3", "llm.ollama"),
        (
            {"provider": "ollama", "ollama": {"endpoint": "http://o:2/v1/"}},
            "http://o:2/v1",
            "qwen3",
            "llm.ollama",
        ),
        ({"provider": "lmstudio"}, "http://localhost:1234/v1", "local", "llm.lmstudio"),
        (
            {"provider": "anthropic", "anthropic": {"api_key": "k" * 9, "model": "m"}},
            "https://api.anthropic.com",
            "m",
            "llm.anthropic",
        ),
        (
            {"provider": "google", "google": {"base_url": "http://gw:1/", "model": "m"}},
            "http://gw:1",
            "m",
            "llm.google",
        ),
    ],
)
def test_the_model_that_the_settings_name(llm: dict[str, Any], url: str, name: str, section: str) -> None:
    spec = model_spec(settings(**llm))
    assert (spec.base_url, spec.name, spec.setting) == (url, name, section)


@pytest.mark.parametrize(
    ("provider", "variable"),
    [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY"), ("google", "GEMINI_API_KEY")],
)
def test_a_vendors_own_service_needs_a_key(provider: str, variable: str) -> None:
    setting = rf"llm\.{provider}\.api_key"
    with pytest.raises(SettingsError, match=rf"{setting} is not set; set `{setting}` \({variable}\)"):
        model_spec(settings(provider=provider))


@pytest.mark.parametrize(
    ("openai", "api"),
    [
        ({"api_key": "k" * 9}, Api.RESPONSES),
        ({"api_key": "k" * 9, "api": "chat"}, Api.CHAT),
        ({"base_url": "http://gw:1/v1"}, Api.CHAT),
        ({"base_url": "http://gw:1/v1", "api": "responses"}, Api.RESPONSES),
        ({"base_url": "https://api.openai.com.evil.example/v1"}, Api.CHAT),
    ],
)
def test_compatible_services_are_asked_for_chat_completions(openai: dict[str, Any], api: Api) -> None:
    assert model_spec(settings(openai=openai)).api is api


@pytest.mark.parametrize(
    "llm",
    [
        {"openai": {"base_url": "http://gw:1/v1"}},
        {"openai": {"api_key": "sk-own"}},
        {"provider": "ollama"},
        {"provider": "lmstudio"},
    ],
    ids=["another address", "openai", "ollama", "lmstudio"],
)
async def test_what_the_environment_holds_for_the_sdk_goes_to_nobody(
    llm: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OLLAMA_API_KEY"):
        monkeypatch.setenv(name, "private-of-openai")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway-Key: private-of-openai")
    async with open_model(model_spec(settings(**llm))) as model:
        assert isinstance(model, OpenAIChatModel | OpenAIResponsesModel)
        client = model.client
        assert "private-of-openai" not in f"{client.auth_headers} {client.default_headers}"
        assert client.max_retries == 0


@pytest.mark.parametrize(
    ("llm", "stream"),
    [
        ({"openai": {"api_key": "k" * 9}}, True),
        ({"openai": {"api_key": "k" * 9, "api": "chat"}}, True),
        ({"openai": {"base_url": "http://gw:1/v1"}}, False),
        ({"openai": {"base_url": "http://gw:1/v1"}, "stream": True}, True),
        ({"openai": {"api_key": "k" * 9}, "stream": False}, False),
        ({"provider": "anthropic", "anthropic": {"base_url": "http://gw:1"}}, True),
        ({"provider": "ollama"}, False),
    ],
)
def test_compatible_services_stream_only_if_told(llm: dict[str, Any], stream: bool) -> None:
    assert model_spec(settings(**llm)).stream is stream


def test_the_key_is_not_shown() -> None:
    assert "sk-hidden" not in repr(model_spec(settings(openai={"api_key": "sk-hidden-1"})))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (http(429, ModelRateLimitError), True),
        (http(500, ModelServerError), True),
        (ModelConnectionError("m", "broken"), True),
        (ModelAPIError("m", "Failed to decode response as JSON"), True),
        (http(408), True),
        (http(418), False),
        (http(400, ModelRequestRejectedError), False),
        (http(401, ModelAuthenticationError), False),
        (http(429, ModelQuotaExceededError), False),
    ],
)
def test_what_is_tried_again(error: ModelAPIError, again: bool) -> None:
    assert transient(error) is again


@pytest.mark.parametrize(("asked", "wait"), [(None, 0.5), (0, 0.5), (33, 33), (120, 120), (121, None)])
def test_what_the_service_asks_for_is_honoured_within_bounds(asked: float | None, wait: float | None) -> None:
    assert retry_policy(3).next_wait(tried=1, elapsed=0.0, chance=0.0, retry_after=asked) == wait


def test_retries_end() -> None:
    assert retry_policy(3).next_wait(tried=3, elapsed=0.0, chance=0.0) == 2
    assert retry_policy(3).next_wait(tried=4, elapsed=0.0, chance=0.0) is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("This model's maximum context length is 8192 tokens", True),
        ("the request exceeds the available context size", True),
        ("prompt is too long: 210000 tokens > 200000 maximum", True),
        ("temperature must be below 2", False),
    ],
)
def test_how_servers_say_that_a_request_is_too_long(message: str, expected: bool) -> None:
    assert too_long(http(400, ModelRequestRejectedError, message)) is expected


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (
            http(401, ModelAuthenticationError, "bad key sk-1234567890"),
            Reason.MODEL_REFUSED,
            "llm.openai.api_key",
        ),
        (http(429, ModelQuotaExceededError), Reason.MODEL_REFUSED, "no credit"),
        (
            http(400, ModelRequestRejectedError, "bad sk-1234567890"),
            Reason.MODEL_REFUSED,
            "refused the request",
        ),
        (
            http(400, ModelRequestRejectedError, "m does not support tools"),
            Reason.MODEL_REFUSED,
            "tool calls",
        ),
        (
            http(400, ModelRequestRejectedError, '"auto" tool choice requires --enable-auto-tool-choice'),
            Reason.MODEL_REFUSED,
            "tool calls",
        ),
        (ModelConnectionError("m", "refused"), Reason.MODEL_UNAVAILABLE, "not available"),
    ],
)
def test_a_failure_is_told_in_a_sentence_without_the_key(
    error: Exception, reason: Reason, words: str
) -> None:
    spec = model_spec(settings(openai={"api_key": "sk-1234567890"}))
    failure = failure_of(error, spec, Scrub(["sk-1234567890"]), max_requests=10)
    assert failure is not None
    assert failure.reason is reason
    assert words in failure.message
    assert "sk-1234567890" not in failure.message


def test_what_nobody_expects_is_left_to_the_log() -> None:
    spec = model_spec(settings(openai={"api_key": "sk-1234567890"}))
    assert failure_of(ZeroDivisionError(), spec, Scrub([]), max_requests=10) is None
