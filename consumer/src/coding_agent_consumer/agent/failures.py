"""Decides why the agent's work ends early: it makes no progress, or the model's service fails for good.

`reached` judges the rounds of the model's work. Failures of the service that `models` does not retry end the
attempt with the outcome of `failure_of`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.text import one_line
from coding_agent_core.runtime.retry import with_asked_wait
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
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
from pydantic_ai.messages import ModelRequest, ModelResponse, RetryFeedbackPart, ToolCallPart, ToolReturnPart

from coding_agent_consumer.agent.model_spec import ModelSpec
from coding_agent_consumer.agent.models import short_name, transient
from coding_agent_consumer.gateway.wire_formats import UNREACHABLE, says_too_long
from coding_agent_consumer.transcripts.transcript import Scrub
from coding_agent_consumer.workspace.protocol import WorkspaceGoneError

REPEATS = 5
"""This many equal rounds (or cycles of rounds) in a row count as an endless loop."""
LONGEST_CYCLE = 4
"""The longest cycle that is detected, in rounds."""
_MALFORMED_ANSWERS = 5
"""This many unusable answers in a row end the attempt."""
_ERROR_LENGTH = 200
_VOLATILE = re.compile(r"\b\d+(?:\.\d+)?\s?(?:ms|s|sec|seconds)\b|0x[0-9a-f]+")
"""Durations and addresses, which differ between two runs of the same command."""
_NO_TOOLS = re.compile(
    r"(?:not|n't) support[^.]{0,20} (?:tools?|functions?)\b"
    r"|(?:tools?|function)[ -](?:calling|use|choice)[^.]{0,20} not (?:be )?(?:support|enabl)"
    r"|tools? (?:is|are) not supported|enable-auto-tool-choice",
    re.IGNORECASE,
)
"""Servers' refusals of tools: Ollama `… does not support tools`, vLLM `requires --enable-auto-tool-…`."""
_DETAIL_LENGTH = 300


class CallStatus(StrEnum):
    OK = "ok"
    FAILED = "failed"
    """The tool refused or failed."""
    MALFORMED = "malformed"
    """It was not a call of one of our tools: bad JSON, wrong arguments, or an unknown name."""


@dataclass(frozen=True)
class CallResult:
    tool: str
    arguments: str
    status: CallStatus
    text: str


@dataclass(frozen=True)
class Round:
    """An answer of the model, with the results of its calls.

    Attributes:
        usable: whether the answer had at least one well-formed call, or may end the work.
        cut: whether the answer reached its token limit.
    """

    calls: tuple[CallResult, ...]
    usable: bool
    cut: bool = False


def round_of(response: ModelResponse, request: ModelRequest) -> Round:
    """Return the turn that consists of an answer and the request with the results of its calls."""
    arguments = {
        part.tool_call_id: part.args_as_json_str()
        for part in response.parts
        if isinstance(part, ToolCallPart)
    }
    calls = tuple(
        CallResult(
            tool=part.tool_name,
            arguments=arguments.get(part.tool_call_id, ""),
            status=_status(part),
            text=part.model_response_str(wrap_if_error=False),
        )
        for part in request.parts
        if isinstance(part, ToolReturnPart)
    )
    asked_again = any(isinstance(part, RetryFeedbackPart) for part in request.parts)
    return Round(
        calls,
        usable=not asked_again and any(call.status is not CallStatus.MALFORMED for call in calls),
        cut=response.finish_reason == "length",
    )


class LimitReachedError(Exception):
    """The agent has reached one of our limits, so the attempt ends with this outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


def reached(rounds: Sequence[Round], *, tool_errors: int, setting: str) -> Outcome | None:
    """Return the outcome if the attempt must end after these rounds; otherwise `None`.

    Args:
        tool_errors: the number of errors of one tool in a row that ends the attempt.
        setting: the section of the settings that names the model.
    """
    return (
        _tool_failing(rounds, tool_errors)
        or _malformed(rounds, _MALFORMED_ANSWERS, setting)
        or _looping(rounds)
    )


def _status(part: ToolReturnPart) -> CallStatus:
    if part.retry is not None and part.retry.cause != "model_retry":
        return CallStatus.MALFORMED
    return CallStatus.OK if part.outcome == "success" else CallStatus.FAILED


def _tool_failing(rounds: Sequence[Round], limit: int) -> Outcome | None:
    errors: dict[str, int] = {}
    last: dict[str, str] = {}
    for round_ in rounds:
        for call in round_.calls:
            if call.status is CallStatus.FAILED:
                errors[call.tool] = errors.get(call.tool, 0) + 1
                last[call.tool] = call.text
            elif call.status is CallStatus.OK:
                errors[call.tool] = 0
    for tool, count in errors.items():
        if count >= limit:
            return Outcome(
                reason=Reason.TOOL_FAILING,
                message=f"The agent's tool `{tool}` failed {count} times in a row; the last error was:"
                f" {one_line(last[tool], _ERROR_LENGTH)}",
            )
    return None


def _malformed(rounds: Sequence[Round], limit: int, setting: str) -> Outcome | None:
    unusable = list(takewhile(lambda round_: not round_.usable, reversed(rounds)))
    count = len(unusable)
    if count < limit:
        return None
    if all(round_.cut for round_ in unusable):
        message = f"The model's answers were cut off {count} times in a row; raise {setting}.max_token."
    else:
        message = (
            f"The model answered {count} times in a row without a usable tool call; check that"
            f" {setting}.model supports tool calls."
        )
    return Outcome(reason=Reason.MODEL_MALFORMED, message=message)


def _looping(rounds: Sequence[Round]) -> Outcome | None:
    seen = [
        tuple((call.tool, call.arguments, _VOLATILE.sub("", call.text)) for call in round_.calls)
        for round_ in rounds
    ]
    for length in range(1, LONGEST_CYCLE + 1):
        tail = seen[-length * REPEATS :]
        if len(tail) == length * REPEATS and all(tail) and tail == tail[:length] * REPEATS:
            tools = ", ".join(
                dict.fromkeys(f"`{call.tool}`" for round_ in rounds[-length:] for call in round_.calls)
            )
            return Outcome(
                reason=Reason.LIMIT_REACHED,
                message=f"The agent went round in circles: it repeated the same step {REPEATS} times with the"
                f" same result ({tools}).",
            )
    return None


def too_long(error: BaseException) -> bool:
    """Whether a request was refused because it does not fit the model's context."""
    if isinstance(error, ModelContextWindowExceededError):
        return True
    return (
        isinstance(error, ModelHTTPError) and 400 <= error.status_code < 500 and says_too_long(_text(error))
    )


