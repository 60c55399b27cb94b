"""When an attempt leads nowhere: pure rules over what the model did, round by round."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from coding_agent_core.outcome import Outcome
from coding_agent_core.reasons import Reason
from coding_agent_core.text import one_line
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    ToolCallPart,
    ToolReturnPart,
)

REPEATS = 5
"""Equal rounds in a row that make an endless loop."""
LONGEST_CYCLE = 4
"""Rounds of the longest cycle that is detected."""
_ERROR_LENGTH = 200
_VOLATILE = re.compile(r"\b\d+(?:\.\d+)?\s?(?:ms|s|sec|seconds)\b|0x[0-9a-f]+")
"""Durations and addresses, which differ between two runs of the same command."""


class CallStatus(StrEnum):
    OK = "ok"
    FAILED = "failed"
    """The tool refused or failed."""
    MALFORMED = "malformed"
    """Not a call of one of our tools: bad JSON, wrong arguments, unknown name."""


@dataclass(frozen=True)
class CallResult:
    tool: str
    arguments: str
    status: CallStatus
    text: str


@dataclass(frozen=True)
class Round:
    """One answer of the model with the results of its calls.

    Attributes:
        usable: the answer held at least one well-formed call, or may end the work.
        cut: the answer reached its token limit.
    """

    calls: tuple[CallResult, ...]
    usable: bool
    cut: bool = False


@dataclass(frozen=True)
class LoopLimits:
    tool_errors: int
    """Consecutive errors of one tool."""
    malformed_answers: int
    """Unusable answers in a row."""
    setting: str
    """Section of the settings that names the model."""


def round_of(response: ModelResponse, request: ModelRequest) -> Round:
    """The round that an answer and the request after it make."""
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
    """The attempt ends with this outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


def reached(rounds: Sequence[Round], limits: LoopLimits) -> Outcome | None:
    """The outcome if the attempt must end after these rounds."""
    return (
        _tool_failing(rounds, limits.tool_errors)
        or _malformed(rounds, limits)
        or _looping(rounds, REPEATS, LONGEST_CYCLE)
    )


def _status(part: ToolReturnPart) -> CallStatus:
    if part.retry is not None and part.retry.cause != "model_retry":
        return CallStatus.MALFORMED
    return CallStatus.OK if part.outcome == "success" else CallStatus.FAILED


def _tool_failing(rounds: Sequence[Round], limit: int) -> Outcome | None:
    errors: dict[str, int] = {}
    last: dict[str, str] = {}
    for each in rounds:
        for call in each.calls:
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


def _malformed(rounds: Sequence[Round], limits: LoopLimits) -> Outcome | None:
    count = 0
    for each in reversed(rounds):
        if each.usable:
            break
        count += 1
    if count < limits.malformed_answers:
        return None
    if all(each.cut for each in rounds[-count:]):
        return Outcome(
            reason=Reason.MODEL_MALFORMED,
            message=f"The model's answers were cut off {count} times in a row; raise"
            f" {limits.setting}.max_token.",
        )
    return Outcome(
        reason=Reason.MODEL_MALFORMED,
        message=f"The model answered {count} times in a row without a usable tool call; check that"
        f" {limits.setting}.model supports tool calls.",
    )


def _looping(rounds: Sequence[Round], repeats: int, longest: int) -> Outcome | None:
    seen = [_fingerprint(each) for each in rounds]
    for length in range(1, longest + 1):
        tail = seen[-length * repeats :]
        if len(tail) == length * repeats and all(tail) and tail == tail[:length] * repeats:
            tools = ", ".join(
                dict.fromkeys(f"`{call.tool}`" for each in rounds[-length:] for call in each.calls)
            )
            return Outcome(
                reason=Reason.BUDGET_EXHAUSTED,
                message=f"The agent went round in circles: it repeated the same step {repeats} times with the"
                f" same result ({tools}).",
            )
    return None


def _fingerprint(each: Round) -> tuple[tuple[str, str, str], ...]:
    return tuple((call.tool, call.arguments, _VOLATILE.sub("", call.text)) for call in each.calls)
