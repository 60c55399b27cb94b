"""Creates clients of models' services that retry failed requests.

A provider's library is imported only when it is used, because importing all of them takes seconds.
"""

from __future__ import annotations

import importlib
import logging
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

from coding_agent_core.runtime.retry import Clock, RetryPolicy, retry
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
)
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from coding_agent_consumer.agent.model_spec import Api, ModelSpec

_logger = logging.getLogger("coding_agent.model")

_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
LONGEST_WAIT = 120.0
"""The most seconds between two tries of a request. If a service asks for more, the attempt ends instead."""
_NO_KEY = "not-set"
"""The key that is sent if none is configured: otherwise the SDKs would take one from the environment."""
_LIBRARIES = {
    Api.RESPONSES: ("pydantic_ai.models.openai", "openai.resources.responses.responses"),
    Api.CHAT: ("pydantic_ai.models.openai", "openai.resources.chat.chat"),
    Api.ANTHROPIC: ("pydantic_ai.models.anthropic",),
    Api.GOOGLE: ("pydantic_ai.models.google",),
}
"""The modules whose import brings in what a client of the API needs."""


def import_library(api: Api) -> None:
    """Import what a client of this API needs, which takes a large part of a second."""
    for name in _LIBRARIES[api]:
        importlib.import_module(name)


def request_settings(spec: ModelSpec, conversation: str) -> ModelSettings:
    """Return the settings of a conversation's requests: the longest answer, and caching of the prefix.

    Anthropic caches what is marked. The others cache without marks; OpenAI does so better with a key.

    Args:
        conversation: a name of the conversation, which is not secret and means nothing to others.
    """
    more: dict[str, Any] = {}
    if spec.api is Api.ANTHROPIC:
        # Blocks are marked one by one: services with the same API often lack the newer top-level mark.
        more = {
            "anthropic_cache_tool_definitions": True,
            "anthropic_cache_instructions": True,
            "anthropic_cache_messages": True,
        }
    elif spec.api is Api.RESPONSES:
        more = {"openai_store": False}
        if spec.is_vendors_own:
            more["openai_prompt_cache_key"] = conversation
    return cast(ModelSettings, {"max_tokens": spec.max_tokens, **more})


def open_model(spec: ModelSpec) -> AbstractAsyncContextManager[Model]:
    """Open a model, and close its connections at the end. The model never retries a request.

    The SDKs also take keys, account ids, addresses and headers from the environment, for any address.
    All these are ignored: only settings count.
    """
    import_library(spec.api)
    match spec.api:
        case Api.ANTHROPIC:
            return _anthropic(spec)
        case Api.GOOGLE:
            return _google(spec)
    return _openai(spec)


def _verify(spec: ModelSpec) -> ssl.SSLContext | bool:
    """Return how a client checks certificates. The gateway has none: it is asked without TLS.

    The SDKs would read the machine's certificates nevertheless, once more for each proxy; 25 ms each time.
    """
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if spec.gateway_url is not None else True


@asynccontextmanager
async def _openai(spec: ModelSpec) -> AsyncIterator[Model]:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient  # noqa: PLC0415 - see the module's docstring
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel  # noqa: PLC0415
    from pydantic_ai.profiles.openai import OpenAIModelProfile  # noqa: PLC0415
    from pydantic_ai.providers import Provider  # noqa: PLC0415
    from pydantic_ai.providers.ollama import OllamaProvider  # noqa: PLC0415
    from pydantic_ai.providers.openai import OpenAIProvider  # noqa: PLC0415
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider  # noqa: PLC0415

    async with AsyncOpenAI(
        base_url=spec.gateway_url or spec.base_url,
        api_key=spec.api_key or _NO_KEY,
        timeout=spec.request_timeout,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(verify=_verify(spec)),
    ) as client:
        client.organization = client.project = None
        client._custom_headers = {}
        provider: Provider[AsyncOpenAI] = OpenAIProvider(openai_client=client)
        if spec.api is Api.RESPONSES:
            yield OpenAIResponsesModel(spec.name, provider=provider)
        elif spec.is_vendors_own:
            yield OpenAIChatModel(spec.name, provider=provider)
        else:
            # Compatible servers know the older `max_tokens`, and some do not know a forced tool choice.
            profile = OpenAIModelProfile(
                openai_chat_supports_max_completion_tokens=False, supports_forced_tool_choice=False
            )
            if spec.provider == "ollama":
                provider = OllamaProvider(openai_client=client)
            else:
                provider = OpenAICompatibleProvider(spec.provider, openai_client=client)
            yield OpenAIChatModel(spec.name, provider=provider, profile=profile)


