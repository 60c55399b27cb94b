"""The model in force: from the settings to a client of an OpenAI-compatible service, and what it costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from coding_agent_core.errors import SettingsError
from coding_agent_core.outcome import Cost
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.attempts import LLM, LMStudio, Ollama, OpenAI
from coding_agent_core.tasks import host_of
from genai_prices import calc_price
from openai import AsyncOpenAI
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers import Provider
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.usage import RunUsage

from coding_agent_consumer.gateway import Upstream, WireFormat

_OPENAI_HOST = "api.openai.com"
_NO_KEY = "not-set"
"""Sent if no key is configured: the SDK wants one, and would otherwise send OPENAI_API_KEY to any address."""


@dataclass(frozen=True)
class ModelSpec:
    """Which model, where, and how large.

    Attributes:
        base_url: of the OpenAI-compatible API, `/v1` included.
        max_tokens: of one answer.
        context_length: tokens that fit its context.
        request_timeout: seconds for one answer.
        setting: name of the section that set it, for messages to people.
        gateway_url: base URL of the gateway that requests go to; `None`: to `base_url`.
    """

    provider: str
    base_url: str
    name: str
    max_tokens: int
    context_length: int
    request_timeout: float
    setting: str
    api_key: str | None = field(default=None, repr=False)
    gateway_url: str | None = None

    @property
    def host(self) -> str:
        """The part of the address that people may see: a path can hold a key."""
        return host_of(self.base_url)

    @property
    def is_openai(self) -> bool:
        """OpenAI's own service, which knows parameters that compatible ones refuse."""
        return self.host == _OPENAI_HOST


def model_spec(llm: LLM) -> ModelSpec:
    """The model that the settings name.

    Raises:
        SettingsError: OpenAI's own service without a key.
    """
    section = f"llm.{llm.provider}"
    chosen: OpenAI | Ollama | LMStudio
    api_key = None
    match llm.provider:
        case "openai":
            chosen, url = llm.openai, llm.openai.base_url.rstrip("/")
            api_key = Secrets(llm.openai.api_key).first()
        case "ollama":
            chosen, url = llm.ollama, llm.ollama.endpoint.rstrip("/")
            url = url if url.endswith("/v1") else f"{url}/v1"
        case "lmstudio":
            chosen, url = llm.lmstudio, llm.lmstudio.base_url.rstrip("/")
    spec = ModelSpec(
        provider=llm.provider,
        base_url=url,
        name=chosen.model,
        max_tokens=chosen.max_token,
        context_length=chosen.context_length,
        request_timeout=llm.request_timeout,
        setting=section,
        api_key=api_key,
    )
    if spec.is_openai and spec.api_key is None:
        raise SettingsError(
            "llm.openai.api_key is not set; set it, or OPENAI_API_KEY, or choose another llm.provider"
        )
    return spec


def upstreams(llm: LLM) -> list[Upstream]:
    """The providers behind the gateway.

    Raises:
        SettingsError: as `model_spec`.
    """
    spec = model_spec(llm)
    return [Upstream(WireFormat.OPENAI, spec.base_url, spec.api_key)]


def build_model(spec: ModelSpec, client: AsyncOpenAI) -> Model:
    provider: Provider[AsyncOpenAI]
    if spec.is_openai:
        return OpenAIChatModel(spec.name, provider=OpenAIProvider(openai_client=client))
    if spec.provider == "ollama":
        provider = OllamaProvider(openai_client=client)
    else:
        provider = OpenAICompatibleProvider(spec.provider, openai_client=client)
    # Compatible servers know the older `max_tokens`, and not all know a forced tool choice.
    profile = OpenAIModelProfile(
        openai_chat_supports_max_completion_tokens=False, supports_forced_tool_choice=False
    )
    return OpenAIChatModel(spec.name, provider=provider, profile=profile)


@asynccontextmanager
async def open_model(spec: ModelSpec) -> AsyncIterator[Model]:
    """A model whose connections are closed at the end; it never retries by itself."""
    async with AsyncOpenAI(
        base_url=spec.gateway_url or spec.base_url,
        api_key=spec.api_key or _NO_KEY,
        timeout=spec.request_timeout,
        max_retries=0,
    ) as client:
        # The SDK also takes account ids and any headers (OPENAI_CUSTOM_HEADERS) from the environment, for any
        # address. Like the key, they stay there: only settings count.
        client.organization = client.project = None
        client._custom_headers = {}
        yield build_model(spec, client)


def cost_of(llm: LLM, usage: RunUsage) -> Cost | None:
    """By the configured price, else by the public list price of the provider; `None` where neither is known.

    The list (genai-prices) is part of the image and is not fetched. It knows public addresses alone: a model
    behind a gateway or on a machine of one's own has no list price.
    """
    model = llm.model_name
    if (price := llm.prices.get(model)) is not None:
        return price.cost(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cache_read_tokens,
        )
    if llm.provider != "openai":
        return None
    try:
        found = calc_price(usage, model, provider_api_url=llm.openai.base_url)
    except LookupError:
        return None
    return Cost.of(found.total_price, "USD")
