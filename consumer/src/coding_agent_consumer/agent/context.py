"""Compress a conversation so that it fits the model's context again (`context_storage.*`).

A conversation is the request with the task, then answers and requests in turn. After compression, it is the
task with a summary of what followed, and the newest answers with all results of their calls. All functions
are pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coding_agent_core.platforms.text import beginning
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)

from coding_agent_consumer.agent.messages import fields_of
from coding_agent_consumer.agent_interface import Image
from coding_agent_consumer.transcripts.transcript import digest

_CHARS_PER_TOKEN = 4
"""A rough mean for English and code; a character beyond ASCII counts as one token."""
_MESSAGE_TOKENS = 8
"""Tokens of a message in addition to its text."""
_IMAGE_TOKENS = 1_600
"""The most tokens that services count for a large image."""
_LEAST_RESULT = 400
"""A shortened tool result keeps at least this many characters."""
_CUT = "\n[… cut to save room; ask again for the part you need …]\n"
SUMMARY_HEAD = "Summary of your work so far; the messages themselves were left out to save room:\n\n"
SUMMARY_REQUEST = (
    "You work on a task in a repository, and the conversation got too long. Below stand the task and what you"
    " said and did so far. Write what you need to go on without it: what was asked, what you found out"
    " (files, functions, causes), every change that you made, how the tests stand, and what is left to do."
    " Facts alone, no tool calls, at most 500 words."
)


@dataclass(frozen=True)
class Split:
    """A conversation in three parts.

    Attributes:
        task: the first request.
        older: the messages to summarize.
        recent: the messages to keep unchanged. They begin with an answer, so that each result has its call.
    """

    task: ModelRequest
    older: list[ModelMessage]
    recent: list[ModelMessage]


def task_of(prompt: str, images: Sequence[Image]) -> UserPromptPart:
    """Return the first message to the model."""
    if not images:
        return UserPromptPart(prompt)
    content: list[UserContent] = [prompt]
    for image in images:
        content += [f"The image {image.link}:", BinaryContent(image.data, media_type=image.media_type)]
    return UserPromptPart(content)


def estimate_text(text: str) -> int:
    ascii_count = sum(1 for character in text if character < "\x80")
    return ascii_count // _CHARS_PER_TOKEN + len(text) - ascii_count


def estimate(messages: Sequence[ModelMessage]) -> int:
    """Estimate the number of tokens of messages that the service has not counted yet."""
    return sum(
        _MESSAGE_TOKENS
        + sum(estimate_text(_text(part)) + _IMAGE_TOKENS * len(_images(part)) for part in message.parts)
        for message in messages
    )


def size(messages: Sequence[ModelMessage], overhead: int) -> int:
    """Return the next request's tokens: the service's last count, and an estimate for later messages.

    Args:
        messages: the conversation, including the request that is about to be sent.
        overhead: tokens of instructions and tool definitions, which count if there is no report yet.
    """
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if isinstance(message, ModelResponse) and message.usage.input_tokens:
            return message.usage.input_tokens + message.usage.output_tokens + estimate(messages[index + 1 :])
    return estimate(messages) + overhead


def split(messages: Sequence[ModelMessage], keep: int) -> Split | None:
    """Separate the messages to summarize; `None` if there are only the task and the newest messages.

    Args:
        keep: how many of the newest messages to keep; more are kept if a result would lose its call.
    """
    if not messages or not isinstance(messages[0], ModelRequest):
        return None
    start = max(1, len(messages) - keep)
    while start > 1 and not isinstance(messages[start], ModelResponse):
        start -= 1
    if start <= 1 or start >= len(messages):
        return None
    return Split(messages[0], list(messages[1:start]), list(messages[start:]))


def merged(parts: Split, summary: str) -> list[ModelMessage]:
    """Return the conversation with a summary in place of the older messages and of an earlier summary."""
    kept: list[ModelRequestPart] = [part for part in parts.task.parts if not _is_summary(part)]
    task = replace(parts.task, parts=[*kept, UserPromptPart(SUMMARY_HEAD + summary)])
    return [task, *(_without_usage(message) for message in parts.recent)]


def to_summarize(parts: Split, budget: int) -> str:
    """Return the request for a summary, at most about `budget` tokens; the oldest messages are cut."""
    task = "\n".join(_text(part) for part in parts.task.parts)
    room = budget * _CHARS_PER_TOKEN
    lines = "\n".join(_line(part) for message in parts.older for part in message.parts)
    shown, newest = beginning(task, room // 3), _tail(lines, room * 2 // 3)
    return f"{SUMMARY_REQUEST}\n\n# Task\n{shown}\n\n# So far\n{newest}"


def plain_summary(parts: Split, budget: int) -> str:
    """Summarize without the model: a short line for each step, of the newest steps that fit the budget."""
    earlier = [_text(part) for part in parts.task.parts if _is_summary(part)]
    lines = [line for message in parts.older for line in digest(fields_of(message))]
    return _tail("\n".join([*earlier, *lines]), budget * _CHARS_PER_TOKEN)


def shorten(messages: Sequence[ModelMessage], budget: int) -> list[ModelMessage]:
    """Cut the longest tool results, and finally the task, until the estimated size fits the budget."""
    result = list(messages)
    over = estimate(result) - budget
    longest = sorted(
        (
            (len(part.model_response_str(wrap_if_error=False)), at, number)
            for at, message in enumerate(result)
            if isinstance(message, ModelRequest)
            for number, part in enumerate(message.parts)
            if isinstance(part, ToolReturnPart)
        ),
        reverse=True,
    )
    for length, at, number in longest:
        if over <= 0:
            break
        keep = max(_LEAST_RESULT, length - (over + 1) * _CHARS_PER_TOKEN - len(_CUT))
        before = estimate([result[at]])
        result[at] = _cut_part(result[at], number, keep)
        over -= before - estimate([result[at]])
    if over > 0 and result and isinstance(result[0], ModelRequest):
        for number, part in enumerate(result[0].parts):
            if isinstance(part, UserPromptPart) and not _is_summary(part):
                keep = max(_LEAST_RESULT, len(_text(part)) - (over + 1) * _CHARS_PER_TOKEN)
                result[0] = _cut_part(result[0], number, keep)
                break
    # The counts that the service reported include the longer texts.
    return [_without_usage(message) for message in result]


def _cut_part(message: ModelMessage, number: int, keep: int) -> ModelMessage:
    assert isinstance(message, ModelRequest)  # noqa: S101 - callers pass only requests
    parts = list(message.parts)
    part = parts[number]
    if isinstance(part, ToolReturnPart):
        text = _middle(part.model_response_str(wrap_if_error=False), keep)
        parts[number] = ToolReturnPart(part.tool_name, text, part.tool_call_id, outcome=part.outcome)
    elif isinstance(part, UserPromptPart):
        parts[number] = replace(part, content=[_middle(_text(part), keep), *_images(part)])
    return replace(message, parts=parts)


def _without_usage(message: ModelMessage) -> ModelMessage:
    if not isinstance(message, ModelResponse):
        return message
    return replace(message, usage=replace(message.usage, input_tokens=0, output_tokens=0))


def without_images(message: ModelMessage) -> ModelMessage:
    """Replace each image of a message by a word, for records and for models without vision."""
    if not isinstance(message, ModelRequest) or not any(map(_images, message.parts)):
        return message
    parts: list[ModelRequestPart] = [
        replace(part, content=_text(part)) if isinstance(part, UserPromptPart) and _images(part) else part
        for part in message.parts
    ]
    return replace(message, parts=parts)


def has_images(messages: Sequence[ModelMessage]) -> bool:
    return any(_images(part) for message in messages for part in message.parts)


def _images(part: object) -> list[BinaryContent]:
    if not isinstance(part, UserPromptPart) or isinstance(part.content, str):
        return []
    return [item for item in part.content if isinstance(item, BinaryContent)]


def _is_summary(part: ModelRequestPart) -> bool:
    return isinstance(part, UserPromptPart) and _text(part).startswith(SUMMARY_HEAD)


def _text(part: object) -> str:
    match part:
        case ToolReturnPart():
            return part.model_response_str(wrap_if_error=False)
        case ToolCallPart():
            return f"{part.tool_name} {part.args_as_json_str()}"
        case TextPart() | ThinkingPart():
            return part.content
        case UserPromptPart():
            content = [part.content] if isinstance(part.content, str) else part.content
            return "\n".join(item if isinstance(item, str) else "[image]" for item in content)
    return str(getattr(part, "content", ""))


def _line(part: object) -> str:
    text = _text(part)
    match part:
        case ToolCallPart():
            return f"You called {_middle(text, 2000)}"
        case ToolReturnPart():
            return f"It gave: {_middle(text, 2000)}"
        case TextPart():
            return f"You said: {text}"
        case ThinkingPart():
            return ""
    return text


def _tail(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[len(text) - length :]


def _middle(text: str, keep: int) -> str:
    return text if len(text) <= keep else text[: keep // 2] + _CUT + text[len(text) - keep // 2 :]
