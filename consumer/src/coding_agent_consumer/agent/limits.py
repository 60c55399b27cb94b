"""When an attempt leads nowhere (requirement S21): pure rules over what the model did, round by round."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from coding_agent_core.reasons import Reason
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    ToolCallPart,
    ToolReturnPart,
)

REPEATS = 5
"""So many equal rounds in a row are an endless loop."""
LONGEST_CYCLE = 4
"""Rounds of the longest cycle that is looked for."""
_ERROR_LENGTH = 200
_VOLATILE = re.compile(r"\b\d+(?:\.\d+)?\s?(?:ms|s|sec|seconds)\b|0x[0-9a-f]+")
"""Durations and addresses, which differ between two runs of the same command."""


class Result(StrEnum):
    """What came of one tool call."""

    OK = "ok"
    FAILED = "failed"
    """The tool refused or failed."""
    MALFORMED = "malformed"
    """It was no call of a tool of ours: bad JSON, wrong arguments, unknown name."""


@dataclass(frozen=True)
class CallResult:
    """One call and what it gave."""

    tool: str
    arguments: str
    result: Result
    text: str


@dataclass(frozen=True)
class Round:
    """One answer of the model with the results of its calls.

    Attributes:
        usable: the answer held at least one well-formed call, or was one that may end the work.
        cut: the answer reached the limit of its tokens.
    """

    calls: tuple[CallResult, ...]
    usable: bool
    cut: bool = False


@dataclass(frozen=True)
class Stop:
    """End the attempt: why, and the sentence for the person."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Limits:
    """What is too much.

    Attributes:
        tool_errors: consecutive errors of one tool.
        malformed_answers: unusable answers in a row.
        setting: section of the settings that names the model.
    """

    tool_errors: int
    malformed_answers: int
    setting: str


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
            result=_result(part),
            text=part.model_response_str(wrap_if_error=False),
        )
        for part in request.parts
        if isinstance(part, ToolReturnPart)
    )
    asked_again = any(isinstance(part, RetryFeedbackPart) for part in request.parts)
    return Round(
        calls,
        usable=not asked_again and any(call.result is not Result.MALFORMED for call in calls),
        cut=response.finish_reason == "length",
    )


def verdict(rounds: Sequence[Round], limits: Limits) -> Stop | None:
    """Whether to stop after these rounds."""
    return (
        _tool_failing(rounds, limits.tool_errors)
        or _malformed(rounds, limits)
        or _looping(rounds, REPEATS, LONGEST_CYCLE)
    )


def _result(part: ToolReturnPart) -> Result:
    if part.retry is not None and part.retry.cause != "model_retry":
        return Result.MALFORMED
    return Result.OK if part.outcome == "success" else Result.FAILED


def _tool_failing(rounds: Sequence[Round], limit: int) -> Stop | None:
    errors: dict[str, int] = {}
    last: dict[str, str] = {}
    for each in rounds:
        for call in each.calls:
            if call.result is Result.FAILED:
                errors[call.tool] = errors.get(call.tool, 0) + 1
                last[call.tool] = call.text
            elif call.result is Result.OK:
                errors[call.tool] = 0
    for tool, count in errors.items():
        if count >= limit:
            return Stop(
                Reason.TOOL_FAILING,
                f"The agent's tool `{tool}` failed {count} times in a row; the last error was:"
                f" {_short(last[tool])}",
            )
    return None


def _malformed(rounds: Sequence[Round], limits: Limits) -> Stop | None:
    count = 0
    for each in reversed(rounds):
        if each.usable:
            break
        count += 1
    if count < limits.malformed_answers:
        return None
    if all(each.cut for each in rounds[-count:]):
        return Stop(
            Reason.MODEL_MALFORMED,
            f"The model's answers were cut off {count} times in a row; raise {limits.setting}.max_token.",
        )
    return Stop(
        Reason.MODEL_MALFORMED,
        f"The model answered {count} times in a row without a usable tool call; check that"
        f" {limits.setting}.model supports tool calls.",
    )


def _looping(rounds: Sequence[Round], repeats: int, longest: int) -> Stop | None:
    seen = [_fingerprint(each) for each in rounds]
    for length in range(1, longest + 1):
        tail = seen[-length * repeats :]
        if len(tail) == length * repeats and all(tail) and tail == tail[:length] * repeats:
            tools = ", ".join(
                dict.fromkeys(f"`{call.tool}`" for each in rounds[-length:] for call in each.calls)
            )
            return Stop(
                Reason.BUDGET_EXHAUSTED,
                f"The agent was going round in circles: it repeated the same step {repeats} times with the"
                f" same result ({tools}).",
            )
    return None


def _fingerprint(each: Round) -> tuple[tuple[str, str, str], ...]:
    return tuple((call.tool, call.arguments, _VOLATILE.sub("", call.text)) for call in each.calls)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _ERROR_LENGTH else f"{line[:_ERROR_LENGTH]}…"