@asynccontextmanager
async def _anthropic(spec: ModelSpec) -> AsyncIterator[Model]:
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient  # noqa: PLC0415 - see the module's docstring
    from pydantic_ai.models.anthropic import AnthropicModel  # noqa: PLC0415
    from pydantic_ai.providers.anthropic import AnthropicProvider  # noqa: PLC0415

    async with AsyncAnthropic(
        base_url=spec.gateway_url or spec.base_url,
        api_key=spec.api_key or _NO_KEY,
        timeout=spec.request_timeout,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(verify=_verify(spec)),
    ) as client:
        client._custom_headers = {}
        yield AnthropicModel(spec.name, provider=AnthropicProvider(anthropic_client=client))


@asynccontextmanager
async def _google(spec: ModelSpec) -> AsyncIterator[Model]:
    import httpx2  # noqa: PLC0415 - see the module's docstring
    from google.genai import Client  # noqa: PLC0415
    from google.genai.types import HttpOptions  # noqa: PLC0415
    from pydantic_ai.models.google import GoogleModel  # noqa: PLC0415
    from pydantic_ai.providers.google import GoogleProvider  # noqa: PLC0415

    async with httpx2.AsyncClient(timeout=spec.request_timeout, verify=_verify(spec)) as http:
        options = HttpOptions(
            base_url=spec.gateway_url or spec.base_url,
            httpx_async_client=http,
            timeout=max(1, int(spec.request_timeout * 1000)),
        )
        client = Client(vertexai=False, api_key=spec.api_key or _NO_KEY, http_options=options)
        yield GoogleModel(spec.name, provider=GoogleProvider(client=client))


def retry_policy(max_retries: int) -> RetryPolicy:
    return RetryPolicy(max_retries + 1, math.inf, 1.0, LONGEST_WAIT, longest_retry_after=LONGEST_WAIT)


class RetryingModel(WrapperModel):
    """Retries requests to a model after temporary failures: 429, 5xx, broken connections, cut-off answers.

    An answer is streamed, so that a stalled one is noticed, but it is used only when it is complete.
    """

    def __init__(self, wrapped: Model, max_retries: int, clock: Clock, *, stream: bool) -> None:
        super().__init__(wrapped)
        self._stream = stream
        self._policy = retry_policy(max_retries)
        self._clock = clock

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        def log(error: BaseException, wait: float, tried: int) -> None:
            _logger.warning(
                "Model request failed (%s), retrying in %.1f s (%d of %d)",
                short_name(error),
                wait,
                tried,
                self._policy.tries - 1,
            )

        return await retry(
            lambda: self._ask(messages, model_settings, model_request_parameters),
            self._policy,
            self._clock,
            retryable=lambda error: isinstance(error, ModelAPIError) and transient(error),
            before_wait=log,
        )

    async def _ask(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> ModelResponse:
        if not self._stream:
            return await self.wrapped.request(messages, model_settings, parameters)
        async with self.wrapped.request_stream(messages, model_settings, parameters) as stream:
            async for _ in stream:
                pass
        response = stream.get()
        if response.finish_reason is None:
            raise ModelConnectionError(self.model_name, "the answer was cut off")
        return response


def transient(error: ModelAPIError) -> bool:
    """Whether the same request can succeed later.

    Errors that the library does not classify are broken answers (a cut or undecodable body), unless their
    status says that the request itself is wrong.
    """
    if isinstance(error, ModelRequestRejectedError | ModelQuotaExceededError):
        return False
    if isinstance(error, ModelHTTPError):
        return error.status_code >= 500 or error.status_code in _RETRYABLE_STATUS
    return True


def short_name(error: BaseException) -> str:
    """Return a name for logs and people, never the answer's body, which may repeat the key."""
    if isinstance(error, ModelHTTPError):
        return f"HTTP {error.status_code}"
    return type(error).__name__.removeprefix("Model").removesuffix("Error") or "no answer"
