"""From the settings to a model; when a request is tried again; what a failure is called."""

from typing import Any

import pytest
from coding_agent_consumer.agent.failures import failure_of, too_long
from coding_agent_consumer.agent.model_spec import Api, model_spec
from coding_agent_consumer.agent.models import open_model, retry_policy, transient
from coding_agent_consumer.agent.upstreams import allowed_models, upstreams
from coding_agent_consumer.gateway.wire_formats import UNREACHABLE
from coding_agent_consumer.transcripts.transcript import Scrub
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.reasons import Reason
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


KEYED = {"api_key": "k" * 9}
OWN = {"base_url": "http://gw:1/v1"}
MODEL = {"model": "m"}


@pytest.mark.parametrize(
    ("provider", "section", "url", "name"),
    [
        ("openai", KEYED, "https://api.openai.com/v1", "gpt-4o"),
        ("openai", {"base_url": "http://gw:1/v1/"}, "http://gw:1/v1", "gpt-4o"),
        ("ollama", {}, "http://localhost:11434/v1", "qwen3"),
        ("ollama", {"endpoint": "http://o:2/v1/"}, "http://o:2/v1", "qwen3"),
        ("lmstudio", {}, "http://localhost:1234/v1", "local"),
        ("anthropic", KEYED | MODEL, "https://api.anthropic.com", "m"),
        ("google", {"base_url": "http://gw:1/"} | MODEL, "http://gw:1", "m"),
    ],
)
def test_the_model_that_the_settings_name(
    provider: str, section: dict[str, str], url: str, name: str
) -> None:
    spec = model_spec(settings(**{"provider": provider, provider: section}))
    assert (spec.base_url, spec.name, spec.setting) == (url, name, f"llm.{provider}")
    assert KEYED["api_key"] not in repr(spec)


@pytest.mark.parametrize(
    ("provider", "variable"),
    [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY"), ("google", "GEMINI_API_KEY")],
)
def test_a_vendors_own_service_needs_a_key(provider: str, variable: str) -> None:
    setting = rf"llm\.{provider}\.api_key"
    with pytest.raises(SettingsError, match=rf"{setting} is not set; set `{setting}` \({variable}\)"):
        model_spec(settings(provider=provider))


@pytest.mark.parametrize(
    ("llm", "api", "stream"),
    [
        ({"openai": KEYED}, Api.RESPONSES, True),
        ({"openai": KEYED | {"api": "chat"}}, Api.CHAT, True),
        ({"openai": KEYED, "stream": False}, Api.RESPONSES, False),
        ({"openai": OWN}, Api.CHAT, False),
        ({"openai": OWN, "stream": True}, Api.CHAT, True),
        ({"openai": OWN | {"api": "responses"}}, Api.RESPONSES, True),
        ({"openai": {"base_url": "https://api.openai.com.evil.example/v1"}}, Api.CHAT, False),
        ({"provider": "ollama"}, Api.CHAT, False),
        ({"provider": "anthropic", "anthropic": OWN}, None, True),
    ],
)
def test_compatible_services_are_asked_for_chat_completions_and_stream_only_if_told(
    llm: dict[str, Any], api: Api | None, stream: bool
) -> None:
    spec = model_spec(settings(**llm))
    assert api in (None, spec.api)
    assert spec.stream is stream


@pytest.mark.parametrize("llm", [{"openai": OWN}, {"openai": KEYED}, {"provider": "ollama"}])
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


@pytest.mark.parametrize(
    ("tried", "asked", "wait"),
    [(1, None, 0.5), (1, 0, 0.5), (1, 120, 120), (1, 121, None), (3, None, 2), (4, None, None)],
)
def test_retries_end_and_wait_as_long_as_the_service_asks(
    tried: int, asked: float | None, wait: float | None
) -> None:
    assert retry_policy(3).next_wait(tried=tried, elapsed=0.0, chance=0.0, retry_after=asked) == wait


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


REJECTED = (400, ModelRequestRejectedError)
TOOL_CHOICE = '"auto" tool choice requires --enable-auto-tool-choice'


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (
            http(401, ModelAuthenticationError, "bad sk-1234567890"),
            Reason.MODEL_REFUSED,
            "llm.openai.api_key",
        ),
        (http(429, ModelQuotaExceededError), Reason.MODEL_REFUSED, "no credit"),
        (http(*REJECTED, "bad sk-1234567890"), Reason.MODEL_REFUSED, "refused the request"),
        (http(*REJECTED, "m does not support tools"), Reason.MODEL_REFUSED, "tool calls"),
        (http(*REJECTED, TOOL_CHOICE), Reason.MODEL_REFUSED, "tool calls"),
        (ModelConnectionError("m", "refused"), Reason.MODEL_UNAVAILABLE, "not available"),
        (http(502, ModelServerError), Reason.MODEL_UNAVAILABLE, "is not available (HTTP 502)"),
        (http(502, ModelServerError, UNREACHABLE), Reason.MODEL_UNAVAILABLE, "cannot be reached. Check"),
        (http(504, ModelServerError, UNREACHABLE), Reason.MODEL_UNAVAILABLE, "cannot be reached. Check"),
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
    assert failure_of(ZeroDivisionError(), spec, Scrub([]), max_requests=10) is None
