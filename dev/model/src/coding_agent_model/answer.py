"""One answer as every wire format tells it, and what sets it apart from a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from coding_agent_model.conversation import Conversation
from coding_agent_model.script import Failure

_PIECES = 3
"""Into how many deltas a streamed text is cut."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer.

    Attributes:
        input: of the request, those read from and written to the cache included.
    """

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0


@dataclass(frozen=True)
class CallMade:
    """
    Attributes:
        arguments: JSON, unless the script wants it broken.
    """

    tool: str
    arguments: str

    @property
    def parsed(self) -> dict[str, Any]:
        """The arguments for a wire format that sends them as an object; broken ones are lost there."""
        try:
            value = json.loads(self.arguments)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Answer:
    """
    Attributes:
        position: how many answers the conversation had before.
        finish: as OpenAI's Chat Completions name it: `stop`, `tool_calls`, `length`, `content_filter`.
    """

    position: int
    model: str
    text: str
    calls: tuple[CallMade, ...]
    finish: str
    usage: Usage


class WireFormat(Protocol):
    """How one API words requests, answers and errors."""

    name: str

    def read(self, body: Mapping[str, Any]) -> Conversation:
        """The conversation of a request.

        Raises:
            ValueError: the request is malformed; the message says how.
        """

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a whole answer."""

    def events(self, answer: Answer, body: Mapping[str, Any]) -> Iterator[bytes]:
        """The same as server-sent events.

        Args:
            body: the request; some formats let it choose what the stream tells.
        """

    def failure(self, error: Failure) -> dict[str, Any]:
        """The body of an error."""


def call_id(at: int, number: int, prefix: str = "call") -> str:
    """The id of a call in the answer of this position."""
    return f"{prefix}_{at}_{number}"


def pieces(text: str) -> Iterator[str]:
    """A text in a few pieces; none of an empty one."""
    size = max(1, -(-len(text) // _PIECES))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def event(data: Mapping[str, Any], *, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + json.dumps(data).encode() + b"\n\n"


def entries(body: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A list of objects in a request.

    Raises:
        ValueError: it is missing or something else.
    """
    value = body.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise ValueError(f"`{key}` is missing or not a list of objects")
    return value


def text_of(content: Any) -> str:
    """A text, whether it is a string or parts that hold texts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        inner = content.get("text", content.get("content", content.get("output")))
        return text_of(inner)
    if isinstance(content, list):
        return "\n".join(filter(None, map(text_of, content)))
    return ""
