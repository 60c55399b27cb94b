"""The wire formats: their paths, credentials, errors, and where an answer says what it used. Pure.

Sources: the API references of Anthropic (Messages, *Streaming*), OpenAI (Chat Completions, Responses) and
Google (`generateContent`), November 2026.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coding_agent_consumer.gateway.ledger import Tokens

_ANSWER_LIMIT = 64 * 1024 * 1024
"""Bytes of one event, or of an answer that is not streamed, that are read for its usage."""
_CHARACTERS = 3
"""Of one token, if an answer ends before it says what it used: fewer than usual, so that we count enough."""
_HELD_LIMIT = 1024 * 1024
"""Bytes of events without usage that are held until the answer's end."""
_USAGE = re.compile(rb'"usage(?!": ?null)')
"""In every event that says what was used; OpenAI's streams have `"usage": null` in all others."""
_TEXTS = frozenset(
    {"text", "thinking", "partial_json", "content", "arguments", "refusal", "reasoning_content", "reasoning"}
)
"""Keys of events that hold what the model wrote."""


class WireFormat(StrEnum):
    """What a client and its provider speak."""

    ANTHROPIC = "anthropic"
    """Messages."""
    OPENAI = "openai"
    """Responses and Chat Completions."""
    GOOGLE = "google"
    """Gemini's `generateContent` and `streamGenerateContent`."""


class Operation(StrEnum):
    """What a request asks of the provider."""

    MESSAGES = "messages"
    CHAT_COMPLETIONS = "chat completions"
    RESPONSES = "responses"
    GENERATE_CONTENT = "generateContent"
    COUNT = "count tokens"
    MODELS = "models"

    @property
    def free(self) -> bool:
        """The provider charges nothing for it."""
        return self in (Operation.COUNT, Operation.MODELS)


@dataclass(frozen=True)
class Route:
    """A known request.

    Attributes:
        path: below the upstream's base URL.
        model: where the path names it.
    """

    format: WireFormat
    operation: Operation
    path: str
    model: str | None = None


_POSTS = {
    "/v1/messages": (WireFormat.ANTHROPIC, Operation.MESSAGES, "/v1/messages"),
    "/v1/messages/count_tokens": (WireFormat.ANTHROPIC, Operation.COUNT, "/v1/messages/count_tokens"),
    "/v1/chat/completions": (WireFormat.OPENAI, Operation.CHAT_COMPLETIONS, "/chat/completions"),
    "/v1/responses": (WireFormat.OPENAI, Operation.RESPONSES, "/responses"),
    "/v1/responses/input_tokens": (WireFormat.OPENAI, Operation.COUNT, "/responses/input_tokens"),
}
_GEMINI = re.compile(
    r"/v1beta/models/([A-Za-z0-9][A-Za-z0-9._-]{0,127}):(generateContent|streamGenerateContent|countTokens)"
)
_MODELS = re.compile(r"/(v1|v1beta)/models(/[A-Za-z0-9][A-Za-z0-9._:-]{0,127})?")


def route_of(method: str, path: str, headers: Mapping[str, str]) -> Route | None:
    """Where a request goes; `None` for everything that is not a known request for a model.

    Args:
        path: decoded, without the query.
        headers: by names in lower case.
    """
    if method == "POST":
        if path in _POSTS:
            return Route(*_POSTS[path])
        if found := _GEMINI.fullmatch(path):
            operation = Operation.COUNT if found[2] == "countTokens" else Operation.GENERATE_CONTENT
            return Route(WireFormat.GOOGLE, operation, path, found[1])
    elif method == "GET" and (found := _MODELS.fullmatch(path)):
        if found[1] == "v1beta":
            return Route(WireFormat.GOOGLE, Operation.MODELS, path)
        if "anthropic-version" in headers:
            return Route(WireFormat.ANTHROPIC, Operation.MODELS, path)
        return Route(WireFormat.OPENAI, Operation.MODELS, path.removeprefix("/v1"))
    return None


