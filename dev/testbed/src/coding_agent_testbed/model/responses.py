"""OpenAI's Responses. Source: platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from coding_agent_testbed.model.answer import Answer, Usage, call_id, entries, event, pieces, text_of
from coding_agent_testbed.model.chat import openai_failure
from coding_agent_testbed.model.conversation import Conversation, Message, Role, Tool
from coding_agent_testbed.model.script import Failure

_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "assistant": Role.MODEL}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Responses:
    """Implements `WireFormat`."""

    name = "responses"

    def read(self, body: Mapping[str, Any]) -> Conversation:
        given = body.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else entries(body, "input")
        return Conversation(
            model=str(body.get("model", "scripted")),
            stream=bool(body.get("stream")),
            messages=tuple(filter(None, map(_message, items))),
            tools=tuple(
                Tool(str(entry["name"]), entry.get("parameters") or {})
                for entry in body.get("tools") or ()
                if "name" in entry
            ),
            schema=((body.get("text") or {}).get("format") or {}).get("schema"),
            length=len(json.dumps(given)),
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        reason = _INCOMPLETE.get(answer.finish)
        return {
            **_head(answer),
            "status": "incomplete" if reason else "completed",
            "incomplete_details": {"reason": reason} if reason else None,
            "output": _items(answer),
            "usage": _usage(answer.usage),
        }

    def events(self, answer: Answer, body: Mapping[str, Any]) -> Iterator[bytes]:
        for number, data in enumerate(_events(answer, self.whole(answer))):
            yield event({**data, "sequence_number": number}, name=data["type"])

    def failure(self, error: Failure) -> dict[str, Any]:
        return openai_failure(error)


def _message(item: Mapping[str, Any]) -> Message | None:
    kind = str(item.get("type", "message"))
    if kind == "message":
        return Message(_ROLES.get(str(item.get("role")), Role.USER), text_of(item.get("content")))
    if kind.endswith("_call_output"):
        return Message(Role.TOOL, text_of(item.get("output")))
    if kind.endswith("_call"):
        return Message(Role.MODEL, "", (str(item.get("call_id", "")),))
    return None


def _head(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"resp_{answer.position}",
        "object": "response",
        "created_at": 1_700_000_000 + answer.position,
        "model": answer.model,
        "status": "in_progress",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
    }


def _items(answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.text:
        part = {"type": "output_text", "text": answer.text, "annotations": []}
        message = {"type": "message", "id": f"msg_{answer.position}", "role": "assistant"}
        items.append({**message, "status": "completed", "content": [part]})
    for number, call in enumerate(answer.calls):
        items.append(
            {
                "type": "function_call",
                "id": f"fc_{answer.position}_{number}",
                "call_id": call_id(answer.position, number),
                "name": call.tool,
                "arguments": call.arguments,
                "status": "completed",
            }
        )
    return items


def _events(answer: Answer, whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    head = _head(answer)
    yield {"type": "response.created", "response": head}
    yield {"type": "response.in_progress", "response": head}
    for index, item in enumerate(whole["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        is_text = item["type"] == "message"
        empty: dict[str, Any] = {"content": []} if is_text else {"arguments": ""}
        added = {**item, **empty, "status": "in_progress"}
        yield {"type": "response.output_item.added", "output_index": index, "item": added}
        yield from _text_events(at, item["content"][0]) if is_text else _call_events(at, item)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


def _text_events(at: dict[str, Any], part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = {**at, "content_index": 0}
    yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **at, "part": part}


def _call_events(at: dict[str, Any], item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for piece in pieces(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", **at, "delta": piece}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield {"type": "response.function_call_arguments.done", **at, **done}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input + usage.output,
    }
