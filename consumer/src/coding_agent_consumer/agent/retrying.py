"""The one place where requests to a model are sent again."""

from __future__ import annotations

import logging
import math

from coding_agent_core.retry import Clock, RetryPolicy, retry
from pydantic_ai.exceptions import ModelAPIError, ModelConnectionError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from coding_agent_consumer.agent.failures import short_name, transient

_logger = logging.getLogger("coding_agent.model")

LONGEST_WAIT = 120.0
"""Seconds between two tries of a request. If the service asks for more, that is left to the next attempt."""


def retry_policy(max_retries: int) -> RetryPolicy:
    return RetryPolicy(max_retries + 1, math.inf, 1.0, LONGEST_WAIT, longest_retry_after=LONGEST_WAIT)


class RetryingModel(WrapperModel):
    """Sends a request again after what may pass: 429, 5xx, broken connections, cut-off answers.

    An answer is streamed, so that one that stalls is noticed, but is used only when it is complete.
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