def credential_of(headers: Mapping[str, str]) -> str:
    """The credential that a client sent, in any vendor's header; empty without one."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return headers.get("x-api-key") or headers.get("x-goog-api-key") or ""


def credential_header(format: WireFormat, key: str) -> tuple[str, str]:
    """The header that carries the key to the provider."""
    match format:
        case WireFormat.ANTHROPIC:
            return "x-api-key", key
        case WireFormat.GOOGLE:
            return "x-goog-api-key", key
        case WireFormat.OPENAI:
            return "authorization", f"Bearer {key}"


_KINDS = {
    400: ("invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
    401: ("authentication_error", "invalid_api_key", "UNAUTHENTICATED"),
    402: ("billing_error", "insufficient_quota", "PERMISSION_DENIED"),
    403: ("permission_error", "permission_denied", "PERMISSION_DENIED"),
    404: ("not_found_error", "not_found", "NOT_FOUND"),
    413: ("request_too_large", "request_too_large", "INVALID_ARGUMENT"),
    431: ("invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
    429: ("rate_limit_error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED"),
    502: ("api_error", "server_error", "UNAVAILABLE"),
    503: ("overloaded_error", "server_error", "UNAVAILABLE"),
    504: ("timeout_error", "server_error", "DEADLINE_EXCEEDED"),
}


def error_body(format: WireFormat | None, status: int, message: str) -> bytes:
    """The error as the vendor's own clients read it; without a format, as Anthropic's and OpenAI's do."""
    anthropic, openai, google = _KINDS[status]
    match format:
        case WireFormat.GOOGLE:
            body: dict[str, Any] = {"error": {"code": status, "message": message, "status": google}}
        case WireFormat.OPENAI:
            body = {"error": {"message": message, "type": openai, "param": None, "code": openai}}
        case _:
            body = {"type": "error", "error": {"type": anthropic, "message": message, "code": anthropic}}
    return json.dumps(body).encode()


