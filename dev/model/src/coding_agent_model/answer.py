"""OpenAI's wire forms of an answer: one JSON body, or server-sent events.

Source of the forms: platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from coding_agent_model.script import Failure, Turn, call_id

_PIECES = 3
"""Into how many deltas a streamed text is cut."""


def completion(turn: Turn, *, position: int, model: str, prompt_tokens: int) -> dict[str, Any]:
    """The body of a whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.text or None}
    if turn.calls:
        message["tool_calls"] = _calls(turn, position)
    return {
        **_head(position, model, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(turn), "logprobs": None}],
        "usage": _usage(turn, prompt_tokens),
    }


def events(
    turn: Turn, *, position: int, model: str, prompt_tokens: int, include_usage: bool
) -> Iterator[bytes]:
    """The same as server-sent events."""
    head = _head(position, model, "chat.completion.chunk")

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event({**head, "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    for piece in _pieces(turn.text):
        yield event({"content": piece})
    for index, call in enumerate(_calls(turn, position)):
        function = call["function"]
        start = {**call, "index": index, "function": {"name": function["name"], "arguments": ""}}
        yield event({"tool_calls": [start]})
        for piece in _pieces(function["arguments"]):
            yield event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield event({}, _finish(turn))
    if include_usage:
        yield _event({**head, "choices": [], "usage": _usage(turn, prompt_tokens)})
    yield b"data: [DONE]\n\n"


def failure(error: Failure) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": error.message, "type": error.type, "param": None, "code": error.code}}


def _head(position: int, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{position}", "object": kind, "created": 1_700_000_000 + position, "model": model}


def _calls(turn: Turn, position: int) -> list[dict[str, Any]]:
    return [
        {
            "id": call_id(position, number),
            "type": "function",
            "function": {
                "name": call.tool,
                "arguments": json.dumps(call.arguments) if call.raw_arguments is None else call.raw_arguments,
            },
        }
        for number, call in enumerate(turn.calls)
    ]


def _finish(turn: Turn) -> str:
    return turn.finish_reason or ("tool_calls" if turn.calls else "stop")


def _usage(turn: Turn, prompt_tokens: int) -> dict[str, int]:
    words = len(turn.text) + sum(len(json.dumps(call.arguments)) for call in turn.calls)
    output = max(1, words // 4)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output,
        "total_tokens": prompt_tokens + output,
    }


def _pieces(text: str) -> Iterator[str]:
    size = max(1, -(-len(text) // _PIECES))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"