def refuses_images(error: ModelAPIError) -> bool:
    """Whether a request with images was refused for a reason that may be the images."""
    if not isinstance(error, ModelHTTPError) or too_long(error):
        return False
    # Services refuse images in different ways, some with the status of a missing page or a defect.
    return error.status_code in (400, 413, 415, 422) or (
        error.status_code in (404, 500) and "image" in _text(error).lower()
    )


def failure_of(error: BaseException, spec: ModelSpec, scrub: Scrub, *, max_requests: int) -> Outcome | None:
    """Return the outcome of an attempt that met this error; `None` for an unexpected error."""
    match error:
        case LimitReachedError():
            return error.outcome
        case SettingsError():
            return _failed(Reason.CONFIGURATION, str(error))
        case WorkspaceGoneError():
            return _failed(Reason.WORKSPACE_FAILED, f"The workspace was lost: {scrub(str(error))}")
        case UsageLimitExceeded():
            return _failed(
                Reason.LIMIT_REACHED,
                f"The agent made {max_requests} requests to the model, the most that max_llm_process_num"
                " allows, and did not finish.",
            )
        case ModelAPIError():
            return _of_api(error, spec, scrub)
        case UserError():
            return _failed(
                Reason.CONFIGURATION, f"The agent is not configured correctly: {scrub(str(error))}"
            )
        case ContentFilterError():
            return _failed(
                Reason.MODEL_REFUSED, "The model's service refused to answer because of its content filter."
            )
        case UnexpectedModelBehavior():
            return _failed(
                Reason.MODEL_MALFORMED,
                "The model's answers could not be used; check that"
                f" {spec.setting}.model ({spec.name}) supports tools.",
            )
    return None


def _of_api(error: ModelAPIError, spec: ModelSpec, scrub: Scrub) -> Outcome:
    service = f"The model's service at {spec.host}"
    status = f" ({short_name(error)})"
    if too_long(error):
        return _failed(
            Reason.LIMIT_REACHED,
            "The conversation does not fit the model's context even after compression; check that"
            f" {spec.setting}.context_length ({spec.context_length}) is not more than {spec.name} has.",
        )
    match error:
        case ModelAuthenticationError():
            # The answer itself is left out, because it often repeats the key.
            key = f"check {spec.key_place}" if spec.key_place else "it asks for a key"
            return _failed(Reason.MODEL_REFUSED, f"{service} refused our key{status}: {key}.")
        case ModelNotFoundError():
            return _failed(
                Reason.MODEL_REFUSED,
                f"{service} does not know {spec.name!r}{status}: check {spec.setting}.model and the address.",
            )
        case ModelQuotaExceededError():
            return _failed(
                Reason.MODEL_REFUSED,
                f"The account at the model's service at {spec.host} has no credit or quota left{status}.",
            )
        case ModelRateLimitError():
            return _failed(
                Reason.MODEL_UNAVAILABLE,
                with_asked_wait(f"{service} is rate-limiting us{status}.", error.retry_after),
                error.retry_after,
            )
        case ModelTimeoutError():
            return _failed(
                Reason.MODEL_UNAVAILABLE,
                f"{service} did not answer within {spec.request_timeout:g} s (llm.request_timeout).",
            )
    if transient(error) and _text(error) == UNREACHABLE:
        message = f"{service} cannot be reached. Check the address, its name in DNS, and the network policy."
        return _failed(Reason.MODEL_UNAVAILABLE, message)
    if transient(error):
        message = with_asked_wait(f"{service} is not available{status}.", error.retry_after)
        return _failed(Reason.MODEL_UNAVAILABLE, message, error.retry_after)
    if _NO_TOOLS.search(_text(error)):
        return _failed(
            Reason.MODEL_REFUSED,
            f"The model {spec.name!r} does not support tool calls, which the agent needs: choose another"
            f" {spec.setting}.model.",
        )
    detail = scrub(" ".join(_text(error).split()))[:_DETAIL_LENGTH]
    return _failed(Reason.MODEL_REFUSED, f"{service} refused the request{status}: {detail}")


def _failed(reason: Reason, message: str, retry_after: float | None = None) -> Outcome:
    return Outcome(
        reason=reason, message=message, retry_after=None if retry_after is None else max(0.0, retry_after)
    )


def _text(error: ModelAPIError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(message, str):
            return message
    return str(body if body is not None else error)
