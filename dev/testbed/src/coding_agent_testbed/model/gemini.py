"""Google's generateContent. Source: ai.google.dev/api/generate-content."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from coding_agent_testbed.model.answer import Answer, Usage, call_id, entries, event, pieces
from coding_agent_testbed.model.conversation import Conversation, Message, Role, Tool
from coding_agent_testbed.model.script import Failure

_FINISH = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class GenerateContent:
    """Implements `WireFormat`; the server puts the path's model and kind of answer into the body."""

    name = "google"

    def read(self, body: Mapping[str, Any]) -> Conversation:
        contents = entries(body, "contents")
        config = body.get("generationConfig") or {}
        return Conversation(
            model=str(body.get("model", "scripted")),
            stream=bool(body.get("stream")),
            messages=tuple(_message(entry) for entry in contents),
            tools=tuple(
                Tool(str(entry["name"]), entry.get("parametersJsonSchema") or entry.get("parameters") or {})
                for group in body.get("tools") or ()
                for entry in group.get("functionDeclarations") or ()
            ),
            schema=config.get("responseJsonSchema") or config.get("responseSchema"),
            length=len(json.dumps(contents)),
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"text": answer.text}] if answer.text else []
        return _response(answer, [*parts, *_calls(answer)], last=True)

    def events(self, answer: Answer, body: Mapping[str, Any]) -> Iterator[bytes]:
        for piece in pieces(answer.text):
            yield event(_response(answer, [{"text": piece}], last=False))
        yield event(_response(answer, _calls(answer) or [{"text": ""}], last=True))

    def failure(self, error: Failure) -> dict[str, Any]:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        details = (
            [] if error.retry_after is None else [{"@type": kind, "retryDelay": f"{error.retry_after:g}s"}]
        )
        status = _STATUS.get(error.status, "UNKNOWN")
        return {
            "error": {"code": error.status, "message": error.message, "status": status, "details": details}
        }


def _message(entry: Mapping[str, Any]) -> Message:
    parts = [part for part in entry.get("parts") or () if isinstance(part, Mapping)]
    results = [part["functionResponse"] for part in parts if "functionResponse" in part]
    texts = [str(part["text"]) for part in parts if "text" in part]
    if entry.get("role") == "model":
        calls = (part["functionCall"] for part in parts if "functionCall" in part)
        return Message(Role.MODEL, "\n".join(texts), tuple(str(call.get("id", "")) for call in calls))
    texts += [_result(result.get("response")) for result in results]
    return Message(Role.TOOL if results else Role.USER, "\n".join(texts))


def _result(response: Any) -> str:
    values = response.values() if isinstance(response, Mapping) else [response]
    return "\n".join(value if isinstance(value, str) else json.dumps(value) for value in values)


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {"functionCall": {"id": call_id(answer.position, number), "name": call.tool, "args": call.parsed}}
        for number, call in enumerate(answer.calls)
    ]


def _response(answer: Answer, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": parts}}
    if last:
        candidate["finishReason"] = _FINISH.get(answer.finish, "STOP")
    return {
        "candidates": [candidate],
        "usageMetadata": _usage(answer.usage),
        "modelVersion": answer.model,
        "responseId": f"scripted-{answer.position}",
    }


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "promptTokenCount": usage.input,
        "cachedContentTokenCount": usage.cache_read,
        "candidatesTokenCount": usage.output,
        "totalTokenCount": usage.input + usage.output,
    }
