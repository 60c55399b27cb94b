"""OpenAI's Chat Completions. Source: platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from coding_agent_testbed.model.answer import Answer, Usage, call_id, entries, event, pieces, text_of
from coding_agent_testbed.model.conversation import Conversation, Message, Role, Tool
from coding_agent_testbed.model.script import Failure

_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "assistant": Role.MODEL, "tool": Role.TOOL}


class ChatCompletions:
    """Implements `WireFormat`."""

    name = "chat"

    def read(self, body: Mapping[str, Any]) -> Conversation:
        messages = entries(body, "messages")
        wanted = body.get("response_format") or {}
        return Conversation(
            model=str(body.get("model", "scripted")),
            stream=bool(body.get("stream")),
            messages=tuple(_message(entry) for entry in messages),
            tools=tuple(
                Tool(str(entry["function"]["name"]), entry["function"].get("parameters") or {})
                for entry in body.get("tools") or ()
                if "function" in entry
            ),
            schema=(wanted.get("json_schema") or {}).get("schema"),
            length=len(json.dumps(messages)),
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
        if answer.calls:
            message["tool_calls"] = _calls(answer)
        choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
        return {**_head(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer.usage)}

    def events(self, answer: Answer, body: Mapping[str, Any]) -> Iterator[bytes]:
        head = _head(answer, "chat.completion.chunk")

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            return event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        yield chunk({"role": "assistant", "content": ""})
        for piece in pieces(answer.text):
            yield chunk({"content": piece})
        for index, call in enumerate(_calls(answer)):
            function = call["function"]
            start = {**call, "index": index, "function": {"name": function["name"], "arguments": ""}}
            yield chunk({"tool_calls": [start]})
            for piece in pieces(function["arguments"]):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk({}, answer.finish)
        if (body.get("stream_options") or {}).get("include_usage"):
            yield event({**head, "choices": [], "usage": _usage(answer.usage)})
        yield b"data: [DONE]\n\n"

    def failure(self, error: Failure) -> dict[str, Any]:
        return openai_failure(error)


def openai_failure(error: Failure) -> dict[str, Any]:
    """Return the body of an error, which is the same for all of OpenAI's APIs."""
    return {"error": {"message": error.message, "type": error.type, "param": None, "code": error.code}}


def _message(entry: Mapping[str, Any]) -> Message:
    ids = tuple(str(call.get("id", "")) for call in entry.get("tool_calls") or ())
    return Message(_ROLES.get(str(entry.get("role")), Role.USER), text_of(entry.get("content")), ids)


def _head(answer: Answer, kind: str) -> dict[str, Any]:
    created = 1_700_000_000 + answer.position
    return {"id": f"chatcmpl-{answer.position}", "object": kind, "created": created, "model": answer.model}


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": call_id(answer.position, number),
            "type": "function",
            "function": {"name": call.tool, "arguments": call.arguments},
        }
        for number, call in enumerate(answer.calls)
    ]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
