"""Anthropic's Messages. Source: docs.anthropic.com/en/api/messages and .../messages-streaming."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from coding_agent_testbed.model.answer import Answer, Usage, call_id, entries, event, pieces, text_of
from coding_agent_testbed.model.conversation import Conversation, Message, Role, Tool
from coding_agent_testbed.model.script import Failure

_STOP = {"tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Messages:
    """Implements `WireFormat`."""

    name = "anthropic"

    def read(self, body: Mapping[str, Any]) -> Conversation:
        messages = entries(body, "messages")
        wanted = body.get("output_format") or (body.get("output_config") or {}).get("format") or {}
        return Conversation(
            model=str(body.get("model", "scripted")),
            stream=bool(body.get("stream")),
            messages=tuple(_message(entry) for entry in messages),
            tools=tuple(
                Tool(str(entry["name"]), entry.get("input_schema") or {})
                for entry in body.get("tools") or ()
                if "name" in entry
            ),
            schema=wanted.get("schema"),
            length=len(json.dumps(messages)),
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        return {
            **_head(answer),
            "content": _blocks(answer),
            "stop_reason": _STOP.get(answer.finish, "end_turn"),
            "usage": _usage(answer.usage),
        }

    def events(self, answer: Answer, body: Mapping[str, Any]) -> Iterator[bytes]:
        for data in _events(answer):
            yield event(data, name=data["type"])

    def failure(self, error: Failure) -> dict[str, Any]:
        kind = _TYPES.get(error.status, "api_error")
        return {
            "type": "error",
            "error": {"type": kind, "message": error.message},
            "request_id": "req_scripted",
        }


def _message(entry: Mapping[str, Any]) -> Message:
    content = entry.get("content")
    blocks = content if isinstance(content, list) else []
    ids = tuple(str(block.get("id", "")) for block in blocks if block.get("type") == "tool_use")
    if entry.get("role") == "assistant":
        return Message(Role.MODEL, text_of(content), ids)
    is_result = any(block.get("type") == "tool_result" for block in blocks)
    return Message(Role.TOOL if is_result else Role.USER, text_of(content))


def _head(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.position}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(answer: Answer) -> list[dict[str, Any]]:
    texts: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text else []
    return [
        *texts,
        *(
            {
                "type": "tool_use",
                "id": call_id(answer.position, number, "toolu"),
                "name": call.tool,
                "input": call.parsed,
            }
            for number, call in enumerate(answer.calls)
        ),
    ]


def _events(answer: Answer) -> Iterator[dict[str, Any]]:
    usage = _usage(answer.usage)
    yield {"type": "message_start", "message": {**_head(answer), "usage": {**usage, "output_tokens": 1}}}
    yield {"type": "ping"}
    blocks = _blocks(answer)
    arguments = [call.arguments for call in answer.calls]
    for index, block in enumerate(blocks):
        is_text = block["type"] == "text"
        empty: dict[str, Any] = {"text": ""} if is_text else {"input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
        whole = block["text"] if is_text else arguments[index - len(blocks) + len(arguments)]
        kind, key = ("text_delta", "text") if is_text else ("input_json_delta", "partial_json")
        for piece in pieces(whole):
            yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, key: piece}}
        yield {"type": "content_block_stop", "index": index}
    stop = {"stop_reason": _STOP.get(answer.finish, "end_turn"), "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": answer.usage.output}}
    yield {"type": "message_stop"}


def _usage(usage: Usage) -> dict[str, int]:
    # Here `input_tokens` are those that no cache had a part in.
    return {
        "input_tokens": usage.input - usage.cache_read - usage.cache_write,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    }
