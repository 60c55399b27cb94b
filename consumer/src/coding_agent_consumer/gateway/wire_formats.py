"""The wire formats: their paths, credentials and errors, without I/O.

Sources: the API references of Anthropic (Messages, *Streaming*), OpenAI (Chat Completions, Responses) and
Google (`generateContent`), November 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coding_agent_core.settings.llm import WireFormat

UNREACHABLE = "The provider cannot be reached."
"""What a client is told with status 502 or 504, which are then the gateway's own and not the provider's."""

_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window|size)|maximum context|too many tokens|prompt is too long"
    r"|exceeds? the (?:available )?context|reduce the length",
    re.IGNORECASE,
)
"""Texts of servers that send no error code if a request does not fit (llama.cpp, LM Studio, vLLM)."""


class RequestRefusedError(Exception):
    """The request is not passed on; the message is for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Operation(StrEnum):
    """The operation that a request asks of the provider."""

    MESSAGES = "messages"
    CHAT_COMPLETIONS = "chat completions"
    RESPONSES = "responses"
    GENERATE_CONTENT = "generateContent"
    COUNT = "count tokens"
    MODELS = "models"

    @property
    def free(self) -> bool:
        """Whether the provider charges nothing for the operation."""
        return self in (Operation.COUNT, Operation.MODELS)


@dataclass(frozen=True)
class Route:
    """The meaning of a request's method and path.

    Attributes:
        path: the path below the upstream's base URL.
        model: the model, if the path names it.
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
    """Return the route of a request; `None` for everything that is not a known request to a model.

    Args:
        path: the decoded path, without the query.
        headers: the headers, by names in lower case.
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
    """Return the credential that a client sent in any vendor's header; empty if there is none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return headers.get("x-api-key") or headers.get("x-goog-api-key") or ""


def credential_header(format: WireFormat, key: str) -> tuple[str, str]:
    """Return the header that carries the key to the provider."""
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
    415: ("invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
    431: ("invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
    429: ("rate_limit_error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED"),
    502: ("api_error", "server_error", "UNAVAILABLE"),
    503: ("overloaded_error", "server_error", "UNAVAILABLE"),
    504: ("timeout_error", "server_error", "DEADLINE_EXCEEDED"),
}


def error_body(format: WireFormat | None, status: int, message: str) -> bytes:
    """Return an error as the vendor's clients read it; without a format, as Anthropic's and OpenAI's do."""
    anthropic, openai, google = _KINDS[status]
    match format:
        case WireFormat.GOOGLE:
            body: dict[str, Any] = {"error": {"code": status, "message": message, "status": google}}
        case WireFormat.OPENAI:
            body = {"error": {"message": message, "type": openai, "param": None, "code": openai}}
        case _:
            body = {"type": "error", "error": {"type": anthropic, "message": message, "code": anthropic}}
    return json.dumps(body).encode()


def positive(value: Any) -> int:
    """Return a whole number above 0, or 0 if the value is something else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def says_too_long(text: str) -> bool:
    """Whether a provider or its client says in this text that a request does not fit the model's context."""
    return bool(_TOO_LONG.search(text))
