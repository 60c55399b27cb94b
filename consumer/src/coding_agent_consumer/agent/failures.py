"""From what went wrong to how the attempt ends: reason and a plain sentence (issue 3, *Model failures*)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from coding_agent_core.errors import SettingsError
from coding_agent_core.reasons import Reason
from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelTimeoutError,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
    UserError,
)

from coding_agent_consumer.agent.models import ModelSpec
from coding_agent_consumer.agent.retrying import describe, passing
from coding_agent_consumer.agent.scrub import Scrub
from coding_agent_consumer.workspace.protocol import WorkspaceGoneError

_NO_TOOLS = re.compile(
    r"(?:not|n't) support[^.]{0,20} (?:tools?|functions?)\b"
    r"|(?:tools?|function)[ -](?:calling|use|choice)[^.]{0,20} not (?:be )?(?:support|enabl)"
    r"|tools? (?:is|are) not supported|enable-auto-tool-choice",
    re.IGNORECASE,
)
"""How servers refuse tools: Ollama `… does not support tools`, vLLM `requires --enable-auto-tool-choice`."""
_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window|size)|maximum context|too many tokens|prompt is too long"
    r"|exceeds? the (?:available )?context|reduce the length",
    re.IGNORECASE,
)
"""How servers that send no code for it say that a request does not fit (llama.cpp, LM Studio, vLLM)."""
_DETAIL_LENGTH = 300


class StoppedError(Exception):
    """The attempt ends here, for a reason that no other error tells."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Failure:
    """As in `Ending`."""

    reason: Reason
    message: str
    retry_after: float | None = None


def too_long(error: BaseException) -> bool:
    """Whether a request was refused because it does not fit the model's context."""
    if isinstance(error, ModelContextWindowExceededError):
        return True
    return (
        isinstance(error, ModelHTTPError)
        and 400 <= error.status_code < 500
        and bool(_TOO_LONG.search(_text(error)))
    )


def failure_of(error: BaseException, spec: ModelSpec, scrub: Scrub, *, max_requests: int) -> Failure | None:
    """How an attempt that met this error ends; `None` for an error that nobody expects."""
    where = f"{spec.setting}.model"
    match error:
        case StoppedError():
            return Failure(error.reason, error.message)
        case SettingsError():
            return Failure(Reason.CONFIGURATION, str(error))
        case WorkspaceGoneError():
            return Failure(Reason.WORKSPACE_FAILED, f"The workspace was lost: {scrub(str(error))}")
        case UsageLimitExceeded():
            return Failure(
                Reason.BUDGET_EXHAUSTED,
                f"The agent used up its {max_requests} requests to the model (max_llm_process_num) without"
                " coming to an end.",
            )
        case ModelAPIError():
            return _of_api(error, spec, scrub)
        case UserError():
            return Failure(Reason.CONFIGURATION, f"The agent is set up wrongly: {scrub(str(error))}")
        case ContentFilterError():
            return Failure(Reason.MODEL_REFUSED, "The model's service refused to answer (content filter).")
        case UnexpectedModelBehavior():
            return Failure(
                Reason.MODEL_MALFORMED,
                f"The model's answers could not be used; check that {where} ({spec.name}) supports tools.",
            )
    return None


def _of_api(error: ModelAPIError, spec: ModelSpec, scrub: Scrub) -> Failure:
    service = f"the model's service at {spec.base_url}"
    status = f" ({describe(error)})"
    if too_long(error):
        return Failure(
            Reason.BUDGET_EXHAUSTED,
            f"The conversation does not fit the model's context even after compression; check"
            f" {spec.setting}.context_length ({spec.context_length}) against what {spec.name} really has.",
        )
    match error:
        case ModelAuthenticationError():
            # The answer's own words are left out on purpose: they often repeat the key.
            key = f"check {spec.setting}.api_key" if spec.provider == "openai" else "it asks for a key"
            return Failure(Reason.MODEL_REFUSED, f"{_capital(service)} refused our key{status}: {key}.")
        case ModelNotFoundError():
            return Failure(
                Reason.MODEL_REFUSED,
                f"{_capital(service)} does not know {spec.name!r}{status}: check {spec.setting}.model and the"
                " address.",
            )
        case ModelQuotaExceededError():
            return Failure(
                Reason.MODEL_REFUSED, f"The account at {service} has no credit or quota left{status}."
            )
        case ModelRateLimitError():
            return Failure(
                Reason.MODEL_UNAVAILABLE, f"{_capital(service)} is rate-limited{status}.", error.retry_after
            )
        case ModelTimeoutError():
            return Failure(
                Reason.MODEL_UNAVAILABLE,
                f"{_capital(service)} did not answer within {spec.request_timeout:g} s"
                " (llm.request_timeout).",
            )
    if passing(error):
        return Failure(
            Reason.MODEL_UNAVAILABLE, f"{_capital(service)} is not available{status}.", error.retry_after
        )
    if _NO_TOOLS.search(_text(error)):
        return Failure(
            Reason.MODEL_REFUSED,
            f"The model {spec.name!r} does not support tool calls, which the agent needs: choose another"
            f" {spec.setting}.model.",
        )
    detail = scrub(" ".join(_text(error).split()))[:_DETAIL_LENGTH]
    return Failure(Reason.MODEL_REFUSED, f"{_capital(service)} refused the request{status}: {detail}")


def _text(error: ModelAPIError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(message, str):
            return message
    return str(body if body is not None else error)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
