"""Model requests tried again, in this one place: 429, 5xx, broken connections and cut answers (S21)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
)
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from coding_agent_consumer.backoff import delay

_logger = logging.getLogger("coding_agent.model")

Sleep = Callable[[float], Awaitable[None]]

FIRST_DELAY = 1.0
"""Seconds before the second try of a request, doubled for each further one."""
LONGEST_DELAY = 60.0
LONGEST_RETRY_AFTER = 120.0
"""Seconds that the service may ask for within an attempt; a longer wait is left to the next attempt."""
_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and with which clock.

    Attributes:
        max_retries: further tries of one request.
        sleep: waits that many seconds.
    """

    max_retries: int
    sleep: Sleep = asyncio.sleep
    chance: random.Random = field(default_factory=random.Random)

    def wait(self, failed: int, error: ModelAPIError) -> float | None:
        """Seconds to wait after the try of this number (from 1) failed; `None` to give up."""
        if failed > self.max_retries or not passing(error):
            return None
        own = delay(failed, first=FIRST_DELAY, cap=LONGEST_DELAY, chance=self.chance)
        if error.retry_after is None:
            return own
        return None if error.retry_after > LONGEST_RETRY_AFTER else max(error.retry_after, 0.0)


def passing(error: ModelAPIError) -> bool:
    """Whether the same request can succeed later.

    What the library does not classify is a broken answer (a cut or undecodable body), unless its status
    says that the request itself is wrong.
    """
    if isinstance(error, ModelRequestRejectedError | ModelQuotaExceededError):
        return False
    if isinstance(error, ModelHTTPError):
        return error.status_code >= 500 or error.status_code in _RETRYABLE_STATUS
    return True


class RetryingModel(WrapperModel):
    """A model that tries a request again as the policy says."""

    def __init__(self, wrapped: Model, policy: RetryPolicy) -> None:
        super().__init__(wrapped)
        self._policy = policy

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Ask the model.

        Raises:
            ModelAPIError: the request is refused, or still fails after the last try.
        """
        tries = 0
        while True:
            tries += 1
            try:
                return await self.wrapped.request(messages, model_settings, model_request_parameters)
            except ModelAPIError as error:
                wait = self._policy.wait(tries, error)
                if wait is None:
                    raise
                _logger.warning(
                    "Model request failed (%s), trying again in %.1f s (%d of %d)",
                    describe(error),
                    wait,
                    tries,
                    self._policy.max_retries,
                )
            await self._policy.sleep(wait)


def describe(error: ModelAPIError) -> str:
    """A word for logs and people; never the answer's body, which may repeat the key."""
    if isinstance(error, ModelHTTPError):
        return f"HTTP {error.status_code}"
    return type(error).__name__.removeprefix("Model").removesuffix("Error") or "no answer"
