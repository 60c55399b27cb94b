"""Messages as short lines for progress displays and logs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart

from coding_agent_consumer.agent.finish import FINISH
from coding_agent_consumer.agent.scrub import Scrub

_TITLE_LENGTH = 120
_DETAIL_LENGTH = 400
_TELLING = ("command", "path", "pattern")
"""Arguments that tell best what a call is about."""


def of_answer(response: ModelResponse, scrub: Scrub) -> tuple[str, str]:
    """Title and detail of an answer: its words, else what it calls."""
    said = " ".join(part.content for part in response.parts if isinstance(part, TextPart)).strip()
    calls = [call_title(part) for part in response.parts if isinstance(part, ToolCallPart)]
    title = said or ", ".join(calls) or "an empty answer"
    return _line(scrub(title), _TITLE_LENGTH), _line(scrub("; ".join(calls)), _DETAIL_LENGTH)


def of_results(response: ModelResponse, request: ModelRequest, scrub: Scrub) -> Iterator[tuple[str, str]]:
    """Title and detail of each result of an answer's calls."""
    calls = {part.tool_call_id: part for part in response.parts if isinstance(part, ToolCallPart)}
    for part in request.parts:
        if isinstance(part, ToolReturnPart) and part.tool_name != FINISH:
            call = calls.get(part.tool_call_id)
            title = call_title(call) if call else part.tool_name
            if part.outcome != "success":
                title += " (refused)"
            text = part.model_response_str(wrap_if_error=False)
            yield _line(scrub(title), _TITLE_LENGTH), _last(scrub(text), _DETAIL_LENGTH)


def call_title(call: ToolCallPart) -> str:
    """`run_command: python3 -m unittest`."""
    try:
        arguments = json.loads(call.args_as_json_str())
    except ValueError:
        arguments = None
    if isinstance(arguments, dict):
        for name in _TELLING:
            if isinstance(arguments.get(name), str):
                return f"{call.tool_name}: {arguments[name]}"
    return call.tool_name


def _line(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}…"


def _last(text: str, length: int) -> str:
    """The end of a text: that of a command's output says how it went."""
    text = text.strip()
    return text if len(text) <= length else f"…{text[-length:]}"