class Meter:
    """Reads the usage of one answer as its bytes pass by.

    Events that say nothing of usage are parsed only if the answer ends before it said what it used.
    """

    def __init__(self, operation: Operation, content_type: str, encoding: str) -> None:
        """
        Args:
            content_type: of the answer.
            encoding: its `Content-Encoding`; other than gzip and deflate, nothing can be read.
        """
        self._operation = operation
        self._streams = content_type.lower().startswith("text/event-stream")
        self._decompress = zlib.decompressobj(47) if encoding in ("gzip", "deflate") else None
        self._readable = encoding in ("", "identity", "gzip", "deflate")
        self._pieces: list[bytes] = []
        self._held = 0
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._reported = Tokens()
        self._characters = 0
        self._complete = False

    def feed(self, data: bytes) -> None:
        """The next bytes of the answer."""
        if not self._readable:
            return
        if self._decompress is not None:
            try:
                data = self._decompress.decompress(data, _ANSWER_LIMIT)
            except zlib.error:
                self._readable = False
                return
        if self._streams and b"\n" in data:
            head, _, rest = data.rpartition(b"\n")
            lines = b"".join([*self._pieces, head]).split(b"\n")
            self._pieces, self._held = [rest], len(rest)
            for line in lines:
                if line.startswith(b"data:"):
                    self._event(line[5:])
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held > _ANSWER_LIMIT:
            self._pieces, self._readable = [], False

    def end(self, estimated_input: int) -> Tokens:
        """What the answer used: as reported, or from its text if it ended before it said so.

        Args:
            estimated_input: tokens of the request, if the answer does not say.
        """
        rest = b"".join(self._pieces)
        self._pieces = []
        self._read(rest.removeprefix(b"data:") if self._streams else rest)
        if self._complete:
            return self._reported
        self._catch_up()
        written = -(-self._characters // _CHARACTERS)
        return Tokens(
            input=self._reported.input or estimated_input,
            output=max(self._reported.output, written),
            cache_read=self._reported.cache_read,
            cache_write=self._reported.cache_write,
        )

    def _event(self, text: bytes) -> None:
        if _USAGE.search(text):
            self._read(text)
        elif not self._complete:
            self._unread.append(text)
            self._unread_bytes += len(text)
            if self._unread_bytes > _HELD_LIMIT:
                self._catch_up()

    def _catch_up(self) -> None:
        unread, self._unread, self._unread_bytes = self._unread, [], 0
        for text in unread:
            self._read(text)

    def _read(self, text: bytes) -> None:
        try:
            value = json.loads(text)
        except ValueError:
            return  # the end of a stream, `[DONE]`, or an answer that was cut off
        for event in value if isinstance(value, list) else [value]:
            if isinstance(event, dict):
                self._reported = self._reported.largest(usage_in(self._operation, event))
                self._complete = self._complete or _is_last(self._operation, event)
                if self._complete:
                    self._unread = []
                else:
                    self._characters += _written(self._operation, event)


def usage_in(operation: Operation, event: Mapping[str, Any]) -> Tokens:
    """What one event, or a whole answer, says was used so far; zeros where it says nothing."""
    if operation is Operation.GENERATE_CONTENT:
        used = _dict(event.get("usageMetadata"))
        return Tokens(
            input=positive(used.get("promptTokenCount")) + positive(used.get("toolUsePromptTokenCount")),
            output=positive(used.get("candidatesTokenCount")) + positive(used.get("thoughtsTokenCount")),
            cache_read=positive(used.get("cachedContentTokenCount")),
        )
    inner = "message" if operation is Operation.MESSAGES else "response"
    used = _dict(event.get("usage")) or _dict(_dict(event.get(inner)).get("usage"))
    if operation is Operation.MESSAGES:
        read = positive(used.get("cache_read_input_tokens"))
        write = positive(used.get("cache_creation_input_tokens"))
        new = positive(used.get("input_tokens"))
        lasting = positive(_dict(used.get("cache_creation")).get("ephemeral_1h_input_tokens"))
        return Tokens(
            new + read + write, positive(used.get("output_tokens")), read, write, min(lasting, write)
        )
    details = _dict(used.get("input_tokens_details")) or _dict(used.get("prompt_tokens_details"))
    return Tokens(
        input=positive(used.get("input_tokens")) or positive(used.get("prompt_tokens")),
        output=positive(used.get("output_tokens")) or positive(used.get("completion_tokens")),
        cache_read=positive(details.get("cached_tokens")),
        cache_write=positive(details.get("cache_write_tokens")),
    )


def _is_last(operation: Operation, event: Mapping[str, Any]) -> bool:
    """Whether the usage in this event is final."""
    match operation:
        case Operation.MESSAGES:
            return event.get("type") in ("message_delta", "message") and "usage" in event
        case Operation.GENERATE_CONTENT:
            candidates = event.get("candidates")
            ended = any("finishReason" in _dict(one) for one in candidates or [])
            return "usageMetadata" in event and (ended or not candidates)
        case _:
            return bool(event.get("usage") or _dict(event.get("response")).get("usage"))


def _written(operation: Operation, event: Mapping[str, Any]) -> int:
    """Characters that the model wrote in this event."""
    kind = event.get("type")
    if operation is Operation.RESPONSES and isinstance(kind, str):
        # Later events repeat what the deltas said.
        delta = event.get("delta")
        return len(delta) if kind.endswith(".delta") and isinstance(delta, str) else 0
    return sum(_lengths(event))


def _lengths(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key in _TEXTS and isinstance(entry, str):
                yield len(entry)
            elif key == "args":
                yield len(json.dumps(entry))
            else:
                yield from _lengths(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _lengths(entry)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def positive(value: Any) -> int:
    """A whole number above 0; 0 if it is something else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
